"""The small parts of a block: normalisation, rotary positions, SwiGLU.

Shapes: B batch, T tokens, D width, H heads, K head dim, F mlp.
"""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

Initializer = jax.nn.initializers.Initializer


def parameter(
    module: nn.Module,
    name: str,
    init: Initializer,
    shape: tuple[int, ...],
    axes: tuple[str, ...],
) -> jax.Array:
  """A float32 parameter; its logical axes are written here and only here."""
  return module.param(
      name, nn.with_logical_partitioning(init, axes), shape, jnp.float32
  )


class RMSNorm(nn.Module):
  """x / rms(x) * scale in float32, cast, then scaled, as LLaMA does.

  Zhang and Sennrich, 2019 (arXiv 1910.07467), without the mean or a bias.
  """

  eps: float

  @nn.compact
  def __call__(self, x_BTD: jax.Array) -> jax.Array:
    scale_D = parameter(
        self, "scale", nn.initializers.ones, (x_BTD.shape[-1],), ("norm",)
    )
    wide_BTD = x_BTD.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(wide_BTD), axis=-1, keepdims=True)
    normed_BTD = wide_BTD * jax.lax.rsqrt(mean_square + self.eps)
    return normed_BTD.astype(x_BTD.dtype) * scale_D.astype(x_BTD.dtype)


def rope_table(
    positions_T: jax.Array, head_dim: int, base: float
) -> tuple[jax.Array, jax.Array]:
  """cos and sin [T, K / 2] in float32 of the angles p * base^(-2j / K).

  Su et al., 2021 (arXiv 2104.09864); positions are raster positions in the
  whole sequence, as the paper's base of 10,000 or 50,000 takes them (Table 4).
  """
  j = jnp.arange(0, head_dim, 2, dtype=jnp.float32)
  frequency_k = base ** (-j / head_dim)
  angle_Tk = positions_T.astype(jnp.float32)[:, None] * frequency_k[None]
  return jnp.cos(angle_Tk), jnp.sin(angle_Tk)


def apply_rope(
    x_BTHK: jax.Array, cos_Tk: jax.Array, sin_Tk: jax.Array
) -> jax.Array:
  """Rotates pairs (j, j + K/2), the half-split layout of Hugging Face."""
  first, second = jnp.split(x_BTHK.astype(jnp.float32), 2, axis=-1)
  cos, sin = cos_Tk[None, :, None, :], sin_Tk[None, :, None, :]
  rotated = jnp.concatenate(
      [first * cos - second * sin, second * cos + first * sin], axis=-1
  )
  return rotated.astype(x_BTHK.dtype)


class SwiGLU(nn.Module):
  """down(silu(gate(x)) * up(x)), no biases (Shazeer, arXiv 2002.05202)."""

  mlp_dim: int
  init_std: float
  dtype: Any

  @nn.compact
  def __call__(self, x_BTD: jax.Array) -> jax.Array:
    width = x_BTD.shape[-1]
    init = nn.initializers.normal(self.init_std)
    inward = (width, self.mlp_dim), ("embed", "mlp")
    outward = (self.mlp_dim, width), ("mlp", "embed")
    gate_DF = parameter(self, "gate", init, *inward).astype(self.dtype)
    up_DF = parameter(self, "up", init, *inward).astype(self.dtype)
    down_FD = parameter(self, "down", init, *outward).astype(self.dtype)
    hidden_BTF = jax.nn.silu(x_BTD @ gate_DF) * (x_BTD @ up_DF)
    return hidden_BTF @ down_FD
