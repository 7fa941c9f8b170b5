"""GPT-2's block (Table 6): LayerNorm, biases, GELU, no rotary positions.

Radford et al., 2019, with the fixed sine and cosine positions that the paper's
ablation names; they are added to the embeddings once (`positions`).

Shapes: B batch, T tokens, D width, H heads, K head dim, F mlp.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from totojax.models import attention
from totojax.models import layers


@dataclasses.dataclass(frozen=True)
class Gpt2Config:
  """The architecture; together with the vocabulary it fixes every parameter.

  Attributes:
    width: residual stream (D).
    depth: blocks (L).
    heads: attention heads (H); head dim K = D / H.
    mlp_dim: hidden units (F).
    norm_eps: epsilon of LayerNorm.
    init_std: standard deviation of every matrix at the start.
    tied: whether the output head is the embedding, transposed.
  """

  width: int
  depth: int
  heads: int
  mlp_dim: int
  norm_eps: float
  init_std: float
  tied: bool

  def __post_init__(self):
    if self.width % self.heads or self.width % 2:
      raise ValueError(
          f"model.width {self.width} must be even and a multiple of"
          f" model.heads {self.heads}; change one of them"
      )

  @property
  def head_dim(self) -> int:
    return self.width // self.heads


def positions(tokens: int, width: int) -> jax.Array:
  """float32 [T, D]: sin, then cos, of p * 10000^(-2i / D).

  Vaswani et al., 2017, concatenated as MAE and DiT do; [gap] the paper says
  "fixed sine-cosine" and no more.
  """
  i = jnp.arange(width // 2, dtype=jnp.float32)
  frequency = 10_000.0 ** (-2 * i / width)
  angle = jnp.arange(tokens, dtype=jnp.float32)[:, None] * frequency[None]
  return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


class LayerNorm(nn.Module):
  """(x - mean) / sqrt(variance + eps) * scale + bias, in float32."""

  eps: float

  @nn.compact
  def __call__(self, x_BTD: jax.Array) -> jax.Array:
    shape, axes = (x_BTD.shape[-1],), ("norm",)
    scale_D = layers.parameter(
        self, "scale", nn.initializers.ones, shape, axes
    )
    bias_D = layers.parameter(self, "bias", nn.initializers.zeros, shape, axes)
    wide_BTD = x_BTD.astype(jnp.float32)
    centred_BTD = wide_BTD - jnp.mean(wide_BTD, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred_BTD), axis=-1, keepdims=True)
    normed_BTD = centred_BTD * jax.lax.rsqrt(variance + self.eps)
    return (normed_BTD * scale_D + bias_D).astype(x_BTD.dtype)


class Attention(nn.Module):
  """Multi-head causal self-attention with biases."""

  config: Gpt2Config
  implementation: str
  dtype: Any

  @nn.compact
  def __call__(
      self, x_BTD: jax.Array, segments_BT: jax.Array | None
  ) -> jax.Array:
    c = self.config
    init = nn.initializers.normal(c.init_std)
    zeros = nn.initializers.zeros
    inward = (c.width, c.heads, c.head_dim), ("embed", "heads", "head_dim")
    of_heads = (c.heads, c.head_dim), ("heads", "head_dim")

    def project(name):
      w_DHK = layers.parameter(self, name, init, *inward).astype(self.dtype)
      b_HK = layers.parameter(self, f"{name}_bias", zeros, *of_heads)
      x_BTHK = jnp.einsum("BTD,DHK->BTHK", x_BTD, w_DHK)
      return checkpoint_name(x_BTHK + b_HK.astype(self.dtype), "projection")

    mixed_BTHK = attention.attend(
        project("query"),
        project("key"),
        project("value"),
        segments_BT=segments_BT,
        implementation=self.implementation,
    )
    mixed_BTHK = checkpoint_name(mixed_BTHK, "attention")
    w_HKD = layers.parameter(
        self, "out", _residual(c), (c.heads, c.head_dim, c.width),
        ("heads", "head_dim", "embed"),
    ).astype(self.dtype)  # fmt: skip
    b_D = layers.parameter(self, "out_bias", zeros, (c.width,), ("norm",))
    return jnp.einsum("BTHK,HKD->BTD", mixed_BTHK, w_HKD) + b_D.astype(
        self.dtype
    )


class Mlp(nn.Module):
  """down(gelu(up(x))), the GELU by tanh."""

  config: Gpt2Config
  dtype: Any

  @nn.compact
  def __call__(self, x_BTD: jax.Array) -> jax.Array:
    c, zeros = self.config, nn.initializers.zeros
    init = nn.initializers.normal(c.init_std)
    shape = (c.width, c.mlp_dim)
    up_DF = layers.parameter(self, "up", init, shape, ("embed", "mlp"))
    up_F = layers.parameter(self, "up_bias", zeros, shape[1:], ("norm",))
    down_FD = layers.parameter(
        self, "down", _residual(c), shape[::-1], ("mlp", "embed")
    )
    down_D = layers.parameter(self, "down_bias", zeros, shape[:1], ("norm",))
    hidden_BTF = jax.nn.gelu(
        x_BTD @ up_DF.astype(self.dtype) + up_F.astype(self.dtype),
        approximate=True,
    )
    return hidden_BTF @ down_FD.astype(self.dtype) + down_D.astype(self.dtype)


class Block(nn.Module):
  """h = x + attention(norm(x)); h + mlp(norm(h))."""

  config: Gpt2Config
  implementation: str
  dtype: Any

  @nn.compact
  def __call__(
      self, x_BTD: jax.Array, segments_BT: jax.Array | None
  ) -> tuple[jax.Array, None]:
    c = self.config
    normed_BTD = LayerNorm(c.norm_eps, name="attention_norm")(x_BTD)
    x_BTD += Attention(c, self.implementation, self.dtype, name="attention")(
        normed_BTD, segments_BT
    )
    x_BTD = checkpoint_name(x_BTD, "residual")
    normed_BTD = LayerNorm(c.norm_eps, name="mlp_norm")(x_BTD)
    x_BTD += Mlp(c, self.dtype, name="mlp")(normed_BTD)
    return nn.with_logical_constraint(x_BTD, ("batch", "tokens", None)), None


def _residual(config: Gpt2Config) -> layers.Initializer:
  """GPT-2 starts what writes to the residual stream 1 / sqrt(2 L) smaller."""
  return nn.initializers.normal(
      config.init_std / (2 * config.depth) ** 0.5
  )
