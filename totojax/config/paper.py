"""What several configs of the paper's tables share.

`IMAGENET` and the like are folders below the config key `data.root` or the
argument `root`; `configs/paper/README.md` says what is in each.
"""

from collections.abc import Mapping
from typing import TypeVar

from ml_collections import ConfigDict

from totojax.config import recipes

T = TypeVar("T")

ROOT = "data"  # of all stores, unless a key says another place
EPOCHS = 400  # of ImageNet-1k, of all ablations (section 4)
IMAGES = 1_281_167  # of ImageNet-1k's training set
NINTH = (8, 9)  # [gap] the 9th layer (Table 3): counted from H_0, or the 9th block's
VOCAB = {"dvae": 8192, "vqgan-1k": 1024, "vqgan-16k": 16_384}


def chosen(rows: Mapping[str, T], name: str, file: str) -> T:
  """The row of a table that a config's argument names.

  Raises:
    ValueError: there is no such row; tells which there are.
  """
  if name not in rows:
    raise ValueError(f"configs/paper/{file}.py:{name} is unknown; its rows are {', '.join(rows)}")
  return rows[name]


def store(tokenizer: str, grid: int, split: str) -> str:
  """Tokens of ImageNet-1k: 16 x 16 or 32 x 32 of a tokenizer."""
  return f"{ROOT}/imagenet1k-{tokenizer}-{grid}/{split}"


def ablation(tokenizer: str = "dvae", grid: int = 16) -> ConfigDict:
  """Toto-large for 400 epochs of ImageNet-1k (section 4): Tables 3 to 6.

  One image is one sequence [gap], and a batch is 2^20 tokens (section 3.2).
  """
  c = recipes.pretrain("large")
  tokens = grid**2
  c.sequence.update(vocab=VOCAB[tokenizer], grid=grid, frames=1, context=tokens)
  c.train.total_tokens = float(EPOCHS * IMAGES * tokens)
  c.data.train = {"imagenet": recipes.source(store(tokenizer, grid, "train"), 1.0)}
  c.data.validation = {"imagenet": store(tokenizer, grid, "val")}
  return c


def tokenizer_file(tokenizer: str) -> str:
  """Where configs/official.py leaves a tokenizer; of patches ("") there is none."""
  return f"{ROOT}/{tokenizer}/tokenizer.safetensors" if tokenizer else ""


def linear_probe(model_run: str, *, name: str, top1: float, tokenizer: str = "dvae") -> ConfigDict:
  """MAE's linear probe of every layer on ImageNet-1k, with MAE's views of its files.

  Args:
    model_run: run directory of the model.
    name: of the paper's number.
    top1: the paper's number, in per cent.
    tokenizer: of the model; "": patches.
  """
  c = recipes.probe(model_run, "train", "val")
  c.backbones = ("trained",)
  c.data.update(source="imagenet", root=f"{ROOT}/imagenet1k", encode_with=tokenizer_file(tokenizer))
  c.data.update(classes=1000, expected=50_000, holdout_frac=0.01)
  c.data.reading.update(workers=8, prefetch=4)  # of photographs
  c.paper.update(name=name, top1=top1)
  return c


def attention_probe(c: ConfigDict) -> ConfigDict:
  """The same with attention pooling (section 3.5) in place of the mean.

  [gap] AIM's query, and the grid with which V-JEPA 2 probes ImageNet.
  """
  c.head.update(pool="attention", init_std=0.02)
  c.train.update(epochs=20.0, batch_rows=1024)
  c.optim.update(
    name="adamw",
    lrs=(5e-4, 1e-3, 1.5e-3, 2e-3),
    weight_decays=(5e-4, 1e-3, 2e-3, 4e-3, 8e-3),
    lr_rows=0,
    warmup_epochs=5.0,
  )
  return c


def kinetics_probe(model_run: str, *, name: str, top1: float) -> ConfigDict:
  """Cross-attention and an MLP on every layer (Table 16), 10 x 3 views."""
  c = recipes.probe(model_run, f"{ROOT}/k400-dvae-16/train", f"{ROOT}/k400-dvae-16/val")
  c.backbones = ("trained",)
  c.data.update(classes=400, holdout_frac=0.02)
  c.head.update(pool="cross", init_std=0.02)
  c.train.update(epochs=20.0, batch_rows=256, score_rows=256)
  c.optim.update(
    name="adamw",
    # [gap] V-JEPA 2's grid; V-JEPA's one pair is 1e-3 and 0.01.
    lrs=(5e-3, 3e-3, 1e-3, 3e-4, 1e-4),
    weight_decays=(0.01, 0.1, 0.4, 0.8),
    lr_rows=0,
    warmup_epochs=0.0,
    end_decay_frac=1e-4,  # to 1e-6
    clip_norm=1.0,
  )
  c.paper.update(name=name, top1=top1)
  return c


def joint_of_clips(model_run: str, stores: str) -> ConfigDict:
  """`joint` on clips of 16 x 16 tokens of Kinetics-400 (section 4.3).

  `stores` is the folder of the stores of tokens `train` and `val`.
  """
  c = recipes.joint(model_run)
  c.model.rope_base = 10_000.0  # that of the model
  c.data.update(source="tokens", train=f"{stores}/train", validation=f"{stores}/val")
  c.data.update(grid=0, classes=400, expected=0)
  c.data.reading.update(workers=0, prefetch=2)  # tokens need no processes
  c.train.update(batch_rows=256, score_rows=256)  # [gap] of Table 8; V-JEPA's probe has 256
  return c
