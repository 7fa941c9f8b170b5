"""Clips from videos, decoded with PyAV (the `data` extra).

A clip is T frames as section 3.4 of the paper has them: the video at 30 frames
a second, every 4th frame, shortest side R, a random R x R crop. The paper does
not say how many clips a video gives. With "uniform" sampling it gives K; with
"duration" sampling it is cut into equal stretches, one for every `every_s`
seconds, and each stretch gives K, so that an hour counts for more than a
minute. Each clip draws its own start within its stretch and its own window.
Everything drawn follows from (seed, item, stretch, crop), so a clip is the same
on every machine, in any order.

Frames are found by time: frame j of the resampled video is the source frame
nearest to j / fps, which changes nothing in a video that has this rate, and
gives one with a variable rate the speed it is watched at. Only the span from
the first to the last wanted frame is decoded, and only wanted frames are kept,
already resized: memory grows with the clips, not with the video. Pixels are
taken as square; deeper ones are brought to 8 bits.

Shapes: K crops of all stretches, T frames of a clip, R pixels of a side, H and
W of a frame.
"""

from collections.abc import Callable, Iterator
import dataclasses
import functools
from typing import Protocol

import numpy as np

from totojax.config import pixels
from totojax.data.pixels import augment, decode
from totojax.data.sources import items

SUFFIXES = frozenset(".3gp .avi .flv .m4v .mkv .mov .mp4 .mpeg .mpg .ogv .webm .wmv".split())
TIE_FRAC = 0.1  # of a frame's time: how much nearer a later frame has to be


@dataclasses.dataclass(frozen=True)
class Drawn:
  """One clip of a video, before it is decoded."""

  places_T: np.ndarray  # numbers of its frames
  short_px: int  # its short side after resizing; at most that of decoding
  # Frames [T, H, W, 3] of that size -> its window [T, R, R, 3].
  crop: Callable[[np.ndarray], np.ndarray]


class ClipSpec(pixels.ClipSpec):
  """What is cut out of each video, and how it is drawn."""

  @property
  def decoded_px(self) -> int:
    """Short side of the frames as they are decoded."""
    return self.size_px

  def draw(self, item: items.Item, timeline: decode.Timeline, *, seed: int) -> Iterator[Drawn]:
    """The clips of a video.

    Raises:
      Undecodable: it is shorter than one.
    """
    first, times_s = within(item, timeline)
    length_s = _length_s(times_s, timeline)
    frames = max(1, round(length_s * self.fps))
    starts = frames - self.span_frames + 1
    if starts < 1:
      raise decode.Undecodable(
        f"too short: {length_s:.2f} s are {frames} frames at {self.fps:g} a second; {self.frames}"
        f" frames with a stride of {self.stride_frames} span {self.span_frames}"
      )
    stretches = 1
    if self.sampling == "duration":
      wanted = min(round(length_s / self.every_s), self.most_stretches)
      stretches = min(max(1, wanted), starts)
    # Each stretch holds its share of the starts: none is left out or counted
    # twice, and clips of neighbours may overlap at the border.
    edges = [starts * i // stretches for i in range(stretches + 1)]
    for stretch in range(stretches):
      for crop in range(self.crops):
        rng = items.generator(item, crop, stretch=stretch, seed=seed)
        start = rng.integers(edges[stretch], edges[stretch + 1])
        shown_T = start + self.stride_frames * np.arange(self.frames)
        shown_s = times_s[0] + shown_T / self.fps
        # Halfway between two frames the earlier is taken, also where a container
        # rounds its times to milliseconds: steps of a slower video stay even.
        early_T = shown_s - TIE_FRAC * timeline.gap_s
        yield Drawn(
          places_T=first + decode.nearest(times_s, early_T),
          short_px=self.size_px,
          crop=functools.partial(augment.random_crop, size_px=self.size_px, rng=rng),
        )


class Cuts(Protocol):
  """What is cut out of a video: `ClipSpec`, or `slowfast.ViewSpec`."""

  @property
  def resample(self) -> str: ...

  @property
  def decoded_px(self) -> int: ...

  def draw(self, item: items.Item, timeline: decode.Timeline, *, seed: int) -> Iterator[Drawn]: ...


def clips(item: items.Item, source: decode.VideoInput, spec: Cuts, *, seed: int) -> np.ndarray:
  """The clips of one video, uint8 [K, T, R, R, 3].

  A rotation noted in the file is applied.

  Args:
    item: the video; its span, if it has one, is all that is looked at.
    source: its file, by path or as bytes.
    spec: what is cut out.
    seed: of everything drawn.

  Raises:
    Undecodable: no video in the file, damaged where frames are wanted, or
      shorter than a clip.
    ImportError: PyAV is missing.
  """
  timeline = decode.read_timeline(source, start_s=item.start_s, end_s=item.end_s)
  read = functools.partial(decode.read_images, source, timeline=timeline)
  return cut(item, timeline, read, spec, seed=seed)


def cut(
  item: items.Item,
  timeline: decode.Timeline,
  read: Callable[..., dict[int, np.ndarray]],
  spec: Cuts,
  *,
  seed: int,
) -> np.ndarray:
  """`clips` of a video that is not a file.

  Args:
    item: the video.
    timeline: when its frames are shown.
    read: (frame numbers, prepare=) -> frames by number, as
      `decode.read_images`.
    spec: what is cut out.
    seed: of everything drawn.

  Raises:
    Undecodable: as `clips`.
  """
  drawn = list(spec.draw(item, timeline, seed=seed))
  images = read(
    np.unique(np.concatenate([clip.places_T for clip in drawn])),
    prepare=augment.Resize(spec.decoded_px, spec.resample),
  )
  shapes = {image.shape for image in images.values()}
  if len(shapes) > 1:
    raise decode.Undecodable(f"frames change shape within the video: {shapes}")
  out = []
  for clip in drawn:
    resize = augment.Resize(clip.short_px, spec.resample)
    resized = {place: resize(images[place]) for place in np.unique(clip.places_T).tolist()}
    frames_THW3 = np.stack([resized[place] for place in clip.places_T.tolist()])
    out.append(clip.crop(frames_THW3))
  return np.stack(out)


def duration_s(item: items.Item, source: decode.VideoInput) -> float:
  """Seconds of a video, or of its span, by the times of its frames.

  What a file's header says is not asked: it may be wrong.

  Raises:
    Undecodable, ImportError: as `clips`.
  """
  timeline = decode.read_timeline(source, start_s=item.start_s, end_s=item.end_s)
  return _length_s(within(item, timeline)[1], timeline)


def _length_s(times_s: np.ndarray, timeline: decode.Timeline) -> float:
  return float(times_s[-1] - times_s[0] + timeline.gap_s)


def within(item: items.Item, timeline: decode.Timeline) -> tuple[int, np.ndarray]:
  """The number of the first frame of the item's span, and the span's times.

  Seconds count from the first frame of the file. A span that reaches past the
  end, as those of annotations do by a fraction of a second, ends with it.
  """
  if item.start_s is None and item.end_s is None:
    return 0, timeline.times_s
  since_s = timeline.times_s - timeline.begin_s + TIE_FRAC * timeline.gap_s
  begin_s = 0.0 if item.start_s is None else item.start_s
  end_s = np.inf if item.end_s is None else item.end_s
  first, last = np.searchsorted(since_s, [begin_s, end_s])
  if first >= last:
    raise decode.Undecodable(
      f"no frame between {begin_s:g} and {end_s:g} s: the last before is at"
      f" {timeline.times_s[-1] - timeline.begin_s:.2f} s"
    )
  return int(first), timeline.times_s[first:last]
