"""Clips from video files, decoded with PyAV (the `data` extra).

A clip is T frames as section 3.4 of the paper has them: the video at 30 frames
a second, every 4th frame, shortest side R, a random R x R crop. A video gives
K clips; each draws its own start and its own window. Everything drawn follows
from (seed, item, crop), so a clip is the same on every machine, in any order.

Frames are found by time: frame j of the resampled video is the source frame
nearest to j / fps, which changes nothing in a video that has this rate. Only
the span from the first to the last wanted frame is decoded, and only wanted
frames are kept, already resized: memory does not grow with the video's length.
Pixels are taken as square.

A file that gives no clip raises `Undecodable`, and `clips_or_skipped` turns it
into a row of a report: one bad file must not end a job over a million.

Shapes: K crops, T frames of a clip, R pixels of a side, H and W of a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import hashlib
import pathlib

import numpy as np

from totojax.data import augment

SUFFIXES = frozenset(
    ".3gp .avi .flv .m4v .mkv .mov .mp4 .mpeg .mpg .ogv .webm .wmv".split()
)
SEEK_GAP_S = 10.0  # shorter gaps are decoded through: a seek costs about as much
SLACK_FRAMES = 2  # frames a decoder may drop next to one that stands in


class Undecodable(ValueError):
  """A file gives no clip; the message is the reason, for people to read."""


@dataclasses.dataclass(frozen=True)
class Item:
  """One video: `id` is its path below the root, the same on every machine."""

  id: str
  path: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Skipped:
  """A video that gave no clip, and why."""

  path: str
  reason: str


@dataclasses.dataclass(frozen=True)
class ClipSpec:
  """What is cut out of each video.

  Attributes:
    frames: frames of a clip (16).
    stride_frames: step between them, in frames of the resampled video (4).
    fps: frames per second that a video is resampled to first (30.0).
    size_px: short side after resizing, and side of the crop (128).
    crops: clips of one video.
    resample: filter of the resizing: "bicubic", "bilinear" or "lanczos".
  """

  frames: int
  stride_frames: int
  fps: float
  size_px: int
  crops: int
  resample: str

  def __post_init__(self):
    for name in ("frames", "stride_frames", "fps", "size_px", "crops"):
      if getattr(self, name) <= 0:
        raise ValueError(
            f"video.{name} is {getattr(self, name)}; it must be above 0"
        )
    if self.resample not in augment.FILTERS:
      raise ValueError(
          f"video.resample is {self.resample!r}; use one of"
          f" {sorted(augment.FILTERS)}"
      )

  @property
  def span_frames(self) -> int:
    """Frames of the resampled video from a clip's first to its last."""
    return (self.frames - 1) * self.stride_frames + 1


def list_videos(root: str | pathlib.Path) -> tuple[Item, ...]:
  """All videos below a folder, sorted by id.

  Raises:
    ValueError: if the folder does not exist or holds no video.
  """
  root = pathlib.Path(root)
  if not root.is_dir():
    raise ValueError(f"{root} is not a folder; give the folder of the videos")
  items = [
      Item(id=path.relative_to(root).as_posix(), path=path)
      for path in root.rglob("*")
      if path.suffix.lower() in SUFFIXES and path.is_file()
  ]
  if not items:
    raise ValueError(
        f"{root} holds no video; looked for {' '.join(sorted(SUFFIXES))}"
    )
  return tuple(sorted(items, key=lambda item: item.id))


def clips(item: Item, spec: ClipSpec, *, seed: int) -> np.ndarray:
  """The K clips of one video, uint8 [K, T, R, R, 3].

  Starts are uniform over the video, independently for each crop; a rotation
  noted in the file is applied.

  Raises:
    Undecodable: no video in the file, damaged where frames are wanted, or
      shorter than a clip.
    ImportError: PyAV is missing.
  """
  av = _av()
  try:
    timeline = _read_timeline(av, item.path)
    rngs = [_rng(item, crop, seed=seed) for crop in range(spec.crops)]
    places_KT = [_draw(timeline, spec, rng=rng) for rng in rngs]
    wanted = np.unique(np.concatenate(places_KT))
    images = {}
    for part in _segments(wanted, timeline):
      images |= _decode(av, item.path, part, timeline=timeline, spec=spec)
  except Undecodable:
    raise
  except (av.FFmpegError, OSError, ValueError) as error:
    raise Undecodable(f"{type(error).__name__}: {error}") from error
  shapes = {image.shape for image in images.values()}
  if len(shapes) > 1:
    raise Undecodable(f"frames change shape within the video: {shapes}")
  out = []
  for places_T, rng in zip(places_KT, rngs):
    frames_THW3 = np.stack([images[place] for place in places_T.tolist()])
    out.append(augment.random_crop(frames_THW3, spec.size_px, rng=rng))
  return np.stack(out)


def clips_or_skipped(
    item: Item, spec: ClipSpec, *, seed: int
) -> np.ndarray | Skipped:
  """`clips`, with a video that gives none as a `Skipped` row."""
  try:
    return clips(item, spec, seed=seed)
  except Undecodable as reason:
    return Skipped(path=item.id, reason=str(reason))


@dataclasses.dataclass(frozen=True)
class _Timeline:
  """When each frame is shown.

  Attributes:
    times_s: sorted times of all frames.
    gap_s: usual time from one frame to the next.
    counted: whether the container's times cannot be trusted frame by frame, so
      that decoded frames are counted from the start. AVI stores no presentation
      times, and what decoders report for its B-frames is out of order.
  """

  times_s: np.ndarray
  gap_s: float
  counted: bool


def _av():
  try:
    import av  # pylint: disable=g-import-not-at-top
  except ImportError as error:
    raise ImportError(
        "decoding video needs PyAV; install it with: pip install"
        ' "totojax[data]"'
    ) from error
  return av


def _open(av, path: pathlib.Path):
  """The container, and its video stream (cover art of audio is none)."""
  # Titles in old encodings must not make a file unreadable.
  container = av.open(str(path), metadata_errors="replace")
  cover = av.stream.Disposition.attached_pic
  for stream in container.streams.video:
    if not stream.disposition & cover:
      return container, stream
  container.close()
  raise Undecodable("no video stream in the file")


def _read_timeline(av, path: pathlib.Path) -> _Timeline:
  """Reads the packets' times; decodes nothing."""
  if not path.stat().st_size:
    raise Undecodable("the file is empty (0 bytes)")
  container, stream = _open(av, path)
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
  return _Timeline(times_s=times_s, gap_s=gap_s, counted=counted)


def _rng(item: Item, crop: int, *, seed: int) -> np.random.Generator:
  digest = hashlib.sha256(item.id.encode("utf-8", "surrogateescape")).digest()
  words = np.frombuffer(digest, "<u4").tolist()
  return np.random.default_rng([seed, crop, *words])


def _draw(
    timeline: _Timeline, spec: ClipSpec, *, rng: np.random.Generator
) -> np.ndarray:
  """Indices [T] of the source frames of one clip with a random start."""
  times_s = timeline.times_s
  length_s = times_s[-1] - times_s[0] + timeline.gap_s
  frames = max(1, round(length_s * spec.fps))
  if frames < spec.span_frames:
    raise Undecodable(
        f"too short: {length_s:.2f} s are {frames} frames at {spec.fps:g} a"
        f" second; {spec.frames} frames with a stride of {spec.stride_frames}"
        f" span {spec.span_frames}"
    )
  start = rng.integers(0, frames - spec.span_frames + 1)
  shown_T = start + spec.stride_frames * np.arange(spec.frames)
  return _nearest(times_s, times_s[0] + shown_T / spec.fps)


def _nearest(sorted_values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
  """Index of the value nearest to each wanted one."""
  middles = (sorted_values[:-1] + sorted_values[1:]) / 2
  return np.searchsorted(middles, wanted, side="right")


def _segments(
    wanted: np.ndarray, timeline: _Timeline
) -> list[Sequence[int]]:
  """Wanted frames, split where seeking saves decoding."""
  if timeline.counted:
    return [wanted.tolist()]
  gaps_s = np.diff(timeline.times_s[wanted])
  cuts = np.flatnonzero(gaps_s > SEEK_GAP_S) + 1
  return [part.tolist() for part in np.split(wanted, cuts)]


def _decode(
    av,
    path: pathlib.Path,
    wanted: Sequence[int],
    *,
    timeline: _Timeline,
    spec: ClipSpec,
) -> dict[int, np.ndarray]:
  """Resized images of the wanted frames, by index."""
  times_s = timeline.times_s
  first_s = times_s[wanted[0]]
  far = first_s - times_s[0] > SEEK_GAP_S
  if far and not timeline.counted:
    images = _decode_from(
        av, path, wanted, timeline=timeline, spec=spec, seek_s=first_s
    )
    if images is not None:
      return images
  # Near the start, or the seek landed too late (files without an index).
  images = _decode_from(
      av, path, wanted, timeline=timeline, spec=spec, seek_s=None
  )
  if images is None:
    raise Undecodable(
        f"frames around {first_s:.2f} s of {times_s[-1]:.2f} s do not decode"
    )
  return images


def _decode_from(
    av,
    path: pathlib.Path,
    wanted: Sequence[int],
    *,
    timeline: _Timeline,
    spec: ClipSpec,
    seek_s: float | None,
) -> dict[int, np.ndarray] | None:
  """Decodes from the key frame before `seek_s`; None if frames are missing.

  A wanted frame that the decoder leaves out is stood in for by the nearest
  after it, or by the last of the video, at most SLACK_FRAMES away.
  """
  images, left = {}, list(reversed(wanted))
  container, stream = _open(av, path)
  with container:
    if seek_s is not None:
      container.seek(int(seek_s / stream.time_base), stream=stream)
    frame, place = None, -1
    for count, frame in enumerate(container.decode(stream)):
      if timeline.counted or frame.time is None:
        place = count if seek_s is None else place + 1
      else:
        place = int(_nearest(timeline.times_s, frame.time))
      if place < left[-1]:
        continue
      image = _image(frame, spec)
      while left and left[-1] <= place:
        if place - left[-1] > SLACK_FRAMES:
          return None
        images[left.pop()] = image
      if not left:
        return images
    if frame is None or left[0] - place > SLACK_FRAMES:
      return None
    return images | dict.fromkeys(left, _image(frame, spec))


def _image(frame, spec: ClipSpec) -> np.ndarray:
  """RGB pixels of a frame, upright, short side R."""
  image_HW3 = frame.to_ndarray(format="rgb24")
  # The noted rotation is counter-clockwise in degrees, as np.rot90 turns.
  turns = round(frame.rotation / 90) % 4
  upright = np.ascontiguousarray(np.rot90(image_HW3, turns))
  return augment.resize_short_side(
      upright, spec.size_px, resample=spec.resample
  )
