"""Kinetics-400, -600 and -700.

Layouts, below <root>/<split> or, where there is no such folder, <root>
  <class>/<youtube id>_000010_000020.mp4   class with spaces or underscores
  <youtube id>_000010_000020.mp4           flat, as CVDF's archives unpack
  the same without times                   see `plain_names`
with the official CSV: label,youtube_id,time_start,time_end,split. Without one,
the folders are the classes. "val", "validate" and "validation" are one split.

Ids are YouTube's, so that the sets can be compared with each other.
"""

from collections.abc import Iterable
import os
import re

from totojax.data.sources import files, items
from totojax.storage import objects, reading

NAMES = {"val": ("val", "validate", "validation")}
TIMED = re.compile(r"(?P<id>.+)_(?P<start>\d{6})_(?P<end>\d{6})")
PLAIN_NAMES = ("whole", "trimmed")


def list_items(
  root: objects.Path, split: str, *, annotations: str, classes: int, plain_names: str
) -> items.Listing:
  """All videos of a split that are on disk; the others are `missing`.

  Args:
    root: folder of the videos.
    split: "train", "val" or "test".
    annotations: the official CSV, in which "{split}" stands for the split; ""
      takes what is there, by class folder.
    classes: how many there must be: 400, 600 or 700; 0 takes any number.
    plain_names: a file that is named by the id alone is the "whole" video, out
      of which the annotated 10 s are taken, or "trimmed" to them already.

  Raises:
    ValueError: no video, another number of classes, or a damaged CSV.
  """
  if plain_names not in PLAIN_NAMES:
    raise ValueError(f"plain_names is {plain_names!r}; use one of {PLAIN_NAMES}")
  same = next((names for names in NAMES.values() if split in names), (split,))
  places = [os.path.join(os.fspath(root), name) for name in (split, *same)]
  top = next(filter(reading.is_folder, places), os.fspath(root))
  if top == os.fspath(root) and not annotations:
    raise ValueError(
      f"{root} has no folder {' or '.join(dict.fromkeys((split, *same)))}, so"
      " nobody can say which videos are in that split; give the official CSV"
      " as kinetics.annotations, or the folder of the split"
    )
  if annotations:
    return _annotated(
      top, same, annotations.replace("{split}", split), classes=classes, plain_names=plain_names
    )
  names = sorted(set(map(_class_name, files.folders(top))))
  files.check_classes(len(names), classes, where=top)
  labels = {name: i for i, name in enumerate(names)}
  entries = {}
  for stem, path in files.by_stem(top, "video").items():
    folder = os.path.relpath(path, top).split(os.sep)[0]
    match = TIMED.fullmatch(stem)
    item = items.name(match["id"] if match else stem)
    if item in entries:  # a second stretch of one video
      item = items.name(stem)
    label = labels.get(_class_name(folder), -1)
    entries[item] = items.Item(item, path, label=label)
  return items.listing("video", entries.values(), classes=names, where=top)


def _annotated(
  top: str, split: Iterable[str], annotations: str, *, classes: int, plain_names: str
) -> items.Listing:
  rows = files.table(annotations, ("youtube_id", "time_start", "time_end"))
  # A file of one split may say nothing of it, and one of tests nothing of
  # classes.
  rows = [row for row in rows if (row.get("split") or "") in ("", *split)]
  if not rows:
    raise ValueError(f"{annotations} has no row of the split {'/'.join(split)}; give its CSV")
  names = sorted({_class_name(row["label"]) for row in rows if row.get("label")})
  files.check_classes(len(names), classes if names else 0, where=annotations)
  labels = {name: i for i, name in enumerate(names)}
  disk = files.by_stem(top, "video")
  others = {match["id"]: path for stem, path in disk.items() if (match := TIMED.fullmatch(stem))}
  listed, stretches = {}, {}
  for row in rows:
    where = f"{annotations}, line {row['line']}"
    start_s = files.seconds(row["time_start"], where=where)
    end_s = files.seconds(row["time_end"], where=where)
    if start_s is None or end_s is None or start_s >= end_s:
      raise ValueError(f"{where}: the video has no times")
    video = row["youtube_id"]
    timed = f"{video}_{int(start_s):06d}_{int(end_s):06d}"
    label_name = row.get("label") or ""
    if stretches.setdefault(timed, label_name) != label_name:
      raise ValueError(f"{where}: {timed} is {label_name!r}, and {stretches[timed]!r} before")
    item = items.name(video)
    if item in listed:  # a second stretch of one video
      item = items.name(timed)
    label = labels[_class_name(row["label"])] if row.get("label") else -1
    if timed in disk:
      listed[item] = items.Item(item, disk[timed], label=label)
    elif video in disk:
      begin_s, stop_s = (start_s, end_s) if plain_names == "whole" else (None, None)
      listed[item] = items.Item(item, disk[video], label=label, start_s=begin_s, end_s=stop_s)
    else:
      reason = f"no {timed} below {top}"
      if video in others:
        reason += f"; {others[video]} is another stretch"
      listed[item] = items.Skipped(item, reason)
  return items.listing("video", listed.values(), classes=names, where=top)


def _class_name(name: str) -> str:
  """Folders write spaces as underscores, and annotations in either way."""
  return items.name(name).replace("_", " ").strip()
