"""The VQGAN of taming transformers (Esser et al. 2021), at any size.

The released models take 16 x 16 pixels to one of 1,024 or 16,384 codes. Pixels
enter as -1 to 1; a token's code is the nearest of the codebook to the encoder's
output. Use the functions below, not the modules: they set the precision of the
products, which must be the highest, or codes flip.

Shapes: B images, H height, W width, G grid side (H or W over factor), E
dimension of a code, V codes.
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
from totojax.tokenizers import api
from totojax.tokenizers.released import reference
from totojax.tokenizers.vqgan_modules import Conv, VqganConfig, VqganDecoder, VqganEncoder


def init(config: VqganConfig, key: jax.Array) -> Any:
  """Fresh parameters, boxed with their axis names.

  {"encoder", "quant_conv", "quantize", "post_quant_conv", "decoder"}, of which
  "quantize" has the codebook [V, E] under "embedding", "weight".
  """
  keys = jax.random.split(key, 5)
  side = config.factor
  x_BHW3 = jnp.zeros((1, side, side, 3), jnp.float32)
  z_BGGz = jnp.zeros((1, 1, 1, config.z), jnp.float32)
  z_BGGE = jnp.zeros((1, 1, 1, config.embed), jnp.float32)
  codebook_VE = jax.random.uniform(keys[2], (config.vocab, config.embed), jnp.float32, -1.0, 1.0)
  boxed = nn.LogicallyPartitioned(codebook_VE / config.vocab, ("conv_out", "conv_in"))
  before, after = Conv(config.embed, 1, 1), Conv(config.z, 1, 1)
  return {
    "encoder": VqganEncoder(config).init(keys[0], x_BHW3)["params"],
    "quant_conv": before.init(keys[1], z_BGGz)["params"],
    "quantize": {"embedding": {"weight": boxed}},
    "post_quant_conv": after.init(keys[3], z_BGGE)["params"],
    "decoder": VqganDecoder(config).init(keys[4], z_BGGz)["params"],
  }


@functools.cache
def shapes(config: VqganConfig) -> Any:
  """What `init` gives, unboxed, as shapes."""
  return nn.unbox(jax.eval_shape(lambda: init(config, jax.random.key(0))))


def latents(
  config: VqganConfig, params: Any, frames_BHWC: jax.Array, *, precision: str = api.HIGHEST
) -> jax.Array:
  """What is compared with the codebook, of uint8 frames: [B, G, G, E].

  Raises:
    AssertionError: of another type; floats of 0 to 1 would all be black.
  """
  chex.assert_type(frames_BHWC, jnp.uint8)
  x_BHW3 = 2.0 * (frames_BHWC.astype(jnp.float32) / 255.0) - 1.0
  with jax.default_matmul_precision(precision):
    z_BGGz = tree_lib.apply(VqganEncoder(config), params["encoder"], x_BHW3)
    return tree_lib.apply(Conv(config.embed, 1, 1), params["quant_conv"], z_BGGz)


def nearest(
  z_BGGE: jax.Array, codebook_VE: jax.Array, *, precision: str = api.HIGHEST
) -> jax.Array:
  """int32 [B, G, G]: the nearest code; of equally near ones the first.

  The squared distance is |z|^2 + |e|^2 - 2 z e, summed in taming's order.
  """
  with jax.default_matmul_precision(precision):
    product_BGGV = jnp.einsum("bghe,ve->bghv", z_BGGE, codebook_VE)
  z2_BGG1 = jnp.sum(z_BGGE**2, axis=-1, keepdims=True)
  e2_V = jnp.sum(codebook_VE**2, axis=-1)
  return jnp.argmin(z2_BGG1 + e2_V - 2 * product_BGGV, axis=-1).astype(jnp.int32)


def codes(config: VqganConfig, params: Any, frames_BHWC: jax.Array, *, precision: str) -> jax.Array:
  """The code of each token of uint8 frames: int32 [B, G, G]."""
  z_BGGE = latents(config, params, frames_BHWC, precision=precision)
  codebook_VE = params["quantize"]["embedding"]["weight"]
  return nearest(z_BGGE, codebook_VE, precision=precision)


def drawing(
  config: VqganConfig, params: Any, codes_BGG: jax.Array, *, precision: str = api.HIGHEST
) -> jax.Array:
  """The decoder's image of codes, float32 [B, H, W, 3], clipped to -1 to 1."""
  z_BGGE = params["quantize"]["embedding"]["weight"][codes_BGG]
  with jax.default_matmul_precision(precision):
    z_BGGz = tree_lib.apply(Conv(config.z, 1, 1), params["post_quant_conv"], z_BGGE)
    drawn_BHW3 = tree_lib.apply(VqganDecoder(config), params["decoder"], z_BGGz)
  return jnp.clip(drawn_BHW3, -1.0, 1.0)


def draw(config: VqganConfig, params: Any, codes_BGG: jax.Array, *, precision: str) -> jax.Array:
  """The decoder's image of codes: uint8 [B, H, W, 3]."""
  unit = (drawing(config, params, codes_BGG, precision=precision) + 1.0) / 2.0
  return jnp.rint(unit * 255.0).astype(jnp.uint8)


def macs(config: VqganConfig, size_px: int) -> int:
  """Multiply-accumulates of encoding one frame of `size_px` a side.

  Each weight of a kernel counts once per position of its output, also where it
  meets padding; attention counts its two products over all pairs of positions,
  and the codebook one product per token and code.

  Raises:
    ValueError: the side is no whole number of tokens.
  """
  api.check_sides((size_px, size_px, 3), config.factor)
  last = len(config.multipliers) - 1
  halvings = {"conv_in": 0} | {f"down_{i}": i for i in range(last)}
  halvings |= {f"downsample_{i}": i + 1 for i in range(last)}
  total = 0
  for path, leaf in tree_lib.paths(shapes(config)["encoder"]).items():
    positions = (size_px // 2 ** halvings.get(path[0], last)) ** 2
    if leaf.ndim == 4:
      total += leaf.size * positions
    if path[-2:] == ("proj_out", "weight"):  # once per attention
      total += 2 * positions**2 * leaf.shape[-1]
  tokens = (size_px // config.factor) ** 2
  return total + tokens * config.embed * (config.z + config.vocab)


def from_reference(tensors: Mapping[str, np.ndarray]) -> tuple[Any, VqganConfig]:
  """Parameters and size from the state dictionary of taming's `VQModel`.

  Args:
    tensors: by name ("encoder.down.0.block.0.conv1.weight"), kernels OIHW. The
      losses that released checkpoints carry ("loss.") are left out. Any size is
      read; the released one is the fallback where a missing tensor would have
      told it.

  Raises:
    ValueError: naming every missing tensor, every one too many, and every wrong
      shape.
  """
  kept = {k: v for k, v in tensors.items() if not k.startswith("loss.")}
  down = r"encoder\.down\.([0-9])\."
  levels = 1 + reference.highest(kept, down, 4)
  block = r"encoder\.down\.[0-9]\.block\.([0-9])\."
  channels = reference.size(kept, "encoder.conv_in.weight", 0, 128)
  released = (1, 1, 2, 2, 4)
  multipliers = []
  for i in range(levels):
    usual = channels * released[min(i, 4)]
    name = f"encoder.down.{i}.block.0.conv1.weight"
    multipliers.append(reference.size(kept, name, 0, usual) // max(channels, 1))
  config = VqganConfig(
    vocab=reference.size(kept, "quantize.embedding.weight", 0, 1024),
    embed=reference.size(kept, "quantize.embedding.weight", 1, 256),
    z=reference.size(kept, "encoder.conv_out.weight", 0, 256),
    channels=channels,
    multipliers=tuple(multipliers),
    blocks=1 + reference.highest(kept, block, 1),
    attention=tuple(
      i for i in range(levels) if any(name.startswith(f"encoder.down.{i}.attn.") for name in kept)
    ),
  )
  params = reference.arrange(kept, shapes(config), _reference_name, what="a VQGAN of taming")
  return params, config


def _reference_name(path: tuple[str, ...]) -> str:
  """Taming's name of a path: lists have a dot, `mid` an underscore."""
  name = ".".join(path)
  name = re.sub(r"(down|up)sample_(\d)", r"\1.\2.\1sample.conv", name)
  name = re.sub(r"(down|up)_(\d)\.(block|attn)_(\d)", r"\1.\2.\3.\4", name)
  return re.sub(r"\.scale$", ".weight", name)
