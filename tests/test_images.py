"""Image files of every kind, and files that are none."""

import dataclasses
import io
import struct
import zlib

import numpy as np
from PIL import Image
import pytest

from totojax.data.pixels import images, media
from totojax.data.sources import items

SPEC = images.ImageSpec(size_px=8, crops=3, crop="random", resample="bicubic", animated="refuse")
RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (12, 20, 3), np.uint8)


def encode(picture, fmt="PNG", **how):
  if isinstance(picture, np.ndarray):
    picture = Image.fromarray(picture)
  file = io.BytesIO()
  picture.save(file, fmt, **how)
  return file.getvalue()


def read(data):
  return images.read(data, animated="refuse")


def load(tmp_path, data, spec=SPEC, seed=0):
  path = tmp_path / "an image.png"
  path.write_bytes(data)
  return media.load(items.Item("i", path), spec, seed=seed)


def test_crops_are_windows_of_the_resized_image(tmp_path):
  crops = load(tmp_path, encode(PHOTO))
  assert crops.shape == (3, 1, 8, 8, 3) and crops.dtype == np.uint8
  resized = np.asarray(Image.fromarray(PHOTO).resize((13, 8), Image.Resampling.BICUBIC))
  windows = [resized[:, left : left + 8] for left in range(6)]
  for crop in crops:
    assert any((crop[0] == window).all() for window in windows)
  assert len({crop.tobytes() for crop in crops}) > 1
  np.testing.assert_array_equal(crops, load(tmp_path, encode(PHOTO)))
  assert (crops != load(tmp_path, encode(PHOTO), seed=1)).any()
  # A crop does not depend on how many others are asked for.
  one = dataclasses.replace(SPEC, crops=1)
  np.testing.assert_array_equal(load(tmp_path, encode(PHOTO), one), crops[:1])
  middle = dataclasses.replace(SPEC, crops=1, crop="center")
  center = load(tmp_path, encode(PHOTO), middle)
  np.testing.assert_array_equal(center[0, 0], windows[2])


GREY = PHOTO[..., 0]


@pytest.mark.parametrize("fmt", ["PNG", "BMP", "TIFF", "PPM"])
def test_formats_without_loss(fmt):
  np.testing.assert_array_equal(read(encode(PHOTO, fmt)), PHOTO)


def test_grey_one_bit_and_palette():
  want = np.stack([GREY] * 3, -1)
  np.testing.assert_array_equal(read(encode(GREY)), want)
  bits = Image.fromarray(GREY).convert("1", dither=Image.Dither.NONE)
  got = read(encode(bits))
  np.testing.assert_array_equal(got, np.where(want >= 128, 255, 0))
  few = Image.fromarray(PHOTO).quantize(4)
  got = read(encode(few))
  np.testing.assert_array_equal(got, np.asarray(few.convert("RGB")))
  assert len(np.unique(got.reshape(-1, 3), axis=0)) == 4


def test_a_bit_of_a_png_s_pixels_that_changed_is_seen():
  """Pillow alone compares no checksum of pixels."""
  sound = encode(PHOTO.repeat(8, 0).repeat(9, 1))
  start, believed = sound.index(b"IDAT") + 4, 0
  for at in range(start, len(sound) - 20):
    data = bytearray(sound)
    data[at] ^= 1
    with pytest.raises(images.Unreadable, match="damaged PNG: chunk b'IDAT'"):
      read(bytes(data))
    try:
      believed += (np.asarray(Image.open(io.BytesIO(data))) != read(sound)).any()
    except (OSError, SyntaxError, ValueError):
      pass
  assert believed  # control


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(fmt):
  deep = np.array([[0, 128, 129, 257, 32768, 65406, 65535]] * 2, np.uint16)
  got = read(encode(deep, fmt))
  want = np.rint(deep / 65535 * 255).astype(np.uint8)
  np.testing.assert_array_equal(got, np.stack([want] * 3, -1))
  # Control: Pillow alone makes nearly all of it white.
  alone = np.asarray(Image.open(io.BytesIO(encode(deep, fmt))).convert("L"))
  assert (alone != want).any()


def test_transparent_is_over_white():
  clear = np.dstack([PHOTO, np.zeros_like(GREY)])
  clear[:6, :, 3] = 255
  want = PHOTO.copy()
  want[6:] = 255
  np.testing.assert_array_equal(read(encode(clear)), want)
  half = np.dstack([np.zeros_like(PHOTO), np.full_like(GREY, 51)])
  np.testing.assert_array_equal(read(encode(half)), np.full_like(PHOTO, 204))
  both = Image.fromarray(np.dstack([GREY, clear[..., 3]]), "LA")
  np.testing.assert_array_equal(read(encode(both))[6:], want[6:])
  # One colour of a palette, or of grey, may be the transparent one.
  few = Image.fromarray(GREY // 64).convert("L")
  got = read(encode(few, transparency=2))
  assert (got[GREY // 64 == 2] == 255).all()
  assert (got[GREY // 64 == 1] == 1).all()


def test_cmyk_colours_are_the_right_way_round():
  # Cyan, magenta, yellow and black ink, without compression loss in TIFF.
  inks = np.zeros((16, 64, 4), np.uint8)
  for i in range(4):
    inks[:, 16 * i : 16 * i + 16, i] = 255
  want = [(0, 255, 255), (255, 0, 255), (255, 255, 0), (0, 0, 0)]
  picture = Image.fromarray(inks, "CMYK")
  for fmt in ("TIFF", "JPEG"):  # in JPEG as Adobe has it: inverted
    got = read(encode(picture, fmt))[8, 8::16].astype(int)
    assert np.abs(got - want).max() <= (0 if fmt == "TIFF" else 4), fmt


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
  upright = np.zeros((16, 32, 3), np.uint8)
  upright[:8, :16] = (255, 0, 0)  # red at the top left
  upright[8:, :16] = (0, 0, 255)
  # What a camera stores is what these turn back (EXIF 2.3, tag 274).
  stored = {
    1: upright,
    2: upright[:, ::-1],
    3: upright[::-1, ::-1],
    4: upright[::-1],
    5: upright.swapaxes(0, 1),
    6: np.rot90(upright),
    7: upright[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90(upright, -1),
  }[orientation]
  exif = Image.Exif()
  exif[images.EXIF_ORIENTATION] = orientation
  data = encode(np.ascontiguousarray(stored), exif=exif)
  np.testing.assert_array_equal(read(data), upright)


@pytest.mark.parametrize("fmt", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_are_refused_or_give_the_first(fmt, tmp_path):
  frames = [Image.new("RGB", (20, 12), color) for color in ("red", "blue")]
  data = encode(frames[0], fmt, save_all=True, append_images=frames[1:], lossless=True)
  row = load(tmp_path, data)
  assert row.id == "i" and "2 pictures in one" in row.reason
  first = dataclasses.replace(SPEC, animated="first")
  assert (load(tmp_path, data, first) == (255, 0, 0)).all()
  still = encode(frames[0], fmt, lossless=True)
  assert (load(tmp_path, still) == (255, 0, 0)).all()  # the control


def chunk(kind, data):
  crc = zlib.crc32(kind + data)
  return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def png(width, height, *, bits, pixels):
  """An RGB file as its format has it, whatever Pillow would write."""
  head = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
  return b"\x89PNG\r\n\x1a\n" + b"".join(
    chunk(kind, data)
    for kind, data in ((b"IHDR", head), (b"IDAT", zlib.compress(pixels)), (b"IEND", b""))
  )


def bomb(width, height):
  return png(width, height, bits=8, pixels=bytes(100))


def test_sixteen_bit_colour_keeps_the_high_byte():
  deep = RNG.integers(0, 2**16, (5, 4, 3)).astype(">u2")
  rows = b"".join(b"\0" + row.tobytes() for row in deep)
  got = read(png(4, 5, bits=16, pixels=rows))
  np.testing.assert_array_equal(got, deep >> 8)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
  "name, reason",
  [
    ("empty", "0 bytes"),
    ("text", "no image of a known format"),
    ("heic", "no image of a known format"),
    ("postscript", "no image of a known format"),
    ("jpeg cut", "OSError"),
    ("png cut", "a damaged PNG: chunk b'IDAT'"),
    ("head alone", "a damaged PNG: chunk b'IHDR'"),
    ("bomb", "more than 89000000"),
    ("big bomb", "DecompressionBombError"),
    ("ribbon", "longer than 64 to 1"),
    ("float", "mode F"),
    ("32 bits", "mode I"),
    ("lab", "mode LAB"),
  ],
)
def test_bad_files_are_rows(name, reason, tmp_path):
  jpeg, whole = encode(PHOTO, "JPEG"), encode(PHOTO)
  data = {
    "empty": b"",
    "text": b"<html>404</html>",
    "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "jpeg cut": jpeg[: len(jpeg) * 2 // 3],
    "png cut": whole[: len(whole) // 2],
    "head alone": whole[:20],
    "bomb": bomb(9500, 9500),
    "big bomb": bomb(60_000, 60_000),
    "ribbon": encode(np.zeros((2, 200, 3), np.uint8)),
    "float": encode(GREY.astype(np.float32), "TIFF"),
    "32 bits": encode(GREY.astype(np.int32), "TIFF"),
    "lab": encode(Image.new("LAB", (20, 20)), "TIFF"),
  }[name]
  row = load(tmp_path, data)
  assert isinstance(row, items.Skipped) and row.id == "i"
  assert reason in row.reason


def test_damaged_bytes_never_raise(tmp_path):
  sources = [encode(PHOTO, fmt) for fmt in ("PNG", "JPEG", "GIF", "WEBP")]
  rng = np.random.default_rng(1)
  good = 0
  for data in sources * 15:
    hurt = bytearray(data)
    for place in rng.integers(0, len(hurt), 4):
      hurt[place] = rng.integers(256)
    result = load(tmp_path, bytes(hurt))
    good += isinstance(result, np.ndarray)
    assert isinstance(result, (np.ndarray, items.Skipped))
  assert 0 < good < 60  # both happen


def test_a_missing_file_stops_and_a_dead_link_is_a_row(tmp_path):
  """A file that was listed and is gone says nothing about the item."""
  gone = tmp_path / "none.png"
  with pytest.raises(media.SourceLost, match="none.png was listed"):
    media.load(items.Item("i", gone), SPEC, seed=0)
  (tmp_path / "link.png").symlink_to(gone)
  row = media.load(items.Item("i", tmp_path / "link.png"), SPEC, seed=0)
  assert "No such file" in row.reason


def test_spec_refuses_nonsense():
  for change, told in (
    ({"crops": 0}, "image.crops is 0"),
    ({"crop": "middle"}, "'', 'random' or 'center'"),
    ({"animated": "all"}, "'refuse' or 'first'"),
    ({"resample": "nearest"}, "'bicubic'"),
    ({"crop": "center"}, "use 1"),
  ):
    with pytest.raises(ValueError, match=told):
      dataclasses.replace(SPEC, **change)
