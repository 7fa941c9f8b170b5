"""The networks of tokenizers of clips: VidTok's (FSQ, causal) and Cosmos DV.

No frame is changed by a later one, on the way to the codes. Modules take the
frames of all clips as images, [M, H, W, C] with M = B * T, so that what is of
one frame is the module of `vqgan_modules`; the others are told T. The modules
leave the precision of their products to the caller. `families` has the
publishers' names for the parameters.

Shapes: B clips, T frames, M frames of all clips, H height, W width, C channels.
"""

from collections.abc import Callable
import dataclasses
import functools
import operator

import flax.linen as nn
import jax
import jax.numpy as jnp

from totojax.config.model import LatentSpec
from totojax.tokenizers import convolution
from totojax.tokenizers.convolution import doubled, swish
from totojax.tokenizers.families import FAMILIES, Family
from totojax.tokenizers.quantisers import Fsq
from totojax.tokenizers.vqgan_modules import Attention, Conv, Norm, ResBlock, Style

_TAPS = 3  # frames of a kernel


@dataclasses.dataclass(frozen=True)
class CausalConfig:
  """Size of a tokenizer of clips.

  A file states of the fields with a default those alone that differ from it.
  """

  family: str  # of `families.FAMILIES`
  levels: tuple[int, ...]  # of the channels of a code (8, 8, 8, 8)
  z: int  # channels that the encoder gives and the decoder takes
  channels: int  # that `multipliers` and `stem` count (128)
  multipliers: tuple[int, ...]  # of the channels, a level each, finest first (1, 2, 4, 4)
  blocks: int  # residual blocks of a level of the encoder (2); the decoder has one more
  # Levels, 0 the finest, after which the encoder halves height and width, or the
  # frames, and those after which the decoder doubles them.
  space_down: tuple[int, ...]
  space_up: tuple[int, ...]
  time_down: tuple[int, ...]
  time_up: tuple[int, ...]
  stem: int = 1  # multiplier of the encoder's first convolution
  patch: int = 1  # side of a Haar patch, in pixels and frames (Cosmos: 4)

  def __post_init__(self):
    clips = [name for name, family in FAMILIES.items() if family.clips]
    if self.family not in clips:
      raise ValueError(f"causal.family {self.family!r} is unknown; use one of {', '.join(clips)}")
    for name in ("z", "channels", "blocks", "stem", "patch"):
      if getattr(self, name) < 1:
        raise ValueError(f"causal.{name} is {getattr(self, name)}; it must be at least 1")
    if not self.multipliers or min(self.multipliers) < 1:
      raise ValueError(
        f"causal.multipliers are {self.multipliers}; give one of at least 1 for each level"
      )
    for name in ("space", "time"):
      down, up = getattr(self, f"{name}_down"), getattr(self, f"{name}_up")
      last = len(self.multipliers) - 1
      # The encoder's last level and the decoder's have nothing after them.
      if len(down) != len(up) or {*down} - {*range(last)} or {*up} - {*range(1, last + 1)}:
        raise ValueError(
          f"causal.{name}_down is {down} and causal.{name}_up {up}; give as many levels of the"
          f" encoder, of 0 to {last - 1}, as of the decoder, of 1 to {last}"
        )
    if not self.design.factorised and self.z != self.embed:
      raise ValueError(
        f"causal.z is {self.z}; {self.design.what} quantises it: give {self.embed}, as many as"
        " causal.levels"
      )
    if not self.latents.is_temporal:
      raise ValueError("causal.time_down and causal.patch leave every frame to itself; shrink time")
    _ = self.quantiser  # whose levels are possible

  @property
  def design(self) -> Family:
    """What every size of its family shares."""
    return FAMILIES[self.family]

  @property
  def quantiser(self) -> Fsq:
    return Fsq(self.levels)

  @property
  def vocab(self) -> int:
    """Number of codes."""
    return self.quantiser.vocab

  @property
  def embed(self) -> int:
    """Channels of a code."""
    return len(self.levels)

  @property
  def widths(self) -> tuple[int, ...]:
    """Channels of each level, finest first."""
    return tuple(self.channels * m for m in self.multipliers)

  @property
  def factor(self) -> int:
    """Pixels of one side of a token."""
    return self.patch * 2 ** len(self.space_down)

  @property
  def frame_factor(self) -> int:
    """Frames from one latent frame to the next; the first holds one alone."""
    return self.patch * 2 ** len(self.time_down)

  @property
  def latents(self) -> LatentSpec:
    """How codes lie over the frames of a clip."""
    return LatentSpec(frame_factor=self.frame_factor)


def clips(x_MHWC: jax.Array, frames: int) -> jax.Array:
  """[B, T, H, W, C] of the frames of all clips, T of each."""
  return x_MHWC.reshape(-1, frames, *x_MHWC.shape[1:])


def images(x_BTHWC: jax.Array) -> jax.Array:
  """The inverse of `clips`."""
  return x_BTHWC.reshape(-1, *x_BTHWC.shape[2:])


def led(x_BTHWC: jax.Array, frames: int, *, repeats: bool) -> jax.Array:
  """Clips behind so many zeros, or copies of their first frame."""
  first_B1HWC = x_BTHWC[:, :1] if repeats else jnp.zeros_like(x_BTHWC[:, :1])
  return jnp.concatenate([first_B1HWC] * frames + [x_BTHWC], axis=1)


def _every(x_BTHWC: jax.Array, first: int, count: int, stride: int) -> jax.Array:
  """`count` frames from the first on."""
  return x_BTHWC[:, first : first + (count - 1) * stride + 1 : stride]


@dataclasses.dataclass(frozen=True)
class Time:
  """What a module has to know of the frames."""

  frames: int  # of each clip
  repeats: bool  # `families.Family.repeats`


class CausalConv(nn.Module):
  """Convolution of a frame and the two before it.

  At stride 2 one frame less stands before a clip: the last of each two frames
  ends a kernel.
  """

  features: int
  side: int
  time: Time
  stride: int = 1

  @nn.compact
  def __call__(self, x_MHWC: jax.Array) -> jax.Array:
    uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    sides = (self.side, self.side) if self.side > 1 else ()
    shape = (_TAPS, *sides, x_MHWC.shape[-1], self.features)
    weight, bias = convolution.parameters(self, ("weight", "bias"), shape, uniform)
    led_BTHWC = led(clips(x_MHWC, self.time.frames), _TAPS - self.stride, repeats=self.time.repeats)
    pad = (self.side // 2, self.side // 2)
    y_BTHWC = convolution.convolve_frames(led_BTHWC, weight, stride=self.stride, padding=pad)
    return images(y_BTHWC) + bias


class Factorised(nn.Module):
  """A convolution over space, and then one over time (Cosmos)."""

  features: int
  time: Time

  @nn.compact
  def __call__(self, x_MHWC: jax.Array) -> jax.Array:
    x_MHWC = Conv(self.features, 3, 1, name="space")(x_MHWC)
    return CausalConv(self.features, 1, self.time, name="time")(x_MHWC)


@dataclasses.dataclass(frozen=True)
class ClipStyle(Style):
  """What the blocks of a network share, where convolutions may be over time.

  Attributes:
    groups: of group norms over a frame; 0: a layer norm at each position.
    over: of the convolutions: "space", "time", "both", or "factorised".
    time: of the clips.
  """

  over: str = "space"
  time: Time = Time(1, False)

  def norm(self, name: str, x_BHWC: jax.Array, codes_BGGE: jax.Array | None) -> jax.Array:
    return Norm(self.groups, name=name)(x_BHWC)

  def conv(self, name: str, features: int) -> Callable[[jax.Array], jax.Array]:
    match self.over:
      case "space":
        return Conv(features, 3, 1, name=name)
      case "time":
        return CausalConv(features, 1, self.time, name=name)
      case "both":
        return CausalConv(features, 3, self.time, name=name)
    return Factorised(features, self.time, name=name)


class TimeAttention(Attention):
  """Single-head attention of each place over its frames, none of them later."""

  frames: int = 1

  def mixed(self, *qkv_BHWC: jax.Array) -> jax.Array:
    q_BTHWC, k_BSHWC, v_BSHWC = (clips(x_MHWC, self.frames) for x_MHWC in qkv_BHWC)
    scores_BHWTS = jnp.einsum("bthwc,bshwc->bhwts", q_BTHWC, k_BSHWC) * q_BTHWC.shape[-1] ** -0.5
    seen_TS = jnp.tri(self.frames, dtype=bool)
    shares_BHWTS = nn.softmax(jnp.where(seen_TS, scores_BHWTS, -jnp.inf))
    return images(jnp.einsum("bhwts,bshwc->bthwc", shares_BHWTS, v_BSHWC))


class CausalMiddle(nn.Module):
  """A residual block, attention in each frame (and over time), and a block."""

  style: ClipStyle

  @nn.compact
  def __call__(self, x_MHWC: jax.Array) -> jax.Array:
    channels = x_MHWC.shape[-1]
    x_MHWC = ResBlock(channels, self.style, name="block_1")(x_MHWC)
    x_MHWC = Attention(self.style, name="attn_1")(x_MHWC)
    if self.style.over == "factorised":
      x_MHWC = TimeAttention(self.style, self.style.time.frames, name="attn_temporal")(x_MHWC)
    return ResBlock(channels, self.style, name="block_2")(x_MHWC)


class HalvedTime(nn.Module):
  """VidTok's: the mean of three frames, mixed with their convolution."""

  time: Time

  @nn.compact
  def __call__(self, x_MHWC: jax.Array) -> jax.Array:
    frames, repeats = self.time.frames, self.time.repeats
    led_BTHWC = led(clips(x_MHWC, frames), 1, repeats=repeats)
    taps = (_every(led_BTHWC, tap, frames // 2, 2) for tap in range(_TAPS))
    mean_BTHWC = functools.reduce(operator.add, taps) / _TAPS
    conv = CausalConv(x_MHWC.shape[-1], 3, self.time, stride=2, name="conv")
    return _mix(self, images(mean_BTHWC), conv(x_MHWC))


class DoubledTime(nn.Module):
  """VidTok's: twice the frames, mixed with their convolution.

  Attributes:
    time: of what it takes.
    first: frames, of the first latent frame, that are doubled apart.
  """

  time: Time
  first: int

  @nn.compact
  def __call__(self, x_MHWC: jax.Array) -> jax.Array:
    frames, repeats = self.time.frames, self.time.repeats
    x_BTHWC = clips(x_MHWC, frames)
    if repeats:
      parts = (x_BTHWC[:, : self.first], x_BTHWC[:, self.first :])
      x_BTHWC = jnp.concatenate([_interpolated(part) for part in parts], axis=1)
    else:
      x_BTHWC = x_BTHWC.repeat(2, axis=1)
    x_MHWC = images(x_BTHWC)
    conv = CausalConv(x_MHWC.shape[-1], 3, Time(2 * frames, repeats), name="conv")
    return _mix(self, x_MHWC, conv(x_MHWC))


def _mix(module: nn.Module, plain_MHWC: jax.Array, convolved_MHWC: jax.Array) -> jax.Array:
  """Both, by a learnt share."""
  zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("bias",))
  share_1 = jax.nn.sigmoid(module.param("mix_factor", zeros, (1,), jnp.float32, unbox=True))
  return share_1 * plain_MHWC + (1.0 - share_1) * convolved_MHWC


def _interpolated(x_BTHWC: jax.Array) -> jax.Array:
  """Twice the frames: three quarters of each, and one of the frame beside it."""
  if not x_BTHWC.shape[1]:
    return x_BTHWC
  before_BTHWC = jnp.concatenate([x_BTHWC[:, :1], x_BTHWC[:, :-1]], axis=1)
  after_BTHWC = jnp.concatenate([x_BTHWC[:, 1:], x_BTHWC[:, -1:]], axis=1)
  pairs = [0.75 * x_BTHWC + 0.25 * beside for beside in (before_BTHWC, after_BTHWC)]
  batch, frames, *shape = x_BTHWC.shape
  return jnp.stack(pairs, axis=2).reshape(batch, 2 * frames, *shape)


class Halved(nn.Module):
  """Cosmos': the mean of what becomes one, beside its convolution."""

  space: bool
  in_time: bool
  time: Time

  @nn.compact
  def __call__(self, x_MHWC: jax.Array) -> jax.Array:
    channels = x_MHWC.shape[-1]
    if self.space:
      mean_MHWC = nn.avg_pool(x_MHWC, (2, 2), strides=(2, 2))
      x_MHWC = Conv(channels, 3, 2, name="conv1")(x_MHWC) + mean_MHWC
    if self.in_time:
      # The first frame holds itself alone.
      x_BTHWC = led(clips(x_MHWC, self.time.frames), 1, repeats=True)
      time = Time(x_BTHWC.shape[1], self.time.repeats)
      mean_BTHWC = (x_BTHWC[:, ::2] + x_BTHWC[:, 1::2]) / 2.0
      conv = CausalConv(channels, 1, time, stride=2, name="conv2")
      x_MHWC = conv(images(x_BTHWC)) + images(mean_BTHWC)
    return Conv(channels, 1, 1, name="conv3")(x_MHWC)


class Doubled(nn.Module):
  """Cosmos': each repeated, and its convolution added. T becomes 2 T - 1."""

  space: bool
  in_time: bool
  time: Time

  @nn.compact
  def __call__(self, x_MHWC: jax.Array) -> jax.Array:
    channels = x_MHWC.shape[-1]
    if self.in_time:
      x_BTHWC = clips(x_MHWC, self.time.frames).repeat(2, axis=1)[:, 1:]
      time = Time(x_BTHWC.shape[1], self.time.repeats)
      x_MHWC = images(x_BTHWC)
      x_MHWC = x_MHWC + CausalConv(channels, 1, time, name="conv1")(x_MHWC)
    if self.space:
      x_MHWC = doubled(x_MHWC) + Conv(channels, 3, 1, doubles=True, name="conv2")(x_MHWC)
    return Conv(channels, 1, 1, name="conv3")(x_MHWC)


def _style(config: CausalConfig, frames: int) -> ClipStyle:
  """Of the convolutions at the ends and in the middle."""
  time = Time(frames, config.design.repeats)
  if config.design.factorised:
    return ClipStyle(groups=1, over="factorised", time=time)
  return ClipStyle(groups=0, over="both", time=time)


def _level(
  x_MHWC: jax.Array, width: int, blocks: int, style: ClipStyle, *, names: tuple[str, str]
) -> jax.Array:
  """Residual blocks at one resolution: VidTok's over space and time in turn.

  Args:
    x_MHWC: what they take; in a module.
    width: their channels.
    blocks: how many, of each sort.
    style: of the network.
    names: of those over space (Cosmos: all), and of those over time.
  """
  if style.over == "factorised":
    styles = (style,)
  else:
    styles = tuple(dataclasses.replace(style, over=over) for over in ("space", "time"))
  for i in range(blocks):
    for each, name in zip(styles, names):
      x_MHWC = ResBlock(width, each, name=f"{name}_block_{i}")(x_MHWC)
  return x_MHWC


class CausalEncoder(nn.Module):
  """Pixels or patches [B, T, H, W, C], of -1 to 1, to [B, T', G, G, z].

  VidTok's T is a multiple of its frame factor, Cosmos' one more than a multiple
  of what its levels make one.
  """

  config: CausalConfig

  @nn.compact
  def __call__(self, x_BTHWC: jax.Array) -> jax.Array:
    config, frames = self.config, x_BTHWC.shape[1]
    style = _style(config, frames)
    x_MHWC = style.conv("conv_in", config.stem * config.channels)(images(x_BTHWC))
    for i, width in enumerate(config.widths):
      names = (f"down_{i}", f"down_temporal_{i}")
      x_MHWC = _level(x_MHWC, width, config.blocks, style, names=names)
      space, in_time = i in config.space_down, i in config.time_down
      if config.design.factorised:
        if space or in_time:
          x_MHWC = Halved(space, in_time, style.time, name=f"downsample_{i}")(x_MHWC)
        frames = (frames + 1) // 2 if in_time else frames
      else:
        if space:
          x_MHWC = Conv(width, 3, 2, name=f"downsample_{i}")(x_MHWC)
        if in_time:
          x_MHWC = HalvedTime(style.time, name=f"downsample_temporal_{i}")(x_MHWC)
          frames //= 2
      style = _style(config, frames)
    x_MHWC = CausalMiddle(style, name="mid")(x_MHWC)
    x_MHWC = swish(style.norm("norm_out", x_MHWC, None))
    return clips(style.conv("conv_out", config.z)(x_MHWC), frames)


class CausalDecoder(nn.Module):
  """[B, T', G, G, z] to pixels or patches [B, T, H, W, C]; T as the encoder's."""

  config: CausalConfig

  @nn.compact
  def __call__(self, z_BTGGz: jax.Array) -> jax.Array:
    config, frames, first = self.config, z_BTGGz.shape[1], 1
    style = _style(config, frames)
    x_MHWC = style.conv("conv_in", config.widths[-1])(images(z_BTGGz))
    x_MHWC = CausalMiddle(style, name="mid")(x_MHWC)
    for i, width in reversed(list(enumerate(config.widths))):
      names = (f"up_{i}", f"up_temporal_{i}")
      x_MHWC = _level(x_MHWC, width, config.blocks + 1, style, names=names)
      space, in_time = i in config.space_up, i in config.time_up
      if config.design.factorised:
        if space or in_time:
          x_MHWC = Doubled(space, in_time, style.time, name=f"upsample_{i}")(x_MHWC)
        frames = 2 * frames - 1 if in_time else frames
      else:
        if space:
          x_MHWC = Conv(width, 3, 1, doubles=True, name=f"upsample_{i}")(x_MHWC)
        if in_time:
          x_MHWC = DoubledTime(style.time, first, name=f"upsample_temporal_{i}")(x_MHWC)
          frames, first = 2 * frames, 2 * first
      style = _style(config, frames)
    x_MHWC = swish(style.norm("norm_out", x_MHWC, None))
    return clips(style.conv("conv_out", 3 * config.patch**3)(x_MHWC), frames)
