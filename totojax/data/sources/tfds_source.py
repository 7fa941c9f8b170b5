"""Sets of TensorFlow Datasets, without TensorFlow.

Layout: <data_dir>/<name>/[<config>/]<version>/ with dataset_info.json,
features.json and records in the array_record format. Sets in TFRecord, the
usual format, have no random access and are refused with the command that
converts them; converting, and preparing image sets, needs TensorFlow.

Which feature is the image (or the sequence of images that is a video) and which
the label is found from the features. A listing reads no record: labels come
with the pixels (`label`). Features of type Video need TensorFlow even to be
described; sequences of images do not. It is then kept from GPUs before it looks
at any device (seen with TensorFlow 2.21), of which it would take all memory.
"""

from collections.abc import Sequence
import contextlib
import dataclasses
import functools
import os
import re
import sys
from typing import Any
import urllib.parse

import numpy as np

from totojax.data.pixels import augment, containers, decode, images, timelines, video
from totojax.data.sources import items
from totojax.storage import objects, outside

SCHEME = "tfds:"
MOST_CLASSES = 1_000_000  # whose names are made up where the set has none
_INFO_BYTES = 2**26  # of each file that describes a set
_COUNT = re.compile("[0-9]{1,12}")
_FEATURE = re.compile(r"tensorflow_datasets\.core\.features\.[\w.]+")


@dataclasses.dataclass(frozen=True)
class _Split:
  """What is read of a split of dataset_info.json."""

  name: str
  shardLengths: tuple[Any, ...] = ()  # texts, as protobuf writes 64 bits


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
  info, folder = builder.info, os.fspath(builder.data_dir)
  if split not in info.splits:
    raise ValueError(
      f"{name} has no split {split!r}; in {folder} it has {sorted(info.splits)!s:.200}, whole"
    )
  formats = {kind.value for kind in info.available_file_formats()}
  if "array_record" not in formats:
    raise ValueError(
      f"{builder.data_dir} is prepared as {'/'.join(sorted(formats))}, which has no random access."
      " Where TensorFlow is installed, convert it with: tfds convert_format"
      f" --dataset_version_dir={builder.data_dir} --out_file_format=array_record   (or prepare it"
      f" with: tfds build {name} --file_format=array_record)"
    )
  features = dict(info.features)
  feature, kind = _find_feature(folder, features, feature)
  if kind == "video" and fps <= 0.0:
    raise ValueError(
      f"fps is {fps} for {name}, whose {feature} is a video; give the frame"
      " rate that it was stored with"
    )
  label, classes = _find_label(folder, features, label)
  fps = fps if kind == "video" else 0.0
  address = SCHEME + urllib.parse.urlencode(
    dict(folder=builder.data_dir, split=split, feature=feature, label=label, fps=fps)
  )
  prefix = f"{info.full_name}/{split}"
  _check_records(folder, info.splits[split])
  entries = (
    items.Item(f"{prefix}/{record:08d}", address, record=record)
    for record in range(info.splits[split].num_examples)
  )
  return items.listing(kind, entries, classes=classes, where=f"{prefix} in {folder}")


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
  if not name:
    return -1
  value = _record(item.path, item.record)[name]
  if not isinstance(value, int | np.integer):
    raise images.Unreadable(f"its {name!r:.80} is no number of a class: {value!r:.80}")
  return int(value)


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
  source, parts = _open(address), _parse(address)
  try:
    value = source[record]
    if lost := [parts[k] for k in ("feature", "label") if parts[k] and value[parts[k]] is None]:
      raise ValueError(f"it has no {lost[0]!r:.80}")
    return value
  except Exception as error:  # of libraries in C++ and Python, of bytes that are no record
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
  _check_set(parts["folder"])
  builder = tfds.builder_from_directory(parts["folder"])
  _leave_gpus()
  return builder.as_data_source(parts["split"], decoders=skip)


def _builder(name: str, data_dir: str):
  from tensorflow_datasets.core import read_only_builder  # pylint: disable=g-import-not-at-top

  # Found by its files: the code of a set may want TensorFlow.
  try:
    folder = read_only_builder._find_builder_dir(name, data_dir=data_dir or None)
  except Exception:  # whatever a name, or a folder of it, is to TFDS
    folder = None
  if folder is None:
    raise ValueError(
      f"{name} is not in {data_dir or 'the data_dir of TFDS'}; prepare it where TensorFlow is"
      f" installed: tfds build {name} --file_format=array_record --data_dir=..."
    )
  _check_set(os.fspath(folder))
  try:
    builder = read_only_builder.builder_from_directory(folder)
    dict(builder.info.features)
    _ = [split.filepaths for split in builder.info.splits.values()]  # are worked out only now
  except ImportError as error:
    raise ValueError(
      f"{folder} has features that TFDS cannot describe without TensorFlow"
      f" ({error}); install tensorflow, or read the set from its own files"
    ) from error
  except Exception as error:  # protobuf's, and those of whatever a feature is made of
    raise _unreadable(os.fspath(folder), error) from error
  _leave_gpus()
  return builder


def _unreadable(folder: str, error: BaseException) -> outside.Damaged:
  line = (str(error).strip().splitlines() or [""])[0]
  return outside.Damaged(folder, f"TFDS cannot read it: {type(error).__name__}: {line:.200}")


def _check_set(folder: str) -> None:
  """Raises Damaged where the files that describe a set would mislead TFDS.

  It makes objects of the classes that they name, and lists of the lengths.
  """
  path = os.path.join(folder, "dataset_info.json")
  info = outside.read_json(path, most_bytes=_INFO_BYTES)
  splits = info.get("splits", []) if isinstance(info, dict) else None
  if not isinstance(splits, list) or not all(isinstance(split, dict) for split in splits):
    raise outside.Damaged(path, "it has no list of splits")
  for split in splits:
    known = {key: split[key] for key in ("name", "shardLengths") if key in split}
    read = outside.fields(_Split, path, known)
    lengths = [text for text in map(str, read.shardLengths) if not _COUNT.fullmatch(text)]
    if lengths:
      raise outside.Damaged(
        path, f"split {read.name!r:.40} has a shard of {lengths[0]:.40} records"
      )
  if len({split["name"] for split in splits}) < len(splits):
    raise outside.Damaged(path, "two of its splits have one name")
  path = os.path.join(folder, "features.json")
  _check_features(path, outside.read_json(path, most_bytes=_INFO_BYTES))
  for file in sorted(os.listdir(folder)):
    if file.endswith(".labels.txt"):
      outside.load(os.path.join(folder, file), most_bytes=_INFO_BYTES)


def _check_features(path: str, value: Any) -> None:
  if isinstance(value, list):
    for part in value:
      _check_features(path, part)
  if not isinstance(value, dict):
    return
  for key, part in value.items():
    if key in ("pythonClassName", "python_class_name"):
      if not (isinstance(part, str) and _FEATURE.fullmatch(part)):
        raise outside.Damaged(path, f"it names {part!r:.80}, which is no feature of TFDS")
    elif key in ("numClasses", "num_classes"):
      if not _COUNT.fullmatch(str(part)) or int(part) > MOST_CLASSES:
        raise outside.Damaged(
          path, f"it has {part!r:.40} classes, and up to {MOST_CLASSES:,} are read"
        )
    else:
      _check_features(path, part)


def _check_records(folder: str, split: Any) -> None:
  """Raises Damaged unless each shard has the records that are said of it."""
  from array_record.python import array_record_module

  for path, wanted in zip(map(os.fspath, split.filepaths), split.shard_lengths, strict=True):
    if objects.is_url(path):
      continue
    if os.path.dirname(path) != folder.rstrip("/"):
      raise outside.Damaged(folder, f"its split {split.name!r:.40} lies elsewhere: {path:.200}")
    try:
      outside.open_plain(path).close()
      reader = array_record_module.ArrayRecordReader(path)
      records = reader.num_records()
      reader.close()
    except outside.Damaged:
      raise
    except Exception as error:  # of a library in C++
      raise _unreadable(path, error) from error
    if records != wanted:
      raise outside.Damaged(path, f"it has {records:,} records, and dataset_info.json {wanted:,}")


def _leave_gpus() -> None:
  """Keeps TensorFlow, where a set has loaded it, from taking a GPU's memory."""
  tensorflow = sys.modules.get("tensorflow")
  if tensorflow is not None:
    with contextlib.suppress(RuntimeError):  # it has them already
      tensorflow.config.set_visible_devices([], "GPU")


def _find_feature(folder: str, features: dict[str, Any], wanted: str) -> tuple[str, str]:
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
      f"{folder} has the images and videos {sorted(kinds)} among its features"
      f" {sorted(features)}; give one of them as feature, not {wanted!r}"
    )
  return wanted, kinds[wanted]


def _find_label(folder: str, features: dict[str, Any], wanted: str) -> tuple[str, tuple[str, ...]]:
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
      f"{folder} has the labels {sorted(kinds)}; give one of them as label, or 'none',"
      f" not {wanted!r}"
    )
  return wanted, kinds[wanted]
