"""AdamW for a backbone that was trained before, with heads on it.

MAE's fine-tuning (He et al., 2022, `util/lr_decay.py` and `lr_sched.py`): a
warm-up and half a cosine, update by update, and rates that fall from the last
layer to the first. With L blocks, the embeddings have id 0, block i id i, and
the final norm, an untied output and the heads L + 1; a parameter of id n
learns at decay^(L + 1 - n) of the rate. A tied embedding counts as embedding.
"""

from collections.abc import Callable
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


def rules(config: LayeredConfig, *, axes: Any, depth: int, backbone_rules: Any = None) -> Any:
  """A `mup.Rule` for every parameter of {"backbone": .., "heads": ..}.

  Args:
    config: the decay, and the rates of heads.
    axes: PartitionSpecs of logical names, the tree of the parameters.
    depth: blocks of the backbone.
    backbone_rules: µP's rules of the backbone, which are multiplied; None: none.
  """
  by_id = scales(config.layer_decay, depth)

  def rule(name, spec):
    part, _, inside = name.partition("/")
    if part == HEADS:
      return mup.Rule(1.0, _along("settings", spec, config.head_lr_mults), 1.0)
    if inside == "embedding":
      return mup.Rule(1.0, by_id[0], 1.0)
    if inside.startswith("blocks/"):
      return mup.Rule(1.0, _along("layers", spec, by_id[1:-1]), 1.0)
    return mup.Rule(1.0, by_id[-1], 1.0)

  tree = tree_lib.map_named(rule, axes)
  if backbone_rules is None:
    return tree
  product = lambda a, b: mup.Rule(b.init, a.lr * b.lr, a.decay * b.decay)
  widths = {name: backbone_rules[name] for name in tree[BACKBONE]}
  return {**tree, BACKBONE: jax.tree.map(product, tree[BACKBONE], widths)}


def _along(axis: str, spec: PartitionSpec, values: Any) -> Any:
  """`values` on their axis of an array, ready to be multiplied with it."""
  if axis not in spec:
    (value,) = values
    return value
  shape = [len(values) if name == axis else 1 for name in spec]
  return np.asarray(values, np.float32).reshape(shape)


def make(
  config: LayeredConfig, *, axes: Any, rules: Any, schedule: lars.Schedule, batch_rows: int
) -> optax.GradientTransformationExtraArgs:
  """The optimiser; `peak_lr` and `weight_decay` live in its state."""
  names = ("end_lr_frac", "b1", "b2", "eps", "weight_decay", "mu_dtype")
  plain = adamw.AdamWConfig(
    lr=config.peak_lr(batch_rows), warmup_steps=0, **{name: getattr(config, name) for name in names}
  )
  clip = _clip_backbone(config.clip_norm)
  return adamw.make(
    plain, axes=axes, steps=schedule.steps, rules=rules, schedule=schedule, clip=clip
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


def learning_rate(schedule: lars.Schedule) -> Callable[[Any, jax.Array], jax.Array]:
  """(opt_state, update) -> the rate of the last layer, for the log."""
  return lambda opt_state, update: opt_state.hyperparams["peak_lr"] * schedule(update)
