"""Run directories of pre-training, by the names that a config gives them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
from typing import Any

from totojax.config.schema import ConfigError
from totojax.report import reading

_KEYS = ("flops_per_token", "tokens_per_step", "steps", "parameters")


@dataclasses.dataclass(frozen=True)
class Run:
  """What a run directory says.

  Attributes:
    name: of the config that reads it.
    path: the folder.
    manifest: of the run.
    init_from: the run that it started from, or "".
    sequences: what its losses are of, by the names of the config's keys.
    rows: of metrics.jsonl.
  """

  name: str
  path: str
  manifest: dict[str, Any]
  init_from: str
  sequences: dict[str, Any]
  rows: list[dict[str, Any]]


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


def read(runs: Sequence[str], key: str) -> list[Run]:
  """Reads the run of each "NAME=FOLDER".

  Raises:
    ValueError: as `folders`, or one is missing or no run of pre-training.
  """
  return [_read(name, path, key) for name, path in folders(runs, key)]


def _read(name: str, path: str, key: str) -> Run:
  """Reads a run.

  Raises:
    ValueError: it is missing or no run of pre-training.
  """
  folder = reading.RunFolder(path)
  try:
    manifest = folder.json("manifest.json")
    written = folder.json("config.json")
    rows = folder.lines("metrics.jsonl")
  except reading.Missing as error:
    raise ValueError(
      f"{key}: {name} is {path}, which is no run of pre-training: {error}"
    ) from error
  for fact in _KEYS:
    if fact not in manifest:
      raise ValueError(
        f"{key}: {name}: {path}/manifest.json has no {fact}; name a run"
        ' directory of run = "pretrain"'
      )
  return Run(
    name=name,
    path=path,
    manifest=manifest,
    init_from=written.get("init_from", ""),
    sequences=_sequences(written),
    rows=rows,
  )


def check_loss(runs: Sequence[Run], key: str) -> None:
  """Raises ValueError where losses are of other tokens, or of pixels."""
  _check_alike(runs, key, _codes)


def check_comparable(runs: Sequence[Run], key: str) -> None:
  """Raises ValueError where a loss at a compute means another thing.

  Other sequences or other held-out data have another loss, and what a run
  started from has cost compute that is not its own.
  """
  _check_alike(runs, key, _codes)
  _check_alike(runs, key, lambda run: run.sequences.items())
  for run in runs:
    if run.init_from:
      raise ValueError(
        f"{key}: {run.name} started from {run.init_from}, whose"
        " compute is not counted; leave it out"
      )


def _codes(run: Run) -> Iterator[tuple[str, Any]]:
  yield "tokenizer", run.manifest.get("tokenizer")
  yield "what is predicted", run.manifest.get("predicts", "tokens")


def _sequences(written: dict[str, Any]) -> dict[str, Any]:
  """Of a config.json, which any version may have written."""
  keys, spec = ("vocab", "grid", "frames", "context"), written["sequence"]
  return {
    **{f"sequence.{key}": spec[key] for key in keys},
    "the names of data.validation": sorted(written["data"]["validation"]),
    "validation.rows": written["validation"]["rows"],
  }


def _check_alike(runs: Sequence[Run], key: str, facts: Any) -> None:
  first = dict(facts(runs[0]))
  for run in runs[1:]:
    for what, value in facts(run):
      if value != first[what]:
        raise ValueError(
          f"{key}: {what} of {run.name} is {value}, and of {runs[0].name}"
          f" {first[what]}: their losses cannot be compared; leave one out"
        )
