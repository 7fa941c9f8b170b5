"""Files of a source: folders at any depth, and text that lists them.

They are on disk or in a bucket (gs://, s3://), where folders are names alone.
"""

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
import csv
import os
import re
from typing import Any, TypeVar

from totojax.data.pixels import images, video
from totojax.data.sources import items
from totojax.data.store import columns
from totojax.rundir import console
from totojax.storage import objects, outside, reading

T = TypeVar("T")
_WHOLE = re.compile(r"\s*[+-]?[0-9]+\s*")

SUFFIXES = {"image": images.SUFFIXES, "video": video.SUFFIXES}
# Folders that Macs, NAS and Windows leave in others' data, full of copies.
_FOREIGN = frozenset(
  "__MACOSX @eaDir #recycle #snapshot @Recycle @Recently-Snapshot _gsdata_ $RECYCLE.BIN"
  " lost+found".split()
) | {"System Volume Information"}
# What downloaders leave of a video that was not finished: "a.temp.mp4", and
# "a.f137.mp4" or "a.fhls-1080p.mp4", a stream that was to be merged with its sound.
_LEFTOVER = re.compile(r"\.(temp|part|f\d{1,4}(-[\w-]+)?|f(hls|dash)-[\w=-]+)\.\w+$", re.IGNORECASE)


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
  """The name of a file without its ending, or endings: "a" of "a.mp4.webm"."""
  name, ending = os.path.splitext(os.path.basename(path))
  while suffix(name) in video.SUFFIXES and ending.lower() in video.SUFFIXES:
    name, ending = os.path.splitext(name)
  return name


def walk(root: str, endings: Collection[str]) -> Iterator[str]:
  """Paths below `root` with one of the endings, folder by folder in order.

  Links are followed, except into a folder that holds them. A link to nothing is
  given too, so that its absence is told when it is read. What downloaders left
  is not given, and told.

  Raises:
    ValueError: no such folder, or one that may not be read: nothing is left out
      without a word.
  """
  if objects.is_url(root):
    paths = _objects(root, endings)
  elif os.path.isdir(root):
    paths = _walk(root, endings, frozenset([_identity(root)]))
  else:
    raise ValueError(f"{root} is not a folder; give the folder of the files")
  left = []
  for path in paths:
    if _LEFTOVER.search(path):
      left.append(path)
    else:
      yield path
  if left:
    console.say(
      f"{root}: {len(left)} files are what a downloader left of unfinished videos, as {left[0]};"
      " they are left out"
    )


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
    if suffix(below_root[-1]) in endings and not any(map(is_hidden, below_root)):
      yield f"{objects.text(root)}/{'/'.join(below_root)}"


def entries(folder: str) -> list[os.DirEntry[str]]:
  """What is in a folder, by name, without hidden and foreign names.

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
  return [entry for entry in ordered if not is_hidden(entry.name)]


def is_hidden(name: str) -> bool:
  """Whether a file or folder of this name is none of the source's."""
  return name.startswith(".") or name in _FOREIGN


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
  return [name for name in objects.children(folder) if not is_hidden(name.rstrip("/"))]


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

  Cells are stripped, and a row that is there twice is given once, and told.

  Raises:
    ValueError: the file cannot be read, or lacks a column.
  """
  try:
    with reading.open_text(path, "utf-8-sig", newline="") as file:
      reader = csv.DictReader(file, skipinitialspace=True)
      names = [name.strip() for name in reader.fieldnames or ()]
      if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path} has the columns {twice!s:.200} twice; name each once")
      absent = [name for name in needed if name not in names]
      if absent:
        raise ValueError(f"{path} has columns {names!s:.400}; {absent} are missing")
      reader.fieldnames = names
      rows = [{**_stripped(row), "line": str(reader.line_num)} for row in reader]
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise ValueError(f"{path} cannot be read: {error}") from error
  for row in rows:
    if any(row[name] is None for name in needed) or None in row:
      few = "more" if None in row else "fewer"
      raise ValueError(
        f"{path}, line {row['line']}: has {few} columns than the header {names!s:.400}"
      )
  return once(rows, lambda row: tuple(row[name] for name in names), path)


def _stripped(row: Mapping[str, Any]) -> dict[str, Any]:
  return {name: cell.strip() if isinstance(cell, str) else cell for name, cell in row.items()}


def once(rows: Sequence[T], key: Callable[[T], Hashable], path: str) -> list[T]:
  """The rows of a list, each once; how many are there again is told.

  Args:
    rows: in order.
    key: rows with the same one say the same.
    path: of the list.
  """
  kept = {key(row): row for row in reversed(rows)}
  if len(kept) < len(rows):
    console.say(f"{path}: {len(rows) - len(kept)} rows say what another one does; each counts once")
  return list(reversed(kept.values()))


def read_json(path: str) -> Any:
  """Raises ValueError, with the path, for what cannot be read."""
  try:
    return outside.parse(path, reading.load(path))
  except OSError as error:
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
  is_text = isinstance(text, str) and _WHOLE.fullmatch(text)
  try:
    value = int(text) if is_text or type(text) in (int, float) else None
  except (ValueError, OverflowError):  # of a float that is none, or very many digits
    value = None
  if value is None or (isinstance(text, float) and value != text):
    raise ValueError(
      f"{where}: label {text!r:.80} is not an integer from 0 on, or -1 for none;"
      " a list has no line of headings"
    )
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
    value = float(text.replace("_", "x"))  # which Python takes for nothing
  except ValueError:
    value = -1.0
  if not 0.0 <= value < 1e9:
    raise ValueError(f"{where}: {text!r:.80} is no time in seconds")
  return value


def check_classes(count: int, wanted: int, *, where: str) -> None:
  """Raises ValueError unless there are as many classes as wanted (0: any)."""
  if wanted and count != wanted:
    raise ValueError(f"{where} has {count} classes; {wanted} are wanted (0 takes any number)")
