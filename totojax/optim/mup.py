"""µP: which learning rate, start and decay each parameter has at each width.

Yang et al., 2022 (arXiv 2203.03466), table 8, for Adam. What a parameter is
follows from the names of its axes: a product with two dimensions that grow with
the width is a matrix, anything else a vector (embeddings, output heads, gains,
biases). With m the growth of a matrix's inputs over the base model,

                start     Adam's rate   weight decay
  vector        as is     1             1
  matrix        / sqrt m  / m           * m     (rate x decay keeps its size)
  readout       / m       / m           * m     (table 3)

and two numbers of the forward pass: logits are divided by the growth of the
width, and q k by K / sqrt(K of the base) instead of sqrt(K). At the base width
all of these are 1. Depth is not covered.

What stands unmultiplied is the base model's, and may be tuned there, where it
is cheap: `matrix_std`, `embedding_std` and `output` hold for every width. The
usual 0.02 is the start of a matrix of 2,500 inputs; a base of 64 asks for
1 / sqrt(64).

A readout is a product inside of the model whose outputs do not grow (Mamba's
maps to its states). The output head does not grow either, but is a vector: its
logits are divided instead.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import jax
from jax.sharding import PartitionSpec

from totojax import tree as tree_lib
from totojax.config.model import MupConfig

# Axes that make no matrix: the vocabulary does not grow with the width, layers
# are stacked copies, and a gain or a bias has but one dimension.
_FIXED = frozenset({"vocab", "layers", "norm", "bias", "state", "features", "values"})
_NARROW = "state"  # outputs of a readout
# Starts 1 / sqrt(inputs) large at any width by itself, in every architecture.
_BY_INPUTS = "steps"
_QUERY, _HEAD, _EMBEDDING, _RESIDUAL = "query", "head", "embedding", "embed"


@dataclasses.dataclass(frozen=True)
class Rule:
  """What one parameter's numbers are multiplied by."""

  init: float  # its values at the start
  lr: float  # its learning rate
  decay: float  # its weight decay, which the rate multiplies too


@dataclasses.dataclass(frozen=True)
class Parametrisation:
  """µP for one model."""

  config: MupConfig  # the choices
  growth: Mapping[str, float]  # how often the base model's size each growing axis has
  depth: int  # blocks
  init_std: float  # with which the modules start matrices and embeddings

  @property
  def attention(self) -> float:
    """Times q k / sqrt(K): gives q k sqrt(base K) / K."""
    if "head_dim" not in self.growth:  # there is no attention
      return 1.0
    return self.growth["head_dim"] ** -0.5

  @property
  def logits(self) -> float:
    """Times the logits, whether the head is tied or not."""
    return self.config.output / self.growth[_RESIDUAL]

  def rules(self, axes: Any) -> Any:
    """A `Rule` for every parameter.

    Args:
      axes: PartitionSpecs of logical names, the tree of the parameters.

    Returns:
      The tree of `axes`, with `Rule`s as its leaves.

    Raises:
      ValueError: an axis of which nobody said whether it grows.
    """
    return tree_lib.map_named(self._rule, axes)

  def _rule(self, name: str, spec: PartitionSpec) -> Rule:
    c = self.config
    grows = _growing(name, spec, self.growth)
    rule = Rule(1.0, 1.0, 1.0)
    if len(grows) == 2:
      m = grows[0]
      rule = Rule(self._start(c.matrix_std) * m**-0.5, 1.0 / m, m)
      if c.depth_init and spec[-1] == _RESIDUAL:
        less = rule.init / math.sqrt(2 * self.depth)
        rule = dataclasses.replace(rule, init=less)
    elif len(grows) == 1 and spec[-1] == _NARROW:
      m = grows[0]
      rule = Rule(self._start(c.matrix_std) / m, 1.0 / m, m)
    leaf = name.rpartition("/")[-1]
    if leaf == _EMBEDDING:
      rule = dataclasses.replace(rule, init=self._start(c.embedding_std))
    if leaf == _BY_INPUTS:
      rule = dataclasses.replace(rule, init=1.0)
    if (leaf == _QUERY and c.zero_query) or (leaf == _HEAD and c.zero_head):
      rule = dataclasses.replace(rule, init=0.0)
    return rule

  def _start(self, std: float) -> float:
    """What a module's start is multiplied by to have this deviation."""
    return std / self.init_std if std else 1.0


def _growing(name: str, spec: PartitionSpec, growth: Mapping[str, float]) -> list[float]:
  """Growth of a parameter's dimensions that grow: inputs first, then outputs.

  Heads and head dimension, side by side, are one dimension of the product.
  """
  sizes, before = [], None
  for axis in spec:
    if axis in growth:
      if axis == "head_dim" and before == "heads":
        sizes[-1] *= growth[axis]
      else:
        sizes.append(growth[axis])
    elif axis is not None and axis not in _FIXED:
      raise ValueError(
        f"{name}: µP does not know whether axis {axis!r} grows with the width; known are"
        f" {sorted([*growth, *_FIXED])}. Give its growth, or add it to the fixed axes"
      )
    before = axis
  if len(sizes) > 2:
    raise ValueError(
      f"{name} {tuple(spec)}: more than two dimensions grow with the width,"
      " for which µP has no rule; split the parameter"
    )
  return sizes


def start(params: Any, tree: Any) -> Any:
  """Fresh parameters of the standard parametrisation, as the rules have them.

  Args:
    params: as the modules initialise them.
    tree: `rules` of theirs.
  """
  return jax.tree.map(lambda rule, x: x if rule.init == 1.0 else x * rule.init, tree, params)
