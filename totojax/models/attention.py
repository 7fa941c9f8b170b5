"""Attention: one function, several masks, several ways to compute it.

Shapes: B batch, T queries, S keys, H heads, K head dim.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from totojax.models import blocked
from totojax.models.layers import mesh_axes, tokens_split

IMPLEMENTATIONS = ("blocked", "xla", "cudnn", "splash")
# They want queries that are scaled, and name what they read and give themselves
# (`checkpoint_name`).
KERNELS = frozenset({"splash"})
ALL = -1  # `prefix_tokens` of full attention

# (queries and keys, rotated where they are at all, values, scale of q k) ->
# what the queries mix of the values, and what the caller wants of a layer. A
# decoder attends to a cache with it (`decode.py`).
Mix = Callable[[jax.Array, jax.Array, jax.Array, float], tuple[jax.Array, Any]]


def mix_values(
  qkv: tuple[jax.Array, jax.Array, jax.Array],
  mix: Mix | None,
  *,
  segments_BT: jax.Array | None,
  implementation: str,
  scale: float,
  prefix_tokens: int = 0,
) -> tuple[jax.Array, Any]:
  """`attend` of queries, keys and values, or what `mix` makes of them.

  The result [B, T, H, K] has the name by which `compute.remat` keeps it, and
  beside it is what `mix` wants, or None without one.
  """
  if mix is not None:
    mixed_BTHK, kept = mix(*qkv, scale)
  else:
    kept = None
    mixed_BTHK = attend(
      *qkv,
      segments_BT=segments_BT,
      implementation=implementation,
      scale=scale,
      prefix_tokens=prefix_tokens,
    )
  if implementation not in KERNELS:  # which name what they give themselves
    mixed_BTHK = checkpoint_name(mixed_BTHK, "attention")
  return mixed_BTHK, kept


def attend(
  q_BTHK: jax.Array,
  k_BSHK: jax.Array,
  v_BSHK: jax.Array,
  *,
  segments_BT: jax.Array | None,
  implementation: str,
  scale: float | None = None,
  prefix_tokens: int = 0,
) -> jax.Array:
  """softmax(q k scale) v of the keys that a query sees, softmax in float32.

  Args:
    q_BTHK: queries; query t sees keys 0 to t (T = S).
    k_BSHK: keys.
    v_BSHK: values.
    segments_BT: int32; positions of different segments do not see each other.
      None is the paper's: one segment.
    implementation: "blocked" is for CPUs; "xla" and "cudnn" are
      `jax.nn.dot_product_attention`'s; "splash" is a kernel for TPUs.
    scale: of q k; None is 1 / sqrt(K).
    prefix_tokens: so many first keys are seen by every query of their segment,
      whatever its place: 0 is causal attention, `ALL` is full attention, and
      what lies between is a prefix in full with causal tokens after it.

  Returns:
    [B, T, H, K] in q's dtype.

  Raises:
    ValueError: an unknown implementation, or one without this mask.
  """
  if scale is None:
    scale = float(q_BTHK.shape[-1] ** -0.5)
  tokens = q_BTHK.shape[1]
  if prefix_tokens < ALL:
    raise ValueError(
      f"model.prefix_tokens is {prefix_tokens}; use 0 for causal attention, {ALL} for full"
      " attention, or a number of tokens"
    )
  prefix = tokens if prefix_tokens == ALL else min(prefix_tokens, tokens)
  if prefix == 1:  # which every query sees already
    prefix = 0
  axis, _ = tokens_split(tokens)
  if axis is not None and implementation in ("blocked", "xla"):
    return _over_devices(q_BTHK, k_BSHK, v_BSHK, segments_BT, scale=scale, prefix=prefix, axis=axis)
  match implementation:
    case "cudnn" if axis is not None:
      raise ValueError(
        f"cudnn attention takes no tokens that are split over mesh.{axis};"
        " set compute.attention='xla'"
      )
    case "blocked":
      return blocked.attend(q_BTHK, k_BSHK, v_BSHK, segments_BT, scale, prefix)
    case "splash":
      from totojax.models import splash  # which TPUs alone need

      return splash.attend(
        q_BTHK, k_BSHK, v_BSHK, segments_BT=segments_BT, scale=scale, prefix=prefix
      )
    case "xla" | "cudnn":
      if implementation == "cudnn" and 0 < prefix < tokens:
        raise ValueError(
          f"cudnn attention has no mask for a prefix of {prefix} of {tokens} tokens; set"
          f" compute.attention='xla', or model.prefix_tokens=0 (causal) or {ALL} (full)"
        )
      mask = None
      if segments_BT is not None:
        mask = (segments_BT[:, :, None] == segments_BT[:, None, :])[:, None]
      if 0 < prefix < tokens:
        places = jnp.arange(tokens)
        visible = _visible(places, places, prefix)[None, None]
        mask = visible if mask is None else mask & visible
      return jax.nn.dot_product_attention(
        q_BTHK,
        k_BSHK,
        v_BSHK,
        mask=mask,
        scale=scale,
        is_causal=prefix == 0,
        implementation=implementation,
      )
    case _:
      raise ValueError(f"attention {implementation!r} is unknown; use one of {IMPLEMENTATIONS}")


def attend_to_cache(
  q_B1HK: jax.Array,
  k_B1HK: jax.Array,
  v_B1HK: jax.Array,
  *,
  keys_BNSC: jax.Array,
  values_BNSC: jax.Array,
  seen_BS: jax.Array,
  scale: float,
  least_rows: int = 1,
) -> jax.Array:
  """Softmax(q k scale) v of one query, its own key and a cache.

  The own key and value need not lie in the cache yet, so that it is only read.
  Softmax is in float32.

  Args:
    q_B1HK: queries.
    k_B1HK: the key of the same token.
    v_B1HK: its value.
    keys_BNSC: of other tokens, in N groups of J heads that lie side by side (C =
      J K). Groups come first, so that nothing is transposed to be multiplied.
    values_BNSC: theirs.
    seen_BS: which places the query sees, [B or 1, S]; the others may hold
      anything finite.
    scale: of q k.
    least_rows: of the product of a group's queries, of which each is a row, with
      its keys. A product with one row is left to a TPU's vector unit, which takes
      longer over it than its matrix unit does over eight (2.5 times, as the
      compiler for a v5e estimates it).

  Returns:
    [B, 1, H, K] in q's dtype.
  """
  wide = jnp.float32
  batch, _, heads, _ = q_B1HK.shape
  groups = keys_BNSC.shape[1]
  together = heads // groups  # J
  rows = max(together, least_rows)  # R: those that are too many hold zeros

  def grouped(x_B1HK):
    return x_B1HK.reshape(batch, groups, together, -1)

  def filled(x_BNJE):
    return jnp.pad(x_BNJE, [(0, 0), (0, 0), (0, rows - together), (0, 0)])

  # Each head's row has zeros where the others of its group have their keys.
  own_place_JJ1 = jnp.eye(together, dtype=q_B1HK.dtype)[..., None]
  if rows == 1:  # the other way round, XLA for CPUs would transpose the keys
    logits_BNRS = jnp.einsum("BHSK,BHK->BHS", keys_BNSC, q_B1HK[:, 0], preferred_element_type=wide)
    logits_BNRS = logits_BNRS[:, :, None]
  else:
    apart_BNJJK = grouped(q_B1HK)[:, :, :, None] * own_place_JJ1
    q_BNRC = filled(apart_BNJJK.reshape(batch, groups, together, -1))
    logits_BNRS = jnp.einsum("BNRC,BNSC->BNRS", q_BNRC, keys_BNSC, preferred_element_type=wide)
  seen_B11S = seen_BS[:, None, None]
  logits_BNRS = jnp.where(seen_B11S, logits_BNRS * scale, -jnp.inf)
  own_BHT = jnp.einsum("BTHK,BTHK->BHT", q_B1HK, k_B1HK, preferred_element_type=wide)
  own_BNR1 = filled(grouped(scale * own_BHT))
  top_BNR1 = jnp.maximum(jnp.max(logits_BNRS, axis=-1, keepdims=True), own_BNR1)
  weights_BNRS = jnp.exp(logits_BNRS - top_BNR1)
  own_BNR1 = jnp.exp(own_BNR1 - top_BNR1)
  total_BNR1 = jnp.sum(weights_BNRS, axis=-1, keepdims=True) + own_BNR1
  mixed_BNRC = jnp.einsum(
    "BNRS,BNSC->BNRC",
    (weights_BNRS / total_BNR1).astype(q_B1HK.dtype),
    values_BNSC,
    preferred_element_type=wide,
  )
  mixed_BNJJK = mixed_BNRC[:, :, :together].reshape(batch, groups, together, together, -1)
  mixed_BNJK = jnp.sum(mixed_BNJJK * own_place_JJ1, axis=3)
  mixed_BNJK += (own_BNR1 / total_BNR1)[:, :, :together] * grouped(v_B1HK)
  return mixed_BNJK.reshape(q_B1HK.shape).astype(q_B1HK.dtype)


def _visible(rows: jax.Array, columns: jax.Array, prefix: int) -> jax.Array:
  """bool [rows, columns]: which keys a query sees."""
  causal = rows[:, None] >= columns[None]
  return causal | (columns < prefix)[None] if prefix else causal


def _over_devices(
  q_BTHK: jax.Array,
  k_BSHK: jax.Array,
  v_BSHK: jax.Array,
  segments_BT: jax.Array | None,
  *,
  scale: float,
  prefix: int,
  axis: str,
) -> jax.Array:
  """Every device's own queries against all keys, which are gathered first."""

  def local(q_BTHK, k_BSHK, v_BSHK, segments_BT, segments_BS):
    first = jax.lax.axis_index(axis) * q_BTHK.shape[1]
    rows = first + jnp.arange(q_BTHK.shape[1])
    visible = _visible(rows, jnp.arange(k_BSHK.shape[1]), prefix)[None, None]
    if segments_BT is not None:
      visible = visible & (segments_BT[:, :, None] == segments_BS[:, None])[:, None]
    logits_BHTS = jnp.einsum("BTHK,BSHK->BHTS", q_BTHK, k_BSHK, preferred_element_type=jnp.float32)
    weights_BHTS = jax.nn.softmax(jnp.where(visible, logits_BHTS * scale, -jnp.inf), axis=-1)
    return jnp.einsum("BHTS,BSHK->BTHK", weights_BHTS.astype(q_BTHK.dtype), v_BSHK)

  queries = mesh_axes("batch", "tokens", "heads", "head_dim")
  keys = mesh_axes("batch", None, "heads", "head_dim")
  query_segments = mesh_axes("batch", "tokens")
  key_segments = mesh_axes("batch", None)
  return jax.shard_map(
    local,
    mesh=jax.sharding.get_abstract_mesh(),
    in_specs=(queries, keys, keys, query_segments, key_segments),
    out_specs=queries,
    check_vma=False,
  )(q_BTHK, k_BSHK, v_BSHK, segments_BT, segments_BT)
