"""LARS and MAE's schedule against goldens; heads of a grid train alone."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
import test_heads

from totojax.models import heads
from totojax.optim import lars

GOLDEN = runs.ROOT / "tests" / "golden"
CONFIG = lars.GridConfig(
  name="lars",
  lrs=(0.1,),
  weight_decays=(1e-4,),
  lr_rows=0,
  warmup_epochs=0.0,
  end_lr_frac=1.0,
  end_decay_frac=1.0,
  momentum=0.9,
  trust=0.001,
  b1=0.9,
  b2=0.999,
  eps=1e-8,
  clip_norm=0.0,
)


def changed(**values):
  return dataclasses.replace(CONFIG, **values)


def descend(tx, params, grads):
  """Parameters after each update."""
  state, seen = tx.init(params), []
  for g in grads:
    updates, state = jax.jit(tx.update)(g, state, params)
    params = optax.apply_updates(params, updates)
    seen.append(params)
  return seen


def test_lars_is_the_reference():
  golden = np.load(GOLDEN / "lars.npz")
  # Axes [layers, settings]; dimensions above these tell matrices from biases.
  lift = lambda x: jnp.asarray(x)[None, None]
  params = {"w": lift(golden["p0"]), "b": lift(golden["b0"])}
  grads = [{"w": lift(w), "b": lift(b)} for w, b in zip(golden["gp"], golden["gb"])]
  tx = lars.grid(CONFIG, batch_rows=1, steps=100, warmup_steps=0)
  seen = descend(tx, params, grads)
  for i, now in enumerate(seen):
    np.testing.assert_allclose(now["w"][0, 0], golden["p"][i], rtol=1e-6)
    np.testing.assert_allclose(now["b"][0, 0], golden["b"][i], rtol=1e-5, atol=1e-7)
  # Control: with trust ratios on biases too the bias would hardly move.
  moved = abs(golden["b"][-1] - golden["b0"]).max()
  assert moved > 100 * abs(golden["p"][-1] - golden["p0"]).max()


def test_the_schedule_is_mae_s():
  golden = json.loads((GOLDEN / "mae_schedules.json").read_text())
  args, per_epoch = golden["args"], 100
  for epoch, lr in golden["lr"]:
    schedule = lars.Schedule(
      warmup_steps=args["warmup_epochs"] * per_epoch,
      end_lr_frac=args["min_lr"] / args["lr"],
      steps=args["epochs"] * per_epoch,
    )
    rate = schedule(epoch * per_epoch + 1)  # the first update is made at epoch 0
    assert args["lr"] * float(rate) == pytest.approx(lr, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("pool", ["attention", "cross"])
def test_decay_is_v_jepa_s(pool):
  """By name and dimensions, as its code has them: matrices and queries, no bias, no norm."""
  config = heads.HeadConfig(pool=pool, heads=2)
  params = heads.init(config, jax.random.key(0), width=4, classes=3)
  mask = lars._matrices(params)
  decayed = {"linear", "key", "value", "query", "project", "up", "down"}
  assert mask == {name: name in decayed for name in params}
  tx = lars.one_head(changed(name="adamw"), lr=1.0, weight_decay=0.5)
  none = jax.tree.map(jnp.zeros_like, params)
  params = jax.tree.map(jnp.ones_like, params)
  changes, _ = tx.update(none, tx.init(params), params)
  for name, change in changes.items():
    np.testing.assert_allclose(change, -0.5 * (name in decayed), err_msg=name)


def random_tree(seed, shape=(2, 3)):
  rng = np.random.default_rng(seed)
  draw = lambda *s: jnp.asarray(rng.normal(size=s), jnp.float32)
  return {"w": draw(*shape, 4, 5), "b": draw(*shape, 5)}


@pytest.mark.parametrize("name", ["lars", "adamw"])
def test_every_head_trains_as_if_alone(name):
  """Clipping, trust ratios and moments of one head do not see another."""
  config = changed(
    name=name,
    lrs=(0.1, 1.0, 0.3),
    weight_decays=(0.01,),
    clip_norm=2.0,
    end_lr_frac=0.1,
    end_decay_frac=0.5,
  )
  params, grads = random_tree(0), [random_tree(s) for s in (1, 2, 3)]
  tx = lars.grid(config, batch_rows=1, steps=10, warmup_steps=2)
  together = descend(tx, params, grads)[-1]
  for layer in range(2):
    for s, lr in enumerate(config.lrs):
      one = lambda tree: jax.tree.map(lambda x: x[layer : layer + 1, s : s + 1], tree)
      alone = descend(
        lars.grid(dataclasses.replace(config, lrs=(lr,)), batch_rows=1, steps=10, warmup_steps=2),
        one(params),
        [one(g) for g in grads],
      )[-1]
      for key in alone:
        np.testing.assert_allclose(together[key][layer, s], alone[key][0, 0], rtol=1e-5)
  # Control: the settings differ.
  assert not np.allclose(together["w"][:, 0], together["w"][:, 1], rtol=1e-3)


def test_a_head_that_diverges_stays_as_it_was():
  config = changed(name="adamw", lrs=(0.1, 1e4), weight_decays=(3.0,))
  params, grads = random_tree(0, (2, 2)), [random_tree(s, (2, 2)) for s in range(1, 9)]
  grads[2]["w"] = grads[2]["w"].at[1, 0, 0, 0].set(jnp.nan)
  tx = lars.grid(config, batch_rows=1, steps=100, warmup_steps=0)
  seen, state, now = [params], tx.init(params), params
  for g in grads:
    updates, state = jax.jit(tx.update)(g, state, now)
    now = optax.apply_updates(now, updates)
    seen.append(now)
  # Too fast a rate, and a gradient that is no number.
  np.testing.assert_array_equal(lars.diverged(state), [[False, True], [True, True]])
  np.testing.assert_array_equal(now["w"][1, 0], seen[2]["w"][1, 0])
  assert all(np.isfinite(optax.tree.norm(p)) for p in seen)
  alone = lars.grid(
    changed(name="adamw", weight_decays=(3.0,)), batch_rows=1, steps=100, warmup_steps=0
  )
  first = lambda tree: jax.tree.map(lambda x: x[:1, :1], tree)
  np.testing.assert_allclose(
    now["w"][:1, :1], descend(alone, first(params), [first(g) for g in grads])[-1]["w"], rtol=1e-5
  )
  # The control: by hand, decay alone would take it beyond all reason.
  assert abs((1 - 1e4 * 3.0) ** len(grads)) > 1e30


def test_adamw_is_optax_s_with_a_decay_that_falls():
  config = changed(name="adamw", lrs=(0.1,), weight_decays=(0.5,), end_decay_frac=0.0)
  params, grads = random_tree(0, (1, 1)), [random_tree(1, (1, 1))] * 3
  tx = lars.grid(config, batch_rows=1, steps=4, warmup_steps=0)
  found = descend(tx, params, grads)[-1]
  decays = [0.5 * 0.5 * (1 + np.cos(np.pi * u / 4)) for u in range(3)]
  expected = jax.tree.map(lambda x: x[0, 0], params)
  adam = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)
  state = adam.init(expected)
  for g, decay in zip(grads, decays):
    update, state = adam.update(jax.tree.map(lambda x: x[0, 0], g), state)
    expected = {
      "w": expected["w"] - 0.1 * (update["w"] + decay * expected["w"]),
      "b": expected["b"] - 0.1 * update["b"],
    }
  for key in expected:
    np.testing.assert_allclose(found[key][0, 0], expected[key], rtol=1e-5)


def test_the_rate_follows_the_batch():
  config = changed(lrs=(0.1, 0.2), weight_decays=(0.0, 1.0), lr_rows=256)
  assert config.settings == [(0.1, 0.0), (0.1, 1.0), (0.2, 0.0), (0.2, 1.0)]
  tx = lars.grid(config, batch_rows=1024, steps=10, warmup_steps=0)
  state = tx.init(random_tree(0, (2, 4)))
  np.testing.assert_allclose(state.hyperparams["peak_lr"], [0.4, 0.4, 0.8, 0.8], rtol=1e-6)
  rate = lars.highest_rate(config, steps=10, warmup_steps=0)
  assert float(rate(state, 1)) == pytest.approx(0.8)


@pytest.mark.parametrize(
  "values, told",
  [
    (dict(name="sgd"), "optim.name is 'sgd'; use 'lars' or 'adamw'"),
    (dict(lrs=()), r"optim.lrs is \(\); name one or more"),
    (dict(weight_decays=(-1.0,)), r"is \(-1.0,\); it must be at least 0"),
  ],
)
def test_what_does_not_fit_is_refused(values, told):
  with pytest.raises(ValueError, match=told):
    changed(**values)


def test_a_warmup_as_long_as_the_run_is_refused():
  with pytest.raises(ValueError, match="not below the run's 10; shorten"):
    lars.grid(CONFIG, batch_rows=1, steps=10, warmup_steps=10)


def test_rates_and_decays_are_v_jepa_2_s():
  golden = np.load(runs.ROOT / "tests" / "golden" / "vjepa2_schedules.npz")
  ref, start, last, warm, steps, decay, end = golden["sched_args"]
  c = dataclasses.replace(
    lars.GridConfig(), name="adamw", schedule="vjepa2", start_lr=start, end_decay_frac=end / decay
  )
  schedule = lars.Schedule(int(steps), warm, last / ref)
  update = np.arange(1, 1 + int(steps))
  found = lars.of_head(c, schedule, update, jnp.float32(ref), jnp.float32(decay))
  np.testing.assert_allclose(found[0], golden["lr"], rtol=1e-4, atol=1e-10)
  np.testing.assert_allclose(found[1], golden["wd"], rtol=1e-4, atol=1e-10)
  c = dataclasses.replace(c, start_lr=0.0, end_decay_frac=1.0)
  rate, _ = lars.of_head(c, lars.Schedule(100, 0, 0.0), np.arange(1, 101), 3e-3, 0.4)
  np.testing.assert_allclose(rate, golden["lr_nowarm"], rtol=1e-4, atol=1e-9)
  mae, _ = lars.of_head(
    dataclasses.replace(c, schedule="mae"), lars.Schedule(100, 0, 0.0), np.arange(1, 101), 3e-3, 0.4
  )
  assert abs(mae - golden["lr_nowarm"]).max() > 1e-5  # control: a step apart


def test_decay_on_everything_is_v_jepa_2_s_update():
  """AdamW, one group: biases, norms and the query too."""
  golden = dict(np.load(runs.ROOT / "tests" / "golden" / "probe4_tiny.npz"))
  before = test_heads.vjepa2(golden)
  c = dataclasses.replace(lars.GridConfig(), name="adamw", decay_all=True)
  names = {"query": "pooler.query_tokens", "bias": "linear.bias"}
  for name, theirs in names.items():
    gradient = {name: jnp.asarray(golden[f"grad/{theirs}"]).reshape(before[name].shape)}
    tx = lars.one_head(c, 3e-3, 0.4)
    own = {name: before[name]}
    changes, _ = tx.update(gradient, tx.init(own), own)
    after = optax.apply_updates(own, changes)[name]
    np.testing.assert_allclose(
      after, golden[f"adamw/{theirs}"].reshape(after.shape), rtol=1e-4, atol=1e-6
    )
