"""Files of a run directory, a local folder or a URL: always whole.

The only writers and readers of text, JSON, tables and arrays. A local file is
written beside and renamed, an object store gets one put, so that half of one is
never read; what is asked of an object store goes through `storage`.
`metrics.jsonl`, which grows by lines, is `metrics`' own.
"""

from collections.abc import Iterable, Mapping, Sequence
import csv
import hashlib
import io
import json
import os
import pathlib
import shutil
from typing import Any

from etils import epath
import numpy as np

from totojax.rundir import lock
from totojax.storage import objects


class Damaged(ValueError):
  """A file that is there and is not what it should be.

  Attributes:
    reason: what is wrong with it, without its path.
  """

  def __init__(self, path: epath.PathLike, reason: object, advice: str = ""):
    super().__init__(f"{os.fspath(path)} is damaged ({reason}){advice}")
    self.reason = str(reason)


def exists(path: epath.PathLike) -> bool:
  """Whether there is such a file. (Folders of a URL are but parts of names.)"""
  return objects.exists(path) if objects.is_url(path) else epath.Path(path).is_file()


def children(folder: epath.PathLike) -> list[epath.Path]:
  """What is in a folder, by name: as it is now; [] where it does not exist."""
  folder = epath.Path(folder)
  if objects.is_url(folder):
    return [folder / name.rstrip("/") for name in objects.children(folder)]
  return sorted(folder.iterdir()) if folder.is_dir() else []


def make_folder(folder: epath.PathLike) -> None:
  """Makes a folder, and those that it is in; a URL needs none."""
  if not objects.is_url(folder):
    epath.Path(folder).mkdir(parents=True, exist_ok=True)


def local(workdir: epath.PathLike, name: str) -> epath.Path:
  """A folder of a run that is read at random, or appended to: a local one.

  Of a run in a bucket it is in the user's cache on this machine, and on another
  made again.
  """
  if not objects.is_url(workdir):
    return epath.Path(workdir) / name
  cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  run = hashlib.sha256(objects.text(workdir).encode()).hexdigest()[:16]
  return epath.Path(cache) / "totojax" / name / run


def remove_local(workdir: epath.PathLike, name: str) -> None:
  """Clears this machine of what a run in a bucket had here: nobody else would."""
  if objects.is_url(workdir):
    shutil.rmtree(local(workdir, name), ignore_errors=True)


def remove(path: epath.PathLike) -> None:
  """Removes a file, or a folder with all that is in it, if it is there."""
  if objects.is_url(path):
    objects.delete_folder(path)
    objects.delete(path)
    return
  path = epath.Path(path)
  path.rmtree() if path.is_dir() else path.unlink(missing_ok=True)


def read_bytes(path: epath.PathLike) -> bytes:
  """The bytes of a file.

  Raises:
    FileNotFoundError: there is no such file.
  """
  if not objects.is_url(path):
    return epath.Path(path).read_bytes()
  data = objects.read(path)
  if data is None:
    raise FileNotFoundError(f"there is no {os.fspath(path)}")
  return data


def write_bytes(path: epath.PathLike, data: bytes) -> None:
  """Replaces a file in one step; its folder must be there.

  Raises:
    rundir.Lost: another process has taken over what this one is at work in.
  """
  if objects.is_url(path):
    lock.confirm()
    objects.write(path, data)
    return
  path = epath.Path(path)
  beside = path.parent / f".{path.name}.part"
  beside.write_bytes(data)
  beside.replace(path)


def write_text(path: epath.PathLike, text: str) -> None:
  """Replaces a text file, UTF-8, in one step."""
  write_bytes(path, text.encode())


def write_json(path: epath.PathLike, value: Any) -> None:
  """Replaces a JSON file in one step."""
  write_text(path, json.dumps(value, indent=2, sort_keys=False) + "\n")


def read_json(path: epath.PathLike) -> dict[str, Any]:
  """The object of a JSON file.

  Raises:
    FileNotFoundError: there is no such file.
    Damaged: it is no JSON, or holds no object.
  """
  data = read_bytes(path)
  try:
    value = json.loads(data)
  except ValueError as error:
    raise Damaged(path, error) from error
  if not isinstance(value, dict):
    raise Damaged(path, "it holds no JSON object")
  return value


def write_csv(path: epath.PathLike, rows: Iterable[Mapping[str, Any]]) -> None:
  """Replaces a CSV in one step; the keys of the first row are the columns.

  None is an empty cell. There must be a row.
  """
  rows = iter(rows)
  first = next(rows)
  text = io.StringIO()
  writer = csv.DictWriter(text, first.keys(), lineterminator="\n")
  writer.writeheader()
  writer.writerow(first)
  writer.writerows(rows)
  write_text(path, text.getvalue())


def write_table(
  path: epath.PathLike, rows: Iterable[Sequence[Any]], *, header: Sequence[str]
) -> None:
  """Replaces a CSV that may have no row but its header in one step."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerows([header, *rows])
  write_text(path, text.getvalue())


def read_csv(path: epath.PathLike) -> list[dict[str, str]]:
  """Rows of a CSV by its header, as text.

  Raises:
    FileNotFoundError: there is no such file.
    Damaged: as `parse_table` raises.
  """
  header, *rows = parse_table(path, read_bytes(path))
  return [dict(zip(header, row, strict=True)) for row in rows]


def read_table(path: epath.PathLike) -> list[list[str]]:
  """Rows of a CSV below its header, as text; raises as `read_csv` does."""
  return parse_table(path, read_bytes(path))[1:]


def parse_table(path: epath.PathLike, data: bytes) -> list[list[str]]:
  """Rows of a CSV, the header first; each has as many cells.

  Args:
    path: where it is, for errors.
    data: what is in it.

  Raises:
    Damaged: it is no CSV, or has no header, or a row is cut.
  """
  try:
    # newline="": a line that ends within quotes is part of its cell.
    text = io.StringIO(data.decode(), newline="")
    rows = list(csv.reader(text, strict=True))
    if not rows:
      raise ValueError("it has no header")
    for number, row in enumerate(rows):
      if len(row) != len(rows[0]):
        raise ValueError(f"row {number} has {len(row)} cells and the header {len(rows[0])}")
  except (ValueError, csv.Error) as error:
    advice = "; mend it or remove it, then run the same command again"
    raise Damaged(path, error, advice) from error
  return rows


def npz(arrays: Mapping[str, np.ndarray], *, compressed: bool) -> bytes:
  """An .npz file with these arrays."""
  buffer = io.BytesIO()
  save: Any = np.savez_compressed if compressed else np.savez
  save(buffer, **arrays)
  return buffer.getvalue()


def write_npz(
  path: epath.PathLike, arrays: Mapping[str, np.ndarray], *, compressed: bool = False
) -> None:
  """Replaces an .npz file in one step."""
  write_bytes(path, npz(arrays, compressed=compressed))


def read_npz(path: epath.PathLike) -> dict[str, np.ndarray]:
  """The arrays of an .npz file.

  Raises:
    FileNotFoundError: there is no such file.
    Damaged: it is no whole .npz of plain arrays.
  """
  data = read_bytes(path)
  try:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
      return {name: file[name] for name in file.files}
  except Exception as error:  # zip, zlib and numpy each have their own
    raise Damaged(path, error) from error
