"""The discrete VAE of DALL-E, at any size (Ramesh et al. 2021, appendix A.1).

The paper's tokenizer is the size `hidden=256, vocab=8192`: 8 x 8 pixels to one
of 8,192 codes. Names of the parameters follow the released PyTorch modules, so
that a converted checkpoint needs a transposition (OIHW to HWIO) and no renaming
but that of `output.conv`.

Pixels enter as `map_pixels` of 0 to 1 and leave as the mean of a logit-Laplace
distribution. All convolutions run at the highest precision: in bfloat16, the
default of a TPU, some codes flip.

Shapes: B images, H height, W width, G grid side (H or W over factor), V codes,
C channels.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

LAPLACE_EPS = 0.1  # keeps pixels off the ends of the logit-Laplace's support

_KERNEL_AXES = ("conv_height", "conv_width", "conv_in", "conv_out")
_BIAS_AXES = ("conv_out",)


@dataclasses.dataclass(frozen=True)
class DvaeConfig:
  """Size of encoder and decoder.

  Attributes:
    vocab: codes (8,192).
    hidden: channels of the encoder's first group (256); doubles every group.
    groups: groups of residual blocks (4), each at half the resolution of the
      one before: a token is 2 ** (groups - 1) pixels wide.
    blocks: residual blocks of a group (2).
    decoder_init: channels of the decoder's first layer, the width of a code's
      embedding (128).
    post_gain: factor on each residual branch, 1 / (groups * blocks) ** 2 in
      DALL-E.
  """

  vocab: int
  hidden: int
  groups: int
  blocks: int
  decoder_init: int
  post_gain: float

  def __post_init__(self):
    for name in ("vocab", "groups", "blocks", "decoder_init"):
      if getattr(self, name) < 1:
        raise ValueError(
            f"dvae.{name} is {getattr(self, name)}; it must be at least 1"
        )
    if self.hidden < 4 or self.hidden % 4:
      raise ValueError(
          f"dvae.hidden is {self.hidden}; residual branches are a quarter as"
          " wide, so use a multiple of 4"
      )

  @property
  def factor(self) -> int:
    """Pixels of one side of a token."""
    return 2 ** (self.groups - 1)

  @property
  def widths(self) -> tuple[int, ...]:
    """Channels of each group, encoder order."""
    return tuple(self.hidden * 2**i for i in range(self.groups))


class Conv(nn.Module):
  """SAME convolution with the initialisation of DALL-E's `Conv2d`."""

  features: int
  side: int

  @nn.compact
  def __call__(self, x_BHWC: jax.Array) -> jax.Array:
    channels = x_BHWC.shape[-1]
    std = (channels * self.side**2) ** -0.5
    w = self.param(
        "w",
        nn.with_logical_partitioning(
            nn.initializers.normal(std), _KERNEL_AXES
        ),
        (self.side, self.side, channels, self.features),
        jnp.float32,
    )
    b = self.param(
        "b",
        nn.with_logical_partitioning(nn.initializers.zeros, _BIAS_AXES),
        (self.features,),
        jnp.float32,
    )
    y_BHWC = jax.lax.conv_general_dilated(
        x_BHWC,
        w,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    return y_BHWC + b


class Residual(nn.Module):
  """Four convolutions, each after a ReLU."""

  features: int
  sides: tuple[int, ...]

  @nn.compact
  def __call__(self, x_BHWC: jax.Array) -> jax.Array:
    last = len(self.sides)
    for i, side in enumerate(self.sides, start=1):
      width = self.features if i == last else self.features // 4
      x_BHWC = Conv(width, side, name=f"conv_{i}")(nn.relu(x_BHWC))
    return x_BHWC


class Block(nn.Module):
  """`id_path(x) + gain * res_path(x)`."""

  features: int
  sides: tuple[int, ...]
  gain: float

  @nn.compact
  def __call__(self, x_BHWC: jax.Array) -> jax.Array:
    residual_BHWC = Residual(self.features, self.sides, name="res_path")(x_BHWC)
    if x_BHWC.shape[-1] != self.features:
      x_BHWC = Conv(self.features, 1, name="id_path")(x_BHWC)
    return x_BHWC + self.gain * residual_BHWC


class Group(nn.Module):
  """Residual blocks at one resolution."""

  features: int
  sides: tuple[int, ...]
  config: DvaeConfig

  @nn.compact
  def __call__(self, x_BHWC: jax.Array) -> jax.Array:
    for i in range(1, self.config.blocks + 1):
      x_BHWC = Block(
          self.features, self.sides, self.config.post_gain, name=f"block_{i}"
      )(x_BHWC)
    return x_BHWC


class Encoder(nn.Module):
  """Mapped pixels [B, H, W, 3] to code logits [B, H/f, W/f, V]."""

  config: DvaeConfig

  def setup(self):
    config = self.config
    self.input = Conv(config.hidden, 7)
    self.group = [
        Group(width, (3, 3, 3, 1), config, name=f"group_{i}")
        for i, width in enumerate(config.widths, start=1)
    ]
    self.output = Conv(config.vocab, 1)

  def features(self, x_BHWC: jax.Array) -> jax.Array:
    """What the last layer reads: [B, G, G, C], not negative."""
    check_sides(x_BHWC.shape, self.config.factor)
    x_BHWC = self.input(x_BHWC)
    for i, group in enumerate(self.group):
      if i:
        x_BHWC = nn.max_pool(x_BHWC, (2, 2), strides=(2, 2))
      x_BHWC = group(x_BHWC)
    return nn.relu(x_BHWC)

  def __call__(self, x_BHWC: jax.Array) -> jax.Array:
    return self.output(self.features(x_BHWC))


class Decoder(nn.Module):
  """One-hot or relaxed codes [B, G, G, V] to pixel statistics [B, H, W, 6].

  The first three channels are the logit-Laplace's location, the last three the
  logarithm of its scale, which only the training reads.
  """

  config: DvaeConfig

  @nn.compact
  def __call__(self, z_BGGV: jax.Array) -> jax.Array:
    config = self.config
    x_BHWC = Conv(config.decoder_init, 1, name="input")(z_BGGV)
    for i, width in enumerate(reversed(config.widths), start=1):
      if i > 1:
        x_BHWC = x_BHWC.repeat(2, axis=1).repeat(2, axis=2)
      x_BHWC = Group(width, (1, 3, 3, 3), config, name=f"group_{i}")(x_BHWC)
    return Conv(6, 1, name="output")(nn.relu(x_BHWC))


def check_sides(shape: tuple[int, ...], factor: int) -> None:
  """Raises ValueError unless [.., H, W, C] is of whole tokens."""
  height, width = shape[-3:-1]
  if height % factor or width % factor:
    raise ValueError(
        f"frames are {height} x {width} pixels; a token is {factor} pixels"
        f" wide, so both must be multiples of {factor}: resize or crop them"
    )


def map_pixels(frames: jax.Array) -> jax.Array:
  """uint8 pixels to float32 in [eps, 1 - eps] (DALL-E `map_pixels`)."""
  unit = frames.astype(jnp.float32) / 255.0
  return (1 - 2 * LAPLACE_EPS) * unit + LAPLACE_EPS


def unmap_pixels(mapped: jax.Array) -> jax.Array:
  """Inverse of `map_pixels` without rounding: float32, not clipped."""
  return (mapped - LAPLACE_EPS) / (1 - 2 * LAPLACE_EPS)


def init(config: DvaeConfig, key: jax.Array) -> Any:
  """Fresh parameters {"encoder", "decoder"}, boxed with their axis names."""
  encoder_key, decoder_key = jax.random.split(key)
  side = config.factor
  x_BHWC = jnp.zeros((1, side, side, 3), jnp.float32)
  z_BGGV = jnp.zeros((1, 1, 1, config.vocab), jnp.float32)
  return {
      "encoder": Encoder(config).init(encoder_key, x_BHWC)["params"],
      "decoder": Decoder(config).init(decoder_key, z_BGGV)["params"],
  }


def logits(
    config: DvaeConfig, params: Any, frames_BHWC: jax.Array
) -> jax.Array:
  """Code logits [B, G, G, V] of uint8 frames."""
  x_BHWC = map_pixels(frames_BHWC)
  return Encoder(config).apply({"params": params["encoder"]}, x_BHWC)


def features(
    config: DvaeConfig, params: Any, frames_BHWC: jax.Array
) -> jax.Array:
  """What the encoder's last layer reads for uint8 frames: [B, G, G, C]."""
  x_BHWC = map_pixels(frames_BHWC)
  variables = {"params": params["encoder"]}
  return Encoder(config).apply(variables, x_BHWC, method=Encoder.features)


def statistics(config: DvaeConfig, params: Any, z_BGGV: jax.Array) -> jax.Array:
  """Pixel statistics [B, H, W, 6] of one-hot or relaxed codes."""
  return Decoder(config).apply({"params": params["decoder"]}, z_BGGV)


def pixels(statistics_BHWC: jax.Array) -> jax.Array:
  """The location of pixel statistics as colours in 0 to 1, clipped."""
  location = nn.sigmoid(statistics_BHWC[..., :3])
  return jnp.clip(unmap_pixels(location), 0.0, 1.0)
