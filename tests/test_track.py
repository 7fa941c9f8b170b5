"""Tracking: data sets as they lie on disk, encoders, oracles and chance, and going on."""

import csv
import dataclasses
import json
import struct
import zlib

from etils import epath
import numpy as np
from PIL import Image
import probes
import pytest
from scipy import special
import test_configs
import tracked

import totojax
from totojax import jobs
from totojax.config import roots, track
from totojax.config.model import EACH_FRAME
from totojax.data.sources import tracks
from totojax.evals import label_maps, masks
from totojax.jobs.track import kinds
from totojax.tokenizers import weights
from totojax.trained import backbone, grids

GRID = (48, 64)


def config(name, root, **changes):
  c = test_configs.load(f"configs/{name}.py").to_dict()
  c["data"] |= {"root": str(root)}
  c["output"] |= {"codec": "", "sequences": 1, "frames": 2}
  c["frames"] |= {"size_px": 64}
  c["encoders"] = changes.pop("encoders", {})
  c["baselines"] = changes.pop("baselines", ())
  for key, value in changes.items():
    c["data"][key] = value
  return c


def tracker(**keys):
  return {f.name: f.default for f in dataclasses.fields(track.Tracker)} | keys


def features(folder, arrays):
  """A folder of maps on disk; returns a tracker of it."""
  for name, layers in arrays.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{name}.npz", **{f"layer_{n}": x for n, x in layers.items()})
  return tracker(features=str(folder))


def run(c, out, interrupted=lambda done: False):
  return jobs.run(roots.read(c), epath.Path(out), interrupted)


def rows(path):
  with open(path) as file:
    return list(csv.DictReader(file))


def noise(shape, seed):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def davis(tmp_path_factory):
  """A finished run of an oracle, of noise and of baselines; (its data, it, masks, config)."""
  root = tmp_path_factory.mktemp("davis")
  truth = tracked.davis(root / "data")
  shape = (tracked.FRAMES, *GRID, 8)
  maps = features(
    root / "maps",
    {
      n: {0: noise(shape, seed), 3: tracked.oracle(m, GRID)}
      for seed, (n, m) in enumerate(truth.items())
    },
  )
  c = config("davis", root / "data", encoders={"mine": maps}, baselines=("copy", "pixels"))
  c["propagation"] = test_configs.load("configs/davis.py:dino+stc").to_dict()["propagation"]
  for rule in c["propagation"].values():
    rule |= {"context_frames": 1, "radius": 6.0}
  # Left after the first sequence of the first row, and gone on with.
  assert not run(c, root / "out", lambda done: True)
  assert (root / "out/parts/mine/000000.npz").exists()
  stamp = (root / "out/parts/mine/000000.npz").stat().st_mtime_ns
  kept = []
  stop = lambda done: kept.append((root / "out/parts/mine/000000.npz").stat().st_mtime_ns)  # noqa: E731
  assert run(c, root / "out", stop)
  assert set(kept) == {stamp}
  return root / "data", root / "out", truth, c


def chance(truth, rule, rng):
  """J&F of labels that each place takes from places drawn at random, in place of those most like.

  So many near it in the first frame and the one before, with the weights that the
  largest of as many cosines of random features (of 8 values) have.
  """
  (h, w), scores = GRID, []
  y, x = np.divmod(np.arange(h * w), w)
  down, right = y[:, None] - y, x[:, None] - x
  near = np.maximum(abs(down), abs(right)) <= rule.radius
  if rule.window == "circle":
    near = down**2 + right**2 < rule.radius**2
  first_near = near | rule.first_everywhere
  for masks_THW in truth.values():
    args = {"input_px": (8 * h, 8 * w)}
    how = rule.first_labels
    first = label_maps.first(masks_THW[0], (0, 1, 2), grid=GRID, how=how, **args).reshape(h * w, 3)
    before = first
    for t in range(1, len(masks_THW) - 1):
      there = near & (t > 1 or rule.fill)
      drawn = rng.random((h * w, 2 * h * w), np.float32)
      drawn *= np.concatenate([first_near, there], 1)
      best = np.argpartition(drawn, -rule.top_k)[:, -rule.top_k :]
      # (1 + cosine) / 2 of features of n values is of Beta((n - 1) / 2, (n - 1) / 2).
      like = 2 * special.betaincinv(3.5, 3.5, np.take_along_axis(drawn, best, 1)) - 1
      weights = special.softmax(like / rule.temperature, axis=1)
      before = np.einsum("qk,qkc->qc", weights, np.concatenate([first, before])[best])
      soft = before.reshape(h, w, 3)
      found = label_maps.decided(soft, (0, 1, 2), size=masks_THW[t].shape, rule=rule, **args)
      scores.append(masks.scores(masks_THW[t], found, 2))
  return float(np.mean(scores))


def test_masks_as_features_track_and_noise_is_chance(davis):
  _, out, truth, c = davis
  found = {
    (r["row"], r["rule"], r["layer"]): float(r["score"]) for r in rows(out / "per_layer.csv")
  }
  assert min(found["mine", rule, "3"] for rule in ("dino", "stc")) > 0.95
  by_chance = {
    rule: chance(truth, roots.read(c).propagation[rule], np.random.default_rng(7))
    for rule in ("dino", "stc")
  }
  # A mean of ten places drawn at random is background nearly everywhere; maps that
  # are stretched from 0 to 1 first find objects anywhere.
  assert max(by_chance["stc"], found["mine", "stc", "0"]) < 0.02 < 0.3 < by_chance["dino"]
  assert found["mine", "dino", "0"] == pytest.approx(by_chance["dino"], rel=0.05)
  assert 0 < found["copy", "copy", "0"] < 0.9
  metrics = json.loads((out / "metrics.json").read_text())
  assert [(r["row"], r["rule"], r["layer"]) for r in metrics["rows"]] == [
    ("mine", "dino", 3),
    ("mine", "stc", 3),
    ("pixels", "dino", 0),
    ("pixels", "stc", 0),
    ("copy", "copy", 0),
  ]
  assert metrics["sequences"] == 2 and metrics["rows"][0]["objects"] == 4


def test_results_are_those_of_the_masks_that_it_leaves(davis):
  """The official tables, worked out from the files alone."""
  _, out, truth, _ = davis
  folder = out / "results" / "mine-dino"
  objects = []
  for name, masks_THW in truth.items():
    images = [Image.open(path) for path in sorted((folder / name).glob("*.png"))]
    assert {i.mode for i in images} == {"P"} and images[0].getpalette()[3:6] == [128, 0, 0]
    found = [np.array(i) for i in images]
    np.testing.assert_array_equal(found[0], masks_THW[0])
    scores = [masks.scores(a, b, 2) for a, b in zip(masks_THW[1:-1], found[1:-1])]
    objects += list(np.stack(scores, -1).swapaxes(0, 1))
  wanted = masks.summary(objects)
  (row,) = rows(folder / "global_results-val.csv")
  assert list(row) == [
    "J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay"
  ]  # fmt: skip
  for name, text in row.items():
    assert text == f"{wanted[name]:.3f}"
  each = rows(folder / "per-sequence_results-val.csv")
  assert [r["Sequence"] for r in each] == ["one_1", "one_2", "two_1", "two_2"]
  assert each[3]["J-Mean"] == f"{objects[3][0].mean():.3f}"
  page = (out / "report.html").read_text()
  assert "2 of 30 sequences of DAVIS-2017 with 4 objects" in page and "Not shown" not in page
  assert (out / "overlays" / "000.webp").exists() and (out / "layer_curve.png").exists()


def test_drawing_reads_each_frame_once_and_goes_on(tmp_path, monkeypatch):
  tracked.davis(tmp_path / "data")
  c = config("davis", tmp_path / "data", baselines=("copy",))
  c["output"] |= {"codec": "h264", "sequences": 2, "frames": 3, "width_px": 32, "masks": False}
  out, read, again = tmp_path / "out", [], tracks.frame
  strips = lambda: sorted(path.name for path in (out / "overlays").glob("*.webp"))  # noqa: E731
  # Left when the first sequence is drawn, which is not drawn again.
  assert not run(c, out, lambda done: strips() == ["000.webp"])
  assert strips() == ["000.webp"] and not (out / "metrics.json").exists()
  stamps = [(out / "overlays" / f"000.{e}").stat().st_mtime_ns for e in ("webp", "mp4")]
  monkeypatch.setattr(tracks, "frame", lambda path: read.append(path) or again(path))
  assert run(c, out)
  assert stamps == [(out / "overlays" / f"000.{e}").stat().st_mtime_ns for e in ("webp", "mp4")]
  # Of the first frames sizes are asked: of both when annotations are checked, and when drawn.
  later = [path for path in read if not path.endswith("00000.jpg")]
  assert len(later) == len({*later}) == tracked.FRAMES - 1 and "two" in later[0]
  drawn = json.loads((out / "metrics.json").read_text())["drawn"]
  assert [(one["sequence"], one["mp4"]) for one in drawn] == [
    ("one", "overlays/000.mp4"), ("two", "overlays/001.mp4")
  ]  # fmt: skip
  with Image.open(out / "overlays" / "001.webp") as image:
    assert image.size == (3 * 32 + 2 * 4, 2 * 24 + 4)
    strip = np.asarray(image.convert("RGB")).astype(int)
  frames = video_frames(out / "overlays" / "001.mp4")
  assert frames.shape == (tracked.FRAMES, 48, 2 * 64 + 4, 3)
  # The annotated object is where its mask is: of both in its colour, mixed with the frame's.
  labels = tracked.discs(1)[4, 2::4, 2::4]
  for tile, factor in ((strip[:24, 72:104], 1), (frames[4, :, :64], 2)):
    tile = tile.reshape(24, factor, 32, factor, 3).mean((1, 3))
    red, green = (tile[labels == n].mean(0) for n in (1, 2))
    assert red[0] > red[1] + 30 and green[1] > green[0] + 30


def video_frames(path):
  import av

  with av.open(str(path)) as container:
    return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def test_a_run_knows_its_annotations(davis, tmp_path):
  data, out, truth, c = davis
  mask = data / "Annotations/480p/two/00002.png"
  kept, before = mask.read_bytes(), json.loads((out / "metrics.json").read_text())["digest"]
  found = [tracks.objects(t, year=2017) for t in tracks.listed("davis", str(data), split="val")]
  digest = lambda: tracks.digest(zip(truth, found))  # noqa: E731
  assert digest() == before
  image = Image.open(mask)
  image.save(mask, compress_level=0)  # other bytes, the same masks
  found[1] = tracks.objects(tracks.listed("davis", str(data), split="val")[1], year=2017)
  assert digest() == before
  found[1][2, 5, 5] = 2
  assert digest() != before
  mask.write_bytes(kept)


def shorten_palette(path, colours):
  """Cuts a PNG's palette, as a converter does that counts the colours of one image."""
  data = path.read_bytes()
  start = data.index(b"PLTE")
  body = b"PLTE" + data[start + 4 : start + 4 + 3 * colours]
  chunk = struct.pack(">I", 3 * colours) + body + struct.pack(">I", zlib.crc32(body))
  path.write_bytes(data[: start - 4] + chunk + data[start + 4 + 3 * 256 + 4 :])


def broken(root, kind):
  """Makes a sound DAVIS wrong; returns the config's changes and what is told."""
  masks_of, frames_of = root / "Annotations/480p/two", root / "JPEGImages/480p/two"
  if kind == "no mask":
    (masks_of / "00002.png").unlink()
    return {}, "two: number 2 is missing in .*Annotations"
  if kind == "no frame":
    (frames_of / "00002.jpg").unlink()
    return {}, "1 of 2 sequences are not whole; the first: two: number 2 is missing in .*JPEG"
  if kind == "neither":
    (frames_of / "00002.jpg").unlink()
    (masks_of / "00002.png").unlink()
    return {}, "frame 00002 is missing"
  if kind == "size":
    tracked.write_mask(masks_of / "00003.png", np.zeros((96, 127), np.uint8))
    return {}, r"00003.png is \(96, 127\) pixels"
  if kind == "other size":
    for t in range(tracked.FRAMES):
      tracked.write_image(frames_of / f"{t:05d}.jpg", np.zeros((48, 64, 3), np.uint8))
    return {}, "they must agree"
  if kind == "colours":
    tracked.write_image(masks_of / "00001.png", np.zeros((96, 128, 3), np.uint8))
    return {}, "00001.png: its pixels are RGB and not numbers of a palette"
  if kind == "ids":
    tracked.write_mask(masks_of / "00001.png", np.full((96, 128), 77, np.uint8))
    return {}, "have object 77"
  if kind == "palette":
    tracked.write_mask(masks_of / "00001.png", np.full((96, 128), 9, np.uint8))
    shorten_palette(masks_of / "00001.png", 2)
    return {}, "it has number 9, and its palette 2 colours"
  if kind == "unsupervised":
    (root / "Annotations").rename(root / "Annotations_unsupervised")
    return {}, "has Annotations_unsupervised and no Annotations: the unsupervised set"
  if kind == "no list":
    return {"split": "test"}, "ImageSets/2017/test.txt does not exist"
  if kind == "other root":
    return {"root": str(root / "JPEGImages")}, "data.root is the folder that holds ImageSets"
  if kind == "empty":
    tracked.write_mask(masks_of / "00000.png", np.zeros((96, 128), np.uint8))
    return {}, "00000.png has no object"
  return {"sequences": ("three",)}, "data.sequences has 'three'"


@pytest.mark.parametrize(
  "kind",
  "no mask,no frame,neither,size,other size,colours,ids,palette,unsupervised,no list,other root,"
  "empty,sequence".split(","),
)
def test_what_is_wrong_with_a_data_set_is_named(tmp_path, kind):
  tracked.davis(tmp_path / "data")
  changes, told = broken(tmp_path / "data", kind)
  c = config("davis", tmp_path / "data", baselines=("copy",))
  c["data"] |= changes
  with pytest.raises(ValueError, match=told):
    run(c, tmp_path / "out")
  assert not (tmp_path / "out" / "config.json").exists()


def test_masks_of_2016_are_one_object(tmp_path):
  tracked.davis(tmp_path / "a", year=2016, values=[0, 255, 255])
  c = config("davis", tmp_path / "a", year=2016, baselines=("copy",))
  assert run(c, tmp_path / "out")
  assert json.loads((tmp_path / "out/metrics.json").read_text())["rows"][0]["objects"] == 2
  c = config("davis", tmp_path / "a", list="ImageSets/2016/val.txt", baselines=("copy",))
  with pytest.raises(ValueError, match="hold 0 and 255 alone.*set data.year to 2016"):
    run(c, tmp_path / "out2")
  tracked.davis(tmp_path / "b", year=2016)  # of the tree of 2017, all objects are one
  (one, _) = tracks.listed("davis", str(tmp_path / "b"), split="val", year=2016)
  assert np.unique(tracks.objects(one, year=2016)).tolist() == [0, 1]


def test_joints_of_an_oracle_are_found(tmp_path):
  truth = tracked.jhmdb(tmp_path / "data")
  h, w = 24, 32
  arrays = {}
  for seed, (name, place) in enumerate(truth.items()):
    # A place's feature is what lies at the same place about the person.
    shift = np.rint((place[:, 0] - place[:, 0, :1]) * np.array([[w / 128], [h / 96]])).astype(int)
    first = noise((h, w, 16), seed)
    moved = np.stack([np.roll(first, (dy, dx), (0, 1)) for dx, dy in shift.T])
    arrays[name] = {0: moved, 1: noise(moved.shape, 9)}
  c = config("jhmdb", tmp_path / "data", encoders={"mine": features(tmp_path / "f", arrays)})
  c["baselines"] = ("copy",)
  assert run(c, tmp_path / "out")
  found = {
    (r["row"], r["layer"]): float(r["PCK@0.2"]) for r in rows(tmp_path / "out/per_layer.csv")
  }
  assert found["mine", "0"] > 0.9 > 0.5 > found["mine", "1"]
  places = rows(tmp_path / "out/results/mine-rvm/joints.csv")
  assert len(places) == 2 * tracked.FRAMES and places[0]["video"] == "walk/a_1"
  assert float(places[0]["neck_x"]) == pytest.approx(truth["walk/a_1"][0, 0, 0], abs=1e-3)
  (tmp_path / "data/Rename_Images/walk/b_2/00003.png").unlink()
  with pytest.raises(ValueError, match="walk/b_2: frame 00003 is missing"):
    run(c, tmp_path / "out2")


def test_parts_of_an_oracle_are_found(tmp_path):
  truth = tracked.vip(tmp_path / "data")
  arrays = {
    name: {0: tracked.oracle(m, GRID), 1: noise((tracked.FRAMES, *GRID, 8), 0)}
    for name, m in truth.items()
  }
  c = config("vip", tmp_path / "data", encoders={"mine": features(tmp_path / "f", arrays)})
  c["propagation"]["rvm"] |= {"context_frames": 1}
  assert c["propagation"]["rvm"]["top_k"] == 10
  assert run(c, tmp_path / "out")
  found = {r["layer"]: float(r["mIoU"]) for r in rows(tmp_path / "out/per_layer.csv")}
  assert found["0"] > 0.9 > 0.6 > found["1"]
  kind = kinds.Vip()
  video = kinds.opened(kind, tracks.listed("vip", str(tmp_path / "data"), split="val")[1])
  assert kind.given(video).max() < 20  # pixels of no class are never emitted
  tracked.write_mask(
    tmp_path / "data/Annotations/Category_ids/videos1/26.png", np.full(tracked.SIZE, 20, np.uint8)
  )
  with pytest.raises(ValueError, match="26.png has class 20"):
    run(c, tmp_path / "out2")


# Encoders.


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  shipped = weights.load("shipped")
  return probes.bare_backbone(
    tmp_path_factory.mktemp("model"), tokenizer=shipped.fingerprint, vocab=shipped.vocab
  )


def frames_of(count=3, size=16, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def opened(model, **keys):
  frames = track.Frames(**{"size_px": 16, "rows": 3, **keys})
  of = grids.of_run(track.Tracker(model_run=model), frames, seed=0)
  assert of.layers == (0, 1, 2)
  return lambda video: np.stack([*of.of("x", video)], axis=1)  # [L, T, h, w, D]


def maps_of(model, video, **keys):
  return opened(model, **keys)(video)


def test_frames_of_our_model_are_images_of_their_own(model):
  video = frames_of()
  found = maps_of(model, video)
  wanted = totojax.load(model).features(video, layer=(0, 1, 2), kind="image")
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
  # A larger square is a larger map of the same model.
  assert maps_of(model, frames_of(size=40), size_px=32).shape[1:4] == (3, 4, 4)


def test_what_a_place_has_seen(model):
  """Causal: nothing after it; said twice, the whole frame; video: what was before."""
  video, size = frames_of(size=64), {"size_px": 64}
  other = video.copy()
  other[1, 60:, 60:] = 255 - other[1, 60:, 60:]
  codes = weights.load("shipped").encode
  differ_P = (codes(other[1:2]) != codes(video[1:2])).ravel()
  first = int(differ_P.argmax())
  assert differ_P.any() and 8 <= first < 64  # control: there are places before and after

  def changed(**keys):
    of = opened(model, **size, **keys)
    before, after = (of(x)[2] for x in (video, other))
    return (np.abs(before - after).max(-1) > 1e-7).reshape(3, -1)

  alone = changed()
  assert alone[1].tolist() == [place >= first for place in range(64)]
  assert not alone[[0, 2]].any()
  assert changed(input="self_repeat")[1].all() and changed(full_attn=True)[1].all()
  moved = changed(input="video", clip_frames=2)
  assert moved[1].tolist() == alone[1].tolist() and moved[2].all() and not moved[0].any()


def test_a_clip_begins_with_copies(model):
  video = frames_of()
  found = maps_of(model, video, input="video", clip_frames=2)
  load = totojax.load(model)
  for last, pair in ((0, [0, 0]), (1, [0, 1]), (2, [1, 2])):
    wanted = load.features(video[pair], layer=(0, 1, 2))[:, 1]
    np.testing.assert_allclose(found[:, last], wanted, rtol=1e-5, atol=1e-6)


class Codes:
  """A tokenizer of squares of 8 pixels that sees the same codes in a frame of any shape."""

  factor, latents = 8, EACH_FRAME

  def __init__(self, like):
    self.fingerprint, self.vocab = like.fingerprint, like.vocab

  def encode(self, frames_NHW3):
    n, height, width = frames_NHW3.shape[:3]
    places = height * width // 64
    return (np.arange(places) * 7 % self.vocab).reshape(1, height // 8, width // 8).repeat(n, 0)


def test_frames_may_be_wider_than_high(model, monkeypatch):
  video = frames_of(count=1, size=64)[:, :16]
  tokenizer = Codes(weights.load("shipped"))
  monkeypatch.setattr(backbone, "find_tokenizer", lambda *_: tokenizer)
  wide = maps_of(model, video, width_px=64)
  square = maps_of(model, video, size_px=32)
  # As many tokens, in raster order: to the model they are the same sequence.
  assert wide.shape[1:4] == (1, 2, 8) and square.shape[1:4] == (1, 4, 4)
  np.testing.assert_allclose(wide.reshape(square.shape), square, rtol=1e-5, atol=1e-6)
  (patches,) = next(grids.pixels((16, 64)).of("x", video))
  np.testing.assert_allclose(
    patches[1, 3].reshape(8, 8, 3), video[0, 8:, 24:32] / 127.5 - 1, rtol=1e-5, atol=1e-6
  )
  for keys, told in (
    ({"width_px": 42}, "frames.width_px is 42; .* use a multiple"),
    ({"size_px": 0, "width_px": 40}, "give the height in size_px"),
  ):
    with pytest.raises(ValueError, match=told):
      maps_of(model, video, **keys)
  with pytest.raises(ValueError, match="frames.width_px is 880, and dinov2:x reads squares of 480"):
    frames = track.Frames(size_px=480, width_px=880)
    grids.of_encoder(track.Tracker(encoder="dinov2:x"), frames)


def test_our_model_tracks_beside_its_untrained_self(model, tmp_path):
  tracked.davis(tmp_path / "data", names=("one",))
  c = config("davis", tmp_path / "data", baselines=("untrained", "copy"))
  c["encoders"] = {"toto": tracker(model_run=model, layers=(0, 2))}
  assert run(c, tmp_path / "out")
  found = json.loads((tmp_path / "out/metrics.json").read_text())["rows"]
  assert [row["row"] for row in found] == ["toto", "toto-untrained", "copy"]
  assert found[0]["low"] is None  # of one sequence
  with pytest.raises(ValueError, match="size_px is 20; .* squares of 8 pixels"):
    run({**c, "frames": {**c["frames"], "size_px": 20}}, tmp_path / "out2")


ENCODER = """
import numpy as np
from totojax.trained import encoders

def encoder():
  def features(clips):
    r, n, s, _, _ = clips.shape
    cut = clips.reshape(r, n, 2, s // 2, 2, s // 2, 3).mean((3, 5)).reshape(r, n * 4, 3)
    return cut[None]
  return encoders.Encoder(size_px=8, frames=1, layers=(5,), features=features)

def clips():
  def features(x):
    pairs = x.reshape(len(x), -1, 2, *x.shape[2:]).mean(2)
    return np.asarray(encoder().features(pairs))
  return encoders.Encoder(8, 4, (5,), features, multiple=2, grid=2)

def pooled():
  return encoders.Encoder(8, 1, (0,), lambda x: x.mean((1, 2, 3))[None])
"""


def test_encoders_of_images_and_of_clips_give_maps_of_frames(tmp_path):
  (tmp_path / "mine.py").write_text(ENCODER)
  video = frames_of(count=6, size=8)
  means = video.reshape(6, 2, 4, 2, 4, 3).mean((2, 4))

  def maps(name):
    of = grids.of_encoder(track.Tracker(encoder=f"{tmp_path / 'mine.py'}:{name}"), track.Frames())
    return np.stack([*of.of("x", video)])[:, 0]

  np.testing.assert_allclose(maps("encoder"), means, rtol=1e-5)
  found = maps("clips")  # of pairs, between whose middles maps change evenly
  pairs = means.reshape(3, 2, 2, 2, 3).mean(1)
  np.testing.assert_allclose(found[0], pairs[0], rtol=1e-5)
  np.testing.assert_allclose(found[1], 0.75 * pairs[0] + 0.25 * pairs[1], rtol=1e-5)
  np.testing.assert_allclose(found[4:], pairs[[2, 2]] * 0 + found[4:], rtol=1e-5)
  with pytest.raises(ValueError, match="a token of every place"):
    maps("pooled")


def test_arguments_name_trackers_and_rules():
  c = test_configs.load("configs/davis.py:dino+stc,a=RUN,b=dinov2:W,c=features:F,d=untrained:RUN")
  assert [*c.propagation] == ["dino", "stc"] or set(c.propagation) == {"dino", "stc"}
  assert c.encoders.a.model_run == "RUN" and c.encoders.b.encoder == "dinov2:W"
  assert c.encoders.c.features == "F" and c.encoders.d.untrained
  assert test_configs.load("configs/jhmdb.py").propagation.rvm.top_k == 7
  with pytest.raises(Exception, match="RUN has no name: write NAME=RUN"):
    test_configs.load("configs/davis.py:RUN")
  for changes, told in (
    ({"encoders": {"a": tracker()}}, "give one of the first three"),
    ({"encoders": {"copy": tracker(features="x")}}, "has the name of a baseline"),
    ({"propagation": {}}, "propagation is empty"),
  ):
    with pytest.raises(ValueError, match=told):
      roots.read({**test_configs.load("configs/davis.py").to_dict(), **changes})


@pytest.mark.parametrize(
  "arrays, told",
  [
    ({"layer_0": np.zeros((5, 4, 4))}, r"maps are layer_<number> \[frames"),
    ({"layer_0": np.zeros((4, 4, 4, 2)) + 1}, "has maps of 4 frames, and one has 5"),
    ({"layer_0": np.full((5, 4, 4, 2), np.nan)}, "no finite numbers"),
    ({"layer_1": np.ones((5, 4, 4, 2)), "layer_0": np.ones((5, 4, 2, 2))}, "of as many frames"),
    ({}, "maps are"),
  ],
)
def test_maps_on_disk_that_do_not_fit_are_refused(tmp_path, arrays, told):
  tracked.davis(tmp_path / "data", names=("one",))
  (tmp_path / "f").mkdir()
  np.savez(tmp_path / "f" / "one.npz", **arrays)
  c = config("davis", tmp_path / "data", encoders={"a": tracker(features=str(tmp_path / "f"))})
  with pytest.raises(ValueError, match=told):
    run(c, tmp_path / "out")
