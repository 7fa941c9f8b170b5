"""Sets of TensorFlow Datasets, without TensorFlow.

Layout: <data_dir>/<name>/[<config>/]<version>/ with dataset_info.json,
features.json and records in the array_record format. Sets in TFRecord, the
usual format, have no random access and are refused with the command that
converts them; converting, and preparing image sets, needs TensorFlow.

Which feature is the image (or the sequence of images that is a video) and which
the label is found from the features. A listing reads no record: labels come
with the pixels (`label`). Features of type Video need TensorFlow even to be
described; sequences of images do not.
"""

from collections.abc import Sequence
import contextlib
import functools
import os
import sys
from typing import Any
import urllib.parse

import numpy as np

from totojax.data.pixels import augment, containers, decode, images, timelines, video
from totojax.data.sources import items
from totojax.storage import objects

SCHEME = "tfds:"


def list_items(
  root: objects.Path, split: str, *, name: str, feature: str, label: str, fps: float
) -> items.Listing:
  """All records of a split.

  Args:
    root: the data_dir; "" for TFDS's own (TFDS_DATA_DIR, or
      ~/tensorflow_datasets).
    split: its name; slices such as "train[:10%]" would rename items.
    name: of the set, as "imagenet2012" or "set/config:1.0.0".
    feature: the image or video; "" finds it.
    label: the class; "" finds it, "none" takes none.
    fps: frames per second of videos, which TFDS does not keep; nothing for
      images.

  Raises:
    ValueError: no such set or split, not prepared as array_record, or a feature
      that is not there or not the only one of its kind.
  """
  builder = _builder(name, os.fspath(root))
  info = builder.info
  if split not in info.splits:
    raise ValueError(f"{name} has no split {split!r}; it has {sorted(info.splits)}, whole")
  formats = {kind.value for kind in info.available_file_formats()}
  if "array_record" not in formats:
    raise ValueError(
      f"{builder.data_dir} is prepared as {'/'.join(sorted(formats))}, which has no random access."
      " Where TensorFlow is installed, convert it with: tfds convert_format"
      f" --dataset_version_dir={builder.data_dir} --out_file_format=array_record   (or prepare it"
      f" with: tfds build {name} --file_format=array_record)"
    )
  features = dict(info.features)
  feature, kind = _find_feature(name, features, feature)
  if kind == "video" and fps <= 0.0:
    raise ValueError(
      f"fps is {fps} for {name}, whose {feature} is a video; give the frame"
      " rate that it was stored with"
    )
  label, classes = _find_label(name, features, label)
  fps = fps if kind == "video" else 0.0
  address = SCHEME + urllib.parse.urlencode(
    dict(folder=builder.data_dir, split=split, feature=feature, label=label, fps=fps)
  )
  prefix = f"{info.full_name}/{split}"
  entries = (
    items.Item(f"{prefix}/{record:08d}", address, record=record)
    for record in range(info.splits[split].num_examples)
  )
  return items.listing(kind, entries, classes=classes, where=prefix)


def encoded(item: items.Item) -> bytes:
  """The image file of a record.

  Raises:
    Unreadable: the record is damaged.
  """
  return _record(item.path, item.record)[_parse(item.path)["feature"]]


def label(item: items.Item) -> int:
  """The class of a record; -1 where the set has none, or hides it.

  Raises:
    Unreadable: the record is damaged.
  """
  name = _parse(item.path)["label"]
  return int(_record(item.path, item.record)[name]) if name else -1


def clips(
  item: items.Item, spec: video.Cuts, *, seed: int, tally: decode.Tally | None = None
) -> np.ndarray:
  """`video.clips` of a record that is a sequence of images.

  Raises:
    Undecodable: shorter than a clip, or not 8-bit images.
    Unreadable: the record is damaged.
  """
  address = _parse(item.path)
  frames = _record(item.path, item.record)[address["feature"]]
  if not len(frames):
    raise containers.Undecodable("the record holds no frame")
  rate = float(address["fps"])
  timeline = timelines.Timeline(
    times_s=np.arange(len(frames)) / rate, gap_s=1 / rate, counted=True, begin_s=0.0, fps=rate
  )

  def read(wanted: Sequence[int], *, prepare: augment.Resize):
    return {int(i): prepare(_rgb(np.asarray(frames[i]))) for i in wanted}

  return video.cut(item, timeline, read, spec, seed=seed, tally=tally)


def _rgb(frame_HWC: np.ndarray) -> np.ndarray:
  if frame_HWC.dtype != np.uint8 or frame_HWC.shape[2:] not in ((1,), (3,)):
    raise containers.Undecodable(
      f"frames are {frame_HWC.dtype} {frame_HWC.shape}; needed: uint8 [height, width, 1 or 3]"
    )
  height, width = frame_HWC.shape[:2]
  return np.ascontiguousarray(np.broadcast_to(frame_HWC, (height, width, 3)))


def _parse(address: str) -> dict[str, str]:
  query = address.removeprefix(SCHEME)
  return dict(urllib.parse.parse_qsl(query, keep_blank_values=True))


# Images are read for their pixels and then for their label.
@functools.lru_cache(maxsize=2)
def _record(address: str, record: int) -> dict[str, Any]:
  source = _open(address)
  try:
    return source[record]
  except (ValueError, RuntimeError, IndexError, OSError, KeyError) as error:
    raise images.Unreadable(
      f"record {record} cannot be read: {type(error).__name__}: {error}"
    ) from error


@functools.lru_cache(maxsize=8)
def _open(address: str):
  """The records of a split; opened once in each process that reads them."""
  import tensorflow_datasets as tfds  # pylint: disable=g-import-not-at-top

  parts = _parse(address)
  skip = {}
  if float(parts["fps"]) == 0.0:
    skip[parts["feature"]] = tfds.decode.SkipDecoding()
  builder = tfds.builder_from_directory(parts["folder"])
  _leave_gpus()
  return builder.as_data_source(parts["split"], decoders=skip)


def _builder(name: str, data_dir: str):
  from tensorflow_datasets.core import read_only_builder  # pylint: disable=g-import-not-at-top

  try:
    # Found by its files: the code of a set may want TensorFlow.
    builder = read_only_builder.builder_from_files(name, data_dir=data_dir or None)
  except ImportError as error:
    raise ValueError(
      f"{name} has features that TFDS cannot describe without TensorFlow"
      f" ({error}); install tensorflow, or read the set from its own files"
    ) from error
  except ValueError as error:
    raise ValueError(
      f"{name} is not in {data_dir or 'the data_dir of TFDS'}; prepare it where TensorFlow is"
      f" installed: tfds build {name} --file_format=array_record --data_dir=..."
    ) from error
  _leave_gpus()
  return builder


def _leave_gpus() -> None:
  """Keeps TensorFlow, where a set has loaded it, from taking a GPU's memory."""
  tensorflow = sys.modules.get("tensorflow")
  if tensorflow is not None:
    with contextlib.suppress(RuntimeError):  # it has them already
      tensorflow.config.set_visible_devices([], "GPU")


def _find_feature(name: str, features: dict[str, Any], wanted: str) -> tuple[str, str]:
  """(name, "image" or "video") of what is looked at."""
  import tensorflow_datasets as tfds  # pylint: disable=g-import-not-at-top

  kinds = {}
  for key, value in features.items():
    is_sequence = isinstance(value, tfds.features.Sequence)  # so is Video
    if isinstance(value.feature if is_sequence else value, tfds.features.Image):
      kinds[key] = "video" if is_sequence else "image"
  if not wanted and len(kinds) == 1:
    (wanted,) = kinds
  if wanted not in kinds:
    raise ValueError(
      f"{name} has the images and videos {sorted(kinds)} among its features"
      f" {sorted(features)}; give one of them as feature, not {wanted!r}"
    )
  return wanted, kinds[wanted]


def _find_label(name: str, features: dict[str, Any], wanted: str) -> tuple[str, tuple[str, ...]]:
  """(name or "", class names) of the label."""
  import tensorflow_datasets as tfds  # pylint: disable=g-import-not-at-top

  kinds = {
    key: tuple(value.names or map(str, range(value.num_classes or 0)))
    for key, value in features.items()
    if isinstance(value, tfds.features.ClassLabel)
  }
  if wanted == "none" or (not wanted and not kinds):
    return "", ()
  if not wanted and len(kinds) == 1:
    (wanted,) = kinds
  if wanted not in kinds:
    raise ValueError(
      f"{name} has the labels {sorted(kinds)}; give one of them as label, or 'none', not {wanted!r}"
    )
  return wanted, kinds[wanted]
