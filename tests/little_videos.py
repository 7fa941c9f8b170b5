"""Little videos whose frames carry their own number.

The left half of frame i shows its tens above its units, as greys of 40 + 20
times the digit; the right half is black. Which frame was decoded, and which
side is up, can be read off the pixels.
"""

import fractions

import numpy as np
import pytest

from totojax.data.sources import items

av = pytest.importorskip("av")


def picture(i, height=32, width=48):
  pixels = np.zeros((height, width, 3), np.uint8)
  tens, units = divmod(i % 110, 10)
  pixels[: height // 2, : width // 2] = 40 + 20 * tens
  pixels[height // 2 :, : width // 2] = 40 + 20 * units
  return pixels


def write(
  path,
  frames,
  *,
  rate=30,
  codec="mpeg4",
  gop=12,
  b_frames=0,
  pix_fmt="yuv420p",
  times=None,
  paint=picture,
):
  """Writes a video; `times` gives its frames other places than 0, 1, 2, ...

  Frame i is what `paint` makes of i: uint8 [32, 48, 3].
  """
  with av.open(str(path), "w") as container:
    container.metadata["title"] = "zzqqzzqq"
    stream = container.add_stream(codec, rate=rate)
    stream.height, stream.width = picture(0).shape[:2]
    stream.pix_fmt = pix_fmt
    stream.codec_context.gop_size = gop
    stream.codec_context.max_b_frames = b_frames
    stream.codec_context.bit_rate = 4_000_000
    for i in range(frames):
      frame = av.VideoFrame.from_ndarray(paint(i), format="rgb24")
      frame.pts = i if times is None else times[i]
      frame.time_base = fractions.Fraction(1, rate)
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return items.Item(path.name, path)


def numbers(clips_KTRR3):
  """Frame numbers, read off the first columns of each frame."""
  halves = np.split(clips_KTRR3[..., :4, 1].astype(float), 2, axis=2)
  tens, units = (np.rint((half.mean(axis=(2, 3)) - 40) / 20) for half in halves)
  return (10 * tens + units).astype(int)
