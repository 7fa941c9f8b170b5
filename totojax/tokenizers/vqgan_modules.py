"""The network of VQGANs: taming's, and the families that grew out of it.

Names of the parameters follow taming's released PyTorch modules, with an
underscore where those have a list ("down_0" for "down.0"); `families` has the
other publishers' names for them. The modules leave the precision of their
products to the caller.

Shapes: B images, H height, W width, C channels, T and S positions of an image,
G grid side, E dimension of a code.
"""

from collections.abc import Callable
import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from totojax.tokenizers import convolution
from totojax.tokenizers.convolution import doubled, swish
from totojax.tokenizers.families import FAMILIES, Family
from totojax.tokenizers.quantisers import Quantiser

_NORM_GROUPS = 32  # of spatial and adaptive norms, whatever the others have


@dataclasses.dataclass(frozen=True)
class VqganConfig:
  """Size of a VQGAN.

  A file states of the fields with a default those alone that differ from it.
  """

  vocab: int  # codes, `n_embed` in taming (1,024 or 16,384)
  embed: int  # dimension of a code (256)
  z: int  # channels that the encoder gives and the decoder takes (256)
  channels: int  # that `multipliers` and `stem` count (128)
  # Of the channels, a level each, highest resolution first (1, 1, 2, 2, 4);
  # each level has half the resolution of the one before.
  multipliers: tuple[int, ...]
  blocks: int  # residual blocks of a level of the encoder (2); the decoder has one more
  # Levels whose blocks are followed by attention, 0 the first; (4,) in the
  # released models: taming places it by the resolution that it was configured
  # for (16 of 256), whatever the frames' size is.
  attention: tuple[int, ...]
  family: str = "vqgan"  # of `families.FAMILIES`
  stem: int = 1  # multiplier of the encoder's first convolution
  groups: int = 32  # of group norms
  middle_attention: bool = True  # between the two blocks of the middle
  spatial: bool = False  # the decoder's norms read the codes (MoVQ)
  patch: int = 1  # side in pixels of a Haar patch (Cosmos: 4)
  # Deepest levels that share one resolution, less one: Cosmos halves it at the
  # first levels of the encoder and doubles it at the last of the decoder.
  flat: int = 0
  levels: tuple[int, ...] = ()  # of the channels of a code, where it is an FSQ

  def __post_init__(self):
    images = [name for name, family in FAMILIES.items() if not family.clips]
    if self.family not in images:
      raise ValueError(f"vqgan.family {self.family!r} is unknown; use one of {', '.join(images)}")
    for name in ("vocab", "embed", "z", "channels", "blocks", "stem", "groups", "patch"):
      if getattr(self, name) < 1:
        raise ValueError(f"vqgan.{name} is {getattr(self, name)}; it must be at least 1")
    if not self.multipliers or min(self.multipliers) < 1:
      raise ValueError(
        f"vqgan.multipliers are {self.multipliers}; give one of at least 1 for each level"
      )
    groups = _NORM_GROUPS if self.spatial or self.design.magvit else self.groups
    if any(width % groups or width % self.groups for width in self.widths):
      raise ValueError(
        f"vqgan.channels x multipliers are {self.widths}; group normalisation needs multiples of"
        f" {max(groups, self.groups)}"
      )
    if not set(self.attention) <= set(range(len(self.multipliers))):
      raise ValueError(
        f"vqgan.attention is {self.attention}; the levels are 0 to {len(self.multipliers) - 1}"
      )
    if not 0 <= self.flat < len(self.multipliers):
      raise ValueError(
        f"vqgan.flat is {self.flat}; of {len(self.multipliers)} levels 0 to"
        f" {len(self.multipliers) - 1} can be"
      )
    told = getattr(self.quantiser, "vocab", self.vocab)
    if told != self.vocab or (self.levels and len(self.levels) != self.embed):
      raise ValueError(
        f"vqgan.vocab is {self.vocab} and vqgan.embed {self.embed}; {self.quantiser} has {told}"
        " codes: give those that belong together"
      )

  @property
  def design(self) -> Family:
    """What every size of its family shares."""
    return FAMILIES[self.family]

  @property
  def quantiser(self) -> Quantiser:
    return self.design.quantiser(self)

  @property
  def widths(self) -> tuple[int, ...]:
    """Channels of each level, highest resolution first."""
    return tuple(self.channels * m for m in self.multipliers)

  @property
  def halvings(self) -> int:
    """Of the resolution, after the patches."""
    return len(self.multipliers) - 1 - self.flat

  @property
  def factor(self) -> int:
    """Pixels of one side of a token."""
    return self.patch * 2**self.halvings


class Conv(nn.Module):
  """Convolution that keeps the resolution, or halves it at stride 2.

  At stride 2 the padding is on the right and at the bottom alone, as in taming,
  unless it is `even`. Images may be `doubled` first.
  """

  features: int
  side: int
  stride: int
  bias: bool = True
  even: bool = False
  doubles: bool = False

  @nn.compact
  def __call__(self, x_BHWC: jax.Array) -> jax.Array:
    uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    shape = (self.side, self.side, x_BHWC.shape[-1], self.features)
    names = ("weight", "bias") if self.bias else ("weight",)
    weight, *bias = convolution.parameters(self, names, shape, uniform)
    half = self.side // 2
    pad = (half, half) if self.stride == 1 or self.even else (0, half)
    if self.doubles:
      y_BHWC = convolution.convolve_doubled(x_BHWC, weight)
    else:
      y_BHWC = convolution.convolve(x_BHWC, weight, stride=self.stride, padding=pad)
    return y_BHWC + bias[0] if bias else y_BHWC


class Norm(nn.Module):
  """Group norm over an image, with a scale and a bias of each channel.

  Variance is the mean of squared deviations: less their own means cancels
  digits. Sums are of each channel first, which XLA's CPUs take in half the time
  of flax's, of groups at once (rounding alone differs).

  Attributes:
    groups: of as many channels each; 0: one of the channels of each position.
    affine: whether there are scales and biases.
  """

  groups: int
  affine: bool = True

  @nn.compact
  def __call__(self, x_BHWC: jax.Array) -> jax.Array:
    centred_BHWC = x_BHWC - self._mean(x_BHWC)
    scale = jax.lax.rsqrt(self._mean(centred_BHWC**2) + 1e-6)
    if not self.affine:
      return centred_BHWC * scale
    scale_C, bias_C = (
      self.param(
        name,
        nn.with_logical_partitioning(init, ("norm",)),
        x_BHWC.shape[-1:],
        jnp.float32,
        unbox=True,
      )
      for name, init in (("scale", nn.initializers.ones), ("bias", nn.initializers.zeros))
    )
    return centred_BHWC * (scale * scale_C) + bias_C

  def _mean(self, x_BHWC: jax.Array) -> jax.Array:
    """Of each group, or position: [B, 1, 1, C], or [B, H, W, 1]."""
    if not self.groups:
      return x_BHWC.mean(-1, keepdims=True)
    batch, _, _, channels = x_BHWC.shape
    mean_BG = x_BHWC.mean((1, 2)).reshape(batch, self.groups, -1).mean(-1)
    return mean_BG.repeat(channels // self.groups, axis=-1)[:, None, None]


def depth_to_space(x_BHWC: jax.Array) -> jax.Array:
  """[B, H, W, 4 C] to [B, 2 H, 2 W, C]: channel = (2 row + column) * C + c."""
  batch, height, width, channels = x_BHWC.shape
  x_BHW22C = x_BHWC.reshape(batch, height, width, 2, 2, channels // 4)
  return x_BHW22C.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, channels // 4)


class SpatialNorm(nn.Module):
  """Group norm, scaled and shifted by what is made of the codes (MoVQ)."""

  @nn.compact
  def __call__(self, x_BHWC: jax.Array, codes_BGGE: jax.Array) -> jax.Array:
    channels, times = x_BHWC.shape[-1], x_BHWC.shape[1] // codes_BGGE.shape[1]
    y_BHWC = Norm(_NORM_GROUPS, name="norm_layer")(x_BHWC)
    scale_BHWC, shift_BHWC = (  # a kernel of one pixel may as well come first
      doubled(Conv(channels, 1, 1, name=name)(codes_BGGE), times) for name in ("conv_y", "conv_b")
    )
    return y_BHWC * scale_BHWC + shift_BHWC


class AdaptiveNorm(nn.Module):
  """Group norm, scaled by the deviation of all codes, shifted by their mean."""

  @nn.compact
  def __call__(self, x_BHWC: jax.Array, codes_BGGE: jax.Array) -> jax.Array:
    channels = x_BHWC.shape[-1]
    std_B11E = jnp.sqrt(jnp.var(codes_BGGE, (1, 2), keepdims=True, ddof=1) + 1e-6)
    mean_B11E = jnp.mean(codes_BGGE, (1, 2), keepdims=True)
    plain = Norm(_NORM_GROUPS, affine=False, name="norm")
    scale_B11C = Conv(channels, 1, 1, name="gamma")(std_B11E)
    return scale_B11C * plain(x_BHWC) + Conv(channels, 1, 1, name="beta")(mean_B11E)


@dataclasses.dataclass(frozen=True)
class Style:
  """What the blocks of a network share."""

  groups: int
  bias: bool = True  # of the convolutions of residual blocks

  def norm(self, name: str, x_BHWC: jax.Array, codes_BGGE: jax.Array | None) -> jax.Array:
    """A group norm, or a spatial one where codes are given; in a module."""
    if codes_BGGE is None:
      return Norm(self.groups, name=name)(x_BHWC)
    return SpatialNorm(name=name)(x_BHWC, codes_BGGE)

  def conv(self, name: str, features: int) -> Callable[[jax.Array], jax.Array]:
    """A convolution of a residual block; in a module."""
    return Conv(features, 3, 1, self.bias, name=name)


class ResBlock(nn.Module):
  """Two convolutions, each after normalisation and swish, beside the input."""

  features: int
  style: Style

  @nn.compact
  def __call__(self, x_BHWC: jax.Array, codes_BGGE: jax.Array | None = None) -> jax.Array:
    norm, conv = self.style.norm, self.style.conv
    y_BHWC = swish(norm("norm1", x_BHWC, codes_BGGE))
    y_BHWC = conv("conv1", self.features)(y_BHWC)
    y_BHWC = swish(norm("norm2", y_BHWC, codes_BGGE))
    y_BHWC = conv("conv2", self.features)(y_BHWC)
    if x_BHWC.shape[-1] != self.features:
      x_BHWC = Conv(self.features, 1, 1, self.style.bias, name="nin_shortcut")(x_BHWC)
    return x_BHWC + y_BHWC


class Attention(nn.Module):
  """Single-head attention over all positions of an image."""

  style: Style

  @nn.compact
  def __call__(self, x_BHWC: jax.Array, codes_BGGE: jax.Array | None = None) -> jax.Array:
    channels = x_BHWC.shape[-1]
    y_BHWC = self.style.norm("norm", x_BHWC, codes_BGGE)
    mixed_BHWC = self.mixed(*(Conv(channels, 1, 1, name=name)(y_BHWC) for name in "qkv"))
    return x_BHWC + Conv(channels, 1, 1, name="proj_out")(mixed_BHWC)

  def mixed(self, *qkv_BHWC: jax.Array) -> jax.Array:
    """What the queries find, [B, H, W, C]."""
    batch, _, _, channels = qkv_BHWC[0].shape
    q_BTC, k_BSC, v_BSC = (x_BHWC.reshape(batch, -1, channels) for x_BHWC in qkv_BHWC)
    scores_BTS = jnp.einsum("btc,bsc->bts", q_BTC, k_BSC) * channels**-0.5
    mixed_BTC = jnp.einsum("bts,bsc->btc", nn.softmax(scores_BTS), v_BSC)
    return mixed_BTC.reshape(qkv_BHWC[0].shape)


class Level(nn.Module):
  """Residual blocks at one resolution."""

  features: int
  blocks: int
  attention: bool
  style: Style

  @nn.compact
  def __call__(self, x_BHWC: jax.Array, codes_BGGE: jax.Array | None = None) -> jax.Array:
    for i in range(self.blocks):
      x_BHWC = ResBlock(self.features, self.style, name=f"block_{i}")(x_BHWC, codes_BGGE)
      if self.attention:
        x_BHWC = Attention(self.style, name=f"attn_{i}")(x_BHWC, codes_BGGE)
    return x_BHWC


class Middle(nn.Module):
  """A residual block, attention and a residual block."""

  attention: bool
  style: Style

  @nn.compact
  def __call__(self, x_BHWC: jax.Array, codes_BGGE: jax.Array | None = None) -> jax.Array:
    channels = x_BHWC.shape[-1]
    x_BHWC = ResBlock(channels, self.style, name="block_1")(x_BHWC, codes_BGGE)
    if self.attention:
      x_BHWC = Attention(self.style, name="attn_1")(x_BHWC, codes_BGGE)
    return ResBlock(channels, self.style, name="block_2")(x_BHWC, codes_BGGE)


def _middle(config: VqganConfig, style: Style) -> nn.Module:
  if config.design.magvit:
    return Level(config.widths[-1], config.blocks, False, style, name="mid")
  return Middle(config.middle_attention, style, name="mid")


class VqganEncoder(nn.Module):
  """Pixels or patches [B, H, W, C], of -1 to 1, to [B, G, G, z]."""

  config: VqganConfig

  @nn.compact
  def __call__(self, x_BHWC: jax.Array) -> jax.Array:
    config, magvit = self.config, self.config.design.magvit
    style = Style(config.groups, bias=not magvit)
    x_BHWC = Conv(config.stem * config.channels, 3, 1, not magvit, name="conv_in")(x_BHWC)
    for i, width in enumerate(config.widths):
      x_BHWC = Level(width, config.blocks, i in config.attention, style, name=f"down_{i}")(x_BHWC)
      if i < config.halvings:
        x_BHWC = Conv(width, 3, 2, even=magvit, name=f"downsample_{i}")(x_BHWC)
    x_BHWC = _middle(config, style)(x_BHWC)
    x_BHWC = swish(style.norm("norm_out", x_BHWC, None))
    return Conv(config.z, 1 if magvit else 3, 1, name="conv_out")(x_BHWC)


class VqganDecoder(nn.Module):
  """[B, G, G, z], and the codes' values, to pixels or patches [B, H, W, C]."""

  config: VqganConfig

  @nn.compact
  def __call__(self, x_BHWC: jax.Array, codes_BGGE: jax.Array) -> jax.Array:
    config, magvit = self.config, self.config.design.magvit
    style = Style(config.groups, bias=not magvit)
    read = codes_BGGE if config.spatial else None  # by the norms
    x_BHWC = Conv(config.widths[-1], 3, 1, name="conv_in")(x_BHWC)
    x_BHWC = _middle(config, style)(x_BHWC, read)
    for i, width in reversed(list(enumerate(config.widths))):
      if magvit:
        x_BHWC = AdaptiveNorm(name=f"adaptive_{i}")(x_BHWC, codes_BGGE)
      blocks = config.blocks + (not magvit)
      level = Level(width, blocks, i in config.attention, style, name=f"up_{i}")
      x_BHWC = level(x_BHWC, read)
      if i >= len(config.widths) - config.halvings:
        name = f"upsample_{i}"
        if magvit:
          x_BHWC = depth_to_space(Conv(4 * width, 3, 1, name=name)(x_BHWC))
        else:
          x_BHWC = Conv(width, 3, 1, doubles=True, name=name)(x_BHWC)
    x_BHWC = swish(style.norm("norm_out", x_BHWC, read))
    return Conv(3 * config.patch**2, 3, 1, name="conv_out")(x_BHWC)
