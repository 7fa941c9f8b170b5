"""Training of a policy on a table of steps: many updates are one call of a program.

A policy is so small that its updates take less time than to start them, so they
are made in a loop of the compiled program. Each is `step.train_step`. Tables are
padded to powers of two, so that one that grows compiles few programs.

Shapes: N steps, B rows, U updates of a call, D width of features, P numbers felt, A
of an action.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from totojax import rundir, step as step_lib
from totojax.config import policies as config, training
from totojax.models import policy as policy_lib
from totojax.optim import adamw
from totojax.tasks import imitate
from totojax.trained import policies

_UPDATES = 128  # of a call, at most


@dataclasses.dataclass(frozen=True)
class Steps:
  """What is learned from."""

  features_ND: np.ndarray  # float32; D may be 0
  felt_NP: np.ndarray
  action_NA: np.ndarray

  def __len__(self) -> int:
    return len(self.action_NA)

  def taken(self, which: Any) -> "Steps":
    return Steps(*(getattr(self, f.name)[which] for f in dataclasses.fields(self)))


def joined(parts: "list[Steps]") -> Steps:
  """All steps of several tables."""
  names = [f.name for f in dataclasses.fields(Steps)]
  return Steps(*(np.concatenate([getattr(one, name) for one in parts]) for name in names))


def updates(settings: config.Imitation, steps: int) -> int:
  """Of a whole training; at least one."""
  return max(round(settings.epochs * steps / settings.batch_rows), 1)


def train(
  steps: Steps,
  *,
  head: config.PolicyHead,
  settings: config.Imitation,
  plain: bool,
  seed: int,
  start: policies.Policy | None = None,
  advance: Callable[[float], None] = lambda share: None,
) -> policies.Policy:
  """A policy that does what was done in these steps.

  Args:
    steps: what was seen, felt and done.
    head: of the policy.
    settings: how it is trained.
    plain: whether features are a state, which has units and is not normalised.
    seed: of the parameters and of the order of steps.
    start: whose parameters and units it begins with; None: fresh ones, and those
      of the steps.
    advance: told the share that is done, from 0 to 1.

  Raises:
    rundir.RunError: a loss or a parameter is not finite.
  """
  model = policy_lib.Policy(head, steps.action_NA.shape[1], not plain)
  units = (
    start.units
    if start is not None
    else policies.Units.of(
      steps.features_ND, steps.felt_NP, steps.action_NA, features=plain or head.standardise
    )
  )
  task = imitate.Imitate(model, width=steps.features_ND.shape[1], felt=steps.felt_NP.shape[1])
  hashable: Any = model  # to pyright a module is not
  program = _program(hashable, task.width, task.felt, settings.weight_decay)
  state = program.init(jax.random.key(seed))
  if start is not None:
    state = state.replace(params=jax.tree.map(jnp.asarray, start.params))
  table = _padded(units, steps)
  rng = np.random.default_rng([seed, len(steps)])
  total, rows = updates(settings, len(steps)), settings.batch_rows
  relative_U = adamw.relative_rate(
    jnp.arange(1, total + 1),
    warmup_steps=settings.warmup_epochs * total / settings.epochs,
    end_lr_frac=0.0,
    steps=total,
  )
  rate_U, order = np.asarray(settings.lr * relative_U, np.float32), _order(rng, len(steps))
  for first in range(0, total, _UPDATES):
    count = min(_UPDATES, total - first)
    chosen_UB, rates_U = np.zeros((_UPDATES, rows), np.int32), np.zeros(_UPDATES, np.float32)
    chosen_UB[:count] = order(count * rows).reshape(count, rows)
    rates_U[:count] = rate_U[first : first + count]
    state, loss, norm = program.run(state, table, chosen_UB, rates_U, count)
    if not np.isfinite(float(loss)) or not np.isfinite(float(norm)):
      raise rundir.RunError(
        f"the policy's loss is {float(loss)} after {first + count} updates; lower train.lr"
      )
    advance((first + count) / total)
  return policies.Policy(model, jax.tree.map(np.asarray, state.params), units)


def _order(rng: np.random.Generator, steps: int) -> Callable[[int], np.ndarray]:
  """Count -> so many more steps, drawn without replacement, epoch by epoch."""
  left = np.zeros(0, np.int64)

  def more(count: int) -> np.ndarray:
    nonlocal left
    while len(left) < count:
      left = np.concatenate([left, rng.permutation(steps)])
    taken, left = left[:count], left[count:]
    return taken

  return more


def _padded(units: policies.Units, steps: Steps) -> dict[str, jax.Array]:
  """The table in the policy's units, as many rows as a power of two."""
  arrays = {
    "features": units.features(steps.features_ND),
    "felt": units.felt(steps.felt_NP),
    "action": (steps.action_NA / units.action).astype(np.float32),
  }
  rows = 1 << max(len(steps) - 1, 0).bit_length()
  pad = ((0, rows - len(steps)), (0, 0))
  return {name: jnp.asarray(np.pad(value, pad)) for name, value in arrays.items()}


@dataclasses.dataclass(frozen=True)
class _Program:
  init: Callable[[jax.Array], step_lib.TrainState]
  # (state, table, rows [U, B], rates [U], updates) -> (state, mean loss, norm of parameters)
  run: Callable[..., tuple[step_lib.TrainState, jax.Array, jax.Array]]


@functools.cache
def _program(model: policy_lib.Policy, width: int, felt: int, weight_decay: float) -> _Program:
  task = imitate.Imitate(model, width=width, felt=felt)
  # The rate of each update is put into the optimiser's state.
  tx = adamw.make(
    training.AdamWConfig(lr=0.0, warmup_steps=0, b2=0.999, weight_decay=weight_decay),
    axes=task.axes().params,
    steps=1,
    schedule=lambda update: jnp.ones_like(update, jnp.float32),
    clip=optax.identity(),
  )

  def run(state, table, chosen_UB, rates_U, count):
    def body(number, carry):
      state, total = carry
      old = state.opt_state.hyperparams
      numbers = {**old, "peak_lr": rates_U[number]}
      state = state.replace(opt_state=state.opt_state._replace(hyperparams=numbers))
      batch = {name: value[chosen_UB[number]] for name, value in table.items()}
      state, row = step_lib.train_step(
        state,
        batch,
        task=task,
        tx=tx,
        rate=lambda opt_state, update: opt_state.hyperparams["peak_lr"],
        seed=0,
        microbatches=1,
      )
      return state, total + row["loss"]

    state, total = jax.lax.fori_loop(0, count, body, (state, jnp.zeros(())))
    return state, total / count, optax.tree.norm(state.params)

  init = functools.partial(step_lib.init_state, task, tx)
  return _Program(jax.jit(init), jax.jit(run, donate_argnums=0))
