"""One update: the same for any microbatches and any mesh of eight devices."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

from totojax import defaults
from totojax import sequence
from totojax import sharding
from totojax import step as step_lib
from totojax import tree
from totojax.models import llama
from totojax.models import trunk
from totojax.optim import adamw
from totojax.tasks import api
from totojax.tasks import pretrain

SPEC = sequence.SequenceSpec(60, 2, 4, 16, False)
ROWS, STEPS = 16, 20
RULES = sharding.ShardingRules()
OPTIM = adamw.AdamWConfig(
    lr=1e-2, warmup_steps=4, end_lr_frac=0.1, b1=0.9, b2=0.95, eps=1e-8,
    weight_decay=0.1, clip_norm=1.0,
)  # fmt: skip
TASK = pretrain.Pretrain(
    trunk.Trunk(
        llama.LlamaConfig(**defaults.model("tiny").to_dict()),
        SPEC,
        trunk.Compute("float32", "blocked", "none", 1),
    )
)


def batch(step):
  """Rows with 1 to 16 visual targets, as the end of a data set has them."""
  rng = np.random.default_rng(step)
  tokens_BR = rng.integers(4, 64, (ROWS, SPEC.row_tokens))
  tokens_BR[:, 0] = sequence.VIDEO_START
  for row_R, visual in zip(tokens_BR, rng.permutation(ROWS) + 1):
    row_R[1 + visual :] = sequence.PAD
  return {
      "tokens": tokens_BR.astype(np.int32),
      "source": np.zeros(ROWS, np.int32),
  }


def compile_step(task, tx, rate, *, sizes, devices, microbatches, seed=7):
  """(fresh state, step function) of a task on a mesh."""
  mesh = sharding.make_mesh(
      sharding.MeshConfig(*sizes), jax.devices()[:devices]
  )
  placed, _ = step_lib.state_shardings(task, tx, mesh=mesh, rules=RULES)
  init = jax.jit(
      functools.partial(step_lib.init_state, task, tx), out_shardings=placed
  )
  step_fn = step_lib.jit_step(
      functools.partial(
          step_lib.train_step, task=task, tx=tx, rate=rate, seed=seed,
          microbatches=microbatches,
      ),
      shardings=placed, mesh=mesh, rules=RULES,
  )  # fmt: skip
  return lambda: init(jax.random.key(seed)), step_fn


@functools.cache
def compiled(sizes, microbatches):
  return compile_step(
      TASK,
      adamw.make(OPTIM, axes=TASK.axes().params, steps=STEPS),
      lambda state, update: adamw.learning_rate(
          OPTIM, state, update=update, steps=STEPS
      ),
      sizes=sizes, devices=int(np.prod(sizes)), microbatches=microbatches,
  )  # fmt: skip


@functools.cache
def run(sizes=(1, 1, 1), microbatches=1, steps=3):
  """(metrics of each step, parameters at the end), in numpy."""
  init, step_fn = compiled(sizes, microbatches)
  state, rows = init(), []
  for s in range(steps):
    state, metrics = step_fn(state, batch(s))
    rows.append({k: float(v) for k, v in metrics.items()})
  assert int(state.step) == steps
  return rows, jax.tree.map(np.asarray, state.params)


@functools.cache
def plain_sgd(microbatches):
  """Gradients of one batch: what a rate of 1 without momentum takes away."""
  init, step_fn = compile_step(
      TASK, optax.sgd(1.0), lambda state, update: jnp.float32(1.0),
      sizes=(1, 1, 1), devices=1, microbatches=microbatches,
  )  # fmt: skip
  before = jax.tree.map(np.asarray, init().params)
  state, _ = step_fn(init(), batch(0))
  return jax.tree.map(lambda a, b: a - np.asarray(b), before, state.params)


def distance(a, b):
  """Norm of the difference over the norm of `b`, the worst of the leaves."""
  worst = 0.0
  for (name, x), (_, y) in zip(tree.named_leaves(a), tree.named_leaves(b)):
    assert x.shape == y.shape, name
    worst = max(worst, float(np.linalg.norm(x - y) / np.linalg.norm(y)))
  return worst


@functools.cache
def reference():
  """Parameters at the start and jitted (loss, gradient), without `step`."""
  params = jax.tree.map(np.asarray, compiled((1, 1, 1), 1)[0]().params)

  def mean(params, tokens_BR, parts):
    nll_BT, visual_BT = TASK.nll(params, tokens_BR)
    nll_BT = jnp.where(visual_BT, nll_BT, 0.0)
    shape = (-1, parts, SPEC.context)  # row r is in part r % parts
    sums = nll_BT.reshape(shape).sum((0, 2))
    counts = visual_BT.reshape(shape).sum((0, 2))
    return jnp.mean(sums / counts)

  return params, jax.jit(jax.value_and_grad(mean), static_argnums=2)


@pytest.mark.parametrize("microbatches", [2, 4])
def test_microbatches_change_no_gradient(microbatches):
  whole = plain_sgd(1)
  assert distance(plain_sgd(microbatches), whole) < 1e-5
  params, grad_of = reference()
  tokens = batch(0)["tokens"]
  assert distance(grad_of(params, tokens, 1)[1], whole) < 1e-5
  # Control: a mean of the microbatches' means weighs the rows differently.
  assert distance(grad_of(params, tokens, microbatches)[1], whole) > 1e-2


def test_microbatches_change_no_run():
  (rows, params), (rows_4, params_4) = run(), run(microbatches=4)
  for row, row_4 in zip(rows, rows_4):
    assert row_4 == pytest.approx(row, rel=1e-5)
  assert distance(params_4, params) < 1e-4


MESHES = [(8, 1, 1), (1, 8, 1), (1, 4, 2), (2, 2, 2)]


@pytest.mark.parametrize("sizes", MESHES)
def test_every_mesh_makes_the_same_run(sizes):
  (rows, params), (rows_8, params_8) = run(), run(sizes)
  for row, row_8 in zip(rows, rows_8):
    assert row_8 == pytest.approx(row, rel=1e-5)
  assert distance(params_8, params) < 1e-4
  # Control: one update less is much further away.
  assert distance(run(steps=2)[1], params) > 1e-2


def test_parameters_and_moments_lie_where_the_rules_say():
  state = compiled((1, 4, 2), 1)[0]()
  # [128, 32]: the vocabulary in halves over tensor, the width in quarters.
  moments = state.opt_state.inner_state[1]
  for leaf in (state.params["embedding"], moments.mu["embedding"]):
    assert leaf.shape == (128, 32)
    assert {s.data.shape for s in leaf.addressable_shards} == {(64, 8)}
    assert len({str(s.index) for s in leaf.addressable_shards}) == 8
  assert state.params["norm"]["scale"].sharding.is_fully_replicated


def test_microbatches_on_a_mesh():
  init, step_fn = compiled((2, 2, 2), 2)
  _, metrics = step_fn(init(), batch(0))
  found = {k: float(v) for k, v in metrics.items()}
  assert found == pytest.approx(run()[0][0], rel=1e-5)


def test_the_same_mesh_twice_is_bit_equal():
  rows, params = run((2, 2, 2))
  again, params_again = run.__wrapped__((2, 2, 2))
  assert rows == again
  jax.tree.map(np.testing.assert_array_equal, params, params_again)


def test_metrics_of_an_update_describe_it():
  rows, _ = run()
  start, grad_of = reference()
  for s in (1, 2):  # the update's number
    before = start if s == 1 else run(steps=s - 1)[1]
    after = run(steps=s)[1]
    loss, grads = grad_of(before, batch(s - 1)["tokens"], 1)
    assert rows[s - 1]["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert rows[s - 1]["nll"] == rows[s - 1]["loss"]
    norm = float(optax.global_norm(grads))
    assert rows[s - 1]["grad_norm"] == pytest.approx(norm, rel=1e-4)
    norm = float(optax.global_norm(after))
    assert rows[s - 1]["param_norm"] == pytest.approx(norm, rel=1e-5)
    assert rows[s - 1]["lr"] == pytest.approx(OPTIM.lr * s / 4)


def test_the_logged_rate_moved_the_parameters():
  """Rows of the embedding that nothing reads or predicts only decay."""
  start, _ = reference()
  init, step_fn = compiled((1, 1, 1), 1)
  state = init()
  unseen = 100  # a row that pads the vocabulary
  for s in range(3):
    before = np.asarray(state.params["embedding"][unseen])
    state, metrics = step_fn(state, batch(s))
    after = np.asarray(state.params["embedding"][unseen])
    used = (1 - after / before) / OPTIM.weight_decay
    np.testing.assert_allclose(used, float(metrics["lr"]), rtol=1e-2)


def test_the_old_state_is_donated():
  init, step_fn = compiled((1, 1, 1), 1)
  old = init()
  step_fn(old, batch(0))
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old.params))


class Toy:
  """Two terms, a random draw, stats and a metric: all that a task can have."""

  def batch_spec(self, batch):
    return {"x": jax.ShapeDtypeStruct((batch,), jnp.float32)}

  def axes(self):
    return api.Variables({"w": P(None)}, {"scale": P()}, {"rows": P()})

  def init(self, key):
    del key
    return api.Variables(
        {"w": jnp.ones(1)}, {"scale": jnp.float32(2.0)}, {"rows": jnp.zeros(())}
    )

  def weights(self, batch):
    return {"a": jnp.float32(batch["x"].size), "b": jnp.sum(batch["x"])}

  def loss(self, params, rest, batch, *, step, key):
    assert rest.params is None
    x = batch["x"]
    terms = {
        "a": api.LossTerm(rest.frozen["scale"] * params["w"][0] * x.sum(), 1.0),
        "b": api.LossTerm(params["w"][0] ** 2 * x.sum(), step + 0.5),
    }
    one = jnp.float32(1)
    metrics = {
        "x": api.Weighted(x.sum(), jnp.float32(x.size)),
        "draw": api.Weighted(jax.random.normal(key), one),
        "step_seen": api.Weighted(step.astype(jnp.float32), one),
    }
    return terms, {"rows": rest.stats["rows"] + x.size}, metrics


@pytest.mark.parametrize("microbatches", [1, 2, 4])
def test_a_task_with_everything(microbatches):
  init, step_fn = compile_step(
      Toy(), optax.sgd(0.1), lambda state, update: 0.1 * update,
      sizes=(1, 1, 1), devices=1, microbatches=microbatches, seed=3,
  )  # fmt: skip
  x = np.arange(8, dtype=np.float32)
  state, w, draws = init(), 1.0, []
  for s in range(3):
    state, row = step_fn(state, {"x": x})
    # Term a: 2 w mean(x), coefficient 1. Term b: w^2, coefficient s + 0.5.
    assert float(row["a"]) == pytest.approx(2 * w * 3.5)
    assert float(row["b"]) == pytest.approx(w**2)
    assert float(row["loss"]) == pytest.approx(7 * w + (s + 0.5) * w**2)
    gradient = 7 + (s + 0.5) * 2 * w
    assert float(row["grad_norm"]) == pytest.approx(abs(gradient))
    w -= 0.1 * gradient
    assert float(row["param_norm"]) == pytest.approx(abs(w))
    assert float(row["x"]) == pytest.approx(3.5)
    assert float(row["step_seen"]) == s  # updates applied before this one
    assert float(row["lr"]) == pytest.approx(0.1 * (s + 1))
    assert float(state.stats["rows"]) == 8 * (s + 1)
    assert float(state.frozen["scale"]) == 2.0
    key = jax.random.fold_in(jax.random.key(3), s)
    expected = [
        float(jax.random.normal(jax.random.fold_in(key, i)))
        for i in range(microbatches)
    ]
    assert float(row["draw"]) == pytest.approx(np.mean(expected), rel=1e-5)
    draws += expected
  assert len(set(draws)) == 3 * microbatches
