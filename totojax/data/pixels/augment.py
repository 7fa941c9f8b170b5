"""Resizing and cropping of uint8 pixels, for images and video frames alike.

Section 3.4 of the paper: the shortest side is resized to R and an R x R window
is cropped. The filter is not given there; torchvision's and DALL-E's notebook
both resize with antialiasing, which Pillow's filters always do.

Shapes: H and W height and width, N frames of one video, R clips.
"""

import dataclasses

import numpy as np
from PIL import Image

FILTERS = {
  "bicubic": Image.Resampling.BICUBIC,
  "bilinear": Image.Resampling.BILINEAR,
  "lanczos": Image.Resampling.LANCZOS,
}


@dataclasses.dataclass(frozen=True)
class Resize:
  """Scaling of an RGB image so that its short side has `size_px` pixels."""

  size_px: int  # the new short side; the long side keeps the ratio, rounded
  resample: str  # one of `FILTERS`, with antialiasing

  def size(self, height: int, width: int) -> tuple[int, int]:
    """The new (height, width)."""
    short = min(height, width)
    return (round(height * self.size_px / short), round(width * self.size_px / short))

  def __call__(self, image_HW3: np.ndarray) -> np.ndarray:
    """The scaled image, uint8 [height, width, 3].

    Raises:
      ValueError: on an unknown filter or anything but uint8 RGB.
    """
    if self.resample not in FILTERS:
      raise ValueError(f"resample {self.resample!r} is unknown; use one of {sorted(FILTERS)}")
    if image_HW3.dtype != np.uint8 or image_HW3.shape[2:] != (3,):
      raise ValueError(
        f"image is {image_HW3.dtype} {image_HW3.shape}; it must be uint8 [height, width, 3]"
      )
    if min(image_HW3.shape[:2]) == self.size_px:
      return image_HW3
    height, width = self.size(*image_HW3.shape[:2])
    image = Image.fromarray(image_HW3)
    return np.asarray(image.resize((width, height), FILTERS[self.resample]))


@dataclasses.dataclass(frozen=True)
class Squash(Resize):
  """Scaling of a whole image to a square, or to another width, whatever its ratio."""

  width_px: int = 0  # 0: `size_px`

  def size(self, height: int, width: int) -> tuple[int, int]:
    del height, width
    return self.size_px, self.width_px or self.size_px

  def __call__(self, image_HW3: np.ndarray) -> np.ndarray:
    # Of another ratio an image of the right short side is yet to be scaled.
    height, width = self.size(*image_HW3.shape[:2])
    if image_HW3.shape[:2] != (height, width) and min(image_HW3.shape[:2]) == self.size_px:
      image = Image.fromarray(image_HW3)
      return np.asarray(image.resize((width, height), FILTERS[self.resample]))
    return super().__call__(image_HW3)


def random_crop(frames_NHW3: np.ndarray, size_px: int, *, rng: np.random.Generator) -> np.ndarray:
  """The same random window of all frames: [N, size_px, size_px, 3], a view."""
  height, width = _room(frames_NHW3, size_px)
  top = int(rng.integers(0, height + 1))
  left = int(rng.integers(0, width + 1))
  return frames_NHW3[:, top : top + size_px, left : left + size_px]


def center_crop(frames_NHW3: np.ndarray, size_px: int) -> np.ndarray:
  """The central window of all frames: [N, size_px, size_px, 3], a view."""
  height, width = _room(frames_NHW3, size_px)
  top, left = round(height / 2), round(width / 2)
  return frames_NHW3[:, top : top + size_px, left : left + size_px]


def squashed(frames_NHW3: np.ndarray, size_px: int, resample: str) -> np.ndarray:
  """The whole of all frames as squares: [N, size_px, size_px, 3]."""
  squash = Squash(size_px, resample)
  return np.stack([squash(image_HW3) for image_HW3 in frames_NHW3])


def fitted(clips_RNHW3: np.ndarray, size_px: int, resample: str) -> np.ndarray:
  """Clips of any size, resized by their short side and cut: [R, N, size_px, size_px, 3]."""
  shape = clips_RNHW3.shape
  if shape[2:4] == (size_px, size_px):
    return clips_RNHW3
  resize = Resize(size_px, resample)
  images = np.stack([resize(image_HW3) for image_HW3 in clips_RNHW3.reshape(-1, *shape[2:])])
  return center_crop(images, size_px).reshape(*shape[:2], size_px, size_px, 3)


def center_view(image_HW3: np.ndarray, size_px: int, *, frac: float, resample: str) -> np.ndarray:
  """The central square of size_px pixels, of which the short side has 1 / frac times as many."""
  short_px = max(round(size_px / frac), size_px)
  return center_crop(Resize(short_px, resample)(image_HW3)[None], size_px)[0]


def _room(frames_NHW3: np.ndarray, size_px: int) -> tuple[int, int]:
  """Pixels to spare along height and width."""
  height, width = frames_NHW3.shape[1:3]
  if min(height, width) < size_px:
    raise ValueError(
      f"frames of {height}x{width} pixels hold no crop of {size_px}; resize the short side first"
    )
  return height - size_px, width - size_px
