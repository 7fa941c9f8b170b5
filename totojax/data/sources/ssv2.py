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

import os

from totojax.data.sources import files, items
from totojax.storage import objects

PREFIX = "something-something-v2-"


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
  labels = {
    name: files.label(number, 0, where=f"{labels_path}, {name!r}")
    for name, number in files.read_json(labels_path).items()
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
  for number, row in enumerate(files.read_json(path), 1):
    if "id" not in row:
      raise ValueError(f"{path}, entry {number}: has no id")
    stem, label = str(row["id"]), -1
    if row.get("template"):
      name = row["template"].replace("[", "").replace("]", "")
      if name not in labels:
        raise ValueError(f"{path}, entry {number}: {name!r} is no class of {labels_path}")
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
