"""Causal attention: one function, several ways to compute it.

Shapes: B batch, T queries, S keys, H heads, K head dim.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from totojax.models import splash

IMPLEMENTATIONS = ("blocked", "xla", "cudnn", "splash")
MIN_BLOCK = 64  # queries; smaller blocks cost more in dispatch than they skip
TPU_ROWS = 8  # of a register
MAX_BLOCKS = 8  # each block is compiled on its own, so their number is bounded


def attend(
    q_BTHK: jax.Array,
    k_BSHK: jax.Array,
    v_BSHK: jax.Array,
    *,
    segments_BT: jax.Array | None,
    implementation: str,
    scale: float | None = None,
) -> jax.Array:
  """Causal softmax(q k scale) v, softmax in float32.

  Args:
    q_BTHK: queries; with T = S, query t sees keys 0 to t.
    k_BSHK: keys.
    v_BSHK: values.
    segments_BT: int32; positions of different segments do not see each other.
      None is the paper's: one segment.
    implementation: "blocked" skips what lies above the diagonal by static
      blocks of queries (CPU); "xla" and "cudnn" are
      `jax.nn.dot_product_attention`'s; "splash" is a kernel for TPUs.
    scale: of q k; None is 1 / sqrt(K).

  Returns:
    [B, T, H, K] in q's dtype.

  Raises:
    ValueError: an unknown implementation.
  """
  match implementation:
    case "blocked":
      return _blocked(
          q_BTHK, k_BSHK, v_BSHK, segments_BT, scale=scale
      )
    case "splash":
      scale = q_BTHK.shape[-1] ** -0.5 if scale is None else scale
      return splash.attend(
          q_BTHK, k_BSHK, v_BSHK, segments_BT=segments_BT, scale=scale
      )
    case "xla" | "cudnn":
      mask = None
      if segments_BT is not None:
        mask = (segments_BT[:, :, None] == segments_BT[:, None, :])[:, None]
      return jax.nn.dot_product_attention(
          q_BTHK,
          k_BSHK,
          v_BSHK,
          mask=mask,
          scale=scale,
          is_causal=True,
          implementation=implementation,
      )
    case _:
      raise ValueError(
          f"attention {implementation!r} is unknown; use one of"
          f" {', '.join(IMPLEMENTATIONS)}"
      )


def attend_to_cache(
    q_B1HK: jax.Array,
    k_B1HK: jax.Array,
    v_B1HK: jax.Array,
    *,
    keys_BHSK: jax.Array,
    values_BHSK: jax.Array,
    seen_BS: jax.Array,
    scale: float,
    by_product: bool,
) -> jax.Array:
  """Softmax(q k scale) v of one query, its own key and a cache.

  The own key and value need not lie in the cache yet, so that it is only read.
  Softmax is in float32.

  Args:
    q_B1HK: queries.
    k_B1HK: the key of the same token.
    v_B1HK: its value.
    keys_BHSK: of other tokens; heads come first, so that nothing is transposed
      to be multiplied.
    values_BHSK: theirs.
    seen_BS: which places the query sees, [B or 1, S]; the others may hold
      anything finite.
    scale: of q k.
    by_product: compute each query several times: a product with one row is left
      to a TPU's vector unit, which takes longer over it than its matrix unit
      does over eight (2.5 times, as the compiler for a v5e estimates it).

  Returns:
    [B, 1, H, K] in q's dtype.
  """
  wide = jnp.float32
  if by_product:
    logits_BHTS = jnp.einsum(
        "BTHK,BHSK->BHTS",
        jnp.repeat(q_B1HK, TPU_ROWS, axis=1),
        keys_BHSK,
        preferred_element_type=wide,
    )
  else:  # the other way round, XLA for CPUs would transpose the keys
    logits_BHTS = jnp.einsum(
        "BHSK,BHK->BHS", keys_BHSK, q_B1HK[:, 0], preferred_element_type=wide
    )[:, :, None]
  seen_B11S = seen_BS[:, None, None]
  logits_BHTS = jnp.where(seen_B11S, logits_BHTS * scale, -jnp.inf)
  own_BH11 = scale * jnp.einsum(
      "BTHK,BTHK->BHT", q_B1HK, k_B1HK, preferred_element_type=wide
  )[..., None]
  top_BHT1 = jnp.maximum(jnp.max(logits_BHTS, axis=-1, keepdims=True), own_BH11)
  weights_BHTS = jnp.exp(logits_BHTS - top_BHT1)
  own_BHT1 = jnp.exp(own_BH11 - top_BHT1)
  total_BHT1 = jnp.sum(weights_BHTS, axis=-1, keepdims=True) + own_BHT1
  mixed_BTHK = jnp.einsum(
      "BHTS,BHSK->BTHK",
      (weights_BHTS / total_BHT1).astype(q_B1HK.dtype),
      values_BHSK,
      preferred_element_type=wide,
  )
  own_BTH1 = jnp.swapaxes(own_BHT1 / total_BHT1, 1, 2)
  mixed_BTHK += own_BTH1 * v_B1HK
  return mixed_BTHK[:, :1].astype(q_B1HK.dtype)


def _blocked(
    q_BTHK: jax.Array,
    k_BSHK: jax.Array,
    v_BSHK: jax.Array,
    segments_BT: jax.Array | None,
    *,
    scale: float | None,
) -> jax.Array:
  """Blocks of queries against the keys up to their last one."""
  tokens = q_BTHK.shape[1]
  block = max(MIN_BLOCK, -(-tokens // MAX_BLOCKS))
  outputs = []
  for start in range(0, tokens, block):
    stop = min(start + block, tokens)
    rows, columns = jnp.arange(start, stop), jnp.arange(stop)
    seen = (rows[:, None] >= columns[None])[None, None]
    if segments_BT is not None:
      same = segments_BT[:, start:stop, None] == segments_BT[:, None, :stop]
      seen = seen & same[:, None]
    outputs.append(
        _dense(
            q_BTHK[:, start:stop], k_BSHK[:, :stop], v_BSHK[:, :stop], seen,
            scale=scale,
        )
    )  # fmt: skip
  return jnp.concatenate(outputs, axis=1)


def _dense(
    q_BTHK: jax.Array,
    k_BSHK: jax.Array,
    v_BSHK: jax.Array,
    seen_BHTS: jax.Array,
    *,
    scale: float | None,
) -> jax.Array:
  scale = q_BTHK.shape[-1] ** -0.5 if scale is None else scale
  logits_BHTS = jnp.einsum(
      "BTHK,BSHK->BHTS", q_BTHK, k_BSHK, preferred_element_type=jnp.float32
  )
  logits_BHTS = jnp.where(seen_BHTS, logits_BHTS * scale, -jnp.inf)
  weights_BHTS = jax.nn.softmax(logits_BHTS, axis=-1).astype(q_BTHK.dtype)
  return jnp.einsum("BHTS,BSHK->BTHK", weights_BHTS, v_BSHK)
