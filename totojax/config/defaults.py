"""Every config key with its default, unit and source.

Files in `configs/` start from one of these functions and change what they are
about. A key that is not here cannot be set: a misspelt one is refused. "[gap]"
marks what the paper does not say; the source of our default follows.

A flag takes a value's type from its default: write floats as 1.0.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from totojax.config import corpus as corpus_config
from totojax.config import labels
from totojax.config import pixels as pixels_config
from totojax.config import schema
from totojax.config import studies
from totojax.config import tokens as tokens_config

# Table 1. The MLP sizes are not printed: 4 x width for base and large and
# LVM's 5,504 for 1b are what gives 120m, 280m and 1.1b, tied (and, for large,
# Table 4's compute). a1 to a6 are Table 15's widths and depths with 8/3 x width
# rounded up to 128, which the compute axis of Figure 9 agrees with; Table 15's
# parameter counts fit no standard rule.
PRESETS = {
    "base": dict(width=768, depth=12, heads=12, mlp_dim=3072),
    "large": dict(width=1024, depth=16, heads=16, mlp_dim=4096),
    "1b": dict(width=2048, depth=22, heads=16, mlp_dim=5504),
    "a1": dict(width=256, depth=12, heads=16, mlp_dim=768),
    "a2": dict(width=512, depth=16, heads=16, mlp_dim=1408),
    "a3": dict(width=768, depth=20, heads=16, mlp_dim=2048),
    "a4": dict(width=1024, depth=24, heads=16, mlp_dim=2816),
    "a5": dict(width=1536, depth=28, heads=16, mlp_dim=4096),
    "a6": dict(width=1792, depth=32, heads=16, mlp_dim=4864),
    # Ours, for one laptop and for tests.
    "mini": dict(width=128, depth=6, heads=2, mlp_dim=384),
    "tiny": dict(width=32, depth=2, heads=2, mlp_dim=64),
}
# Table 6: 1,024 wide as large. Depths are not printed; these are the ones that
# give 280m and 290m, tied (`run = "audit"`).
GPT2_PRESETS = {
    "280m": dict(width=1024, depth=22, heads=16, mlp_dim=4096),
    "tiny": dict(width=32, depth=2, heads=2, mlp_dim=64),
}
MAMBA_PRESETS = {
    "290m": dict(width=1024, depth=42),
    "tiny": dict(width=32, depth=2),
}


def sequence() -> ConfigDict:
  return ConfigDict(dict(
      vocab=8192,  # visual codes (section 3.4)
      grid=16,  # tokens per side: 128 pixels, factor 8 (section 3.4)
      frames=16,  # video frames, or images, in a sequence (section 3.4)
      context=4096,  # inputs, in tokens (section 3.4)
      segments=False,  # hide the images of a sequence from each other; [paper]
  ))  # fmt: skip


def model(preset: str) -> ConfigDict:
  """LLaMA of one of `PRESETS`."""
  return ConfigDict(dict(
      **PRESETS[preset],
      rope_base=10_000.0,  # Table 4 names 50,000 as the change, so 10,000
      norm_eps=1e-6,  # [gap] LVM
      init_std=0.02,  # [gap] LVM's initializer_range
      tied=True,  # [gap] the one reading that gives Table 4's compute
      prefix_tokens=0,  # seen by all: 0: causal (Eq. 1), -1: full
  ))  # fmt: skip


def gpt2(preset: str) -> ConfigDict:
  """GPT-2 with sines and cosines for places (Table 6), for `model`."""
  return ConfigDict(dict(
      **GPT2_PRESETS[preset],
      norm_eps=1e-5,  # [gap] GPT-2
      init_std=0.02,  # [gap] GPT-2
      tied=True,  # [gap] GPT-2
      position_std=0.02,  # of sines and cosines; [gap] that of GPT-2's learned
      # ones at the start; as large as they are (0.7), they drown the tokens
  ))  # fmt: skip


def mamba(preset: str) -> ConfigDict:
  """Mamba (S6; Table 6), for `model`."""
  return ConfigDict(dict(
      **MAMBA_PRESETS[preset],
      expand=2,  # inner width over width; [gap] mamba_ssm
      state=16,  # of each inner channel; [gap] mamba_ssm
      conv=4,  # tokens of the convolution; [gap] mamba_ssm
      step_rank=0,  # of the map to step sizes; 0: width / 16; [gap] mamba_ssm
      chunk_tokens=64,  # whose states exist at a time; changes no result
      scan="steps",  # within a chunk; or "tree": an associative scan
      norm_eps=1e-5,  # [gap] mamba_ssm
      init_std=0.02,  # [gap] as LLaMA's
      tied=True,  # [gap] mamba_ssm
  ))  # fmt: skip


def use(c: ConfigDict, architecture: str, preset: str) -> None:
  """Gives `pretrain()` another architecture (Table 6) and its keys."""
  sections = {"llama": model, "gpt2": gpt2, "mamba": mamba}
  c.architecture = architecture
  c.model = sections[architecture](preset)


def mup() -> ConfigDict:
  """µP (section A.5; Yang et al., 2022); off, as Table 1's models are."""
  return ConfigDict(dict(
      on=False,
      base_width=64,  # [gap] the smallest of Figure 11
      base_mlp_dim=0,  # hidden units there; 0: the model's ratio to its width
      base_heads=0,  # 0: the model's, so that the head dimension grows
      zero_query=True,  # [gap] Yang et al., section D.2
      zero_head=True,  # of an untied head; [gap] Yang et al., section D.2
      depth_init=True,  # / sqrt(2 depth) into the residual stream; [gap] GPT-2
      matrix_std=0.0,  # of the base's matrices at the start; 0: model.init_std
      embedding_std=0.0,  # of embeddings at the start; 0: model.init_std
      output=1.0,  # times the logits
  ))  # fmt: skip


def tuned_mup(base_width: int) -> ConfigDict:
  """µP, on, for an untied head, with multipliers that were tuned.

  In `configs/mup_sweep.py` at widths of 32 to 256, on a CPU; with those of
  `mup` wider models learnt hardly better there (see docs/results.md).
  """
  c = mup()
  c.update(
      on=True, base_width=base_width, matrix_std=base_width**-0.5,
      embedding_std=1.0, output=8.0,
  )  # fmt: skip
  return c


def compute() -> ConfigDict:
  return ConfigDict(dict(
      dtype="bfloat16",  # of activations and products; [gap] LVM
      attention="auto",  # blocked on CPU, splash on TPU, cudnn on GPU (bf16)
      remat="auto",  # none on CPU, full elsewhere; "projections", "products"
      unroll=0,  # layers in line; 0: a scan on TPU, all elsewhere
      loss_chunk=0,  # tokens whose logits exist at a time; 0: all
  ))  # fmt: skip


def optim() -> ConfigDict:
  return ConfigDict(dict(
      lr=3e-4,  # peak (section 3.2)
      warmup_steps=2000,  # linear (section 3.2)
      end_lr_frac=0.1,  # of the peak; [gap] 3e-5, as LVM ends
      b1=0.9,  # section 3.2
      b2=0.95,  # section 3.2
      eps=1e-8,  # [gap] optax
      weight_decay=0.1,  # on matrices; [gap] LLaMA
      clip_norm=1.0,  # global; [gap] LLaMA, LVM
      mu_dtype="float32",  # of the first moment; "bfloat16": half the bytes
  ))  # fmt: skip


def mesh() -> ConfigDict:
  """Devices per axis; -1 takes what is left."""
  return ConfigDict(dict(data=1, fsdp=-1, tensor=1, sequence=1))


def every(log: int, evaluate: int, checkpoint: int) -> ConfigDict:
  return ConfigDict(dict(
      log_steps=log, eval_steps=evaluate, checkpoint_steps=checkpoint
  ))  # fmt: skip


def checkpoint() -> ConfigDict:
  return ConfigDict(dict(
      keep=2,  # newest checkpoints
      keep_every_steps=0,  # multiples of this stay for good; 0: none
  ))  # fmt: skip


def source(path: str, weight: float) -> ConfigDict:
  """A store of tokens and its share of each batch."""
  return ConfigDict(dict(path=path, weight=weight))


def reading() -> ConfigDict:
  return ConfigDict(dict(
      workers=0,  # processes that read ahead; 0: threads of this process
      prefetch=2,  # batches read ahead
  ))  # fmt: skip


def plan() -> ConfigDict:
  """What `run = "plan"` of a pre-training config compiles for."""
  return ConfigDict(dict(
      what="train",  # the step; or "decode", "encode"
      rows=8,  # sequences decoded, or frames encoded, by each data-parallel
      # device
      cache_tokens=0,  # room of the cache of "decode"; 0: sequence.context
      dvae=dict(  # of "encode": the official one (Ramesh et al. 2021)
          hidden=256, groups=4, blocks=2, decoder_init=128, post_gain=1 / 64
      ),
      topology="",  # "v5e:16x16", "v4:4x4x8", or "gpu:NVIDIA H100:8"
      slices=1,  # of this topology each
      price_per_chip_hour=0.0,  # in any currency; 0.0: no cost
      busy=0.4,  # share of their peak that GPUs reach: an assumption
      search=False,  # every combination of the three lists
      meshes=(),  # (data, fsdp, tensor, sequence) each; (): `mesh`
      remats=("none", "full", "projections", "products"),
      microbatches=(),  # (): `train.microbatches`
  ))  # fmt: skip


def pretrain(preset: str) -> ConfigDict:
  """`run = "pretrain"`: the paper's recipe (section 3) for one model."""
  return ConfigDict(dict(
      run="pretrain",
      seed=0,
      init_from="",  # a run whose parameters this one starts from (Table 4: at
      # another grid or base of RoPE); "": afresh
      sequence=sequence(),
      architecture="llama",  # whose keys `model` has; "gpt2", "mamba": `use`
      model=model(preset),
      patches=dict(  # Table 3; `train` and `validation` are stores of pixels
          inputs=False,  # patches of pixels in place of tokens
          targets=False,  # the next patch, normalised; False: its token, of
          # data.encode_with
          side_px=16,  # of a patch; [gap] 256 pixels over a grid of 16
          eps=1e-6,  # added to a patch's variance; MAE
      ),
      mup=mup(),
      compute=compute(),
      mesh=mesh(),
      optim=optim(),
      train=dict(
          batch_tokens=2**20,  # inputs per update: "1M" (section 3.2)
          total_tokens=1e12,  # section 3.3
          microbatches=1,  # parts of a batch, one after the other
      ),
      data=dict(
          tokenizer="",  # fingerprint that the stores must have; "": any, equal
          encode_with="",  # tokenizer file: `train` are stores of pixels, and
          # codes are made on the device in each step; "": stores of tokens
          train=dict(),  # name -> source
          validation=dict(),  # name -> path of a store
          reading=reading(),
      ),
      validation=dict(
          rows=1024,  # sequences of each source, during training; 0: all
      ),
      every=every(100, 5000, 1000),
      checkpoint=checkpoint(),
      plan=plan(),
  ))  # fmt: skip


def paper(preset: str) -> ConfigDict:
  """One of Table 1's models on section 3.3's mixture.

  `data.root` holds the stores `imagenet`, `ego4d`, `kinetics600`, `howto100m`
  and, for validation, `kinetics400_val` (of which nothing may be in
  Kinetics-600's training set).
  """
  c = pretrain(preset)
  c.data.root = "data"
  root = c.data.get_ref("root")
  mixture = dict(imagenet=0.2, ego4d=0.1, kinetics600=0.1, howto100m=0.6)
  c.data.train = {
      name: source(root + f"/{name}", weight)
      for name, weight in mixture.items()
  }
  c.data.validation = {"kinetics400": root + "/kinetics400_val"}
  return c


def render(train: int, val: int) -> ConfigDict:
  """`run = "render"`: labelled clips of moving textured objects."""
  amount = pixels_config.RenderAmount(train=train, val=val)
  return schema.to_config(pixels_config.Render(amount=amount))


def decode(root: str) -> ConfigDict:
  """`run = "decode"`: clips out of a folder of videos (section 3.4)."""
  decoding = pixels_config.Decoding(root=root)
  return schema.to_config(pixels_config.Decode(decoding=decoding))


def photos(train: int, val: int) -> ConfigDict:
  """`run = "photos"`: squares out of a few public-domain photographs."""
  amount = pixels_config.PhotosAmount(train=train, val=val)
  return schema.to_config(pixels_config.Photos(amount=amount))


def tokenizer() -> ConfigDict:
  """`run = "tokenizer"`: a dVAE as DALL-E trained it (Ramesh et al., A.2)."""
  return schema.to_config(tokens_config.Tokenizer())


def small_dvae(c: ConfigDict, steps: int) -> None:
  """Turns `tokenizer()` into one that a CPU trains in minutes.

  The k-means start and teacher are ours: the published losses alone collapse to
  a few codes in so few updates.
  """
  c.dvae.update(
      vocab=512, hidden=32, blocks=1, decoder_init=64, post_gain=0.25
  )
  c.objective.update(
      loss="l2",
      kl=0.0,
      tau_steps=steps * 3 // 5,
      start="patches",
      teacher=0.01,
      teacher_steps=steps * 3 // 4,
  )
  c.train.update(
      steps=steps,
      batch_frames=32,
      start_frames=2500,
      score_frames=512,
      least_used_frac=0.5,
  )
  c.optim.update(
      lr=3e-3,
      warmup_steps=min(50, steps // 10),
      end_lr_frac=0.02,
      b2=0.99,
      clip_norm=1.0,
  )
  c.every = every(50, 500, 250)


def shards(pixels: str, weights: str) -> ConfigDict:
  """`run = "shards"`: pixels to tokens."""
  tokenizing = tokens_config.Tokenizing(pixels=pixels, tokenizer=weights)
  return schema.to_config(tokens_config.Shards(tokenizing=tokenizing))


def tokenize() -> ConfigDict:
  """`run = "tokenize"` and "plan": any images or videos to tokens."""
  return schema.to_config(corpus_config.Tokenize())


def tokens_report() -> ConfigDict:
  """`run = "tokens_report"`: what is in stores of tokens."""
  return schema.to_config(tokens_config.TokensReport())


def official() -> ConfigDict:
  """`run = "official"`: released tokenizers, as files of ours."""
  return schema.to_config(tokens_config.Official())


def leakage() -> ConfigDict:
  """`run = "leakage"`: is anything held out also trained on?"""
  return schema.to_config(tokens_config.Leakage())


def validate(model_run: str) -> ConfigDict:
  """`run = "validate"`: loss of a pre-trained model by position."""
  return ConfigDict(dict(
      run="validate",
      model_run=model_run,  # run directory of `run = "pretrain"`
      rows=0,  # sequences of each source; 0: all
  ))  # fmt: skip


def sizes(
    *widths: int, depth: int, heads: int, mlp_ratio: float
) -> ConfigDict:
  """Models of one depth by name, for a sweep over widths."""
  return ConfigDict({
      f"w{width}": dict(
          width=width, depth=depth, heads=heads, mlp_dim=int(width * mlp_ratio)
      )
      for width in widths
  })


def audit() -> ConfigDict:
  """`run = "audit"`: the paper's counts and compute, worked out again."""
  return schema.to_config(studies.Audit())


def coord_check(models: ConfigDict) -> ConfigDict:
  """`run = "coord_check"`: do activations keep their size over the width?

  Args:
    models: name -> sizes, in place of pretrain.model's.
  """
  c = schema.to_config(studies.CoordCheckJob())
  c.coord_check.models = models
  return c


def sweep(pretrain: ConfigDict, models: ConfigDict) -> ConfigDict:
  """`run = "sweep"`: every combination of the lists, and their optima.

  Args:
    pretrain: what all runs share.
    models: name -> sizes, in place of pretrain.model's.
  """
  c = schema.to_config(studies.SweepJob())
  c.pretrain = pretrain
  c.sweep.models = models
  c.sweep.total_tokens = (pretrain.train.total_tokens,)
  return c


def scaling(*runs: str) -> ConfigDict:
  """`run = "scaling"`: the law of finished runs (Figure 9).

  Args:
    *runs: "NAME=FOLDER" each, run directories of `run = "pretrain"`.
  """
  chosen = studies.Scaling(runs=runs)
  return schema.to_config(studies.ScalingJob(scaling=chosen))


def curves(*runs: str) -> ConfigDict:
  """`run = "curves"`: training losses of several runs over tokens (Figure 2).

  Args:
    *runs: "NAME=FOLDER" each, run directories of `run = "pretrain"`.
  """
  return schema.to_config(studies.CurvesJob(curves=studies.Curves(runs=runs)))


def probe(model_run: str, train: str, validation: str) -> ConfigDict:
  """`run = "probe"`: MAE's linear probe on every layer (section 3.5).

  Args:
    model_run: run directory of `run = "pretrain"`.
    train: store of tokens with classes.
    validation: the same, held out.
  """
  c = schema.to_config(labels.Probe(model_run=model_run))
  c.data.update(train=train, validation=validation)
  return c


def features(model_run: str) -> ConfigDict:
  """`run = "features"`: features of a pre-trained model, as files.

  Args:
    model_run: run directory of `run = "pretrain"`.
  """
  return schema.to_config(corpus_config.Features(model_run=model_run))


def small_probe(model_run: str, shards: str, clips: str) -> ConfigDict:
  """`probe` of a small model on rendered clips, with everything beside it.

  Args:
    model_run: run directory of `run = "pretrain"`.
    shards: folder of the stores of tokens `train` and `val`.
    clips: folder of the stores of pixels that they were made from.
  """
  c = probe(model_run, f"{shards}/train", f"{shards}/val")
  c.backbones = ("trained", "untrained", "pixels", "histogram")
  c.data.update(
      train_pixels=f"{clips}/train",
      validation_pixels=f"{clips}/val",
      holdout_frac=0.2,
  )
  c.train.update(epochs=40.0, batch_rows=256, score_rows=256)
  c.optim.update(
      name="adamw",
      lrs=(1e-3, 3e-3, 1e-2),
      weight_decays=(0.01, 0.3),
      lr_rows=0,
      warmup_epochs=1.0,
  )
  c.every = every(100, 1000, 1000)
  return c


def probe_seeds(**runs: list[str]) -> ConfigDict:
  """`run = "probe_seeds"`: question -> run directories, one for each seed."""
  folders = {name: tuple(paths) for name, paths in runs.items()}
  return schema.to_config(labels.ProbeSeeds(probe_seeds=folders))


def report(chain: str) -> ConfigDict:
  """`run = "report"`: one page about a chain."""
  return schema.to_config(studies.Report(chain=chain))


def chain(**stages: ConfigDict) -> ConfigDict:
  """`run = "chain"`: the stages in the order given."""
  c = schema.to_config(studies.Chain(order=tuple(stages)))
  c.stages = stages
  return c


def videos_to_report(
    clips: ConfigDict, *, name: str, grid: int, batch: int, steps: int
) -> ConfigDict:
  """The whole job in small: pixels, tokens, a "mini" model, validation, report.

  Args:
    clips: the stage that makes the pixel stores.
    name: of the only source.
    grid: tokens per side of a frame.
    batch: sequences of an update.
    steps: updates.
  """
  chosen = tokenizer()
  chosen.weights = "shipped"
  model_run = pretrain("mini")
  tokens = 16 * grid**2
  model_run.sequence.update(vocab=512, grid=grid, frames=16, context=tokens)
  model_run.compute.dtype = "float32"  # bf16 is no faster on a CPU
  model_run.train.update(
      batch_tokens=batch * tokens, total_tokens=float(steps * batch * tokens)
  )
  model_run.optim.warmup_steps = steps // 10
  model_run.data.train = {name: source("{workdir}/shards/train", 1.0)}
  model_run.data.validation = {name: "{workdir}/shards/val"}
  model_run.validation.rows = 64
  return chain(
      clips=clips,
      tokenizer=chosen,
      shards=shards(
          "{workdir}/clips", "{workdir}/tokenizer/tokenizer.safetensors"
      ),
      pretrain=model_run,
      validate=validate("{workdir}/pretrain"),
      report=report("{workdir}"),
  )
