"""Config keys of joint training and fine-tuning: defaults, units, sources.

As in `defaults.py`; "[gap]" marks what the paper does not say.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from totojax.config import defaults

ENDED_AT = 1e-6  # MAE's last rate


def view() -> ConfigDict:
  """What is seen of an image: MAE's views, without RandAugment and erasing."""
  return ConfigDict(dict(
      least_area=0.08,  # of a training window; [gap] MAE
      widest=4 / 3,  # ratio of its sides; [gap] MAE
      flip=0.5,  # of training views; [gap] MAE
      resample="bicubic",  # [gap] MAE
      operations=0,  # of RandAugment, for each training view
      magnitude=9.0,  # of 10; [gap] MAE
      magnitude_std=0.5,  # [gap] MAE
      erase=0.0,  # of training views lose a rectangle
      center_frac=0.875,  # of the short side that is evaluated; [gap] MAE
  ))  # fmt: skip


def data() -> ConfigDict:
  """ImageNet from its files, 32 x 32 tokens (section 4.2)."""
  return ConfigDict(dict(
      source="imagenet",  # or "folder": of class folders; "tokens": stores
      root="",  # of the files
      train="train",  # folder below root, "": all; or a store of tokens
      validation="val",  # the same, held out; "": val_frac of train
      val_frac=0.0,
      encode_with="",  # tokenizer file of the model, or "shipped"
      grid=32,  # tokens per side (section 4.2); 0: as the model was trained
      classes=1000,  # 0: as many as the data say
      expected=50_000,  # items of the whole validation set; 0: those there
      holdout_frac=0.0,  # of training items, to choose a layer on
      frames=0,  # of a clip; 0: as the model was trained
      reading=dict(workers=8, prefetch=4),  # processes decode photographs
  ))  # fmt: skip


def optim(batch_rows: int, lr: float, lr_rows: int) -> ConfigDict:
  """AdamW by layers; `lr` is for `lr_rows` rows, 0: as it stands."""
  peak = lr * batch_rows / lr_rows if lr_rows else lr
  return ConfigDict(dict(
      lr=lr,  # peak, of the last layer
      lr_rows=lr_rows,
      warmup_epochs=5.0,  # [gap] MAE
      end_lr_frac=ENDED_AT / peak,  # of the peak; [gap] MAE
      layer_decay=0.9,  # rate of a layer over the next one's (section 4.2)
      head_lr_mults=(1.0,),  # rates of heads over lr; each trains its own
      b1=0.9,  # section 3.2
      b2=0.95,  # section 3.2
      eps=1e-8,  # [gap] optax
      weight_decay=0.05,  # on matrices but embeddings; [gap] MAE
      clip_norm=1.0,  # of the backbone's gradient; 0.0: none; [gap] LLaMA
      mu_dtype="float32",  # of the first moment; or "bfloat16"
  ))  # fmt: skip


def _shared(run: str, model_run: str) -> ConfigDict:
  return ConfigDict(dict(
      run=run,
      seed=0,
      model_run=model_run,
      model=dict(
          rope_base=50_000.0,  # section 4.2; trained at 10,000
          prefix_tokens=0,  # seen by all: 0: causal, -1: full attention
      ),
      compute=defaults.compute(),
      data=data(),
      view=view(),
      paper=dict(name="", top1=0.0),  # a number of the paper, in per cent
      mesh=defaults.mesh(),
      every=defaults.every(100, 5000, 1000),
      checkpoint=defaults.checkpoint(),
  ))  # fmt: skip


def joint(model_run: str) -> ConfigDict:
  """`run = "joint"`: next-token loss, and probes of the layers (Table 7).

  Args:
    model_run: run directory of `run = "pretrain"`.
  """
  c = _shared("joint", model_run)
  c.layers = ()  # H_1 to H_L; (): all
  c.data.holdout_frac = 0.01  # [gap]
  c.head = ConfigDict(dict(
      pool="attention",  # section 3.5; or "average", "cross"
      heads=0,  # of attention; 0: the model's; [gap]
      bias=True,
      init_std=0.02,  # [gap] AIM's query
      norm_eps=1e-6,  # of BatchNorm without gain and bias; [gap] AIM
      norm_momentum=0.1,  # of the newest batch; [gap] PyTorch
  ))  # fmt: skip
  c.train = ConfigDict(dict(
      epochs=90.0,  # section 4.2
      batch_rows=1024,  # [gap]
      microbatches=1,  # BatchNorm sees one of them at a time
      score_rows=1024,  # of a batch of the evaluation
  ))  # fmt: skip
  c.optim = optim(batch_rows=1024, lr=6e-5, lr_rows=0)  # lr: section 4.2
  return c


def joint_of_clips(model_run: str, stores: str) -> ConfigDict:
  """The same on clips of 16 x 16 tokens of Kinetics-400 (section 4.3).

  Args:
    model_run: run directory of `run = "pretrain"`.
    stores: folder with the stores train and val of tokens.
  """
  c = joint(model_run)
  c.model.rope_base = 10_000.0  # that of the model
  c.data.update(
      source="tokens", train=f"{stores}/train", validation=f"{stores}/val",
      grid=0, classes=400, expected=0,
  )  # fmt: skip
  c.data.reading.update(workers=0, prefetch=2)  # tokens need no processes
  c.train.update(batch_rows=256, score_rows=256)
  return c


def finetune(model_run: str) -> ConfigDict:
  """`run = "finetune"`: MAE's recipe for ViT-B (Table 13, A.2).

  Args:
    model_run: run directory of `run = "pretrain"`.
  """
  c = _shared("finetune", model_run)
  c.model.prefix_tokens = -1  # full attention (A.2)
  c.view.update(operations=2, erase=0.25)  # [gap] MAE
  c.head = ConfigDict(dict(
      drop_path=0.1,  # of rows skip the last block's branches; [gap] MAE
      head_init_std=2e-5,  # [gap] MAE
      norm_eps=1e-6,  # of LayerNorm; [gap] MAE
  ))  # fmt: skip
  c.mix = ConfigDict(dict(
      mixup=0.8,  # alpha; 0.0: none; [gap] MAE
      cutmix=1.0,  # alpha; 0.0: none; [gap] MAE
      share=1.0,  # of microbatches that are mixed; [gap] MAE
      switch=0.5,  # of these, with cutmix; [gap] MAE
      smoothing=0.1,  # of the classes; [gap] MAE
  ))  # fmt: skip
  c.train = ConfigDict(dict(
      epochs=100.0,  # [gap] MAE
      batch_rows=1024,  # [gap] MAE
      microbatches=1,  # each is mixed by itself
      score_rows=1024,  # of a batch of the evaluation
  ))  # fmt: skip
  c.optim = optim(batch_rows=1024, lr=5e-4, lr_rows=256)  # [gap] MAE
  c.optim.update(layer_decay=0.65, b2=0.999, clip_norm=0.0)  # [gap] MAE
  return c
