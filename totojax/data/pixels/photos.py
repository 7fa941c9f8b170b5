"""Crops of a few photographs that scikit-image ships (the `data` extra).

All five are in the public domain or under CC0, as scikit-image documents them:
astronaut, rocket and Hubble deep field (NASA), coffee and the cat Chelsea
(CC0). They show a tokenizer that is trained mostly on renderings what real
colours and textures look like.

Shapes: R pixels of a side.
"""

import numpy as np
from PIL import Image

from totojax.config.pixels import CropSpec

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


def crop(image_HW3: np.ndarray, spec: CropSpec, *, rng: np.random.Generator) -> np.ndarray:
  """A random square, flipped half of the time, as uint8 [R, R, 3]."""
  height, width, _ = image_HW3.shape
  most = min(spec.most_px, height, width)
  # Uniform in the logarithm: as many small squares as large ones.
  low, high = np.log(min(spec.least_px, most)), np.log(most)
  side = int(round(np.exp(rng.uniform(low, high))))
  top = int(rng.integers(height - side + 1))
  left = int(rng.integers(width - side + 1))
  square = image_HW3[top : top + side, left : left + side]
  if rng.random() < 0.5:
    square = square[:, ::-1]
  size = (spec.size_px, spec.size_px)
  resized = Image.fromarray(np.ascontiguousarray(square)).resize(size, Image.Resampling.BICUBIC)
  return np.asarray(resized)
