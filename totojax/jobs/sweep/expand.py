"""What a sweep consists of: from lists to the configs of single runs."""

from collections.abc import Iterator, Mapping
import dataclasses
import hashlib
import itertools
import json

from totojax.config import schema, studies
from totojax.config.pretrain import Pretrain
from totojax.config.schema import ConfigError


@dataclasses.dataclass(frozen=True)
class Point:
  """One run of a sweep."""

  parametrisation: str  # one of `studies.KINDS`
  model: str  # its name in the sweep, with that of its multipliers where there are some
  total_tokens: float  # of its training
  seed: int  # of parameters and data
  log2_lr: float  # of the peak learning rate
  config: Pretrain  # of `run = "pretrain"`, but for the learning rate
  # A folder whose own path does not count in names, so that it may be moved
  # with all that is in it.
  home: str

  @property
  def run(self) -> str:
    """Same for the points that differ only in their learning rate."""
    digest = fingerprint(self.config, self.home)
    return f"{self.parametrisation}-{self.model}-{self.total_tokens:.4g}-s{self.seed}-{digest}"

  @property
  def name(self) -> str:
    return f"{self.run}-lr{self.log2_lr:g}"


def narrow_first(models: Mapping[str, studies.Sizes]) -> list[tuple[str, studies.Sizes]]:
  """(name, sizes) of the models; a config's sections have no order."""
  return sorted(models.items(), key=lambda item: item[1].get("width", 0))


def points(sweep: studies.Sweep, pretrain: Pretrain, home: str) -> Iterator[Point]:
  """Every combination of the lists.

  Args:
    sweep: the lists.
    pretrain: what they all share.
    home: of the points.

  Raises:
    ConfigError: a list is empty or has something twice, or a model has a key
      that `pretrain.model` has not.
  """
  if not sweep.models:
    raise ConfigError("sweep.models is empty; name at least one")
  for kind, rates in sweep.log2_lr.items():
    if len(set(rates)) < len(rates):
      raise ConfigError(f"sweep.log2_lr.{kind} is {list(rates)}; name none twice")
  variants = sorted(sweep.multipliers.items()) or [("", {})]
  lists = studies.KINDS, narrow_first(sweep.models), variants, sweep.total_tokens, sweep.seeds
  for kind, (model, sizes), (variant, keys), total_tokens, seed in itertools.product(*lists):
    config = changed(pretrain, kind=kind, model=sizes, lr=pretrain.optim.lr, seed=seed)
    config = dataclasses.replace(
      config,
      mup=studies.multiplied(config.mup, keys),
      train=dataclasses.replace(pretrain.train, total_tokens=total_tokens),
    )
    name = f"{model}-{variant}" if variant else model
    for log2_lr in sweep.log2_lr.get(kind, ()):
      yield Point(kind, name, total_tokens, seed, log2_lr, config, home)


def changed(
  pretrain: Pretrain, *, kind: str, model: studies.Sizes, lr: float, seed: int
) -> Pretrain:
  """A pre-training config with what a sweep changes.

  Raises:
    ConfigError: `pretrain.model` has no such key.
  """
  return dataclasses.replace(
    pretrain,
    model=studies.sized(pretrain.model, model),
    mup=dataclasses.replace(pretrain.mup, on=kind != "standard"),
    optim=dataclasses.replace(pretrain.optim, lr=lr, **({"name": kind} if kind == "muon" else {})),
    seed=seed,
  )


def fingerprint(config: Pretrain, home: str) -> str:
  """Eight hexadecimal digits that change with any key but the learning rate.

  Paths below `home` count as they lie in it.
  """
  keys = schema.to_dict(config)
  del keys["optim"]["lr"]
  text = json.dumps(keys, sort_keys=True)
  if home.strip("/."):
    text = text.replace(json.dumps(f"{home}/")[:-1], '"{home}/')
  return hashlib.sha256(text.encode()).hexdigest()[:8]
