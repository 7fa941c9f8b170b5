"""Folders of pairs of pictures: what is shown, and what is to be drawn of it.

Layouts of a folder
  NAME_in.png, NAME_out.png           in any folders below it
  input/NAME.png, output/NAME.png     equal names, in equal folders below these

Any format of `pixels.images`; the two of a pair may have different ones.
"""

from collections.abc import Sequence
import dataclasses
import os
from typing import Any

import numpy as np

from totojax.data.pixels import images, media
from totojax.data.sources import files, items
from totojax.storage import objects, outside, reading

SIDES = ("in", "out")
FOLDERS = ("input", "output")


@dataclasses.dataclass(frozen=True)
class Pair:
  """A pair, before anything is read."""

  id: str  # its name below the folder, without the ending
  input: str  # paths
  output: str

  def read(self) -> tuple[np.ndarray, np.ndarray]:
    """(input, output), uint8 [H, W, 3] of one size.

    Raises:
      ValueError: one is no image, or they differ in size.
    """
    first_HW3, second_HW3 = read(self.input), read(self.output)
    check_sizes(first_HW3, second_HW3, f"{self.input} and {os.path.basename(self.output)}")
    return first_HW3, second_HW3


def sound(listed: Sequence[Pair], bar: Any) -> tuple[list[Pair], list[items.Skipped]]:
  """Pairs that can be read, and those that cannot with their reasons.

  Args:
    listed: of `list_pairs`.
    bar: `console.Progress`, which counts them.
  """
  found, skipped = [], []
  for pair in listed:
    try:
      pair.read()
      found.append(pair)
    except ValueError as error:
      skipped.append(items.Skipped(pair.id, outside.shown(error)))
    bar.advance()
  return found, skipped


def check_sizes(input_HW3: np.ndarray, output_HW3: np.ndarray, what: str) -> None:
  """Raises ValueError unless the two of a pair have one size."""
  sizes = [f"{image.shape[1]} x {image.shape[0]}" for image in (input_HW3, output_HW3)]
  if sizes[0] != sizes[1]:
    raise ValueError(
      f"{what} are of {sizes[0]} and {sizes[1]} pixels; input and output of a pair have one size"
    )


def read(path: str) -> np.ndarray:
  """A picture, uint8 RGB [H, W, 3], upright.

  Raises:
    ValueError: it is none, or not there; with the path.
  """
  try:
    image_HW3 = images.read(media.stored(items.Item(items.name(path), path)), animated="refuse")
  except (images.Unreadable, objects.StoreError, OSError) as error:
    raise ValueError(f"{path} gives no picture: {error}") from error
  height, width = image_HW3.shape[:2]
  if max(height, width) > images.MOST_ASPECT * min(height, width):
    raise ValueError(f"{path}: {width}x{height} pixels are longer than {images.MOST_ASPECT} to 1")
  return image_HW3


def list_pairs(root: str) -> list[Pair]:
  """All pairs of a folder, sorted by id.

  Raises:
    ValueError: there is no such folder, no pair in it, or half of one.
  """
  endings = files.suffixes("image")
  if all(reading.is_folder(reading.join(root, name)) for name in FOLDERS):
    found = [_named(reading.join(root, name), endings) for name in FOLDERS]
    expected = tuple(f"{name}/{{}}.*" for name in FOLDERS)
  else:
    found, expected = ({}, {}), tuple(f"{{}}_{side}.*" for side in SIDES)
    for name, path in _named(root, endings).items():
      stem, _, side = name.rpartition("_")
      if side in SIDES and os.path.basename(stem):
        found[SIDES.index(side)][stem] = path
  one_sided = sorted(found[0].keys() ^ found[1].keys())
  if one_sided:
    name = one_sided[0]
    there, missing = (0, 1) if name in found[0] else (1, 0)
    more = f" (and {len(one_sided) - 1} more)" if len(one_sided) > 1 else ""
    raise ValueError(
      f"{found[there][name]} has no partner{more}: {reading.join(root, expected[missing])}".replace(
        "{}", name
      )
      + " is missing; add it, or take the other out"
    )
  if not found[0]:
    raise ValueError(
      f"{root} holds no pair of pictures; there must be NAME_in.png and NAME_out.png, or folders"
      " input and output with equal names"
    )
  return [Pair(items.name(name), found[0][name], found[1][name]) for name in sorted(found[0])]


def _named(root: str, endings: frozenset[str]) -> dict[str, str]:
  """Path of each image below a folder, by its path there without the ending."""
  found: dict[str, str] = {}
  for path in files.walk(root, endings):
    name = os.path.splitext(os.path.relpath(path, root))[0]
    if first := found.get(name):
      raise ValueError(f"{first} and {path} have one name; rename or remove one of them")
    found[name] = path
  return found


def list_tasks(root: str, wanted: Sequence[str]) -> dict[str, list[Pair]]:
  """The pairs of each folder in a folder, by its name.

  Args:
    root: where the folders are.
    wanted: names of those that are listed; (): all.

  Raises:
    ValueError: as `list_pairs`, or a folder is missing.
  """
  if not reading.is_folder(root):
    raise ValueError(f"{root} is no folder; give one that holds a folder of pairs for each task")
  there = files.folders(root)
  for name in wanted or there:
    if name not in there:
      raise ValueError(f"{root} has no folder {name!r}; it has {', '.join(there) or 'none'}")
  if not there or set(there) == set(FOLDERS):
    raise ValueError(
      f"{root} holds no folders of tasks; it must have one for each, as {root}/mytask, with pairs"
      " in it"
    )
  return {name: list_pairs(reading.join(root, name)) for name in wanted or there}
