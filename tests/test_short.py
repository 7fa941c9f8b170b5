"""Videos too short for a clip: counted before the work, and used as was asked for."""

import csv
import dataclasses
import json
import shutil

from etils import epath
import little_videos
import numbered
import numpy as np
import pytest

from totojax.config import pixel_recipes, pixels as pixels_config, recipes, roots, schema
from totojax.data.pixels import decode, media, slowfast, timelines, video
from totojax.data.sources import items
from totojax.data.store import manifests, store as store_lib
from totojax.jobs import pixels
from totojax.jobs.plan import corpus as plan
from totojax.jobs.tokenize import job as tokenize, short
from totojax.report import page

NEVER = lambda done: False
SPEC = video.ClipSpec(frames=4, stride_frames=3, fps=30.0, size_px=32, crops=2)
LENGTHS = {"a": 3, "b": 4, "c": 7, "d": 9, "e": 10, "f": 40}  # frames; a clip spans 10
STRIDES = {"b": 1, "c": 2, "d": 2}  # the largest that fits, by hand


def ways(way):
  """What is done with each, by hand."""
  if way == "stride":
    return {"a.mp4": "skip"} | {f"{name}.mp4": f"stride {n}" for name, n in STRIDES.items()}
  return {f"{name}.mp4": way or "skip" for name in "abcd"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  folder = tmp_path_factory.mktemp("videos")
  for name, frames in LENGTHS.items():
    little_videos.write(folder / f"{name}.mp4", frames)
  return folder


def fits(frames, stride, length):
  return any(start + (frames - 1) * stride < length for start in range(length))


@pytest.mark.parametrize("way", pixels_config.SHORT)
@pytest.mark.parametrize("frames, stride", [(1, 4), (2, 5), (4, 3), (16, 4)])
def test_every_length_against_brute_force(way, frames, stride):
  spec = dataclasses.replace(SPEC, frames=frames, stride_frames=stride, short=way, crops=20)
  for length in range(1, 70):
    item = items.Item(f"{length}", "x")
    times = timelines.Timeline(np.arange(length) / 30, 1 / 30, False, 0.0, 30.0)
    strides = [s for s in range(1, stride + 1) if fits(frames, s, length)]
    whole = stride in strides
    if not whole and (way in ("", "skip") or (way == "stride" and not strides)):
      with pytest.raises(video.TooShort, match="too short"):
        list(spec.draw(item, times, seed=0))
      continue
    drawn = list(spec.draw(item, times, seed=0))
    for clip in drawn:
      start, *rest = clip.places_T.tolist()
      step = max(strides) if way == "stride" else stride
      expected = [min(start + step * i, length - 1) for i in range(frames)]
      assert [start, *rest] == expected
      assert whole == (clip.short == "")
    starts = {int(clip.places_T[0]) for clip in drawn}
    assert not (way == "hold" and not whole) or starts == {0}  # all there is is shown


@pytest.mark.parametrize("way", pixels_config.SHORT)
def test_the_frames_that_are_decoded(root, way):
  spec = dataclasses.replace(SPEC, short=way)
  for name, frames in LENGTHS.items():
    tally = decode.Tally()
    path = root / f"{name}.mp4"
    got = media.load(items.Item(path.name, path), spec, seed=0, tally=tally)
    assert tally.short == ways(way).get(path.name, "")
    if tally.short == "skip":
      assert "too short" in got.reason
      continue
    for row in little_videos.numbers(got):
      step = STRIDES.get(name, 3) if way == "stride" else 3
      assert row.tolist() == [min(row[0] + step * i, frames - 1) for i in range(4)]


def test_numbered_frames_are_held_and_strode(tmp_path):
  """Of another writer, and decoded whole: 12 frames for 8 with a stride of 4."""
  path = numbered.write(tmp_path / "a.mkv", 12, codec="libx264", gop=5, b_frames=2)
  times = timelines.read(path)
  for way, expected in (
    ("hold", [0, 4, 8, 11, 11, 11, 11, 11]),
    ("stride", [0, 1, 2, 3, 4, 5, 6, 7]),
  ):
    spec = video.ClipSpec(frames=8, stride_frames=4, size_px=96, crops=1, short=way)
    (clip,) = spec.draw(items.Item("a", path), times, seed=0)
    images = decode.read_images(
      path, np.unique(clip.places_T), timeline=times, prepare=video.augment.Resize(96, "bicubic")
    )
    shown = [numbered.read(images[place]) for place in clip.places_T.tolist()]
    assert [n - shown[0] for n in shown] == expected


def view(way, **changed):
  section = {**schema.to_dict(pixels_config.Views()), "mode": "test", "temporal": 2, **changed}
  clip = dataclasses.replace(SPEC, short=way)
  return slowfast.ViewSpec(**vars(schema.read(pixels_config.Views, section, "views")), clip=clip)


def test_views_hold_as_slowfast_does_unless_told_otherwise(root):
  """A span is 4 x 3 = 12 frames."""
  for way, done in {
    "": dict(a="hold", c="hold", f=""),
    "hold": dict(a="hold", c="hold", f=""),
    "skip": dict(a="skip", c="skip", f=""),
    "stride": dict(a="skip", c="stride all", f=""),
  }.items():
    for name, expected in done.items():
      tally = decode.Tally()
      path = root / f"{name}.mp4"
      got = media.load(items.Item(path.name, path), view(way), seed=0, tally=tally)
      assert tally.short == expected, (way, name)
      if expected == "stride all":
        assert (little_videos.numbers(got) == [0, 2, 4, 6]).all()
      elif expected == "hold":
        assert (little_videos.numbers(got)[:, -1] == LENGTHS[name] - 1).all()


def listed(root):
  return [items.Item(path.name, path) for path in sorted(root.iterdir())]


def test_an_estimate_is_what_the_frames_say(root, tmp_path, monkeypatch):
  estimate = short.estimate(listed(root), SPEC, seed=0, name="x")
  assert estimate == short.Estimate(items=6, opened=6, short=4, least=1)
  assert short.estimate(listed(root), view(""), seed=0, name="x").short == 5  # spans are longer
  # Nothing is decoded, and long ones are not even gone through.
  read = []
  monkeypatch.setattr(timelines, "_read_all", lambda *a, **k: read.append(a) or 1 / 0)
  assert media.about_s(listed(root)[-1], enough_s=SPEC.needs_s) == pytest.approx(40 / 30, abs=0.01)
  assert not read
  monkeypatch.undo()
  # What is no video is another matter, and a stretch is as long as it says.
  (tmp_path / "no.mp4").write_bytes(b"no video")
  some = [
    items.Item("no", tmp_path / "no.mp4"),
    items.Item("s", root / "f.mp4", start_s=0.5, end_s=0.6),
  ]
  assert short.estimate(some, SPEC, seed=0, name="x") == short.Estimate(2, 2, 1, 1)


@pytest.mark.parametrize("limit", ["MOST", "MOST_S"])
def test_of_many_videos_a_sample_is_looked_at_and_named(root, monkeypatch, capsys, limit):
  monkeypatch.setattr(short, "AT_ONCE", 2)
  monkeypatch.setattr(short, limit, {"MOST": 2, "MOST_S": 0.0}[limit])
  listing = [items.Item(f"{i}", root / "a.mp4") for i in range(100)]
  estimate = short.announce(listing, SPEC, seed=0, name="all")
  assert (estimate.opened, estimate.short) == (2, 2)
  assert str(estimate) == "2 (of a sample of 2)"
  assert "2 of a sample of 2 videos are too short" in capsys.readouterr().out


def config(root, way, **changes):
  c = recipes.tokenize()
  c.source.root = str(root)
  c.clip.update(frames=4, stride_frames=3, size_px=32, crops=2, short=way)
  c.amount.update(items_per_shard=2, workers=0)
  c.update_from_flattened_dict(changes)
  return roots.read(c.to_dict())


def table(path):
  return list(csv.DictReader(path.read_text().splitlines()))


def counted(expected):
  return {way: list(expected.values()).count(way) for way in sorted(set(expected.values()))}


@pytest.mark.parametrize("way", pixels_config.SHORT)
def test_a_store_says_how_many_were_used_in_which_way(root, tmp_path, capsys, way):
  stopped = lambda done: done == 3
  assert not tokenize.run(config(root, way), epath.Path(tmp_path), stopped)
  planned = capsys.readouterr().out
  assert "4 of 6 videos are too short for a clip (4 frames with a stride of 3" in planned
  told = {"stride": "and the 1 in which not even 1 does", "hold": "their last frame is shown again"}
  assert told.get(way, "will be skipped and listed. To use them set clip.short") in planned
  row = json.loads((tmp_path / "plan.json").read_text())["all"]["short"]
  assert row == {"items": 6, "opened": 6, "short": 4, "least": 1}
  assert tokenize.run(config(root, way), epath.Path(tmp_path), NEVER)
  said = capsys.readouterr().out
  expected = ways(way)
  assert "all: 4 of 6 videos were too short: " in said
  assert all(f"{n} by {how!r}" in said for how, n in counted(expected).items())
  assert ("set clip.short to" in said.rpartition("were too short")[2]) == (way in ("", "skip"))
  assert {r["id"]: r["way"] for r in table(tmp_path / "short.csv")} == expected
  listed = {r["id"] for r in table(tmp_path / "quarantine.csv")}
  assert listed == {name for name, how in expected.items() if how == "skip"}
  manifest = manifests.existing(tmp_path / "all")
  assert manifest.info["short"] == counted(expected)
  assert manifest.records == 2 * (6 - len(listed))
  # As stores were begun before there was the key: those go on.
  assert ("short" in manifest.info["spec"]) == bool(way)


def test_nothing_is_said_where_all_are_long_enough(root, tmp_path, capsys):
  folder = tmp_path / "videos"
  folder.mkdir()
  shutil.copy(root / "f.mp4", folder)
  assert tokenize.run(config(folder, "hold"), epath.Path(tmp_path / "run"), NEVER)
  said = capsys.readouterr().out
  assert "are too short" not in said and "were too short" not in said
  assert not (tmp_path / "run" / "short.csv").exists()
  assert "short" not in manifests.existing(tmp_path / "run" / "all").info


def test_the_plan_alone_counts_them(root, tmp_path, capsys):
  assert plan.run(config(root, "", run="plan"), epath.Path(tmp_path), NEVER)
  assert "too short for a clip" in capsys.readouterr().out
  assert json.loads((tmp_path / "plan.json").read_text())["all"]["short"]["short"] == 4


def stores(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for name in ("all", "all.units")
    for path in sorted((folder / name).rglob("*"))
    if path.is_file()
  }


def test_reports_say_it():
  assert page.too_short({}) == ""
  assert page.too_short({"a": {}, "b": None}) == ""
  text = page.too_short({"mine": {"skip": 12, "stride 2": 3}, "other": {}})
  assert "mine" in text and "12 skip" in text and "3 stride 2" in text and "other" not in text


@pytest.mark.slow
@pytest.mark.parametrize("other", ["amount.workers", "beam.name"])
def test_workers_and_pipelines_do_the_same(root, tmp_path, other):
  if other == "beam.name":
    pytest.importorskip("apache_beam")
  value = {"amount.workers": 2, "beam.name": "DirectRunner"}[other]
  assert tokenize.run(config(root, "stride"), epath.Path(tmp_path / "one"), NEVER)
  assert tokenize.run(
    config(root, "stride", **{other: value}), epath.Path(tmp_path / "other"), NEVER
  )
  assert stores(tmp_path / "one") == stores(tmp_path / "other")
  assert table(tmp_path / "one" / "short.csv") == table(tmp_path / "other" / "short.csv")


@pytest.mark.parametrize("way", ["", "stride", "hold"])
def test_pixel_stores_say_it_too(root, tmp_path, capsys, way):
  c = pixel_recipes.decode(str(root))
  c.clip.update(frames=4, stride_frames=3, size_px=32, crops=1, short=way)
  c.decoding.update(val_frac=0.3, records_per_shard=2)
  values, workdir = roots.read(c.to_dict()), epath.Path(tmp_path)
  calls = iter(range(100))
  assert not pixels.decode(values, workdir, lambda i: next(calls) == 4)
  assert pixels.decode(values, workdir, NEVER)
  said = capsys.readouterr().out
  assert "4 of 6 videos are too short" in said and "4 of 6 videos were too short" in said
  expected = ways(way)
  assert {r["path"]: r["way"] for r in table(tmp_path / "short.csv")} == expected
  found, ids = {}, []
  for name in ("train", "val"):
    store = store_lib.open_store(workdir / name, tokenizer=None, vocab=None, grid=None)
    for how, n in store.manifest.info.get("short", {}).items():
      found[how] = found.get(how, 0) + n
    ids += store.ids()
    for item, frames in zip(store.ids(), store.read(range(len(store)))["frames"], strict=True):
      numbers = little_videos.numbers(frames[None])[0]
      step = STRIDES.get(item[0], 3) if way == "stride" else 3
      last = LENGTHS[item[0]] - 1
      assert numbers.tolist() == [min(numbers[0] + step * i, last) for i in range(4)]
  assert found == counted(expected)
  assert set(ids) == {f"{n}.mp4" for n in LENGTHS} - {n for n, w in expected.items() if w == "skip"}
