"""From any source to shards of tokens: exact, resumable, whole or refused."""

import csv
import dataclasses
import json
import os
import signal
import sys
import time

from etils import epath
import little_videos
import numpy as np
from PIL import Image
import pytest
import runs
import token_sets

from totojax.config import recipes, roots
from totojax.config.schema import ConfigError
from totojax.data.pixels import containers, images, media, video, workers
from totojax.data.sources import items as items_lib
from totojax.data.store import manifests, store as store_lib
from totojax.jobs import leakage
from totojax.jobs.plan import corpus as plan
from totojax.jobs.tokenize import job as tokenize, stores, units
from totojax.rundir import provenance
from totojax.storage import objects, zarr
from totojax.tokenizers import api, weights

NEVER = lambda done: False
VIDEOS = 7


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """Seven videos and two files that give nothing."""
  folder = tmp_path_factory.mktemp("videos")
  for i in range(VIDEOS):
    little_videos.write(folder / f"video {i}.mp4", 20 + i)
  (folder / "empty.mp4").write_bytes(b"")
  little_videos.write(folder / "short.mp4", 3)
  return folder


def config(root, **changes):
  c = recipes.tokenize()
  c.source.root = str(root)
  c.clip.update(frames=4, stride_frames=2, size_px=32, crops=2)
  c.image.size_px = 32
  c.amount.update(items_per_shard=2, workers=0)
  c.update_from_flattened_dict(changes)
  return c.to_dict()


def run(values, workdir, interrupted=NEVER):
  return tokenize.run(roots.read(values), epath.Path(workdir), interrupted)


def files(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


def same_stores(ours, theirs, names=("all", "all.units")):
  for name in names:
    found, expected = files(ours / name), files(theirs / name)
    assert expected and found == expected, name


def table(path):
  return list(csv.DictReader(path.read_text().splitlines()))


def opened(path):
  return store_lib.open_store(path, tokenizer=None, vocab=None, grid=None)


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
  """The job that nothing stopped."""
  workdir = tmp_path_factory.mktemp("whole")
  assert run(config(root), workdir)
  return workdir


def test_records_are_the_codes_of_each_item_in_order(root, whole):
  values = config(root)
  spec = video.ClipSpec(**values["clip"])
  tokenizer = weights.load("shipped")
  expected, ids = [], []
  for path in sorted(root.glob("video *.mp4")):
    item = items_lib.Item(path.name, path)
    clips = media.load(item, spec, seed=0)
    for clip in clips:  # a frame at a time: batching must not matter
      codes = [tokenizer.encode(frame[None])[0] for frame in clip]
      expected.append(np.stack(codes).reshape(-1))
      ids.append(item.id)
  store = opened(whole / "all")
  assert store.ids() == ids
  np.testing.assert_array_equal(store.read(range(len(store)))["codes"], np.stack(expected))
  store.verify()
  assert store.manifest.tokenizer == tokenizer.fingerprint
  assert (store.manifest.grid, store.manifest.crops) == (4, 2)


def test_what_gave_nothing_is_listed_with_its_reason(whole):
  rows = {row["id"]: row["reason"] for row in table(whole / "quarantine.csv")}
  assert set(rows) == {"empty.mp4", "short.mp4"}
  assert "empty" in rows["empty.mp4"] and "too short" in rows["short.mp4"]


@pytest.mark.slow
def test_worker_processes_change_nothing(root, whole, tmp_path):
  assert run(config(root, **{"amount.workers": 2}), tmp_path)
  same_stores(tmp_path, whole)


@pytest.mark.parametrize("stop_at", [1, 4, 8])
def test_stopped_and_resumed_is_byte_identical(root, whole, tmp_path, stop_at):
  assert not run(config(root), tmp_path, lambda done: done == stop_at)
  with pytest.raises(objects.StoreError, match="incomplete"):
    opened(tmp_path / "all")
  made = {p: p.stat().st_mtime_ns for p in (tmp_path / "all").glob("shard*")}
  assert len(made) == {1: 0, 4: 0, 8: 2}[stop_at]
  assert run(config(root), tmp_path)
  same_stores(tmp_path, whole)
  for path, time_ns in made.items():  # what was made is not made again
    assert path.stat().st_mtime_ns == time_ns


def test_another_seed_gives_other_tokens(root, whole, tmp_path):
  """The control of the tests above: they can tell stores apart."""
  assert run(config(root, seed=1), tmp_path)
  assert files(tmp_path / "all") != files(whole / "all")


@pytest.mark.slow
def test_killed_twice_is_byte_identical(root, whole, tmp_path):
  values = config(root)
  words = runs.command(
    "configs/tokenize.py",
    tmp_path,
    f"--config.source.root={root}",
    f"--config.tokenizer={values['tokenizer']}",
    *(
      f"--config.clip.{k}={values['clip'][k]}"
      for k in ("frames", "stride_frames", "size_px", "crops")
    ),
    "--config.image.size_px=32",
    "--config.amount.items_per_shard=2",
    "--config.amount.workers=1",
  )
  for unit in (0, 2):
    process = runs.start(words)
    note = tmp_path / "all.units" / f"{unit:05d}.json"
    for _ in range(12_000):
      if note.exists():
        break
      time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    runs.finish(process, code=-signal.SIGKILL)
    assert note.exists() and not (tmp_path / "done.json").exists()
  runs.finish(runs.start(words))
  same_stores(tmp_path, whole)
  assert len(table(tmp_path / "quarantine.csv")) == 2


@pytest.mark.slow
def test_beam_writes_the_same_shards(root, whole, tmp_path):
  pytest.importorskip("apache_beam")
  values = config(root, **{"beam.name": "DirectRunner"})
  assert run(values, tmp_path)
  same_stores(tmp_path, whole)


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_shard_that_was_damaged_since_is_made_again(root, whole, tmp_path, capsys, damage):
  assert not run(config(root), tmp_path, lambda done: done == 5)
  shard = tmp_path / "all" / "shard-00001" / "codes"
  (chunk,) = (path for path in shard.rglob("*") if path.is_file() and path.name != "zarr.json")
  data = bytearray(chunk.read_bytes())
  if damage == "cut":
    del data[-9:]
  else:
    data[40] ^= 1
  chunk.write_bytes(data)
  assert run(config(root), tmp_path)
  said = capsys.readouterr().out
  assert "shard 1 is made again" in said and "shard-00001" in said
  same_stores(tmp_path, whole)


@pytest.mark.parametrize("codes", [np.uint32(65_536), np.int64(-1), np.float32(0.5)])
def test_a_tokenizer_gives_codes_of_its_own_or_none(codes):
  """A cast to uint16 would make codes of anything."""
  tokenizer = dataclasses.replace(
    weights.load("shipped"), encode=lambda frames: np.full((len(frames), 4, 4), codes)
  )
  with pytest.raises(ValueError, match="codes"):
    api.encode_clips(tokenizer, np.zeros((1, 2, 32, 32, 3), np.uint8))


def test_an_unknown_runner_is_refused_before_anything_is_made(root, tmp_path):
  pytest.importorskip("apache_beam")
  values = config(root, **{"beam.name": "NoRunner"})
  with pytest.raises(ValueError, match="beam.name is 'NoRunner'"):
    run(values, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_a_full_disk_stops_and_loses_nothing(root, whole, tmp_path, monkeypatch):
  real, calls = zarr.write_array, []

  def write(path, *arguments, **more):
    calls.append(path)
    if len(calls) == 4:
      raise objects.StoreError(f"{path} cannot be written: no space left")
    real(path, *arguments, **more)

  monkeypatch.setattr(zarr, "write_array", write)
  with pytest.raises(objects.StoreError, match="no space left"):
    run(config(root), tmp_path)
  monkeypatch.setattr(zarr, "write_array", real)
  assert run(config(root), tmp_path)
  same_stores(tmp_path, whole)


def test_a_source_that_changed_is_refused(root, tmp_path):
  folder = tmp_path / "videos"
  folder.mkdir()
  for i in range(3):
    os.link(root / f"video {i}.mp4", folder / f"{i}.mp4")
  assert not run(config(folder), tmp_path / "run", lambda done: done == 3)
  os.link(root / "video 4.mp4", folder / "0a.mp4")
  with pytest.raises(objects.StoreError, match="begun with 3 items.*4"):
    run(config(folder), tmp_path / "run")


def test_other_settings_are_refused(root, tmp_path):
  assert not run(config(root), tmp_path, lambda done: done == 3)
  with pytest.raises(objects.StoreError, match="begun with"):
    run(config(root, **{"amount.items_per_shard": 3}), tmp_path)


def test_other_versions_of_what_decodes_are_refused_or_named(root, whole, tmp_path, monkeypatch):
  """The same file may become other pixels, and a store must not be of both unsaid."""
  assert not run(config(root), tmp_path, lambda done: done == 3)
  first = containers.versions()
  monkeypatch.setattr(containers, "versions", lambda: {**first, "PyAV": "99.1"})
  with pytest.raises(objects.StoreError, match=r"PyAV 99\.1.*--allow_other_versions"):
    run(config(root), tmp_path)
  monkeypatch.setattr(provenance, "_others_allowed", True)
  assert run(config(root), tmp_path)
  named = [each["PyAV"] for each in manifests.existing(tmp_path / "all").info["decoders"]]
  assert named == [first["PyAV"], "99.1"]
  once = [each["PyAV"] for each in manifests.existing(whole / "all").info["decoders"]]
  assert once == [first["PyAV"]]  # the control


def test_nothing_usable_is_an_error_that_says_where_to_look(tmp_path):
  folder = tmp_path / "videos"
  folder.mkdir()
  (folder / "a.mp4").write_bytes(b"no video")
  with pytest.raises(ValueError, match="no item of all.*quarantine.csv"):
    run(config(folder), tmp_path / "run")
  assert len(table(tmp_path / "run" / "quarantine.csv")) == 1


@pytest.mark.parametrize("kind", ["video", "image"])
def test_pixels_are_kept_in_place_of_codes(tmp_path, kind):
  """With their classes; the codes made of them are those of the files."""
  from PIL import Image

  for number in range(4):
    folder = tmp_path / "in" / "ab"[number % 2]
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "image":
      noise = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
      Image.fromarray(noise).resize((48, 40)).save(folder / f"{number}.png")
    else:
      little_videos.write(folder / f"{number}.mp4", 20 + number)
  changes = {"source.kind": kind, "source.folder.class_folders": True}
  assert run(config(tmp_path / "in", tokenizer="pixels", **changes), tmp_path / "pixels")
  assert run(config(tmp_path / "in", **changes), tmp_path / "codes")
  pixels, codes = (opened(tmp_path / name / "all") for name in ("pixels", "codes"))
  assert pixels.manifest.tokenizer == "" and pixels.manifest.kind == kind
  assert pixels.manifest.classes == codes.manifest.classes == ("a", "b")
  assert pixels.ids() == codes.ids()
  np.testing.assert_array_equal(pixels.labels(), codes.labels())
  frames_RNHW3 = pixels.read(range(len(pixels)))["frames"]
  assert len(np.unique(frames_RNHW3)) > 5
  expected = api.encode_clips(weights.load("shipped"), frames_RNHW3)
  np.testing.assert_array_equal(codes.read(range(len(codes)))["codes"], expected)
  plan_ = json.loads((tmp_path / "pixels" / "plan.json").read_text())["all"]
  assert plan_["store_bytes"] == frames_RNHW3.nbytes and plan_["tokens"] == 0


def test_shards_of_pixels_fit_memory(root, tmp_path, monkeypatch):
  monkeypatch.setattr(stores, "PIXEL_SHARD_BYTES", 3 * 2 * 4 * 32 * 32 * 3)  # three items
  assert run(config(root, tokenizer="pixels", **{"amount.items_per_shard": 100}), tmp_path / "run")
  shards_ = opened(tmp_path / "run" / "all").manifest.shards
  assert [shard.records for shard in shards_] == [2, 6, 6]  # two files give nothing


def test_a_source_that_goes_away_stops_the_job(root, whole, tmp_path):
  """Its files say nothing then, so none of them is put in quarantine."""
  folder = tmp_path / "videos"
  folder.symlink_to(root)
  away = tmp_path / "unmounted"

  def interrupted(done):
    if done == 4:
      folder.rename(away)
    return False

  with pytest.raises(media.SourceLost, match="is the storage still there"):
    run(config(folder), tmp_path / "run", interrupted)
  away.rename(folder)
  assert run(config(folder), tmp_path / "run")
  same_stores(tmp_path / "run", whole)


def test_labels_mean_the_same_in_all_splits(tmp_path):
  from PIL import Image

  for split, names in (("train", "abc"), ("val", "ac")):
    for name in names:
      (tmp_path / "in" / split / name).mkdir(parents=True)
      Image.new("RGB", (40, 40)).save(tmp_path / "in" / split / name / "x.png")
  values = config(
    tmp_path / "in",
    **{
      "source.kind": "image",
      "source.splits": ("train", "val"),
      "source.folder.class_folders": True,
    },
  )
  assert run(values, tmp_path / "run")
  for split in ("train", "val"):
    store = opened(tmp_path / "run" / split)
    assert store.manifest.classes == ("a", "b", "c")
    for item, label in zip(store.ids(), store.labels(), strict=True):
      assert item.split("/")[1] == "abc"[label]
  assert token_sets.proven(tmp_path / "run" / "train", tmp_path / "run" / "val")


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"source.name": "kinetics"}, r"kinetics has splits.*'train', 'val'"),
    ({"source.name": "imagenet"}, "imagenet has splits"),
    ({"source.root": ""}, "source.root is empty"),
    ({"source.name": "kinetix"}, "source.name is 'kinetix'"),
    ({"source.val_frac": 1.5}, "source.val_frac is 1.5"),
    ({"clip.size_px": 30}, "30 x 30 pixels"),
    ({"amount.items_per_shard": 0}, "items_per_shard is 0"),
    ({"source.splits": ("x",), "source.name": "list"}, "no splits"),
    ({"source.exclude": ("nowhere.txt",)}, "nowhere.txt"),
  ],
)
def test_mistakes_leave_no_run_behind(root, tmp_path, changes, message):
  with pytest.raises(ValueError, match=message):
    run(config(root, **changes), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_held_out_items_and_labels(tmp_path):
  from PIL import Image

  for name in ("ant", "bee"):
    (tmp_path / "in" / name).mkdir(parents=True)
    for i in range(4):
      noise = np.random.default_rng(i).integers(0, 256, (40, 50, 3), np.uint8)
      Image.fromarray(noise).save(tmp_path / "in" / name / f"{i}.png")
  values = config(
    tmp_path / "in",
    **{"source.kind": "image", "source.val_frac": 0.25, "source.folder.class_folders": True},
  )
  assert run(values, tmp_path / "run")
  train, val = (opened(tmp_path / "run" / part) for part in ("train", "val"))
  assert (len(train), len(val)) == (6, 2)
  assert not set(train.ids()) & set(val.ids())
  for store in (train, val):
    assert store.manifest.kind == "image"
    assert store.manifest.classes == ("ant", "bee")
    for item, label in zip(store.ids(), store.labels(), strict=True):
      assert item.split("/")[0] == ("ant", "bee")[label]


@dataclasses.dataclass(frozen=True, slots=True)
class Bomb(items_lib.Item):
  """Kills the process that is sent it."""

  def __reduce__(self):
    return os._exit, (3,)


@pytest.mark.slow
def test_a_decoder_that_dies_costs_its_own_item_alone(root):
  spec = video.ClipSpec(**config(root)["clip"])
  good = [items_lib.Item(path.name, path) for path in sorted(root.glob("video *.mp4"))]
  bomb = Bomb(**dataclasses.asdict(items_lib.Item("bomb", root / "bomb.mp4")))
  found = list(workers.decode([*good[:3], bomb, *good[3:]], spec, seed=0, workers=2, ahead=2))
  assert [f.item.id for f in found] == [
    *(i.id for i in good[:3]),
    "bomb",
    *(i.id for i in good[3:]),
  ]
  assert "crashes" in found[3].clips.reason
  for item, result in zip(good, found[:3] + found[4:], strict=True):
    np.testing.assert_array_equal(result.clips, media.load(item, spec, seed=0))


def _leakage(train, validation, workdir, **changes):
  c = recipes.leakage()
  c.leakage.update(train=(str(train),), validation=(str(validation),))
  c.leakage.update(changes)
  return leakage.run(roots.read(c.to_dict()), epath.Path(workdir), NEVER)


def test_leakage_by_id_and_by_tokens(root, whole, tmp_path):
  folder = tmp_path / "held out"
  folder.mkdir()
  os.link(root / "video 2.mp4", folder / "video 2.mp4")
  little_videos.write(folder / "new.mp4", 60)
  assert run(config(folder), tmp_path / "held")
  held = tmp_path / "held" / "all"
  with pytest.raises(ValueError, match="1 of 2 held-out items"):
    _leakage(whole / "all", held, tmp_path / "found")
  rows = table(tmp_path / "found" / "leakage.csv")
  # The same id, and with the same id the same crops: both of them.
  assert {row["same"] for row in rows} == {"id", "record"}
  assert {row["held_out_id"] for row in rows} == {"video 2.mp4"}
  assert not token_sets.proven(whole / "all", held)

  # Left out of the training store, nothing is found: the control.
  values = config(root, **{"source.exclude": (str(held),)})
  assert run(values, tmp_path / "clean")
  missing = table(tmp_path / "clean" / "missing.csv")
  assert [row["id"] for row in missing] == ["video 2.mp4"]
  assert _leakage(tmp_path / "clean" / "all", held, tmp_path / "none")
  assert table(tmp_path / "none" / "leakage.csv") == []
  assert token_sets.proven(tmp_path / "clean" / "all", held)


def test_equal_tokens_under_another_name_are_found(tmp_path):
  noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
  for part, name in (("a", "x"), ("b", "y")):
    (tmp_path / part).mkdir()
    Image.fromarray(noise).save(tmp_path / part / f"{name}.png")
    values = config(tmp_path / part, **{"source.kind": "image", "image.crop": "center"})
    assert run(values, tmp_path / f"run {part}")
  stores = (tmp_path / "run a" / "all", tmp_path / "run b" / "all")
  assert _leakage(*stores, tmp_path / "out", fail=False)
  (row,) = table(tmp_path / "out" / "leakage.csv")
  assert (row["same"], row["held_out_id"], row["train_id"]) == ("record", "y.png", "x.png")


def test_the_plan_counts_as_table_2_of_the_paper():
  c = recipes.tokenize()
  c.plan.update(hours=92_627.0, videos=1_000_000)
  official = dataclasses.replace(weights.load("shipped"), factor=8, macs=lambda px: 34_037_000_000)
  (row,) = plan.without_source(roots.read(c.to_dict()), official)
  np.testing.assert_allclose(row.tokens_every_frame, 2560.95e9, rtol=1e-5)
  np.testing.assert_allclose(row.tokens_strided, 640.2e9, rtol=1e-3)
  assert row.frames == 16_000_000 and row.tokens == 16_000_000 * 256
  assert row.store_bytes == 2 * row.tokens
  # 6 passes of 2 FLOPs, at 30 % of 197 TFLOP/s.
  hours = 12 * 34.037e9 * 16e6 / (0.3 * 197e12) / 3600
  np.testing.assert_allclose(row.chip_hours, hours, rtol=1e-6)


def test_a_plan_of_hours_alone_cuts_them_without_gaps():
  c = recipes.tokenize()
  c.plan.hours = 10.0
  shipped = weights.load("shipped")
  (row,) = plan.without_source(roots.read(c.to_dict()), shipped)
  assert row.name == "without gaps"
  np.testing.assert_allclose(row.tokens, row.tokens_strided, rtol=1e-4)
  c.plan.videos = 1
  (one,) = plan.without_source(roots.read(c.to_dict()), shipped)
  assert one.name == "assumed" and one.clips == 1  # the control


def test_the_plan_reads_the_length_of_the_videos(root, tmp_path):
  seconds = sum(20 + i for i in range(VIDEOS)) / 30
  listing = [items_lib.Item(path.name, path) for path in root.glob("video *.mp4")]
  hours, probed = plan.estimate_hours(listing, 64, seed=0)
  assert probed == VIDEOS
  np.testing.assert_allclose(hours * 3600, seconds, rtol=1e-2)
  values = config(root, run="plan")
  assert plan.run(roots.read(values), epath.Path(tmp_path / "plan"), NEVER)
  written = json.loads((tmp_path / "plan" / "plan.json").read_text())
  assert written["all"]["items"] == VIDEOS + 2
  assert written["all"]["frames"] == (VIDEOS + 2) * 2 * 4


def test_a_plan_is_no_run(root, tmp_path):
  words = runs.command(
    "configs/tokenize.py",
    tmp_path / "w",
    f"--config.source.root={root}",
    "--config.clip.size_px=32",
    "--config.clip.frames=4",
    "--config.clip.stride_frames=2",
    "--config.amount.workers=0",
  )
  for _ in range(2):
    runs.here([*words, "--config.run=plan"])
  assert (tmp_path / "w" / "plan" / "plan.json").exists()
  runs.here(words)
  assert (tmp_path / "w" / "done.json").exists()
  # What is finished is not run again with other values, and says so.
  changed = [*words, "--config.seed=3", "--allow_changed_config"]
  output = runs.here(changed, code=2)
  assert "seed: 0 -> 3" in output and "finished" in output
  assert "done already" in runs.here(words)


def test_stretches_of_a_video_stay_together():
  names = [f"v{v}/{s}-{s + 10}" for v in range(6) for s in (0, 10, 20)]
  listing = [items_lib.Item(name, "/x") for name in names]
  for seed in range(8):
    parts = items_lib.split(listing, 0.3, seed=seed)
    videos = [{items_lib.video_id(i.id) for i in part} for part in parts.values()]
    assert not videos[0] & videos[1] and len(videos[1]) == 2
  assert items_lib.video_id("abc_000010_000020") == "abc"
  assert items_lib.video_id("uid/2.5-end") == "uid"
  assert items_lib.video_id("a/1-2.mp4") == "a/1-2.mp4"


def test_units_depend_on_their_items_alone(root):
  item = items_lib.Item("a", "/a")
  longer = [dataclasses.replace(item, id=str(i)) for i in range(7)]
  found = [[i.id for i in u.items] for u in units.cut(longer, 3)]
  assert found == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
  assert items_lib.digest(longer) != items_lib.digest(longer[:-1])
  relabelled = [dataclasses.replace(longer[0], label=3), *longer[1:]]
  assert items_lib.digest(longer) != items_lib.digest(relabelled)


def test_without_pyav_no_run_is_begun(root, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "av", None)
  with pytest.raises(ImportError, match=r"totojax\[data\]"):
    run(config(root), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_images_and_videos_have_their_own_spec():
  c = roots.read(config("x"))
  assert isinstance(media.spec("image", c, split="val"), images.ImageSpec)
  assert isinstance(media.spec("video", c, split="val"), video.ClipSpec)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  """Two photographs in train/ and in val/, of noise: no two windows are alike."""
  folder = tmp_path_factory.mktemp("photos")
  for i, split in enumerate(("train", "val") * 2):
    noise = np.random.default_rng(i).integers(0, 256, (40, 64, 3), np.uint8)
    (folder / split).mkdir(exist_ok=True)
    Image.fromarray(noise).save(folder / split / f"{i}.png")
  return folder


def of_photos(folder, path, **changes):
  values = dict(kind="image", splits=("train", "val"))
  changes = {"tokenizer": "pixels", "image.crops": 2, **changes}
  values = config(folder, **{f"source.{k}": v for k, v in values.items()}, **changes)
  assert run(values, path)
  how = dict(tokenizer=None, vocab=None, grid=None)
  return [store_lib.open_store(path / split, **how) for split in ("train", "val")]


@pytest.mark.parametrize("frac, short_px", [(0.875, 37), (1.0, 32)])
def test_images_are_validated_on_their_middle(photos, tmp_path, frac, short_px):
  """Random windows to train on; of each held-out image one central crop."""
  train, val = of_photos(photos, tmp_path / "run", **{"image.center_frac": frac})
  assert (len(train), len(val)) == (4, 2)
  assert (train.manifest.info["spec"]["crop"], train.manifest.crops) == ("random", 2)
  assert (val.manifest.info["spec"]["crop"], val.manifest.crops) == ("center", 1)
  width = round(64 * short_px / 40)
  with Image.open(photos / "val" / "1.png") as image:
    resized = np.asarray(image.resize((width, short_px), Image.Resampling.BICUBIC))
  top, left = round((short_px - 32) / 2), round((width - 32) / 2)
  middle = resized[top : top + 32, left : left + 32]
  np.testing.assert_array_equal(val.read(np.array([0]))["frames"][0, 0], middle)
  windows = train.read(np.arange(2))["frames"]
  assert (windows[0] != windows[1]).any()  # the control: those are not


def test_random_windows_of_a_held_out_split_are_refused(photos, tmp_path):
  told = "image.crop is 'random', and split 'val' is held out.*leave it ''"
  with pytest.raises(ConfigError, match=told):
    of_photos(photos, tmp_path / "run", **{"image.crop": "random"})
  assert not (tmp_path / "run").exists()
  for name in ("validation", "test[:10%]", "set/dev"):
    with pytest.raises(ConfigError, match="is held out"):
      images.ImageSpec(crop="random").of_split(name)
  for name in ("train", "train[:90%]", "all", "", "testimonials/train"):
    assert images.ImageSpec(crops=3).of_split(name).crops == 3


def test_stores_from_before_there_were_central_crops_by_split_go_on():
  """What they say of a random window, or a central one of the whole side, holds."""
  before = dict(size_px=32, crops=1, crop="random", resample="bicubic", animated="refuse")
  c = roots.read(config("x"))
  assert stores._plain(media.spec("image", c, split="train")) == before
  whole = roots.read(config("x", **{"image.crop": "center"}))
  assert stores._plain(media.spec("image", whole, split="val")) == before | {"crop": "center"}
