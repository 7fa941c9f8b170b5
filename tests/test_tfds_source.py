"""Sets of TensorFlow Datasets, written without TensorFlow."""

import io
import json
import sys
import types

import numpy as np
from PIL import Image
import pytest

from totojax.data.pixels import images, media, video
from totojax.data.sources import items, tfds_source

SPEC = images.ImageSpec(size_px=8, crops=1, crop="center", resample="bicubic", animated="refuse")
CLIPS = video.ClipSpec(
  frames=3,
  stride_frames=2,
  fps=30.0,
  size_px=8,
  crops=2,
  resample="bicubic",
  sampling="uniform",
  every_s=1.0,
  most_stretches=1,
)


def png(value, channels=3):
  picture = np.full((12, 10, channels), value, np.uint8)
  file = io.BytesIO()
  Image.fromarray(picture.squeeze()).save(file, "PNG")
  return file.getvalue()


def example(**values):
  from tensorflow_datasets.proto import tf_example_pb2

  record = tf_example_pb2.Example()
  for name, value in values.items():
    feature = record.features.feature[name]
    if isinstance(value, int):
      feature.int64_list.value.append(value)
    else:
      listed = value if isinstance(value, list) else [value]
      feature.bytes_list.value.extend(listed)
  return record.SerializeToString()


def prepare(root, name, features, records, file_format="array_record"):
  """A set as `tfds build --file_format=...` leaves it."""
  from array_record.python import array_record_module

  folder = root / name / "1.0.0"
  folder.mkdir(parents=True)
  features.save_config(folder)
  shard = folder / f"{name}-train.{file_format}-00000-of-00001"
  if file_format == "array_record":
    writer = array_record_module.ArrayRecordWriter(str(shard), "group_size:1")
    for record in records:
      writer.write(record)
    writer.close()
  else:
    shard.write_bytes(b"")
  split = {
    "name": "train",
    "numBytes": "1",
    "shardLengths": [str(len(records))],
    "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
  }
  info = {"name": name, "version": "1.0.0", "fileFormat": file_format, "splits": [split]}
  (folder / "dataset_info.json").write_text(json.dumps(info))


def features(**more):
  import tensorflow_datasets as tfds

  return tfds.features.FeaturesDict(
    {
      "image": tfds.features.Image(shape=(None, None, 3)),
      "label": tfds.features.ClassLabel(names=["cat", "dog", "emu"]),
      "file_name": tfds.features.Text(),
    }
    | more
  )


def listed(root, name="tiny", split="train", feature="", label="", fps=0.0):
  return tfds_source.list_items(root, split, name=name, feature=feature, label=label, fps=fps)


@pytest.fixture(name="root", scope="module")
def _root(tmp_path_factory):
  root = tmp_path_factory.mktemp("tfds")
  records = [example(image=png(40 * i), label=(i + 1) % 3, file_name=b"f.png") for i in range(5)]
  records[4] = example(image=png(0)[:45], label=-1, file_name=b"cut.png")
  prepare(root, "tiny", features(), records)
  return root


def test_images_and_labels(root):
  listing = listed(root)
  assert listing.kind == "image" and listing.classes == ("cat", "dog", "emu")
  assert [item.id for item in listing.items] == [f"tiny/1.0.0/train/0000000{i}" for i in range(5)]
  for i, item in enumerate(listing.items[:4]):
    crop = media.load(item, SPEC, seed=0)
    assert crop.shape == (1, 1, 8, 8, 3) and (crop == 40 * i).all()
    assert media.label(item) == (i + 1) % 3
  row = media.load(listing.items[4], SPEC, seed=0)
  assert isinstance(row, items.Skipped) and row.id.endswith("/00000004")
  assert media.label(listing.items[4]) == -1
  assert listed(root, fps=30.0) == listing  # of videos only
  unlabelled = listed(root, label="none")
  assert unlabelled.classes == () and media.label(unlabelled.items[0]) == -1
  assert media.label(items.Item("a", "/a", label=7)) == 7


def test_sets_that_are_not_there_or_not_so(root):
  for how, told in (
    ({"name": "nothing"}, "tfds build nothing --file_format=array_record"),
    ({"name": "tiny:2.0.0"}, "tiny:2.0.0 is not in"),
    ({"split": "val"}, "no split 'val'; in .* it has .'train'."),
    ({"split": "train[:2]"}, "no split 'train.:2.'"),
    ({"feature": "label"}, "images and videos .'image'. among"),
    ({"label": "image"}, "has the labels .'label'."),
  ):
    with pytest.raises(ValueError, match=told):
      listed(root, **how)


def test_tfrecord_is_refused_with_the_command(root):
  prepare(root, "old", features(), [b""], file_format="tfrecord")
  with pytest.raises(
    ValueError,
    match=r"tfds convert_format --dataset_version_dir=.*/old/1.0.0"
    r" --out_file_format=array_record",
  ):
    listed(root, "old")


def test_two_images_need_a_choice(root):
  import tensorflow_datasets as tfds

  both = features(mask=tfds.features.Image(shape=(None, None, 3)))
  record = example(image=png(1), mask=png(99), label=0, file_name=b"")
  prepare(root, "two", both, [record])
  with pytest.raises(ValueError, match="'image', 'mask'"):
    listed(root, "two")
  (item,) = listed(root, "two", feature="mask").items
  assert (media.load(item, SPEC, seed=0) == 99).all()


def test_sequences_of_images_are_videos(root):
  import tensorflow_datasets as tfds

  kind = tfds.features.FeaturesDict(
    {"frames": tfds.features.Sequence(tfds.features.Image(shape=(12, 10, 1)))}
  )
  films = [[png(10 * i, 1) for i in range(count)] for count in (12, 4)]
  prepare(root, "film", kind, [example(frames=film) for film in films])
  listing = listed(root, "film", fps=15.0)
  assert listing.kind == "video" and listing.classes == ()
  clips = media.load(listing.items[0], CLIPS, seed=0)
  assert clips.shape == (2, 3, 8, 8, 3)
  numbers = clips[:, :, 0, 0, 0] // 10
  assert (np.diff(numbers, axis=1) == 1).all()  # 2 at 30 a second, 1 at 15
  # 4 frames at 15 a second are 8 at 30: enough for a span of 5, not of 9.
  assert len(media.load(listing.items[1], CLIPS, seed=0)) == 2
  longer = video.ClipSpec(**{**vars(CLIPS), "frames": 5})
  assert "too short" in media.load(listing.items[1], longer, seed=0).reason
  held = media.load(listing.items[1], video.ClipSpec(**{**vars(longer), "short": "hold"}), seed=0)
  assert (held[:, :, 0, 0, 0] // 10 == [0, 1, 2, 3, 3]).all()
  with pytest.raises(ValueError, match="fps is 0.0 for film"):
    listed(root, "film")


def test_video_features_say_that_they_need_tensorflow(root):
  pytest.importorskip("tensorflow_datasets")
  try:
    import tensorflow  # noqa: F401
  except ImportError:
    pass
  else:
    pytest.skip("TensorFlow is here")
  folder = root / "film" / "2.0.0"
  folder.mkdir(parents=True)
  for file in (root / "film" / "1.0.0").iterdir():
    (folder / file.name).write_bytes(file.read_bytes())
  config = json.loads((folder / "features.json").read_text())
  config["featuresDict"]["features"]["frames"] = {
    "pythonClassName": "tensorflow_datasets.core.features.video_feature.Video",
    "video": {
      "shape": {"dimensions": ["-1", "12", "10", "3"]},
      "dtype": "uint8",
      "encodingFormat": "png",
    },
  }
  (folder / "features.json").write_text(json.dumps(config))
  with pytest.raises(ValueError, match="install tensorflow, or read the set"):
    listed(root, "film:2.0.0", fps=15.0)


def test_tensorflow_takes_no_gpu(monkeypatch):
  """It would take all memory of one at its first use."""
  hidden = []
  config = types.SimpleNamespace(set_visible_devices=lambda *words: hidden.append(words))
  tfds_source._leave_gpus()
  assert not hidden  # nothing is loaded for it
  monkeypatch.setitem(sys.modules, "tensorflow", types.SimpleNamespace(config=config))
  tfds_source._leave_gpus()
  assert hidden == [([], "GPU")]


def test_sets_that_need_tensorflow_are_read_and_it_takes_no_gpu(tmp_path):
  tensorflow = pytest.importorskip("tensorflow")
  import tensorflow_datasets as tfds

  kind = tfds.features.FeaturesDict({"clip": tfds.features.Video(shape=(None, 12, 10, 3))})
  films = [[png(10 * i + j) for j in range(12)] for i in range(2)]
  prepare(tmp_path, "clips", kind, [example(clip=film) for film in films])
  listing = listed(tmp_path, "clips", fps=30.0)
  for i, item in enumerate(listing.items):
    shown = media.load(item, CLIPS, seed=0)[:, :, 0, 0, 0].astype(int) - 10 * i
    assert (np.diff(shown, axis=1) == 2).all() and shown.min() >= 0 and shown.max() < 12
  assert tensorflow.config.get_visible_devices("GPU") == []
  # Said before it looked at any device: afterwards it would be too late.
  assert {each.device_type for each in _context()._visible_device_list} == {"CPU"}


def _context():
  from tensorflow.python.eager import context

  return context.context()
