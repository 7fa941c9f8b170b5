"""Frames of a video by their number: of a file, or of images that are its frames.

Shapes: H and W pixels.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import os

import numpy as np
from PIL import Image

from totojax.data.pixels import augment, containers, decode, images, media, timelines
from totojax.data.sources import items
from totojax.storage import objects, reading

WHOLE_BYTES = 2**28  # of a file: the packets of larger ones are read about the frames alone
_OFF = 0.1  # of a frame's time, that regular times may be off


@dataclasses.dataclass(frozen=True)
class Height(augment.Resize):
  """Scaling to a height of `size_px`; 0 leaves an image as it is."""

  def size(self, height: int, width: int) -> tuple[int, int]:
    new = self.size_px or height
    return new, max(round(width * new / height), 1)

  def __call__(self, image_HW3: np.ndarray) -> np.ndarray:
    height, width = self.size(*image_HW3.shape[:2])
    if (height, width) == image_HW3.shape[:2]:
      return image_HW3
    scaled = Image.fromarray(image_HW3).resize((width, height), augment.FILTERS[self.resample])
    return np.asarray(scaled)


def of_images(paths: Mapping[int, str], *, prepare: augment.Resize) -> dict[int, np.ndarray]:
  """Number -> uint8 [H, W, 3] of images.

  Raises:
    OSError: there is none; names it.
    images.Unreadable: it is damaged.
  """
  found = {}
  for place, path in paths.items():
    if not reading.exists(path):
      raise OSError(f"{path} does not exist")
    data = media.stored(items.Item(path, path))
    found[place] = prepare(images.read(data, animated="first"))
  return found


def of_video(
  path: str, wanted: Sequence[int], *, fps: float, prepare: augment.Resize
) -> dict[int, np.ndarray]:
  """Number -> uint8 [H, W, 3] of frames of a file.

  Of a file above `WHOLE_BYTES` packets are read about the frames alone, and
  frames numbered by their times, if these are as regular as `fps`.

  Args:
    path: of the file, or its URL.
    wanted: numbers from 0 on, ascending and distinct.
    fps: frames a second.
    prepare: how they are scaled.

  Raises:
    Undecodable: there are fewer frames, or one that is wanted is damaged.
    ImportError: PyAV is missing.
    OSError, StoreError: the file cannot be read.
  """
  timeline, before = _timeline(path, wanted, fps)
  try:
    return _read(path, wanted, timeline, before, prepare)
  except decode.Disordered:
    return _read(path, wanted, timelines.read(path, counted=True), 0, prepare)


def _read(
  path: str,
  wanted: Sequence[int],
  timeline: timelines.Timeline,
  before: int,
  prepare: augment.Resize,
) -> dict[int, np.ndarray]:
  """As `of_video`; `before` frames of the file are not in the timeline."""
  own = [place - before for place in wanted]
  if own[-1] >= len(timeline.times_s):
    count = before + len(timeline.times_s)
    raise containers.Undecodable(f"frame {wanted[-1]} is beyond its end: it has {count} frames")
  found = decode.read_images(path, own, timeline=timeline, prepare=prepare)
  return {place: found[number] for place, number in zip(wanted, own)}


def _timeline(path: str, wanted: Sequence[int], fps: float) -> tuple[timelines.Timeline, int]:
  """When frames are shown, and how many are before."""
  size, changed = _mark(path)
  if size > WHOLE_BYTES:
    part = timelines.read(path, start_s=wanted[0] / fps, end_s=(wanted[-1] + 1) / fps)
    steps = np.diff(part.times_s) * fps
    before = float((part.times_s[0] - part.begin_s) * fps)
    is_regular = bool((np.abs(steps - 1) < _OFF).all()) and abs(before - round(before)) < _OFF
    if is_regular and not part.counted and round(before) <= wanted[0]:
      return part, round(before)
  return _whole(path, size, changed), 0


def _mark(path: str) -> tuple[int, int]:
  """Bytes of a file, and when it was changed; of a URL no more than whether it is large."""
  if objects.is_url(path):
    return WHOLE_BYTES + bool(objects.read_part(path, WHOLE_BYTES, WHOLE_BYTES + 1)), 0
  status = os.stat(path)
  return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=256)
def _whole(path: str, size: int, changed: int) -> timelines.Timeline:
  """The timeline of a file as it is."""
  del size, changed
  return timelines.read(path)
