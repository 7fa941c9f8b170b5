"""One update: gradients over microbatches, optimiser, metrics.

Step convention: `state.step` is the number of updates applied. The metrics of
update s describe update s: the loss before it was applied, the rate it used.
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import optax

from totojax import sharding, tasks

Metrics = Mapping[str, jax.Array]

_OPTIONS: Mapping[str, dict[str, Any]] = {
  # Gathers of small shards as gathers: the compiler would fill a whole array
  # with zeros around each shard and add them all up.
  "tpu": {"xla_tpu_prefer_async_allgather_to_allreduce": True},
  # Products by Eigen: YNNPACK's, the default, take up to half as long again.
  "cpu": {"xla_cpu_experimental_ynn_fusion_type": ""},
}


@functools.cache
def compiler_options(platform: str) -> dict[str, Any] | None:
  """What the compiler is told of a step; None: nothing, as of a CPU's option that it has not."""
  options = _OPTIONS.get(platform)
  if platform == "cpu":
    cpu = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    try:
      jax.jit(lambda: 0, out_shardings=cpu, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
      return None
  return options


class TrainState(struct.PyTreeNode):
  """Everything that an update changes, and the frozen arrays it reads.

  The fields hold arrays, or in a tree of the same form their shardings or
  shapes.
  """

  step: Any  # int32 []
  params: Any
  frozen: Any
  stats: Any
  opt_state: Any


def init_state(task: tasks.Task, tx: optax.GradientTransformation, key: jax.Array) -> TrainState:
  """A fresh state; jit it with `state_shardings` to make it in place."""
  variables = task.init(key)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=variables.params,
    frozen=variables.frozen,
    stats=variables.stats,
    opt_state=tx.init(variables.params),
  )


def state_shardings(
  task: tasks.Task,
  tx: optax.GradientTransformation,
  layout: sharding.Layout,
  make: Callable[[jax.Array], TrainState] | None = None,
) -> tuple[TrainState, TrainState]:
  """(shardings, shapes) of the state.

  Moments lie with their parameters, so that an update moves nothing between
  devices; what is of no parameter (counts, rates) is on every device.

  Args:
    task, tx: as `init_state` takes them.
    layout: where the state lies.
    make: key -> the state, where it will be jitted: one function is traced once.
  """
  make = make or functools.partial(init_state, task, tx)
  shapes = jax.eval_shape(make, jax.random.key(0))
  axes = task.axes()
  params = layout.shardings(axes.params, shapes.params)
  opt_state = optax.tree_map_params(
    tx,
    # A part of the parameters has no such moments.
    lambda leaf, where: leaf if isinstance(leaf, optax.MaskedNode) else where,
    shapes.opt_state,
    params,
    transform_non_params=lambda _: layout.whole,
    is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode),
  )
  placed = TrainState(
    step=layout.whole,
    params=params,
    frozen=layout.shardings(axes.frozen, shapes.frozen),
    stats=layout.shardings(axes.stats, shapes.stats),
    opt_state=opt_state,
  )
  return placed, shapes


def _microbatch(batch: tasks.Batch, count: int) -> tasks.Batch:
  """[B, ...] -> [count, B / count, ...], every device keeping its own rows."""

  # Every count-th row makes a part. Devices hold runs of rows: parts made of
  # runs would lie on a few devices each, and every row would have to move.
  def cut(rows):
    parts = rows.reshape(rows.shape[0] // count, count, *rows.shape[1:])
    return jnp.swapaxes(parts, 0, 1)

  return jax.tree.map(cut, batch)


def train_step(
  state: TrainState,
  batch: tasks.Batch,
  *,
  task: tasks.Task,
  tx: optax.GradientTransformation,
  rate: Callable[[Any, jax.Array], jax.Array],
  seed: int,
  microbatches: int,
  at: Callable[[Any, Any], Any] | None = None,
) -> tuple[TrainState, Metrics]:
  """Applies one update.

  Args:
    state: donated by the jitted form.
    batch: the global batch.
    task: what is trained.
    tx: the optimiser.
    rate: (opt_state, update number) -> learning rate, for the log.
    seed: the run's; the key of an update is fold_in(key(seed), step).
    microbatches: parts of the batch whose gradients are summed one after the
      other.
    at: (opt_state, params) -> where the gradient is taken; None: at `params`.

  Returns:
    The new state and scalars: `loss`, each term, `lr`, `grad_norm`,
    `param_norm` and the task's own metrics.
  """
  # Folded in, not carried: a resumed run draws what it would have drawn, and no
  # key is saved.
  key = jax.random.fold_in(jax.random.key(seed), state.step)
  # Of the whole batch, before it is cut: means over microbatches would weigh a
  # token by how many others happen to be in its own.
  weights = task.weights(batch)

  def loss_of(params, stats, rows, index):
    # Frozen arrays come in beside the parameters: no gradient, no moments.
    rest = tasks.Variables(None, state.frozen, stats)
    terms, stats, metrics = task.loss(
      params, rest, rows, step=state.step, key=jax.random.fold_in(key, index)
    )
    means = {name: term.sum / weights[name] for name, term in terms.items()}
    loss = sum(terms[name].coefficient * means[name] for name in terms)
    return loss, (stats, {"loss": loss, **means}, metrics)

  grad_of = jax.grad(loss_of, has_aux=True)
  point = state.params if at is None else at(state.opt_state, state.params)
  if microbatches == 1:
    # Without a scan, whose zeros and sums would be for nothing.
    grads, (stats, losses, metrics) = grad_of(point, state.stats, batch, 0)
  else:

    def accumulate(carry, part):
      stats, sums = carry
      index, rows = part
      grads, (stats, losses, metrics) = grad_of(point, stats, rows, index)
      # Sums are enough: each term is over the weight of the whole batch.
      sums = jax.tree.map(jnp.add, sums, (grads, losses, metrics))
      return (stats, sums), None

    parts = (jnp.arange(microbatches), _microbatch(batch, microbatches))
    first = jax.tree.map(lambda leaf: leaf[0], parts)
    # The sums start from zeros of these shapes; nothing is computed for them.
    shape = jax.eval_shape(lambda: grad_of(point, state.stats, first[1], first[0]))
    grads, (_, losses, metrics) = jax.tree.map(
      lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape
    )
    # In a scan the activations of one microbatch are there at a time. Its stats
    # go on to the next, as they do from batch to batch.
    (stats, (grads, losses, metrics)), _ = jax.lax.scan(
      accumulate, (state.stats, (grads, losses, metrics)), parts
    )

  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  new_state = state.replace(step=state.step + 1, params=params, stats=stats, opt_state=opt_state)
  row = {
    **losses,
    **{name: value.sum / value.weight for name, value in metrics.items()},
    "lr": rate(opt_state, new_state.step),
    # Before the optimiser clips: it shows what was clipped.
    "grad_norm": optax.tree.norm(grads),
    # After the update: gradients that are not finite show here, not in loss.
    "param_norm": optax.tree.norm(params),
  }
  return new_state, row


def jit_step(
  step_fn: Callable[[TrainState, tasks.Batch], tuple[TrainState, Metrics]],
  *,
  shardings: TrainState,
  layout: sharding.Layout,
) -> sharding.Jitted[tuple[TrainState, Metrics]]:
  """Compiles a step for a mesh; the old state's buffers are reused."""
  return layout.jit(
    step_fn,
    in_shardings=(shardings, layout.by_row),
    out_shardings=(shardings, layout.whole),
    donate_argnums=0,
    compiler_options=compiler_options(layout.mesh.devices.flat[0].platform),
  )
