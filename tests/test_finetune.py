"""Fine-tuning: mixing and drop path by brute force, and what it learns."""

import csv
import dataclasses
import json

import classed
from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
import test_configs
import test_features

from totojax import jobs, tasks
from totojax.config import recipes, roots
from totojax.jobs.labels import job
from totojax.models import layers, taps
from totojax.tasks import finetune, mix, pretrain

CLASSES, SIDE = 5, 8


def config(**changes):
  return mix.MixConfig(
    **{**dict(mixup=0.8, cutmix=1.0, share=1.0, switch=0.5, smoothing=0.1), **changes}
  )


def batch(rows=4):
  rng = np.random.default_rng(0)
  shape = (rows, 1, SIDE, SIDE, 3)
  frames = rng.integers(0, 256, shape).astype(np.uint8)
  return frames, np.arange(rows, dtype=np.int32) % CLASSES


def draws(c, count, rows=4):
  """(frames [K, B, ..], targets [K, B, C]) of many keys."""
  frames, labels = batch(rows)
  one = lambda key: mix.mixed(c, key, jnp.asarray(frames), labels, CLASSES)
  keys = jax.random.split(jax.random.key(0), count)
  return [np.asarray(x) for x in jax.jit(jax.vmap(one))(keys)]


def shares(c, targets):
  """Each draw's share of its own row, read off the target of row 0."""
  off, on = c.smoothing / CLASSES, 1 - c.smoothing + c.smoothing / CLASSES
  return (targets[:, 0, 0] - off) / (on - off)


def test_targets_and_pixels_are_mixed_in_the_same_shares():
  c = config()
  frames, labels = batch()
  found, targets = draws(c, 400)
  share = shares(c, targets)
  hot = np.full((4, CLASSES), 0.1 / CLASSES) + 0.9 * np.eye(CLASSES)[labels]
  np.testing.assert_allclose(targets.sum(-1), 1.0, rtol=1e-5)
  boxes = 0
  for image, target, s in zip(found, targets, share):
    np.testing.assert_allclose(target, s * hot + (1 - s) * hot[::-1], atol=1e-5)
    own, other = (image == frames).all(-1), (image == frames[::-1]).all(-1)
    if (own | other).all():  # a box of each row is the other's
      boxes += 1
      assert np.mean(~own) == pytest.approx(1 - s, abs=1e-6)
      assert (own == own[:1]).all()
      where = ~own[0, 0]
      rows, columns = where.any(1), where.any(0)
      np.testing.assert_array_equal(where, rows[:, None] & columns[None])
    else:
      blend = s * frames + (1 - s) * frames[::-1].astype(float)
      np.testing.assert_allclose(image, blend, atol=0.51)
  assert 0.4 < boxes / 400 < 0.6


@pytest.mark.parametrize("alpha", [0.8, 0.2])
def test_shares_of_mixup_are_beta(alpha):
  c = config(mixup=alpha, cutmix=0.0, smoothing=0.0)
  share = shares(c, draws(c, 1500)[1])
  assert np.mean(share) == pytest.approx(0.5, abs=0.03)
  assert np.var(share) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_boxes_are_cut_at_the_border():
  found = jax.jit(jax.vmap(lambda k: mix.box(k, 32, jnp.float32(0.75))))(
    jax.random.split(jax.random.key(0), 500)
  )
  sizes = np.asarray(found).sum((1, 2))
  assert sizes.max() == 16 * 16 and sizes.min() < 150
  assert (np.asarray(found).mean(0) > 0.02).all()  # everywhere
  # A centre is anywhere: the chance of a whole box is (17 / 32)^2.
  assert np.mean(sizes == 256) == pytest.approx((17 / 32) ** 2, abs=0.07)


def test_what_is_not_mixed_is_left_alone():
  frames, labels = batch(3)
  for c in (config(share=0.0), config(mixup=0.0, cutmix=0.0)):
    found, targets = draws(c, 3, rows=3)
    np.testing.assert_array_equal(found[1], frames)
    np.testing.assert_allclose(targets[0].max(1), 0.92, rtol=1e-6)
    assert (targets[0].argmax(1) == labels).all()
  # An odd batch: the middle row meets itself.
  found, _ = draws(config(), 3, rows=3)
  np.testing.assert_array_equal(found[:, 1], np.stack([frames[1]] * 3))


def test_paths_are_dropped_row_by_row_and_more_with_depth():
  kept = np.asarray(layers.kept_paths(jax.random.key(0), rows=4000, depth=5, drop=0.4))
  assert kept.shape == (5, 2, 4000)
  np.testing.assert_allclose(
    np.mean(kept == 0, -1), np.linspace(0, 0.4, 5)[:, None] * [1, 1], atol=0.03
  )
  np.testing.assert_allclose(kept.mean(-1), 1.0, atol=0.05)
  together = np.mean((kept[4, 0] == 0) & (kept[4, 1] == 0))
  assert together == pytest.approx(0.16, abs=0.03)  # branches apart


def test_a_dropped_branch_is_not_there():
  model = test_features.make(depth=2)
  inputs = jnp.asarray(np.random.default_rng(0).integers(4, 60, (3, 9)))
  params = test_features.params_of(model)
  at = lambda kept: np.asarray(
    jax.jit(lambda k: taps.residual(model, params, inputs, kept_L2B=k))(kept)
  )
  whole = at(None)
  kept = np.ones((2, 2, 3), np.float32)
  np.testing.assert_allclose(at(kept), whole, rtol=1e-5, atol=1e-6)
  kept[:, :, 1] = 0.0  # the second row skips everything
  found = at(kept)
  np.testing.assert_allclose(found[[0, 2]], whole[[0, 2]], rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(found[1], params["embedding"][inputs[1]])
  # H_depth of the frozen pass, which is tested by itself.
  frozen = taps.tap_layers(model, params, inputs, tap=lambda x, _: x, layers=[2], per_layer=None)
  np.testing.assert_allclose(whole, frozen[0], rtol=1e-5, atol=1e-6)


def test_gradients_do_not_depend_on_what_is_kept_for_them():
  """Through every block, whatever `compute.remat` recomputes."""
  model = test_features.make(depth=2)
  params = test_features.params_of(model)
  params = {name: params[name] for name in ("embedding", "blocks")}
  inputs = jnp.asarray(np.random.default_rng(0).integers(4, 60, (2, 9)))
  kept = layers.kept_paths(jax.random.key(1), rows=2, depth=2, drop=0.5)

  def grads(remat):
    one = model.clone(compute=dataclasses.replace(model.compute, remat=remat, unroll=1))
    return jax.jit(
      jax.grad(lambda p: jnp.sum(jnp.sin(taps.residual(one, p, inputs, kept_L2B=kept))))
    )(params)

  plain = grads("none")
  for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(grads("full"))):
    assert abs(a).max() > 0
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def task(prefix, *, drop=0.0):
  causal = test_features.make(depth=2)
  model = causal.clone(config=dataclasses.replace(causal.config, prefix_tokens=prefix))
  return finetune.FineTune(
    pretrain.Pretrain(causal), model, finetune.FineTuneConfig(drop, 0.02, 1e-6), classes=CLASSES
  )


def test_the_mask_is_the_configs_and_evaluation_drops_nothing():
  row = np.random.default_rng(0).integers(4, 60, (2, 14)).astype(np.int32)
  row[:, 0] = 3
  found = {}
  for prefix in (0, 5, -1):
    one = task(prefix, drop=0.5)
    params = jax.jit(one.init)(jax.random.key(0)).params
    loud = {**params["heads"], "linear": 50 * params["heads"]["linear"]}
    params = {**params, "heads": loud}
    logits = jax.jit(lambda p: one.logits(p, row, key=None))
    found[prefix] = np.asarray(logits(params))
  evaluated, dropped = jax.jit(
    lambda p: (
      one.outcomes(tasks.Variables(p, {}, {}), {"tokens": row}, measure=lambda x: x),
      one.logits(p, row, key=jax.random.key(1)),
    )
  )(params)
  np.testing.assert_allclose(evaluated[0, 0], found[-1], rtol=1e-5)
  assert abs(dropped - found[-1]).max() > 1e-3
  for a, b in ((0, 5), (5, -1), (0, -1)):
    assert abs(found[a] - found[b]).max() > 1e-3, (a, b)


def test_positions_are_added_to_tokens():
  """Tokens that come once each: what is added to a place may be added to its token."""
  plain = task(-1)
  placed = finetune.FineTune(
    plain.backbone, plain.model, dataclasses.replace(plain.config, positions=True), classes=CLASSES
  )
  row = np.array([[3, *range(10, 22), 0]] * 2, np.int32)
  params = jax.jit(plain.init)(jax.random.key(0)).params
  fresh = jax.jit(placed.init)(jax.random.key(0)).params
  assert jax.tree.structure(fresh) == jax.tree.structure(placed.axes().params)
  logits = lambda one, p: np.asarray(jax.jit(lambda p: one.logits(p, row, key=None))(p))
  np.testing.assert_array_equal(logits(placed, fresh), logits(plain, params))  # zeros at first
  positions = fresh["backbone"]["positions"]
  moved = 0.1 * jax.random.normal(jax.random.key(2), positions.shape)
  there = {**fresh, "backbone": {**fresh["backbone"], "positions": moved}}
  table = params["backbone"]["embedding"].at[row[0, :-1]].add(moved)
  wanted = logits(plain, {**params, "backbone": {**params["backbone"], "embedding": table}})
  found = logits(placed, there)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-9)
  assert abs(found - logits(plain, params)).max() > 1e-2 * abs(found).max()


@pytest.fixture(name="data")
def _data():
  return classed.data()


def words(data):
  """As the docstring of the config has it, in small."""
  return classed.words(
    data,
    "--config.optim.lr=6e-3",
    "--config.optim.lr_rows=0",
    "--config.optim.layer_decay=0.9",
    "--config.mix.mixup=0.0",
    "--config.mix.cutmix=0.2",
    "--config.mix.share=0.3",
    "--config.view.operations=1",
    "--config.view.magnitude=3.0",
    "--config.optim.warmup_epochs=2.0",
    "--config.head.head_init_std=0.02",
    "--config.every.log_steps=10",
    "--config.every.checkpoint_steps=20",
  )


def test_stripes_are_told_apart_and_a_stopped_run_is_the_same(data):
  path = runs.ROOT / "configs" / "finetune_imagenet.py"
  c = test_configs.load(path, *words(data)).to_dict()
  workdir = epath.Path(data["root"] / "tuned")
  assert jobs.run(c, workdir, classed.NEVER)
  found = json.loads((workdir / "metrics.json").read_text())
  assert found["n"] == 12 and found["classes"] == 3
  assert found["finetuned/chosen_on_validation/top1"] > 0.8
  assert found["paper/top1"] == pytest.approx(0.826)
  with open(workdir / "predictions.csv") as file:
    rows = list(csv.DictReader(file))
  right = np.mean([r["label"] == r["predicted"] for r in rows])
  assert right == found["finetuned/chosen_on_validation/top1"]
  classed.goes_on(c, workdir)


@pytest.mark.parametrize(
  "sections, told",
  [
    (
      dict(data=dict(source="tokens", root="", encode_with="", train="x", validation="y")),
      "x/manifest.json does no",
    ),
    (dict(optim=dict(head_lr_mults=(1.0, 2.0))), "has one head"),
    (dict(head=dict(drop_path=1.0)), "head.drop_path is 1.0"),
    (dict(mix=dict(switch=2.0)), "mix.switch is 2.0; it must be at l"),
    (dict(data=dict(encode_with="")), "needs data.root, .*data.encode"),
    (dict(data=dict(val_frac=0.0)), "name a folder that is held out"),
    (dict(data=dict(source="zip")), "data.source is 'zip'; use 'tokens'"),
    (dict(data=dict(classes=7)), "data.classes is 7; the stores name 3"),
    (dict(data=dict(holdout_frac=0.01)), "holds none out; raise it"),
    (dict(view=dict(erase=2.0)), "view.erase is 2.0"),
    (dict(model=dict(prefix_tokens=-2)), "prefix_tokens is -2"),
  ],
)
def test_a_config_that_does_not_fit_is_refused(data, sections, told):
  c = classed.small(recipes.finetune(data["model"]), data["images"], **sections)
  with pytest.raises(ValueError, match=told):
    job.finetune_training(job.prepare(roots.read(c)))
