"""One update: the same for any microbatches and any mesh of eight devices."""

import dataclasses
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

from totojax import checkpoint, sequence, sharding, step as step_lib, tasks, tree
from totojax.config import recipes
from totojax.models import attention, llama, platform, splash, trunk
from totojax.optim import adamw
from totojax.tasks import pretrain

SPEC = sequence.SequenceSpec(60, 2, 4, 16, False)
ROWS, STEPS = 16, 20
RULES = sharding.ShardingRules()
OPTIM = adamw.AdamWConfig(
  lr=1e-2,
  warmup_steps=4,
  end_lr_frac=0.1,
  b1=0.9,
  b2=0.95,
  eps=1e-8,
  weight_decay=0.1,
  clip_norm=1.0,
  mu_dtype="float32",
)
TASK = pretrain.Pretrain(
  trunk.Trunk(
    llama.LlamaConfig(**recipes.model("tiny").to_dict()),
    SPEC,
    trunk.Compute("float32", "blocked", "none", 1, 0, platform.CPU),
  )
)


def batch(step):
  """Rows with 1 to 16 visual targets, as the end of a data set has them."""
  rng = np.random.default_rng(step)
  tokens_BR = rng.integers(4, 64, (ROWS, SPEC.row_tokens))
  tokens_BR[:, 0] = sequence.VIDEO_START
  for row_R, visual in zip(tokens_BR, rng.permutation(ROWS) + 1):
    row_R[1 + visual :] = sequence.PAD
  return {"tokens": tokens_BR.astype(np.int32), "source": np.zeros(ROWS, np.int32)}


def compile_step(task, tx, rate, *, sizes, microbatches, seed):
  """(shardings of the state, step function) of a task on a mesh."""
  devices = jax.devices()[: int(np.prod(sizes))]
  layout = sharding.Layout(sharding.make_mesh(sharding.MeshConfig(*sizes, 1), devices))
  placed, _ = step_lib.state_shardings(task, tx, layout)
  step_fn = functools.partial(
    step_lib.train_step, task=task, tx=tx, rate=rate, seed=seed, microbatches=microbatches
  )
  return placed, step_lib.jit_step(step_fn, shardings=placed, layout=layout)


TX = adamw.make(OPTIM, axes=TASK.axes().params, steps=STEPS)


@functools.cache
def compiled(sizes, microbatches):
  return compile_step(
    TASK,
    TX,
    lambda state, update: adamw.learning_rate(OPTIM, state, update=update, steps=STEPS),
    sizes=sizes,
    microbatches=microbatches,
    seed=7,
  )


def make_state(placed):
  init = functools.partial(step_lib.init_state, TASK, TX)
  return jax.jit(init, out_shardings=placed)(jax.random.key(7))


@functools.cache
def start():
  """The fresh state, in numpy."""
  return jax.tree.map(np.asarray, make_state(compiled((1, 1, 1), 1)[0]))


@functools.cache
def states(sizes=(1, 1, 1), microbatches=1):
  """Metrics of three steps, and the state after each, in numpy."""
  placed, step_fn = compiled(sizes, microbatches)
  state, rows, after = jax.device_put(start(), placed), [], [start()]
  for s in range(3):
    state, metrics = step_fn(state, batch(s))
    rows.append({k: float(v) for k, v in metrics.items()})
    after.append(jax.tree.map(np.asarray, state))
    assert after[-1].step == s + 1
  return rows, after


def distance(a, b):
  """Norm of the difference over the norm of `b`, the worst of the leaves."""
  worst = 0.0
  for (name, x), (_, y) in zip(tree.named_leaves(a), tree.named_leaves(b)):
    assert x.shape == y.shape, name
    worst = max(worst, float(np.linalg.norm(x - y) / np.linalg.norm(y)))
  return worst


@functools.cache
def reference():
  """(params, tokens, parts) -> (loss, gradient), without `step`: the mean over
  parts (row r is in part r % parts) of the mean over each part's targets."""

  @jax.jit
  @jax.value_and_grad
  def mean(params, tokens_BR, parts):
    nll_BT, visual_BT = TASK.nll(params, tokens_BR)
    mine_PB1 = (jnp.arange(ROWS) % parts == jnp.arange(4)[:, None])[..., None]
    counted_PBT = mine_PB1 & visual_BT
    sums_P = jnp.where(counted_PBT, nll_BT, 0.0).sum((1, 2))
    counts_P = jnp.maximum(counted_PBT.sum((1, 2)), 1)
    return jnp.sum(sums_P / counts_P) / parts

  return lambda params, tokens, parts: mean(params, tokens, jnp.int32(parts))


def gradient(microbatches):
  """Up to a factor: the first moment after one update."""
  return states(microbatches=microbatches)[1][1].opt_state.inner_state[1].mu


def direction(x):
  norm = float(optax.tree.norm(x))
  return jax.tree.map(lambda leaf: np.asarray(leaf) / norm, x)


@pytest.mark.parametrize("microbatches", [2, 4])
def test_microbatches_change_no_gradient(microbatches):
  found = gradient(microbatches)
  assert distance(found, gradient(1)) < 1e-5
  grad_of, tokens = reference(), batch(0)["tokens"]
  _, expected = grad_of(start().params, tokens, 1)
  assert distance(direction(found), direction(expected)) < 1e-5
  # Control: a mean of the microbatches' means weighs the rows differently.
  _, other = grad_of(start().params, tokens, microbatches)
  assert distance(direction(other), direction(expected)) > 1e-2


@pytest.mark.parametrize("microbatches", [2, 4])
def test_microbatches_change_no_run(microbatches):
  assert_same_run(states(microbatches=microbatches), states())


def assert_same_run(found, expected):
  for row, row_expected in zip(found[0], expected[0]):
    assert row == pytest.approx(row_expected, rel=1e-5)
  assert distance(found[1][3].params, expected[1][3].params) < 1e-4
  # Control: one update less is much further away.
  assert distance(found[1][2].params, expected[1][3].params) > 1e-2


# The last with microbatches as well.
MESHES = [((8, 1, 1), 1), ((1, 8, 1), 1), ((1, 4, 2), 1), ((2, 2, 2), 2)]


@pytest.mark.parametrize("sizes, microbatches", MESHES)
def test_every_mesh_makes_the_same_run(sizes, microbatches):
  assert_same_run(states(sizes, microbatches), states())


def test_a_mesh_starts_with_the_same_state_in_its_places():
  state = make_state(compiled((1, 4, 2), 1)[0])
  jax.tree.map(np.testing.assert_array_equal, state, start())
  # [128, 32]: the vocabulary in halves over tensor, the width in quarters.
  moments = state.opt_state.inner_state[1]
  for leaf in (state.params["embedding"], moments.mu["embedding"]):
    assert leaf.shape == (128, 32)
    assert {s.data.shape for s in leaf.addressable_shards} == {(64, 8)}
    assert len({str(s.index) for s in leaf.addressable_shards}) == 8
  assert state.params["norm"]["scale"].sharding.is_fully_replicated


def test_the_same_mesh_twice_is_bit_equal():
  rows, after = states((2, 2, 2), 2)
  again, after_again = states.__wrapped__((2, 2, 2), 2)
  assert rows == again
  jax.tree.map(np.testing.assert_array_equal, after, after_again)


def test_metrics_of_an_update_describe_it():
  rows, after = states()
  for s in (1, 2, 3):  # the update's number
    row, before = rows[s - 1], after[s - 1].params
    loss, grads = reference()(before, batch(s - 1)["tokens"], 1)
    assert row["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert row["nll"] == row["loss"]
    norm = float(optax.tree.norm(grads))
    assert row["grad_norm"] == pytest.approx(norm, rel=1e-4)
    norm = float(optax.tree.norm(after[s].params))
    assert row["param_norm"] == pytest.approx(norm, rel=1e-5)
    assert row["lr"] == pytest.approx(OPTIM.lr * s / 4)


def test_the_logged_rate_moved_the_parameters():
  """Rows of the embedding that nothing reads or predicts only decay."""
  rows, after = states()
  unseen = 100  # a row that pads the vocabulary
  for s in (1, 2, 3):
    a, b = (after[i].params["embedding"][unseen] for i in (s - 1, s))
    used = np.median((1 - b / a) / OPTIM.weight_decay)
    np.testing.assert_allclose(used, rows[s - 1]["lr"], rtol=1e-3)


def test_the_old_state_is_donated():
  placed, step_fn = compiled((1, 1, 1), 1)
  old = jax.device_put(start(), placed)
  step_fn(old, batch(0))
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old.params))


def test_what_the_compiler_of_a_cpu_does_not_know_is_not_told(monkeypatch):
  asked = step_lib.compiler_options.__wrapped__
  assert asked("gpu") is None
  options = asked("cpu")
  product = jax.jit(lambda x: x @ x, compiler_options=options)
  if options is not None:  # else a jaxlib without the option, which has to do without
    assert "ynn" not in product.lower(jnp.ones((256, 256))).compile().as_text().lower()
  monkeypatch.setitem(step_lib._OPTIONS, "cpu", {"xla_cpu_no_such_option": True})
  assert asked("cpu") is None
  monkeypatch.setitem(step_lib._OPTIONS, "tpu", {"xla_cpu_no_such_option": True})
  assert asked("tpu")  # there is none here to ask


def test_activations_are_constrained_to_the_mesh():
  seen = {}

  class Constrained(Toy):
    def loss(self, params, rest, batch, *, step, key):
      whole_BX = jnp.ones((8, 4)) * params["w"]
      split_BX = nn.with_logical_constraint(whole_BX, ("batch", None))
      for name, x in (("whole", whole_BX), ("split", split_BX)):
        jax.debug.inspect_array_sharding(
          x, callback=lambda found, name=name: seen.update({name: found})
        )
      terms, *more = super().loss(params, rest, batch, step=step, key=key)
      term = tasks.LossTerm(terms["a"].sum + jnp.sum(jnp.sin(split_BX)), 1.0)
      return {**terms, "a": term}, *more

  tx = optax.sgd(0.1)
  placed, step_fn = compile_step(
    Constrained(), tx, lambda state, update: 0.1, sizes=(2, 4, 1), microbatches=1, seed=3
  )
  fresh = step_lib.init_state(Toy(), tx, jax.random.key(0))
  x = np.arange(8, dtype=np.float32)
  step_fn(jax.device_put(fresh, placed), {"x": x})
  assert seen["split"].shard_shape((8, 4)) == (1, 4)


class Toy:
  """Two terms, a random draw, stats and a metric: all that a task can have."""

  def batch_spec(self, batch):
    return {"x": jax.ShapeDtypeStruct((batch,), jnp.float32)}

  def axes(self):
    return tasks.Variables({"w": P(None)}, {"scale": P()}, {"rows": P()})

  def init(self, key):
    del key
    return tasks.Variables({"w": jnp.ones(1)}, {"scale": jnp.float32(2.0)}, {"rows": jnp.zeros(())})

  def weights(self, batch):
    return {"a": jnp.float32(batch["x"].size), "b": jnp.sum(batch["x"])}

  def loss(self, params, rest, batch, *, step, key):
    assert rest.params is None
    x = batch["x"]
    terms = {
      "a": tasks.LossTerm(rest.frozen["scale"] * params["w"][0] * x.sum(), 1.0),
      "b": tasks.LossTerm(params["w"][0] ** 2 * x.sum(), step + 0.5),
    }
    one = jnp.float32(1)
    metrics = {
      "x": tasks.Weighted(x.sum(), jnp.float32(x.size)),
      "draw": tasks.Weighted(jax.random.normal(key), one),
      "step_seen": tasks.Weighted(step.astype(jnp.float32), one),
    }
    return terms, {"rows": rest.stats["rows"] + x.size}, metrics


@pytest.mark.parametrize("microbatches", [1, 2, 4])
def test_a_task_with_everything(microbatches):
  tx = optax.sgd(0.1)
  placed, step_fn = compile_step(
    Toy(),
    tx,
    lambda state, update: 0.1 * update,
    sizes=(1, 1, 1),
    microbatches=microbatches,
    seed=3,
  )
  x = np.arange(8, dtype=np.float32)
  fresh = step_lib.init_state(Toy(), tx, jax.random.key(0))
  state, w, draws = jax.device_put(fresh, placed), 1.0, []
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
    expected = [float(jax.random.normal(jax.random.fold_in(key, i))) for i in range(microbatches)]
    assert float(row["draw"]) == pytest.approx(np.mean(expected), rel=1e-5)
    draws += expected
  assert len(set(draws)) == 3 * microbatches


def test_first_moments_in_bfloat16_are_split_saved_and_checked(tmp_path):
  def adam(dtype):
    config = dataclasses.replace(OPTIM, mu_dtype=dtype)
    return adamw.make(config, axes=TASK.axes().params, steps=STEPS)

  mesh = sharding.make_mesh(sharding.MeshConfig(1, 4, 2, 1))
  (placed, shapes), (_, wide) = (
    step_lib.state_shardings(TASK, adam(dtype), sharding.Layout(mesh))
    for dtype in ("bfloat16", "float32")
  )
  mu = placed.opt_state.inner_state[1].mu
  assert mu == placed.params  # moments lie with their parameters
  state = jax.jit(
    functools.partial(step_lib.init_state, TASK, adam("bfloat16")), out_shardings=placed
  )(jax.random.key(0))
  keeper = checkpoint.Checkpoints(tmp_path, checkpoint.CheckpointConfig(keep=1, keep_every_steps=0))
  keeper.save(1, state, {})
  keeper.wait()
  back, _ = keeper.restore(shapes, placed)
  for found, wanted in zip(jax.tree.leaves(back["opt_state"]), jax.tree.leaves(state.opt_state)):
    assert found.dtype == wanted.dtype and found.sharding == wanted.sharding
    np.testing.assert_array_equal(found, wanted)
  # Another type is refused, not cast.
  with pytest.raises(checkpoint.CheckpointError, match=r"mu.*bfloat16\["):
    keeper.restore(wide, placed)
  keeper.close()


def of_split_sequences(size, chunk=0):
  """(loss, gradients) with the tokens split over so many devices."""
  spec = sequence.SequenceSpec(60, 4, 4, 64, False)
  task = pretrain.Pretrain(
    trunk.Trunk(
      llama.LlamaConfig(**recipes.model("tiny").to_dict() | {"depth": 1}),
      spec,
      trunk.Compute("float32", "blocked", "none", 1, chunk, platform.CPU),
    )
  )
  ways = 2 if size == 4 else 1
  mesh = sharding.make_mesh(sharding.MeshConfig(1, ways, 1, size), jax.devices()[: ways * size])
  tokens_BR = np.random.default_rng(0).integers(4, 64, (4, spec.row_tokens))

  @jax.jit
  def both(params, tokens_BR):
    with nn.logical_axis_rules(RULES.flax_rules()):
      return jax.value_and_grad(lambda params: jnp.sum(task.nll(params, tokens_BR)[0]))(params)

  params = jax.device_get(jax.jit(task.init)(jax.random.key(0)).params)
  # Fresh queries and keys are so small that nobody would miss their order.
  blocks = params["blocks"]["attention"]
  blocks |= {name: 5 * blocks[name] for name in ("query", "key")}
  with jax.set_mesh(mesh):
    rows = jax.device_put(tokens_BR.astype(np.int32), sharding.Layout(mesh).by_row)
    return jax.device_get(both(params, rows))


def test_split_sequences_have_the_same_loss_and_gradients(monkeypatch):
  whole, of_whole = of_split_sequences(1)

  def apart(size, chunk=0):
    found, gradients = of_split_sequences(size, chunk)
    away = [abs(found / whole - 1)]
    for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(of_whole)):
      away.append(np.linalg.norm(a - b) / np.linalg.norm(b))
    return max(away)

  assert apart(2) < 1e-5
  assert apart(4, chunk=16) < 1e-5
  # Control: queries that do not know where they stand give something else.
  monkeypatch.setattr(jax.lax, "axis_index", lambda axis: 0)
  assert apart(2) > 1e-3


def test_lengths_that_do_not_divide_over_devices_are_refused():
  x = jnp.zeros((2, 30, 1, 4))
  mesh = sharding.make_mesh(sharding.MeshConfig(1, 2, 1, 4))
  with jax.set_mesh(mesh), nn.logical_axis_rules(RULES.flax_rules()):
    with pytest.raises(ValueError, match="30 tokens .* mesh.sequence 4"):
      attention.attend(x, x, x, segments_BT=None, implementation="blocked")
    x = jnp.zeros((2, 32, 1, 4))
    with pytest.raises(ValueError, match="cudnn attention takes no tokens"):
      attention.attend(x, x, x, segments_BT=None, implementation="cudnn")
    with pytest.raises(ValueError, match="8 tokens of the 32 on each device"):
      attention.attend(x, x, x, segments_BT=None, implementation="splash")


@pytest.mark.parametrize("segmented", [False, True])
def test_the_kernel_knows_where_its_queries_stand(segmented):
  """The kernel for TPUs, without one, on tokens split over four devices."""
  keys = jax.random.split(jax.random.key(0), 4)
  q, k, v, g = (jax.random.normal(key, (2, 512, 1, 8)) for key in keys)
  segments = None
  if segmented:
    segments = jnp.tile(jnp.arange(512)[None] // 200, (2, 1))

  def both(attend):
    mixed, pull = jax.vjp(functools.partial(attend, segments_BT=segments, scale=0.4), q, k, v)
    return mixed, *pull(g)

  plain = functools.partial(attention.attend, implementation="xla")
  expected = jax.jit(lambda: both(plain))()
  mesh = sharding.make_mesh(sharding.MeshConfig(1, 2, 1, 4))
  ours = functools.partial(splash.attend, interpret=True)
  with jax.set_mesh(mesh), nn.logical_axis_rules(RULES.flax_rules()):
    found = jax.jit(lambda: both(ours))()
  for a, b in zip(found, expected):
    size = np.abs(np.asarray(b)).max()
    np.testing.assert_allclose(a / size, b / size, atol=2e-5)
