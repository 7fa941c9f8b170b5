"""Diving-48, version 2: 48 kinds of dives.

Layout, annotations in <root> or <root>/annotations
  Diving48_V2_train.json   a list of {"vid_name", "label", "start_frame", "end_frame"}
  Diving48_V2_test.json    the same; there is no validation set
  Diving48_vocab.json      [["Back", "15som", "05Twis", "FREE"], ...]: class i is row i
  rgb/<vid_name>.mp4       or videos/, or <root> itself

The first version's files have other labels and are not read. A file is one dive:
where a span does not begin at frame 0, it is a part of its file, which is refused,
since frames are not times.
"""

import dataclasses
import os

from totojax.data.sources import files, items
from totojax.storage import objects, outside


@dataclasses.dataclass(frozen=True)
class _Dive:
  """What is read of an entry of the lists; the span is half-open."""

  vid_name: str
  label: int
  start_frame: int = 0
  end_frame: int = 0


def list_items(root: objects.Path, split: str, *, classes: int) -> items.Listing:
  """All dives of a split that are on disk; the others are `missing`.

  Args:
    root: folder of annotations and videos.
    split: "train" or "test" (or "val", which it is evaluated on).
    classes: how many there must be: 48; 0 takes any number.

  Raises:
    ValueError: no annotations or videos, another number of classes, or an entry
      that is none.
  """
  root = os.fspath(root)
  split = "test" if split in ("val", "validation") else split
  names = _names(_annotation(root, "Diving48_vocab.json"))
  files.check_classes(len(names), classes, where="Diving48_vocab.json")
  path = _annotation(root, f"Diving48_V2_{split}.json")
  listed = files.read_json(path)
  if not isinstance(listed, list):
    raise ValueError(f"{path} holds no list of dives")
  top = files.first_of(
    [os.path.join(root, "rgb"), os.path.join(root, "videos"), root], what="folder of videos"
  )
  disk = files.by_stem(top, "video")
  rows = []
  for number, entry in enumerate(listed, 1):
    where = f"{path}, entry {number}"
    dive = outside.fields(_Dive, where, entry)
    label = files.label(dive.label, len(names), where=where)
    if dive.start_frame < 0 or (dive.end_frame or dive.start_frame + 1) <= dive.start_frame:
      raise ValueError(f"{where}: frames {dive.start_frame} to {dive.end_frame} are no span")
    item = items.name(dive.vid_name)
    if dive.start_frame:
      rows.append(items.Skipped(item, f"it begins at frame {dive.start_frame} of its file"))
    elif dive.vid_name in disk:
      rows.append(items.Item(item, disk[dive.vid_name], label=label))
    else:
      rows.append(items.Skipped(item, f"no {dive.vid_name}.mp4 below {top}"))
  rows = files.once(rows, lambda item: item, path)
  return items.listing("video", rows, classes=names, where=top)


def _names(path: str) -> list[str]:
  """Names of the classes, in order."""
  rows = files.read_json(path)
  if not isinstance(rows, list) or not rows:
    raise ValueError(f"{path} holds no list of classes")
  for number, row in enumerate(rows):
    if not (isinstance(row, list) and len(row) == 4 and all(isinstance(x, str) for x in row)):
      raise ValueError(f"{path}, entry {number}: {row!r:.200} is no class; four words are needed")
  names = [" ".join(row) for row in rows]
  if len({*names}) < len(names):
    raise ValueError(f"{path} has a class twice")
  return names


def _annotation(root: str, name: str) -> str:
  return files.first_of(
    [os.path.join(root, folder, name) for folder in ("", "annotations")],
    what=f"annotations of Diving-48 ({name})",
  )
