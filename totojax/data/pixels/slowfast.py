"""Clips of Kinetics as SlowFast samples them: to train on, and 10 x 3 views.

Frames are counted, not timed: of a video with F frames at f a second, a clip of
T frames with stride s spans s T f / fps of them, which need not be whole, and
shows T places from the first to the last frame of the span, rounded down. (So
two places are a little more than a stride apart, as SlowFast has it: 63 / 15
frames for 16 frames of stride 4.) A video that is shorter than the span shows
its last frame again. One decoding serves all views of a video.

  train  the span begins anywhere, the short side is drawn, a random window is
         cut out, and half of the clips are mirrored
  test   `temporal` spans x `spatial` windows, of which the short side is all

Source: facebookresearch/SlowFast, datasets/decoder.py and transform.py
(Feichtenhofer et al., 2019); the paper's section 4.3.

Shapes: F frames of a video, T frames of a clip, R pixels of a side.
"""

from collections.abc import Iterator
import dataclasses
import functools
import math
import operator

import numpy as np

from totojax.config import pixels
from totojax.data.pixels import augment, timelines, video
from totojax.data.sources import items


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewSpec(pixels.Views):
  """What is cut out of each video."""

  clip: video.ClipSpec  # frames, stride, rate and size of a clip; with "train", how many

  # What is asked of a spec of either kind, and is the clip's.
  frames = property(operator.attrgetter("clip.frames"))
  stride_frames = property(operator.attrgetter("clip.stride_frames"))
  fps = property(operator.attrgetter("clip.fps"))
  size_px = property(operator.attrgetter("clip.size_px"))
  sampling = property(operator.attrgetter("clip.sampling"))

  @property
  def resample(self) -> str:
    return self.clip.resample

  @property
  def decoded_px(self) -> int:
    """Short side of the frames as they are decoded: the largest that is drawn,
    so that a clip does not depend on how many others there are."""
    if self.mode == "test":
      return self.size_px
    return round(self.short_frac[1] * self.size_px)

  @property
  def crops(self) -> int:
    """Clips of a video."""
    if self.mode == "test":
      return self.temporal * self.spatial
    return self.clip.crops

  @property
  def needs_s(self) -> float:
    """Seconds of a video in which a span fits."""
    return self.clip.frames * self.clip.stride_frames / self.clip.fps

  @property
  def least_s(self) -> float:
    """The same with a stride of 1."""
    return self.clip.frames / self.clip.fps

  def draw(
    self, item: items.Item, timeline: timelines.Timeline, *, seed: int
  ) -> Iterator[video.Drawn]:
    """The clips of a video; windows of one span follow each other.

    Raises:
      TooShort: a span does not fit, and `clip.short` does not make it.
    """
    within = video.within(item, timeline)
    first, frames = within.first, len(within.times_s)
    span = self.clip.frames * self.clip.stride_frames * _rate(timeline, within.times_s)
    span /= self.clip.fps
    span, short = self._fitted(span, frames)
    places = functools.partial(_places, span=span, count=self.clip.frames, frames=frames)
    if self.mode == "train":
      for crop in range(self.clip.crops):
        rng = items.generator(item, crop, stretch=0, seed=seed)
        start = rng.uniform(0.0, max(frames - span, 0.0))
        least, most = (self.size_px * frac for frac in self.short_frac)
        yield video.Drawn(
          first + places(start),
          short_px=round(rng.uniform(least, most)),
          crop=functools.partial(
            _random_window, size_px=self.size_px, rng=rng, flip_frac=self.flip_frac
          ),
          short=short,
        )
      return
    for start in starts(frames, span, self.temporal, offset=self.offset):
      for place in range(self.spatial):
        yield video.Drawn(
          first + places(start),
          short_px=self.size_px,
          crop=functools.partial(
            window, size_px=self.size_px, place=place if self.spatial == 3 else 1
          ),
          short=short,
        )

  def _fitted(self, span: float, frames: int) -> tuple[float, str]:
    """The span in a video of so many frames, and how `Drawn.short` calls it.

    Strides need not be whole here: the largest that fits takes all frames.
    """
    if span <= frames:
      return span, ""
    if self.clip.short in ("", "hold"):
      return span, "hold"
    if self.clip.short == "stride" and frames >= self.clip.frames:
      return float(frames), "stride all"
    least = self.clip.frames if self.clip.short == "stride" else span
    raise video.TooShort(f"too short: {frames} frames; a clip spans {least:g}")


def starts(frames: int, span: float, temporal: int, *, offset: bool) -> list[float]:
  """Where the spans of a video begin, in frames."""
  room = max(frames - span, 0.0)
  if not offset:
    return [room * i / temporal for i in range(temporal)]
  if temporal == 1:
    return [float(math.floor(room / 2))]
  step = math.floor(room / (temporal - 1))
  return [float(i * step) for i in range(temporal)]


def _places(start: float, *, span: float, count: int, frames: int) -> np.ndarray:
  """int [T]: the frames of a span that begins at `start`.

  Rounding down makes a frame of the last bit: these are PyTorch's float32
  places, counted from the nearer end.
  """
  first, last = np.float32(start), np.float32(start + span - 1.0)
  step = np.float64((last - first) / np.float32(max(count - 1, 1)))
  i_T = np.arange(count)
  place_T = np.where(
    i_T < count // 2, np.float64(first) + step * i_T, np.float64(last) - step * (count - 1 - i_T)
  )
  place_T = place_T if count > 1 else np.array([np.float64(first)])
  return np.clip(place_T.astype(np.float32), 0, frames - 1).astype(np.int64)


def _rate(timeline: timelines.Timeline, times_s: np.ndarray) -> float:
  """Frames a second: of the header, or where it says none, of the frames."""
  if math.isfinite(timeline.fps) and timeline.fps > 0.0:
    return timeline.fps
  length_s = float(times_s[-1] - times_s[0])
  return (len(times_s) - 1) / length_s if length_s else 1.0 / timeline.gap_s


def window(frames_THW3: np.ndarray, *, size_px: int, place: int) -> np.ndarray:
  """[T, R, R, 3]: the first (0), central (1) or last (2) along the long side.

  Across the short side it is central.
  """
  height, width = frames_THW3.shape[1:3]
  top, left = (math.ceil((side - size_px) / 2) for side in (height, width))
  if place != 1:
    far = place == 2
    if height > width:
      top = (height - size_px) * far
    else:
      left = (width - size_px) * far
  return frames_THW3[:, top : top + size_px, left : left + size_px]


def _random_window(
  frames_THW3: np.ndarray, *, size_px: int, rng: np.random.Generator, flip_frac: float
) -> np.ndarray:
  cut_TRR3 = augment.random_crop(frames_THW3, size_px, rng=rng)
  return cut_TRR3[:, :, ::-1] if rng.random() < flip_frac else cut_TRR3
