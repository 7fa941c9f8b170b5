"""Pixels of an item of any source: what a worker process runs.

Imports neither jax nor TensorFlow, and PyAV only for videos.

Shapes: K clips or crops, T frames (1 for images), R pixels of a side.
"""

import math
import os

import numpy as np
import PIL

from totojax.config.corpus import SourceJob
from totojax.data.pixels import containers, decode, images, slowfast, video
from totojax.data.sources import items, tfds_source
from totojax.storage import objects, outside, reading

SURE = 2.0  # times what is enough: a header that says more is believed
MOST_BYTES = 2**28  # of a file in memory; photographs have a hundredth
VideoSpec = video.ClipSpec | slowfast.ViewSpec
Spec = VideoSpec | images.ImageSpec


def spec(kind: str, config: SourceJob, *, split: str) -> Spec:
  """What is cut out of each item of a kind, "image" or "video", of a split of a source.

  Raises:
    ConfigError: images of a held-out split would be cropped at random.
  """
  if kind == "image":
    return config.image.of_split(split)
  clip = video.ClipSpec(**vars(config.clip))
  if config.views.mode:
    return slowfast.ViewSpec(**vars(config.views), clip=clip)
  return clip


class SourceLost(OSError):
  """A listed file that is gone, or storage that fails."""


def load(
  item: items.Item, spec: Spec, *, seed: int, tally: decode.Tally | None = None
) -> np.ndarray | items.Skipped:
  """The clips of a video or the crops of an image, uint8 [K, T, R, R, 3].

  K is `spec.crops`, and more for a video that is sampled by its duration.
  An item that gives nothing comes back as a `Skipped`, with the reason: one bad
  file must not end a job over a million.

  Args:
    item: what is read.
    spec: what is cut out; an `ImageSpec` makes it an image, any other a video.
    seed: of everything drawn; with the item's id it decides the result.
    tally: gets what is counted.

  Raises:
    ImportError: a package that reads this kind is missing.
    SourceLost: the file was listed and cannot be opened any more. This says
      nothing about the item, so it must not be skipped.
  """
  try:
    if isinstance(spec, images.ImageSpec):
      return images.crops(item, stored(item), spec, seed=seed)[:, None]
    if item.record is not None:
      return tfds_source.clips(item, spec, seed=seed, tally=tally)
    return video.clips(item, _source(item), spec, seed=seed, tally=tally)
  except (containers.Undecodable, images.Unreadable, objects.StoreError, OSError) as reason:
    _check_there(item)
    if tally is not None and isinstance(reason, video.TooShort):
      tally.short = "skip"
    return items.Skipped(item.id, outside.shown(reason))


def _check_there(item: items.Item) -> None:
  """Raises SourceLost where the storage fails, and not what is in the file."""
  if item.record is not None or (os.path.islink(item.path) and not os.path.exists(item.path)):
    return  # a link that leads nowhere is the item's own fault
  try:
    with reading.open_file(item.path) as file:
      file.read(1)
  except PermissionError:
    return
  except (OSError, objects.StoreError) as error:
    raise SourceLost(
      f"{item.path} was listed and cannot be opened now ({getattr(error, 'strerror', error)}); is"
      " the storage still there? Run the same command again once it is: it goes on where it stopped"
    ) from error


def check_installed(item: items.Item, spec: Spec) -> None:
  """Raises ImportError where `load` would: before a job begins, not in it."""
  if not isinstance(spec, images.ImageSpec) and item.record is None:
    containers.pyav()


def versions(item: items.Item, spec: Spec) -> dict[str, str]:
  """Of the packages that decide an item's pixels; others may give others.

  Raises:
    ImportError: one is missing.
  """
  if isinstance(spec, images.ImageSpec) or item.record is not None:
    return {"Pillow": PIL.__version__}
  return {"Pillow": PIL.__version__, **containers.versions()}


def label(item: items.Item) -> int:
  """The item's class; -1 for none.

  Sets of TFDS keep labels in their records, of which a listing reads none: the
  label is read here. It costs nothing after `load`, and nothing elsewhere.

  Raises:
    Unreadable: the record is damaged.
  """
  return item.label if item.record is None else tfds_source.label(item)


def duration_s(item: items.Item) -> float:
  """Seconds of a video file, or of its stretch; nothing is decoded.

  Raises:
    Undecodable: there are none.
    OSError: the file cannot be read.
  """
  return video.duration_s(item, _source(item))


def about_s(item: items.Item, *, enough_s: float) -> float:
  """`duration_s` by the header of the file alone, where it says much more than enough.

  Raises:
    Undecodable, OSError: as `duration_s`.
  """
  if item.start_s is not None and item.end_s is not None:
    return item.end_s - item.start_s
  source = stored(item) if item.part is not None else item.path
  length_s = min(containers.header_s(source), item.end_s or math.inf) - (item.start_s or 0.0)
  return length_s if length_s > SURE * enough_s else video.duration_s(item, source)


def _source(item: items.Item) -> containers.VideoInput:
  """What a video is read from.

  Those in a bucket are sought in, forth and back, and decoded twice: all but
  the largest are fetched as a whole.
  """
  if item.part is not None:
    return stored(item)
  if objects.is_url(item.path) and not objects.read_part(item.path, MOST_BYTES, MOST_BYTES + 1):
    return reading.load(item.path)
  return item.path


def stored(item: items.Item) -> bytes:
  """The bytes of an item's file.

  Raises:
    Unreadable, OSError: they cannot be read, or are too many.
  """
  if item.record is not None:
    return tfds_source.encoded(item)
  if item.part is None:
    return _whole(item.path)
  offset, size = item.part
  if not 0 <= size <= MOST_BYTES:
    raise images.Unreadable(f"{size} bytes are more than {MOST_BYTES}")
  if objects.is_url(item.path):
    data = objects.read_part(item.path, offset, offset + size) or b""
  else:
    with outside.open_plain(item.path) as file:
      file.seek(offset)
      data = file.read(size)
  if len(data) != size:
    raise OSError(f"{item.path} ends after {len(data)} of the item's {size} bytes")
  return data


def _whole(path: str) -> bytes:
  try:
    return outside.load(path, most_bytes=MOST_BYTES)
  except outside.Damaged as error:
    raise images.Unreadable(error.reason) from error
