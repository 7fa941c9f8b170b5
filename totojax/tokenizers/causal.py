"""Tokenizers of clips whose later frames change no earlier code.

VidTok (FSQ, causal, 4 x 8 x 8) and Cosmos DV. A clip has 1 + k f frames, of
which the first is a latent frame of its own, and each f after it make another.
Use the functions below, not the modules: they set the precision of the
products, which must be the highest, or codes flip.

Shapes: B clips, T frames, L latent frames, H height, W width, C channels, G grid
side (H or W over factor), E channels of a code, z of the encoder's output.
"""

from collections.abc import Mapping
import functools
import re
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from totojax import tree as tree_lib
from totojax.tokenizers import api, haar
from totojax.tokenizers.causal_modules import CausalConfig, CausalDecoder, CausalEncoder, led
from totojax.tokenizers.released import reference
from totojax.tokenizers.vqgan_modules import Conv

_TIME_HEIGHT_WIDTH = (1, 2, 3)  # axes of a Haar patch, the most significant first
# Convolutions of a Cosmos, of which its compression leaves some without use.
_IDLE = r"\.(down|up)sample\.conv[123]\.conv3d\."


def init(config: CausalConfig, key: jax.Array) -> Any:
  """Fresh parameters, boxed with their axis names.

  {"encoder", "decoder"}, and of Cosmos "quant_conv" and "post_quant_conv".
  """
  keys = jax.random.split(key, 4)
  side, frames = config.factor // config.patch, config.frame_factor // config.patch
  x_BTHWC = jnp.zeros((1, frames, side, side, 3 * config.patch**3), jnp.float32)
  z_BLGGz = jnp.zeros((1, 1, 1, 1, config.z), jnp.float32)
  params = {
    "encoder": CausalEncoder(config).init(keys[0], x_BTHWC)["params"],
    "decoder": CausalDecoder(config).init(keys[1], z_BLGGz)["params"],
  }
  if config.design.factorised:
    e_BLGGE = jnp.zeros((1, 1, 1, 1, config.embed), jnp.float32)
    params["quant_conv"] = Conv(config.embed, 1, 1).init(keys[2], z_BLGGz)["params"]
    params["post_quant_conv"] = Conv(config.z, 1, 1).init(keys[3], e_BLGGE)["params"]
  return params


@functools.cache
def shapes(config: CausalConfig) -> Any:
  """What `init` gives, unboxed, as shapes."""
  return nn.unbox(jax.eval_shape(lambda: init(config, jax.random.key(0))))


def latents(
  config: CausalConfig, params: Any, frames_BTHWC: jax.Array, *, precision: str = api.HIGHEST
) -> jax.Array:
  """What is quantised, of uint8 clips: [B, L, G, G, E].

  Raises:
    AssertionError: of another type; floats of 0 to 1 would all be black.
    ValueError: clips that are not of whole tokens.
  """
  chex.assert_type(frames_BTHWC, jnp.uint8)
  api.check_sides(frames_BTHWC.shape, config.factor)
  frames, latent = frames_BTHWC.shape[1], config.latents
  if frames != (whole := latent.whole_frames(latent.latent_frames(frames))):
    raise ValueError(
      f"a clip has {frames} frames; {config.design.what} reads 1 and a multiple of"
      f" {latent.frame_factor} more: repeat its last frame, up to {whole}"
    )
  low = config.design.lowest
  x_BTHWC = (1.0 - low) * (frames_BTHWC.astype(jnp.float32) / 255.0) + low
  # The first frame is repeated to the length of what others share.
  ahead = (config.patch if config.design.factorised else config.frame_factor) - 1
  x_BTHWC = haar.haar(led(x_BTHWC, ahead, repeats=True), _TIME_HEIGHT_WIDTH, _rounds(config))
  with jax.default_matmul_precision(precision):
    z_BLGGz = tree_lib.apply(CausalEncoder(config), params["encoder"], x_BTHWC)
    return _convolved(config.embed, params, "quant_conv", z_BLGGz)


def codes(
  config: CausalConfig, params: Any, frames_BTHWC: jax.Array, *, precision: str
) -> jax.Array:
  """The code of each token of uint8 clips: int32 [B, L, G, G]."""
  z_BLGGE = latents(config, params, frames_BTHWC, precision=precision)
  return config.quantiser.codes(z_BLGGE, precision=precision)


def drawing(
  config: CausalConfig, params: Any, codes_BLGG: jax.Array, *, precision: str = api.HIGHEST
) -> jax.Array:
  """The decoder's clips of codes, float32 [B, T, H, W, 3], not clipped."""
  z_BLGGE = config.quantiser.values(codes_BLGG)
  with jax.default_matmul_precision(precision):
    z_BLGGz = _convolved(config.z, params, "post_quant_conv", z_BLGGE)
    drawn_BTHWC = tree_lib.apply(CausalDecoder(config), params["decoder"], z_BLGGz)
  drawn_BTHWC = haar.unhaar(drawn_BTHWC, _TIME_HEIGHT_WIDTH, _rounds(config))
  # Before them are the repetitions of the first frame.
  return drawn_BTHWC[:, -config.latents.whole_frames(codes_BLGG.shape[1]) :]


def draw(config: CausalConfig, params: Any, codes_BLGG: jax.Array, *, precision: str) -> jax.Array:
  """The decoder's clips of codes: uint8 [B, T, H, W, 3], as its family makes them."""
  drawn_BTHW3 = drawing(config, params, codes_BLGG, precision=precision)
  return config.design.pixels(drawn_BTHW3).astype(jnp.uint8)


def _rounds(config: CausalConfig) -> int:
  """Of the wavelets, that make a patch."""
  return config.patch.bit_length() - 1


def _convolved(features: int, params: Any, name: str, x_BLGGC: jax.Array) -> jax.Array:
  """By the convolution of that name, where the family has it."""
  if name not in params:
    return x_BLGGC
  return tree_lib.apply(Conv(features, 1, 1), params[name], x_BLGGC)


def macs(config: CausalConfig, size_px: int) -> int:
  """Multiply-accumulates of encoding one more latent frame of `size_px` a side.

  Each weight of a kernel counts once per position of its output, also where it
  meets padding; attention counts its two products over all pairs of positions,
  over time as of the second latent frame.

  Raises:
    ValueError: the side is no whole number of tokens.
  """
  api.check_sides((size_px, size_px, 3), config.factor)
  two, one = (_clip_macs(config, size_px, config.latents.whole_frames(n)) for n in (2, 1))
  return two - one


def _clip_macs(config: CausalConfig, size_px: int, frames: int) -> int:
  """Of a clip, by the places that its levels have."""
  levels, side = len(config.multipliers), size_px // config.patch
  length = 1 + (frames - 1) // config.patch
  if not config.design.factorised:
    length = frames - 1 + config.frame_factor
  places = {"conv_in": length * side**2}
  for i in range(levels):
    places |= {f"down_{i}": length * side**2, f"down_temporal_{i}": length * side**2}
    side = side // 2 if i in config.space_down else side
    # Over space comes first.
    places |= {f"downsample_{i}": length * side**2, f"downsample_{i}/conv1": length * side**2}
    length = -(-length // 2) if i in config.time_down else length
    places |= {f"downsample_{i}/conv{j}": length * side**2 for j in (2, 3)}
    places[f"downsample_temporal_{i}"] = length * side**2
  total = 0
  for path, leaf in tree_lib.paths(shapes(config)["encoder"]).items():
    block = path[0].partition("_block_")[0]
    positions = places.get("/".join(path[:2]), places.get(block, length * side**2))
    if leaf.ndim >= 3:
      total += leaf.size * positions
    if path[-2:] == ("proj_out", "weight"):  # once per attention
      seen = length if path[1] == "attn_temporal" else side**2
      total += 2 * positions * seen * leaf.shape[-1]
  around = config.embed * config.z * config.design.factorised
  return total + length * side**2 * around


def from_reference(tensors: Mapping[str, np.ndarray], config: CausalConfig) -> Any:
  """Parameters from the state dictionary of a released tokenizer.

  Args:
    tensors: by name ("encoder.down.0.block.0.conv1.weight"), of any floating
      type, kernels as torch has them. What is no part of the network is left
      out, and so is what a Cosmos never runs.
    config: its size (`sizes.of_clips`).

  Raises:
    ValueError: naming the missing tensors, those too many, and wrong shapes.
  """
  design, tree = config.design, shapes(config)

  def name_of(path: tuple[str, ...]) -> str:
    return design.name(path, len(config.multipliers))

  known = set(map(name_of, tree_lib.paths(tree)))
  kept = {
    k: _without_ones(v) if k in known else v
    for k, v in tensors.items()
    if not re.match(design.ignored, k)
  }
  halving = {name for name in kept if re.search(_IDLE, name)}
  # Weight and bias of three, in every level but one, of encoder and decoder.
  if len(halving) == 2 * 3 * 2 * (len(config.multipliers) - 1):
    for name in halving - known:
      del kept[name]
  what = f"{design.what} of {config.frame_factor}x{config.factor}x{config.factor}"
  return reference.arrange(kept, tree, name_of, what=what)


def _without_ones(value: np.ndarray) -> np.ndarray:
  """A kernel [O, I, T, H, W] over space or time alone, without the other."""
  if value.ndim == 5 and value.shape[2] == 1:
    return value[:, :, 0]
  if value.ndim == 5 and value.shape[3:] == (1, 1):
    return value[..., 0, 0]
  return value
