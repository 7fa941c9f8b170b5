"""PastRun directories of pre-training, by the names that a config gives them."""

from collections.abc import Iterator, Sequence
import dataclasses
from typing import Any

from totojax.config.pretrain import Pretrain
from totojax.config.schema import ConfigError
from totojax.report import reading
from totojax.trained import backbone

_FACTS = ("flops_per_token", "tokens_per_step", "steps", "parameters")


@dataclasses.dataclass(frozen=True)
class PastRun:
  """What a run directory says."""

  name: str  # of the config that reads it
  path: str  # the folder
  manifest: dict[str, Any]  # of the run
  config: Pretrain  # as it was made
  rows: list[dict[str, Any]]  # of metrics.jsonl

  @property
  def recipe(self) -> str:
    """How it was trained, in a word or two: its schedule, and its optimiser if unusual."""
    optim = self.config.optim
    names = {"adamw": optim.schedule, "schedule_free": "schedule-free AdamW"}
    return names.get(optim.name, f"{optim.name}, {optim.schedule}")

  @property
  def begin(self) -> int:
    """Updates that another run made, whose branch it is."""
    return int(self.manifest.get("branch_from", {}).get("step", 0))


def folders(runs: Sequence[str], key: str) -> list[tuple[str, str]]:
  """(name, folder) of each "NAME=FOLDER".

  Raises:
    ConfigError: none, another form, or a name twice; tells the config's key.
  """
  pairs = [run.partition("=") for run in runs]
  for name, equals, folder in pairs:
    if not (name and equals and folder):
      raise ConfigError(f"{key} has {name + equals + folder!r}; write NAME=FOLDER")
  names = [name for name, _, _ in pairs]
  if not names or len(set(names)) < len(names):
    raise ConfigError(
      f"{key} is {tuple(runs)}; name at least one run directory and no name"
      f" twice, as --config.{key}=\"('a1=runs/a1', 'a2=runs/a2')\""
    )
  return [(name, folder) for name, _, folder in pairs]


def read(runs: Sequence[str], key: str) -> list[PastRun]:
  """Reads the run of each "NAME=FOLDER".

  Raises:
    ValueError: as `folders`, or one is missing or no run of pre-training.
  """
  return [_read(name, path, key) for name, path in folders(runs, key)]


def _read(name: str, path: str, key: str) -> PastRun:
  folder = reading.RunFolder(path)
  try:
    manifest, rows = folder.json("manifest.json"), folder.lines("metrics.jsonl")
    config = backbone.read_config(path, "what is read here")
  except (reading.Missing, OSError, ValueError) as error:
    raise ValueError(
      f"{key}: {name} is {path}, which is no run of pre-training: {error}"
    ) from error
  lacking = [fact for fact in _FACTS if fact not in manifest]
  if lacking:
    raise ValueError(
      f"{key}: {name}: {path}/manifest.json has no {lacking[0]}; name a run"
      ' directory of run = "pretrain"'
    )
  return PastRun(name, path, manifest, config, rows)


def check_alike(runs: Sequence[PastRun], key: str, *, compute: bool) -> None:
  """Raises ValueError where losses of two runs cannot be compared.

  They are of other tokens, or of pixels. Where they are compared at a
  `compute`, other sequences or other held-out data have another loss too, and
  what a run started from has cost compute that is not its own.
  """
  first = dict(_facts(runs[0], compute))
  for run in runs[1:]:
    for what, value in _facts(run, compute):
      if value != first[what]:
        raise ValueError(
          f"{key}: {what} of {run.name} is {value}, and of {runs[0].name}"
          f" {first[what]}: their losses cannot be compared; leave one out"
        )
  for run in runs:
    if compute and run.config.init_from:
      raise ValueError(
        f"{key}: {run.name} started from {run.config.init_from}, whose"
        " compute is not counted; leave it out"
      )


def _facts(run: PastRun, compute: bool) -> Iterator[tuple[str, Any]]:
  """What must be the same, in words, and what it is."""
  yield "tokenizer", run.manifest.get("tokenizer")
  yield "what is predicted", run.manifest.get("predicts", "tokens")
  if compute:
    for name in ("vocab", "grid", "frames", "context"):
      yield f"sequence.{name}", getattr(run.config.sequence, name)
    yield "the names of data.validation", sorted(run.config.data.validation)
    yield "validation.rows", run.config.validation.rows
