"""Pixel stores from videos, photographs and renderings, cut and continued."""

import csv
import dataclasses
import pathlib
import shutil
import sys

from etils import epath
import numpy as np
from PIL import Image
import pytest
import token_sets

from totojax.config import pixel_recipes, roots
from totojax.config.schema import ConfigError
from totojax.data.store import store as store_lib
from totojax.jobs import pixels
from totojax.rundir import files as rundir_files
from totojax.storage import objects


def never(_):
  return False


def cut_after(calls: int):
  """Asks to stop at the call after `calls`."""
  left = [calls]

  def interrupted(_):
    left[0] -= 1
    return left[0] < 0

  return interrupted


def files(folder) -> dict[str, bytes]:
  root = pathlib.Path(folder)
  return {
    str(path.relative_to(root)): path.read_bytes()
    for path in sorted(root.rglob("*"))
    if path.is_file()
  }


def write_video(path, frames: int, seed: int, hold: int = 1) -> None:
  """Frames of one colour, which is another every `hold` frames."""
  av = pytest.importorskip("av")
  rng = np.random.default_rng(seed)
  with av.open(str(path), "w") as container:
    stream = container.add_stream("mpeg4", rate=30)
    stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
    for i in range(frames):
      if i % hold == 0:
        image = np.full((32, 48, 3), rng.integers(256, size=3), np.uint8)
      frame = av.VideoFrame.from_ndarray(image, format="rgb24")
      container.mux(stream.encode(frame))
    container.mux(stream.encode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp("videos")
  for i in range(5):
    write_video(root / f"clip {i}.mp4", frames=20, seed=i)
  (root / "empty.mp4").write_bytes(b"")
  write_video(root / "short.mp4", frames=3, seed=9)
  return root


def decoding(root, crops=2):
  c = pixel_recipes.decode(str(root))
  c.clip.update(frames=4, size_px=16, crops=crops)
  c.decoding.update(val_frac=0.3, records_per_shard=2)
  return roots.read(c.to_dict())


def test_decode_lists_what_it_skipped_and_keeps_items_apart(folder, tmp_path):
  workdir = epath.Path(tmp_path)
  assert pixels.decode(decoding(folder), workdir, never)
  rows = list(csv.reader((workdir / "skipped.csv").read_text().splitlines()))
  assert rows[0] == ["path", "reason"]
  assert [row[0] for row in rows[1:]] == ["empty.mp4", "short.mp4"]
  ids = {}
  for split in ("train", "val"):
    store = store_lib.open_store(workdir / split, tokenizer=None, vocab=None, grid=None)
    assert store.read([0])["frames"].shape == (1, 4, 16, 16, 3)
    ids[split] = store.ids()
  assert len(ids["train"]) + len(ids["val"]) == 2 * 5
  assert not set(ids["train"]) & set(ids["val"])
  assert token_sets.proven(workdir / "train", workdir / "val")


def test_decode_cut_anywhere_ends_the_same(folder, tmp_path):
  whole = epath.Path(tmp_path / "whole")
  pixels.decode(decoding(folder), whole, never)
  for calls in range(7):
    workdir = epath.Path(tmp_path / str(calls))
    assert not pixels.decode(decoding(folder), workdir, cut_after(calls))
    assert pixels.decode(decoding(folder), workdir, never)
    for split in ("train", "val"):
      assert files(workdir / split) == files(whole / split), calls
    assert (workdir / "skipped.csv").read_text() == (whole / "skipped.csv").read_text()


def stored(workdir, split):
  store = store_lib.open_store(workdir / split, tokenizer=None, vocab=None, grid=None)
  return store.ids(), store.read(np.arange(len(store)))["frames"]


def test_the_end_of_a_lone_video_is_held_out(tmp_path):
  """By the frames themselves: each has a colour of its own."""
  write_video(tmp_path / "only.mp4", frames=90, seed=3)
  rng = np.random.default_rng(3)
  colours = np.stack([rng.integers(256, size=3) for _ in range(90)]).astype(int)
  workdir = epath.Path(tmp_path / "run")
  assert pixels.decode(decoding(tmp_path, crops=16), workdir, never)
  seen = {}
  for split in ("train", "val"):
    ids, clips = stored(workdir, split)
    assert {video.split("/")[0] for video in ids} == {"only.mp4"}
    means = clips.reshape(-1, 16 * 16, 3).mean(1)
    seen[split] = np.abs(means[:, None] - colours).sum(-1).argmin(1)
  # A second lies between them, and both splits use what they have.
  assert seen["val"].min() - seen["train"].max() >= 30
  assert seen["train"].min() < 10 and seen["val"].max() > 80
  assert token_sets.proven(workdir / "train", workdir / "val")


def test_copies_of_a_file_are_used_once(folder, tmp_path):
  """Or what is held out would be known from training."""
  root, workdir = tmp_path / "videos", epath.Path(tmp_path / "run")
  shutil.copytree(folder, root)
  for i in range(4):
    shutil.copy(folder / "clip 1.mp4", root / f"copy {i}.mp4")
  assert pixels.decode(decoding(root), workdir, never)
  rows = dict(csv.reader((workdir / "skipped.csv").read_text().splitlines()))
  assert {k: v for k, v in rows.items() if "copy" in k} == {
    f"copy {i}.mp4": "the same bytes as clip 1.mp4" for i in range(4)
  }
  assert set(stored(workdir, "train")[0]) | set(stored(workdir, "val")[0]) == {
    f"clip {i}.mp4" for i in range(5)
  }
  # All alike: one video, of which the end is held out.
  alike = tmp_path / "alike"
  alike.mkdir()
  write_video(alike / "a.mp4", frames=90, seed=3)
  shutil.copy(alike / "a.mp4", alike / "b.mp4")
  assert pixels.decode(decoding(alike), epath.Path(tmp_path / "one"), never)
  ids = [set(stored(epath.Path(tmp_path / "one"), split)[0]) for split in ("train", "val")]
  assert ids == [{"a.mp4/0-1.56"}, {"a.mp4/2.56-end"}]


def test_a_lone_video_that_is_too_short_to_be_divided_is_told(tmp_path):
  write_video(tmp_path / "only.mp4", frames=50, seed=3)
  with pytest.raises(ValueError, match="only.mp4 has 1.67 s; 1.88 s are needed .* Add another"):
    pixels.decode(decoding(tmp_path), epath.Path(tmp_path / "run"), never)
  (tmp_path / "only.mp4").write_bytes(b"")
  with pytest.raises(ValueError, match="its only video only.mp4 cannot be read"):
    pixels.decode(decoding(tmp_path), epath.Path(tmp_path / "run"), never)


def test_only_training_clips_are_varied(folder, tmp_path):
  whole = tmp_path / "videos"
  shutil.copytree(folder, whole, ignore=shutil.ignore_patterns("empty.mp4", "short.mp4"))
  config = decoding(whole)
  views = dataclasses.replace(config.views, mode="train", short_frac=(1.0, 1.6))
  for name, each in {"plain": config, "varied": dataclasses.replace(config, views=views)}.items():
    assert pixels.decode(each, epath.Path(tmp_path / name), never)
  plain, varied = (epath.Path(tmp_path / name) for name in ("plain", "varied"))
  assert files(plain / "val") == files(varied / "val")
  one, other = stored(plain, "train"), stored(varied, "train")
  assert one[0] == other[0]  # as many clips, of the same videos
  assert (one[1] != other[1]).any()


def test_decode_says_when_nothing_is_left(tmp_path):
  root = tmp_path / "videos"
  root.mkdir()
  for i in range(3):
    (root / f"{i}.mp4").write_bytes(b"no video %d" % i)
  with pytest.raises(ValueError, match="none of the 2 train videos"):
    pixels.decode(decoding(root), epath.Path(tmp_path / "run"), never)


def test_a_wrong_folder_names_its_key(tmp_path):
  (tmp_path / "bare").mkdir()
  for name, told in (("none", "is not a folder"), ("bare", "holds no video")):
    with pytest.raises(ValueError, match=told) as caught:
      pixels.decode(decoding(tmp_path / name), epath.Path(tmp_path / "run"), never)
    assert "decoding.root" in str(caught.value)
    assert "--config.data.root" in str(caught.value)
  assert not (tmp_path / "run").exists()


# After so many items, of 5 for training and 2 held out: in the first store,
# and in the second when the first is complete.
@pytest.mark.parametrize("calls", [0, 3, 6])
@pytest.mark.parametrize("change", ["added", "removed", "renamed"])
def test_another_folder_is_refused(folder, tmp_path, calls, change):
  root, workdir = tmp_path / "videos", epath.Path(tmp_path / "run")
  shutil.copytree(folder, root)
  assert not pixels.decode(decoding(root), workdir, cut_after(calls))
  video, aside = root / "clip 2.mp4", tmp_path / "aside.mp4"
  if change == "added":
    shutil.copy(video, root / "a.mp4")
  elif change == "removed":
    shutil.move(video, aside)
  else:
    video.rename(root / "z.mp4")
  before = files(workdir)
  with pytest.raises(objects.StoreError, match="added, removed or renamed"):
    pixels.decode(decoding(root), workdir, never)
  after = files(workdir)
  assert {k: v for k, v in after.items() if "train" in k or "val" in k} == {
    k: v for k, v in before.items() if "train" in k or "val" in k
  }
  # As it was before, the folder goes on, and ends as if nothing had been.
  shutil.rmtree(root)
  shutil.copytree(folder, root)
  assert pixels.decode(decoding(root), workdir, never)
  whole = epath.Path(tmp_path / "whole")
  pixels.decode(decoding(root), whole, never)
  for split in ("train", "val"):
    assert files(workdir / split) == files(whole / split)


def test_a_damaged_list_of_skipped_videos_is_named(folder, tmp_path):
  workdir = epath.Path(tmp_path)
  assert not pixels.decode(decoding(folder), workdir, cut_after(4))
  path = workdir / "skipped.csv"
  assert path.read_text().count("\n") >= 2  # or there is nothing to damage
  path.write_text(path.read_text() + "half")
  with pytest.raises(rundir_files.Damaged, match="skipped.csv is damaged"):
    pixels.decode(decoding(folder), workdir, never)
  path.unlink()
  assert pixels.decode(decoding(folder), workdir, never)


@pytest.mark.parametrize("job, package", [("decode", "av"), ("photos", "skimage")])
def test_a_missing_package_leaves_no_run(folder, tmp_path, monkeypatch, job, package):
  monkeypatch.setitem(sys.modules, package, None)
  photos = roots.read(pixel_recipes.photos(train=2, val=1).to_dict())
  config = decoding(folder) if job == "decode" else photos
  workdir = epath.Path(tmp_path / "run")
  with pytest.raises(ImportError, match=r"totojax\[data\]"):
    getattr(pixels, job)(config, workdir, never)
  assert not workdir.exists()


def test_render_labels_every_clip(tmp_path):
  c = pixel_recipes.render(train=12, val=4)
  c.amount.records_per_shard = 5
  c = roots.read(c.to_dict())
  workdir = epath.Path(tmp_path)
  assert not pixels.render(c, workdir, cut_after(7))
  assert pixels.render(c, workdir, never)
  stores = [
    store_lib.open_store(workdir / s, tokenizer=None, vocab=None, grid=None)
    for s in ("train", "val")
  ]
  assert [len(store) for store in stores] == [12, 4]
  assert all(0 <= label < 10 for s in stores for label in s.labels())
  assert len({i for s in stores for i in s.ids()}) == 16
  assert token_sets.proven(workdir / "train", workdir / "val")


def test_photographs_are_split_by_photograph(data_place):
  pytest.importorskip("skimage")
  c = roots.read(pixel_recipes.photos(train=12, val=3).to_dict())
  workdir = epath.Path(data_place.url)
  assert pixels.photos(c, workdir, never)
  train, val = (
    store_lib.open_store(workdir / s, tokenizer=None, vocab=None, grid=None)
    for s in ("train", "val")
  )
  assert set(val.ids()) == {"photo/rocket"}
  assert len(set(train.ids())) == 4
  frames = train.read(np.arange(12))["frames"]
  assert frames.shape == (12, 1, 32, 32, 3)
  assert frames.std(axis=(1, 2, 3, 4)).min() > 1  # none is one flat colour


def test_photographs_of_ones_own_and_a_camera_over_them(tmp_path):
  pytest.importorskip("skimage")
  rng = np.random.default_rng(0)
  for name in ("a.png", "b.png"):
    pixels_HW3 = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels_HW3).save(tmp_path / name)
  c = pixel_recipes.photos(train=12, val=4)
  c.crop.update(frames=5, size_px=16, least_px=16, most_px=60)
  c.folder.update(root=str(tmp_path), held_out=("b.png",))
  workdir = epath.Path(tmp_path / "run")
  assert pixels.photos(roots.read(c.to_dict()), workdir, never)
  train, val = (
    store_lib.open_store(workdir / s, tokenizer=None, vocab=None, grid=None)
    for s in ("train", "val")
  )
  assert set(val.ids()) == {"photo/rocket", "photo/b.png"}
  assert "photo/a.png" in train.ids() and "photo/b.png" not in train.ids()
  assert train.manifest.kind == "video"
  assert train.read(np.arange(12))["frames"].shape == (12, 5, 16, 16, 3)
  c.folder.held_out = ("c.png",)
  with pytest.raises(ConfigError, match=r"folder.held_out names \['c.png'\]; .*a.png"):
    pixels.photos(roots.read(c.to_dict()), workdir, never)
