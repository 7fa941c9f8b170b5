"""AdamW as the paper uses it: schedule, clipping, decay by axis names."""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from totojax import tree as tree_lib
from totojax.config.training import AdamWConfig
from totojax.optim import mup

# Axes that make a matrix a projection or an embedding. Once layers are stacked
# a norm's scale is two-dimensional, so dimensions alone say nothing.
_MATRIX_AXES = frozenset("embed heads head_dim mlp vocab rank state classes".split()) | {
  f"conv_{side}" for side in ("height", "width", "in", "out")
}


def relative_rate(
  update: jax.Array, *, warmup_steps: float, end_lr_frac: float, steps: int
) -> jax.Array:
  """Rate of update 1, 2, ..., `steps` over the peak.

  Linear to 1 at update `warmup_steps`, then half a cosine to `end_lr_frac` at
  the last update.
  """
  update = jnp.asarray(update, jnp.float32)
  warm = update / max(warmup_steps, 1)
  span = float(max(steps - warmup_steps, 1))  # may pass 2^31
  progress = jnp.clip((update - warmup_steps) / span, 0.0, 1.0)
  cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
  decayed = end_lr_frac + (1.0 - end_lr_frac) * cosine
  return jnp.where(update < warmup_steps, warm, decayed)


def decay_mask(axes: Any) -> Any:
  """True where weight decay applies: arrays with two matrix axes or more.

  A bias is none, though those of attention heads have two axes.
  """

  def decays(name, spec):
    matrix = sum(axis in _MATRIX_AXES for axis in spec) >= 2
    return matrix and not name.endswith("bias")

  return tree_lib.map_named(decays, axes)


def make(
  config: AdamWConfig,
  *,
  axes: Any,
  steps: int,
  rules: Any = None,
  schedule: Callable[[jax.Array], jax.Array] | None = None,
  clip: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
  """The optimiser; `peak_lr` and `weight_decay` live in its state.

  Args:
    config: the numbers.
    axes: PartitionSpecs of logical names, the tree of the parameters.
    steps: updates of the whole run.
    rules: µP's, a `mup.Rule` for every parameter; None: the same for all.
    schedule: update 1, 2, ... -> its rate over the peak; None: `relative_rate`.
    clip: of gradients; None: by the norm of them all.

  Raises:
    ValueError: a warm-up that is not shorter than the run.
  """
  if config.warmup_steps >= steps:
    raise ValueError(
      f"optim.warmup_steps {config.warmup_steps} is not below the run's"
      f" {steps} updates; shorten the warm-up or train on more tokens"
    )
  mask = decay_mask(axes)

  def rate(count):
    if schedule is not None:
      return schedule(count + 1)
    return relative_rate(
      count + 1, warmup_steps=config.warmup_steps, end_lr_frac=config.end_lr_frac, steps=steps
    )

  def decayed(weight_decay):
    if rules is None:
      return optax.add_decayed_weights(weight_decay, mask=mask)
    return optax.stateless(
      lambda updates, params: jax.tree.map(
        functools.partial(_by_rule, weight_decay), rules, mask, updates, params
      )
    )

  def build(peak_lr, weight_decay):
    return optax.chain(
      clip or optax.clip_by_global_norm(config.clip_norm),
      _adam(config),
      decayed(weight_decay),
      optax.scale_by_schedule(rate),
      optax.scale_by_learning_rate(peak_lr),
    )

  return optax.inject_hyperparams(build)(peak_lr=config.lr, weight_decay=config.weight_decay)


def _adam(config: AdamWConfig) -> optax.GradientTransformation:
  """Adam, whose first moment is float32 while it is computed with.

  optax multiplies a bfloat16 moment by b1 in bfloat16, where 0.9 is 0.8984 and
  a constant gradient's moment ends 1.5 % short.
  """
  adam = optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps, mu_dtype=config.mu_dtype)

  def update(updates, state, params=None):
    mu = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), state.mu)
    return adam.update(updates, state._replace(mu=mu), params)

  return optax.GradientTransformation(adam.init, update)


def _by_rule(
  weight_decay: jax.Array, rule: mup.Rule, is_decayed: bool, update: jax.Array, param: jax.Array
) -> jax.Array:
  if is_decayed:
    update = update + weight_decay * rule.decay * param
  return rule.lr * update


def learning_rate(
  config: AdamWConfig, opt_state: Any, *, update: jax.Array, steps: int
) -> jax.Array:
  """The rate that update number `update` uses, from the optimiser's state."""
  return opt_state.hyperparams["peak_lr"] * relative_rate(
    update, warmup_steps=config.warmup_steps, end_lr_frac=config.end_lr_frac, steps=steps
  )
