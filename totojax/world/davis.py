"""Clips as DAVIS 2017 lies on disk.

  JPEGImages/480p/SEQUENCE/00000.jpg
  Annotations/480p/SEQUENCE/00000.png   indexed: 0 background, 1 .. things
  ImageSets/2017/train.txt, val.txt     names of sequences, a line each

The folder is called 480p whatever the size, as tools look for it. As in DAVIS a
thing that the first frame does not show has no number, and numbers have no gap.

Shapes: N frames, H and W pixels.
"""

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from totojax.rundir import files
from totojax.storage import reading

if TYPE_CHECKING:
  from totojax.world import film

SIZE = "480p"
LEAST_SHARE = 5e-4  # of a frame's pixels, that a thing shows in the first one to be annotated


def palette() -> list[int]:
  """768 numbers: PASCAL VOC's colours, which DAVIS has; bits of the index, spread."""
  out = []
  for index in range(256):
    for channel in range(3):
      bits = [(index >> (3 * step + channel)) & 1 for step in range(3)]
      out.append(sum(bit << (7 - step) for step, bit in enumerate(bits)))
  return out


def annotated(masks_NHW: np.ndarray) -> np.ndarray:
  """Masks of what is seen in the first frame, numbered from 1 without gaps."""
  counts = np.bincount(masks_NHW[0].ravel(), minlength=256)
  counts[0] = 0
  kept = np.flatnonzero(counts >= max(LEAST_SHARE * masks_NHW[0].size, 1))
  table = np.zeros(256, np.uint8)
  table[kept] = np.arange(1, len(kept) + 1)
  return table[masks_NHW]


def write(clip: "film.Clip", root: str, name: str, quality: int) -> int:
  """Writes one sequence; how many things it annotates."""
  masks_NHW = annotated(clip.masks_NHW)
  folders = [
    reading.join(reading.join(reading.join(root, kind), SIZE), name)
    for kind in ("JPEGImages", "Annotations")
  ]
  for folder in folders:
    files.make_folder(folder)
  colours = palette()
  for n, (rgb_HW3, mask_HW) in enumerate(zip(clip.rgb_NHW3, masks_NHW)):
    jpeg, png = io.BytesIO(), io.BytesIO()
    Image.fromarray(rgb_HW3).save(jpeg, format="jpeg", quality=quality)
    index = Image.fromarray(mask_HW, mode="P")
    index.putpalette(colours)
    index.save(png, format="png")
    files.write_bytes(reading.join(folders[0], f"{n:05d}.jpg"), jpeg.getvalue())
    files.write_bytes(reading.join(folders[1], f"{n:05d}.png"), png.getvalue())
  return int(masks_NHW[0].max())


def write_list(root: str, split: str, names: list[str]) -> None:
  """The sequences of a split, once all are there."""
  folder = reading.join(reading.join(root, "ImageSets"), "2017")
  files.make_folder(folder)
  files.write_text(reading.join(folder, f"{split}.txt"), "".join(f"{name}\n" for name in names))
