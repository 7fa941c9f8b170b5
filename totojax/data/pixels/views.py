"""Labelled images as training and evaluation views, from their files.

A training view is a window of random area and shape, flipped half of the time;
fine-tuning also draws RandAugment's operations and erases a rectangle (MAE's
recipe, with the algorithms of timm). An evaluation view is the central square.
Everything about a view follows from seed, record and epoch.

Pixels stay in 0 to 255: a tokenizer wants no normalised ones.

Shapes: B rows, H and W of an image, S pixels of a side.
"""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np
from PIL import Image

from totojax import sequence
from totojax.config.labels import ViewConfig
from totojax.data.pixels import augment, images, media, randaugment
from totojax.data.sources import items as items_lib
from totojax.data.stream import labelled, rows as rows_lib

TRIES = 10  # windows that are drawn before the largest central one is taken
ERASED_FRAC = (0.02, 1 / 3)  # of the area; timm's
ERASED_ASPECT = (0.3, 1 / 0.3)
# Of ImageNet's pixels: what timm's normalised noise of mean 0 is before it.
MEAN = np.array((0.485, 0.456, 0.406), np.float32)
STD = np.array((0.229, 0.224, 0.225), np.float32)


def random_window(
  shape: tuple[int, ...], config: ViewConfig, *, rng: np.random.Generator
) -> tuple[int, int, int, int]:
  """(top, left, height, width) of uniform area and log-uniform shape.

  Torchvision's algorithm.

  After `TRIES` that do not fit, the largest central window of allowed shape.
  """
  height, width = shape[:2]
  spread = math.log(config.widest)
  for _ in range(TRIES):
    area = rng.uniform(config.least_area, 1.0) * height * width
    aspect = math.exp(rng.uniform(-spread, spread))
    w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if 0 < w <= width and 0 < h <= height:
      top = int(rng.integers(height - h + 1))
      return top, int(rng.integers(width - w + 1)), h, w
  w = min(width, round(height * config.widest))
  h = min(height, round(width * config.widest))
  return (height - h) // 2, (width - w) // 2, h, w


def erased(image_SS3: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
  """The image with a random rectangle of noise, as timm erases (mode pixel).

  Noise is normal with the mean and deviation of ImageNet's pixels, cut to what
  pixels can be.
  """
  height, width = image_SS3.shape[:2]
  low, high = map(math.log, ERASED_ASPECT)
  for _ in range(TRIES):
    area = rng.uniform(*ERASED_FRAC) * height * width
    aspect = math.exp(rng.uniform(low, high))
    h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if h < height and w < width:
      top = int(rng.integers(height - h + 1))
      left = int(rng.integers(width - w + 1))
      noise = rng.standard_normal((h, w, 3), np.float32) * STD + MEAN
      out = image_SS3.copy()
      out[top : top + h, left : left + w] = np.clip(np.rint(255.0 * noise), 0, 255)
      return out
  return image_SS3


def training_view(
  image_HW3: np.ndarray, size_px: int, config: ViewConfig, *, rng: np.random.Generator
) -> np.ndarray:
  """A random view, uint8 [S, S, 3]."""
  top, left, height, width = random_window(image_HW3.shape, config, rng=rng)
  window = image_HW3[top : top + height, left : left + width]
  view = Image.fromarray(np.ascontiguousarray(window)).resize(
    (size_px, size_px), augment.FILTERS[config.resample]
  )
  if rng.random() < config.flip:
    view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
  for _ in range(config.operations):
    view = randaugment.apply(
      view,
      magnitude=config.magnitude,
      std=config.magnitude_std,
      resample=augment.FILTERS[config.resample],
      rng=rng,
    )
  pixels = np.asarray(view)
  return erased(pixels, rng=rng) if rng.random() < config.erase else pixels


def evaluation_view(image_HW3: np.ndarray, size_px: int, config: ViewConfig) -> np.ndarray:
  """The central square, uint8 [S, S, 3]."""
  return augment.center_view(image_HW3, size_px, frac=config.center_frac, resample=config.resample)


def records(listing: items_lib.Listing, name: str) -> labelled.Records:
  """Every image of a source as a record.

  Raises:
    ValueError: an image has no class.
  """
  return labelled.checked(
    labelled.Records(
      store=None,
      name=name,
      records=np.arange(len(listing.items)),
      labels=np.array([item.label for item in listing.items], np.int32),
      ids=tuple(item.id for item in listing.items),
      classes=listing.classes,
    ),
    "image files",
  )


@dataclasses.dataclass(frozen=True)
class ReadViews:
  """Rows to {"frames": uint8 [B, 1, S, S, 3], "start": int32 [B]}.

  Rows of an epoch get training views, the others evaluation views.
  """

  items: Sequence[items_lib.Item]
  size_px: int
  config: ViewConfig
  seed: int

  def __call__(self, rows: Sequence[rows_lib.Row]) -> dict[str, np.ndarray]:
    shape = (len(rows), 1, self.size_px, self.size_px, 3)
    frames = np.zeros(shape, np.uint8)  # rows of padding stay black
    for b, row in enumerate(rows):
      for draw in row.draws:  # one, or none
        frames[b, 0] = self._view(draw)
    start = np.full(len(rows), sequence.IMAGE_START, np.int32)
    return {"frames": frames, "start": start}

  def _view(self, draw: rows_lib.Draw) -> np.ndarray:
    image_HW3 = _read(self.items[draw.record])
    if draw.epoch is None:
      return evaluation_view(image_HW3, self.size_px, self.config)
    rng = np.random.default_rng([self.seed, draw.record, draw.epoch])
    return training_view(image_HW3, self.size_px, self.config, rng=rng)


def _read(item: items_lib.Item) -> np.ndarray:
  """Raises ValueError naming the file: nothing else would notice it gone."""
  try:
    return images.read(media.stored(item), animated="first")
  except (images.Unreadable, OSError) as error:
    raise ValueError(
      f"{item.path} ({item.id}) cannot be read: {error}. Mend it, or remove"
      " it and begin the run again"
    ) from error
