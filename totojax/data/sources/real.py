"""ReaL's labels of ImageNet's validation images (Beyer et al., 2020): several an image, or none.

real.json is a list of 50,000 lists of classes, in the order of sorted wnids; entry
i belongs to ILSVRC2012_val_%08d.JPEG of i + 1. Images without labels count
neither as right nor as wrong. They are found by file name, never by their place
in class folders.
"""

from collections.abc import Sequence
import dataclasses
import re

import numpy as np

from totojax.data.sources import files
from totojax.storage import objects

_NAME = re.compile(r"ILSVRC2012_val_(\d{8})(?:\.\w+)?")


@dataclasses.dataclass(frozen=True)
class Labels:
  """Of images by number, from 0."""

  path: str
  classes: tuple[frozenset[int], ...]

  def of(self, ids: Sequence[str]) -> list[frozenset[int]]:
    """The labels of items, by the names of their files.

    Raises:
      ValueError: one is no image of ImageNet's validation set.
    """
    found = []
    for item in ids:
      name = _NAME.fullmatch(item.rpartition("/")[2])
      number = int(name[1]) - 1 if name else -1
      if not 0 <= number < len(self.classes):
        raise ValueError(
          f"{item!r:.200} is none of the {len(self.classes)} images of {self.path}, whose names are"
          " ILSVRC2012_val_00000001 and so on"
        )
      found.append(self.classes[number])
    return found


def read(path: objects.Path, *, classes: int) -> Labels:
  """The labels of real.json.

  Raises:
    ValueError: it is no list of lists of classes below `classes`.
  """
  rows = files.read_json(str(path))
  if not isinstance(rows, list):
    raise ValueError(f"{path} holds no list of labels")
  for number, row in enumerate(rows):
    if not isinstance(row, list) or not all(type(x) is int and 0 <= x < classes for x in row):
      raise ValueError(
        f"{path}, entry {number}: {row!r:.80} is no list of classes from 0 to {classes - 1}"
      )
  return Labels(str(path), tuple(map(frozenset, rows)))


def hits(named: np.ndarray, labels: Sequence[frozenset[int]]) -> np.ndarray:
  """Which of the images that have labels are named by one of them, bool [..., those].

  Args:
    named: class of each image, int [..., images].
    labels: of each image.
  """
  kept = [place for place, own in enumerate(labels) if own]
  if not kept:
    raise ValueError("no image has a label")
  highest = 1 + max(int(named.max(initial=0)), max(max(labels[place]) for place in kept))
  table = np.zeros((len(kept), highest), bool)
  for row, place in enumerate(kept):
    table[row, list(labels[place])] = True
  return table[np.arange(len(kept)), named[..., kept]]
