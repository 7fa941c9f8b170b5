"""UCF101.

Layout, lists in <root> or <root>/ucfTrainTestlist
  classInd.txt             1 ApplyEyeMakeup
  trainlist01.txt          ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1
  testlist01.txt           ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi
  UCF-101/<class>/v_*.avi  or videos/, or the classes in <root> itself

Labels count the classes of classInd.txt from 0; the lists count from 1.
"""

import os

from totojax.data.sources import files, items
from totojax.storage import objects

FOLDS = (1, 2, 3)


def list_items(root: objects.Path, split: str, *, fold: int, classes: int) -> items.Listing:
  """All videos of a split that are on disk; the others are `missing`.

  Args:
    root: folder of lists and videos.
    split: "train" or "test".
    fold: which of the three official splits: 1, 2 or 3.
    classes: how many there must be: 101; 0 takes any number.

  Raises:
    ValueError: no lists or videos, another number of classes, or a line that
      contradicts them.
  """
  if split not in ("train", "test") or fold not in FOLDS:
    raise ValueError(
      f"split {split!r}, fold {fold}: UCF101 has 'train' and 'test' of folds {FOLDS}"
    )
  root = os.fspath(root)
  names = _class_names(_list(root, "classInd.txt"))
  files.check_classes(len(names), classes, where="classInd.txt")
  path = _list(root, f"{split}list{fold:02d}.txt")
  top = files.first_of(
    [os.path.join(root, name) for name in ("UCF-101", "videos", "")], what="folder of videos"
  )
  rows = []
  for number, line in files.lines(path):
    where = f"{path}, line {number}"
    file, *rest = line.split()
    name, *below = file.split("/")
    if ".." in below:
      raise ValueError(f"{where}: {file!r:.200} leads out of the folder of videos")
    if name not in names:
      raise ValueError(f"{where}: {name!r:.200} is no class of classInd.txt")
    label = names.index(name)
    if rest and files.label(rest[0], 0, where=where) != label + 1:
      raise ValueError(f"{where}: label {rest[0]} for {name}, which is {label + 1} in classInd.txt")
    rows.append(items.Item(items.name(file), os.path.join(top, file), label=label))
  rows = files.once(rows, lambda item: item, path)
  return items.listing("video", files.existing(rows), classes=names, where=top)


def _class_names(path: str) -> list[str]:
  names = []
  for number, line in files.lines(path):
    index, _, name = line.strip().partition(" ")
    if index != str(len(names) + 1) or not name:
      raise ValueError(
        f"{path}, line {number}: {line!r:.200}; needed: {len(names) + 1} and a class"
      )
    names.append(name)
  return names


def _list(root: str, name: str) -> str:
  return files.first_of(
    [os.path.join(root, folder, name) for folder in ("ucfTrainTestlist", "")],
    what=f"list of UCF101 ({name})",
  )
