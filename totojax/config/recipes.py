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


def _job(name: str, *keys: str) -> Callable[..., ConfigDict]:
  """A job with its defaults but for some keys: values of these -> its config."""
  return lambda *values: roots.config(name, **dict(zip(keys, values, strict=True)))


tokenizer = _job("tokenizer")  # a dVAE as DALL-E trained it (Ramesh et al., A.2)
tokenize = _job("tokenize")  # any images or videos to tokens; and what it would cost
codes = _job("codes")  # codes that others made to a store of tokens
tokens_report = _job("tokens_report")  # what is in stores of tokens
official = _job("official")  # released tokenizers, as files of ours
leakage = _job("leakage")  # is anything held out also trained on?
audit = _job("audit")  # the paper's counts and compute, worked out again
# Each of a run directory of `run = "pretrain"`.
validate = _job("validate", "model_run")  # loss by position
generate = _job("generate", "model_run")  # videos that a model goes on with
surprise = _job("surprise", "model_run")  # does it find what cannot be unlikely?
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
  *(f"sequence.{key}" for key in ("codes", "frame_factor", "first_frames")),
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
    c.samples.clips = 4  # larger ones need memory that `memory.fewest` does not count
  else:  # may be too much for one device at a time
    c.train.microbatches = 0
  c.from_stores = _FROM_STORES
  return c


# Stores below `data.root`, each with its share of a batch (section 3.3). [gap]
# ImageNet is 21k by Table 2's 13.9 M images, and 1k by its name.
MIXTURE = {"imagenet/all": 0.2, "ego4d/all": 0.1, "kinetics600/train": 0.1, "howto100m/all": 0.6}


def paper(preset: str) -> ConfigDict:
  """One of Table 1's models on section 3.3's mixture.

  `data.root` holds the stores of `MIXTURE` and, for validation,
  `kinetics400/val`, as the commands of configs/paper/README.md make them.
  """
  c = pretrain(preset)
  c.train.microbatches = 0  # the fewest that fit
  c.data.root = "data"
  root = c.data.get_ref("root")
  c.data.train = {
    path.partition("/")[0]: source(root + f"/{path}", weight) for path, weight in MIXTURE.items()
  }
  c.data.validation = {"kinetics400": root + "/kinetics400/val"}
  return c


def probe(model_run: str, train: str, validation: str) -> ConfigDict:
  """`run = "probe"`: MAE's linear probe on every layer (section 3.5).

  Of a run directory of pre-training, on two stores of tokens with classes.
  """
  c = roots.config("probe", model_run=model_run)
  c.data.update(train=train, validation=validation)
  return c


def follower(config: ConfigDict) -> ConfigDict:
  """A copy whose keys follow those of `config`, also where flags set them, until set themselves."""
  copy = ConfigDict()
  for key, value in config.items():
    if isinstance(value, ConfigDict):
      copy[key] = follower(value)
    else:
      copy[key] = value if value is None else config.get_ref(key).identity()
  return copy


def chain(**stages: ConfigDict) -> ConfigDict:
  """`run = "chain"`: the stages in the order given."""
  return roots.config("chain", order=tuple(stages), stages=stages)
