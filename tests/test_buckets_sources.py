"""Sources in a bucket: the same items and the same bytes as on disk."""

import csv
import io
import pathlib
import random
import re
import tarfile

from etils import epath
import little_videos
import numpy as np
from PIL import Image
import pytest

from totojax import jobs
from totojax.config import recipes, roots
from totojax.data.pixels import media, video
from totojax.data.sources import folder, items, listings, tars
from totojax.storage import objects, reading

CSV = "label,youtube_id,time_start,time_end,split\nrun,aaaaaaaaaaa,0,10,train\nsit,b,3,9,train\n"
TRUTH = "ImageId,PredictionString\nx_2,n00000002 1 2 3 4\nx_1,n00000001 0 0 1 1\n"


def upload(local, place, name="data"):
  """Copies a local folder; returns where it is in the bucket."""
  for path in pathlib.Path(local).rglob("*"):
    if path.is_file():
      objects.write(f"{place / name}/{path.relative_to(local).as_posix()}", path.read_bytes())
  return place / name


def image(seed):
  rng, file = np.random.default_rng(seed), io.BytesIO()
  Image.fromarray(rng.integers(0, 255, (40, 36, 3), np.uint8)).save(file, "png")
  return file.getvalue()


def tar(path, members):
  with tarfile.open(path, "w") as archive:
    for name, data in members.items():
      member = tarfile.TarInfo(name)
      member.size = len(data)
      archive.addfile(member, io.BytesIO(data))


@pytest.fixture(params=["gs", "s3"])
def remote(request):
  yield request.getfixturevalue({"gs": "bucket", "s3": "s3_bucket"}[request.param])


def test_a_file_is_read_in_any_order(remote, monkeypatch):
  monkeypatch.setattr(reading, "_LEAST_BYTES", 16)
  monkeypatch.setattr(reading, "_MOST_BYTES", 64)
  monkeypatch.setattr(reading, "_BLOCKS", 3)
  data, draw = random.Random(0).randbytes(1000), random.Random(1)
  for size in (0, 1, 64, 65, 1000):
    objects.write(remote / "file", data[:size])
    ours, theirs = reading.open_file(remote / "file"), io.BytesIO(data[:size])
    assert ours.size() == size
    for _ in range(20):
      offset, whence, count = draw.choice(
        [(draw.randrange(1100), 0, 90), (draw.randrange(9), 1, 7), (-min(size, 20), 2, 30)]
      )
      assert ours.seek(offset, whence) == theirs.seek(offset, whence)
      assert ours.read(count) == theirs.read(count) and ours.tell() == theirs.tell()
    with pytest.raises(OSError, match="seek to -1"):
      ours.seek(-1)
  with pytest.raises(FileNotFoundError):
    reading.open_file(remote / "fil")


def test_reading_on_takes_few_requests(bucket):
  data = random.Random(0).randbytes(2**21)
  objects.write(bucket / "file", data)
  file, before = reading.open_file(bucket / "file"), len(bucket.proxy.log)
  assert b"".join(iter(lambda: file.read(512), b"")) == data
  assert len(bucket.proxy.log) - before < 12
  file = reading.open_file(bucket / "file")
  file.seek(2**20)
  before = len(bucket.proxy.log)
  assert file.read(512) == data[2**20 :][:512]
  assert len(bucket.proxy.log) - before == 1


def _touch(root, *names):
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


def _folder(root):
  _touch(root, "b/2.mp4", "b/a.mp4", "a/deep/1.mp4", "a/note.txt", ".hidden/3.mp4", "a/.4.mp4")
  return {"name": "folder", "folder.class_folders": True}


def _list(root):
  _touch(root, "b/2.mp4", "a b.mp4")
  (root / "list.txt").write_text("b/2.mp4 3\na b.mp4 0\ngone.mp4 1\n")
  return {"name": "list", "list.path": "{root}/list.txt"}


def _tars(root):
  _touch(root, "x")
  tar(root / "1.tar", {"0.mp4": b"v", "0.cls": b"3", "1.json": b'{"label": 2}', "1.mp4": b"vv"})
  (root / "2.tar").write_bytes((root / "1.tar").read_bytes()[:2300])
  return {"name": "tars"}


def _imagenet(root):
  _touch(root, "val/x_1.JPEG", "val/x_2.JPEG")
  (root / "LOC_val_solution.csv").write_text(TRUTH)
  return {"name": "imagenet", "imagenet.classes": 2, "splits": ("val",)}


def _imagenet_tars(root):
  for label, wnid in enumerate(("n00000001", "n00000002")):
    tar(root / f"{wnid}.tar", {f"{i}.JPEG": b"i" for i in range(label + 1)})
  return {"name": "imagenet", "imagenet.classes": 0}


def _kinetics(root):
  _touch(root, "train/run/aaaaaaaaaaa_000000_000010.mp4")
  (root / "k.csv").write_text(CSV)
  return {
    "name": "kinetics",
    "kinetics.annotations": "{root}/k.csv",
    "kinetics.classes": 0,
    "splits": ("train",),
  }


def _ego4d(root):
  _touch(root, "v2/full_scale/one.mp4", "v2/full_scale/two.mp4")
  (root / "v2/ego4d.json").write_text('{"videos": [{"video_uid": "one"}, {"video_uid": "gone"}]}')
  return {"name": "ego4d"}


def _ssv2(root):
  _touch(root, "videos/1.webm")
  (root / "labels.json").write_text('{"Pushing something": "0"}')
  (root / "train.json").write_text('[{"id": "1", "template": "Pushing [something]"}, {"id": "2"}]')
  return {"name": "ssv2", "ssv2.classes": 0, "splits": ("train",)}


def _ucf101(root):
  _touch(root, "Bow/v_1.avi")
  (root / "classInd.txt").write_text("1 Bow\n")
  (root / "trainlist01.txt").write_text("Bow/v_1.avi 1\nBow/v_2.avi 1\n")
  return {"name": "ucf101", "ucf101.classes": 0, "splits": ("train",)}


LAYOUTS = (_folder, _list, _tars, _imagenet, _imagenet_tars, _kinetics, _ego4d, _ssv2, _ucf101)


@pytest.mark.parametrize("write", LAYOUTS, ids=lambda f: f.__name__)
def test_listings_are_those_of_the_disk(remote, tmp_path, write):
  root = tmp_path / "data"
  root.mkdir()
  words = write(root)
  url = upload(root, remote)
  objects.write(url + "/empty/", b"")  # as consoles make folders
  ours, theirs = (_by_store(words, place) for place in (url, str(root)))
  assert ours == theirs


def _by_store(words, root):
  """The listings of a source without where it is."""
  c = recipes.tokenize()
  c.source.root = root
  c.source.update_from_flattened_dict(
    {k: v.replace("{root}", root) if isinstance(v, str) else v for k, v in words.items()}
  )
  source = roots.read(c.to_dict()).source
  found = listings.by_store(source, seed=0)
  return {name: repr(listing).replace(root, "ROOT") for name, listing in found.items()}


def test_lines_of_a_list_may_be_urls(bucket, tmp_path):
  objects.write(bucket / "a b.mp4", b"x")
  names = [bucket / "a b.mp4", bucket / "gone.mp4"]
  (tmp_path / "list.txt").write_text("".join(f"{name} 1\n" for name in names))
  listing = folder.list_lines(
    tmp_path, str(tmp_path / "list.txt"), kind="video", separator="space", classes=0
  )
  assert [(item.path, item.label) for item in listing.items] == [(names[0], 1)]
  (missing,) = listing.missing
  assert missing.id == names[1] and missing.reason == f"{names[1]} does not exist"


@pytest.mark.parametrize("name", ["data/none", "data/v.mp4/"])
def test_a_folder_that_is_not_there(bucket, name):
  objects.write(bucket / "data/v.mp4", b"x")
  with pytest.raises(ValueError, match=f"{bucket / name.rstrip('/')}/? is not a folder"):
    folder.list_items(bucket / name, "", kind="video", class_folders=False)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
  root = tmp_path_factory.mktemp("videos")
  for i in range(3):
    little_videos.write(root / f"video {i}.mp4", 20 + i)
  (root / "damaged.mp4").write_bytes(b"no video")
  return root


def test_a_large_video_is_sought_in(videos, bucket, monkeypatch):
  spec = video.ClipSpec(frames=4, stride_frames=2, size_px=32, crops=2)
  url, clips = upload(videos, bucket), {}
  for where in (str(videos), url):
    clips[where] = media.load(items.Item("a", f"{where}/video 1.mp4"), spec, seed=0)
  monkeypatch.setattr(media, "MOST_BYTES", 10)
  monkeypatch.setattr(reading, "load", None)  # not as a whole
  clips["sought"] = media.load(items.Item("a", f"{url}/video 1.mp4"), spec, seed=0)
  for found in clips.values():
    np.testing.assert_array_equal(found, clips[str(videos)])


def test_what_is_lost_is_no_fault_of_the_item(videos, bucket):
  spec = video.ClipSpec(frames=4, stride_frames=2, size_px=32, crops=2)
  url = upload(videos, bucket)
  damaged = media.load(items.Item("d", f"{url}/damaged.mp4"), spec, seed=0)
  assert isinstance(damaged, items.Skipped) and "InvalidData" in damaged.reason
  objects.write(url + "/empty.mp4", b"")
  empty = media.load(items.Item("e", f"{url}/empty.mp4"), spec, seed=0)
  assert empty == items.Skipped("e", "the file is empty (0 bytes)")
  for item in (items.Item("g", f"{url}/gone.mp4"), items.Item("p", f"{url}/gone.tar", part=(0, 9))):
    with pytest.raises(media.SourceLost, match="gone.* cannot be opened now.*no such object"):
      media.load(item, spec, seed=0)
  with bucket.proxy.rule("GET .*video", status=403):
    with pytest.raises(media.SourceLost, match="may not be read by this account"):
      media.load(items.Item("v", f"{url}/video 0.mp4"), spec, seed=0)


def test_a_member_of_a_tar_is_one_request(remote, tmp_path):
  tar(tmp_path / "1.tar", {f"{i}.png": image(i) for i in range(3)})
  objects.write(remote / "1.tar", (tmp_path / "1.tar").read_bytes())
  listing = tars.list_items(remote / "1.tar", "", kind="image", classes=0, label_key="")
  before = len(remote.proxy.log)
  assert [media.stored(item) for item in listing.items] == [image(i) for i in range(3)]
  assert len(remote.proxy.log) - before == 3


def tokenized(root, workdir, **changes):
  c = recipes.tokenize()
  c.source.root = root
  c.clip.update(frames=4, stride_frames=2, size_px=32, crops=2)
  c.image.size_px = 32
  c.amount.update(items_per_shard=2, workers=0)
  c.update_from_flattened_dict(changes)
  assert jobs.run(c.to_dict(), epath.Path(workdir), lambda done: False)


def made(place):
  """The stores that a job made, and what it left out."""
  return anywhere({n.removeprefix("run/"): data for n, data in place.objects().items()})


def anywhere(files):
  """What of a job's files must be the same wherever source and stores lie."""
  names = ("all/", "all.units/", "train/", "quarantine.csv")
  # FFmpeg says where a file was, and "<none>" of one in memory; a manifest has
  # the root of the source, and a digest of all that it has.
  pattern = rb": '[^']*(damaged\.mp4|<none>)'|^ *\"(root|digest)\": .*\n"
  return {
    name: re.sub(pattern, b"", data, flags=re.MULTILINE)
    for name, data in files.items()
    if name.startswith(names)
  }


@pytest.mark.slow
def test_images_of_tars_become_the_same_tokens(remote, local, tmp_path):
  root = tmp_path / "data"
  root.mkdir()
  tar(root / "1.tar", {f"{i}.png": image(i) for i in range(3)} | {"3.png": b"none"})
  words = {"source.kind": "image", "source.name": "tars"}
  tokenized(str(root), local / "run", **words)
  tokenized(upload(root, remote), tmp_path / "run", **words)
  run = tmp_path / "run"
  ours = {p.relative_to(run).as_posix(): p.read_bytes() for p in run.rglob("*") if p.is_file()}
  expected = made(local)
  assert len(expected) > 5 and anywhere(ours) == expected
  rows = list(csv.DictReader(io.StringIO(expected["quarantine.csv"].decode())))
  assert [row["id"] for row in rows] == ["1/3"]


@pytest.mark.slow
@pytest.mark.parametrize(
  "changes",
  [
    {"amount.workers": 2},
    {
      "beam.name": "DirectRunner",
      "beam.options": ("--direct_running_mode=multi_processing", "--direct_num_workers=2"),
    },
  ],
  ids=["workers", "beam"],
)
def test_several_processes_read_and_write_a_bucket(videos, bucket, local, changes):
  if "beam.name" in changes:
    pytest.importorskip("apache_beam")
  tokenized(str(videos), local / "run")
  tokenized(upload(videos, bucket), bucket / "run", **changes)
  assert len(made(local)) > 5 and made(bucket) == made(local)
