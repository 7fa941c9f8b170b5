"""Training from patches of pixels (Table 3): what is predicted from what."""

import dataclasses
import functools

import classed
from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

import totojax
from totojax import jobs, sequence, tree
from totojax.config import pixel_recipes, recipes, roots
from totojax.config.schema import ConfigError
from totojax.data.store import store as store_lib
from totojax.data.stream import heldout, rows as rows_lib
from totojax.jobs import patches as build, pixels
from totojax.jobs.probe import job as probe_job, setup as probe_setup
from totojax.models import heads, patched, taps
from totojax.rundir import files
from totojax.tasks import classify
from totojax.tokenizers import weights
from totojax.trained import backbone

NEVER = lambda done: False
SIDE, GRID, FRAMES = 8, 4, 3
TOKENS = FRAMES * GRID**2
VALUES = 3 * SIDE**2


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """Rendered clips, 32 pixels wide."""
  root = epath.Path(tmp_path_factory.mktemp("pixels"))
  c = pixel_recipes.render(train=16, val=5)
  c.scene.frames = FRAMES
  assert pixels.render(roots.read(c.to_dict()), root, NEVER)
  return root


def config(data=None, *, targets=True, **changes):
  c = recipes.pretrain("tiny")
  c.sequence.update(vocab=512, grid=GRID, frames=FRAMES, context=TOKENS)
  c.patches.update(inputs=True, targets=targets, side_px=SIDE)
  c.compute.update(dtype="float32", unroll=1)
  c.optim.update(lr=1e-2, warmup_steps=1)
  c.train.update(batch_tokens=8 * TOKENS, total_tokens=8 * TOKENS * 2.0)
  c.data.encode_with = "" if targets else "shipped"
  if data is not None:
    c.data.train = {"moving": recipes.source(str(data / "train"), 1.0)}
    c.data.validation = {"moving": str(data / "val")}
  c.every = recipes.every(log=1, evaluate=2, checkpoint=1)
  c.update_from_flattened_dict(changes)
  return c.to_dict()


def frames_of(data, count=8):
  store = store_lib.open_store(data / "train", tokenizer=None, vocab=None, grid=None)
  return np.asarray(store.read(list(range(count)))["frames"])


def batch_of(data):
  frames = frames_of(data)
  start = np.full(len(frames), sequence.VIDEO_START, np.int32)
  return {"frames": frames, "start": start}


def by_hand(frames_BNSS3):
  """float64 patches [B, T, F] from -1 to 1, square by square."""
  rows = []
  for clip in frames_BNSS3:
    rows.append(
      [
        frame[y : y + SIDE, x : x + SIDE].reshape(-1) / 127.5 - 1.0
        for frame in clip
        for y in range(0, SIDE * GRID, SIDE)
        for x in range(0, SIDE * GRID, SIDE)
      ]
    )
  return np.array(rows, np.float64)


def test_the_loss_is_the_error_of_the_next_normalised_patch(data):
  task, batch = build.task(roots.read(config())).inner, batch_of(data)
  params = jax.jit(task.init)(jax.random.key(0)).params
  loss_BT, counted_BT = jax.jit(task.per_target)(params, batch)
  assert loss_BT.shape == (8, TOKENS) and bool(counted_BT.all())
  patches = by_hand(batch["frames"])
  inputs = patched.Inputs(jnp.asarray(patches[:, :-1], jnp.float32), batch["start"])
  found = jax.jit(task.model.apply)({"params": params}, inputs)
  assert found.shape == (8, TOKENS, VALUES) and found.dtype == jnp.float32
  centred = patches - patches.mean(-1, keepdims=True)
  wanted = centred / np.sqrt(patches.var(-1, ddof=1, keepdims=True) + 1e-6)
  expected = ((np.asarray(found) - wanted) ** 2).mean(-1)
  np.testing.assert_allclose(loss_BT, expected, rtol=1e-4)
  # Control: the patch itself, in place of the next one.
  shifted = ((np.asarray(found)[:, 1:] - wanted[:, :-1]) ** 2).mean(-1)
  assert np.abs(shifted / expected[:, 1:] - 1).max() > 1e-3
  assert float(task.weights(batch)["mse"]) == 8 * TOKENS


def test_no_row_sees_what_it_predicts(data):
  task = build.task(roots.read(config())).inner
  params = jax.jit(task.init)(jax.random.key(0)).params
  start = batch_of(data)["start"][:1]

  def reach(model):
    def last(patches_BTF):
      inputs = patched.Inputs(patches_BTF, start)
      return model.apply({"params": params}, inputs).sum(-1)[0]

    x = jnp.asarray(by_hand(frames_of(data, 1))[:, :-1], jnp.float32)
    return np.abs(jax.jit(jax.jacobian(last))(x)[:, 0]).sum(-1)  # [T, T - 1]

  seen = reach(task.model)
  assert (np.triu(seen) == 0).all()  # row t predicts patch t + 1
  assert (np.diag(seen, -1) > 0).all()
  full = dataclasses.replace(task.model.config, prefix_tokens=-1)
  assert (np.triu(reach(task.model.clone(config=full))) > 0).any()


def test_tokens_are_those_of_the_tokenizer(data):
  of, batch = build.task(roots.read(config(targets=False))), batch_of(data)
  tokenizer = weights.load("shipped")
  rows = jax.jit(of.trained.tokens)(tokenizer.params, batch)
  codes = [tokenizer.encode(clip).reshape(-1) for clip in batch["frames"]]
  np.testing.assert_array_equal(rows[:, 1:], np.array(codes)[:, :TOKENS] + sequence.SPECIALS)
  params = jax.jit(of.inner.init)(jax.random.key(0)).params
  whole = {**batch, "tokens": rows}
  loss_BT, _ = jax.jit(of.inner.per_target)(params, whole)
  inputs = patched.Inputs(
    jnp.asarray(by_hand(batch["frames"])[:, :-1], jnp.float32), batch["start"]
  )
  apply = jax.jit(of.inner.model.apply)
  logits = np.asarray(apply({"params": params}, inputs))
  picked = np.take_along_axis(jax.nn.log_softmax(logits), np.asarray(rows)[:, 1:, None], -1)
  np.testing.assert_allclose(loss_BT, -picked[..., 0], rtol=1e-4)
  # In chunks it is the same.
  compute = dataclasses.replace(of.inner.model.compute, loss_chunk=16)
  model = of.inner.model.clone(compute=compute)
  chunked = jax.jit(model.apply)({"params": params}, inputs, rows[:, 1:])
  np.testing.assert_allclose(chunked, loss_BT, rtol=1e-5)


def test_larger_patches_have_the_tokens_of_smaller_frames():
  tokenizer = weights.load("shipped")
  rng = np.random.default_rng(0)
  small = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
  large = small.repeat(2, 1).repeat(2, 2)
  np.testing.assert_array_equal(build.smaller(large, 2), small)
  large = rng.integers(0, 256, (2, 64, 64, 3), np.uint8)
  mean = large.reshape(2, 32, 2, 32, 2, 3).mean((2, 4))
  assert np.abs(np.asarray(build.smaller(large, 2)) - mean).max() <= 0.5
  found = build.task(roots.read(config(targets=False, **{"patches.side_px": 16})))
  batch = {
    "frames": large[:, None].repeat(FRAMES, 1),
    "start": np.full(2, sequence.IMAGE_START, np.int32),
  }
  rows = jax.jit(found.trained.tokens)(tokenizer.params, batch)
  codes = tokenizer.encode(np.rint(mean).astype(np.uint8)).reshape(2, -1)
  np.testing.assert_array_equal(rows[:, 1:17], codes + sequence.SPECIALS)


@pytest.mark.parametrize("targets", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_it_trains_validates_and_goes_on(data, tmp_path, targets):
  c = config(data, targets=targets)
  workdir = epath.Path(tmp_path / "parts")
  if targets:
    assert not jobs.run(c, workdir, lambda step: step >= 1)
  assert jobs.run(c, workdir, NEVER)
  if targets:
    once = config(data, **{"data.validation": {}})
    assert jobs.run(once, epath.Path(tmp_path / "whole"), NEVER)
    runs.assert_same(runs.checkpoint(tmp_path / "whole", 2), runs.checkpoint(tmp_path / "parts", 2))
  rows = runs.metrics(tmp_path / "parts")
  evals = [row for row in rows if row["kind"] == "eval"]
  assert [row["moving/n"] for row in evals] == [5, 5]  # padding counts nothing
  # A new model knows nothing: 512 codes and 4 specials, or about variance 1.
  least = np.log(516) if not targets else 1.0
  assert evals[0]["moving/loss"] == pytest.approx(least, rel=0.1)
  assert evals[-1]["moving/loss"] < evals[0]["moving/loss"]
  with pytest.raises(ConfigError, match="a backbone is for models of tokens"):
    backbone.find(str(tmp_path / "parts"))


def test_features_are_those_of_whole_clips(data, tmp_path):
  """Also as files that a probe reads, beside another depth and another pool."""
  c = config(data, **{"data.validation": {}})
  run = tmp_path / "run"
  assert jobs.run(c, epath.Path(run), NEVER)
  frames, model = frames_of(data, 5), totojax.load(run)
  found = model.features(frames, layer=(0, 1), rows=4)
  assert found.shape == (2, 5, FRAMES, GRID, GRID, model.width)

  task = build.task(roots.read(c)).inner
  kept = runs.checkpoint(run, 2)
  shapes = jax.eval_shape(task.init, jax.random.key(0)).params
  named = dict(tree.named_leaves(shapes))
  path = lambda name: "".join(f"['{key}']" for key in name.split("/"))
  params = tree.map_named(lambda name, _: kept["['params']" + path(name)], shapes)
  assert len(named) == len(jax.tree.leaves(params))
  inputs = patched.Inputs(
    jnp.asarray(by_hand(frames), jnp.float32), np.full(5, sequence.VIDEO_START, np.int32)
  )
  spec = dataclasses.replace(task.spec, context=TOKENS + 1)
  sown = functools.partial(task.model.clone(spec=spec).apply, mutable=["intermediates"])
  _, seen = jax.jit(sown)({"params": params}, inputs)
  (stream_LBTD,) = seen["intermediates"]["blocks"]["residual"]
  first_BTD = stream_LBTD[0][:, 1:]
  np.testing.assert_allclose(found[1].reshape(first_BTD.shape), first_BTD, rtol=1e-4, atol=1e-5)
  # Means, and the control that the start and the order of patches matter.
  mean = model.features(frames, layer=1, pool="clip")
  np.testing.assert_allclose(mean, first_BTD.mean(1), rtol=1e-4, atol=1e-5)
  other = model.features(frames[:, ::-1], layer=1, pool="clip")
  assert np.abs(other - mean).max() > 1e-3
  with pytest.raises(ConfigError, match="reads patches of pixels; name|no tok"):
    totojax.load(run, tokenizer="shipped")


def test_short_rows_of_validation_have_no_weight(data):
  source = rows_lib.Source(
    "moving", store_lib.open_store(data / "val", tokenizer=None, vocab=None, grid=None), 1.0
  )
  task = build.task(roots.read(config())).inner
  found = heldout.validation(source, seq=task.spec, rows=0, batch=8, host=0, hosts=1, factor=SIDE)
  (batch,) = found
  assert batch["here"].tolist() == [FRAMES] * 5 + [0] * 3
  assert batch["frames"].shape == (8, FRAMES, 32, 32, 3)
  assert not batch["frames"][5:].any() and batch["frames"][:5].any()
  assert float(task.weights(batch)["mse"]) == found.targets == 5 * TOKENS


def test_layers_are_tapped_as_those_of_tokens(data):
  task, batch = build.task(roots.read(config())).inner, batch_of(data)
  params = jax.jit(task.init)(jax.random.key(0)).params
  inputs = patched.Inputs(
    jnp.asarray(by_hand(batch["frames"])[:, :-1], jnp.float32), batch["start"]
  )
  sown = functools.partial(task.model.apply, mutable=["intermediates"])
  _, kept = jax.jit(sown)({"params": params}, inputs)
  (stream_LBTD,) = kept["intermediates"]["blocks"]["residual"]
  model, cut = taps.truncate(task.model, params, 1)
  assert "head" not in cut and "norm" not in cut
  (found,) = taps.tap_layers(
    model, cut, inputs, tap=lambda x_BTD, _: x_BTD, layers=[1], per_layer=None
  )
  np.testing.assert_allclose(found, stream_LBTD[0], rtol=1e-5, atol=1e-6)


def test_mup_takes_patches_as_what_does_not_grow():
  of = build.task(roots.read(config(**{"mup.on": True, "mup.base_width": 8})))
  rules = dict(tree.named_leaves(of.inner.rules))
  for name in ("start", "patches", "patches_bias", "head_bias"):
    assert (rules[name].init, rules[name].lr) == (1.0, 1.0), name
  assert rules["head"].init == 0.0  # as an untied head of tokens
  assert rules["blocks/mlp/down"].lr == 0.25
  assert of.inner.model.scales.logits == 0.25


@pytest.mark.parametrize(
  "changes, told",
  [
    ({"patches.inputs": False}, "patches are predicted from patches"),
    ({"data.encode_with": "shipped"}, "encode_with is 'shipped'; with"),
    ({"patches.targets": False}, "encode_with is ''; with .*shipped"),
    (
      {"patches.targets": False, "data.encode_with": "shipped", "sequence.vocab": 60},
      "has 512 codes; sequence.vocab is 60",
    ),
    (
      {"patches.targets": False, "data.encode_with": "shipped", "patches.side_px": 12},
      "side_px is 12; a token .* is 8 pixels wide",
    ),
  ],
)
def test_what_does_not_fit_is_refused(changes, told):
  c = config(**changes)
  with pytest.raises(ConfigError, match=told):
    build.task(roots.read(c))


def test_old_configs_are_of_tokens():
  c = recipes.pretrain("tiny").to_dict()
  assert not roots.read(c).patches.inputs
  del c["patches"]
  assert not roots.read(c, fill=True).patches.inputs


@pytest.mark.slow
def test_a_probe_of_image_files_sees_their_patches(data, tmp_path):
  """Table 3's rows of patches: MAE's views of files, as the rows of tokens have them."""
  run, images = tmp_path / "run", classed.data()
  assert jobs.run(config(data, **{"data.validation": {}}), epath.Path(run), NEVER)
  flags = [w for w in classed.words(images) if "data.grid" not in w and "compute" not in w]
  flags += [f"--config.model_run={run}", "--config.data.encode_with=", "--config.layers=(1,2)"]
  flags += ["--config.optim.lr_rows=0", "--config.optim.warmup_epochs=0.0"]
  flags += ["--config.data.holdout_frac=0.2", "--config.train.epochs=1.0"]
  c = runs.load(runs.ROOT / "configs" / "probe_imagenet.py", *flags).to_dict()
  assert jobs.run(c, epath.Path(tmp_path / "probe"), NEVER)
  found = files.read_json(epath.Path(tmp_path / "probe" / "metrics.json"))
  assert found["trained/views"] == "new views"

  # The features of a batch are those that the model gives of the same images.
  of = probe_setup.prepare(roots.read(c))
  read = of.reads["validation"]([rows_lib.Row(0, (rows_lib.Draw(i, None),)) for i in range(8)])
  model, frozen = probe_job._load(of, "trained", 2)
  task = classify.Classify(
    head=of.subjects["trained"].head,
    model=model,
    layers=(1, 2),
    width=model.config.width,
    classes=3,
    settings=1,
    split=True,
    patches=of.run.patches,
  )
  pool = lambda x_BTD, visual_BT, _: heads.mean_over_tokens(x_BTD, visual_BT)
  ours = task._at_layers(frozen, read, pool, None)
  theirs = totojax.load(run).features(read["frames"][:, 0], layer=(1, 2), pool="clip", kind="image")
  np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
  words = [*flags, "--config.data.encode_with=shipped"]
  c = runs.load(runs.ROOT / "configs" / "probe_imagenet.py", *words).to_dict()
  with pytest.raises(ConfigError, match="no data.encode_with: .* reads patches of pixels"):
    probe_setup.prepare(roots.read(c))
