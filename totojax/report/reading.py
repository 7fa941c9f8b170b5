"""Reads the files of run directories; what is missing is said, never fatal.

A report imports nothing of the project but the readers of a run directory's
files: the formats on disk are all that it relies on, so that old runs and runs
of other versions can be read.
"""

from collections.abc import Callable
import math
from typing import Any

from etils import epath
import numpy as np

from totojax.rundir import files, metrics


class Missing(Exception):
  """A file that a section needs is missing or damaged; says which and how."""


class Absent(Missing):
  """A file that is not there; `name` is its path below the folder."""

  def __init__(self, name: str):
    super().__init__(f"{name} is missing")
    self.name = name


class RunFolder:
  """A folder of run directories, read by path below it.

  Every method raises `Missing` for a file that is not there or not readable.
  """

  def __init__(self, path: epath.PathLike):
    self.path = epath.Path(path)

  def json(self, name: str) -> dict[str, Any]:
    return self._read(name, files.read_json)

  def lines(self, name: str) -> list[dict[str, Any]]:
    """Rows of a metrics.jsonl; a last line cut in the middle is left out."""
    return self._some(name, metrics.read)

  def table(self, name: str, by: str = "source") -> dict[str, dict[str, np.ndarray]]:
    """Columns of a CSV by its column `by`, the others as floats.

    Empty cells are NaN, and so is a column of words, which begin with a letter; a
    word among numbers is damage.
    """

    def read(path):
      rows = files.read_csv(path)
      named = np.array([row.pop(by) for row in rows], object)
      columns = {key: _floats(key, [row[key] for row in rows]) for key in (rows or [{}])[0]}
      return {
        group: {key: values[named == group] for key, values in columns.items()}
        for group in dict.fromkeys(named.tolist())
      }

    return self._some(name, read)

  def rows(self, name: str) -> list[list[str]]:
    """Rows of a CSV below its header, as text."""
    return self._read(name, files.read_table)

  def records(self, name: str) -> list[dict[str, str]]:
    """Rows of a CSV by its header, as text; at least one."""
    return self._some(name, files.read_csv)

  def arrays(self, name: str) -> dict[str, np.ndarray]:
    """Arrays of an .npz file."""
    return self._read(name, files.read_npz)

  def bytes(self, name: str) -> bytes:
    """All of a file."""
    return self._read(name, files.read_bytes)

  def _some(self, name: str, read: Callable[[epath.Path], Any]) -> Any:
    value = self._read(name, read)
    if not value:
      raise Missing(f"{name} is empty")
    return value

  def _read(self, name: str, read: Callable[[epath.Path], Any]) -> Any:
    path = self.path / name
    if not path.exists():
      raise Absent(name)
    try:
      return read(path)
    except metrics.DamagedLine as error:
      raise Missing(
        f"{name} is damaged in line {error.line} of {error.lines}: remove or mend that line"
      ) from error
    except files.Damaged as error:
      raise Missing(f"{name} cannot be read: {error.reason}") from error
    except Exception as error:  # damaged in any way: one section less
      raise Missing(f"{name} cannot be read: {error}") from error


def _floats(column: str, cells: list[str]) -> np.ndarray:
  values, words = [], []
  for cell in cells:
    try:
      values.append(float(cell or "nan"))
    except ValueError:
      values.append(math.nan)
      words.append(cell)
  are_words = all(word[0].isalpha() for word in words)
  if words and (len(words) < sum(map(bool, cells)) or not are_words):
    raise ValueError(f"{words[0][:40]!r} stands among the numbers of column {column!r}")
  return np.array(values)


def optional(otherwise: Any, read: Callable[..., Any], *arguments: Any) -> Any:
  """What `read` gives, or `otherwise` where its file is missing."""
  try:
    return read(*arguments)
  except Missing:
    return otherwise
