"""Videos whose frames carry their number, to be read at any size and quality.

Twelve blocks in three rows of four hold its bits, row by row from the lowest:
bright is 1, dark is 0. A picture that is smeared reads as none.
"""

import fractions

import av
import numpy as np

ROWS, COLUMNS = 3, 4
SMEARED = -1
_MARGIN = 0.25  # of a block, on each side, that is not looked at


def picture(number, height=96, width=128):
  """Frame `number`: uint8 [height, width, 3]."""
  bits = (number >> np.arange(ROWS * COLUMNS)) & 1
  blocks = np.where(bits.reshape(ROWS, COLUMNS), 210, 40).astype(np.uint8)
  grey = blocks.repeat(height // ROWS, 0).repeat(width // COLUMNS, 1)
  return np.repeat(grey[..., None], 3, 2)


def read(image_HW3):
  """The number in an image, or SMEARED."""
  green = np.asarray(image_HW3)[..., 1].astype(float)
  height, width = green.shape[0] / ROWS, green.shape[1] / COLUMNS
  number = 0
  for bit in range(ROWS * COLUMNS):
    row, column = divmod(bit, COLUMNS)
    top, bottom = ((row + side) * height for side in (_MARGIN, 1 - _MARGIN))
    left, right = ((column + side) * width for side in (_MARGIN, 1 - _MARGIN))
    block = green[int(top) : int(bottom), int(left) : int(right)]
    if 90 < block.mean() < 160 or block.std() > 25:
      return SMEARED
    number |= int(block.mean() > 125) << bit
  return number


def write(path, frames, *, codec, rate=30, gop=60, b_frames=0, options=None, pix_fmt="yuv420p"):
  """Writes a video of frames 0, 1, 2, ..."""
  with av.open(str(path), "w") as container:
    stream = container.add_stream(codec, rate=rate, options=options or {})
    stream.height, stream.width, stream.pix_fmt = *picture(0).shape[:2], pix_fmt
    stream.codec_context.gop_size = gop
    if b_frames:
      stream.codec_context.max_b_frames = b_frames
    for i in range(frames):
      frame = av.VideoFrame.from_ndarray(picture(i), format="rgb24")
      frame.pts, frame.time_base = i, fractions.Fraction(1, rate)
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return path
