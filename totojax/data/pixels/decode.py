"""Frames of a video by their number, through PyAV (the `data` extra).

A video is a file by its path or URL, or the bytes of one.
`read_timeline` reads when each frame is shown, from the packets and without
decoding; `read_images` decodes from the key frame before the first wanted frame
to the last wanted one and keeps the wanted ones alone, resized, as it finds
them: memory does not grow with the video's length. Pixels are taken as square.
"""

from collections.abc import Sequence
import contextlib
import dataclasses
import io
import os
from typing import Any

import numpy as np

from totojax.data.pixels import augment
from totojax.storage import objects, reading

SEEK_GAP_S = 10.0  # shorter gaps are decoded through: a seek costs as much
HEAD_PACKETS = 64  # among them is the first frame that is shown
STRETCH_SLACK_S = 2.0  # read on either side of a stretch
SLACK_FRAMES = 2  # frames a decoder may drop next to one that stands in

VideoInput = str | os.PathLike[str] | bytes
# What FFmpeg calls the filters of `augment`. Its scaler widens them where an
# image shrinks, as Pillow does, and so does not alias.
_INTERPOLATION = {"bicubic": "BICUBIC", "bilinear": "BILINEAR", "lanczos": "LANCZOS"}


class Undecodable(ValueError):
  """A file gives no clip; the message is the reason, for people to read."""


@dataclasses.dataclass(frozen=True)
class Timeline:
  """When each frame is shown."""

  times_s: np.ndarray  # sorted times of all frames, or of those about a stretch
  gap_s: float  # usual time from one frame to the next
  # Whether the container's times cannot be trusted frame by frame, so that
  # decoded frames are counted from the start. AVI stores no presentation times,
  # and what decoders report for its B-frames can be out of order.
  counted: bool
  begin_s: float  # time of the file's first frame
  fps: float  # frames a second that the file's header says; 0.0: it says nothing


def read_timeline(
  source: VideoInput, *, start_s: float | None = None, end_s: float | None = None
) -> Timeline:
  """Reads the packets' times; decodes nothing.

  Args:
    source: the video.
    start_s: where the wanted stretch begins, from the first frame on.
    end_s: where it ends. Given one of the two, only packets about there are
      read, if the file can be searched: hours of video are many gigabytes.

  Raises:
    Undecodable: no video in the file, or no times.
    ImportError: PyAV is missing.
  """
  with _readable():
    if not _has_bytes(source):
      raise Undecodable("the file is empty (0 bytes)")
    timeline = None
    if start_s is not None or end_s is not None:
      timeline = _read_stretch(source, start_s, end_s)
    return _read_all(source) if timeline is None else timeline


def _has_bytes(source: VideoInput) -> bool:
  if isinstance(source, bytes):
    return bool(source)
  with reading.open_file(os.fspath(source)) as file:
    return bool(file.read(1))


def _read_all(source: VideoInput) -> Timeline:
  container, stream = _open(source)
  with container:
    ticks, counted = _ticks(container, stream)
    counted |= "avi" in container.format.name
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
  return _timeline(times_s, rate, counted=counted, begin_s=float(times_s[0]))


def _read_stretch(
  source: VideoInput, start_s: float | None, end_s: float | None
) -> Timeline | None:
  """The timeline about a stretch; None where all must be read to know it."""
  container, stream = _open(source)
  with container:
    base = float(stream.time_base or 0)
    head, counted = _ticks(container, stream, most=HEAD_PACKETS)
    if counted or not head or not base or "avi" in container.format.name:
      return None
    begin, after_s = min(head), 0.0 if start_s is None else start_s
    # A little early, so that the frame before is known as well.
    target = begin + int(max(0.0, after_s - STRETCH_SLACK_S) / base)
    container.seek(target, stream=stream)
    last = None
    if end_s is not None:
      last = begin + int((end_s + STRETCH_SLACK_S) / base)
    ticks, counted = _ticks(container, stream, last=last)
    rate = float(stream.average_rate or 0)
  if counted or not ticks or min(ticks) > target:
    return None
  times_s = np.sort(np.array(ticks, np.float64)) * base
  return _timeline(times_s, rate, counted=False, begin_s=begin * base)


def _ticks(
  container, stream, *, most: int | None = None, last: int | None = None
) -> tuple[list, bool]:
  """Times of the packets from here on, and whether some have none.

  Stops after `most` packets, or at the first that is decoded after `last`.
  """
  ticks, counted = [], False
  for packet in container.demux(stream):
    if not packet.size or packet.is_discard:
      continue
    counted |= packet.pts is None
    ticks.append(packet.dts if packet.pts is None else packet.pts)
    if len(ticks) == most:
      break
    if last is not None and (packet.dts or 0) > last:
      break
  return ticks, counted


def _timeline(times_s: np.ndarray, rate: float, *, counted: bool, begin_s: float) -> Timeline:
  gaps_s = np.diff(times_s)
  gap_s = float(np.median(gaps_s)) if len(gaps_s) else 1 / (rate or 30.0)
  return Timeline(times_s, gap_s, counted, begin_s, fps=rate)


def read_images(
  source: VideoInput, wanted: Sequence[int], *, timeline: Timeline, prepare: augment.Resize
) -> dict[int, np.ndarray]:
  """The wanted frames by number: uint8 RGB [H, W, 3], upright, resized.

  Args:
    source: the video.
    wanted: frame numbers, ascending and distinct.
    timeline: the file's, from `read_timeline`.
    prepare: how they are resized.

  Raises:
    Undecodable: damaged where frames are wanted.
  """
  images = {}
  with _readable():
    for part in _segments(np.asarray(wanted), timeline):
      images |= _decode(source, part, timeline=timeline, prepare=prepare)
  return images


def nearest(sorted_values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
  """Index of the value nearest to each wanted one."""
  middles = (sorted_values[:-1] + sorted_values[1:]) / 2
  return np.searchsorted(middles, wanted, side="right")


@contextlib.contextmanager
def _readable():
  """Turns what PyAV and the file system raise into `Undecodable`."""
  av = pyav()
  try:
    yield
  except Undecodable:
    raise
  except (av.FFmpegError, OSError, ValueError, ArithmeticError, EOFError) as error:
    raise Undecodable(f"{type(error).__name__}: {error}") from error


def pyav() -> Any:
  """The package that reads videos.

  Raises:
    ImportError: it is missing; names the extra that brings it.
  """
  try:
    import av  # pylint: disable=g-import-not-at-top
  except ImportError as error:
    raise ImportError(
      'decoding video needs PyAV; install it with: pip install "totojax[data]"'
    ) from error
  return av


def _open(source: VideoInput):
  """The container, and its video stream (cover art of audio is none)."""
  av = pyav()
  # Titles in old encodings must not make a file unreadable. PyAV 19 has no such
  # argument and needs none: it reads any title.
  old = int(av.__version__.partition(".")[0]) < 19
  lenient = {"metadata_errors": "replace"} if old else {}
  container = av.open(_handle(source), **lenient)
  cover = av.stream.Disposition.attached_pic
  for stream in container.streams.video:
    if not stream.disposition & cover:
      return container, stream
  container.close()
  raise Undecodable("no video stream in the file")


def _handle(source: VideoInput):
  """What PyAV opens: a path, or a file for what it cannot name."""
  if isinstance(source, bytes):
    return io.BytesIO(source)
  if objects.is_url(source):
    return reading.open_file(os.fspath(source))
  path = os.path.abspath(source)  # "a:b.mp4" alone would be a protocol
  try:
    path.encode()
  except UnicodeEncodeError:  # bytes in the name that are no UTF-8
    return open(path, "rb")
  return path


def _segments(wanted: np.ndarray, timeline: Timeline) -> list[Sequence[int]]:
  """Wanted frames, split where seeking saves decoding."""
  if timeline.counted:
    return [wanted.tolist()]
  gaps_s = np.diff(timeline.times_s[wanted])
  cuts = np.flatnonzero(gaps_s > SEEK_GAP_S) + 1
  return [part.tolist() for part in np.split(wanted, cuts)]


def _decode(
  source: VideoInput, wanted: Sequence[int], *, timeline: Timeline, prepare: augment.Resize
) -> dict[int, np.ndarray]:
  """The wanted frames of one segment, by number."""
  times_s = timeline.times_s
  first_s = times_s[wanted[0]]
  far = first_s - timeline.begin_s > SEEK_GAP_S
  if far and not timeline.counted:
    images = _decode_from(source, wanted, timeline=timeline, prepare=prepare, seek_s=first_s)
    if images is not None:
      return images
  # Near the start, or the seek landed too late (files without an index).
  images = _decode_from(source, wanted, timeline=timeline, prepare=prepare, seek_s=None)
  if images is None:
    raise Undecodable(f"frames around {first_s:.2f} s of {times_s[-1]:.2f} s do not decode")
  return images


def _decode_from(
  source: VideoInput,
  wanted: Sequence[int],
  *,
  timeline: Timeline,
  prepare: augment.Resize,
  seek_s: float | None,
) -> dict[int, np.ndarray] | None:
  """Decodes from the key frame before `seek_s`; None if frames are missing.

  A wanted frame that the decoder leaves out is stood in for by the nearest
  after it, or by the last of the video, at most SLACK_FRAMES away.
  """
  images, left = {}, list(reversed(wanted))
  container, stream = _open(source)
  # One for all frames: it keeps what converting their format needs.
  reformatter = pyav().video.reformatter.VideoReformatter()
  with container:
    if seek_s is not None:
      container.seek(int(seek_s / stream.time_base), stream=stream)
    frame, place = None, -1
    for count, frame in enumerate(container.decode(stream)):
      if timeline.counted or frame.time is None:
        place = count if seek_s is None else place + 1
      else:
        if frame.time < timeline.times_s[0] - timeline.gap_s:
          continue  # before the stretch that the timeline is about
        place = int(nearest(timeline.times_s, frame.time))
      if place < left[-1]:
        continue
      image = _image(frame, reformatter, prepare)
      while left and left[-1] <= place:
        if place - left[-1] > SLACK_FRAMES:
          return None
        images[left.pop()] = image
      if not left:
        return images
    if place < 0 or left[0] - place > SLACK_FRAMES:
      return None
    return images | dict.fromkeys(left, _image(frame, reformatter, prepare))


def _image(frame, reformatter, prepare: augment.Resize) -> np.ndarray:
  """A decoded frame, resized and upright.

  Scaled while its colours are converted, which costs a part of doing the one
  after the other.
  """
  height, width = prepare.size(frame.height, frame.width)
  image_HW3 = reformatter.reformat(
    frame,
    width=width,
    height=height,
    format="rgb24",
    interpolation=_INTERPOLATION[prepare.resample],
  ).to_ndarray()
  # The noted rotation is counter-clockwise in degrees, as np.rot90 turns.
  turns = round(frame.rotation / 90) % 4
  return np.ascontiguousarray(np.rot90(image_HW3, turns))
