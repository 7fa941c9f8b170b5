"""Frames of a video file by their number, through PyAV (the `data` extra).

`read_timeline` reads when each frame is shown, from the packets and without
decoding; `read_images` decodes from the key frame before the first wanted frame
to the last wanted one and keeps the wanted ones alone, as `prepare` returns
them: memory does not grow with the video's length. Pixels are taken as square.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import pathlib

import numpy as np

SEEK_GAP_S = 10.0  # shorter gaps are decoded through: a seek costs as much
SLACK_FRAMES = 2  # frames a decoder may drop next to one that stands in

Prepare = Callable[[np.ndarray], np.ndarray]


class Undecodable(ValueError):
  """A file gives no clip; the message is the reason, for people to read."""


@dataclasses.dataclass(frozen=True)
class Timeline:
  """When each frame is shown.

  Attributes:
    times_s: sorted times of all frames.
    gap_s: usual time from one frame to the next.
    counted: whether the container's times cannot be trusted frame by frame, so
      that decoded frames are counted from the start. AVI stores no presentation
      times, and what decoders report for its B-frames can be out of order.
  """

  times_s: np.ndarray
  gap_s: float
  counted: bool


def read_timeline(path: pathlib.Path) -> Timeline:
  """Reads the packets' times; decodes nothing.

  Raises:
    Undecodable: no video in the file, or no times.
    ImportError: PyAV is missing.
  """
  with _readable():
    if not path.stat().st_size:
      raise Undecodable("the file is empty (0 bytes)")
    container, stream = _open(path)
    with container:
      counted = "avi" in container.format.name
      ticks = []
      for packet in container.demux(stream):
        if not packet.size or packet.is_discard:
          continue
        counted |= packet.pts is None
        ticks.append(packet.dts if packet.pts is None else packet.pts)
      rate = float(stream.average_rate or 0)
      base = float(stream.time_base or 0)
  if not ticks:
    raise Undecodable("the video stream holds no frame")
  if None in ticks or not base:
    if not rate:
      raise Undecodable("the file gives neither frame times nor a frame rate")
    times_s = np.arange(len(ticks)) / rate
  else:
    times_s = np.sort(np.array(ticks, np.float64)) * base
  gaps_s = np.diff(times_s)
  gap_s = float(np.median(gaps_s)) if len(gaps_s) else 1 / (rate or 30.0)
  return Timeline(times_s=times_s, gap_s=gap_s, counted=counted)


def read_images(
    path: pathlib.Path,
    wanted: Sequence[int],
    *,
    timeline: Timeline,
    prepare: Prepare,
) -> dict[int, np.ndarray]:
  """The wanted frames by number, each as `prepare` makes it.

  Args:
    path: the file.
    wanted: frame numbers, ascending and distinct.
    timeline: the file's, from `read_timeline`.
    prepare: from uint8 RGB [H, W, 3], upright, to what is kept.

  Raises:
    Undecodable: damaged where frames are wanted.
  """
  images = {}
  with _readable():
    for part in _segments(np.asarray(wanted), timeline):
      images |= _decode(path, part, timeline=timeline, prepare=prepare)
  return images


def nearest(sorted_values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
  """Index of the value nearest to each wanted one."""
  middles = (sorted_values[:-1] + sorted_values[1:]) / 2
  return np.searchsorted(middles, wanted, side="right")


@contextlib.contextmanager
def _readable():
  """Turns what PyAV and the file system raise into `Undecodable`."""
  av = _av()
  try:
    yield
  except Undecodable:
    raise
  except (av.FFmpegError, OSError, ValueError) as error:
    raise Undecodable(f"{type(error).__name__}: {error}") from error


def _av():
  try:
    import av  # pylint: disable=g-import-not-at-top
  except ImportError as error:
    raise ImportError(
        "decoding video needs PyAV; install it with: pip install"
        ' "totojax[data]"'
    ) from error
  return av


def _open(path: pathlib.Path):
  """The container, and its video stream (cover art of audio is none)."""
  av = _av()
  # Titles in old encodings must not make a file unreadable.
  container = av.open(str(path), metadata_errors="replace")
  cover = av.stream.Disposition.attached_pic
  for stream in container.streams.video:
    if not stream.disposition & cover:
      return container, stream
  container.close()
  raise Undecodable("no video stream in the file")


def _segments(
    wanted: np.ndarray, timeline: Timeline
) -> list[Sequence[int]]:
  """Wanted frames, split where seeking saves decoding."""
  if timeline.counted:
    return [wanted.tolist()]
  gaps_s = np.diff(timeline.times_s[wanted])
  cuts = np.flatnonzero(gaps_s > SEEK_GAP_S) + 1
  return [part.tolist() for part in np.split(wanted, cuts)]


def _decode(
    path: pathlib.Path,
    wanted: Sequence[int],
    *,
    timeline: Timeline,
    prepare: Prepare,
) -> dict[int, np.ndarray]:
  """The wanted frames of one segment, by number."""
  times_s = timeline.times_s
  first_s = times_s[wanted[0]]
  far = first_s - times_s[0] > SEEK_GAP_S
  if far and not timeline.counted:
    images = _decode_from(
        path, wanted, timeline=timeline, prepare=prepare, seek_s=first_s
    )
    if images is not None:
      return images
  # Near the start, or the seek landed too late (files without an index).
  images = _decode_from(
      path, wanted, timeline=timeline, prepare=prepare, seek_s=None
  )
  if images is None:
    raise Undecodable(
        f"frames around {first_s:.2f} s of {times_s[-1]:.2f} s do not decode"
    )
  return images


def _decode_from(
    path: pathlib.Path,
    wanted: Sequence[int],
    *,
    timeline: Timeline,
    prepare: Prepare,
    seek_s: float | None,
) -> dict[int, np.ndarray] | None:
  """Decodes from the key frame before `seek_s`; None if frames are missing.

  A wanted frame that the decoder leaves out is stood in for by the nearest
  after it, or by the last of the video, at most SLACK_FRAMES away.
  """
  images, left = {}, list(reversed(wanted))
  container, stream = _open(path)
  with container:
    if seek_s is not None:
      container.seek(int(seek_s / stream.time_base), stream=stream)
    frame, place = None, -1
    for count, frame in enumerate(container.decode(stream)):
      if timeline.counted or frame.time is None:
        place = count if seek_s is None else place + 1
      else:
        place = int(nearest(timeline.times_s, frame.time))
      if place < left[-1]:
        continue
      image = _image(frame, prepare)
      while left and left[-1] <= place:
        if place - left[-1] > SLACK_FRAMES:
          return None
        images[left.pop()] = image
      if not left:
        return images
    if frame is None or left[0] - place > SLACK_FRAMES:
      return None
    return images | dict.fromkeys(left, _image(frame, prepare))


def _image(frame, prepare: Prepare) -> np.ndarray:
  """A decoded frame, upright and prepared."""
  image_HW3 = frame.to_ndarray(format="rgb24")
  # The noted rotation is counter-clockwise in degrees, as np.rot90 turns.
  turns = round(frame.rotation / 90) % 4
  return prepare(np.ascontiguousarray(np.rot90(image_HW3, turns)))
