"""Muon: hidden matrices move by orthogonal updates, everything else by AdamW.

Jordan et al., 2024 (github.com/KellerJordan/Muon), through `optax.contrib`.
Momentum is replaced by the nearest matrix whose singular values are about one.
Embeddings, the output head, gains, biases and what has few outputs are AdamW's,
as is usual.

How large an update is, of a matrix with n inputs and m outputs:

  rate x 0.2 sqrt(m) x orthogonal

Its entries are as large as those of AdamW usually are (0.2, where m >= n; Liu
et al., 2025, arXiv 2502.16982), so that one rate and one weight decay serve
both. Under µP, with n grown g times over the base model, it is divided by
sqrt(g): then its largest singular value is sqrt(m / n) times a constant, the
spectral condition under which features move alike at every width (Yang et al.,
2023, arXiv 2310.17813). AdamW, whose updates of a matrix have no bound but that
of their entries, needs 1 / g. Rate x decay keeps its size with both.

All layers of a stack are one array, and heads with their dimension one side of
a matrix: which axes are which follows from their names.
"""

import dataclasses
import math
from typing import Any

import jax
from jax.sharding import PartitionSpec
import optax
from optax import contrib

from totojax import tree as tree_lib
from totojax.config.training import AdamWConfig
from totojax.optim import adamw, mup

RMS = 0.2  # of AdamW's updates, over its rate
# What a side of a matrix is made of; everything else is no hidden matrix.
_SIDES = {("embed",), ("mlp",), ("heads", "head_dim")}
_STACKED = "layers"


def dimensions(spec: PartitionSpec) -> contrib.MuonDimensionNumbers | None:
  """Which axes of a parameter are inputs, and which outputs; None: it is AdamW's."""
  names = [name for name in spec if name != _STACKED]
  for cut in range(1, len(names)):
    if {tuple(names[:cut]), tuple(names[cut:])} <= _SIDES:
      axes = [i for i, name in enumerate(spec) if name != _STACKED]
      return contrib.MuonDimensionNumbers(tuple(axes[:cut]), tuple(axes[cut:]))
  return None


def rules(rules_: Any, axes: Any) -> Any:
  """µP's rules for Muon, of those for AdamW.

  Args:
    rules_: a `mup.Rule` for every parameter.
    axes: PartitionSpecs of logical names, the same tree.
  """

  def rule(_, spec: PartitionSpec, own: mup.Rule) -> mup.Rule:
    if dimensions(spec) is None:
      return own
    return dataclasses.replace(own, lr=math.sqrt(own.lr), decay=math.sqrt(own.decay))

  return tree_lib.map_named(rule, axes, rules_)


def scale(config: AdamWConfig, axes: Any) -> optax.GradientTransformationExtraArgs:
  """Gradients to updates at a rate of one, without decay.

  Args:
    config: the numbers of both.
    axes: PartitionSpecs of logical names, the tree of the parameters.
  """
  numbers = tree_lib.map_named(lambda _, spec: dimensions(spec) or optax.MaskedNode(), axes)
  labels = tree_lib.map_named(lambda _, spec: "muon" if dimensions(spec) else "adamw", axes)
  momentum = contrib.scale_by_muon(
    beta=config.momentum, mu_dtype=config.mu_dtype, weight_dimension_numbers=numbers
  )

  def sized(update: jax.Array, own: contrib.MuonDimensionNumbers) -> jax.Array:
    outputs = math.prod(update.shape[axis] for axis in own.output_axis)
    return RMS * math.sqrt(outputs) * update

  size = optax.stateless(lambda updates, _: jax.tree.map(sized, updates, numbers))
  return optax.partition(
    {"muon": optax.chain(adamw.wide(momentum), size), "adamw": adamw.adam(config)},
    # optax asks with no parameters where in the state they are.
    lambda params: labels if jax.tree.leaves(params) else params,
  )
