"""Images whose pixels are numbers of objects or classes: read, written, laid over frames.

They are PNGs with a palette, or grey ones, of which the number itself is meant and
no colour.

Shapes: H and W pixels.
"""

import functools
import io

import numpy as np
from PIL import Image

from totojax.data.pixels import images

_MODES = ("P", "L", "1")
_EDGE = 0.25  # of an object's colour in the frame below its contour


@functools.cache
def palette() -> np.ndarray:
  """uint8 [256, 3]: the colours of PASCAL VOC and DAVIS: bits of a number, spread over three."""
  bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
  channels = [(bits[:, [c, c + 3]] << [7, 6]).sum(1) for c in range(3)]
  channels[0] += bits[:, 6] << 5
  channels[1] += bits[:, 7] << 5
  return np.stack(channels, axis=-1).astype(np.uint8)


def read(data: bytes) -> np.ndarray:
  """uint8 [H, W]: the number of each pixel.

  Raises:
    images.Unreadable: it is no such image; says what it is.
  """
  images.check_png(data)
  try:
    with Image.open(io.BytesIO(data), formats=("PNG", "BMP", "GIF")) as image:
      width, height = image.size
      if width * height > images.MOST_PIXELS:
        raise images.Unreadable(f"{width}x{height} pixels are more than {images.MOST_PIXELS}")
      if image.mode not in _MODES:
        raise images.Unreadable(
          f"its pixels are {image.mode} and not numbers of a palette: save masks as indexed PNGs"
        )
      colours = len(image.getpalette() or ()) // 3 if image.mode == "P" else 256
      labels_HW = np.array(image).astype(np.uint8)
  except (images.Unreadable, MemoryError):
    raise
  except Exception as error:  # damaged files make Pillow raise anything
    raise images.Unreadable(f"no image of numbers ({type(error).__name__}: {error})") from error
  if labels_HW.max(initial=0) >= colours:
    raise images.Unreadable(
      f"it has number {labels_HW.max()}, and its palette {colours} colours; is it cut or converted?"
    )
  return labels_HW


def png(labels_HW: np.ndarray) -> bytes:
  """An indexed PNG with `palette`."""
  image = Image.fromarray(np.ascontiguousarray(labels_HW, np.uint8))
  image.putpalette(palette().tobytes())
  buffer = io.BytesIO()
  image.save(buffer, format="png")
  return buffer.getvalue()


def overlay(
  frame_HW3: np.ndarray, labels_HW: np.ndarray, contours_HW: np.ndarray, *, frac: float = 0.5
) -> np.ndarray:
  """uint8 [H, W, 3]: labels in their colours over a frame, contours in full colour.

  Args:
    frame_HW3: the frame.
    labels_HW: 0 shows the frame.
    contours_HW: bool, pixels of contours.
    frac: of the colour in a mixed pixel.
  """
  colours_HW3 = palette()[labels_HW].astype(np.float32)
  part_HW1 = np.where(labels_HW > 0, frac, 0.0)
  part_HW1 = np.where(contours_HW & (labels_HW > 0), 1.0 - _EDGE, part_HW1)[..., None]
  mixed = frame_HW3 * (1.0 - part_HW1) + colours_HW3 * part_HW1
  return np.rint(mixed).astype(np.uint8)
