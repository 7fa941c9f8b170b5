"""LARS and the schedule that MAE probes with, and a grid of settings.

You et al., 2017 (arXiv 1708.03888), as in MAE's `util/lars.py`: the trust ratio
and weight decay act on arrays of two dimensions or more (`_matrices`), and the
rate is applied after the momentum.
"""

from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from totojax import tree as tree_lib
from totojax.config.labels import GridConfig
from totojax.optim import adamw


@dataclasses.dataclass(frozen=True)
class Schedule:
  """MAE's, of `lr_sched.py`: a warm-up and half a cosine over `steps` updates.

  The rate of an update is that of the epochs before it, so that the first has
  rate 0 where there is a warm-up.

  Raises:
    ValueError: a warm-up that is not shorter than the run.
  """

  steps: int
  warmup_steps: float
  end_lr_frac: float

  def __post_init__(self):
    if self.warmup_steps >= self.steps:
      raise ValueError(
        f"optim.warmup_epochs are {self.warmup_steps:g} updates, not below the run's {self.steps};"
        " shorten the warm-up or train longer"
      )

  def __call__(self, update: jax.Array | int) -> jax.Array:
    """Rate of update 1, 2, ... over the peak."""
    return adamw.relative_rate(jnp.asarray(update) - 1, **vars(self))


def of_head(
  config: GridConfig, schedule: Schedule, update: jax.Array, lr: jax.Array, decay: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """(rate, decay) of update 1, 2, ... of a head with these at their peaks."""
  steps, end = schedule.steps, config.end_decay_frac
  if config.schedule == "mae":
    fall = Schedule(steps, 0, end)
    return schedule(update) * lr, fall(update) * decay
  # V-JEPA 2's, which are stepped before the update.
  s, warm = jnp.asarray(update, jnp.float32), schedule.warmup_steps
  half = lambda share: 0.5 * (1.0 + jnp.cos(jnp.pi * share))  # noqa: E731
  last = schedule.end_lr_frac * lr
  falling = last + (lr - last) * half(jnp.clip((s - warm) / (steps - warm), 0.0, 1.0))
  rising = config.start_lr + s / max(warm, 1) * (lr - config.start_lr)
  rate = jnp.where(s < warm, rising, falling)
  return rate, decay * (end + (1.0 - end) * half(jnp.clip(s / steps, 0.0, 1.0)))


def one_head(
  config: GridConfig, lr: jax.Array | float, weight_decay: jax.Array | float
) -> optax.GradientTransformation:
  """The optimiser of one head at one moment: both numbers may be traced."""
  parts = []
  if config.clip_norm:
    parts.append(optax.clip_by_global_norm(config.clip_norm))
  if config.name == "lars":
    parts += [
      optax.add_decayed_weights(weight_decay, mask=_matrices),
      optax.masked(optax.scale_by_trust_ratio(trust_coefficient=config.trust), _matrices),
      optax.trace(decay=config.momentum),
    ]
  else:
    parts += [
      optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
      optax.add_decayed_weights(weight_decay, mask=None if config.decay_all else _matrices),
    ]
  return optax.chain(*parts, optax.scale_by_learning_rate(lr))


def _matrices(params: Any) -> Any:
  """True for what has decay and trust: matrices, and queries, which are [1, queries, D] elsewhere.

  A bias is none, though those of attention heads have two axes.
  """

  def is_one(name, leaf):
    return adamw.is_query(name) or (leaf.ndim > 1 and not name.endswith(("bias", "scale")))

  return tree_lib.map_named(is_one, params)


_LARGEST = 1e15  # that a number of a head may be: the sum of all squares is finite


class GridState(NamedTuple):
  """Updates made, the optimiser's state of every head, and which are left out."""

  count: jax.Array
  heads: Any
  diverged: jax.Array  # bool [layers, settings]


def diverged(opt_state: Any) -> jax.Array:
  """`GridState.diverged` of the state of a `grid`."""
  return opt_state.inner_state.diverged


def grid(
  config: GridConfig, *, batch_rows: int, steps: int, warmup_steps: float
) -> optax.GradientTransformationExtraArgs:
  """All heads at once: parameters have leading axes [layers, settings].

  No head changes another: clipping, trust ratios and moments are each one's
  own. One whose gradient or next parameters are not finite, or beyond all
  reason, stays as it was before that update, for good. `peak_lr` and
  `weight_decay` [settings] live in the state.

  Raises:
    ValueError: a warm-up that is not shorter than the run.
  """
  rate = Schedule(steps, warmup_steps, config.end_lr_frac)
  lr_S = [config.peak_lr(lr, batch_rows) for lr, _ in config.settings]
  decay_S = [decay for _, decay in config.settings]

  def build(peak_lr, weight_decay):
    return _over_heads(config, rate, peak_lr, weight_decay)

  return optax.inject_hyperparams(build)(
    peak_lr=jnp.array(lr_S, jnp.float32), weight_decay=jnp.array(decay_S, jnp.float32)
  )


def _over_heads(
  config: GridConfig, rate: Schedule, lr_S: jax.Array, decay_S: jax.Array
) -> optax.GradientTransformation:
  # The outer map is over layers, which share the settings.
  map_heads = lambda fn, n: jax.vmap(
    jax.vmap(fn, in_axes=(0,) * n + (0, 0)), in_axes=(0,) * n + (None, None)
  )

  def init(params):
    zeros = jnp.zeros((), jnp.int32)
    leaves = jax.tree.leaves(params)
    if not leaves:  # optax asks where in the state the parameters are
      return GridState(zeros, one_head(config, 0.0, 0.0).init(params), zeros > 0)

    init_heads = map_heads(lambda params, lr, decay: one_head(config, lr, decay).init(params), 1)
    lanes = jnp.zeros(leaves[0].shape[:2], bool)
    return GridState(zeros, init_heads(params, lr_S, decay_S), lanes)

  def update(updates, state, params=None):
    count = state.count + 1
    now_lr_S, now_decay_S = of_head(config, rate, count, lr_S, decay_S)

    def update_head(grads, heads, params, diverged, lr, weight_decay):
      changes, later = one_head(config, lr, weight_decay).update(grads, heads, params)
      numbers = jax.tree.leaves((grads, optax.apply_updates(params, changes)))
      # False of NaN too.
      fine = jnp.all(jnp.stack([jnp.all(jnp.abs(x) <= _LARGEST) for x in numbers]))
      live = fine & ~diverged
      changes = jax.tree.map(lambda x: jnp.where(live, x, 0), changes)
      later = jax.tree.map(lambda new, old: jnp.where(live, new, old), later, heads)
      return changes, later, ~live

    updates, heads, diverged = map_heads(update_head, 4)(
      updates, state.heads, params, state.diverged, now_lr_S, now_decay_S
    )
    return updates, GridState(count, heads, diverged)

  return optax.GradientTransformation(init, update)


def highest_rate(
  config: GridConfig, *, steps: int, warmup_steps: float
) -> Callable[[Any, jax.Array], jax.Array]:
  """(opt_state, update) -> the largest rate that update used, for the log."""
  rate = Schedule(steps, warmup_steps, config.end_lr_frac)

  def highest(opt_state, update):
    lr_S = opt_state.hyperparams["peak_lr"]
    return jnp.max(of_head(config, rate, update, lr_S, jnp.zeros_like(lr_S))[0])

  return highest
