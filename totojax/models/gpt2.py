"""GPT-2's block (Table 6): LayerNorm, biases, GELU, no rotary positions.

Radford et al., 2019, with the fixed sine and cosine positions that the paper's
ablation names; they are added to the embeddings once (`positions`).

Shapes: B batch, T tokens, D width, H heads, K head dim, F mlp.
"""

import functools
from typing import Any, ClassVar

from flax import linen as nn
from flax.linen import spmd
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from totojax.config import model as model_config
from totojax.models import architecture, attention, layers


class Gpt2Config(model_config.Gpt2, architecture.Transformer):
  """Section `model` of "gpt2", and what is computed from it."""

  kind: ClassVar[str] = "gpt2"
  wide: ClassVar[frozenset[str]] = frozenset({"scale", "bias"})
  starts_smaller: ClassVar[bool] = True
  prefix_tokens: ClassVar[int] = 0  # always causal

  def block(self) -> type[nn.Module]:
    return Block

  def norm(self, name: str | None = None) -> nn.Module:
    return LayerNorm(self.norm_eps, name=name)

  def placed_input(self, x_BTD: jax.Array, positions_T: jax.Array) -> jax.Array:
    scale = self.position_std * 2**0.5  # that of a sine is 1 / sqrt(2)
    table_TD = scale * positions(positions_T, self.width)
    return x_BTD + table_TD.astype(x_BTD.dtype)

  @property
  def matrices(self) -> int:
    """4 D^2 + 2 D F."""
    return 4 * self.width**2 + 2 * self.width * self.mlp_dim

  @property
  def vectors(self) -> int:
    """Two norms and all biases: 9 D + F; and two norms of heads: 2 K."""
    return 9 * self.width + self.mlp_dim + 2 * self.head_dim * self.qk_norm

  @property
  def norm_parameters(self) -> int:
    return 2 * self.width


def positions(positions_T: jax.Array, width: int) -> jax.Array:
  """float32 [T, D]: sin, then cos, of p * 10000^(-2i / D), p in the sequence.

  Vaswani et al., 2017, concatenated as MAE and DiT do; [gap] the paper says
  "fixed sine-cosine" and no more.
  """
  i = jnp.arange(width // 2, dtype=jnp.float32)
  frequency = 10_000.0 ** (-2 * i / width)
  angle = positions_T.astype(jnp.float32)[:, None] * frequency[None]
  return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


class LayerNorm(nn.Module):
  """(x - mean) / sqrt(variance + eps) * scale + bias, in float32."""

  eps: float

  @nn.compact
  def __call__(self, x_BTD: jax.Array) -> jax.Array:
    shape, axes = (x_BTD.shape[-1],), ("norm",)
    scale_D = layers.parameter(self, "scale", nn.initializers.ones, shape, axes)
    bias_D = layers.parameter(self, "bias", nn.initializers.zeros, shape, axes)
    wide_BTD = x_BTD.astype(jnp.float32)
    centred_BTD = wide_BTD - jnp.mean(wide_BTD, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred_BTD), axis=-1, keepdims=True)
    normed_BTD = centred_BTD * jax.lax.rsqrt(variance + self.eps)
    return (normed_BTD * scale_D + bias_D).astype(x_BTD.dtype)


class Attention(layers.Part):
  """Multi-head causal self-attention with biases.

  Returns its output [B, T, D] and what `mix` wants, or None without one.
  """

  config: Gpt2Config

  @nn.compact
  def __call__(self, x_BTD, segments_BT, mix: attention.Mix | None = None):
    c = self.config
    init = nn.initializers.normal(c.init_std)
    zeros = nn.initializers.zeros
    inward = (c.width, c.heads, c.head_dim), ("embed", "heads", "head_dim")
    outward = (c.heads, c.head_dim, c.width), ("heads", "head_dim", "embed")
    is_kernel = self.implementation in attention.KERNELS
    product = functools.partial(layers.product, on_cpu=self.platform.cpu_products)

    def project(name):
      w_DHK = layers.matrix(self, name, init, *inward, self.dtype)
      # "bias" for the head dimension: with it, it would count as a matrix.
      b_HK = layers.parameter(self, f"{name}_bias", zeros, inward[0][1:], ("heads", "bias"))
      x_BTHK = product("BTD,DHK->BTHK", x_BTD, w_DHK)
      x_BTHK += b_HK.astype(self.dtype)
      if c.qk_norm and name != "value":
        x_BTHK = layers.RMSNorm(c.norm_eps, name=f"{name}_norm")(x_BTHK)
      # The kernel names what it reads and gives.
      return x_BTHK if is_kernel else checkpoint_name(x_BTHK, "projection")

    scale = self.scales.attention * c.head_dim**-0.5
    q_BTHK, k_BTHK, v_BTHK = map(project, ("query", "key", "value"))
    # Kept only where the caller asks for "intermediates".
    self.sow("intermediates", "query", q_BTHK)
    self.sow("intermediates", "key", k_BTHK)
    mixed_BTHK, kept = attention.mix_values(
      (q_BTHK, k_BTHK, v_BTHK),
      mix,
      segments_BT=segments_BT,
      implementation=self.implementation,
      scale=scale,
    )
    w_HKD = layers.matrix(self, "out", _residual(c), *outward, self.dtype)
    b_D = layers.parameter(self, "out_bias", zeros, (c.width,), ("norm",))
    out_BTD = product("BTHK,HKD->BTD", mixed_BTHK, w_HKD)
    return out_BTD + b_D.astype(self.dtype), kept


class Mlp(nn.Module):
  """down(gelu(up(x))), the GELU by tanh."""

  config: Gpt2Config
  dtype: Any
  on_cpu: bool

  @nn.compact
  def __call__(self, x_BTD: jax.Array) -> jax.Array:
    c, zeros = self.config, nn.initializers.zeros
    init = nn.initializers.normal(c.init_std)
    inward = (c.width, c.mlp_dim), ("embed", "mlp")
    outward = (c.mlp_dim, c.width), ("mlp", "embed")

    up_DF = layers.matrix(self, "up", init, *inward, self.dtype)
    up_F = layers.parameter(self, "up_bias", zeros, (c.mlp_dim,), ("mlp",))
    down_FD = layers.matrix(self, "down", _residual(c), *outward, self.dtype)
    down_D = layers.parameter(self, "down_bias", zeros, (c.width,), ("norm",))
    product = functools.partial(layers.product, on_cpu=self.on_cpu)
    up_BTF = product("BTD,DF->BTF", x_BTD, up_DF) + up_F.astype(self.dtype)
    up_BTF = checkpoint_name(up_BTF, "mlp")
    hidden_BTF = jax.nn.gelu(up_BTF, approximate=True)
    down_BTD = product("BTF,FD->BTD", hidden_BTF, down_FD)
    return down_BTD + down_D.astype(self.dtype)


class Block(layers.Part):
  """h = x + attention(norm(x)); h + mlp(norm(h))."""

  config: Gpt2Config

  @nn.compact
  def __call__(
    self,
    x_BTD: jax.Array,
    rope: None,
    segments_BT: jax.Array | None,
    mix: attention.Mix | None = None,
  ) -> tuple[jax.Array, Any]:
    """As `llama.Block`, but that nothing is rotated (`rope`)."""
    del rope
    c = self.config
    normed_BTD = LayerNorm(c.norm_eps, name="attention_norm")(x_BTD)
    attend = self.part(Attention, "attention")
    mixed_BTD, kept = attend(normed_BTD, segments_BT, mix)
    x_BTD = checkpoint_name(x_BTD + mixed_BTD, "residual")
    normed_BTD = LayerNorm(c.norm_eps, name="mlp_norm")(x_BTD)
    mlp = Mlp(c, self.dtype, self.platform.cpu_products, name="mlp")
    x_BTD += mlp(normed_BTD)
    self.sow("intermediates", "residual", x_BTD)
    return spmd.with_logical_constraint(x_BTD, ("batch", "tokens", None)), kept


def _residual(config: Gpt2Config) -> layers.Initializer:
  """GPT-2 starts what writes to the residual stream 1 / sqrt(2 L) smaller."""
  return nn.initializers.normal(config.init_std / (2 * config.depth) ** 0.5)
