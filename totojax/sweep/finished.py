"""Run directories of pre-training, by the names that a config gives them."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any

from totojax.analysis import files

_KEYS = ("flops_per_token", "tokens_per_step", "steps", "parameters")


@dataclasses.dataclass(frozen=True)
class Run:
  """What a run directory says.

  Attributes:
    name: of the config that reads it.
    path: the folder.
    manifest: of the run.
    rows: of metrics.jsonl.
  """

  name: str
  path: str
  manifest: dict[str, Any]
  rows: list[dict[str, Any]]


def folders(runs: Sequence[str], key: str) -> list[tuple[str, str]]:
  """(name, folder) of each "NAME=FOLDER".

  Raises:
    ValueError: none, another form, or a name twice; tells the config's key.
  """
  found = [run.partition("=") for run in runs]
  for name, equals, folder in found:
    if not (name and equals and folder):
      raise ValueError(
          f"{key} has {name + equals + folder!r}; write NAME=FOLDER"
      )
  names = [name for name, _, _ in found]
  if not names or len(set(names)) < len(names):
    raise ValueError(
        f"{key} is {tuple(runs)}; name at least one run directory and no name"
        f" twice, as --config.{key}=\"('a1=runs/a1', 'a2=runs/a2')\""
    )
  return [(name, folder) for name, _, folder in found]


def read(name: str, path: str, key: str) -> Run:
  """Reads a run.

  Raises:
    ValueError: it is missing or no run of pre-training.
  """
  folder = files.Folder(path)
  try:
    manifest = folder.json("manifest.json")
    rows = folder.lines("metrics.jsonl")
  except files.Missing as error:
    raise ValueError(
        f"{key}: {name} is {path}, which is no run of pre-training: {error}"
    ) from error
  for fact in _KEYS:
    if fact not in manifest:
      raise ValueError(
          f"{key}: {name}: {path}/manifest.json has no {fact}; name a run"
          ' directory of run = "pretrain"'
      )
  return Run(name, path, manifest, rows)
