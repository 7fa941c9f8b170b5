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

import dataclasses
import functools
import hashlib
import pathlib

import numpy as np

from totojax.data import augment
from totojax.data import decode

SUFFIXES = frozenset(
    ".3gp .avi .flv .m4v .mkv .mov .mp4 .mpeg .mpg .ogv .webm .wmv".split()
)
TIE_FRAC = 0.1  # of a frame's time: how much nearer a later frame has to be


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
  timeline = decode.read_timeline(item.path)
  rngs = [_rng(item, crop, seed=seed) for crop in range(spec.crops)]
  places_KT = [_draw(timeline, spec, rng=rng) for rng in rngs]
  images = decode.read_images(
      item.path,
      np.unique(np.concatenate(places_KT)),
      timeline=timeline,
      prepare=functools.partial(
          augment.resize_short_side,
          size_px=spec.size_px,
          resample=spec.resample,
      ),
  )
  shapes = {image.shape for image in images.values()}
  if len(shapes) > 1:
    raise decode.Undecodable(f"frames change shape within the video: {shapes}")
  out = []
  for places_T, rng in zip(places_KT, rngs, strict=True):
    frames_THW3 = np.stack([images[place] for place in places_T.tolist()])
    out.append(augment.random_crop(frames_THW3, spec.size_px, rng=rng))
  return np.stack(out)


def clips_or_skipped(
    item: Item, spec: ClipSpec, *, seed: int
) -> np.ndarray | Skipped:
  """`clips`, with a video that gives none as a `Skipped` row."""
  try:
    return clips(item, spec, seed=seed)
  except decode.Undecodable as reason:
    return Skipped(path=item.id, reason=str(reason))


def _rng(item: Item, crop: int, *, seed: int) -> np.random.Generator:
  digest = hashlib.sha256(item.id.encode("utf-8", "surrogateescape")).digest()
  words = np.frombuffer(digest, "<u4").tolist()
  return np.random.default_rng([seed, crop, *words])


def _draw(
    timeline: decode.Timeline, spec: ClipSpec, *, rng: np.random.Generator
) -> np.ndarray:
  """Indices [T] of the source frames of one clip with a random start."""
  times_s = timeline.times_s
  length_s = times_s[-1] - times_s[0] + timeline.gap_s
  frames = max(1, round(length_s * spec.fps))
  if frames < spec.span_frames:
    raise decode.Undecodable(
        f"too short: {length_s:.2f} s are {frames} frames at {spec.fps:g} a"
        f" second; {spec.frames} frames with a stride of {spec.stride_frames}"
        f" span {spec.span_frames}"
    )
  start = rng.integers(0, frames - spec.span_frames + 1)
  shown_T = start + spec.stride_frames * np.arange(spec.frames)
  shown_s = times_s[0] + shown_T / spec.fps
  # Halfway between two frames the earlier is taken, also where a container
  # rounds its times to milliseconds: steps of a slower video stay even.
  return decode.nearest(times_s, shown_s - TIE_FRAC * timeline.gap_s)
