"""The residual stream of a trunk: tapped, trained through, cut off.

Shapes: B batch, T tokens, D width, L layers.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from totojax.models import trunk

LAST = ("norm", "head")  # what comes after the blocks begins with these
Tap = Callable[[jax.Array, Any], Any]


def tap_layers(
  model: trunk.Trunk,
  params: Any,
  inputs_BT: jax.Array,
  *,
  tap: Tap,
  layers: Sequence[int],
  per_layer: Any,
) -> Any:
  """What `tap` makes of the residual stream at each layer asked for.

  The feature contract: H_0 is the embeddings and H_l the residual stream after
  block l, before the final norm. Row t of H_l belongs to the token that is at
  position t of the inputs, not to the one that it predicts; which positions
  hold visual tokens says `sequence.is_visual(inputs_BT)`. The forward pass
  stops at the deepest layer asked for, and one H_l is alive at a time: the
  stack of all layers is never kept. No gradient goes into the backbone.

  Args:
    model: its `config.depth` may be cut by `truncate`.
    params: of the model; the final norm and the head are not read.
    inputs_BT: int32 tokens, or what else the model's `entry` takes.
    tap: (H_l [B, T, D], its part of `per_layer`) -> pytree of arrays.
    layers: increasing, from 0 to the depth.
    per_layer: pytree with a leading axis of len(layers), or None.

  Returns:
    What `tap` gave, stacked on a new first axis of len(layers).

  Raises:
    ValueError: the layers do not increase or do not exist.
  """
  check_layers(layers, model.config.depth)
  block = trunk.block(model)
  params = jax.lax.stop_gradient(params)
  x_BTD, rope, segments_BT = model.entry(params, inputs_BT)

  def plain(x_BTD, block_params):
    x_BTD, _ = block.apply({"params": block_params}, x_BTD, rope, segments_BT)
    return x_BTD, None

  def tapped(x_BTD, both):
    x_BTD, _ = plain(x_BTD, both[0])
    return x_BTD, tap(x_BTD, both[1])

  def scan(body, x_BTD, xs, length):
    unroll = max(1, min(model.compute.unroll, length))
    return jax.lax.scan(body, x_BTD, xs, length=length, unroll=unroll)

  outputs, done, taken = [], 0, 0
  for first, last in _runs(layers):
    if first == 0:
      own = jax.tree.map(lambda leaf: leaf[0], per_layer)
      outputs.append(jax.tree.map(lambda leaf: leaf[None], tap(x_BTD, own)))
      first, taken = 1, 1
    if first - 1 > done:
      skipped = _cut(params["blocks"], done, first - 1)
      x_BTD, _ = scan(plain, x_BTD, skipped, first - 1 - done)
    if last >= first:
      length = last - first + 1
      blocks = _cut(params["blocks"], first - 1, last)
      own = _cut(per_layer, taken, taken + length)
      x_BTD, output = scan(tapped, x_BTD, (blocks, own), length)
      outputs.append(output)
      done, taken = last, taken + length
  return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *outputs)


def residual(
  model: trunk.Trunk, params: Any, inputs_BT: jax.Array, *, kept_L2B: jax.Array | None = None
) -> jax.Array:
  """H_depth [B, T, D], through which the backbone can be trained.

  Args:
    model: its `compute.remat` says what the backward pass finds kept.
    params: of the model; the final norm and the head are not read.
    inputs_BT: int32 tokens.
    kept_L2B: from `layers.kept_paths`; None: nothing is dropped.
  """
  block = trunk.block(model)
  x_BTD, rope, segments_BT = model.entry(params, inputs_BT)

  def body(x_BTD, both):
    block_params, kept_2B = both
    x_BTD, _ = block.apply({"params": block_params}, x_BTD, rope, segments_BT, None, kept_2B)
    return x_BTD, None

  if model.compute.remat != "none":
    body = jax.checkpoint(body, **trunk.recomputed(model.compute))
  x_BTD, _ = jax.lax.scan(
    body,
    x_BTD,
    (params["blocks"], kept_L2B),
    length=model.config.depth,
    unroll=model.compute.unroll,
  )
  return x_BTD


def truncate(model: trunk.Trunk, params: Any, depth: int) -> tuple[trunk.Trunk, Any]:
  """The model up to H_depth: its first blocks, no final norm and no head.

  Half the depth is half the memory and half the computation.
  """
  check_layers([depth], model.config.depth)
  shorter = model.clone(
    config=dataclasses.replace(model.config, depth=depth),
    compute=dataclasses.replace(model.compute, unroll=max(1, min(model.compute.unroll, depth))),
  )
  kept = {k: v for k, v in params.items() if not k.startswith(LAST)}
  return shorter, kept | {"blocks": _cut(params["blocks"], 0, depth)}


def check_layers(layers: Sequence[int], depth: int) -> None:
  """Raises ValueError unless layers increase and lie in 0..depth."""
  layers = list(layers)
  if not layers or layers != sorted(set(layers)) or layers[0] < 0:
    raise ValueError(
      f"layers are {layers}; name at least one, in increasing order from 0 (the embeddings)"
    )
  if layers[-1] > depth:
    raise ValueError(
      f"layer {layers[-1]} does not exist: the model has {depth} blocks, so"
      f" layers 0 (the embeddings) to {depth}"
    )


def _runs(layers: Sequence[int]) -> list[tuple[int, int]]:
  """(first, last) of each stretch of layers without a gap."""
  runs = []
  for layer in layers:
    if runs and layer == runs[-1][1] + 1:
      runs[-1] = (runs[-1][0], layer)
    else:
      runs.append((layer, layer))
  return runs


def _cut(tree: Any, start: int, stop: int) -> Any:
  """Rows of every leaf; the leaf itself, uncopied, where that is all of it."""

  def one(leaf):
    return leaf if (start, stop) == (0, len(leaf)) else leaf[start:stop]

  return jax.tree.map(one, tree)
