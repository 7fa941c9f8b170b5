"""When each frame of a video is shown, from its packets and without decoding.

A container's times are believed where they can be: distinct, and in an order
that a codec may have decoded them in. Times that start again (files that were
joined), repeat, are zero, or are those of decoding in place of presentation do
not say which frame is which: frames are then counted, in the order in which the
decoder shows them.
"""

import dataclasses

import numpy as np

from totojax.data.pixels import containers

HEAD_PACKETS = 64  # among them is the first frame that is shown
STRETCH_SLACK_S = 2.0  # read on either side of a stretch
REORDERED = 16  # frames that a frame may be decoded before or after its turn
# Containers whose times are none of presentation (AVI), or are seen to lie
# (program streams), and streams without a container.
_COUNTED = frozenset("avi mpeg mpegvideo h264 hevc m4v".split())
_INDEXED = frozenset("mov matroska".split())  # a place in them can be looked up


@dataclasses.dataclass(frozen=True)
class Timeline:
  """When each frame is shown.

  Attributes:
    times_s: sorted times of all frames, or of those about a stretch.
    gap_s: usual time from one frame to the next.
    counted: whether the container's times cannot be trusted frame by frame, so
      that decoded frames are counted from the start.
    begin_s: time of the file's first frame.
    fps: frames a second that the file's header says; 0.0: it says nothing.
  """

  times_s: np.ndarray
  gap_s: float
  counted: bool
  begin_s: float
  fps: float


@dataclasses.dataclass(frozen=True)
class _Ticks:
  """Times of packets in the order of decoding, in units of the stream's base.

  Attributes:
    shown: of presentation; of decoding where there is none.
    decoded: of decoding; None where the container does not say.
    whole: whether every packet has a time of presentation.
    trimmed: whether some packets are not to be shown.
  """

  shown: list[int | None]
  decoded: list[int | None]
  whole: bool
  trimmed: bool

  def ordered(self) -> bool:
    """Whether each packet has a time of its own, near its turn."""
    if None in self.shown or len(set(self.shown)) < len(self.shown):
      return False
    rank = np.argsort(np.argsort(np.array(self.shown)))
    return bool((np.abs(rank - np.arange(len(rank))) <= REORDERED).all())

  def trusted(self, *, reorders: bool) -> bool:
    """Whether they say which frame is which.

    Args:
      reorders: whether the codec shows frames in another order than it decodes
        them in, as the stream's header says.
    """
    if not self.whole or not self.ordered():
      return False
    if reorders:  # else some would be shown later than they are decoded
      return self.shown != self.decoded or len(self.shown) <= 2
    return bool((np.diff(np.array(self.shown)) > 0).all())


def read(
  source: containers.VideoInput,
  *,
  start_s: float | None = None,
  end_s: float | None = None,
  counted: bool = False,
) -> Timeline:
  """Reads the packets' times; decodes nothing.

  Args:
    source: the video.
    start_s: where the wanted stretch begins, from the first frame on.
    end_s: where it ends. Given one of the two, only packets about there are
      read, if the file can be searched: hours of video are many gigabytes.
    counted: whether the times were seen not to be those of the frames.

  Raises:
    Undecodable: no video in the file, or no times.
    ImportError: PyAV is missing.
  """
  with containers.readable():
    if not containers.has_bytes(source):
      raise containers.Undecodable("the file is empty (0 bytes)")
    timeline = None
    if not counted and (start_s is not None or end_s is not None):
      timeline = _read_stretch(source, start_s, end_s)
    return timeline or _read_all(source, counted=counted)


def _formats(container) -> set[str]:
  return set(container.format.name.split(","))


def _trusted(container, stream, ticks: _Ticks) -> bool:
  reorders = bool(getattr(stream.codec_context, "has_b_frames", False))
  return not _formats(container) & _COUNTED and ticks.trusted(reorders=reorders)


def _read_all(source: containers.VideoInput, *, counted: bool) -> Timeline:
  container, stream = containers.open_video(source, untrimmed=counted)
  with container:
    ticks = _ticks(container, stream)
    if not counted and not _trusted(container, stream, ticks):
      if ticks.trimmed:  # by times that mean nothing
        return _read_all(source, counted=True)
      counted = True
    rate = float(stream.average_rate or 0)
    base = float(stream.time_base or 0)
  if not ticks.shown:
    raise containers.Undecodable("the video stream holds no frame")
  if base and ticks.ordered():
    times_s = np.sort(np.array(ticks.shown, np.float64)) * base
  else:
    times_s = np.arange(len(ticks.shown)) * _gap_s(ticks.shown, base, rate)
  return _timeline(times_s, rate, counted=counted, begin_s=float(times_s[0]))


def _gap_s(shown: list[int | None], base: float, rate: float) -> float:
  """Time between frames whose times mean little.

  Raises:
    Undecodable: neither they nor the header say it.
  """
  if rate:
    return 1 / rate
  known = np.diff([tick for tick in shown if tick is not None])
  if not base or not (known > 0).any():
    raise containers.Undecodable("the file gives neither frame times nor a frame rate")
  return float(np.median(known[known > 0])) * base


def _read_stretch(
  source: containers.VideoInput, start_s: float | None, end_s: float | None
) -> Timeline | None:
  """The timeline about a stretch; None where all must be read to know it."""
  container, stream = containers.open_video(source)
  with container:
    base = float(stream.time_base or 0)
    if not base or not _formats(container) & _INDEXED:
      return None
    head = _ticks(container, stream, most=HEAD_PACKETS)
    if not head.shown or not _trusted(container, stream, head):
      return None
    begin = min(tick for tick in head.shown if tick is not None)
    # A little early, so that the frame before is known as well.
    after_s = 0.0 if start_s is None else start_s
    target = begin + int(max(0.0, after_s - STRETCH_SLACK_S) / base)
    container.seek(target, stream=stream)
    last = None
    if end_s is not None:
      last = begin + int((end_s + STRETCH_SLACK_S) / base)
    ticks = _ticks(container, stream, last=last)
    rate = float(stream.average_rate or 0)
    if not ticks.shown or not _trusted(container, stream, ticks):
      return None
  times_s = np.sort(np.array(ticks.shown, np.float64)) * base
  if times_s[0] > target * base:
    return None
  return _timeline(times_s, rate, counted=False, begin_s=begin * base)


def _ticks(container, stream, *, most: int | None = None, last: int | None = None) -> _Ticks:
  """Times of the packets from here on.

  Stops after `most` packets, or at the first that is decoded after `last`.
  """
  shown: list[int | None] = []
  decoded: list[int | None] = []
  whole, trimmed = True, False
  for packet in container.demux(stream):
    if not packet.size:
      continue
    if packet.is_discard:
      trimmed = True
      continue
    whole &= packet.pts is not None
    shown.append(packet.dts if packet.pts is None else packet.pts)
    decoded.append(packet.dts)
    if len(shown) == most:
      break
    if last is not None and (packet.dts or 0) > last:
      break
  return _Ticks(shown, decoded, whole, trimmed)


def _timeline(times_s: np.ndarray, rate: float, *, counted: bool, begin_s: float) -> Timeline:
  gaps_s = np.diff(times_s)
  gap_s = float(np.median(gaps_s)) if len(gaps_s) else 1 / (rate or 30.0)
  return Timeline(times_s, gap_s, counted, begin_s, fps=rate)
