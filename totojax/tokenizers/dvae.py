"""The discrete VAE of DALL-E, at any size (Ramesh et al. 2021, appendix A.1).

The paper's tokenizer is the size `hidden=256, vocab=8192`: 8 x 8 pixels to one
of 8,192 codes. Names of the parameters follow the released PyTorch modules, so
that a converted checkpoint needs a transposition (OIHW to HWIO) and no renaming
but that of `output.conv`.

Pixels enter as `map_pixels` of 0 to 1 and leave as the mean of a logit-Laplace
distribution. Use the functions below, not the modules: they set the precision
of the convolutions, the highest by default. In bfloat16, the default of a TPU,
some codes flip.

Shapes: B images, H height, W width, G grid side (H or W over factor), V codes,
C channels.
"""

from collections.abc import Mapping
import functools
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from totojax import tree as tree_lib
from totojax.tokenizers import api
from totojax.tokenizers.dvae_modules import DvaeConfig, DvaeDecoder, DvaeEncoder
from totojax.tokenizers.released import reference

LAPLACE_EPS = 0.1  # keeps pixels off the ends of the logit-Laplace's support


def map_pixels(frames: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
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
    "encoder": DvaeEncoder(config).init(encoder_key, x_BHWC)["params"],
    "decoder": DvaeDecoder(config).init(decoder_key, z_BGGV)["params"],
  }


@functools.cache
def shapes(config: DvaeConfig) -> Any:
  """What `init` gives, unboxed, as shapes."""
  return nn.unbox(jax.eval_shape(lambda: init(config, jax.random.key(0))))


def logits(
  config: DvaeConfig, params: Any, frames_BHWC: jax.Array, *, precision: str = api.HIGHEST
) -> jax.Array:
  """Code logits [B, G, G, V] of uint8 frames.

  Raises:
    AssertionError: of another type; floats of 0 to 1 would all be black.
  """
  chex.assert_type(frames_BHWC, jnp.uint8)
  x_BHWC = map_pixels(frames_BHWC)
  with jax.default_matmul_precision(precision):
    return tree_lib.apply(DvaeEncoder(config), params["encoder"], x_BHWC)


def features(config: DvaeConfig, params: Any, frames_BHWC: jax.Array | np.ndarray) -> jax.Array:
  """What the encoder's last layer reads for uint8 frames: [B, G, G, C]."""
  x_BHWC = map_pixels(frames_BHWC)
  with jax.default_matmul_precision(api.HIGHEST):
    return tree_lib.apply(
      DvaeEncoder(config), params["encoder"], x_BHWC, method=DvaeEncoder.features
    )


def statistics(
  config: DvaeConfig, params: Any, z_BGGV: jax.Array, *, precision: str = api.HIGHEST
) -> jax.Array:
  """Pixel statistics [B, H, W, 6] of one-hot or relaxed codes."""
  with jax.default_matmul_precision(precision):
    return tree_lib.apply(DvaeDecoder(config), params["decoder"], z_BGGV)


def pixels(statistics_BHWC: jax.Array) -> jax.Array:
  """The location of pixel statistics as colours in 0 to 1, clipped."""
  location = nn.sigmoid(statistics_BHWC[..., :3])
  return jnp.clip(unmap_pixels(location), 0.0, 1.0)


def codes(config: DvaeConfig, params: Any, frames_BHWC: jax.Array, *, precision: str) -> jax.Array:
  """The most likely code of each token of uint8 frames: int32 [B, G, G]."""
  logits_BGGV = logits(config, params, frames_BHWC, precision=precision)
  return jnp.argmax(logits_BGGV, axis=-1).astype(jnp.int32)


def draw(config: DvaeConfig, params: Any, codes_BGG: jax.Array, *, precision: str) -> jax.Array:
  """The decoder's median image of codes: uint8 [B, H, W, 3]."""
  z_BGGV = jax.nn.one_hot(codes_BGG, config.vocab, dtype=jnp.float32)
  drawn_BHWC = statistics(config, params, z_BGGV, precision=precision)
  return jnp.rint(pixels(drawn_BHWC) * 255.0).astype(jnp.uint8)


def macs(config: DvaeConfig, size_px: int) -> int:
  """Multiply-accumulates of encoding one frame of `size_px` a side.

  Each weight of a kernel counts once per position of its output, also where it
  meets padding: 34.0e9 for DALL-E's encoder at 128 pixels.

  Raises:
    ValueError: the side is no whole number of tokens.
  """
  api.check_sides((size_px, size_px, 3), config.factor)
  halvings = {"input": 0, "output": config.groups - 1}
  halvings |= {f"group_{i + 1}": i for i in range(config.groups)}
  return sum(
    leaf.size * (size_px // 2 ** halvings[part]) ** 2
    for part, tree in shapes(config)["encoder"].items()
    for leaf in jax.tree.leaves(tree)
    if leaf.ndim == 4
  )


def from_reference(
  encoder: Mapping[str, np.ndarray], decoder: Mapping[str, np.ndarray]
) -> tuple[Any, DvaeConfig]:
  """Parameters and size from the state dictionaries of DALL-E's modules.

  Args:
    encoder: of `dall_e.Encoder` ("blocks.group_1.block_1.res_path.conv_1.w"),
      kernels OIHW. Any size is read; the released one is the fallback where a
      missing tensor would have told it.
    decoder: of `dall_e.Decoder`.

  Raises:
    ValueError: naming every missing tensor, every one too many, and every wrong
      shape; or that one module was given for the other.
  """
  kernels = {"encoder": (7, 7), "decoder": (1, 1)}  # of their first layers
  for role, other, tensors in (("encoder", "decoder", encoder), ("decoder", "encoder", decoder)):
    name = "blocks.input.w"
    first = np.shape(tensors[name]) if name in tensors else ()
    if first[2:] == kernels[other]:
      raise ValueError(
        f"what was given as the {role} is the {other}: {name} has shape {first}; give the {role}"
        f" ({role}.pkl), which has {kernels[role]} there"
      )
  groups = reference.highest(encoder, r"blocks\.group_([1-9])\.", 4)
  blocks = reference.highest(encoder, r".*\.block_([1-9])\.", 2)
  config = DvaeConfig(
    vocab=reference.size(encoder, "blocks.output.conv.w", 0, 8192),
    hidden=reference.size(encoder, "blocks.input.w", 0, 256),
    groups=groups,
    blocks=blocks,
    decoder_init=reference.size(decoder, "blocks.input.w", 0, 128),
    post_gain=(groups * blocks) ** -2,
  )
  parts, wrong = {}, []
  for name, tensors in (("encoder", encoder), ("decoder", decoder)):
    try:
      parts[name] = reference.arrange(
        tensors, shapes(config)[name], _reference_name, what=f"a dVAE {name}"
      )
    except ValueError as error:
      wrong.append(str(error))
  if wrong:
    raise ValueError(". ".join(wrong))
  return parts, config


def _reference_name(path: tuple[str, ...]) -> str:
  """DALL-E's name of a path below "encoder" or "decoder"."""
  name = ".".join(("blocks", *path))
  return name.replace("blocks.output.", "blocks.output.conv.")
