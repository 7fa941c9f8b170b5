"""Something-Something v2.

Layout, annotations in <root>, <root>/labels or <root>/annotations
  something-something-v2-labels.json      or labels.json: {template: "number"}
  something-something-v2-train.json       or train.json: a list of
  something-something-v2-validation.json  {"id", "template", ...}
  something-something-v2-test.json        {"id"}: no classes
  20bn-something-something-v2/<id>.webm   or videos/, or <root> itself

A template is the class's name once its brackets are taken away:
"Holding [something] next to [something]" is "Holding something next to
something".
"""

import dataclasses
import os

from totojax.data.sources import files, items
from totojax.storage import objects, outside

PREFIX = "something-something-v2-"


@dataclasses.dataclass(frozen=True)
class _Video:
  """What is read of an entry of the lists."""

  id: str
  template: str = ""


def list_items(root: objects.Path, split: str, *, classes: int) -> items.Listing:
  """All videos of a split that are on disk; the others are `missing`.

  Args:
    root: folder of annotations and videos.
    split: "train", "validation" (or "val") or "test".
    classes: how many there must be: 174; 0 takes any number.

  Raises:
    ValueError: no annotations or videos, another number of classes, or a
      template that is no class.
  """
  root = os.fspath(root)
  split = "validation" if split == "val" else split
  labels_path = _annotation(root, "labels")
  labels = files.read_json(labels_path)
  if not isinstance(labels, dict):
    raise ValueError(f"{labels_path} holds no names of classes with numbers")
  labels = {
    name: files.label(number, 0, where=f"{labels_path}, {name!r:.80}")
    for name, number in labels.items()
  }
  if sorted(labels.values()) != list(range(len(labels))):
    raise ValueError(f"{labels_path}: its numbers are not 0 to {len(labels) - 1}")
  files.check_classes(len(labels), classes, where=labels_path)
  path = _annotation(root, split)
  top = files.first_of(
    [os.path.join(root, "20bn-" + PREFIX.removesuffix("-")), os.path.join(root, "videos"), root],
    what="folder of videos",
  )
  disk = files.by_stem(top, "video")
  rows = []
  listed = files.read_json(path)
  if not isinstance(listed, list):
    raise ValueError(f"{path} holds no list of videos")
  for number, row in enumerate(listed, 1):
    where = f"{path}, entry {number}"
    if not isinstance(row, dict) or "id" not in row:
      raise ValueError(f"{where}: has no id")
    row = outside.fields(_Video, where, {k: row[k] for k in ("id", "template") if k in row})
    stem, label = row.id, -1
    if row.template:
      name = row.template.replace("[", "").replace("]", "")
      if name not in labels:
        raise ValueError(f"{path}, entry {number}: {name!r:.200} is no class of {labels_path}")
      label = labels[name]
    item = items.name(stem)
    if stem in disk:
      rows.append(items.Item(item, disk[stem], label=label))
    else:
      rows.append(items.Skipped(item, f"no {stem}.webm below {top}"))
  rows = files.once(rows, lambda item: item, path)
  names = sorted(labels, key=labels.__getitem__)
  return items.listing("video", rows, classes=names, where=top)


def _annotation(root: str, name: str) -> str:
  return files.first_of(
    [
      os.path.join(root, folder, file)
      for folder in ("", "labels", "annotations")
      for file in (f"{PREFIX}{name}.json", f"{name}.json")
    ],
    what=f"annotations of Something-Something v2 ({name})",
  )
