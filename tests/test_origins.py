"""Items of two folders whose names are the same, and one item below two roots."""

import csv
import dataclasses
import pathlib
import shutil

from etils import epath
import little_videos
import numpy as np
from PIL import Image
import pytest
import token_sets

from totojax.config import pixel_recipes, recipes, roots
from totojax.data.store import certificates, manifests, store as store_lib
from totojax.data.stream import heldout, rows
from totojax.jobs import leakage, pixels
from totojax.jobs.tokenize import job as tokenize

NEVER = lambda done: False
NAMES = [f"{kind}/{i}.png" for kind in ("ant", "bee") for i in range(3)]


def draw(folder, salt):
  for i, name in enumerate(NAMES):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng([salt, i]).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(noise).save(folder / name)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """train/ and test/ of one set, with the same names below."""
  folder = tmp_path_factory.mktemp("set")
  for salt, split in enumerate(("train", "test")):
    draw(folder / split, salt)
  return folder


def make(root, path, **changes):
  c = recipes.tokenize()
  c.source.update(root=str(root), kind="image")
  c.image.size_px = 32
  c.amount.update(items_per_shard=4, workers=0)
  c.update_from_flattened_dict(changes)
  assert tokenize.run(roots.read(c.to_dict()), epath.Path(path), NEVER)
  return opened(pathlib.Path(path) / "all")


def opened(path):
  return store_lib.open_store(path, tokenizer=None, vocab=None, grid=None)


def check(train, held_out):
  heldout.check_disjoint([rows.Source("t", train, 1.0)], [rows.Source("v", held_out, 1.0)])


def leaks(train, held_out, workdir):
  c = recipes.leakage()
  c.leakage.update(train=(train.path,), validation=(held_out.path,), fail=False)
  assert leakage.run(roots.read(c.to_dict()), epath.Path(workdir), NEVER)
  table = csv.DictReader((workdir / "leakage.csv").read_text().splitlines())
  return {(row["held_out_id"], row["train_id"]) for row in table if row["same"] == "id"}


@pytest.fixture(scope="module")
def stores(data, tmp_path_factory):
  folder = tmp_path_factory.mktemp("stores")
  return {split: make(data / split, folder / split) for split in ("train", "test")}


def test_ids_are_as_they_were_and_the_root_is_known(data, stores):
  for split, store in stores.items():
    assert store.ids() == NAMES
    assert store.manifest.origin == manifests.Origin(str((data / split).resolve()))


def test_equal_names_below_two_folders_are_different_items(stores, tmp_path):
  check(stores["train"], stores["test"])
  assert token_sets.proven(stores["train"].path, stores["test"].path)
  assert leaks(stores["train"], stores["test"], tmp_path) == set()
  # The ids are the same in both, and what one may be held out of the other may not.
  assert stores["train"].manifest.ids_digest == stores["test"].manifest.ids_digest
  with pytest.raises(ValueError, match="'ant/0.png' is in training source.*6 such"):
    check(stores["test"], stores["test"])


def test_a_copy_of_the_folder_is_the_same_data(data, stores, tmp_path):
  shutil.copytree(data / "train", tmp_path / "copy")
  draw(tmp_path / "new", 7)
  shutil.copy(tmp_path / "new" / NAMES[1], tmp_path / "copy" / NAMES[1])
  copy = make(tmp_path / "copy", tmp_path / "run")
  with pytest.raises(ValueError, match="'ant/0.png'.*5 such"):  # all but the new one
    check(stores["train"], copy)
  found = leaks(stores["train"], copy, tmp_path / "leaks")
  assert found == {(name, name) for name in NAMES if name != NAMES[1]}


@pytest.mark.parametrize("prefix", ["", "mine"])
def test_the_same_files_below_two_roots_are_found_by_path(data, stores, tmp_path, prefix):
  """Their ids differ, and so do their crops."""
  above = make(data, tmp_path / "above", **{"source.prefix": prefix})
  before = f"{prefix}/" if prefix else ""
  assert above.ids()[0] == f"{before}test/ant/0.png"
  assert not set(above.ids()) & set(stores["train"].ids())
  for one, other in ((above, stores["test"]), (stores["test"], above)):
    with pytest.raises(ValueError, match="6 such"):
      check(one, other)
  expected = {(name, f"{before}test/{name}") for name in NAMES}
  assert leaks(above, stores["test"], tmp_path / "leaks") == expected


@pytest.mark.parametrize("changes", [{"seed": 1}, {"image.crop": "center"}])
def test_where_nobody_can_say_it_is_refused_with_the_remedy(data, stores, tmp_path, changes):
  other = make(data / "test", tmp_path / "other", **changes)
  with pytest.raises(ValueError, match="--config.source.prefix=test"):
    check(stores["train"], other)
  named = make(data / "test", tmp_path / "named", **{"source.prefix": "test", **changes})
  assert named.ids() == [f"test/{name}" for name in NAMES]
  check(stores["train"], named)
  # Names alone do not hide the same files.
  with pytest.raises(ValueError, match="6 such"):
    check(stores["test"], named)


def old(store, folder):
  """The store as it was made before manifests said the root."""
  shutil.copytree(store.path, folder)
  manifest = store.manifest
  info = {k: v for k, v in manifest.info.items() if k not in (manifests.ROOT, manifests.PREFIX)}
  manifests.save(folder, dataclasses.replace(manifest, info=info))
  return opened(folder)


def test_of_older_stores_ids_are_compared_as_before(stores, tmp_path):
  for number, pair in enumerate(
    [
      (old(stores["train"], tmp_path / "a"), stores["test"]),
      (stores["train"], old(stores["test"], tmp_path / "b")),
    ]
  ):
    with pytest.raises(ValueError, match="6 such"):
      check(*pair)
    assert leaks(*pair, tmp_path / f"leaks {number}") == {(name, name) for name in NAMES}
  # Certificates that such stores have keep their worth.
  assert certificates.digest(opened(tmp_path / "a")) == stores["train"].manifest.ids_digest


def test_what_is_excluded_is_the_file_and_not_its_name(data, stores, tmp_path):
  clean = make(data / "train", tmp_path / "clean", **{"source.exclude": (stores["test"].path,)})
  assert clean.ids() == NAMES
  # A copy of one of them in the training folder is left out; so is all that cannot be seen.
  shutil.copytree(data / "train", tmp_path / "mixed")
  shutil.copy(data / "test" / NAMES[2], tmp_path / "mixed" / NAMES[2])
  mixed = make(tmp_path / "mixed", tmp_path / "run", **{"source.exclude": (stores["test"].path,)})
  assert set(NAMES) - set(mixed.ids()) == {NAMES[2]}
  above = make(data, tmp_path / "above", **{"source.exclude": (stores["test"].path,)})
  assert above.ids() == [f"train/{name}" for name in NAMES]


def test_a_source_that_was_moved_may_go_on(data, tmp_path):
  shutil.copytree(data / "train", tmp_path / "a")
  c = recipes.tokenize()
  c.source.update(root=str(tmp_path / "a"), kind="image")
  c.image.size_px = 32
  c.amount.update(items_per_shard=2, workers=0)
  assert not tokenize.run(roots.read(c.to_dict()), epath.Path(tmp_path / "r"), lambda n: n == 3)
  (tmp_path / "a").rename(tmp_path / "b")
  c.source.root = str(tmp_path / "b")
  assert tokenize.run(roots.read(c.to_dict()), epath.Path(tmp_path / "r"), NEVER)
  assert opened(tmp_path / "r" / "all").ids() == NAMES


def test_pixel_stores_know_their_root_too(tmp_path):
  for salt, split in enumerate(("one", "two")):
    (tmp_path / split).mkdir()
    for i in range(3):
      tone = 60 + 100 * salt + 5 * i  # files with the same bytes are used once
      paint = lambda n, tone=tone: np.full((32, 48, 3), (tone + n) % 256, np.uint8)
      little_videos.write(tmp_path / split / f"{i}.mp4", 12, paint=paint)
    c = pixel_recipes.decode(str(tmp_path / split))
    c.clip.update(frames=4, stride_frames=2, size_px=32, crops=1)
    assert pixels.decode(roots.read(c.to_dict()), epath.Path(tmp_path / f"run {split}"), NEVER)
  shutil.copytree(tmp_path / "one", tmp_path / "copy")
  c.decoding.root = str(tmp_path / "copy")
  assert pixels.decode(roots.read(c.to_dict()), epath.Path(tmp_path / "run copy"), NEVER)
  one, two, copy = (opened(tmp_path / f"run {name}" / "train") for name in ("one", "two", "copy"))
  assert one.ids() == two.ids() == copy.ids()
  check(one, two)
  with pytest.raises(ValueError, match="such items"):
    check(one, copy)
