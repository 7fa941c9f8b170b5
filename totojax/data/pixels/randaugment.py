"""RandAugment on Pillow images, with the operations and strengths of timm.

Cubuk et al., 2019 (arXiv 1909.13719), as `rand-m9-mstd0.5-inc1` of timm means
it, which MAE fine-tunes with: fifteen operations, all of them stronger with the
magnitude, each applied half of the time.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

MOST = 10.0  # of a magnitude
SHARE = 0.5  # of the drawn operations that are applied
FILL = (124, 116, 104)  # ImageNet's mean colour, for what comes into view

# (image, strength from 0 to 1, -1 or 1, filter) -> image
Operation = Callable[[Image.Image, float, int, Image.Resampling], Image.Image]


def _affine(matrix: Callable[[float, Image.Image], tuple[float, ...]]) -> Operation:
  """Moves pixels by a matrix of (signed strength, image)."""

  def change(image, strength, sign, resample):
    method, values = Image.Transform.AFFINE, matrix(sign * strength, image)
    return image.transform(image.size, method, values, resample=resample, fillcolor=FILL)

  return change


def _rotate(image, strength, sign, resample):
  return image.rotate(sign * 30.0 * strength, resample, fillcolor=FILL)


def _posterize(image, strength, sign, resample):
  del sign, resample
  bits = 4 - int(4 * strength)
  if not bits:  # black, which newer versions of Pillow refuse
    return image.point([0] * 256 * len(image.getbands()))
  return ImageOps.posterize(image, bits)


def _solarize(image, strength, sign, resample):
  del sign, resample
  return ImageOps.solarize(image, 256 - min(256, int(256 * strength)))


def _solarize_add(image, strength, sign, resample):
  """Dark pixels become brighter."""
  del sign, resample
  more = min(128, int(110 * strength))
  table = [min(255, i + more) if i < 128 else i for i in range(256)]
  return image.point(table * 3)


def _enhanced(kind) -> Operation:
  def change(image, strength, sign, resample):
    del resample
    return kind(image).enhance(max(0.1, 1.0 + sign * 0.9 * strength))

  return change


OPERATIONS: dict[str, Operation] = {
  "auto_contrast": lambda image, *_: ImageOps.autocontrast(image),
  "equalize": lambda image, *_: ImageOps.equalize(image),
  "invert": lambda image, *_: ImageOps.invert(image),
  "rotate": _rotate,
  "posterize": _posterize,
  "solarize": _solarize,
  "solarize_add": _solarize_add,
  "color": _enhanced(ImageEnhance.Color),
  "contrast": _enhanced(ImageEnhance.Contrast),
  "brightness": _enhanced(ImageEnhance.Brightness),
  "sharpness": _enhanced(ImageEnhance.Sharpness),
  "shear_x": _affine(lambda strength, _: (1, 0.3 * strength, 0, 0, 1, 0)),
  "shear_y": _affine(lambda strength, _: (1, 0, 0, 0.3 * strength, 1, 0)),
  "translate_x": _affine(lambda strength, image: (1, 0, 0.45 * strength * image.width, 0, 1, 0)),
  "translate_y": _affine(lambda strength, image: (1, 0, 0, 0, 1, 0.45 * strength * image.height)),
}
_NAMES = tuple(OPERATIONS)


def apply(
  image: Image.Image,
  *,
  magnitude: float,
  std: float,
  resample: Image.Resampling,
  rng: np.random.Generator,
) -> Image.Image:
  """One drawn operation on an RGB image, or, half of the time, the image.

  Args:
    image: of any size; operations in pixels are relative to it.
    magnitude: 0 to `MOST`.
    std: of the normal distribution that the magnitude is drawn from.
    resample: filter of what moves pixels; Pillow rotates and shears with
      nearest, bilinear or bicubic.
    rng: draws the operation, its strength and its direction.
  """
  operation = OPERATIONS[_NAMES[int(rng.integers(len(_NAMES)))]]
  if rng.random() >= SHARE:
    return image
  strength = float(np.clip(rng.normal(magnitude, std), 0.0, MOST)) / MOST
  sign = 1 if rng.random() < 0.5 else -1
  if resample not in _MOVES:
    resample = Image.Resampling.BICUBIC
  return operation(image, strength, sign, resample)


_MOVES = (Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
