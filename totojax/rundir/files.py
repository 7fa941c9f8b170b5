"""Files of a run directory, a local folder or a URL: always whole.

The only writers and readers of text, JSON, tables and arrays. A local file is
written beside and renamed, an object store gets one put, so that half of one is
never read; what is asked of an object store goes through `storage`.
`metrics.jsonl`, which grows by lines, is `metrics`' own.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import csv
import hashlib
import io
import json
import os
from typing import Any

from etils import epath
import numpy as np

from totojax.rundir import lock
from totojax.storage import objects, outside
from totojax.storage.outside import Damaged as Damaged

_SEAL = "sha256"


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
    return outside.load(path)
  data = objects.read(path)
  if data is None:
    raise FileNotFoundError(f"there is no {os.fspath(path)}")
  return data


def write_bytes(path: epath.PathLike, data: bytes) -> None:
  """Replaces a file in one step; its folder must be there.

  Raises:
    rundir.Lost: another process has taken over what this one is at work in.
    OSError: names the file.
  """
  if objects.is_url(path):
    lock.confirm()
    objects.write(path, data)
    return
  lock.check(path)
  path = epath.Path(path)
  beside = path.parent / f".{path.name}.part"
  with naming(path):
    beside.write_bytes(data)
    beside.replace(path)


@contextlib.contextmanager
def naming(path: epath.PathLike) -> Iterator[None]:
  """An OSError in the block names `path`, where it names no file."""
  try:
    yield
  except OSError as error:
    error.filename = error.filename or os.fspath(path)
    raise


def write_text(path: epath.PathLike, text: str) -> None:
  """Replaces a text file, UTF-8, in one step."""
  write_bytes(path, text.encode())


def write_json(path: epath.PathLike, value: Any, *, sealed: bool = False) -> None:
  """Replaces a JSON file in one step.

  Args:
    path: of the file.
    value: what it holds.
    sealed: whether a last key says the digest of all others, by which
      `read_json` knows a change that leaves it valid.
  """
  if sealed:
    value = {**value, _SEAL: _seal(value)}
  write_text(path, json.dumps(value, indent=2, sort_keys=False) + "\n")


def _seal(value: Any) -> str:
  as_read = json.loads(json.dumps(value))
  return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


def read_json(path: epath.PathLike) -> dict[str, Any]:
  """The object of a JSON file.

  Raises:
    FileNotFoundError: there is no such file.
    Damaged: it is no JSON, holds no object, or another one than was sealed.
  """
  value = outside.parse(path, read_bytes(path), finite=False)
  if not isinstance(value, dict):
    raise Damaged(path, "it holds no JSON object")
  seal = value.pop(_SEAL, None)
  if seal is not None and seal != _seal(value):
    raise Damaged(
      path,
      "it was changed after it was written",
      f"; restore it, or take out its last key, {_SEAL!r}, to have it believed",
    )
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
  write_text(path, csv_text([header, *rows]))


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
  """Rows as a CSV, the first of them the head; None is an empty cell."""
  text = io.StringIO()
  csv.writer(text, lineterminator="\n").writerows(rows)
  return text.getvalue()


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
    if b"\0" in data:
      raise ValueError("it has bytes that are zero")
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
  from totojax.storage import arrays  # few runs read any

  return arrays.load(path, read_bytes(path))
