"""The VQGAN of taming transformers (Esser et al. 2021) and its kin, at any size.

Taming's released models take 16 x 16 pixels to one of 1,024 or 16,384 codes,
the nearest of the codebook to the encoder's output. The others of `families`
(LlamaGen, diffusers, IBQ, Open-MAGVIT2, Cosmos DI) change the quantiser, the
pixels or a part of the network. Use the functions below, not the modules: they
set the precision of the products, which must be the highest, or codes flip.

Shapes: B images, H height, W width, C channels, G grid side (H or W over
factor), E dimension of a code, V codes.
"""

from collections.abc import Mapping
import functools
import math
import re
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from totojax import tree as tree_lib
from totojax.tokenizers import api, haar
from totojax.tokenizers.families import FAMILIES
from totojax.tokenizers.released import reference, sizes
from totojax.tokenizers.vqgan_modules import Conv, VqganConfig, VqganDecoder, VqganEncoder

_WIDTH_HEIGHT = (2, 1)  # axes of a Haar patch, the most significant first


def init(config: VqganConfig, key: jax.Array) -> Any:
  """Fresh parameters, boxed with their axis names.

  {"encoder", "quant_conv", "quantize", "post_quant_conv", "decoder"}, of which
  "quantize" has the codebook [V, E] under "embedding", "weight". Families whose
  codes are arithmetic have no "quantize", and Open-MAGVIT2 no convolutions
  around the codes.
  """
  keys = jax.random.split(key, 5)
  side = config.factor // config.patch
  x_BHWC = jnp.zeros((1, side, side, 3 * config.patch**2), jnp.float32)
  z_BGGz = jnp.zeros((1, 1, 1, config.z), jnp.float32)
  z_BGGE = jnp.zeros((1, 1, 1, config.embed), jnp.float32)
  params = {
    "encoder": VqganEncoder(config).init(keys[0], x_BHWC)["params"],
    "decoder": VqganDecoder(config).init(keys[4], z_BGGz, z_BGGE)["params"],
  }
  if config.quantiser.has_book:
    start = functools.partial(jax.random.uniform, minval=-1.0, maxval=1.0)
    codebook_VE = start(keys[2], (config.vocab, config.embed), jnp.float32) / config.vocab
    boxed = nn.LogicallyPartitioned(codebook_VE, ("conv_out", "conv_in"))
    params["quantize"] = {"embedding": {"weight": boxed}}
  if not config.design.magvit:
    params["quant_conv"] = Conv(config.embed, 1, 1).init(keys[1], z_BGGz)["params"]
    params["post_quant_conv"] = Conv(config.z, 1, 1).init(keys[3], z_BGGE)["params"]
  return params


@functools.cache
def shapes(config: VqganConfig) -> Any:
  """What `init` gives, unboxed, as shapes."""
  return nn.unbox(jax.eval_shape(lambda: init(config, jax.random.key(0))))


def latents(
  config: VqganConfig, params: Any, frames_BHWC: jax.Array, *, precision: str = api.HIGHEST
) -> jax.Array:
  """What is quantised, of uint8 frames: [B, G, G, E].

  Raises:
    AssertionError: of another type; floats of 0 to 1 would all be black.
    ValueError: frames that are not of whole tokens.
  """
  chex.assert_type(frames_BHWC, jnp.uint8)
  api.check_sides(frames_BHWC.shape, config.factor)
  low = config.design.lowest
  x_BHWC = (1.0 - low) * (frames_BHWC.astype(jnp.float32) / 255.0) + low
  x_BHWC = haar.haar(x_BHWC, _WIDTH_HEIGHT, _rounds(config))
  with jax.default_matmul_precision(precision):
    z_BGGz = tree_lib.apply(VqganEncoder(config), params["encoder"], x_BHWC)
    return _convolved(config.embed, params, "quant_conv", z_BGGz)


def codes(config: VqganConfig, params: Any, frames_BHWC: jax.Array, *, precision: str) -> jax.Array:
  """The code of each token of uint8 frames: int32 [B, G, G]."""
  z_BGGE = latents(config, params, frames_BHWC, precision=precision)
  return config.quantiser.codes(z_BGGE, _book(params), precision=precision)


def drawing(
  config: VqganConfig, params: Any, codes_BGG: jax.Array, *, precision: str = api.HIGHEST
) -> jax.Array:
  """The decoder's image of codes, float32 [B, H, W, 3], not clipped.

  Raises:
    ValueError: an image of one token, where the decoder reads the deviation.
  """
  if config.design.magvit and math.prod(codes_BGG.shape[1:]) < 2:
    raise ValueError(
      f"codes are {codes_BGG.shape}; {config.design.what} normalises by their deviation over an"
      " image: give 2 tokens or more"
    )
  z_BGGE = config.quantiser.values(codes_BGG, _book(params))
  with jax.default_matmul_precision(precision):
    z_BGGz = _convolved(config.z, params, "post_quant_conv", z_BGGE)
    drawn_BHWC = tree_lib.apply(VqganDecoder(config), params["decoder"], z_BGGz, z_BGGE)
  return haar.unhaar(drawn_BHWC, _WIDTH_HEIGHT, _rounds(config))


def draw(config: VqganConfig, params: Any, codes_BGG: jax.Array, *, precision: str) -> jax.Array:
  """The decoder's image of codes: uint8 [B, H, W, 3], as its family makes it."""
  drawn_BHW3 = drawing(config, params, codes_BGG, precision=precision)
  return config.design.pixels(drawn_BHW3).astype(jnp.uint8)


def _rounds(config: VqganConfig) -> int:
  """Of the wavelets, that make a patch."""
  return config.patch.bit_length() - 1


def _book(params: Any) -> jax.Array | None:
  return params["quantize"]["embedding"]["weight"] if "quantize" in params else None


def _convolved(features: int, params: Any, name: str, x_BGGC: jax.Array) -> jax.Array:
  """By the convolution of that name, where the family has it."""
  if name not in params:
    return x_BGGC
  return tree_lib.apply(Conv(features, 1, 1), params[name], x_BGGC)


def macs(config: VqganConfig, size_px: int) -> int:
  """Multiply-accumulates of encoding one frame of `size_px` a side.

  Each weight of a kernel counts once per position of its output, also where it
  meets padding; attention counts its two products over all pairs of positions,
  and a codebook one product per token and code.

  Raises:
    ValueError: the side is no whole number of tokens.
  """
  api.check_sides((size_px, size_px, 3), config.factor)
  last = config.halvings
  halvings = {"conv_in": 0} | {f"down_{i}": i for i in range(last)}
  halvings |= {f"downsample_{i}": i + 1 for i in range(last)}
  total = 0
  for path, leaf in tree_lib.paths(shapes(config)["encoder"]).items():
    positions = (size_px // config.patch // 2 ** halvings.get(path[0], last)) ** 2
    if leaf.ndim == 4:
      total += leaf.size * positions
    if path[-2:] == ("proj_out", "weight"):  # once per attention
      total += 2 * positions**2 * leaf.shape[-1]
  tokens = (size_px // config.factor) ** 2
  total += tokens * config.embed * config.z * (not config.design.magvit)
  return total + tokens * config.embed * config.vocab * config.quantiser.has_book


def from_reference(
  tensors: Mapping[str, np.ndarray], family: str = "vqgan", config: VqganConfig | None = None
) -> tuple[Any, VqganConfig]:
  """Parameters and size from the state dictionary of a released tokenizer.

  Args:
    tensors: by name ("encoder.down.0.block.0.conv1.weight"), kernels OIHW, of
      any floating type. What is no part of the network ("loss.") is left out,
      and where a family keeps a moving average of the weights ("model_ema."),
      it is read in their place. Any size is read; taming's released one is the
      fallback where a missing tensor would have told it.
    family: of `families.FAMILIES`.
    config: its size, where the tensors do not tell it (a VQModel of diffusers:
      `sizes.from_diffusers`).

  Raises:
    ValueError: naming the missing tensors, those too many, and wrong shapes.
  """
  design = FAMILIES[family]
  size = config or sizes.from_tensors(tensors, family)
  kept = {design.renamed(k): v for k, v in tensors.items() if not re.match(design.ignored, k)}

  def name_of(path: tuple[str, ...]) -> str:
    return design.name(path, len(size.multipliers))

  if design.averaged:
    kept = reference.averaged(kept, map(name_of, tree_lib.paths(shapes(size))))
  what = f"{design.what} of this config.json" if config else design.what
  return reference.arrange(kept, shapes(size), name_of, what=what), size
