"""Clips from videos, decoded with PyAV (the `data` extra).

A clip is T frames as section 3.4 of the paper has them: the video at 30 frames
a second, every 4th frame, shortest side R, a random R x R crop. The paper does
not say how many clips a video gives. With "uniform" sampling it gives K; with
"duration" sampling it is cut into equal stretches, one for every `every_s`
seconds, and each stretch gives K, so that an hour counts for more than a
minute. Each clip draws its own start within its stretch and its own window.
With "whole" sampling a video is one clip itself: frames at evenly spread numbers,
the first and the last among them, squashed into squares. Everything drawn follows
from (seed, item, stretch, crop), so a clip is the same on every machine, in any
order.

Frames are found by time: frame j of the resampled video is the one that is on
the screen at j / fps, the last that is shown at or before it. This changes
nothing in a video that has this rate, and gives one with a variable rate the
speed it is watched at. Only the span from the first to the last wanted frame is
decoded, and only wanted frames are kept, already resized: memory grows with the
clips, not with the video. Pixels are taken as square; deeper ones are brought
to 8 bits.

Shapes: K crops of all stretches, T frames of a clip, R pixels of a side, H and
W of a frame.
"""

from collections.abc import Callable, Iterator
import dataclasses
import functools
from typing import Protocol

import numpy as np

from totojax.config import pixels
from totojax.data.pixels import augment, containers, decode, timelines
from totojax.data.sources import items

SUFFIXES = frozenset(
  ".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .vob .webm .wmv".split()
)
# How much later than asked for a frame may begin: of a frame's time, but for
# containers that round their times no less than a millisecond.
TIE_FRAC = 0.1
ROUNDED_S = 1e-3


@dataclasses.dataclass(frozen=True)
class Drawn:
  """One clip of a video, before it is decoded."""

  places_T: np.ndarray  # numbers of its frames
  short_px: int  # its short side after resizing; at most that of decoding
  # Frames [T, H, W, 3] of that size -> its window [T, R, R, 3].
  crop: Callable[[np.ndarray], np.ndarray]
  short: str = ""  # how it was fitted into a video that is too short, as `decode.Tally.short`


class TooShort(containers.Undecodable):
  """A video in which a clip does not fit, and is not made to."""


class ClipSpec(pixels.ClipSpec):
  """What is cut out of each video, and how it is drawn."""

  @property
  def decoded_px(self) -> int:
    """Short side of the frames as they are decoded."""
    return self.size_px

  @property
  def needs_s(self) -> float:
    """Seconds of a video in which a clip fits."""
    if self.sampling == "whole":
      return self.least_s
    return (self.span_frames - 0.5) / self.fps  # lengths are rounded to frames

  @property
  def least_s(self) -> float:
    """The same with a stride of 1."""
    return (self.frames - 0.5) / self.fps

  def draw(self, item: items.Item, timeline: timelines.Timeline, *, seed: int) -> Iterator[Drawn]:
    """The clips of a video.

    Raises:
      TooShort: one does not fit, and `short` does not make it.
    """
    span = within(item, timeline)
    if self.sampling == "whole":
      yield self._whole(span)
      return
    frames = max(1, round(span.length_s * self.fps))
    stride, short = self.stride_frames, ""
    if frames < self.span_frames:
      stride, short = self._fitted(frames, span.length_s)
    starts = max(1, frames - (self.frames - 1) * stride)
    stretches = 1
    if self.sampling == "duration":
      wanted = min(round(span.length_s / self.every_s), self.most_stretches)
      stretches = min(max(1, wanted), starts)
    # Each stretch holds its share of the starts: none is left out or counted
    # twice, and clips of neighbours may overlap at the border.
    edges = [starts * i // stretches for i in range(stretches + 1)]
    for stretch in range(stretches):
      for crop in range(self.crops):
        rng = items.generator(item, crop, stretch=stretch, seed=seed)
        start = rng.integers(edges[stretch], edges[stretch + 1])
        shown_T = np.minimum(start + stride * np.arange(self.frames), frames - 1)
        yield Drawn(
          places_T=span.on_screen(shown_T / self.fps),
          short_px=self.size_px,
          crop=functools.partial(augment.random_crop, size_px=self.size_px, rng=rng),
          short=short,
        )

  def _whole(self, span: "Span") -> Drawn:
    """The one clip of a video from its first frame to its last."""
    count = len(span.times_s)
    if count < self.frames and self.short != "hold":
      raise TooShort(f"too short: it has {count} frames, and a clip {self.frames}")
    return Drawn(
      places_T=span.first + np.rint(np.linspace(0, count - 1, self.frames)).astype(int),
      short_px=self.size_px,
      crop=functools.partial(augment.squashed, size_px=self.size_px, resample=self.resample),
      short="hold" if count < self.frames else "",
    )

  def _fitted(self, frames: int, length_s: float) -> tuple[int, str]:
    """The stride in a video that is too short, and how `Drawn.short` calls it."""
    if self.short == "hold":
      return self.stride_frames, "hold"
    stride, limit = (frames - 1) // (self.frames - 1), self.stride_frames
    if self.short == "stride":
      if stride:
        return stride, f"stride {stride}"
      limit = 1
    raise TooShort(
      f"too short: {length_s:.2f} s are {frames} frames at {self.fps:g} a second;"
      f" {self.frames} frames with a stride of {limit} span {(self.frames - 1) * limit + 1}"
    )


class Cuts(Protocol):
  """What is cut out of a video: `ClipSpec`, or `slowfast.ViewSpec`."""

  @property
  def resample(self) -> str: ...

  @property
  def decoded_px(self) -> int: ...

  @property
  def needs_s(self) -> float: ...

  @property
  def least_s(self) -> float: ...

  def draw(
    self, item: items.Item, timeline: timelines.Timeline, *, seed: int
  ) -> Iterator[Drawn]: ...


def clips(
  item: items.Item,
  source: containers.VideoInput,
  spec: Cuts,
  *,
  seed: int,
  tally: decode.Tally | None = None,
) -> np.ndarray:
  """The clips of one video, uint8 [K, T, R, R, 3].

  A rotation noted in the file is applied.

  Args:
    item: the video; its span, if it has one, is all that is looked at.
    source: its file, by path or as bytes.
    spec: what is cut out.
    seed: of everything drawn.
    tally: gets what is counted.

  Raises:
    Undecodable: no video in the file, damaged where frames are wanted, or
      shorter than a clip.
    ImportError: PyAV is missing.
  """

  def cut_by(timeline: timelines.Timeline) -> np.ndarray:
    read = functools.partial(decode.read_images, source, timeline=timeline, tally=tally)
    return cut(item, timeline, read, spec, seed=seed, tally=tally)

  try:
    return cut_by(timelines.read(source, start_s=item.start_s, end_s=item.end_s))
  except decode.Disordered:
    return cut_by(timelines.read(source, counted=True))


def cut(
  item: items.Item,
  timeline: timelines.Timeline,
  read: Callable[..., dict[int, np.ndarray]],
  spec: Cuts,
  *,
  seed: int,
  tally: decode.Tally | None = None,
) -> np.ndarray:
  """`clips` of a video that is not a file.

  Args:
    item: the video.
    timeline: when its frames are shown.
    read: (frame numbers, prepare=) -> frames by number, as
      `decode.read_images`.
    spec: what is cut out.
    seed: of everything drawn.
    tally: gets how clips were fitted.

  Raises:
    Undecodable: as `clips`.
  """
  drawn = list(spec.draw(item, timeline, seed=seed))
  images = read(
    np.unique(np.concatenate([clip.places_T for clip in drawn])),
    prepare=augment.Resize(spec.decoded_px, spec.resample),
  )
  if tally is not None:
    tally.short = drawn[0].short
  shapes = {image.shape for image in images.values()}
  if len(shapes) > 1:
    raise containers.Undecodable(f"frames change shape within the video: {shapes}")
  out = []
  for clip in drawn:
    resize = augment.Resize(clip.short_px, spec.resample)
    resized = {place: resize(images[place]) for place in np.unique(clip.places_T).tolist()}
    frames_THW3 = np.stack([resized[place] for place in clip.places_T.tolist()])
    out.append(clip.crop(frames_THW3))
  return np.stack(out)


def duration_s(item: items.Item, source: containers.VideoInput) -> float:
  """Seconds of a video, or of its span, by the times of its frames.

  What a file's header says is not asked: it may be wrong.

  Raises:
    Undecodable, ImportError: as `clips`.
  """
  timeline = timelines.read(source, start_s=item.start_s, end_s=item.end_s)
  return within(item, timeline).length_s


@dataclasses.dataclass(frozen=True)
class Span:
  """The part of a video that is looked at.

  Attributes:
    first: the number of the frame on the screen as it begins.
    times_s: of its frames; that of the first is where the span begins.
    length_s: until it ends, or until the video does.
    tie_s: how much later than asked for a frame may begin.
  """

  first: int
  times_s: np.ndarray
  length_s: float
  tie_s: float

  def on_screen(self, since_s: np.ndarray) -> np.ndarray:
    """Numbers of the frames on the screen so long after its beginning."""
    wanted_s = self.times_s[0] + since_s + self.tie_s
    return self.first + np.searchsorted(self.times_s, wanted_s, side="right") - 1


def within(item: items.Item, timeline: timelines.Timeline) -> Span:
  """The item's span, or the whole video.

  Seconds count from the first frame of the file. A span that reaches past the
  end, as those of annotations do by a fraction of a second, ends with it.

  Raises:
    Undecodable: nothing is shown there.
  """
  times_s = timeline.times_s
  tie_s = min(max(TIE_FRAC * timeline.gap_s, ROUNDED_S), timeline.gap_s / 2)
  last_s = float(times_s[-1]) + timeline.gap_s
  begin_s = max(timeline.begin_s + (item.start_s or 0.0), float(times_s[0]))
  end_s = last_s if item.end_s is None else min(timeline.begin_s + item.end_s, last_s)
  first = max(0, int(np.searchsorted(times_s, begin_s + tie_s, side="right")) - 1)
  last = int(np.searchsorted(times_s, end_s - tie_s))
  if begin_s > last_s - tie_s or first >= last:
    until_s = np.inf if item.end_s is None else item.end_s
    raise containers.Undecodable(
      f"no frame between {item.start_s or 0.0:g} and {until_s:g} s: the last is at"
      f" {times_s[-1] - timeline.begin_s:.2f} s"
    )
  shown_s = np.maximum(times_s[first:last], begin_s)
  return Span(first, shown_s, end_s - begin_s, tie_s)
