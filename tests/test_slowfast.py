"""Clips and views of Kinetics, against SlowFast's own numbers."""

import csv
import dataclasses
import json
import math

from etils import epath
import little_videos
import numpy as np
import probes
import pytest
import runs

from totojax import jobs
from totojax.config import pixels, recipes, roots, schema
from totojax.config.schema import ConfigError
from totojax.data.pixels import decode, media, slowfast, timelines, video
from totojax.data.sources import items
from totojax.data.store import store as store_lib
from totojax.jobs.plan import corpus as plan
from totojax.tokenizers import weights

CLIP = video.ClipSpec(
  frames=16,
  stride_frames=4,
  fps=30.0,
  size_px=128,
  crops=4,
  resample="bicubic",
  sampling="uniform",
  every_s=1.0,
  most_stretches=1,
)
ITEM = items.Item("a.mp4", "a.mp4")


def spec(mode, *, clip=CLIP, **changed):
  section = {**schema.to_dict(pixels.Views()), "mode": mode, **changed}
  views = schema.read(pixels.Views, section, "views")
  return slowfast.ViewSpec(**vars(views), clip=clip)


def timeline(frames, fps, *, said=True):
  return timelines.Timeline(
    times_s=np.arange(frames) / fps,
    gap_s=1 / fps,
    counted=False,
    begin_s=0.0,
    fps=fps if said else 0.0,
  )


def drawn(of, frames, fps, *, seed=0, said=True):
  return list(of.draw(ITEM, timeline(frames, fps, said=said), seed=seed))


def test_views_are_the_frames_that_slowfast_shows():
  golden = json.loads((runs.ROOT / "tests" / "golden" / "slowfast_sampling.json").read_text())
  seen, begins = 0, set()
  for row in golden["rows"]:
    frames, temporal, fps, i, offset, start, _, expected = row
    of = spec("test", temporal=temporal, spatial=1, offset=bool(offset))
    view = drawn(of, frames, fps)[i]
    assert view.places_T.tolist() == expected, row
    span = 16 * 4 * fps / 30
    found = slowfast.starts(frames, span, temporal, offset=bool(offset))
    assert found[i] == pytest.approx(start, abs=1e-9)
    begins.add(expected[0])
    seen += 1
  assert seen == 512 and len(begins) > 50


@pytest.mark.parametrize("temporal, spatial", [(10, 3), (5, 3), (8, 3), (1, 1)])
def test_there_are_as_many_views_as_asked_for(temporal, spatial):
  of = spec("test", temporal=temporal, spatial=spatial)
  found = drawn(of, 300, 30.0)
  assert len(found) == of.crops == temporal * spatial
  # Windows of one span follow each other.
  places = [one.places_T.tolist() for one in found]
  assert places == [p for p in places[::spatial] for _ in range(spatial)]
  assert places[0] != places[-1] or temporal == 1


@pytest.mark.parametrize("height, width", [(8, 15), (15, 8), (8, 8), (8, 14)])
def test_windows_are_the_ends_and_the_middle_of_the_long_side(height, width):
  frames = np.arange(height * width).reshape(1, height, width, 1)
  found = [slowfast.window(frames, size_px=8, place=place)[0, 0, 0, 0] for place in range(3)]
  middle = math.ceil((max(height, width) - 8) / 2)
  far = max(height, width) - 8
  scale = width if height > width else 1
  assert found == [0, middle * scale, far * scale]


def test_a_clip_to_train_on_begins_anywhere():
  many = dataclasses.replace(CLIP, crops=400)
  found = drawn(spec("train", clip=many), 300, 25.0)
  first = np.array([one.places_T[0] for one in found])
  last = np.array([one.places_T[-1] for one in found])
  room = 300 - 16 * 4 * 25 / 30
  assert first.min() < 0.02 * room and 0.98 * room < first.max() <= room
  assert last.max() <= 299
  # Uniform: a quarter of them in each quarter, within 4 standard errors.
  counts, _ = np.histogram(first, bins=4, range=(0, room))
  assert np.abs(counts - 100).max() < 4 * math.sqrt(400 * 0.25 * 0.75)
  sides = np.array([one.short_px for one in found])
  assert sides.min() in (146, 147, 148) and sides.max() in (181, 182, 183)
  again = drawn(spec("train"), 300, 25.0)
  assert [a.places_T.tolist() for a in again] == [one.places_T.tolist() for one in found[:4]]
  assert drawn(spec("train"), 300, 25.0, seed=1)[0].places_T[0] != first[0]


def test_half_of_the_clips_are_mirrored():
  ramp = np.broadcast_to(np.arange(40)[:, None], (1, 40, 40, 3))
  clip = dataclasses.replace(CLIP, size_px=16, crops=200)
  falls = 0
  for one in drawn(spec("train", clip=clip), 300, 30.0):
    cut = one.crop(ramp)
    assert cut.shape == (1, 16, 16, 3)
    falls += int(cut[0, 0, 0, 0] > cut[0, 0, 1, 0])
  assert abs(falls - 100) < 4 * math.sqrt(50)
  (still,) = drawn(spec("train", clip=dataclasses.replace(clip, crops=1), flip_frac=0.0), 300, 30.0)
  assert still.crop(ramp)[0, 0, 0, 0] < still.crop(ramp)[0, 0, 1, 0]


def test_a_header_without_a_rate_is_done_without():
  of = spec("test")
  for fps in (25.0, 30.0):
    known, unknown = (drawn(of, 250, fps, said=said) for said in (True, False))
    for a, b in zip(known, unknown):
      assert np.abs(a.places_T - b.places_T).max() <= 1  # of the last bit


def test_every_view_of_a_video_is_decoded_once(tmp_path, monkeypatch):
  item = little_videos.write(tmp_path / "a.mp4", 90)
  clip = dataclasses.replace(CLIP, frames=4, size_px=32)
  calls, read = [], decode.read_images

  def counted(source, wanted, **more):
    calls.append(list(wanted))
    return read(source, wanted, **more)

  monkeypatch.setattr(decode, "read_images", counted)
  of = spec("test", clip=clip)
  clips = video.clips(item, item.path, of, seed=0)
  assert clips.shape == (30, 4, 32, 32, 3)
  assert len(calls) == 1 and len(set(calls[0])) == len(calls[0])
  expected = [v.places_T for v in of.draw(item, timeline(90, 30.0), seed=0)]
  # The number is in the left half of the 48 columns: the first window's.
  numbers = little_videos.numbers(clips[::3])
  np.testing.assert_array_equal(numbers, np.stack(expected[::3]))
  # The last window sees the black half only.
  assert clips[2, :, :, 16:].max() < 30 < clips[0].max()
  (tmp_path / "b").mkdir()
  train = spec("train", clip=clip)
  assert video.clips(item, item.path, train, seed=0).shape == (4, 4, 32, 32, 3)
  short = little_videos.write(tmp_path / "b" / "s.mp4", 5)
  shown = little_videos.numbers(video.clips(short, short.path, of, seed=0)[::3])
  assert shown[0].tolist() == [0, 4, 4, 4]  # as SlowFast: the last one again


@pytest.mark.parametrize(
  "changed, told",
  [
    (dict(mode="val"), "views.mode is 'val'; use 'train'"),
    (dict(temporal=0), "views.temporal is 0"),
    (dict(spatial=2), "views.spatial is 2; use 1 or 3"),
    (dict(short_frac=(0.5, 1.0)), "views.short_frac is .0.5, 1.0.; it must be at least 1"),
    (dict(flip_frac=1.5), "views.flip_frac is 1.5"),
    (dict(view=3), "views.view does not exist"),
  ],
)
def test_views_that_do_not_exist_are_refused(changed, told):
  with pytest.raises(ConfigError, match=told):
    spec(**{"mode": "test", **changed})


def test_another_sampling_beside_views_is_refused():
  c = recipes.tokenize().to_dict()

  def of_video():
    return media.spec("video", roots.read(c), split="train")

  assert isinstance(of_video(), video.ClipSpec)
  c["views"]["mode"] = "test"
  assert of_video().crops == 30
  c["clip"]["sampling"] = "duration"
  with pytest.raises(ConfigError, match="clip.sampling is 'duration' wit"):
    of_video()


def test_a_plan_counts_every_view():
  c = recipes.tokenize().to_dict()
  c["plan"] |= dict(hours=50.0, videos=20_000)
  clips = []
  for mode in ("", "test"):
    c["views"]["mode"] = mode
    (row,) = plan.without_source(roots.read(c), weights.load("shipped"))
    clips.append(row.clips)
  assert clips == [20_000, 600_000]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
  """The job's folder: 2 x 3 views of six videos of two classes; two are bad."""
  root = tmp_path_factory.mktemp("views")
  for i in range(6):
    folder = root / "in" / "ab"[i % 2]
    folder.mkdir(parents=True, exist_ok=True)
    little_videos.write(folder / f"{i}.mp4", 40 + i)
  (root / "in" / "a" / "empty.mp4").write_bytes(b"")
  (root / "in" / "b" / "noise.mp4").write_bytes(b"no video at all")
  c = recipes.tokenize()
  c.source.root = str(root / "in")
  c.source.folder.class_folders = True
  c.clip.update(frames=4, size_px=16)
  c.views.update(mode="test", temporal=2)
  c.amount.workers = 0
  assert jobs.run(c.to_dict(), epath.Path(root / "job"), lambda done: False)
  # Again: the manifest is that of the same job.
  assert jobs.run(c.to_dict(), epath.Path(root / "job"), lambda done: False)
  return root / "job"


def test_a_probe_sums_the_views_and_names_what_is_missing(store, tmp_path, capsys):
  tokens = store_lib.open_store(store / "all", tokenizer=None, vocab=None, grid=None)
  assert len(tokens) == 36 and tokens.manifest.crops == 6
  mark = weights.load("shipped").fingerprint
  shape = dict(tokenizer=mark, vocab=512)
  model = probes.bare_backbone(tmp_path, **shape)
  train = probes.write(
    tmp_path / "t", np.arange(24) % 2, prefix="t", seed=1, classes=("a", "b"), **shape
  )
  c = probes.config(
    model, train, str(store / "all"), backbones=("histogram",), train=dict(epochs=2.0, batch_rows=8)
  )
  assert jobs.run(c, epath.Path(tmp_path / "run"), lambda step: False)
  found = json.loads((tmp_path / "run" / "metrics.json").read_text())
  assert (found["n"], found["n_expected"]) == (6, 8)
  with open(tmp_path / "run" / "missing.csv") as file:
    missing = {row["id"]: row["reason"] for row in csv.DictReader(file)}
  assert set(missing) == {"a/empty.mp4", "b/noise.mp4"}
  assert "empty" in missing["a/empty.mp4"]
  said = capsys.readouterr().out
  assert "2 validation items are missing: a/empty.mp4, b/noise.mp4" in said
