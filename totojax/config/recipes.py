"""Recipes: what the files in `configs/` start from and change.

Keys, defaults, units and sources are those of the sections beside this file
(`pretrain`, `model`, `training`, ...), each declared once. A key that is in
none of them cannot be set: a misspelt one is refused.

A flag takes a value's type from its default: write floats as 1.0.
"""

from collections.abc import Callable
import functools
import math

from ml_collections import ConfigDict

from totojax.config import model as models, roots, schema, training
from totojax.config.model import PRESETS as PRESETS
from totojax.config.schema import ConfigError


def _sizes(architecture: str, preset: str) -> ConfigDict:
  presets = models.SIZES.get(architecture, {})
  if preset not in presets:
    known = sorted(presets or models.SIZES)
    raise ConfigError(f"{preset if presets else architecture!r} is unknown; use one of {known}")
  sizes = presets[preset]
  return schema.to_config(models.MODELS[architecture](**sizes))


# Name of a preset -> section `model`.
model = functools.partial(_sizes, "llama")  # one of PRESETS
gpt2 = functools.partial(_sizes, "gpt2")  # with sines and cosines for places (Table 6)
mamba = functools.partial(_sizes, "mamba")  # S6 (Table 6)


def use(c: ConfigDict, architecture: str, preset: str) -> None:
  """Gives `pretrain()` another architecture (Table 6) and its keys."""
  c.architecture = architecture
  c.model = _sizes(architecture, preset)


def tuned_mup(base_width: int) -> ConfigDict:
  """µP, on, for an untied head, with multipliers that were tuned.

  In `configs/mup_sweep.py` at widths of 32 to 256, on a CPU; with the section's
  defaults wider models learnt hardly better there (see docs/results.md).
  """
  tuned = models.MupConfig(
    on=True, base_width=base_width, matrix_std=base_width**-0.5, embedding_std=1.0, output=8.0
  )
  return schema.to_config(tuned)


def _job(name: str, *keys: str) -> Callable[..., ConfigDict]:
  """A job with its defaults but for some keys: values of these -> its config."""
  return lambda *values: roots.config(name, **dict(zip(keys, values, strict=True)))


tokenizer = _job("tokenizer")  # a dVAE as DALL-E trained it (Ramesh et al., A.2)
tokenize = _job("tokenize")  # any images or videos to tokens; and what it would cost
tokens_report = _job("tokens_report")  # what is in stores of tokens
official = _job("official")  # released tokenizers, as files of ours
leakage = _job("leakage")  # is anything held out also trained on?
audit = _job("audit")  # the paper's counts and compute, worked out again
# Each of a run directory of `run = "pretrain"`.
validate = _job("validate", "model_run")  # loss by position
features = _job("features", "model_run")  # features as files
joint = _job("joint", "model_run")  # next-token loss, and probes of the layers (Table 7)
finetune = _job("finetune", "model_run")  # MAE's recipe for ViT-B (Table 13, A.2)
report = _job("report", "chain")  # one page about a chain, of its folder


def optim() -> ConfigDict:
  return schema.to_config(training.AdamWConfig())


def every(log: int, evaluate: int, checkpoint: int) -> ConfigDict:
  return schema.to_config(training.Every(log, evaluate, checkpoint))


def source(path: str, weight: float) -> ConfigDict:
  """A store of tokens and its share of each batch."""
  return schema.to_config(training.Share(path, weight))


def pretrain(preset: str) -> ConfigDict:
  """`run = "pretrain"`: the paper's recipe (section 3) for one model."""
  c = roots.config("pretrain")
  c.model = model(preset)
  return c


# Up to so many parameters: inputs of an update, peak rate. The last row is the
# paper's (section 3.2); the others are chosen and were not tuned: fewer inputs
# and higher rates for smaller models, as is usual.
_AMOUNTS = (
  (1e5, 2**13, 3e-3),
  (5e6, 2**14, 3e-3),
  (5e7, 2**17, 1e-3),
  (2e8, 2**19, 6e-4),
  (math.inf, 2**20, 3e-4),
)
# What stores decide of `own`, where no flag does.
_FROM_STORES = (
  *(f"sequence.{key}" for key in ("vocab", "grid", "frames", "context")),
  *(f"train.{key}" for key in ("batch_tokens", "total_tokens")),
  "optim.warmup_steps",
  *(f"every.{key}" for key in ("log_steps", "eval_steps", "checkpoint_steps")),
)


def own(size: str) -> ConfigDict:
  """`pretrain` of one's own stores: what they decide is read from them.

  Sizes of the sequence are the stores'; amounts are those for 20 tokens a
  parameter (Hoffmann et al., 2022) of enough data, less where there are fewer
  (`totojax/jobs/fitting.py`).

  Args:
    size: a preset of LLaMA, or ARCHITECTURE-PRESET.
  """
  usual, *others = models.SIZES
  architecture, dash, preset = size.partition("-")
  if not dash:
    architecture, preset = usual, size
  known = [*PRESETS, *(f"{name}-{one}" for name in others for one in models.SIZES[name])]
  if preset not in models.SIZES.get(architecture, {}):
    raise ConfigError(f"size {size!r} is unknown; use one of {', '.join(known)}")
  c = pretrain("base")
  use(c, architecture, preset)
  parameters = 12 * c.model.width**2 * c.model.depth  # (Kaplan et al., 2020)
  batch_tokens, lr = next(row[1:] for row in _AMOUNTS if parameters <= row[0])
  total = max(20 * parameters / batch_tokens, 1000) * batch_tokens
  c.train.update(batch_tokens=batch_tokens, total_tokens=float(total))
  c.optim.update(lr=lr, warmup_steps=min(2000, int(total / batch_tokens) // 10))
  if parameters <= 5e6:  # of a CPU, where bfloat16 is no faster
    c.compute.dtype = "float32"
    c.validation.rows = 64
  c.from_stores = _FROM_STORES
  return c


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
  c.data.train = {name: source(root + f"/{name}", weight) for name, weight in mixture.items()}
  c.data.validation = {"kinetics400": root + "/kinetics400_val"}
  return c


def render(train: int, val: int) -> ConfigDict:
  """`run = "render"`: labelled clips of moving textured objects."""
  c = roots.config("render")
  c.amount.update(train=train, val=val)
  return c


def decode(root: str) -> ConfigDict:
  """`run = "decode"`: clips out of a folder of videos (section 3.4)."""
  c = roots.config("decode")
  c.decoding.root = root
  return c


def photos(train: int, val: int) -> ConfigDict:
  """`run = "photos"`: squares out of a few public-domain photographs."""
  c = roots.config("photos")
  c.amount.update(train=train, val=val)
  return c


def small_dvae(c: ConfigDict, steps: int) -> None:
  """Turns `tokenizer()` into one that a CPU trains in minutes.

  The k-means start and teacher are ours: the published losses alone collapse to
  a few codes in so few updates.
  """
  c.dvae.update(vocab=512, hidden=32, blocks=1, decoder_init=64, post_gain=0.25)
  c.objective.update(loss="l2", kl=0.0, tau_steps=steps * 3 // 5)
  c.objective.update(start="patches", teacher=0.01, teacher_steps=steps * 3 // 4)
  c.train.update(
    steps=steps, batch_frames=32, start_frames=2500, score_frames=512, least_used_frac=0.5
  )
  c.optim.update(
    lr=3e-3, warmup_steps=min(50, steps // 10), end_lr_frac=0.02, b2=0.99, clip_norm=1.0
  )
  c.every = every(50, 500, 250)


def shards(pixels: str, weights: str) -> ConfigDict:
  """`run = "shards"`: pixels to tokens."""
  c = roots.config("shards")
  c.tokenizing.update(pixels=pixels, tokenizer=weights)
  return c


def sizes(*widths: int, depth: int, heads: int, mlp_ratio: float) -> ConfigDict:
  """Models of one depth by name, for a sweep over widths."""
  shape = dict(depth=depth, heads=heads)
  models = {f"w{w}": dict(width=w, mlp_dim=int(w * mlp_ratio), **shape) for w in widths}
  return ConfigDict(models)


def coord_check(models: ConfigDict) -> ConfigDict:
  """`run = "coord_check"`: do activations keep their size over the width?

  `models`: name -> sizes, in place of pretrain.model's.
  """
  c = roots.config("coord_check")
  c.coord_check.models = models
  return c


def sweep(pretrain: ConfigDict, models: ConfigDict) -> ConfigDict:
  """`run = "sweep"`: every combination of the lists, and their optima.

  `models`: name -> sizes, in place of those of `pretrain`, which all runs share.
  """
  c = roots.config("sweep")
  c.pretrain = pretrain
  c.sweep.models = models
  c.sweep.total_tokens = (pretrain.train.total_tokens,)
  return c


def scaling(*runs: str) -> ConfigDict:
  """`run = "scaling"`: the law (Figure 9) of runs of pre-training, "NAME=FOLDER" each."""
  c = roots.config("scaling")
  c.scaling.runs = runs
  return c


def curves(*runs: str) -> ConfigDict:
  """`run = "curves"`: training losses (Figure 2) of the same, over tokens."""
  c = roots.config("curves")
  c.curves.runs = runs
  return c


def probe(model_run: str, train: str, validation: str) -> ConfigDict:
  """`run = "probe"`: MAE's linear probe on every layer (section 3.5).

  Of a run directory of pre-training, on two stores of tokens with classes.
  """
  c = roots.config("probe", model_run=model_run)
  c.data.update(train=train, validation=validation)
  return c


def small_probe(model_run: str, shards: str, clips: str) -> ConfigDict:
  """`probe` of a small model on rendered clips, with everything beside it.

  `shards` holds the stores of tokens `train` and `val`, `clips` those of pixels
  that they were made from.
  """
  c = probe(model_run, f"{shards}/train", f"{shards}/val")
  c.backbones = ("trained", "untrained", "pixels", "histogram")
  c.data.update(train_pixels=f"{clips}/train", validation_pixels=f"{clips}/val", holdout_frac=0.2)
  c.train.update(epochs=40.0, batch_rows=256, score_rows=256)
  c.optim.update(
    name="adamw",
    lrs=(1e-3, 3e-3, 1e-2, 3e-2),
    weight_decays=(0.01, 0.3, 3.0),  # the most for the histogram of tokens
    lr_rows=0,
    warmup_epochs=1.0,
  )
  c.every = every(100, 1000, 1000)
  return c


def probe_seeds(**runs: list[str]) -> ConfigDict:
  """`run = "probe_seeds"`: question -> run directories, one for each seed."""
  folders = {name: tuple(paths) for name, paths in runs.items()}
  return roots.config("probe_seeds", probe_seeds=folders)


def chain(**stages: ConfigDict) -> ConfigDict:
  """`run = "chain"`: the stages in the order given."""
  return roots.config("chain", order=tuple(stages), stages=stages)


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
  encoder = tokenizer()
  encoder.weights = "shipped"
  model_run = pretrain("mini")
  tokens = 16 * grid**2
  model_run.sequence.update(vocab=512, grid=grid, frames=16, context=tokens)
  model_run.compute.dtype = "float32"  # bf16 is no faster on a CPU
  model_run.train.update(batch_tokens=batch * tokens, total_tokens=float(steps * batch * tokens))
  model_run.optim.warmup_steps = steps // 10
  model_run.data.train = {name: source("{workdir}/shards/train", 1.0)}
  model_run.data.validation = {name: "{workdir}/shards/val"}
  model_run.validation.rows = 64
  return chain(
    clips=clips,
    tokenizer=encoder,
    shards=shards("{workdir}/clips", "{workdir}/tokenizer/tokenizer.safetensors"),
    pretrain=model_run,
    validate=validate("{workdir}/pretrain"),
    report=report("{workdir}"),
  )


def joint_of_clips(model_run: str, stores: str) -> ConfigDict:
  """`joint` on clips of 16 x 16 tokens of Kinetics-400 (section 4.3).

  `stores` is the folder of the stores of tokens `train` and `val`.
  """
  c = joint(model_run)
  c.model.rope_base = 10_000.0  # that of the model
  c.data.update(source="tokens", train=f"{stores}/train", validation=f"{stores}/val")
  c.data.update(grid=0, classes=400, expected=0)
  c.data.reading.update(workers=0, prefetch=2)  # tokens need no processes
  c.train.update(batch_rows=256, score_rows=256)
  return c
