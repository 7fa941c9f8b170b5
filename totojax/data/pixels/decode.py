"""Frames of a video by their number, through PyAV (the `data` extra).

A video is a file by its path or URL, or the bytes of one, with its `Timeline`.
`read_images` decodes from the key frame before the first wanted frame to the
last wanted one and keeps the wanted ones alone, resized, as it finds them:
memory does not grow with the video's length. Pixels are taken as square.

A frame is the one that was asked for, or there is none: a seek that lands
behind it, or where a decoder does not begin clean, is made again from further
back; times that turn out not to be those of the frames are an error of their
own (`Disordered`), and so is damage that reaches a wanted frame.
"""

import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import functools
import struct
from typing import Any, NamedTuple

import numpy as np

from totojax.data.pixels import augment, containers
from totojax.data.pixels.timelines import REORDERED, Timeline

SEEK_GAP_S = 10.0  # shorter gaps are decoded through: a seek costs as much
EARLIER_S = (0.0, 2.0, SEEK_GAP_S)  # before the wanted frame: where a seek is tried
SLACK_FRAMES = 2  # frames that a decoder may drop: the one before stays on the screen

# What FFmpeg calls the filters of `augment`. Its scaler widens them where an
# image shrinks, as Pillow does, and so does not alias.
_INTERPOLATION = {"bicubic": "BICUBIC", "bilinear": "BILINEAR", "lanczos": "LANCZOS"}
# A stream's matrix of colours (H.273) to what FFmpeg's scaler calls it; streams
# that say nothing (2), or hold RGB (0), are taken as BT.601, as FFmpeg does.
_MATRICES = {0: 5, 1: 1, 2: 5, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
_FULL_RANGE = 2
_PREDICTED, _BIDIRECTIONAL = (2, 3), 3  # FFmpeg's picture types: P, B
_ROUNDING_S = 1e-6


@dataclasses.dataclass
class Tally:
  """What an item cost or lacked, counted while it is read."""

  restarts: int = 0  # seeks that had to start over
  short: str = ""  # what was done as it is too short for a clip: "skip", "stride 2", "hold"


def slowed(restarts: int) -> str:
  """A line about seeks that had to start over."""
  return f"{restarts} seeks missed and were made again from further back: slow files"


class Disordered(containers.Undecodable):
  """The times of a file are not those of its frames."""


def read_images(
  source: containers.VideoInput,
  wanted: Sequence[int],
  *,
  timeline: Timeline,
  prepare: augment.Resize,
  tally: Tally | None = None,
) -> dict[int, np.ndarray]:
  """The wanted frames by number, uint8 RGB [H, W, 3], upright and resized.

  Args:
    source: the video.
    wanted: frame numbers, ascending and distinct.
    timeline: the file's, from `timelines.read`.
    prepare: how they are resized.
    tally: gets the seeks that had to start over.

  Raises:
    Disordered: the file's times are not those of its frames.
    Undecodable: damaged where frames are wanted.
  """
  images: dict[int, np.ndarray] = {}
  with containers.readable():
    for part in _segments(np.asarray(wanted), timeline):
      segment, restarts = _segment(source, part, timeline=timeline, prepare=prepare)
      images |= segment
      if tally is not None:
        tally.restarts += restarts
  return images


def nearest(sorted_values: np.ndarray) -> Callable[[float], int]:
  """Of values in order: what gives the index of the one nearest to another."""
  middles = (sorted_values[:-1] + sorted_values[1:]) / 2
  # Asked for each frame, and a twentieth of what an array function costs.
  return functools.partial(bisect.bisect_right, middles)


def _segments(wanted: np.ndarray, timeline: Timeline) -> list[list[int]]:
  """Wanted frames, split where seeking saves decoding."""
  if timeline.counted:
    return [wanted.tolist()]
  gaps_s = np.diff(timeline.times_s[wanted])
  cuts = np.flatnonzero(gaps_s > SEEK_GAP_S) + 1
  return [part.tolist() for part in np.split(wanted, cuts)]


def _segment(
  source: containers.VideoInput, wanted: list[int], *, timeline: Timeline, prepare: augment.Resize
) -> tuple[dict[int, np.ndarray], int]:
  """The wanted frames of one segment, and how many seeks were in vain."""
  first_s = timeline.times_s[wanted[0]]
  starts: list[float | None] = [None]
  if not timeline.counted:
    # Further back helps where an index points at the key frame after, and in
    # streams that are sought in by bytes.
    earlier = [first_s - back_s for back_s in EARLIER_S]
    far = [seek_s for seek_s in earlier if seek_s - timeline.begin_s > 0.0]
    starts = far + starts if first_s - timeline.begin_s > SEEK_GAP_S else starts
  for tried, seek_s in enumerate(starts):
    try:
      images = _decode_from(source, wanted, timeline=timeline, prepare=prepare, seek_s=seek_s)
      return images, tried
    except (Disordered, ImportError):
      raise
    except (containers.Undecodable, containers.pyav().FFmpegError):
      if seek_s is None:
        raise
  raise AssertionError("the start of the file is tried last")


class _Shown(NamedTuple):
  """A frame as it is shown: its number, and whether damage reaches it."""

  frame: Any
  place: int
  smeared: bool


def _decode_from(
  source: containers.VideoInput,
  wanted: list[int],
  *,
  timeline: Timeline,
  prepare: augment.Resize,
  seek_s: float | None,
) -> dict[int, np.ndarray]:
  """Decodes from the key frame before `seek_s`; None: from the start.

  A wanted frame that the decoder leaves out is stood in for by the one that
  stays on the screen, or by the first of the video, at most SLACK_FRAMES away.

  Raises:
    Disordered, Undecodable: as `read_images`; and where a seek led to no key
      frame before the first wanted frame.
  """
  images: dict[int, np.ndarray] = {}
  left = wanted[::-1]
  times_s = timeline.times_s
  missing = f"frames around {times_s[wanted[0]]:.2f} s of {times_s[-1]:.2f} s do not decode"
  container, stream = containers.open_video(source, untrimmed=timeline.counted)
  # One for all frames: it keeps what converting their format needs.
  reformatter = containers.pyav().video.reformatter.VideoReformatter()
  with container:
    first_s = None
    if seek_s is not None:
      first_s = times_s[wanted[0]]
      container.seek(int(seek_s / stream.time_base), stream=stream)
    before: _Shown | None = None
    between, more = False, REORDERED
    for shown in _shown(container.decode(stream), timeline, first_s=first_s):
      # A picture between two others is made from both of them.
      if shown.frame.is_corrupt and between:
        raise containers.Undecodable(f"damaged around {times_s[shown.place]:.2f} s")
      between = between and _is_between(shown.frame)
      while left and left[-1] <= shown.place:
        number = left.pop()
        picked = shown if number == shown.place or before is None else before
        if abs(number - picked.place) > SLACK_FRAMES:
          raise containers.Undecodable(missing)
        if picked.smeared:
          raise containers.Undecodable(f"damaged around {times_s[number]:.2f} s")
        images[number] = _image(picked.frame, reformatter, prepare)
        between = _is_between(shown.frame)
      before = shown
      if not left:
        more -= 1
        if not between or not more:
          return images
  if before is None or (left and left[0] - before.place > SLACK_FRAMES):
    raise containers.Undecodable(missing)
  if left and before.smeared:
    raise containers.Undecodable(f"damaged around {times_s[before.place]:.2f} s")
  return images | {number: _image(before.frame, reformatter, prepare) for number in left}


def _shown(frames: Iterable, timeline: Timeline, *, first_s: float | None) -> Iterator[_Shown]:
  """Decoded frames with their numbers.

  Args:
    frames: as the decoder shows them.
    timeline: the file's.
    first_s: of the first wanted frame, after a seek; None without one.

  Raises:
    Disordered: their times go back.
    Undecodable: after a seek, the first is no key frame or lies behind.
  """
  place, smeared, last_s = -1, False, -np.inf
  place_at = nearest(timeline.times_s)
  for count, frame in enumerate(frames):
    time_s = None if timeline.counted else frame.time
    if first_s is not None and not count:
      if time_s is None or time_s > first_s + _ROUNDING_S or not _is_clean(frame):
        raise containers.Undecodable(f"no clean key frame before {first_s:.2f} s is found")
    # What the decoder knows to be damaged, and what is made from it.
    smeared = frame.is_corrupt or (smeared and not _is_clean(frame))
    if time_s is None:
      place = count if timeline.counted else place + 1
    else:
      if time_s <= last_s:
        raise Disordered(f"the times of its frames go back at {time_s:.2f} s")
      last_s = time_s
      if time_s < timeline.times_s[0] - timeline.gap_s:
        continue  # before the stretch that the timeline is about
      place = place_at(time_s)
    yield _Shown(frame, place, smeared)


def _is_clean(frame) -> bool:
  """Whether a decoder begins clean here: a key frame made from no other.

  Streams that are refreshed in parts name places as key frames at which parts
  of the picture are still missing.
  """
  return bool(frame.key_frame) and int(frame.pict_type) not in _PREDICTED


def _is_between(frame) -> bool:
  return int(frame.pict_type) == _BIDIRECTIONAL


def _image(frame, reformatter, prepare: augment.Resize) -> np.ndarray:
  """A decoded frame, resized and upright.

  Scaled while its colours are converted, which costs a part of doing the one
  after the other. Matrix and range are the stream's.
  """
  height, width = prepare.size(frame.height, frame.width)
  matrix = _MATRICES.get(int(frame.colorspace))
  if matrix is None:
    raise containers.Undecodable(
      f"its colours have matrix {int(frame.colorspace)} (ITU-T H.273), which cannot be converted"
    )
  image_HW3 = reformatter.reformat(
    frame,
    width=width,
    height=height,
    format="rgb24",
    src_colorspace=matrix,
    dst_colorspace=matrix,
    src_color_range=int(frame.color_range),
    dst_color_range=_FULL_RANGE,
    interpolation=_INTERPOLATION[prepare.resample],
  ).to_ndarray()
  return np.ascontiguousarray(_upright(image_HW3, frame))


def _upright(image_HW3: np.ndarray, frame) -> np.ndarray:
  """The image as a player shows it: one of eight turned and mirrored ones.

  A point (x, y) is shown at (a x + c y, b x + d y) of the display matrix
  (ISO 14496-12, 6.2.2); oblique ones are shown at the nearest right angle.
  """
  side = frame.side_data.get("DISPLAYMATRIX")
  if side is None:
    return image_HW3
  a, b, _, c, d, *_ = struct.unpack("=9i", bytes(side))
  across, down = a, d
  if abs(a) < abs(b):
    image_HW3, across, down = image_HW3.swapaxes(0, 1), c, b
  return image_HW3[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]
