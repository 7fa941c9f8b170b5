"""AdamW as the paper uses it: schedule, clipping, decay by axis names."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any, TYPE_CHECKING

import jax
import jax.numpy as jnp
import optax

from totojax import tree as tree_lib
from totojax.config.training import AdamWConfig

if TYPE_CHECKING:
  from totojax.optim import mup

# Axes that make a matrix a projection or an embedding. Once layers are stacked
# a norm's scale is two-dimensional, so dimensions alone say nothing.
_MATRIX_AXES = frozenset("embed heads head_dim mlp vocab values rank state classes".split()) | {
  f"conv_{side}" for side in ("height", "width", "in", "out")
}


def relative_rate(
  update: jax.Array,
  *,
  warmup_steps: float,
  end_lr_frac: float | jax.Array,
  steps: int | jax.Array,
  decay_begin: float | jax.Array | None = None,
) -> jax.Array:
  """Rate of update 1, 2, ..., `steps` over the peak.

  Linear to 1 at update `warmup_steps`, then half a cosine to `end_lr_frac` at
  the last update. With `decay_begin` it stays 1 until then, and falls as
  1 - sqrt (Hägele et al., 2024, arXiv 2405.18392).
  """
  update = jnp.asarray(update, jnp.float32)
  warm = update / max(warmup_steps, 1)
  begin = warmup_steps if decay_begin is None else decay_begin
  span = jnp.maximum(jnp.asarray(steps - begin, jnp.float32), 1)  # may pass 2^31
  progress = jnp.clip((update - begin) / span, 0.0, 1.0)
  if decay_begin is None:
    cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
    decayed = end_lr_frac + (1.0 - end_lr_frac) * cosine
  else:
    decayed = 1.0 - (1.0 - end_lr_frac) * jnp.sqrt(progress)
  return jnp.where(update < warmup_steps, warm, decayed)


def decay_begin(config: AdamWConfig, steps: int) -> int:
  """The last update at the full rate, of a run with `schedule` "wsd"."""
  return steps - round(config.decay_frac * steps)


def schedule_numbers(config: AdamWConfig, steps: int) -> dict[str, float]:
  """What of a schedule lies in the optimiser's state, and not in the program.

  So runs of several lengths are one program, and equal bit for bit until one
  of them decays.

  Raises:
    ValueError: the warm-up and the decay do not fit the run.
  """
  if config.warmup_steps >= steps:
    raise ValueError(
      f"optim.warmup_steps {config.warmup_steps} is not below the run's"
      f" {steps} updates; shorten the warm-up or train on more tokens"
    )
  if config.name == "schedule_free":
    return dict(run_steps=float(steps), decay_begin=float(steps), end_lr_frac=1.0)  # constant
  if config.schedule == "cosine":
    return {}
  begin = decay_begin(config, steps)
  if config.warmup_steps > begin:
    raise ValueError(
      f"optim.warmup_steps {config.warmup_steps} is more than the {begin} of {steps} updates that"
      f" optim.decay_frac {config.decay_frac} leaves; shorten one of them"
    )
  return dict(run_steps=float(steps), decay_begin=float(begin), end_lr_frac=config.end_lr_frac)


def _rate(
  config: AdamWConfig, steps: int, numbers: Mapping[str, Any], update: jax.Array
) -> jax.Array:
  """`relative_rate` of a config, with `schedule_numbers` of it from the optimiser's state."""
  return relative_rate(
    update,
    warmup_steps=config.warmup_steps,
    end_lr_frac=numbers.get("end_lr_frac", config.end_lr_frac),
    steps=numbers.get("run_steps", steps),
    decay_begin=numbers.get("decay_begin"),
  )


def decay_mask(axes: Any) -> Any:
  """True where weight decay applies: arrays with two matrix axes or more, and queries.

  A bias is none, though those of attention heads have two axes. Embeddings are
  matrices; those of patches where `patches.decay` says so ("values").
  """

  def decays(name, spec):
    matrix = sum(axis in _MATRIX_AXES for axis in spec) >= 2
    return (matrix or is_query(name)) and not name.endswith("bias")

  return tree_lib.map_named(decays, axes)


def is_query(name: str) -> bool:
  """Whether a parameter is the query of a head, which V-JEPA's and AIM's code decays."""
  return name.rpartition("/")[2] == "query"


def make(
  config: AdamWConfig,
  *,
  axes: Any,
  steps: int,
  rules: Any = None,
  schedule: Callable[[jax.Array], jax.Array] | None = None,
  clip: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
  """The optimiser; `peak_lr`, `weight_decay` and `schedule_numbers` live in its state.

  Args:
    config: the numbers.
    axes: PartitionSpecs of logical names, the tree of the parameters.
    steps: updates of the whole run.
    rules: µP's, a `mup.Rule` for every parameter; None: the same for all.
    schedule: update 1, 2, ... -> its rate over the peak; None: `relative_rate`.
    clip: of gradients; None: by the norm of them all.

  Raises:
    ValueError: the warm-up and the decay do not fit the run.
  """
  mask, numbers = decay_mask(axes), schedule_numbers(config, steps)

  def decayed(weight_decay):
    if rules is None:
      return optax.add_decayed_weights(weight_decay, mask=mask)
    return optax.stateless(
      lambda updates, params: jax.tree.map(
        functools.partial(_by_rule, weight_decay), rules, mask, updates, params
      )
    )

  # Arguments that are given have their names in the state.
  core, average = adam(config), None
  if config.name == "muon":
    from totojax.optim import muon

    core, rules = muon.scale(config, axes), rules and muon.rules(rules, axes)
  elif config.name == "schedule_free":
    from totojax.optim import schedule_free

    average = schedule_free.averaged
    core = adam(dataclasses.replace(config, b1=0.0))  # the average is in place of momentum

  def build(peak_lr, weight_decay, run_steps=None, decay_begin=None, end_lr_frac=None):
    given = dict(run_steps=run_steps, decay_begin=decay_begin, end_lr_frac=end_lr_frac)
    relative = schedule or functools.partial(_rate, config, steps, given if numbers else {})
    tx = optax.chain(
      clip or optax.clip_by_global_norm(config.clip_norm),
      core,
      decayed(weight_decay),
      optax.scale_by_schedule(lambda count: relative(count + 1)),
      optax.scale_by_learning_rate(peak_lr),
    )
    # Its count is that of the update that is made.
    return average(tx, lambda count: peak_lr * relative(count), b1=config.b1) if average else tx

  return optax.inject_hyperparams(build)(
    peak_lr=config.lr, weight_decay=config.weight_decay, **numbers
  )


def adam(config: AdamWConfig) -> optax.GradientTransformation:
  """Adam at a rate of one."""
  return wide(
    optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps, mu_dtype=config.mu_dtype)
  )


def wide(tx: optax.GradientTransformation) -> optax.GradientTransformation:
  """The same, whose first moment is float32 while it is computed with.

  optax multiplies a bfloat16 moment by b1 in bfloat16, where 0.9 is 0.8984 and
  a constant gradient's moment ends 1.5 % short.
  """

  def update(updates, state, params=None):
    mu = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), state.mu)
    return tx.update(updates, state._replace(mu=mu), params)

  return optax.GradientTransformation(tx.init, update)


def _by_rule(
  weight_decay: jax.Array, rule: "mup.Rule", is_decayed: bool, update: jax.Array, param: jax.Array
) -> jax.Array:
  if is_decayed:
    update = update + weight_decay * rule.decay * param
  return rule.lr * update


def learning_rate(
  config: AdamWConfig, opt_state: Any, *, update: jax.Array, steps: int
) -> jax.Array:
  """The rate that update number `update` uses, from the optimiser's state."""
  numbers = opt_state.hyperparams
  return numbers["peak_lr"] * _rate(config, steps, numbers, update)


def gradient_at(config: AdamWConfig) -> Callable[[Any, Any], Any] | None:
  """(opt_state, params) -> where the gradient is taken; None: at the parameters."""
  if config.name != "schedule_free":
    return None
  from totojax.optim import schedule_free

  return schedule_free.gradient_at
