"""The videos that are scored, as frames of the model's size: rendered, or read from files.

Shapes: T frames, S pixels of a side.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools

import numpy as np

from totojax.config.schema import ConfigError
from totojax.config.surprise import EVENTS, Surprise
from totojax.data.pixels import augment, containers, images, physics, whole
from totojax.data.sources import items, physics as sources
from totojax.evals import surprise
from totojax.jobs.generate import prompts
from totojax.storage import objects, outside, reading

_RESAMPLE = "bicubic"  # as the clips of training
_INTPHYS = 99  # of IntPhys's 100 frames V-JEPA's loader takes these by the step, rounded down
_SQUASHED = ("inflevel",)  # whole frames, whatever their ratio


@dataclasses.dataclass(frozen=True)
class Clip:
  """A video that was read."""

  id: str
  is_possible: bool | None
  pair: str
  frames_TSS3: np.ndarray


@dataclasses.dataclass(frozen=True)
class Group:
  """A scene that is yet to be read or drawn."""

  id: str
  kinds: tuple[str, ...]
  read: Callable[[], list[Clip] | items.Skipped]


def find(
  config: Surprise, *, size_px: int, window_px: int
) -> tuple[list[Group], list[items.Skipped]]:
  """(groups, what is incomplete); nothing is decoded yet.

  Args:
    config: of the job.
    size_px: side of the model's frames.
    window_px: frames of a window, which rendered videos have by default.

  Raises:
    ConfigError: there are none.
    ImportError: the package that reads videos is missing.
  """
  data = config.data
  if data.set == "rendered":
    groups, skipped = _rendered(config, size_px, config.rendered.frames or window_px), []
  else:
    try:
      found, skipped = sources.list_groups(data.set, data.root, data.list)
    except (ValueError, OSError) as error:
      raise ConfigError(f"data.{'list' if data.list else 'root'}: {error}") from error
    sources.tell(found, skipped)
    first = found[0].videos[0]
    if not reading.is_folder(first.path):
      containers.pyav()
    step = data.frame_step or sources.STEPS.get(data.set, 1)
    fit = data.fit or ("squash" if data.set in _SQUASHED else "crop")
    prepare = (
      augment.Squash(size_px, _RESAMPLE) if fit == "squash" else augment.Resize(size_px, _RESAMPLE)
    )
    most = _INTPHYS // step if data.set in ("intphys", "intphys_test") else None
    load = functools.partial(_read, step=step, prepare=prepare, most=most)
    groups = [Group(one.id, one.kinds, functools.partial(load, one)) for one in found]
  return [groups[n] for n in prompts.spread(len(groups), data.groups)], skipped


def _rendered(config: Surprise, size_px: int, frames: int) -> list[Group]:
  settings = config.rendered
  events = settings.events or EVENTS
  try:
    physics.check(events[0], frames)
  except ValueError as error:
    raise ConfigError(f"rendered.frames: {error}") from error

  def draw(event: str, index: int) -> list[Clip]:
    videos = physics.render(event, frames=frames, size_px=size_px, seed=settings.seed, index=index)
    return [
      Clip(f"{event}/{index:05d}/{n + 1}", is_possible, str(pair), frames_TSS3)
      for n, (is_possible, pair, frames_TSS3) in enumerate(
        zip(physics.POSSIBLE, physics.PAIR, videos)
      )
    ]

  return [
    Group(f"{event}/{index:05d}", (event,), functools.partial(draw, event, index))
    for event in dict.fromkeys(events)
    for index in range(settings.scenes)
  ]


def _read(
  group: sources.Group, *, step: int, prepare: augment.Resize, most: int | None
) -> list[Clip] | items.Skipped:
  """The videos of a group of files, or why there are none."""
  try:
    opened = [whole.Whole.of(video.path) for video in group.videos]
    firsts = _firsts(group.videos, [one.count for one in opened])
    frames, digests = [], []
    for video, one, first in zip(group.videos, opened, firsts):
      picked = list(range(first, one.count, step))[:most]
      if not picked:
        return items.Skipped(group.id, f"{video.id} has {one.count} frames, and none is left")
      pixels, marks = one.read(picked, prepare)
      frames.append(pixels)
      digests.append(marks)
  except (
    containers.Undecodable,
    images.Unreadable,
    objects.StoreError,
    OSError,
    ValueError,
  ) as error:
    return items.Skipped(group.id, outside.shown(error))
  pairs = [video.pair for video in group.videos]
  if not any(pairs) and len(pairs) == 4:
    for number, two in enumerate(surprise.quadruplet(digests), 1):
      if group.videos[two[0]].is_possible == group.videos[two[1]].is_possible:
        return items.Skipped(group.id, "the videos that begin alike are not one of each kind")
      for place in two:
        pairs[place] = str(number)
  return [
    Clip(video.id, video.is_possible, pair, pixels)
    for video, pair, pixels in zip(group.videos, pairs, frames)
  ]


def _firsts(videos: Sequence[sources.Video], counts: Sequence[int]) -> list[int]:
  """Where each video begins: those of a pair that end together have equally many frames."""
  left = [count - video.first for video, count in zip(videos, counts)]
  out = []
  for video, own in zip(videos, left):
    same = [n for other, n in zip(videos, left) if other.pair == video.pair]
    out.append(video.first + (own - min(same) if video.at_end else 0))
  return out
