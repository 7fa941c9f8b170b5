"""Decoding with a cache: token by token, what the whole sequence would give.

Attention keeps keys and values of all tokens so far. Another block has a state
of its own (`architecture.Architecture.empty_state`), whose size does not grow
with them.

Shapes: L layers, B batch, T tokens of a prompt, S tokens that the cache has
room for, D width, H heads, K head dim, N groups of J heads, V padded vocabulary.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from totojax import sequence
from totojax.models import attention, layers, platform as platform_lib, trunk

# A step of one token has little to gain from what a platform does for many, but
# for its product with the cache.
_ONE_TOKEN = platform_lib.Platform("one token")


class Cache(NamedTuple):
  """Keys and values of the tokens so far, in the dtype of compute."""

  # Rotated, [L, B, N, S, C]: J heads lie side by side in each of N groups (H = N J,
  # C = J K). Or a tuple of L arrays [B, N, S, C], where the weights are a tuple of
  # layers too.
  keys: Any
  values: Any  # the same
  # int32, what stands where, for a model whose images are hidden from each
  # other; else None.
  tokens_BS: jax.Array | None


# NamedTuple of arrays, as an architecture's `empty_state` gives it, of all
# layers: stacked, or tuples of L arrays.
State = Any


def stacked(model: trunk.Trunk) -> bool:
  """Whether layers of weights and cache are stacks, which a step scans over.

  A scan copies each layer's weights out of the stack in every step, but compiles
  sooner. `compute.unroll` of 1 asks for one.
  """
  return model.compute.unroll == 1 and not model.compute.platform.decodes_apart


def load(model: trunk.Trunk, params: Any) -> Any:
  """Parameters as decoding reads them, once before all steps.

  In the dtype of compute, as each step reads every one of them. Layers are taken
  apart (`stacked`).

  Args:
    model: the model.
    params: of `Trunk`, without boxes.
  """
  weights = trunk.cast(model.config, params, model.compute.dtype)
  if stacked(model):
    return weights
  blocks = tuple(
    jax.tree.map(lambda leaf, i=i: leaf[i], weights["blocks"]) for i in range(model.config.depth)
  )
  return {**weights, "blocks": blocks}


def empty(model: trunk.Trunk, *, rows: int, room: int, split: int = 1) -> Cache | State:
  """The cache of `rows` sequences of up to `room` tokens, all zero.

  A state has room for any number of tokens.

  Args:
    model: the model.
    rows: sequences at a time (B).
    room: tokens that each has room for (S).
    split: devices that heads are spread over.

  Raises:
    ValueError: the architecture does not decode.
  """
  c = model.config
  states = [c.empty_state(rows) for _ in range(c.depth)]
  if states[0] is not None:
    stack = jnp.stack if stacked(model) else tuple
    return type(states[0])(*(stack(parts) for parts in zip(*states)))
  _, heads, _, head_dim = c.cache_shape(rows, room)
  most = min(model.compute.platform.query_rows, max(heads // split, 1))
  together = next(n for n in range(most, 0, -1) if heads // split % n == 0)
  shape, dtype = (rows, heads // together, room, together * head_dim), model.compute.dtype
  tokens_BS = None
  if model.spec.segments:
    tokens_BS = jnp.full((rows, room), sequence.PAD, jnp.int32)
  if stacked(model):
    keys, values = (jnp.zeros((c.depth, *shape), dtype) for _ in range(2))
    return Cache(keys, values, tokens_BS)
  keys, values = (tuple(jnp.zeros(shape, dtype) for _ in range(c.depth)) for _ in range(2))
  return Cache(keys, values, tokens_BS)


def axes(model: trunk.Trunk, cache: Cache | State) -> Any:
  """Logical axes of a cache: its tree."""
  if not isinstance(cache, Cache):
    state = model.config.state_axes()
    return type(state)._make(_axes_apart(model, part) for part in state)
  stack = PartitionSpec("layers", "batch", "heads", "tokens", "head_dim")
  tokens_BS = None if cache.tokens_BS is None else PartitionSpec("batch")
  layers_axes = _axes_apart(model, stack)
  return Cache._make((layers_axes, layers_axes, tokens_BS))


def weight_axes(model: trunk.Trunk, params_axes: Any) -> Any:
  """Logical axes of what `load` gives.

  Args:
    model: the model.
    params_axes: of its parameters.
  """
  blocks = params_axes["blocks"]
  if not stacked(model):
    is_leaf = lambda x: isinstance(x, PartitionSpec)
    one = jax.tree.map(lambda axes: PartitionSpec(*axes[1:]), blocks, is_leaf=is_leaf)
    blocks = (one,) * model.config.depth
  return {**params_axes, "blocks": blocks}


def _axes_apart(model: trunk.Trunk, stack: PartitionSpec) -> Any:
  """Axes of a stack; of each of its layers, where they are apart."""
  return stack if stacked(model) else (PartitionSpec(*stack[1:]),) * model.config.depth


def prefill(
  model: trunk.Trunk, weights: Any, inputs_BT: jax.Array, *, room: int
) -> tuple[jax.Array, Cache | State]:
  """Reads a prompt.

  Args:
    model: the model.
    weights: of `load`.
    inputs_BT: int32 tokens of the prompt, the start token first.
    room: tokens that the cache shall hold in all (S).

  Returns:
    float32 logits [B, V] of the token that follows, and the cache.

  Raises:
    ValueError: an empty prompt, one that is longer than the cache, a model
      whose attention is not causal, or an architecture that does not decode.
  """
  rows, tokens = inputs_BT.shape
  if not 1 <= tokens <= room:
    raise ValueError(
      f"a prompt of {tokens} tokens does not fit a cache of {room}; use 1 to"
      f" {room} tokens, or more room"
    )
  if model.config.prefix_tokens:
    raise ValueError(
      f"model.prefix_tokens is {model.config.prefix_tokens}; a model decodes"
      " token by token only with causal attention, 0"
    )
  start = empty(model, rows=rows, room=room)
  if not isinstance(start, Cache):
    return _recurrent(model, weights, inputs_BT, start)
  if model.compute.attention == "splash" and not platform_lib.splash_fits(tokens):
    model = _computed(model, attention="xla")
  rope, segments_BT = trunk.places(model.config, model.spec, inputs_BT)

  attend = functools.partial(
    attention.attend, segments_BT=segments_BT, implementation=model.compute.attention
  )

  def mix(q_BTHK, k_BTHK, v_BTHK, scale):
    return attend(q_BTHK, k_BTHK, v_BTHK, scale=scale), (k_BTHK, v_BTHK)

  logits_BV, pairs = _through(model, weights, inputs_BT, jnp.arange(tokens), rope, lambda _: mix)
  return logits_BV, _written(_noted(start, inputs_BT, 0), pairs, 0)


def step(
  model: trunk.Trunk, weights: Any, cache: Cache | State, token_B: jax.Array, position: jax.Array
) -> tuple[jax.Array, Cache | State]:
  """Reads one token of each row.

  Args:
    model: the model.
    weights: of `load`.
    cache: holds the tokens before this one.
    token_B: int32.
    position: int32 scalar, of the token in its sequence: 0 is the start token.
      It must be below S; a jitted step cannot check it.

  Returns:
    float32 logits [B, V] of the token that follows, and the cache with this
    one.
  """
  inputs_B1 = token_B[:, None]
  if not isinstance(cache, Cache):
    return _recurrent(model, weights, inputs_B1, cache)
  place_1 = jnp.reshape(position, (1,))
  rope = model.config.angles(place_1)
  cache = _noted(cache, inputs_B1, position)
  room = jax.tree.leaves(cache.keys)[0].shape[-2]
  seen_BS = (jnp.arange(room) < position)[None]
  if cache.tokens_BS is not None:
    segments_BS = sequence.segment_ids(cache.tokens_BS, model.spec)
    own_B1 = jax.lax.dynamic_slice_in_dim(segments_BS, position, 1, axis=1)
    seen_BS = seen_BS & (segments_BS == own_B1)

  attend = functools.partial(
    attention.attend_to_cache, seen_BS=seen_BS, least_rows=model.compute.platform.query_rows
  )

  def layer_mix(past):
    cached = {"keys_BNSC": past[0], "values_BNSC": past[1]}
    return lambda q, k, v, scale: (attend(q, k, v, **cached, scale=scale), (k, v))

  plain = _computed(model, attention="xla", platform=_ONE_TOKEN)
  logits_BV, pairs = _through(
    plain, weights, inputs_B1, place_1, rope, layer_mix, (cache.keys, cache.values)
  )
  # XLA copies a cache that is written to while it may still be read, so what is
  # written waits for the last layer. (It drops an `optimization_barrier` before
  # it decides.) A row that gave NaN goes on with NaN.
  broken_B111 = jnp.isnan(logits_BV[:, 0])[:, None, None, None]
  pairs = jax.tree.map(lambda new: jnp.where(broken_B111, jnp.nan, new), pairs)
  return logits_BV, _written(cache, pairs, position)


def forgets(model: trunk.Trunk) -> bool:
  """Whether `forget` can take tokens out of a model's cache.

  A state needs no room. Keys can be turned to another place, but places that
  were added to the embeddings are in keys and values for good.
  """
  config = model.config
  return config.empty_state(1) is not None or config.angles(jnp.arange(1)) is not None


def forget(model: trunk.Trunk, cache: Cache | State, count: int) -> Cache | State:
  """A full cache without the `count` tokens after the start token.

  Those that stay move so many places towards the start: their keys are turned
  back, which leaves the angles between any two of them as they are (as Xiao et
  al., 2023, arXiv 2309.17453, number the places of a cache). What they hold was
  made with the tokens that go. A state stays as it is.

  Args:
    model: one of which `forgets` is true.
    cache: full; tokens that are read next stand at S - `count`.
    count: 1 to S - 2.
  """
  if not isinstance(cache, Cache):
    return cache
  rope = model.config.angles(jnp.array([-count]))
  assert rope is not None, "see `forgets`"
  cos, sin = rope

  def moved(x, axis, turn=False):
    first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
    rest = jax.lax.slice_in_dim(x, 1 + count, None, axis=axis)
    if turn:
      flat = rest.reshape(1, 1, -1, model.config.cache_shape(1, 1)[-1])
      rest = layers.apply_rope(flat, cos, sin, by_product=False).reshape(rest.shape)
    gone = jnp.zeros_like(jax.lax.slice_in_dim(x, 0, count, axis=axis))
    return jnp.concatenate([first, rest, gone], axis=axis)

  keys = jax.tree.map(lambda x: moved(x, x.ndim - 2, turn=True), cache.keys)
  values = jax.tree.map(lambda x: moved(x, x.ndim - 2), cache.values)
  tokens_BS = None if cache.tokens_BS is None else moved(cache.tokens_BS, 1)
  return Cache(keys, values, tokens_BS)


def _recurrent(
  model: trunk.Trunk, weights: Any, inputs_BT: jax.Array, start: State
) -> tuple[jax.Array, State]:
  """Logits [B, V] of the last input, and the states after it."""
  positions_T, state = jnp.arange(inputs_BT.shape[1]), type(start)._make
  logits_BV, end = _through(model, weights, inputs_BT, positions_T, None, state, start)
  return logits_BV, state(end)


def _computed(model: trunk.Trunk, **changes: Any) -> trunk.Trunk:
  """The same model, computed in another way."""
  return model.clone(compute=dataclasses.replace(model.compute, **changes))


def _through(
  model: trunk.Trunk,
  weights: Any,
  inputs_BT: jax.Array,
  positions_T: jax.Array,
  rope: tuple[jax.Array, jax.Array] | None,
  layer_mix: Callable[[Any], attention.Mix | State],
  past: tuple[Any, ...] | None = None,
) -> tuple[jax.Array, tuple[Any, ...]]:
  """Logits [B, V] of the last input, and keys and values of all layers.

  These are [B, T, H, K], stacked or as tuples, as the weights are; or they are
  the parts of states. `layer_mix` gets a layer's part of `past`.
  """
  c = model.config
  block = trunk.block(model)

  def layer(x_BTD, both) -> Any:
    own, past = both
    return block.apply({"params": own}, x_BTD, rope, None, layer_mix(past))

  x_BTD = weights["embedding"][inputs_BT]
  x_BTD = c.placed_input(x_BTD, positions_T)
  if isinstance(weights["blocks"], tuple):
    by_layer = []
    for i, own in enumerate(weights["blocks"]):
      x_BTD, pair = layer(x_BTD, (own, past and tuple(part[i] for part in past)))
      by_layer.append(pair)
    pairs = tuple(zip(*by_layer))
  else:
    x_BTD, pairs = jax.lax.scan(layer, x_BTD, (weights["blocks"], past))
  norm = c.norm()
  x_B1D = jnp.asarray(norm.apply({"params": weights["norm"]}, x_BTD[:, -1:]), model.compute.dtype)
  head_VD = weights["embedding" if c.tied else "head"]
  logits_B1V = trunk.logits(
    x_B1D, head_VD, spec=model.spec, scales=model.scales, platform=_ONE_TOKEN
  )
  return logits_B1V[:, 0], pairs


def _noted(cache: Cache, inputs_BT: jax.Array, position: Any) -> Cache:
  """The cache with these tokens from a position on, if it holds tokens."""
  if cache.tokens_BS is None:
    return cache
  tokens_BS = jax.lax.dynamic_update_slice_in_dim(cache.tokens_BS, inputs_BT, position, axis=1)
  return cache._replace(tokens_BS=tokens_BS)


def _written(cache: Cache, pairs: tuple[Any, Any], position: Any) -> Cache:
  """The cache with keys and values of `_through` from a position on."""

  def put(old, new):
    groups, _, wide = old.shape[-3:]
    new = new.reshape(*new.shape[:-2], groups, wide)
    new = jnp.swapaxes(new, -3, -2)  # [N, T, C] are the last axes
    return jax.lax.dynamic_update_slice_in_dim(old, new, position, axis=old.ndim - 2)

  keys, values = jax.tree.map(put, (cache.keys, cache.values), pairs)
  return cache._replace(keys=keys, values=values)
