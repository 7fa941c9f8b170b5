"""Reads the files of run directories; what is missing is said, never fatal.

Nothing here imports the rest of the project: the formats on disk are all that
a report relies on, so that old runs and runs of other versions can be read.
"""

from __future__ import annotations

from collections.abc import Callable
import csv
import io
import json
from typing import Any

from etils import epath
import numpy as np


class Missing(Exception):
  """A file that a section needs is missing or damaged; says which and how."""


class Folder:
  """A folder of run directories, read by path below it.

  Every method raises `Missing` for a file that is not there or not readable.
  """

  def __init__(self, path: epath.PathLike):
    self.path = epath.Path(path)

  def json(self, name: str) -> dict[str, Any]:
    value = self._parse(name, json.loads)
    if not isinstance(value, dict):
      raise Missing(f"{name} cannot be read: it holds no JSON object")
    return value

  def lines(self, name: str) -> list[dict[str, Any]]:
    """Objects of a .jsonl file; a last line cut in the middle is left out."""
    rows, written = [], self._text(name).splitlines()
    for number, line in enumerate(written, 1):
      try:
        rows.append(json.loads(line))
      except json.JSONDecodeError as error:
        if number == len(written):
          break
        raise Missing(
            f"{name} is damaged in line {number} of {len(written)}: remove or"
            " mend that line"
        ) from error
    if not rows:
      raise Missing(f"{name} is empty")
    return rows

  def table(
      self, name: str, by: str = "source"
  ) -> dict[str, dict[str, np.ndarray]]:
    """Columns of a CSV by its column `by`, the other columns as floats."""

    def parse(text):
      sources = {}
      for row in csv.DictReader(io.StringIO(text)):
        columns = sources.setdefault(row.pop(by), {})
        for key, value in row.items():
          columns.setdefault(key, []).append(float(value))
      return {
          source: {key: np.array(values) for key, values in columns.items()}
          for source, columns in sources.items()
      }

    sources = self._parse(name, parse)
    if not sources:
      raise Missing(f"{name} is empty")
    return sources

  def rows(self, name: str) -> list[list[str]]:
    """Rows of a CSV below its header, as text."""
    return list(csv.reader(io.StringIO(self._text(name))))[1:]

  def records(self, name: str) -> list[dict[str, str]]:
    """Rows of a CSV by its header, as text; at least one."""
    rows = self._parse(
        name, lambda text: list(csv.DictReader(io.StringIO(text)))
    )
    if not rows:
      raise Missing(f"{name} is empty")
    return rows

  def arrays(self, name: str) -> dict[str, np.ndarray]:
    """Arrays of an .npz file."""

    def parse(data):
      with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {key: file[key] for key in file.files}

    return self._parse(name, parse, binary=True)

  def _text(self, name: str) -> str:
    return self._parse(name, lambda text: text)

  def _parse(self, name: str, parse, *, binary: bool = False):
    path = self.path / name
    if not path.exists():
      raise Missing(f"{name} is missing")
    try:
      return parse(path.read_bytes() if binary else path.read_text())
    except Exception as error:  # damaged in any way: one section less
      raise Missing(f"{name} cannot be read: {error}") from error


def optional(read: Callable[[], Any], otherwise: Any) -> Any:
  """What `read` gives, or `otherwise` where its file is missing."""
  try:
    return read()
  except Missing:
    return otherwise
