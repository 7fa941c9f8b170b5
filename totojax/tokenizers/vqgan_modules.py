"""The network of the VQGAN of taming transformers (see `vqgan`).

Names of the parameters follow the released PyTorch modules, with an underscore
where those have a list ("down_0" for "down.0"). The modules leave the precision
of their products to the caller.

Shapes: B images, H height, W width, C channels, T and S positions of an image.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from totojax.tokenizers import api, convolution

_NORM_GROUPS = 32


@dataclasses.dataclass(frozen=True)
class VqganConfig:
  """Size of a VQGAN."""

  vocab: int  # codes, `n_embed` in taming (1,024 or 16,384)
  embed: int  # dimension of a code (256)
  z: int  # channels that the encoder gives and the decoder takes (256)
  channels: int  # of the first level (128)
  # Of the channels, a level each, highest resolution first (1, 1, 2, 2, 4);
  # each level has half the resolution of the one before.
  multipliers: tuple[int, ...]
  blocks: int  # residual blocks of a level of the encoder (2); the decoder has one more
  # Levels whose blocks are followed by attention, 0 the first; (4,) in the
  # released models: taming places it by the resolution that it was configured
  # for (16 of 256), whatever the frames' size is.
  attention: tuple[int, ...]

  def __post_init__(self):
    for name in ("vocab", "embed", "z", "channels", "blocks"):
      if getattr(self, name) < 1:
        raise ValueError(f"vqgan.{name} is {getattr(self, name)}; it must be at least 1")
    if not self.multipliers or min(self.multipliers) < 1:
      raise ValueError(
        f"vqgan.multipliers are {self.multipliers}; give one of at least 1 for each level"
      )
    if any(width % _NORM_GROUPS for width in self.widths):
      raise ValueError(
        f"vqgan.channels x multipliers are {self.widths}; group"
        f" normalisation needs multiples of {_NORM_GROUPS}"
      )
    if not set(self.attention) <= set(range(len(self.multipliers))):
      raise ValueError(
        f"vqgan.attention is {self.attention}; the levels are 0 to {len(self.multipliers) - 1}"
      )

  @property
  def widths(self) -> tuple[int, ...]:
    """Channels of each level, highest resolution first."""
    return tuple(self.channels * m for m in self.multipliers)

  @property
  def factor(self) -> int:
    """Pixels of one side of a token."""
    return 2 ** (len(self.multipliers) - 1)


class Conv(nn.Module):
  """Convolution that keeps the resolution, or halves it at stride 2.

  At stride 2 the padding is on the right and at the bottom alone, as in taming.
  """

  features: int
  side: int
  stride: int

  @nn.compact
  def __call__(self, x_BHWC: jax.Array) -> jax.Array:
    uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    shape = (self.side, self.side, x_BHWC.shape[-1], self.features)
    weight, bias = convolution.parameters(self, ("weight", "bias"), shape, uniform)
    half = self.side // 2
    pad = (half, half) if self.stride == 1 else (0, half)
    y_BHWC = convolution.convolve(x_BHWC, weight, stride=self.stride, padding=pad)
    return y_BHWC + bias


# Variance as the mean of squared deviations: the fast one cancels digits.
Norm = functools.partial(
  nn.GroupNorm,
  num_groups=_NORM_GROUPS,
  epsilon=1e-6,
  use_fast_variance=False,
  scale_init=nn.with_logical_partitioning(nn.initializers.ones, ("norm",)),
  bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("norm",)),
)


class ResBlock(nn.Module):
  """Two convolutions, each after normalisation and swish, beside the input."""

  features: int

  @nn.compact
  def __call__(self, x_BHWC: jax.Array) -> jax.Array:
    y_BHWC = nn.swish(Norm(name="norm1")(x_BHWC))
    y_BHWC = Conv(self.features, 3, 1, name="conv1")(y_BHWC)
    y_BHWC = nn.swish(Norm(name="norm2")(y_BHWC))
    y_BHWC = Conv(self.features, 3, 1, name="conv2")(y_BHWC)
    if x_BHWC.shape[-1] != self.features:
      x_BHWC = Conv(self.features, 1, 1, name="nin_shortcut")(x_BHWC)
    return x_BHWC + y_BHWC


class Attention(nn.Module):
  """Single-head attention over all positions of an image."""

  @nn.compact
  def __call__(self, x_BHWC: jax.Array) -> jax.Array:
    batch, height, width, channels = x_BHWC.shape
    y_BHWC = Norm(name="norm")(x_BHWC)
    q_BTC, k_BSC, v_BSC = (
      Conv(channels, 1, 1, name=name)(y_BHWC).reshape(batch, -1, channels) for name in "qkv"
    )
    scores_BTS = jnp.einsum("btc,bsc->bts", q_BTC, k_BSC) * channels**-0.5
    mixed_BTC = jnp.einsum("bts,bsc->btc", nn.softmax(scores_BTS), v_BSC)
    mixed_BHWC = mixed_BTC.reshape(batch, height, width, channels)
    return x_BHWC + Conv(channels, 1, 1, name="proj_out")(mixed_BHWC)


class Level(nn.Module):
  """Residual blocks at one resolution."""

  features: int
  blocks: int
  attention: bool

  @nn.compact
  def __call__(self, x_BHWC: jax.Array) -> jax.Array:
    for i in range(self.blocks):
      x_BHWC = ResBlock(self.features, name=f"block_{i}")(x_BHWC)
      if self.attention:
        x_BHWC = Attention(name=f"attn_{i}")(x_BHWC)
    return x_BHWC


class Middle(nn.Module):
  """A residual block, attention and a residual block."""

  @nn.compact
  def __call__(self, x_BHWC: jax.Array) -> jax.Array:
    channels = x_BHWC.shape[-1]
    x_BHWC = ResBlock(channels, name="block_1")(x_BHWC)
    x_BHWC = Attention(name="attn_1")(x_BHWC)
    return ResBlock(channels, name="block_2")(x_BHWC)


class VqganEncoder(nn.Module):
  """Pixels [B, H, W, 3] in -1 to 1, to [B, H/f, W/f, z]."""

  config: VqganConfig

  @nn.compact
  def __call__(self, x_BHWC: jax.Array) -> jax.Array:
    config = self.config
    api.check_sides(x_BHWC.shape, config.factor)
    x_BHWC = Conv(config.channels, 3, 1, name="conv_in")(x_BHWC)
    for i, width in enumerate(config.widths):
      if i:
        below = config.widths[i - 1]
        x_BHWC = Conv(below, 3, 2, name=f"downsample_{i - 1}")(x_BHWC)
      x_BHWC = Level(width, config.blocks, i in config.attention, name=f"down_{i}")(x_BHWC)
    x_BHWC = Middle(name="mid")(x_BHWC)
    x_BHWC = nn.swish(Norm(name="norm_out")(x_BHWC))
    return Conv(config.z, 3, 1, name="conv_out")(x_BHWC)


class VqganDecoder(nn.Module):
  """[B, G, G, z] to pixels [B, H, W, 3], around -1 to 1."""

  config: VqganConfig

  @nn.compact
  def __call__(self, x_BHWC: jax.Array) -> jax.Array:
    config = self.config
    x_BHWC = Conv(config.widths[-1], 3, 1, name="conv_in")(x_BHWC)
    x_BHWC = Middle(name="mid")(x_BHWC)
    for i, width in reversed(list(enumerate(config.widths))):
      x_BHWC = Level(width, config.blocks + 1, i in config.attention, name=f"up_{i}")(x_BHWC)
      if i:
        x_BHWC = x_BHWC.repeat(2, axis=1).repeat(2, axis=2)
        x_BHWC = Conv(width, 3, 1, name=f"upsample_{i}")(x_BHWC)
    x_BHWC = nn.swish(Norm(name="norm_out")(x_BHWC))
    return Conv(3, 3, 1, name="conv_out")(x_BHWC)
