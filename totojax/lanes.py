"""Several learning rates in one compiled program: a run axis on everything.

A lane is a whole run: parameters, moments, step, all with one axis more, in
front. Lanes start alike and see the same batches; only their peak rates differ,
which live in the optimiser's state. A lane whose loss or parameters are no
longer finite is frozen as it was before that step, and the step is kept; the
others go on. A lane is the run that it would be alone, to rounding.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from totojax import step as step_lib

Eval = Callable[[step_lib.TrainState], Any]
Step = Callable[..., tuple[step_lib.TrainState, step_lib.Metrics]]


@dataclasses.dataclass(frozen=True)
class Lanes:
  """The runs that go side by side."""

  peak_lr: tuple[float, ...]  # peak learning rate of each
  # Whether the program computes one lane after the other, which is faster on a
  # CPU, rather than all at once.
  in_turn: bool


def name(lane: int) -> str:
  """What the lane's metrics begin with."""
  return f"lane{lane:02d}"


def init(
  make: Callable[[jax.Array], step_lib.TrainState], lanes: Lanes
) -> Callable[[jax.Array], step_lib.TrainState]:
  """Makes a fresh state for all lanes; `stats` holds where each diverged.

  Args:
    make: key -> the fresh state of one run, with its `peak_lr` in the
      optimiser's state.
    lanes: the rates.
  """
  count = len(lanes.peak_lr)

  def stacked(key):
    # One start for all: what differs between lanes is their rate alone.
    state = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), make(key))
    old = state.opt_state.hyperparams
    rates = jnp.asarray(lanes.peak_lr, old["peak_lr"].dtype)
    return state.replace(
      opt_state=state.opt_state._replace(hyperparams={**old, "peak_lr": rates}),
      stats={
        "own": state.stats,
        "diverged": jnp.zeros(count, jnp.int32),  # at this step; 0: not
      },
    )

  return stacked


def state(
  placed: step_lib.TrainState, make: Callable[[jax.Array], step_lib.TrainState]
) -> tuple[step_lib.TrainState, step_lib.TrainState]:
  """(shardings, shapes) of all lanes; every device has its part of each.

  Args:
    placed: shardings of one run's state.
    make: from `init`.
  """
  # The lanes' axis is on no axis of the mesh: all devices work on every lane,
  # and the number of lanes has nothing to divide.
  stacked = jax.tree.map(
    lambda where: NamedSharding(where.mesh, PartitionSpec(None, *where.spec)), placed
  )
  replicated = NamedSharding(placed.step.mesh, PartitionSpec())
  stacked = stacked.replace(stats={"own": stacked.stats, "diverged": replicated})
  return stacked, jax.eval_shape(make, jax.random.key(0))


def step(step_fn: Step, lanes: Lanes) -> Step:
  """(state, batch) -> (state, metrics) of all lanes.

  The metrics are `<lane>/loss` of each (NaN once it has diverged), and `loss`
  and `param_norm` of the mean live lane, which are 0 when none lives.
  """
  lane_step = functools.partial(_lane_step, step_fn)

  def stacked(state, batch):
    if lanes.in_turn:
      state, rows = jax.lax.map(lambda lane: lane_step(lane, batch), state)
    else:
      state, rows = jax.vmap(lane_step, in_axes=(0, None))(state, batch)
    # Of the live ones: a NaN in these would end all runs (`train.NotFinite`).
    live = state.stats["diverged"] == 0
    metrics = {
      f"{name(i)}/loss": jnp.where(live[i], rows["loss"][i], jnp.nan)
      for i in range(len(lanes.peak_lr))
    }
    for key in ("loss", "param_norm"):
      total = jnp.sum(jnp.where(live, rows[key], 0.0))
      metrics[key] = total / jnp.maximum(jnp.sum(live), 1)
    return state, metrics

  return stacked


def _lane_step(
  step_fn: Step, state: step_lib.TrainState, batch: Any
) -> tuple[step_lib.TrainState, step_lib.Metrics]:
  """One lane's update, undone if it leaves something that is not finite."""
  diverged = state.stats["diverged"]
  old = state.replace(stats=state.stats["own"])
  new, row = step_fn(old, batch)
  # The parameters too: a finite loss may have had an infinite gradient.
  finite = jnp.isfinite(row["loss"]) & jnp.isfinite(row["param_norm"])
  keep = finite & (diverged == 0)
  # All of the state goes back: a NaN in a moment would reach later updates.
  new = jax.tree.map(functools.partial(jnp.where, keep), new, old)
  diverged = jnp.where((diverged == 0) & ~finite, old.step + 1, diverged).astype(jnp.int32)
  stats = {"own": new.stats, "diverged": diverged}
  return new.replace(stats=stats), row


def evals(named: Mapping[str, Eval], lanes: Lanes) -> dict[str, Eval]:
  """Each evaluation of each lane, and the step at which a lane diverged."""

  def each(fn):
    def run(state) -> Iterator[tuple[str, float]]:
      diverged = jax.device_get(state.stats["diverged"])
      for i in range(len(lanes.peak_lr)):
        lane = jax.tree.map(lambda leaf: leaf[i], state)
        lane = lane.replace(stats=lane.stats["own"])
        for key, value in fn(lane):
          yield f"{name(i)}/{key}", value
        yield f"{name(i)}/diverged", float(diverged[i])

    return run

  return {key: each(fn) for key, fn in named.items()}
