"""Muon and schedule-free AdamW: what they do to which parameters, in µP and in a run."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
from optax import contrib
import pytest
import runs
import stores
import test_mup

from totojax.config import roots
from totojax.config.training import AdamWConfig
from totojax.jobs import coordinates
from totojax.jobs.sweep import expand
from totojax.optim import adamw, muon, mup, schedule_free

PLAIN = AdamWConfig(lr=0.1, warmup_steps=0, end_lr_frac=1.0, weight_decay=0.0, clip_norm=1e9)
MUON = dataclasses.replace(PLAIN, name="muon")
FREE = dataclasses.replace(PLAIN, name="schedule_free", warmup_steps=3, b2=0.99)
AXES = {
  "query": P("layers", "embed", "heads", "head_dim"),
  "out": P("layers", "heads", "head_dim", "embed"),
  "down": P("layers", "mlp", "embed"),
  "embedding": P("vocab", "embed"),
  "bias": P("layers", "heads", "bias"),
  "readout": P("layers", "mlp", "state"),
  "scale": P("layers", "norm"),
}
SHAPES = {
  **dict(query=(2, 8, 2, 3), out=(2, 2, 3, 8), down=(2, 12, 8), embedding=(20, 8)),
  **dict(bias=(2, 2, 3), readout=(2, 12, 4), scale=(2, 8)),
}
MATRICES = {"query": (8, 6), "out": (6, 8), "down": (12, 8)}  # inputs and outputs


def normal(seed):
  rng = np.random.default_rng(seed)
  return {name: jnp.asarray(rng.normal(size=size), jnp.float32) for name, size in SHAPES.items()}


def moved(config, rules=None):
  """The first update of a gradient, and the gradient."""
  tx = adamw.make(config, axes=AXES, steps=8, rules=rules)
  grads, params = normal(0), normal(1)
  updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
  return updates, grads


def test_matrices_move_by_orthogonal_updates_and_all_else_by_adamw():
  (updates, grads), (plain, _) = moved(MUON), moved(PLAIN)
  for name, (inputs, outputs) in MATRICES.items():
    for layer in range(2):  # each by itself
      left, _, right = np.linalg.svd(
        grads[name][layer].reshape(inputs, outputs), full_matrices=False
      )
      update = np.asarray(updates[name][layer]).reshape(inputs, outputs)
      # Of the gradient's own singular vectors, each of about one.
      inner = left.T @ update @ right.T / (-PLAIN.lr * 0.2 * outputs**0.5)
      assert (np.diag(inner) > 0.6).all() and (np.diag(inner) < 1.25).all(), name
      off = inner - np.diag(np.diag(inner))
      np.testing.assert_allclose(off, 0, atol=2e-3)
    assert not np.allclose(updates[name], plain[name], rtol=0.1)
  for name in AXES.keys() - MATRICES.keys():
    np.testing.assert_array_equal(updates[name], plain[name], err_msg=name)
  # Negative control: a gradient's own singular values are far from equal.
  values = np.linalg.svd(grads["down"][0], compute_uv=False)
  assert values.max() / values.min() > 3


def test_mup_divides_by_the_root_of_what_adamw_is_divided_by():
  growth = {"embed": 4.0, "heads": 1.0, "head_dim": 4.0, "mlp": 8.0}
  section = dataclasses.replace(roots.read(test_mup.small_check()).pretrain.mup, on=True)
  rules = mup.Parametrisation(section, growth, 2, 0.02).rules(AXES)
  wide, _ = moved(MUON, rules)
  base, _ = moved(MUON)
  expected = dict(query=4.0, out=4.0, down=8.0)
  for name, grown in expected.items():
    np.testing.assert_allclose(wide[name], base[name] * grown**-0.5, rtol=1e-5)
  found = muon.rules(rules, AXES)
  for name in AXES:  # rate x decay keeps its size
    assert found[name].lr * found[name].decay == pytest.approx(1.0)
    assert (found[name] == rules[name]) == (name not in MATRICES), name


@pytest.mark.slow
def test_activations_keep_their_size_with_muon_and_mup():
  """The coordinate check; without µP's rules for it they grow."""
  config = roots.read(test_mup.small_check())

  def growth(kind, **optim):
    ends = []
    for _, sizes in expand.narrow_first(config.coord_check.models):
      case = expand.changed(config.pretrain, kind=kind, model=sizes, lr=2.0**-7, seed=0)
      case = dataclasses.replace(case, optim=dataclasses.replace(case.optim, **optim))
      ends.append(coordinates.measure(case, rows=4, updates=4)[-1])
    return {key: ends[1][key] / ends[0][key] for key in ("residual", "logits")}

  found = growth("muon")
  assert all(0.5 < ratio < 2.0 for ratio in found.values()), found
  control = growth("standard", name="muon")
  assert max(control.values()) > 2.5, control


def free_steps(config, start, gradient, *, steps, at=schedule_free.gradient_at):
  """The average after so many updates, as `step.train_step` makes them."""
  tx = adamw.make(config, axes={"w": P("embed", "mlp")}, steps=steps)

  @jax.jit
  def update(params, state):
    changes, state = tx.update(gradient(at(state, params)), state, params)
    return optax.apply_updates(params, changes), state

  params, state = start, tx.init(start)
  for _ in range(steps):
    params, state = update(params, state)
  return params


def test_schedule_free_is_optaxs_and_its_parameters_are_the_average():
  """optax alone keeps y, and gives the average when it is asked."""
  start = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)}
  scale = jnp.linspace(0.1, 3.0, 12).reshape(3, 4)
  gradient = lambda params: {"w": scale * params["w"]}
  rate = lambda count: FREE.lr * jnp.minimum(count / 3, 1.0)
  adam = optax.scale_by_adam(b1=0.0, b2=FREE.b2)
  base = optax.chain(adam, optax.scale_by_schedule(lambda count: -rate(count + 1)))
  tx = contrib.schedule_free(base, rate, b1=FREE.b1)
  params, state = start, tx.init(start)
  for _ in range(20):
    updates, state = jax.jit(tx.update)(gradient(params), state, params)
    params = optax.apply_updates(params, updates)
  expected = contrib.schedule_free_eval_params(state, params)["w"]
  found = free_steps(FREE, start, gradient, steps=20)["w"]
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
  # Controls: the average is not where the gradient is taken, nor may it be.
  assert not np.allclose(found, params["w"], rtol=1e-2)
  other = free_steps(FREE, start, gradient, steps=20, at=lambda state, params: params)["w"]
  assert not np.allclose(other, expected, rtol=1e-2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return stores.pair(tmp_path_factory.mktemp("stores"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["muon", "schedule_free"])
def test_a_run_goes_on_bit_for_bit(data, tmp_path, name):
  words = runs.smoke(data, tmp_path, f"--config.optim.name={name}", "--config.optim.warmup_steps=2")
  words += ["--config.train.total_tokens=1024.0", "--config.every.checkpoint_steps=3"]
  runs.here(words)
  whole, rows = runs.checkpoint(tmp_path, 8), runs.metrics(tmp_path)
  (tmp_path / "done.json").unlink()
  shutil.rmtree(tmp_path / "checkpoints" / "8")
  assert "resumed at step 6 of 8" in runs.here(words)
  runs.assert_same(runs.checkpoint(tmp_path, 8), whole)
  if name == "schedule_free":
    rates = [row["lr"] for row in rows if row["kind"] == "train"]
    assert rates[1:] == [rates[1]] * 7 and rates[0] == rates[1] / 2
