"""AdamW for a backbone that was trained before, with heads on it.

MAE's fine-tuning (He et al., 2022, `util/lr_decay.py` and `lr_sched.py`): a
warm-up and half a cosine, update by update, and rates that fall from the last
layer to the first. With L blocks, the embeddings have id 0, block i id i, and
the final norm, an untied output and the heads L + 1; a parameter of id n
learns at decay^(L + 1 - n) of the rate. A tied embedding counts as embedding.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
from jax.sharding import PartitionSpec
import numpy as np
import optax

from totojax import tree as tree_lib
from totojax.config.labels import LayeredConfig
from totojax.optim import adamw, lars, mup

BACKBONE, HEADS = "backbone", "heads"  # the two parts of the parameters


def scales(layer_decay: float, depth: int) -> np.ndarray:
  """[depth + 2]: rate by id over the peak, from the embeddings to the heads."""
  return layer_decay ** np.arange(depth + 1, -1, -1.0)


def rules(config: LayeredConfig, *, axes: Any, depth: int, of_backbone: Any = None) -> Any:
  """A `mup.Rule` for every parameter of {"backbone": .., "heads": ..}.

  Args:
    config: the decay, and the rates of heads.
    axes: PartitionSpecs of logical names, the tree of the parameters.
    depth: blocks of the backbone.
    of_backbone: µP's rules of the backbone, which are multiplied; None: none.
  """
  by_id = scales(config.layer_decay, depth)

  def rule(name, spec):
    part, _, inside = name.partition("/")
    if part == HEADS:
      return mup.Rule(1.0, _along("settings", spec, config.head_lr_mults), 1.0)
    if inside == "embedding":
      return mup.Rule(1.0, by_id[0], 0.0)
    if inside.startswith("blocks/"):
      return mup.Rule(1.0, _along("layers", spec, by_id[1:-1]), 1.0)
    return mup.Rule(1.0, by_id[-1], 1.0)

  tree = tree_lib.map_named(rule, axes)
  if of_backbone is None:
    return tree
  both = lambda a, b: mup.Rule(b.init, a.lr * b.lr, a.decay * b.decay)
  known = {name: of_backbone[name] for name in tree[BACKBONE]}
  return {**tree, BACKBONE: jax.tree.map(both, tree[BACKBONE], known)}


def _along(axis: str, spec: PartitionSpec, values: Any) -> Any:
  """`values` on their axis of an array, ready to be multiplied with it."""
  if axis not in spec:
    (value,) = values
    return value
  shape = [len(values) if name == axis else 1 for name in spec]
  return np.asarray(values, np.float32).reshape(shape)


@dataclasses.dataclass(frozen=True)
class Schedule:
  """When the rate is what; `steps` updates, the first of them at the start."""

  steps: int
  warmup_steps: float
  end_lr_frac: float

  def __call__(self, update: jax.Array) -> jax.Array:
    """Rate of update 1, 2, ... over the peak, as MAE has it."""
    return lars.mae_rate(
      update, warmup_steps=self.warmup_steps, end_lr_frac=self.end_lr_frac, steps=self.steps
    )


def make(
  config: LayeredConfig, *, axes: Any, rules: Any, schedule: Schedule, batch_rows: int
) -> optax.GradientTransformationExtraArgs:
  """The optimiser; `peak_lr` and `weight_decay` live in its state.

  Raises:
    ValueError: a warm-up that is not shorter than the run.
  """
  if schedule.warmup_steps >= schedule.steps:
    raise ValueError(
      f"optim.warmup_epochs are {schedule.warmup_steps:g} updates, not below"
      f" the run's {schedule.steps}; shorten the warm-up or train longer"
    )
  plain = adamw.AdamWConfig(
    lr=config.peak_lr(batch_rows),
    warmup_steps=0,
    end_lr_frac=config.end_lr_frac,
    b1=config.b1,
    b2=config.b2,
    eps=config.eps,
    weight_decay=config.weight_decay,
    mu_dtype=config.mu_dtype,
  )
  return adamw.make(
    plain,
    axes=axes,
    steps=schedule.steps,
    rules=rules,
    schedule=schedule,
    clip=_clip_backbone(config.clip_norm),
  )


def _clip_backbone(norm: float) -> optax.GradientTransformation:
  if not norm:
    return optax.identity()
  clip = optax.clip_by_global_norm(norm)

  def update(grads, params=None):
    del params
    clipped, _ = clip.update(grads[BACKBONE], optax.EmptyState())
    return {**grads, BACKBONE: clipped}

  return optax.stateless(update)


def learning_rate(schedule: Schedule) -> Callable[[Any, jax.Array], jax.Array]:
  """(opt_state, update) -> the rate of the last layer, for the log."""
  return lambda opt_state, update: opt_state.hyperparams["peak_lr"] * schedule(update)
