"""The network of the discrete VAE of DALL-E (see `dvae`).

Names of the parameters follow the released PyTorch modules. The modules leave
the precision of their convolutions to the caller.

Shapes: B images, H height, W width, G grid side (H or W over factor), V codes,
C channels.
"""

import flax.linen as nn
import jax

from totojax.config.tokens import DvaeConfig
from totojax.tokenizers import api, convolution


class Conv(nn.Module):
  """SAME convolution, by default with the initialisation of DALL-E's `Conv2d`."""

  features: int
  side: int
  start: nn.initializers.Initializer | None = None

  @nn.compact
  def __call__(self, x_BHWC: jax.Array) -> jax.Array:
    channels = x_BHWC.shape[-1]
    std = (channels * self.side**2) ** -0.5
    shape = (self.side, self.side, channels, self.features)
    start = self.start or nn.initializers.normal(std)
    w, b = convolution.parameters(self, ("w", "b"), shape, start)
    half = self.side // 2  # sides are odd
    y_BHWC = convolution.convolve(x_BHWC, w, stride=1, padding=(half, half))
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
      x_BHWC = Block(self.features, self.sides, self.config.post_gain, name=f"block_{i}")(x_BHWC)
    return x_BHWC


class DvaeEncoder(nn.Module):
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
    api.check_sides(x_BHWC.shape, self.config.factor)
    x_BHWC = self.input(x_BHWC)
    for i, group in enumerate(self.group):
      if i:
        x_BHWC = nn.max_pool(x_BHWC, (2, 2), strides=(2, 2))
      x_BHWC = group(x_BHWC)
    return nn.relu(x_BHWC)

  def __call__(self, x_BHWC: jax.Array) -> jax.Array:
    return self.output(self.features(x_BHWC))


class DvaeDecoder(nn.Module):
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
