"""Files of a source: folders at any depth, and text that lists them.

They are on disk or in a bucket (gs://, s3://), where folders are names alone.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
import csv
import json
import os
from typing import Any

from totojax.data.pixels import images, video
from totojax.data.sources import items
from totojax.data.store import columns
from totojax.storage import objects, reading

SUFFIXES = {"image": images.SUFFIXES, "video": video.SUFFIXES}


def suffixes(kind: str) -> frozenset[str]:
  """The endings of a kind's files.

  Raises:
    ValueError: the kind is neither "image" nor "video".
  """
  if kind not in SUFFIXES:
    raise ValueError(f"kind is {kind!r}; use 'image' or 'video'")
  return SUFFIXES[kind]


def suffix(path: str) -> str:
  return os.path.splitext(path)[1].lower()


def stem(path: str) -> str:
  return os.path.splitext(os.path.basename(path))[0]


def walk(root: str, endings: Collection[str]) -> Iterator[str]:
  """Paths below `root` with one of the endings, folder by folder in order.

  Links are followed, except into a folder that holds them. A link to nothing is
  given too, so that its absence is told when it is read.

  Raises:
    ValueError: no such folder, or one that may not be read: nothing is left out
      without a word.
  """
  if objects.is_url(root):
    yield from _objects(root, endings)
    return
  if not os.path.isdir(root):
    raise ValueError(f"{root} is not a folder; give the folder of the files")
  yield from _walk(root, endings, frozenset([_identity(root)]))


def _walk(
  folder: str, endings: Collection[str], above: frozenset[tuple[int, int]]
) -> Iterator[str]:
  for entry in entries(folder):
    if entry.is_dir():
      here = _identity(entry.path)
      if here not in above:
        yield from _walk(entry.path, endings, above | {here})
    elif suffix(entry.name) in endings:
      if entry.is_file() or not os.path.exists(entry.path):
        yield entry.path


def _objects(root: str, endings: Collection[str]) -> Iterator[str]:
  names = objects.keys(root)
  if not names:
    raise ValueError(f"{root} is not a folder with something in it; give the folder of the files")
  # A folder is what its names begin with; "a/" is an object that consoles make.
  parts = sorted(name.split("/") for name in names)
  for below_root in parts:
    if suffix(below_root[-1]) in endings and not any(p.startswith(".") for p in below_root):
      yield f"{objects.text(root)}/{'/'.join(below_root)}"


def entries(folder: str) -> list[os.DirEntry[str]]:
  """What is in a folder, by name, without hidden names.

  Raises:
    ValueError: the folder cannot be read.
  """
  try:
    with os.scandir(folder) as scan:
      ordered = sorted(scan, key=lambda entry: entry.name)
  except OSError as error:
    raise ValueError(
      f"the folder {folder} cannot be read ({error.strerror}); give the"
      " process permission to list it, or move it out of the source"
    ) from error
  return [entry for entry in ordered if not entry.name.startswith(".")]


def _identity(folder: str) -> tuple[int, int]:
  status = os.stat(folder)
  return status.st_dev, status.st_ino


def folders(folder: str) -> list[str]:
  """Names of the folders in a folder, sorted."""
  if objects.is_url(folder):
    return [name[:-1] for name in _children(folder) if name.endswith("/")]
  return [entry.name for entry in entries(folder) if entry.is_dir()]


def names(folder: str) -> list[str]:
  """Names of the files and folders in a folder, sorted, without hidden ones."""
  if objects.is_url(folder):
    return [name.rstrip("/") for name in _children(folder)]
  return [entry.name for entry in entries(folder)]


def _children(folder: str) -> list[str]:
  return [name for name in objects.children(folder) if not name.startswith(".")]


def below(root: str, path: str) -> str:
  """The id of a file: its path below the root."""
  return items.name(os.path.relpath(path, root))


def by_stem(root: str, kind: str) -> dict[str, str]:
  """Path of each file of a kind by its name without ending; the first counts.

  Two files of one name are the same video in two formats, as downloaders leave
  them.
  """
  paths: dict[str, str] = {}
  for path in walk(root, suffixes(kind)):
    paths.setdefault(stem(path), path)
  return paths


def existing(listed: Sequence[items.Item]) -> list[items.Entry]:
  """The items of files that a list names; `Skipped` where there is no file."""
  paths = [item.path for item in listed]
  remote = any(map(objects.is_url, paths))
  presence = reading.each(reading.exists, paths) if remote else map(os.path.exists, paths)
  return [
    item if present else items.Skipped(item.id, f"{item.path} does not exist")
    for item, present in zip(listed, presence)
  ]


def first_of(candidates: Sequence[str], *, what: str) -> str:
  """The first path that exists.

  Raises:
    ValueError: none does; `what` says what was looked for.
  """
  for path in candidates:
    if reading.exists(path):
      return path
  raise ValueError(f"no {what}; looked for {', '.join(candidates)}")


def lines(path: str) -> list[tuple[int, str]]:
  """(number, text) of each line that is not blank.

  Raises:
    ValueError: the file cannot be read, or is no UTF-8.
  """
  try:
    with reading.open_text(path, "utf-8-sig", errors="surrogateescape") as file:
      numbered = [(i, line.rstrip("\r\n")) for i, line in enumerate(file, 1)]
  except OSError as error:
    raise ValueError(f"{path} cannot be read: {error}") from error
  return [(i, line) for i, line in numbered if line.strip()]


def table(path: str, needed: Sequence[str]) -> list[Mapping[str, str]]:
  """Rows of a CSV file with a header; `line` is the number of each.

  Raises:
    ValueError: the file cannot be read, or lacks a column.
  """
  try:
    with reading.open_text(path, "utf-8-sig", newline="") as file:
      reader = csv.DictReader(file, skipinitialspace=True)
      names = [name.strip() for name in reader.fieldnames or ()]
      absent = [name for name in needed if name not in names]
      if absent:
        raise ValueError(f"{path} has columns {names}; {absent} are missing")
      reader.fieldnames = names
      rows: list[Mapping[str, str]] = [{**row, "line": str(reader.line_num)} for row in reader]
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise ValueError(f"{path} cannot be read: {error}") from error
  for row in rows:
    if any(row[name] is None for name in needed):
      raise ValueError(f"{path}, line {row['line']}: has fewer columns than the header {names}")
  return rows


def read_json(path: str) -> Any:
  """Raises ValueError, with the path, for what cannot be read."""
  try:
    return json.loads(reading.load(path))
  except (OSError, ValueError) as error:
    raise ValueError(f"{path} cannot be read: {error}") from error


def label(text: Any, classes: int, *, where: str) -> int:
  """A class number out of an annotation.

  Args:
    text: what stands there.
    classes: how many there are; 0 where that is not known.
    where: file and line, for the message.

  Raises:
    ValueError: not an integer, or out of range.
  """
  try:
    value = int(text)
    if value != text and isinstance(text, float):
      raise ValueError
  except (TypeError, ValueError):
    raise ValueError(
      f"{where}: label {text!r} is not an integer from 0 on, or -1 for none;"
      " a list has no line of headings"
    ) from None
  classes = classes or columns.MOST_CLASSES
  if not -1 <= value < classes:
    raise ValueError(
      f"{where}: label {value} is out of range; labels run from 0 to {classes - 1}, and -1 for none"
    )
  return value


def seconds(text: str, *, where: str) -> float | None:
  """A time out of an annotation; None where there is none.

  Raises:
    ValueError: not a number of seconds.
  """
  if not text.strip():
    return None
  try:
    value = float(text)
  except ValueError:
    value = -1.0
  if not 0.0 <= value < 1e9:
    raise ValueError(f"{where}: {text!r} is no time in seconds")
  return value


def check_classes(count: int, wanted: int, *, where: str) -> None:
  """Raises ValueError unless there are as many classes as wanted (0: any)."""
  if wanted and count != wanted:
    raise ValueError(f"{where} has {count} classes; {wanted} are wanted (0 takes any number)")
