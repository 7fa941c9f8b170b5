"""Config keys of studies: what is made of, or trained as, several runs."""

from collections.abc import Iterator, Mapping
import dataclasses
import re
from typing import Any

from totojax.config import model as models, pretrain as pretrain_config, schema
from totojax.config.schema import ConfigError, field, Job, Section, section, SEEDS

PARAMETRISATIONS = ("mup", "standard")
KINDS = (*PARAMETRISATIONS, "muon")  # µP with Muon in place of AdamW
OCTAVES = tuple(float(x) for x in range(-12, -2))
# What a value of a chain's stage reads: "{workdir}/NAME", or "{workdir}/NAME@STEP".
STAGE = re.compile(r"\{workdir\}/([^/@]+)")
# Name -> keys of `pretrain.model` that it replaces, of any architecture.
Sizes = Mapping[str, Any]


def sized(model: models.Model, sizes: Sizes, path: str = "model") -> models.Model:
  """A model with other sizes.

  Args:
    model: as it was.
    sizes: some of its keys.
    path: of the sizes in the config, for errors.

  Raises:
    ConfigError: it has no such key, or they do not fit.
  """
  return schema.read(type(model), {**schema.to_dict(model), **sizes}, path)


def multiplied(mup: models.MupConfig, keys: Sizes, path: str = "mup") -> models.MupConfig:
  """µP with some other keys, as `sized`."""
  return schema.read(models.MupConfig, {**schema.to_dict(mup), **keys}, path)


def _same_rate() -> pretrain_config.Pretrain:
  """Of a tiny model, with the peak rate in each update."""
  base = pretrain_config.Pretrain()
  tiny = dataclasses.replace(base.model, **models.PRESETS["tiny"])
  optim = dataclasses.replace(base.optim, warmup_steps=0, end_lr_frac=1.0)
  return dataclasses.replace(base, model=tiny, optim=optim)


def _hidden(key: str, keys: Mapping[str, str], models: Mapping[str, Sizes], name: str) -> str:
  """What decides in place of a key of `pretrain`, or "": the key itself does.

  Args:
    key: of the job.
    keys: those that are replaced in every run -> what replaces them.
    models: sizes of every run, by name.
    name: the section of these.
  """
  size = key.removeprefix("pretrain.model.")
  if size != key and models and all(size in sizes for sizes in models.values()):
    return f"{name}.models.NAME.{size}, of each NAME of {sorted(models)}"
  return keys.get(key, "")


@section("", run="audit")
class Audit(Job):
  """`run = "audit"`: the paper's counts and compute, worked out again."""


@section("coord_check")
class CoordCheck(Section):
  """What is compared."""

  models: Mapping[str, Sizes] = field({}, "name -> sizes")
  parametrisations: tuple[str, ...] = field(
    PARAMETRISATIONS, "each with every model", choices=KINDS, some=True, once=True
  )
  rows: int = field(4, "of random tokens, in each update", at_least=1)
  updates: int = field(4, "of each model", at_least=1)
  log2_lr: float = field(-7.0, "of the peak rate", "Figure 11's best", at_least=-60, at_most=60)


@section("", run="coord_check")
class CoordCheckJob(Job):
  """`run = "coord_check"`: do activations keep their size over the width?

  Of `pretrain`, the sections sequence, model, mup, compute and optim count.
  """

  coord_check: CoordCheck = field(CoordCheck(), "what is compared")
  pretrain: pretrain_config.Pretrain = field(_same_rate(), "what all share")

  @classmethod
  def decides(cls, key: str, values: Mapping[str, Any]) -> str:
    """The key that hides a key of the job, or ""; see `arguments.read`."""
    keys = {
      "pretrain.optim.lr": "coord_check.log2_lr",
      "pretrain.mup.on": "coord_check.parametrisations",
    }
    return _hidden(key, keys, values["coord_check"]["models"], "coord_check")

  def __post_init__(self):
    for name, sizes in self.coord_check.models.items():
      sized(self.pretrain.model, sizes, f"coord_check.models.{name}")


@section("sweep")
class Sweep(Section):
  """The lists; every combination is a run."""

  models: Mapping[str, Sizes] = field({}, "name -> sizes")
  log2_lr: Mapping[str, tuple[float, ...]] = field(
    dict.fromkeys(PARAMETRISATIONS, OCTAVES), "of the peak rate; (): without"
  )
  seeds: tuple[int, ...] = field(
    (0, 1, 2), "of weights and data", at_least=0, below=SEEDS, some=True, once=True
  )
  total_tokens: tuple[float, ...] = field((1e12,), "of each run", above=0, some=True, once=True)
  lanes: int = field(0, "rates in one program; 0: of a model all", at_least=0)
  multipliers: Mapping[str, Sizes] = field({}, "name -> keys of mup, with each model; {}: as is")
  together: str = field(
    "auto", "vmap: at_once; in_turn; auto: in turn on CPUs", choices=("auto", "at_once", "in_turn")
  )

  def __post_init__(self):
    kinds = [kind for kind, rates in self.log2_lr.items() if rates]
    if not kinds or not set(kinds) <= set(KINDS):
      raise ConfigError(
        f"sweep.log2_lr has rates for {kinds}; use 'mup' or 'standard' or 'muon', or several"
      )
    if self.multipliers and "standard" in kinds:
      raise ConfigError(
        "sweep.multipliers are of µP, and sweep.log2_lr.standard has rates; set that to ()"
      )


@section("", run="sweep")
class SweepJob(Job):
  """`run = "sweep"`: every combination of the lists, and their optima."""

  sweep: Sweep = field(Sweep(), "what differs")
  pretrain: pretrain_config.Pretrain = field(pretrain_config.Pretrain(), "what all runs share")

  @classmethod
  def decides(cls, key: str, values: Mapping[str, Any]) -> str:
    """The key that hides a key of the job, or ""; see `arguments.read`."""
    keys = {
      "pretrain.optim.lr": "sweep.log2_lr",
      "pretrain.mup.on": "sweep.log2_lr",
      "pretrain.seed": "sweep.seeds",
      "pretrain.train.total_tokens": "sweep.total_tokens",
    }
    return _hidden(key, keys, values["sweep"]["models"], "sweep")

  def __post_init__(self):
    for name, sizes in self.sweep.models.items():
      sized(self.pretrain.model, sizes, f"sweep.models.{name}")
    for name, keys in self.sweep.multipliers.items():
      multiplied(self.pretrain.mup, keys, f"sweep.multipliers.{name}")


@section("scaling")
class Scaling(Section):
  """What is read and fitted.

  Attributes:
    frontier: "envelope", the lowest loss of each bin of compute if it is a new
      low; or "final", the last evaluation of each run (a cosine schedule does
      not reach its best before its end).
  """

  runs: tuple[str, ...] = field((), '"NAME=FOLDER" of pre-training')
  source: str = field("", "of the evaluation; '': the mean over all")
  skip_frac: float = field(0.1, "of each run: its warm-up, left out", at_least=0.0, below=1.0)
  frontier: str = field("envelope", "what the law is of", choices=("envelope", "final"))
  bins_per_decade: int = field(8, "of compute, for the envelope", at_least=1)
  draws: int = field(1000, "of runs, for the interval", at_least=1)
  seed: int = field(0, "of the draws", at_least=0, below=SEEDS)
  force: bool = field(False, "fit fewer than 3 points, or less than a decade")


@section("", run="scaling")
class ScalingJob(Job):
  """`run = "scaling"`: the law of finished runs (Figure 9)."""

  scaling: Scaling = field(Scaling(), "what is read and fitted")


@section("curves")
class Curves(Section):
  """What is drawn."""

  runs: tuple[str, ...] = field((), '"NAME=FOLDER" of pre-training')
  window: int = field(1, "logged losses of which the mean is drawn", at_least=1)
  printed: Mapping[str, float] = field({}, "name -> the paper's last loss")


@section("", run="curves")
class CurvesJob(Job):
  """`run = "curves"`: losses of several runs over tokens (Figure 2)."""

  curves: Curves = field(Curves(), "what is drawn")


@section("token_study.rows.NAME")
class TokenRow(Section):
  """A tokenizer, and a model that was trained on its tokens."""

  tokenizer: str = field("shipped", "a file, or a shipped one", plugin="tokenizer")
  every: int = field(1, "frames from one that is kept to the next", at_least=1)
  validation: str = field("", "run directory of `validate`, on one store; '': no model")


@section("token_study")
class TokenStudy(Section):
  """What is compared.

  Attributes:
    kmeans: stores of the same names, whose patches k-means is fitted on.
  """

  pixels: Mapping[str, str] = field({}, "name -> store of clips of pixels, held out")
  kmeans: Mapping[str, str] = field({}, "name -> store of others; without: no k-means")
  rows: Mapping[str, TokenRow] = field({}, "name -> tokenizer")
  clips: int = field(64, "of each store", at_least=1)
  kmeans_patches: int = field(40_000, "that k-means sees", at_least=1)


@section("", run="token_study")
class TokenStudyJob(Job):
  """`run = "token_study"`: tokenizers by what a second of video costs with them."""

  token_study: TokenStudy = field(TokenStudy(), "what is compared")


@section("", run="report")
class Report(Job):
  """`run = "report"`: one page about finished runs, or runs that are on their way.

  Attributes:
    runs: a single one gets the page of its kind, several stand side by side.
  """

  chain: str = field("", "folder of the one run, as a chain's stage has it")
  runs: tuple[str, ...] = field((), '"FOLDER" or "NAME=FOLDER" of runs', once=True)


@section("data")
class ChainData(Section):
  """What stages of a chain share."""

  root: str = field("", "folder of the user's data")


@section("", run="chain")
class Chain(Job):
  """`run = "chain"`: stages, each a run of its own, one after the other.

  `roots.read` types the stages, each by its own key `run`.

  Attributes:
    keep_going: whether a stage that fails ends only those that read it. The chain
      is not finished then; pages are made anew after every stage, to show how far it is.
  """

  order: tuple[str, ...] = field((), "names of stages, as they are run")
  stages: Mapping[str, Any] = field({}, "name -> whole config of a job")
  data: ChainData | None = field(None, "what stages share", optional=True)
  keep_going: bool | None = field(None, "go on where a stage fails", optional=True)

  def __post_init__(self):
    order = list(self.order)
    if not order or set(order) - set(self.stages) or len(set(order)) < len(order):
      raise ConfigError(
        f"order names {order}, and stages has {sorted(self.stages)}; name some of these, each once"
      )


def reads(values: Any) -> Iterator[str]:
  """Names of the stages that a stage of a chain reads, some of them more than once.

  `values`: its config, nested mappings.
  """
  if isinstance(values, str):
    yield from STAGE.findall(values)
  elif isinstance(values, Mapping | tuple | list):
    for value in values.values() if isinstance(values, Mapping) else values:
      yield from reads(value)
