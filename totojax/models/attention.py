"""Causal attention: one function, several ways to compute it.

Shapes: B batch, T queries, S keys, H heads, K head dim.
"""

from __future__ import annotations

import jax

from totojax.models import blocked
from totojax.models import splash

IMPLEMENTATIONS = ("blocked", "xla", "cudnn", "splash")


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
    implementation: "blocked" is for CPUs; "xla" and "cudnn" are
      `jax.nn.dot_product_attention`'s; "splash" is a kernel for TPUs.
    scale: of q k; None is 1 / sqrt(K).

  Returns:
    [B, T, H, K] in q's dtype.

  Raises:
    ValueError: an unknown implementation.
  """
  if scale is None:
    scale = q_BTHK.shape[-1] ** -0.5
  match implementation:
    case "blocked":
      return blocked.attend(q_BTHK, k_BSHK, v_BSHK, segments_BT, scale)
    case "splash":
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

