"""Frames as files that are played or looked at: WebP, MP4, a strip of PNG.

Shapes: T frames, H and W pixels, C columns.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import fractions
import io
from typing import Any

import numpy as np
from PIL import Image

from totojax.data.pixels import containers

_GAP_PX, _BAR_PX = 4, 4
_PAPER, _GIVEN, _MADE, _NOTHING = (
  np.array(colour, np.uint8)
  for colour in ((255, 255, 255), (150, 150, 150), (226, 118, 27), (40, 40, 40))
)
# Name -> encoder of FFmpeg, and its options beside the quality.
_ENCODERS = {
  "h264": ("libx264", {"preset": "medium"}),
  "vp9": ("libvpx-vp9", {"b": "0", "row-mt": "1"}),
}
_MOST_SIDE_PX = 16383  # of a WebP


class NoEncoder(ValueError):
  """PyAV cannot write such a file; the message has what to do."""


def webp(frames_THW3: np.ndarray, *, fps: float) -> bytes:
  """A lossless animated WebP that starts again at its end."""
  if max(frames_THW3.shape[1:3]) > _MOST_SIDE_PX:
    raise ValueError(
      f"frames are {frames_THW3.shape[1:3]} pixels; a WebP has up to {_MOST_SIDE_PX} a side: draw"
      " fewer samples, or smaller frames (output.samples, output.side_px)"
    )
  first, *rest = map(Image.fromarray, frames_THW3)
  buffer = io.BytesIO()
  first.save(
    buffer,
    format="webp",
    lossless=True,
    quality=50,  # of a lossless one: how hard it is tried to be small
    method=2,
    exact=True,
    save_all=True,
    append_images=rest,
    duration=max(round(1000 / fps), 1),
    loop=0,
    minimize_size=False,
    allow_mixed=False,
  )
  return buffer.getvalue()


def mp4(frames: Iterable[np.ndarray], *, fps: float, codec: str, crf: int) -> bytes:
  """An MP4 (4:2:0, so that any player shows it).

  Args:
    frames: uint8 [H, W, 3], taken one at a time; odd sides get another line of pixels.
    fps: frames a second.
    codec: "h264" or "vp9".
    crf: constant rate factor: 0 is best.

  Raises:
    ImportError: PyAV is missing.
    NoEncoder: it has no such encoder.
  """
  name, options = _ENCODERS[codec]
  advice = f"PyAV cannot write {codec} ({{}}); set output.codec to another one, or to ''"
  options = {**options, "crf": str(crf)}
  return _encoded(frames, "mp4", name, options, "yuv420p", fps=fps, advice=advice)


def avi(frames_THW3: np.ndarray, *, fps: float, quality: int) -> bytes:
  """An AVI of JPEGs, as Blender writes: every frame is a key frame.

  Args:
    frames_THW3: uint8; odd sides get another line of pixels.
    fps: frames a second.
    quality: FFmpeg's scale of JPEGs, 2 (best) to 31.

  Raises:
    ImportError: PyAV is missing.
    NoEncoder: it has no such encoder.
  """
  options = {"qmin": str(quality), "qmax": str(quality)}
  advice = "PyAV cannot write an AVI of JPEGs ({}); install another version of it"
  return _encoded(frames_THW3, "avi", "mjpeg", options, "yuvj420p", fps=fps, advice=advice)


def _encoded(
  frames: Iterable[np.ndarray],
  kind: str,
  encoder: str,
  options: Mapping[str, str],
  pixels: str,
  *,
  fps: float,
  advice: str,
) -> bytes:
  """A file of a kind; NoEncoder with the advice, which gets FFmpeg's error."""
  av = containers.pyav()
  buffer = io.BytesIO()
  rate = fractions.Fraction(fps).limit_denominator(1001)
  with contextlib.ExitStack() as stack:
    with _advised(av, advice):
      container = stack.enter_context(av.open(buffer, "w", format=kind))
      stream = container.add_stream(encoder, rate=rate, options=dict(options))
      stream.pix_fmt = pixels
    for number, frame_HW3 in enumerate(frames):
      height, width = frame_HW3.shape[:2]
      even_HW3 = np.pad(frame_HW3, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
      with _advised(av, advice):
        if not number:
          stream.height, stream.width = even_HW3.shape[:2]
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even_HW3), format="rgb24")
        container.mux(stream.encode(frame))
    with _advised(av, advice):
      container.mux(stream.encode())
      container.close()
  return buffer.getvalue()


@contextlib.contextmanager
def _advised(av: Any, advice: str) -> Iterator[None]:
  """FFmpeg's errors in the block, and not those of what makes frames, with an advice."""
  try:
    yield
  except (av.FFmpegError, ValueError) as error:
    raise NoEncoder(advice.format(error)) from error


def png(pixels_HW3: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(pixels_HW3).save(buffer, format="png", optimize=True)
  return buffer.getvalue()


def enlarged(frames_THW3: np.ndarray, *, side_px: int) -> np.ndarray:
  """Frames a whole number of times as large, the least that gives so many pixels."""
  times = max(-(-side_px // min(frames_THW3.shape[1:3])), 1)
  return frames_THW3.repeat(times, 1).repeat(times, 2)


def beside(columns: Sequence[tuple[np.ndarray, int]], *, frames: int) -> np.ndarray:
  """Videos side by side, each below a bar that says whether a frame was given or made.

  Args:
    columns: (uint8 [T, H, W, 3], how many of these are given, the bar being grey).
      One that ends early is dark from there on.
    frames: of the result.
  """
  parts = []
  for column_THW3, given in columns:
    shape = frames, *column_THW3.shape[1:]
    whole = np.broadcast_to(_NOTHING, shape).copy()
    whole[: len(column_THW3)] = column_THW3[:frames]
    bar = np.empty((frames, _BAR_PX, *shape[2:]), np.uint8)
    bar[:], bar[:given] = _MADE, _GIVEN
    gap = np.broadcast_to(_PAPER, (frames, _BAR_PX + shape[1], _GAP_PX, 3))
    parts += [np.concatenate([bar, whole], axis=1), gap]
  return np.concatenate(parts[:-1], axis=2)


def strip(columns: Sequence[tuple[np.ndarray, int]], places: Sequence[int]) -> np.ndarray:
  """uint8 [H, W, 3]: some frames of `beside`'s columns, a row for each."""
  last = max(places) + 1
  rows = [beside([column], frames=last)[list(places)] for column in columns]
  gap = lambda row: np.broadcast_to(_PAPER, (row.shape[1], _GAP_PX, 3))
  lines = []
  for row in rows:
    tiles = [tile for frame in row for tile in (frame, gap(row))][:-1]
    line = np.concatenate(tiles, axis=1)
    lines += [line, np.broadcast_to(_PAPER, (_GAP_PX, line.shape[1], 3))]
  return np.concatenate(lines[:-1], axis=0)


def scaled(frame_HW3: np.ndarray, width_px: int) -> np.ndarray:
  """A frame at another width, of the same ratio."""
  height = max(round(frame_HW3.shape[0] * width_px / frame_HW3.shape[1]), 1)
  return np.asarray(Image.fromarray(frame_HW3).resize((width_px, height), Image.Resampling.BOX))


def joined(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
  """Pictures of one size side by side, rows below each other, with gaps."""
  lines = []
  for row in rows:
    gap = np.full((len(row[0]), _GAP_PX, 3), 255, np.uint8)
    line = np.concatenate([part for tile in row for part in (tile, gap)][:-1], axis=1)
    lines += [line, np.full((_GAP_PX, line.shape[1], 3), 255, np.uint8)]
  return np.concatenate(lines[:-1])


def still(pixels_HW3: np.ndarray) -> bytes:
  """A WebP of one picture, smaller than a PNG of photographs."""
  buffer = io.BytesIO()
  Image.fromarray(pixels_HW3).save(buffer, format="webp", quality=85)
  return buffer.getvalue()
