"""`run = "world"`: stores and other people's files, and CATER as it lies on disk."""

import json
import pathlib
import re
import shutil

from etils import epath
import numpy as np
from PIL import Image
import pytest
import runs
import worlds

from totojax import jobs
from totojax.config import roots, world as config_lib
from totojax.config.schema import ConfigError
from totojax.data.pixels import timelines
from totojax.data.sources import cater
from totojax.data.store import store as store_lib
from totojax.rundir import files
from totojax.world import davis, delivery, kinds, processes, truth

GOLDEN = json.loads((runs.ROOT / "tests" / "golden" / "cater_cells.json").read_text())


@pytest.fixture(name="pool", scope="module")
def _pool():
  worlds.need()
  with processes.Pool(1) as pool:
    yield pool


def config(what, train=2, val=1, **keys):
  c = config_lib.recipe(what)
  c.amount.train, c.amount.val = train, val
  c.processes = 1
  for key, value in keys.items():
    section, _, name = key.rpartition("__")
    (c[section] if section else c)[name] = value
  return roots.read(c.to_dict())


def small(what, **keys):
  sizes = dict(scene__width_px=32, scene__height_px=32)
  if what.startswith("cater"):
    sizes |= dict(scene__frames=48, scene__move_frames=(8, 12))
  elif what == "hand":
    sizes |= dict(scene__frames=12)
  else:
    sizes |= dict(scene__frames=4)
  return config(what, **{**sizes, **keys})


def run(typed, folder, stop_at=None):
  """The job; `stop_at` is the clip before which it is stopped."""
  workdir = epath.Path(folder)
  workdir.mkdir(parents=True, exist_ok=True)
  return jobs.run(typed, workdir, lambda n: n == stop_at)


def contents(folder):
  """Digest of every file that is data."""
  kinds_ = (".jpg", ".png", ".avi", ".txt", ".json")
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(pathlib.Path(folder).rglob("*"))
    if path.suffix in kinds_ and path.parent != pathlib.Path(folder)
  }


# Stores.


def test_stores_hold_pixels_and_what_is_true_of_them(tmp_path, pool):
  typed = small("hand")
  assert run(typed, tmp_path)
  pixels, true = (
    store_lib.open_store(tmp_path / name, tokenizer=None, vocab=None, grid=None)
    for name in ("train", "train_truth")
  )
  assert pixels.ids() == true.ids() and pixels.manifest.classes == ("take", "push", "open")
  clips = list(
    pool.films([delivery.spec(typed.scene, typed.seed, n) for n in range(2)], worlds.whole)
  )
  for n, clip in enumerate(clips):
    got, told = pixels[n], true[n]
    np.testing.assert_array_equal(got["frames"], clip.rgb_NHW3)
    np.testing.assert_array_equal(told["masks"], clip.masks_NHW)
    things = len(clip.scene.things)
    np.testing.assert_array_equal(told["boxes"][:, :things], clip.boxes_NT4)
    assert np.isnan(told["boxes"][:, things:]).all()
    rows = told["events"][told["events"][:, 0] >= 0]
    assert [(r[0], truth.VERBS[r[2]], r[3]) for r in rows] == [
      (e.begin, e.verb, e.subject) for e in clip.events
    ]
    assert {(int(f), int(a), int(b)) for f, a, b in np.argwhere(told["contacts"])} == {
      c for f, a, b in clip.contacts for c in ((f, a, b), (f, b, a))
    }
    assert got["label"] == ("take", "push", "open").index(clip.scene.acts[0].verb)
  facts = files.read_json(tmp_path / "world.json")
  assert facts["clips"] == 3 and (tmp_path / "report.html").exists()
  assert not (tmp_path / "parts").exists()
  assert len(facts["sheets"]) == 3


@pytest.mark.slow
def test_a_store_that_was_stopped_is_the_same_in_the_end(tmp_path):
  worlds.need()
  typed = small("tabletop", train=4, val=1, amount__records_per_shard=2)
  assert run(typed, tmp_path / "whole")
  assert not run(typed, tmp_path / "part", stop_at=3)
  assert run(typed, tmp_path / "part")
  for name in ("train", "train_truth", "val"):
    sums = [
      [
        shard.checksum
        for shard in store_lib.open_store(
          tmp_path / folder / name, tokenizer=None, vocab=None, grid=None
        ).manifest.shards
      ]
      for folder in ("whole", "part")
    ]
    assert sums[0] == sums[1] and sums[0]


# DAVIS.


@pytest.mark.slow
def test_davis_folders_have_its_layout_and_exact_masks(tmp_path, pool):
  typed = small("davis", train=0, val=2)
  assert run(typed, tmp_path)
  names = (tmp_path / "ImageSets" / "2017" / "val.txt").read_text().split()
  assert names == ["world-000000", "world-000001"]
  clips = list(
    pool.films([delivery.spec(typed.scene, typed.seed, n) for n in range(2)], worlds.whole)
  )
  for number, (name, clip) in enumerate(zip(names, clips)):
    for n in range(typed.scene.frames):
      mask = Image.open(tmp_path / "Annotations" / "480p" / name / f"{n:05d}.png")
      assert mask.mode == "P" and mask.getpalette()[3:9] == [128, 0, 0, 0, 128, 0]
      index = np.array(mask)
      np.testing.assert_array_equal(index, davis.annotated(clip.masks_NHW)[n])
      image = np.array(Image.open(tmp_path / "JPEGImages" / "480p" / name / f"{n:05d}.jpg"))
      away = [np.abs(image.astype(int) - one.rgb_NHW3[n]).mean() for one in clips]
      assert away[number] < 0.3 * away[1 - number]
    first = np.unique(davis.annotated(clip.masks_NHW)[0])
    assert first.tolist() == list(range(len(first)))  # no number is left out


def test_what_the_first_frame_does_not_show_has_no_number():
  masks = np.zeros((2, 20, 20), np.uint8)
  masks[:, :5, :5], masks[:, 5:8], masks[1, 10:] = 4, 2, 7
  got = davis.annotated(masks)
  assert set(np.unique(got)) == {0, 1, 2}
  assert (got[1, 10:] == 0).all() and (got[0, 5:8] == 1).all() and (got[0, :5, :5] == 2).all()


def test_the_palette_is_voc_s():
  colours = np.array(davis.palette()).reshape(256, 3)
  wanted = {
    0: (0, 0, 0),
    5: (128, 0, 128),
    8: (64, 0, 0),
    15: (192, 128, 128),
    255: (224, 224, 192),
  }
  assert {k: tuple(colours[k]) for k in wanted} == wanted
  assert len({tuple(c) for c in colours}) == 256


# CATER.


def test_cells_are_those_of_the_generator():
  got = [cater.cell(*place) for place in GOLDEN["positions"]]
  assert got == GOLDEN["classes"]
  assert cater.cell(-0.001, -0.001) == 6 * 2 + 2  # down, and not towards zero
  assert cater.cell(-3, -3) == 0 and cater.cell(2.999, 2.999) == 35
  assert cater.cell(2.999, -3, side=8) == 7
  with pytest.raises(ValueError, match="the snitch ends at"):
    cater.cell(3.0, 0.0)


@pytest.fixture(name="made", scope="module")
def _made(tmp_path_factory):
  worlds.need()
  folder = tmp_path_factory.mktemp("cater")
  assert run(small("cater_small", train=5, val=3), folder)
  return folder


def test_cater_is_read_as_it_was_written(made):
  listing = cater.list_items(str(made), "train")
  assert len(listing.items) == 5 and not listing.missing and len(listing.classes) == 36
  typed = small("cater_small", train=5, val=3)
  for item in listing.items:
    number = int(item.id[-6:])
    scene = kinds.build(delivery.spec(typed.scene, typed.seed, number))
    x, y, _ = scene.tracks["Spl_0"].pos_N3[-1]
    assert item.label == cater.cell(x, y)
    assert cater.missing_frames(item.path, 48) == ""
    assert cater.missing_frames(item.path) == "48 frames, and 301 are wanted"
  subsets = [cater.list_items(str(made), f"train_subset{s}").items for s in "TV"]
  assert [len(s) for s in subsets] == [4, 1]
  for side in (4, 8):
    assert len(cater.list_items(str(made), "val", side=side).items) == 3


def test_what_is_carried_while_hidden_is_known_from_the_files(made):
  carried = []
  for path in sorted((made / "scenes").iterdir()):
    fate = cater.read_fate(str(path))
    if fate.is_carried():
      assert fate.hidden is not None and cater.cell(*fate.last_seen) != cater.cell(*fate.last)
    carried.append(fate.is_carried())
  share = files.read_json(made / "world.json")["carried_frac"]
  assert share == sum(carried) / 8 and 0 < sum(carried) < 8


@pytest.mark.slow
def test_videos_are_what_was_rendered(made, pool):
  typed = small("cater_small", train=5, val=3)
  (clip,) = pool.films([delivery.spec(typed.scene, typed.seed, 0)], worlds.whole)
  path = str(made / "videos" / "CLEVR_new_000000.avi")
  assert pathlib.Path(path).read_bytes()[:4] == b"RIFF"
  line = timelines.read(path)
  assert len(line.times_s) == len(clip.rgb_NHW3)
  scene = json.loads((made / "scenes" / "CLEVR_new_000000.json").read_text())
  assert scene["image_filename"] == "CLEVR_new_000000.avi"
  snitch = scene["objects"][0]
  assert len(snitch["locations"]) == 48
  np.testing.assert_allclose(snitch["locations"]["7"], clip.pos_NT3[7, 0], rtol=1e-9)
  x, y, _ = snitch["pixel_coords"]
  if (clip.masks_NHW[0] == 1).any():
    x1, y1, x2, y2 = clip.boxes_NT4[0, 0]
    assert x1 - 1 <= x <= x2 + 1 and y1 - 1 <= y <= y2 + 1


def _change(folder, tmp_path, change):
  """A copy of a data set, and the scene of its first clip changed."""
  copy = tmp_path / "copy"
  shutil.copytree(folder, copy)
  path = copy / "scenes" / "CLEVR_new_000000.json"
  scene = json.loads(path.read_text())
  change(scene)
  path.write_text(json.dumps(scene))
  return copy


@pytest.mark.parametrize(
  "change, told",
  [
    (lambda s: s["objects"].pop(0), "0 objects of shape 'spl'"),
    (lambda s: s["objects"].append(s["objects"][0]), "2 objects of shape 'spl'"),
    (lambda s: s["objects"][0]["locations"].pop("5"), "none of frame 5"),
    (lambda s: s["objects"][0]["locations"].update({"47": [9.0, 0.0, 0.3]}), "the table is from"),
    (lambda s: s["objects"][0]["locations"].update({"3": [1.0, None, 0]}), "is not three numbers"),
    (lambda s: s["movements"].update({"Cone_0": [["_contain", "Spl_0", 9]]}), "is not [verb"),
    (lambda s: s.pop("objects"), "has no list of objects"),
  ],
)
def test_a_scene_that_is_wrong_is_left_out_by_name(made, tmp_path, change, told):
  copy = _change(made, tmp_path, change)
  listing = cater.list_items(str(copy), "train")
  (skipped,) = listing.missing
  assert skipped.id == "CLEVR_new_000000" and told in skipped.reason
  assert len(listing.items) == 4
  # Without its scenes a list is all that is known.
  assert len(cater.list_items(str(copy), "train", fates=False).items) == 5


def test_what_is_missing_and_what_contradicts_is_told(made, tmp_path):
  copy = _change(made, tmp_path, lambda scene: None)
  (copy / "videos" / "CLEVR_new_000001.avi").unlink()
  (copy / "scenes" / "CLEVR_new_000002.json").unlink()
  missing = {one.id: one.reason for one in cater.list_items(str(copy), "train").missing}
  assert missing["CLEVR_new_000001"] == "there is no such video"
  assert "does not exist" in missing["CLEVR_new_000002"]
  path = copy / "lists" / "localize" / "train.txt"
  lines = path.read_text().splitlines()
  name, label = lines[0].split()
  for line, told in (
    (f"{name} {(int(label) + 1) % 36}", "one of them is not CATER's"),
    (f"{name} 36", "out of range"),
    (f"{name}", "is not a video and its class"),
  ):
    path.write_text("\n".join([line, *lines[1:]]))
    with pytest.raises(ValueError, match=re.escape(told)):
      cater.list_items(str(copy), "train")
  with pytest.raises(ValueError, match="no list of CATER"):
    cater.list_items(str(tmp_path), "train")
  with pytest.raises(ValueError, match="split is 'test'"):
    cater.list_items(str(copy), "test")


def test_a_video_that_was_cut_off_lacks_frames(made, tmp_path):
  copy = _change(made, tmp_path, lambda scene: None)
  path = copy / "videos" / "CLEVR_new_000000.avi"
  data = path.read_bytes()
  path.write_bytes(data[: len(data) // 2])
  told = cater.missing_frames(str(path), 48)
  assert told and "48 frames, " not in told.split("and")[0]
  # A listing leaves it out when it is asked to look into videos.
  listing = cater.list_items(str(copy), "train", frames=True)
  assert [(one.id, one.reason) for one in listing.missing] == [("CLEVR_new_000000", told)]
  assert len(listing.items) == 4 and len(cater.list_items(str(copy), "train").items) == 5
  # Scenes say how many frames there are; without them it is CATER's own number.
  with pytest.raises(ValueError, match="and 301 are wanted"):
    cater.list_items(str(copy), "train", fates=False, frames=True)


@pytest.mark.slow
def test_files_that_were_stopped_are_the_same_in_the_end(made, tmp_path):
  typed = small("cater_small", train=5, val=3)
  assert not run(typed, tmp_path, stop_at=3)
  assert not (tmp_path / "lists").exists()  # lists come once all is there
  assert run(typed, tmp_path)
  assert contents(tmp_path) == contents(made)


# Configs.


@pytest.mark.parametrize("what", config_lib.RECIPES)
def test_recipes_are_whole_configs(what):
  typed = roots.read(config_lib.recipe(what).to_dict())
  spec = delivery.spec(typed.scene, typed.seed, 1)
  assert len(kinds.build(spec).things) >= 2


@pytest.mark.parametrize(
  "keys, told",
  [
    (dict(output__format="cater"), "CATER's files are of 'containers'"),
    (dict(output__label="cell"), "which scene.kind 'tabletop' has not"),
    (dict(scene__width_px=64), "stores hold squares"),
    (dict(scene__things=(5, 2)), "give the smaller first"),
    (dict(train=0, val=0), "nothing would be rendered"),
    (dict(processes=0), "processes is 0"),
    (dict(scene__kind="hand", scene__frames=3), "a hand takes 12"),
    (dict(scene__kind="containers", scene__things=(1, 4)), "use 3 or more"),
    (
      dict(scene__kind="containers", scene__carried_frac=0.5),
      "to be covered and carried takes up to",
    ),
  ],
)
def test_settings_that_do_not_fit_are_refused(keys, told):
  with pytest.raises(ConfigError, match=re.escape(told)):
    config("tabletop", **keys)


def test_an_unknown_recipe_is_refused():
  with pytest.raises(ConfigError, match="use one of tabletop"):
    config_lib.recipe("x")
