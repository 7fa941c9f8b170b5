"""Tar archives in WebDataset's style.

Layout: <root>/[<split>/]**/*.tar. Members whose names are the same up to the
first dot of the last part are one sample:
  000012.jpg  000012.cls            an image and its class as text
  000013.mp4  000013.json           a video and {"label": 3, ...}
The image or video is found by its ending; other members are left alone. The id
is the tar's path below the root without ending, and the sample's name:
train-0004/000012.

Nothing is unpacked: items are places in the archives, read from the headers. A
tar that ends early gives its whole members, and a row in `missing`.
"""

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import functools
import io
import os
import tarfile

from totojax.data.sources import files, items
from totojax.storage import objects, outside, reading

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
LABELS = (".cls", ".json")
MOST_LABEL_BYTES = 2**20
_MEMBERS = 10_000_000  # of an archive
# tarfile's own, and what it makes of headers that are none.
_DAMAGE = (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, IndexError, KeyError)


@dataclasses.dataclass
class _Sample:
  """Members of one name, by ending: all, and what is in those of `LABELS`."""

  members: dict[str, tarfile.TarInfo] = dataclasses.field(default_factory=dict)
  labels: dict[str, bytes] = dataclasses.field(default_factory=dict)
  twice: str = ""  # an ending that came again


def list_items(
  root: objects.Path, split: str, *, kind: str, classes: int, label_key: str
) -> items.Listing:
  """All samples of a kind in the tars below a folder.

  Args:
    root: what ids are relative to; may be a single tar.
    split: folder below it; "" for all of it.
    kind: "video" or "image".
    classes: how many there are; 0 takes any label from 0 on.
    label_key: key of the class in .json members.

  Raises:
    ValueError: no sample of the kind, a compressed tar, or a label that is not
      an integer or out of range.
  """
  root = os.fspath(root)
  top = os.path.join(root, split) if split else root
  base = os.path.dirname(root) if _is_file(root) else root
  rows = []
  paths = [top] if _is_file(top) else _tars(top)
  for path, entries in zip(paths, each_samples(paths, kind, label_key=label_key, classes=classes)):
    shard = os.path.splitext(files.below(base, path))[0]
    for row in entries:
      rows.append(dataclasses.replace(row, id=f"{shard}/{row.id}" if row.id else shard))
  return items.listing(kind, rows, classes=[str(i) for i in range(classes)], where=top)


def each_samples(
  paths: Sequence[str], kind: str, *, label_key: str, classes: int
) -> Iterable[Iterable[items.Entry]]:
  """`samples` of each tar; several at once of those in a bucket."""
  read = functools.partial(samples, kind=kind, label_key=label_key, classes=classes)
  if any(map(objects.is_url, paths)):
    return reading.each(lambda path: list(read(path)), paths)
  return map(read, paths)


def samples(path: str, kind: str, *, label_key: str, classes: int) -> Iterator[items.Entry]:
  """The samples of one tar, named as in it; `Skipped` for what has no media.

  A tar that ends early gives a `Skipped` without a name at the end.

  Raises:
    ValueError: a label that is not an integer or out of range.
  """
  groups: dict[str, _Sample] = {}
  damage = None
  try:
    with reading.open_file(path) as file, tarfile.open(path, "r:", fileobj=file) as archive:
      damage = _read_headers(archive, groups, file)
  except outside.Damaged as error:
    raise ValueError(f"{path}: {error}") from error
  except _DAMAGE as error:  # what was read before it counts
    damage = f"{type(error).__name__}: {error}"
  endings = files.suffixes(kind)
  for key, sample in groups.items():
    name, members = items.name(key), sample.members
    media = [end for end in members if end in endings]
    if sample.twice:
      yield items.Skipped(name, f"there are two members {key}{sample.twice}; which is meant?")
      continue
    if len(media) != 1:
      yield items.Skipped(
        name,
        f"{len(media)} members are a {kind}, not one; there are"
        f" {' '.join(sorted(members)) or 'none'}",
      )
      continue
    member = members[media[0]]
    label = _label(path, key, sample.labels, key_name=label_key, classes=classes)
    yield items.Item(name, path, label=label, part=(member.offset_data, member.size))
  if damage is not None:
    yield items.Skipped("", f"{path} is no whole tar: {damage}")


def _tars(top: str) -> list[str]:
  packed = list(files.walk(top, {os.path.splitext(c)[1] for c in COMPRESSED}))
  packed = [path for path in packed if path.lower().endswith(COMPRESSED)]
  if packed:
    raise ValueError(
      f"{packed[0]} is compressed, so that its parts cannot be read one by"
      " one; unpack it to a plain .tar (videos and images do not shrink)"
    )
  return list(files.walk(top, {".tar"}))


def _read_headers(
  archive: tarfile.TarFile, groups: dict[str, _Sample], file: io.BufferedReader | reading.ObjectFile
) -> str | None:
  """Fills `groups`; returns what is wrong with the end of the archive."""
  size = file.seek(0, io.SEEK_END)
  for count, member in enumerate(archive):
    if count == _MEMBERS:
      raise outside.Damaged(member.name, f"it is beyond {_MEMBERS:,} members")
    # A million headers are not needed twice; the stub has no `members`.
    archive.members = []  # pyright: ignore[reportAttributeAccessIssue]
    if not member.isreg() or member.sparse is not None:
      continue
    if member.size < 0 or member.offset_data + member.size > size:
      return f"{member.name} is cut off"
    folder, _, base = member.name.rpartition("/")
    # "./a.png" is how `tar -c .` names its members.
    if any(files.is_hidden(part) for part in member.name.split("/") if part not in (".", "..")):
      continue
    stem, dot, ending = base.partition(".")
    key = f"{folder}/{stem}" if folder else stem
    sample, ending = groups.setdefault(key, _Sample()), (dot + ending).lower()
    if ending in sample.members:
      sample.twice = ending
      continue
    sample.members[ending] = member
    if ending in LABELS:  # now, since a bucket is read from front to back
      file.seek(member.offset_data)
      if member.size > MOST_LABEL_BYTES:
        raise outside.Damaged(member.name, f"a label of {member.size:,} bytes")
      sample.labels[ending] = file.read(member.size)
  file.seek(archive.offset)
  if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
    # Python ends an archive at any header that it cannot read.
    return f"no end mark after byte {archive.offset} of {size}"
  return None


def _label(path: str, key: str, labels: dict[str, bytes], *, key_name: str, classes: int) -> int:
  """The class that a sample's .cls or .json member gives; -1 without."""
  where = f"{path}, member {key}"
  if ".cls" in labels:
    text = labels[".cls"].decode("utf-8", "replace").strip()
    return files.label(text, classes, where=f"{where}.cls")
  if ".json" in labels and key_name:
    where += ".json"
    values = outside.parse(where, labels[".json"])
    if not isinstance(values, dict):
      raise outside.Damaged(where, "it holds no JSON object")
    if key_name in values:
      return files.label(values[key_name], classes, where=where)
  return -1


def _is_file(path: str) -> bool:
  return objects.exists(path) if objects.is_url(path) else os.path.isfile(path)
