"""Crops from image files, read with Pillow.

An image becomes uint8 RGB, upright as its EXIF data say, its shortest side is
resized to R with antialiasing and K windows of R x R are cropped (section 3.4
of the paper: 16 random images make a sequence). The central crop is one, of a
larger short side (`ImageSpec.center_frac`).

How pixels that are not 8-bit RGB become so:
  grey, 1-bit     the same value in all three channels
  palette         its colours
  transparent     over white, as a page would show it; Pillow's own conversion
                  would show whatever lies under transparent pixels
  CMYK, YCbCr     Pillow's conversion, without colour profiles; inverted CMYK,
                  as Adobe writes it, is put right
  16-bit grey     divided by 257 and rounded, so that 65535 is 255; Pillow's
                  own conversion clips
  16-bit colour   the high byte of each channel (Pillow reads no more)
Pixels of 32 bits have no known range and are refused, so are other modes, and
files of several pictures (animations, pages) unless the first is asked for.

An image that cannot be read raises `Unreadable`, with the reason.

Shapes: K crops, R pixels of a side, H and W of the image.
"""

import functools
import io
import zlib

import numpy as np
from PIL import Image

from totojax.config.pixels import ImageSpec
from totojax.data.pixels import augment
from totojax.data.sources import items

SUFFIXES = frozenset(".avif .bmp .gif .jp2 .jpe .jpeg .jpg .pgm .png .ppm .tif .tiff .webp".split())
# Others are not opened at all: some of Pillow's readers start programs.
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
MODES = ("1", "CMYK", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "YCbCr")
MOST_PIXELS = 89_000_000  # a small file can claim more, to fill memory
MOST_ASPECT = 64  # sides; resizing the short one enlarges the long one with it
BACKGROUND = (255, 255, 255)
_PNG = b"\x89PNG\r\n\x1a\n"
EXIF_ORIENTATION = 0x0112
UPRIGHT = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}


class Unreadable(ValueError):
  """A file gives no image; the message is the reason, for people to read."""


def crops(item: items.Item, data: bytes, spec: ImageSpec, *, seed: int) -> np.ndarray:
  """The crops of one image, uint8 [K, R, R, 3].

  Windows are drawn independently; they follow from seed, item and crop.

  Args:
    item: the image.
    data: its file.
    spec: what is cut out.
    seed: of everything drawn.

  Raises:
    Unreadable: what is in the file is no image, or not one that is wanted.
  """
  image_HW3 = read(data, animated=spec.animated)
  height, width = image_HW3.shape[:2]
  if max(height, width) > MOST_ASPECT * min(height, width):
    raise Unreadable(f"{width}x{height} pixels are longer than {MOST_ASPECT} to 1")
  if spec.crop == "center":
    view_RR3 = augment.center_view(
      image_HW3, spec.size_px, frac=spec.center_frac, resample=spec.resample
    )
    return view_RR3[None].copy()
  resized_HW3 = augment.Resize(spec.size_px, spec.resample)(image_HW3)
  draws = [items.generator(item, crop, stretch=0, seed=seed) for crop in range(spec.crops)]
  return np.concatenate(
    [augment.random_crop(resized_HW3[None], spec.size_px, rng=rng) for rng in draws]
  )


def read(data: bytes, *, animated: str) -> np.ndarray:
  """An image file as uint8 RGB [H, W, 3], upright.

  Args:
    data: the file.
    animated: of several pictures: "refuse" or "first".

  Raises:
    Unreadable: as `crops`.
  """
  if not data:
    raise Unreadable("the file is empty (0 bytes)")
  check_png(data)
  try:
    with Image.open(io.BytesIO(data), formats=_formats()) as image:
      return _pixels(image, animated)
  except (Unreadable, MemoryError):
    raise
  except Image.UnidentifiedImageError as error:
    begin = data[:12]
    raise Unreadable(
      f"no image of a known format ({', '.join(_formats())}); it begins with {begin!r}"
    ) from error
  except Exception as error:  # Damaged files make Pillow raise anything.
    raise Unreadable(f"{type(error).__name__}: {error}") from error


def check_png(data: bytes) -> None:
  """Raises Unreadable where a chunk of a PNG is not what was written.

  Pillow compares no checksum of pixels.
  """
  at = len(_PNG) if data.startswith(_PNG) else len(data)
  while at < len(data):
    end = at + 12 + int.from_bytes(data[at : at + 4])
    if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]) or end > len(data):
      raise Unreadable(f"a damaged PNG: chunk {data[at + 4 : at + 8]!r} at byte {at} has changed")
    if data[at + 4 : at + 8] == b"IEND":
      return
    at = end


@functools.cache
def _formats() -> tuple[str, ...]:
  """Those that this build of Pillow reads."""
  Image.init()
  return tuple(name for name in FORMATS if name in Image.OPEN)


def _pixels(image: Image.Image, animated: str) -> np.ndarray:
  width, height = image.size
  if width * height > MOST_PIXELS:
    raise Unreadable(f"{width}x{height} pixels are more than {MOST_PIXELS}")
  # Phones put a second view or a preview behind a photograph (MPO).
  several = getattr(image, "is_animated", False) and image.format != "MPO"
  if several and animated == "refuse":
    raise Unreadable(
      f"{getattr(image, 'n_frames', 'several')} pictures in one"
      f' {image.format} file; set animated to "first" for the first of them'
    )
  image.load()
  turn = UPRIGHT.get(_orientation(image))
  rgb = _rgb(image)
  return np.array(rgb if turn is None else rgb.transpose(turn))


def _orientation(image: Image.Image) -> int:
  """As EXIF counts them; 1 is upright."""
  try:
    return image.getexif().get(EXIF_ORIENTATION, 1)
  except Exception:  # Damaged EXIF data say nothing of the pixels.
    return 1


def _rgb(image: Image.Image) -> Image.Image:
  """8-bit RGB, each mode as the top of this file says."""
  mode = image.mode
  if mode.startswith("I;16") or (mode == "I" and image.format == "PNG"):
    deep_HW = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((deep_HW + 128) // 257).astype(np.uint8)).convert("RGB")
  if mode in ("I", "F"):
    raise Unreadable(f"pixels of 32 bits (mode {mode}) have no known range")
  if mode not in MODES:
    raise Unreadable(f"pixels of mode {mode} are none of {', '.join(MODES)}")
  if image.has_transparency_data:
    clear = image.convert("RGBA")
    page = Image.new("RGBA", image.size, (*BACKGROUND, 255))
    return Image.alpha_composite(page, clear).convert("RGB")
  return image.convert("RGB")
