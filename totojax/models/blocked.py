"""Attention on CPUs, by tiles of queries and keys, forward and backward.

Shapes: B batch, T tokens, H heads, K head dim, S keys and N queries of a tile.

Tiles that no query sees are skipped, and the backward pass computes the weights
again from the sums of the forward pass (Dao et al., 2022, arXiv 2205.14135), so
that no T x T array is kept. Weights lie as [S, N], queries last: then every
product reads its operands as they lie, and only the thin arrays (queries, keys,
values) are ever transposed, each of their parts once.
"""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp

MIN_TILE = 64  # tokens; smaller tiles cost more in dispatch than they skip
MAX_TILES = 8  # each pair is compiled on its own, so their number is bounded
# Up to so many tokens the compiler may see that both passes compute the same
# logits, and keep them: faster, until they fill the memory. Ten layers of four
# heads took 29 GiB at 16,384 tokens, and take 10 since.
MOST_KEPT = 4096


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def attend(
  q_BTHK: jax.Array,
  k_BTHK: jax.Array,
  v_BTHK: jax.Array,
  segments_BT: jax.Array | None,
  scale: float,
  prefix: int,
) -> jax.Array:
  """Causal softmax(q k scale) v, softmax in float32.

  Args:
    q_BTHK: queries.
    k_BTHK: keys.
    v_BTHK: values.
    segments_BT: int32; positions of different segments do not see each other.
    scale: of q k.
    prefix: so many first keys are seen by every query.

  Returns:
    [B, T, H, K] in q's dtype.
  """
  return _forward(q_BTHK, k_BTHK, v_BTHK, segments_BT, scale, prefix)[0]


def _forward(q_BTHK, k_BTHK, v_BTHK, segments_BT, scale, prefix):
  tiles = _tiles(q_BTHK.shape[1])
  q_BHKN, v_BHKS = _last(_scaled(q_BTHK, scale), tiles), _last(v_BTHK, tiles)
  k_BHSK = _inner(k_BTHK, tiles)
  mixed, sums = [], []
  for i in range(len(tiles)):
    keys = _keys(tiles, i, prefix)
    logits = [_logits(q_BHKN[i], k_BHSK[j], _seen(tiles, i, j, prefix, segments_BT)) for j in keys]
    tops = [jnp.max(logits_BHSN, axis=-2) for logits_BHSN in logits]
    top_BHN = functools.reduce(jnp.maximum, tops)
    weights = [jnp.exp(logits_BHSN - top_BHN[..., None, :]) for logits_BHSN in logits]
    total_BHN = functools.reduce(jnp.add, [jnp.sum(w_BHSN, axis=-2) for w_BHSN in weights])
    mixed_BHKN = sum(
      _product(v_BHKS[j], weights_BHSN.astype(v_BTHK.dtype))
      for j, weights_BHSN in zip(keys, weights)
    )
    mixed.append(mixed_BHKN / total_BHN[..., None, :])
    sums.append(top_BHN + jnp.log(total_BHN))
  mixed_BHKT = jnp.concatenate(mixed, axis=-1).astype(q_BTHK.dtype)
  mixed_BTHK = mixed_BHKT.transpose(0, 3, 1, 2)
  residuals = q_BTHK, k_BTHK, v_BTHK, segments_BT, mixed_BTHK, sums
  return mixed_BTHK, residuals


def _backward(scale, prefix, residuals, gradient_BTHK):
  q_BTHK, k_BTHK, v_BTHK, segments_BT, mixed_BTHK, sums_BHN = residuals
  dtype, tiles = q_BTHK.dtype, _tiles(q_BTHK.shape[1])
  if q_BTHK.shape[1] > MOST_KEPT:
    # Queries that the compiler cannot know to be those of the forward pass: on
    # CPUs it drops barriers before it looks for what is computed twice.
    q_BTHK += (0.0 * gradient_BTHK[0, 0, 0, 0]).astype(dtype)
  scaled_BTHK = _scaled(q_BTHK, scale)
  q_BHKN, q_BHNK = _last(scaled_BTHK, tiles), _inner(scaled_BTHK, tiles)
  k_BHKS, k_BHSK = _last(k_BTHK, tiles), _inner(k_BTHK, tiles)
  v_BHSK = _inner(v_BTHK, tiles)
  gradient_BHKN = _last(gradient_BTHK, tiles)
  gradient_BHNK = _inner(gradient_BTHK, tiles)
  shared_BTH = jnp.sum(gradient_BTHK.astype(jnp.float32) * mixed_BTHK.astype(jnp.float32), -1)
  shared_BHN = [_cut(shared_BTH.swapaxes(1, 2), tile, 2) for tile in tiles]
  count = len(tiles)
  dq_BHKN: list[jax.Array | float] = [0.0] * count
  dk_BHSK: list[jax.Array | float] = [0.0] * count
  dv_BHSK: list[jax.Array | float] = [0.0] * count
  for i in range(count):
    for j in _keys(tiles, i, prefix):
      logits_BHSN = _logits(q_BHKN[i], k_BHSK[j], _seen(tiles, i, j, prefix, segments_BT))
      weights_BHSN = jnp.exp(logits_BHSN - sums_BHN[i][..., None, :])
      dweights_BHSN = _product(v_BHSK[j], gradient_BHKN[i])
      dlogits_BHSN = weights_BHSN * (dweights_BHSN - shared_BHN[i][..., None, :])
      dlogits_BHSN = dlogits_BHSN.astype(dtype)
      dq_BHKN[i] += _product(k_BHKS[j], dlogits_BHSN)
      dk_BHSK[j] += _product(dlogits_BHSN, q_BHNK[i])
      dv_BHSK[j] += _product(weights_BHSN.astype(dtype), gradient_BHNK[i])
  dq_BHKT = jnp.concatenate(dq_BHKN, axis=-1) * scale
  return (
    dq_BHKT.transpose(0, 3, 1, 2).astype(dtype),
    jnp.concatenate(dk_BHSK, axis=2).swapaxes(1, 2).astype(dtype),
    jnp.concatenate(dv_BHSK, axis=2).swapaxes(1, 2).astype(dtype),
    None,
  )


attend.defvjp(_forward, _backward)

_Tile = tuple[int, int]  # first token and the one after the last


def _tiles(tokens: int) -> list[_Tile]:
  size = max(MIN_TILE, -(-tokens // MAX_TILES))
  return [(start, min(start + size, tokens)) for start in range(0, tokens, size)]


def _cut(x: jax.Array, tile: _Tile, axis: int) -> jax.Array:
  return jax.lax.slice_in_dim(x, *tile, axis=axis)


def _inner(x_BTHK: jax.Array, tiles: Sequence[_Tile]) -> list[jax.Array]:
  """[B, H, S, K] of every tile."""
  return [_cut(x_BTHK, tile, 1).swapaxes(1, 2) for tile in tiles]


def _last(x_BTHK: jax.Array, tiles: Sequence[_Tile]) -> list[jax.Array]:
  """[B, H, K, N] of every tile."""
  return [_cut(x_BTHK, tile, 1).transpose(0, 2, 3, 1) for tile in tiles]


def _keys(tiles: Sequence[_Tile], i: int, prefix: int) -> list[int]:
  """Tiles of which some query of tile i sees some key."""
  return [j for j in range(len(tiles)) if j <= i or tiles[j][0] < prefix]


def _seen(
  tiles: Sequence[_Tile], i: int, j: int, prefix: int, segments_BT: jax.Array | None
) -> jax.Array | None:
  """bool [B or 1, 1, S, N]: which keys of tile j tile i sees; None: all."""
  visible = None
  if j >= i and tiles[j][1] > prefix:
    keys_S1, queries_N = jnp.arange(*tiles[j])[:, None], jnp.arange(*tiles[i])
    visible = ((keys_S1 <= queries_N) | (keys_S1 < prefix))[None, None]
  if segments_BT is not None:
    keys_BS1 = _cut(segments_BT, tiles[j], 1)[:, :, None]
    queries_B1N = _cut(segments_BT, tiles[i], 1)[:, None]
    same = (keys_BS1 == queries_B1N)[:, None]
    visible = same if visible is None else visible & same
  return visible


def _scaled(q_BTHK: jax.Array, scale: float) -> jax.Array:
  return (q_BTHK.astype(jnp.float32) * scale).astype(q_BTHK.dtype)


def _logits(q_BHKN, k_BHSK, visible):
  """float32 [B, H, S, N], -inf where a query does not see a key."""
  logits_BHSN = _product(k_BHSK, q_BHKN)
  return logits_BHSN if visible is None else jnp.where(visible, logits_BHSN, -jnp.inf)


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
  return jnp.matmul(left, right, preferred_element_type=jnp.float32)
