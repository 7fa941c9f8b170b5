"""What a sweep consists of: from lists to the configs of single runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import copy
import dataclasses
import hashlib
import json
from typing import Any

from totojax.config.schema import ConfigError

PARAMETRISATIONS = ("mup", "standard")


@dataclasses.dataclass(frozen=True)
class Sweep:
  """The lists; every combination is a run.

  Attributes:
    models: name -> sizes that replace those of `pretrain.model`.
    log2_lr: base-2 logarithms of the peak learning rate, by parametrisation
      ("mup", "standard"); one without any is left out.
    seeds: of parameters and data.
    total_tokens: lengths of training.
    lanes: learning rates in one compiled program; 0: all of a model.
    together: "at_once" (vmap), "in_turn", or "auto": in turn on a CPU.
  """

  models: Mapping[str, Mapping[str, Any]]
  log2_lr: Mapping[str, tuple[float, ...]]
  seeds: tuple[int, ...]
  total_tokens: tuple[float, ...]
  lanes: int
  together: str

  def __post_init__(self):
    check_parametrisations([kind for kind, of in self.log2_lr.items() if of])
    lists = {f"log2_lr.{kind}": of for kind, of in self.log2_lr.items() if of}
    for field in ("models", "seeds", "total_tokens"):
      lists[field] = getattr(self, field)
    for field, values in lists.items():
      if not values or len(set(values)) < len(values):
        raise ValueError(
            f"sweep.{field} is {list(values)}; name at least one, and none"
            " twice"
        )
    if self.lanes < 0:
      raise ValueError(f"sweep.lanes is {self.lanes}; use 0 for all, or more")
    if self.together not in ("auto", "at_once", "in_turn"):
      raise ValueError(
          f"sweep.together is {self.together!r}; use 'auto', 'at_once' or"
          " 'in_turn'"
      )


@dataclasses.dataclass(frozen=True)
class Point:
  """One run of a sweep.

  Attributes:
    parametrisation: "mup" or "standard".
    model: its name in the sweep.
    total_tokens: of its training.
    seed: of parameters and data.
    log2_lr: of the peak learning rate.
    config: of `run = "pretrain"`, but for the learning rate.
    home: a folder whose own path does not count in names, so that it may be
      moved with all that is in it.
  """

  parametrisation: str
  model: str
  total_tokens: float
  seed: int
  log2_lr: float
  config: Mapping[str, Any]
  home: str

  @property
  def run(self) -> str:
    """Same for the points that differ only in their learning rate."""
    return (
        f"{self.parametrisation}-{self.model}-{self.total_tokens:.4g}"
        f"-s{self.seed}-{fingerprint(self.config, self.home)}"
    )

  @property
  def name(self) -> str:
    return f"{self.run}-lr{self.log2_lr:g}"


def narrow_first(
    models: Mapping[str, Mapping[str, Any]],
) -> list[tuple[str, Mapping[str, Any]]]:
  """(name, sizes) of the models; a config's sections have no order."""
  return sorted(models.items(), key=lambda item: item[1].get("width", 0))


def check_parametrisations(names: Sequence[str]) -> None:
  if not names or not set(names) <= set(PARAMETRISATIONS):
    raise ValueError(
        f"parametrisations are {list(names)}; use"
        f" {' or '.join(map(repr, PARAMETRISATIONS))}, or both"
    )


def points(
    sweep: Sweep, pretrain: Mapping[str, Any], home: str
) -> Iterator[Point]:
  """Every combination of the lists.

  Args:
    sweep: the lists.
    pretrain: config of `run = "pretrain"`, what they all share.
    home: of the points.

  Raises:
    ConfigError: a model has a key that `pretrain.model` has not.
  """
  for kind in PARAMETRISATIONS:
    for model, sizes in narrow_first(sweep.models):
      for total_tokens in sweep.total_tokens:
        for seed in sweep.seeds:
          config = changed(
              pretrain, kind=kind, model=sizes, lr=pretrain["optim"]["lr"],
              seed=seed,
          )  # fmt: skip
          config["train"]["total_tokens"] = float(total_tokens)
          for log2_lr in sweep.log2_lr.get(kind, ()):
            yield Point(
                kind, model, float(total_tokens), seed, float(log2_lr), config,
                home,
            )  # fmt: skip


def changed(
    pretrain: Mapping[str, Any],
    *,
    kind: str,
    model: Mapping[str, Any],
    lr: float,
    seed: int,
) -> dict[str, Any]:
  """A copy of a pre-training config with what a sweep changes."""
  config = copy.deepcopy(dict(pretrain))
  extra = sorted(set(model) - set(config["model"]))
  if extra:
    raise ConfigError(
        f"a model of the sweep has the keys {extra}, which pretrain.model has"
        f" not; it has {sorted(config['model'])}"
    )
  config["model"] |= model
  config["mup"]["on"] = kind == "mup"
  config["optim"]["lr"] = lr
  config["seed"] = seed
  return config


def fingerprint(config: Mapping[str, Any], home: str) -> str:
  """Eight hexadecimal digits that change with any key but the learning rate.

  Paths below `home` count as they lie in it.
  """
  without = copy.deepcopy(dict(config))
  del without["optim"]["lr"]
  text = json.dumps(without, sort_keys=True)
  if home.strip("/."):
    text = text.replace(json.dumps(f"{home}/")[:-1], '"{home}/')
  return hashlib.sha256(text.encode()).hexdigest()[:8]
