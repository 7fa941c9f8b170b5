"""AdamW: the schedule and the updates by hand, and what is decayed."""

import dataclasses
import functools
import math

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest
import runs

from totojax import sequence, tree
from totojax.config import recipes
from totojax.models import llama, patched, platform, trunk
from totojax.optim import adamw
from totojax.tasks import patches as patches_task, pretrain
from totojax.tokenizers import dvae, patches

CONFIG = adamw.AdamWConfig(
  lr=0.02,
  warmup_steps=4,
  end_lr_frac=0.1,
  b1=0.9,
  b2=0.95,
  eps=1e-8,
  weight_decay=0.3,
  clip_norm=1.0,
  mu_dtype="float32",
)
STEPS = 12
AXES = {"w": P("embed", "mlp"), "scale": P("layers", "norm")}


def change(**values) -> adamw.AdamWConfig:
  return dataclasses.replace(CONFIG, **values)


def rates(config=CONFIG, steps=STEPS):
  """The rate of update 1 to `steps`, as the schedule gives them."""
  updates = jnp.arange(1, steps + 1)
  relative = adamw.relative_rate(
    updates, warmup_steps=config.warmup_steps, end_lr_frac=config.end_lr_frac, steps=steps
  )
  return config.lr * np.asarray(relative)


def rate_by_hand(update, config=CONFIG, steps=STEPS):
  if update < config.warmup_steps:
    return config.lr * update / config.warmup_steps
  done = (update - config.warmup_steps) / (steps - config.warmup_steps)
  end = config.lr * config.end_lr_frac
  return end + (config.lr - end) * (1 + math.cos(math.pi * done)) / 2


def test_schedule_at_its_corners():
  found = rates()
  assert found[0] == pytest.approx(0.02 / 4)
  assert found[3] == pytest.approx(0.02)  # the peak, at update `warmup_steps`
  assert found[7] == pytest.approx((0.02 + 0.002) / 2)  # half-way down
  assert found[-1] == pytest.approx(0.002)  # the last update
  assert found[:4].tolist() == sorted(found[:4])
  assert found[3:].tolist() == sorted(found[3:], reverse=True)
  by_hand = [rate_by_hand(s) for s in range(1, STEPS + 1)]
  np.testing.assert_allclose(found, by_hand, rtol=1e-5)


def test_schedule_without_warmup_and_past_the_end():
  found = rates(change(warmup_steps=0), steps=4)
  by_hand = [rate_by_hand(s, change(warmup_steps=0), 4) for s in range(1, 5)]
  np.testing.assert_allclose(found, by_hand, rtol=1e-5)
  assert found[-1] == pytest.approx(0.002)
  later = adamw.relative_rate(99, warmup_steps=4, end_lr_frac=0.1, steps=12)
  assert float(later) == pytest.approx(0.1)


def wsd(decay_frac, end_lr_frac=0.0, steps=20):
  """The rates that the log tells of a run with warm-up, stable part and decay."""
  config = change(schedule="wsd", decay_frac=decay_frac, end_lr_frac=end_lr_frac)
  state = adamw.make(config, axes=AXES, steps=steps).init({"w": jnp.ones((2, 2))} | {"scale": 1.0})
  updates = range(1, steps + 1)
  told = [adamw.learning_rate(config, state, update=s, steps=steps) for s in updates]
  return np.asarray(told) / config.lr


def test_warm_up_stable_and_decay():
  """1 - sqrt over the last fifth (Hägele et al., 2024), to the end that is asked for."""
  by_hand = [s / 4 for s in (1, 2, 3)] + [1.0] * 13
  by_hand += [1 - (1 - 0.1) * math.sqrt(done / 4) for done in (1, 2, 3, 4)]
  np.testing.assert_allclose(wsd(0.2, end_lr_frac=0.1), by_hand, rtol=1e-6)
  np.testing.assert_allclose(wsd(0.2)[-2:], [1 - math.sqrt(3 / 4), 0.0], atol=1e-6)
  # Of no decay it stays; and up to a decay, runs of any length are alike bit for bit.
  assert wsd(0.0)[3:].tolist() == [wsd(0.0)[3]] * 17
  assert wsd(0.2)[:16].tolist() == wsd(0.0, 0.1, steps=40)[:16].tolist()
  assert not np.allclose(wsd(0.2), rates(change(end_lr_frac=0.0), 20) / CONFIG.lr)
  with pytest.raises(ValueError, match="warmup_steps 4 is more than the 2 of 20 updates"):
    wsd(0.9)


def test_the_papers_schedule():
  """1M tokens an update, 10^12 tokens, peak 3e-4 after 2,000 updates."""
  config = adamw.AdamWConfig(**recipes.optim().to_dict())
  found = rates(config, steps=953_674)
  assert found[0] == pytest.approx(3e-4 / 2000)
  assert found[1999] == pytest.approx(3e-4) == found.max()
  assert found[-1] == pytest.approx(3e-5)


def model_axes(tied=True):
  shape = llama.LlamaConfig(**recipes.model("tiny").to_dict() | {"tied": tied})
  spec = sequence.SequenceSpec(60, 2, 4, 16, False)
  compute = trunk.Compute("float32", "blocked", "none", 1, 0, platform.CPU)
  return pretrain.Pretrain(trunk.Trunk(shape, spec, compute)).axes().params


def test_decay_mask_of_the_model():
  mask = dict(tree.named_leaves(adamw.decay_mask(model_axes(tied=False))))
  assert mask == {
    "blocks/attention/key": True,
    "blocks/attention/out": True,
    "blocks/attention/query": True,
    "blocks/attention/value": True,
    "blocks/attention_norm/scale": False,  # two-dimensional, once stacked
    "blocks/mlp/down": True,
    "blocks/mlp/gate": True,
    "blocks/mlp/up": True,
    "blocks/mlp_norm/scale": False,
    "embedding": True,
    "head": True,
    "norm/scale": False,
  }


def test_patches_are_decayed_as_tokens_are():
  """Table 3's rows differ in what they read, not in what is decayed."""
  shape = llama.LlamaConfig(**recipes.model("tiny").to_dict())
  spec = sequence.SequenceSpec(60, 2, 4, 16, False)
  compute = trunk.Compute("float32", "blocked", "none", 1, 0, platform.CPU)
  tokens = dict(tree.named_leaves(adamw.decay_mask(model_axes(tied=False))))
  names, size = ("start", "patches", "head"), patches.PatchesConfig(side_px=2, eps=1e-6)
  for decayed in (False, True):  # the first is how it was before there was a key
    model = patched.PatchTrunk(shape, spec, compute, values=12, decayed=decayed)
    axes = patches_task.Patches(model, size).axes().params
    mask = dict(tree.named_leaves(adamw.decay_mask(axes)))
    assert {name: mask[name] for name in names} == dict.fromkeys(names, decayed)
    assert not mask["patches_bias"] and not mask["head_bias"]
  assert tokens["embedding"] and tokens["head"]
  for row in ("patch", "patch_dvae16"):
    config = runs.load(f"{runs.ROOT / 'configs' / 'paper' / 'table3.py'}:{row}")
    assert config.stages.pretrain.patches.decay


def test_decay_mask_of_the_tokenizer():
  size = dvae.DvaeConfig(vocab=8, hidden=4, groups=2, blocks=1, decoder_init=4, post_gain=1.0)
  boxed = jax.eval_shape(lambda: dvae.init(size, jax.random.key(0)))
  mask = adamw.decay_mask(nn.get_partition_spec(boxed))
  kinds = {}
  for name, decayed in tree.named_leaves(mask):
    kinds.setdefault(name.split("/")[-1], set()).add(decayed)
  assert kinds == {"w": {True}, "b": {False}}


def problem():
  rng = np.random.default_rng(0)
  shapes = {"w": (3, 2), "scale": (2, 3)}
  params = {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
  grads = [
    {k: (scale * rng.normal(size=s)).astype(np.float32) for k, s in shapes.items()}
    for scale in (3.0, 1e-2, 1.0, 0.2, 10.0, 0.1)
  ]
  return params, grads


@functools.partial(jax.jit, static_argnums=0)
def update(config, state, params, grads):
  tx = adamw.make(config, axes=AXES, steps=STEPS)
  updates, state = tx.update(grads, state, params)
  return state, optax.apply_updates(params, updates)


def fresh(config, params):
  return adamw.make(config, axes=AXES, steps=STEPS).init(params)


def bfloat16(x):
  return np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64)


def by_hand(params, grads, config, decayed=("w",), kept=lambda moment: moment):
  """Loshchilov and Hutter's AdamW in float64, clipped by the global norm.

  `kept` is what the first moment is from one update to the next.
  """
  p = {k: v.astype(np.float64) for k, v in params.items()}
  m = {k: np.zeros_like(v) for k, v in p.items()}
  v = {k: np.zeros_like(x) for k, x in p.items()}
  for t, g in enumerate(grads, 1):
    norm = math.sqrt(sum(np.sum(x.astype(float) ** 2) for x in g.values()))
    scale = min(1.0, config.clip_norm / norm)
    rate = rate_by_hand(t, config)
    for k in p:
      gk = g[k].astype(np.float64) * scale
      m[k] = config.b1 * m[k] + (1 - config.b1) * gk
      v[k] = config.b2 * v[k] + (1 - config.b2) * gk**2
      m_hat = m[k] / (1 - config.b1**t)
      v_hat = v[k] / (1 - config.b2**t)
      step = m_hat / (np.sqrt(v_hat) + config.eps)
      if k in decayed:
        step = step + config.weight_decay * p[k]
      p[k] = p[k] - rate * step
      m[k] = kept(m[k])
  return p


def run(config, params, grads):
  state = fresh(config, params)
  for g in grads:
    state, params = update(config, state, params, g)
  return params


def close(a, b):
  return all(np.allclose(a[k], b[k], rtol=2e-5, atol=0) for k in b)


def test_updates_by_hand():
  params, grads = problem()
  found = run(CONFIG, params, grads)
  expected = by_hand(params, grads, CONFIG)
  for name in expected:
    np.testing.assert_allclose(found[name], expected[name], rtol=2e-5)
  # Controls: each part of the rule is seen by this comparison.
  assert not close(found, by_hand(params, grads, change(weight_decay=0.0)))
  assert not close(found, by_hand(params, grads, change(clip_norm=1e9)))
  assert not close(found, by_hand(params, grads, change(b2=0.999)))
  assert not close(found, by_hand(params, grads, change(warmup_steps=3)))
  assert not close(found, by_hand(params, grads, CONFIG, ("w", "scale")))


@pytest.mark.parametrize(
  "name, value, field", [("peak_lr", 0.007, "lr"), ("weight_decay", 2.0, None)]
)
def test_rate_and_decay_live_in_the_state(name, value, field):
  """A sweep changes them there: it is the update of that other config."""
  params, grads = problem()
  state = fresh(CONFIG, params)
  assert set(state.hyperparams) == {"peak_lr", "weight_decay"}
  assert float(state.hyperparams[name]) == pytest.approx(getattr(CONFIG, field or name))
  state.hyperparams[name] = jnp.float32(value)
  moved = params
  for g in grads:
    state, moved = update(CONFIG, state, moved, g)
  assert float(state.hyperparams[name]) == pytest.approx(value)  # it stays
  expected = by_hand(params, grads, change(**{field or name: value}))
  for key in expected:
    np.testing.assert_allclose(moved[key], expected[key], rtol=2e-5)
  assert not close(moved, by_hand(params, grads, CONFIG))


def test_the_rate_that_is_told_is_the_one_used():
  """From the change of the parameters: Adam's step is sign(g) for a constant
  gradient, so the change is the rate."""
  config = change(weight_decay=0.0, clip_norm=1e9)
  params = {"w": np.zeros((3, 2), np.float32), "scale": np.zeros((2, 3))}
  params = jax.tree.map(jnp.float32, params)
  grads = jax.tree.map(jnp.ones_like, params)
  state = fresh(config, params)
  for s in range(1, STEPS + 1):
    state, moved = update(config, state, params, grads)
    used = float(params["w"][0, 0] - moved["w"][0, 0])
    told = adamw.learning_rate(config, state, update=s, steps=STEPS)
    assert used == pytest.approx(float(told), rel=1e-4), s
    params = moved


def test_a_warmup_as_long_as_the_run_is_refused():
  with pytest.raises(ValueError, match="warmup_steps 12 is not below .* 12 up"):
    adamw.make(change(warmup_steps=12), axes=AXES, steps=12)


def test_runs_of_more_updates_than_an_int32_have_a_rate():
  rate = adamw.relative_rate(2**31 // 2, warmup_steps=2000, end_lr_frac=0.1, steps=2**32)
  expected = 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi / 4))
  np.testing.assert_allclose(rate, expected, rtol=1e-4)


def first_moments(state):
  return state.inner_state[1].mu


def test_first_moments_in_bfloat16():
  config = change(mu_dtype="bfloat16")
  params, grads = problem()
  small, wide = (first_moments(fresh(config, params)), first_moments(fresh(CONFIG, params)))
  for name, leaf in small.items():
    assert (leaf.dtype, 2 * leaf.nbytes) == (jnp.bfloat16, wide[name].nbytes)
  state, _ = update(config, fresh(config, params), params, grads[0])
  dtype = lambda array: array.dtype
  assert jax.tree.map(dtype, state) == jax.tree.map(dtype, fresh(config, params))
  # One update does not know in what its moment is kept.
  once = run(config, params, grads[:1])
  assert close(once, by_hand(params, grads[:1], CONFIG))
  rounded = run(config, params, grads)
  # (To 2e-5: a b1 rounded to bfloat16 would be seen.)
  assert close(rounded, by_hand(params, grads, config, kept=bfloat16))
  # Control: later ones do.
  assert not close(rounded, by_hand(params, grads, CONFIG))
  with pytest.raises(ValueError, match="optim.mu_dtype is 'float16'; use"):
    change(mu_dtype="float16")
