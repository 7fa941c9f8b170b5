"""Features of the user's own pixels: from Python, and as files."""

import csv
import dataclasses
import json
import os
import pathlib
import subprocess
import sys

from absl import logging
from etils import epath
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import probes
import pytest
import runs
import safetensors.numpy
import stores

import totojax
from totojax import checkpoint, jobs
from totojax.config import recipes
from totojax.data.pixels import augment
from totojax.models import llama, platform, trunk
from totojax.tokenizers import dvae, weights
from totojax.trained import backbone

SIZE = dvae.DvaeConfig(
  vocab=stores.VOCAB, hidden=4, groups=3, blocks=1, decoder_init=4, post_gain=0.5
)
PX = stores.GRID * 4  # of a frame


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run of a chain, with the tokenizer that made its tokens beside it."""
  root = tmp_path_factory.mktemp("chain")
  file = root / "tokenizer" / "tokenizer.safetensors"
  file.parent.mkdir()
  params = nn.unbox(jax.jit(dvae.init, static_argnums=0)(SIZE, jax.random.key(0)))
  mark = weights.save(file, params, SIZE, card={}, dtype="float32")
  return pathlib.Path(probes.bare_backbone(root, tokenizer=mark))


@pytest.fixture(scope="module")
def model(run):
  return totojax.load(str(run))


def videos(count, *, side=PX, frames=stores.FRAMES):
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 256, (count, frames, 2, 2, 3), np.uint8)
  return coarse.repeat(side // 2, 2).repeat(side // 2, 3)


def residual(run, clips, *, start):
  """H_l [L, R, T, D], block by block, from the checkpoint's own arrays."""
  tokens = weights.load(run.parent / "tokenizer" / "tokenizer.safetensors")
  codes = tokens.encode(clips.reshape(-1, PX, PX, 3)).reshape(len(clips), -1)
  rows = np.concatenate([np.full((len(clips), 1), start), codes + 4], axis=1)
  model = backbone.for_clips(backbone.find(str(run)).model, frames=clips.shape[1])
  step = checkpoint.latest_step(run / "checkpoints")
  saved = runs.checkpoint(run, step)
  blocks = {
    name.removeprefix("['params']['blocks']"): value
    for name, value in saved.items()
    if name.startswith("['params']['blocks']")
  }
  table = saved["['params']['embedding']"]
  rope, segments = trunk.places(model.config, model.spec, jnp.asarray(rows))
  block = llama.Block(model.config, "xla", jnp.dtype("float32"), platform.GPU, model.scales)
  apply = jax.jit(lambda own, x: block.apply({"params": own}, x, rope, segments)[0])
  found = [table[rows]]
  for layer in range(model.config.depth):
    own = {}
    for name, value in blocks.items():
      words, below = name.strip("[]'").split("']['"), own
      for word in words[:-1]:
        below = below.setdefault(word, {})
      below[words[-1]] = value[layer]
    found.append(np.asarray(apply(own, found[-1])))
  return np.stack(found)


def test_features_are_the_residual_stream_where_the_token_is(run, model):
  clips = videos(3)
  h_LRTD = residual(run, clips, start=1)
  tokens = h_LRTD[:, :, 1:].reshape(3, 3, stores.FRAMES, 2, 2, -1)
  close = dict(rtol=2e-4, atol=1e-6)
  found = model.features(clips, layer=(0, 2), rows=2)
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, tokens[[0, 2]], **close)
  np.testing.assert_allclose(
    model.features(clips, layer=1, pool="frame"), tokens[1].mean((2, 3)), **close
  )
  clip = model.features(clips[0], layer=1, pool="clip")
  np.testing.assert_allclose(clip, tokens[1, 0].mean((0, 1, 2)), **close)
  # Control: one place further on is another feature.
  assert not np.allclose(found[1, 0, 0, 0, 0], tokens[2, 0, 0, 0, 1], rtol=0.01)


def test_a_model_says_what_it_is(run, model):
  step = checkpoint.latest_step(run / "checkpoints")
  told = repr(model)
  assert f"{run}, step {step}: llama, 2 layers, 32 wide, " in told and "60 codes" in told
  assert model.run.tokenizer in told and "loaded" not in told and "0x" not in told
  saved = {n: v for n, v in runs.checkpoint(run, step).items() if n.startswith("['params']")}
  # Rows of the tables that are no code are padding, and count as none.
  tables = [v for n, v in saved.items() if n.endswith(("['embedding']", "['head']"))]
  count = sum(v.size for v in saved.values()) - sum(v[60:].size for v in tables)
  assert tables and f", {count / 1000:.3g} k parameters" in told
  assert "2 layers, of which 1 are loaded, 32 wide" in repr(totojax.load(str(run), depth=1))


def test_loading_says_nothing_of_orbax_s_files(run, caplog):
  level = logging.get_verbosity()
  logging.set_verbosity(logging.WARNING)
  try:
    totojax.load(str(run))
    assert not caplog.records and logging.get_verbosity() == logging.WARNING
    logging.warning("seen")  # or the check above would see nothing
  finally:
    logging.set_verbosity(level)
  assert [record.message for record in caplog.records] == ["seen"]


def test_fewer_frames_are_a_shorter_sequence(model):
  clips = videos(2)
  whole = model.features(clips, layer=2)
  short = model.features(clips[:, :2], layer=2)
  np.testing.assert_allclose(short, whole[:, :2], rtol=2e-4, atol=1e-6)


def test_images_begin_as_images(run, model):
  clips = videos(2, frames=1)
  h_LRTD = residual(run, clips, start=3)
  images = clips[:, 0]
  found = model.features(images, layer=2, kind="image")
  assert found.shape == (2, 2, 2, 32)
  np.testing.assert_allclose(found.reshape(2, 4, -1), h_LRTD[2, :, 1:], rtol=2e-4, atol=1e-6)
  np.testing.assert_allclose(model.features(images[1], layer=2), found[1], rtol=1e-5)
  # Control: a video's start gives others.
  other = model.features(clips, layer=2)[:, 0]
  assert not np.allclose(other, found, rtol=0.01)


def test_padding_on_the_right_changes_no_feature(run, model, monkeypatch):
  """Where inputs are padded to whole lanes, as on every accelerator."""
  clips = videos(1)
  expected = {p: model.features(clips, layer=2, pool=p) for p in backbone.POOLS}
  plain = backbone.for_clips

  def padded(model, *, frames):
    found = plain(model, frames=frames)
    return found.clone(spec=dataclasses.replace(found.spec, context=24))

  monkeypatch.setattr(backbone, "for_clips", padded)
  other = totojax.load(str(run))
  for pool, x in expected.items():
    np.testing.assert_allclose(other.features(clips, layer=2, pool=pool), x, rtol=2e-4, atol=1e-6)


def test_frames_of_another_size_are_resized_and_cut(model):
  wide = np.random.default_rng(1).integers(0, 256, (2, 16, 30, 3), np.uint8)
  resized = np.stack([augment.Resize(PX, "bicubic")(x) for x in wide])
  cut = resized[:, :, 4:12]  # 15 wide
  assert resized.shape[2] == 15
  found = model.features(wide, layer=1)
  np.testing.assert_array_equal(found, model.features(cut, layer=1))


def test_the_forward_pass_stops_at_the_deepest_layer(run):
  short = totojax.load(str(run), depth=1)
  assert short._params["blocks"]["mlp"]["up"].shape[0] == 1
  clips = videos(1)
  np.testing.assert_allclose(
    short.features(clips, layer=1), totojax.load(str(run)).features(clips, layer=1), rtol=1e-5
  )
  with pytest.raises(ValueError, match="layer 2 does not exist: .* 1 blocks"):
    short.features(clips, layer=2)


@pytest.mark.parametrize(
  "frames, more, told",
  [
    (videos(1), dict(layer=3), "layer 3 does not exist: .* has 2 blocks"),
    (videos(1), dict(layer=1, pool="all"), "pool is 'all'; use one of tok"),
    (videos(1), dict(layer=1, kind="gif"), "kind 'gif' is unknown"),
    (videos(1).astype(float), dict(layer=1), "frames are float64"),
    (videos(1, frames=5), dict(layer=1), "5 frames; .* 1 to 4"),
    (videos(0), dict(layer=1), "holds none; give at least one"),
  ],
)
def test_what_does_not_fit_is_refused(model, frames, more, told):
  with pytest.raises(ValueError, match=told):
    model.features(frames, **more)


def test_a_run_that_gives_no_features_is_refused(run, tmp_path):
  with pytest.raises(FileNotFoundError, match="not a run directory"):
    totojax.load(str(tmp_path))
  bare = tmp_path / "bare"
  bare.mkdir()
  for name in ("config.json", "manifest.json"):
    (bare / name).write_bytes((run / name).read_bytes())
  with pytest.raises(ValueError, match="has no whole checkpoint; train first"):
    totojax.load(str(bare))
  (bare / "checkpoints").symlink_to(run / "checkpoints")
  alone = totojax.load(str(bare))  # codes need no tokenizer
  codes = np.zeros((1, 4, 4), int)
  assert alone.features_of_codes(codes, layer=1).shape == (1, 4, 2, 2, 32)
  with pytest.raises(ValueError, match="none of those in the package .*name its"):
    alone.features(videos(1), layer=1)
  with pytest.raises(ValueError, match="shipped has 512 codes; .*was trained with 60"):
    totojax.load(str(bare), tokenizer="shipped")


def test_importing_the_package_loads_nothing():
  code = (
    "import sys, totojax; print(sorted({'jax', 'flax', 'numpy', 'orbax'}"
    " & set(sys.modules)), totojax.load.__name__)"
  )
  found = subprocess.run(
    [sys.executable, "-c", code],
    env={**os.environ, "PYTHONPATH": str(runs.ROOT)},
    capture_output=True,
    text=True,
    check=True,
  )
  assert found.stdout == "[] load\n"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
  """Two class folders of images, and one file that is none."""
  root = tmp_path_factory.mktemp("pictures")
  for i, image in enumerate(videos(7, side=20, frames=1)[:, 0]):
    folder = root / ("odd" if i % 2 else "even")
    folder.mkdir(exist_ok=True)
    Image.fromarray(image).save(folder / f"{i}.png")
  (root / "even" / "broken.png").write_bytes(b"no image")
  return root


def config(run, root, **features):
  c = recipes.features(str(run))
  c.features.update(features)
  c.source.update(root=str(root), kind="image")
  c.source.folder.class_folders = True
  c.amount.update(items_per_shard=3, workers=0)
  return c.to_dict()


def index(workdir):
  with open(workdir / "index.csv") as file:
    return list(csv.DictReader(file))


def test_files_hold_the_features_of_every_item(run, model, pictures, tmp_path):
  """Stopped once between two items, then gone on with."""
  c = config(run, pictures, layers=(1, 2), pool="frame")
  workdir = epath.Path(tmp_path / "out")
  assert not jobs.run(c, workdir, lambda done: done == 5)
  assert (workdir / "all" / "00000.json").exists()
  first = (workdir / "all" / "00000.safetensors").stat().mtime
  assert not (workdir / "all" / "00001.json").exists()
  assert jobs.run(c, workdir, lambda done: False)
  assert (workdir / "all" / "00000.safetensors").stat().mtime == first
  rows = index(workdir)
  assert len(rows) == 7 and {r["label"] for r in rows} == {"0", "1"}
  for row in rows:
    arrays = safetensors.numpy.load((workdir / row["file"]).read_bytes())
    image = np.asarray(Image.open(pictures / row["id"]))
    at = int(row["row"])
    assert arrays["label"][at] == int(row["label"]) == ("odd" in row["id"])
    for layer in (1, 2):
      np.testing.assert_allclose(
        arrays[f"layer_{layer}"][at],
        model.features(image, layer=layer, pool="frame"),
        rtol=1e-4,
        atol=1e-6,
      )
  with open(workdir / "skipped.csv") as file:
    (skipped,) = csv.DictReader(file)
  assert skipped["id"] == "even/broken.png" and "no image" in skipped["reason"]


def test_another_format_and_type(run, pictures, tmp_path):
  c = config(run, pictures, format="npz", dtype="float16", pool="token")
  workdir = epath.Path(tmp_path / "out")
  assert jobs.run(c, workdir, lambda done: False)
  with np.load(workdir / "all" / "00000.npz") as file:
    assert sorted(file) == ["label", "layer_0", "layer_1", "layer_2"]
    assert file["layer_2"].dtype == np.float16
    assert file["layer_2"].shape[1:] == (2, 2, 32)
  facts = json.loads((workdir / "backbone.json").read_text())
  (workdir / "backbone.json").write_text(json.dumps({**facts, "step": 1}))
  with pytest.raises(ValueError, match="was begun with another "):
    jobs.run(c, workdir, lambda done: False)


@pytest.mark.parametrize(
  "changes, told",
  [
    (dict(features=dict(layers=(7,))), "layer 7 does not exist"),
    (dict(features=dict(pool="mean")), "features.pool is 'mean'; use 'tok"),
    (dict(image=dict(size_px=16)), "image.size_px is 16; .* 8 pixels"),
    (dict(clip=dict(frames=9)), "clip.frames is 9; .* use 1 to 4"),
    (dict(model_run=""), "model_run is empty"),
    (dict(features=dict(layer=1)), "features.layer does not exist"),
  ],
)
def test_a_config_that_does_not_fit_is_refused(run, pictures, tmp_path, changes, told):
  c = config(run, pictures)
  for name, value in changes.items():
    c[name] = {**c[name], **value} if isinstance(value, dict) else value
  with pytest.raises(ValueError, match=told):
    jobs.run(c, epath.Path(tmp_path / "out"), lambda done: False)
  assert not (tmp_path / "out").exists()


def test_videos_that_are_too_short_are_named(run, tmp_path):
  little = pytest.importorskip("little_videos")
  (tmp_path / "in").mkdir()
  little.write(tmp_path / "in" / "short.avi", 6)
  c = config(run, tmp_path / "in")
  c["source"] |= dict(kind="video", folder=dict(class_folders=False))
  with pytest.raises(ValueError, match="no item of all gave a clip, .*too sho"):
    jobs.run(c, epath.Path(tmp_path / "out"), lambda done: False)
  little.write(tmp_path / "in" / "whole.avi", 30)
  assert jobs.run(c, epath.Path(tmp_path / "new"), lambda done: False)
  assert [r["id"] for r in index(tmp_path / "new")] == ["whole.avi"]
