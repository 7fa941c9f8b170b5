"""Crops of photographs: a few that scikit-image ships (the `data` extra), and one's own.

All five of scikit-image's are in the public domain or under CC0, as scikit-image documents them:
astronaut, rocket and Hubble deep field (NASA), coffee and the cat Chelsea
(CC0). They show a tokenizer that is trained mostly on renderings what real
colours and textures look like.

A clip is a square that moves over a photograph and grows or shrinks, as a
camera would.

Shapes: R pixels of a side, N frames of a clip.
"""

import os

import numpy as np
from PIL import Image

from totojax.config.pixels import CropSpec, PhotosFolder
from totojax.data.pixels import images
from totojax.data.sources import folder as folder_lib
from totojax.storage import reading

TRAIN = ("astronaut", "chelsea", "coffee", "hubble_deep_field")
HELD_OUT = ("rocket",)


def load(name: str) -> np.ndarray:
  """One of `TRAIN` and `HELD_OUT`, uint8 [height, width, 3].

  Raises:
    ImportError: scikit-image is missing.
  """
  try:
    from skimage import data
  except ImportError as error:
    raise ImportError(
      'photographs come with scikit-image; install it with: pip install "totojax[data]"'
    ) from error
  return np.asarray(getattr(data, name)())[..., :3]


def own(spec: PhotosFolder) -> tuple[list[str], list[str]]:
  """Paths of the photographs of a folder: those to train on, and those held out.

  Raises:
    ValueError: the folder has none, or lacks one that is to be held out.
  """
  if not spec.root:
    return [], []
  listing = folder_lib.list_items(spec.root, "", kind="image", class_folders=False)
  names = [item.id for item in listing.items]
  if missing := sorted({*spec.held_out} - {*names}):
    raise ValueError(f"folder.held_out names {missing}; {spec.root} holds {names}")
  paths = {item.id: os.fspath(item.path) for item in listing.items}
  held_out = [paths[name] for name in names if name in spec.held_out]
  return [paths[name] for name in names if name not in spec.held_out], held_out


def read(path: str) -> np.ndarray:
  """A photograph of a folder, uint8 [height, width, 3]."""
  return images.read(reading.load(path), animated="refuse")


def crop(image_HW3: np.ndarray, spec: CropSpec, *, rng: np.random.Generator) -> np.ndarray:
  """A random square, flipped half of the time, as uint8 [N, R, R, 3].

  Over the frames of a clip it goes a random way at a constant speed and grows
  or shrinks by a constant factor, as far as the photograph reaches; a quarter
  of the clips stands still.
  """
  height, width, _ = image_HW3.shape
  most = min(spec.most_px, height, width)
  # Uniform in the logarithm: as many small squares as large ones.
  low, high = np.log(min(spec.least_px, most)), np.log(most)
  side = int(round(np.exp(rng.uniform(low, high))))
  top = int(rng.integers(height - side + 1))
  left = int(rng.integers(width - side + 1))
  if spec.frames == 1:
    square = image_HW3[top : top + side, left : left + side]
    if rng.random() < 0.5:
      square = square[:, ::-1]
    return _resized(square, (0, 0, side, side), spec.size_px)[None]
  image_HW3 = image_HW3[:, :: rng.choice((-1, 1))]
  moves = rng.random() >= 0.25
  end = side * np.exp(rng.uniform(-1, 1) * moves * np.log1p(spec.most_zoom_frac))
  sides_N = np.geomspace(side, min(end, height, width), spec.frames)
  away = rng.uniform(-1, 1, 2) * moves * spec.most_move_frac * side
  # As large as the photograph, a side may be rounded up.
  lowest_N, rightmost_N = (np.maximum(long - sides_N, 0) for long in (height, width))
  tops_N = np.linspace(top, top + away[0], spec.frames).clip(0, lowest_N)
  lefts_N = np.linspace(left, left + away[1], spec.frames).clip(0, rightmost_N)
  # Only what the clip shows is handed on.
  y0, x0 = int(tops_N.min()), int(lefts_N.min())
  y1, x1 = (int(np.ceil((ends + sides_N).max())) for ends in (tops_N, lefts_N))
  shown = image_HW3[y0:y1, x0:x1]
  return np.stack(
    [
      _resized(shown, (x - x0, y - y0, x - x0 + s, y - y0 + s), spec.size_px)
      for x, y, s in zip(lefts_N, tops_N, sides_N)
    ]
  )


def _resized(
  image_HW3: np.ndarray, box: tuple[float, float, float, float], size_px: int
) -> np.ndarray:
  """The box (left, top, right, bottom) of an image, [R, R, 3]; antialiased."""
  image = Image.fromarray(np.ascontiguousarray(image_HW3))
  box = (*box[:2], min(box[2], image.width), min(box[3], image.height))
  return np.asarray(image.resize((size_px, size_px), Image.Resampling.BICUBIC, box=box))
