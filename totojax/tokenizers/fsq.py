"""A tokenizer of finite scalars over patches, for images and causal video.

Frames are cut into patches of `side_px` x `side_px` pixels of `frame_factor`
frames at once, so that all products run on the grid of tokens: a linear
embedding, residual blocks, finite scalar quantisation (Mentzer et al. 2023; no
codebook that could collapse), the same back. With a start from the principal
components of patches (`fit`) it reconstructs before the first update. In
place of finite scalars there may be a codebook, which starts from k-means of
these components: the better of few codes.

A clip is coded causally: its first latent frame is its first frame alone
(shown `frame_factor` times), each later one `frame_factor` frames more, and a
block reads of other times only the latent frame before. Images are clips of
one frame with a `frame_factor` of 1.

Use the functions below, not the modules: they set the precision of the
products.

Shapes: B clips, T frames, L latent frames, H height, W width, G grid side, E
channels of a code, V codes, C channels, X values of a patch, N rows of patches.
"""

import functools
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from totojax import tree as tree_lib
from totojax.config.tokens import FsqConfig
from totojax.tokenizers import api, patches as patches_lib, stats
from totojax.tokenizers.dvae_modules import Conv
from totojax.tokenizers.quantisers import Fsq, Nearest

# The patch's channels are pixels minus this, over this: about -1 to 1.
_GREY = 127.5
# Scores of the first components, in standard deviations, times this are the
# latents of the start: the tanh then spreads them evenly over the levels.
_SPREAD = 0.9
# For a codebook, the same of the first component alone.
_FIRST = 3.0
# Rows of a codebook that start from darkened patches: one in so many for each of
# these lights. k-means of plain patches would leave dark clips a single code.
_DARK_PARTS, _DARK = 32, (0.05, 0.15)
_WEAK = 0.1  # the decoder's start beside the least squares


class Block(nn.Module):
  """`x + product(gelu(convolution(x) + product(x of the latent frame before)))`."""

  config: FsqConfig

  @nn.compact
  def __call__(self, x_BLGGC: jax.Array) -> jax.Array:
    config = self.config
    y_BLGGC = nn.RMSNorm(use_scale=False)(x_BLGGC)
    h_BLGGC = _each_frame(Conv(config.hidden, 3, name="grid"), y_BLGGC)
    if config.frame_factor > 1:
      before_BLGGC = jnp.pad(y_BLGGC[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))
      h_BLGGC += _each_frame(Conv(config.hidden, 1, name="before"), before_BLGGC)
    out = Conv(config.width, 1, start=nn.initializers.zeros, name="out")
    return x_BLGGC + _each_frame(out, nn.gelu(h_BLGGC))


class Encoder(nn.Module):
  """Patches [B, L, G, G, X] to latents [B, L, G, G, E]."""

  config: FsqConfig

  @nn.compact
  def __call__(self, x_BLGGX: jax.Array) -> jax.Array:
    x_BLGGC = _each_frame(Conv(self.config.width, 1, name="input"), x_BLGGX)
    for i in range(self.config.encoder_blocks):
      x_BLGGC = Block(self.config, name=f"block_{i}")(x_BLGGC)
    return _each_frame(Conv(self.config.channels, 1, name="output"), x_BLGGC)


class Decoder(nn.Module):
  """What codes stand for, [B, L, G, G, E], to patches [B, L, G, G, X]."""

  config: FsqConfig

  @nn.compact
  def __call__(self, z_BLGGE: jax.Array) -> jax.Array:
    x_BLGGC = _each_frame(Conv(self.config.width, 1, name="input"), z_BLGGE)
    for i in range(self.config.decoder_blocks):
      x_BLGGC = Block(self.config, name=f"block_{i}")(x_BLGGC)
    return _each_frame(Conv(self.config.values, 1, name="output"), x_BLGGC)


def _each_frame(layer: nn.Module, x_BLGGC: jax.Array) -> jax.Array:
  """A layer of images, on each latent frame by itself."""
  batch, latents, *shape = x_BLGGC.shape
  y_MGGC = layer(x_BLGGC.reshape(batch * latents, *shape))
  return y_MGGC.reshape(batch, latents, *y_MGGC.shape[1:])


def init(config: FsqConfig, key: jax.Array) -> Any:
  """Fresh parameters {"encoder", "decoder"}, boxed with their axis names."""
  encoder_key, decoder_key = jax.random.split(key)
  x_BLGGX = jnp.zeros((1, 1, 1, 1, config.values), jnp.float32)
  z_BLGGE = jnp.zeros((1, 1, 1, 1, config.channels), jnp.float32)
  book = {}
  if config.codebook:  # `begin` fills it
    zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("vocab", "conv_in"))
    book["codebook"] = zeros(key, (config.codebook, config.embed), jnp.float32)
  return {
    "encoder": Encoder(config).init(encoder_key, x_BLGGX)["params"],
    "decoder": Decoder(config).init(decoder_key, z_BLGGE)["params"],
    **book,
  }


@functools.cache
def shapes(config: FsqConfig) -> Any:
  """What `init` gives, unboxed, as shapes."""
  return nn.unbox(jax.eval_shape(lambda: init(config, jax.random.key(0))))


class Start(NamedTuple):
  """What a start from patches gives parameters; c <= C components, float32."""

  embedding_Xc: np.ndarray  # patch to scores of components, scaled for the quantiser
  shift_c: np.ndarray  # what is added to them
  parts_cX: np.ndarray  # components, as long as the decoder's channels are large
  solution_EX: np.ndarray  # least squares of patches from their quantised scores
  mean_X: np.ndarray  # and the constant beside it
  book_VE: np.ndarray | None  # k-means of the scores, where there is a codebook


def fit(config: FsqConfig, patches_NX: np.ndarray, *, seed: int = 0) -> Start:
  """The principal components of patches, and a linear decoder of their codes.

  For finite scalars each score has a standard deviation of its own; for a
  codebook distances between scores are those between patches.
  """
  count, latents = min(config.width, config.values), config.channels
  mean_X = patches_NX.mean(axis=0, dtype=np.float64)
  centred_NX = patches_NX - mean_X
  variance, rows = np.linalg.eigh(centred_NX.T @ centred_NX / len(patches_NX))
  parts_Xc = rows[:, ::-1][:, :count]
  std_c = np.sqrt(np.maximum(variance[::-1][:count], 1e-8))
  if config.codebook:
    std_c = np.full(count, std_c[0] * _SPREAD / _FIRST)
  embedding_Xc = _SPREAD * parts_Xc / std_c
  scores_NE = (centred_NX @ embedding_Xc[:, :latents]).astype(np.float32)
  if config.codebook:
    rng = np.random.default_rng(seed)
    few = config.codebook // _DARK_PARTS
    plain = stats.codebook(
      scores_NE, codes=config.codebook - few * len(_DARK), iterations=15, rng=rng
    )
    dark = []
    for light in _DARK if few else ():
      dark_NX = (patches_NX + 1.0) * light - 1.0 - mean_X
      rows_NE = (dark_NX @ embedding_Xc[:, :latents]).astype(np.float32)
      dark.append(stats.codebook(rows_NE, codes=few, iterations=15, rng=rng))
    book_VE = np.concatenate([plain, *dark])
    codes_N = Nearest().codes(jnp.asarray(scores_NE), jnp.asarray(book_VE))
    values_NE = book_VE[np.asarray(codes_N)]
  else:
    book_VE = None
    values_NE = np.asarray(quantiser(config).rounded(scores_NE))
  inputs = np.concatenate([values_NE, np.ones((len(values_NE), 1))], axis=1)
  solution, *_ = np.linalg.lstsq(inputs, patches_NX, rcond=None)
  single = functools.partial(np.asarray, dtype=np.float32)
  return Start(
    single(embedding_Xc),
    single(-mean_X @ embedding_Xc),
    single((parts_Xc * std_c).T),
    single(solution[:-1]),
    single(solution[-1]),
    book_VE,
  )


def begin(config: FsqConfig, params: Any, start: Start) -> Any:
  """Fresh parameters that code the principal components of patches.

  The embedding gives scores of the components, the largest first; the code is
  of the first E of them, and the decoder's last layer is the least-squares
  solution. What the blocks add starts at 0.
  """
  encoder, decoder = params["encoder"], params["decoder"]
  count, latents = len(start.shift_c), config.channels
  embed, first, last = encoder["input"], decoder["input"], decoder["output"]
  first_EC = first["w"][0, 0].at[:, :latents].set(jnp.eye(latents))
  last_CX = (_WEAK * last["w"][0, 0]).at[:count].set(_WEAK * start.parts_cX)
  # What the other channels begin with must not spoil the least squares.
  rest_EX = first_EC[:, latents:] @ last_CX[latents:]
  last_CX = last_CX.at[:latents].set(start.solution_EX - rest_EX)
  return {
    "encoder": {
      **encoder,
      "input": {
        "w": embed["w"].at[0, 0, :, :count].set(start.embedding_Xc),
        "b": embed["b"].at[:count].set(start.shift_c),
      },
      "output": {**encoder["output"], "w": jnp.eye(config.width, latents)[None, None]},
    },
    "decoder": {
      **decoder,
      "input": {**first, "w": first_EC[None, None]},
      "output": {"w": last_CX[None, None], "b": jnp.asarray(start.mean_X)},
    },
    **({} if start.book_VE is None else {"codebook": jnp.asarray(start.book_VE)}),
  }


def quantiser(config: FsqConfig) -> Any:
  """`Fsq`, or `Nearest` where there is a codebook."""
  return Nearest() if config.codebook else Fsq(config.levels)


def quantise(config: FsqConfig, params: Any, z_BLGGE: jax.Array) -> tuple[jax.Array, jax.Array]:
  """What codes stand for, with the gradient of no rounding, and a loss per token.

  The loss is the mean squared distance of a latent to its row, which draws rows
  to latents and, a quarter as much, latents to rows (van den Oord et al. 2017);
  0 of finite scalars.
  """
  if not config.codebook:
    return quantiser(config).rounded(z_BLGGE), jnp.zeros(z_BLGGE.shape[:-1])
  book_VE, stop = params["codebook"], jax.lax.stop_gradient
  e_BLGGE = book_VE[stop(quantiser(config).codes(z_BLGGE, book_VE))]
  loss_BLGGE = (stop(z_BLGGE) - e_BLGGE) ** 2 + 0.25 * (z_BLGGE - stop(e_BLGGE)) ** 2
  return z_BLGGE + stop(e_BLGGE - z_BLGGE), jnp.mean(loss_BLGGE, axis=-1)


def cut(config: FsqConfig, frames_BTHW3: jax.Array | np.ndarray) -> jax.Array:
  """Patches [B, L, G, G, X] of uint8 clips, about -1 to 1; the first frame is repeated.

  Raises:
    AssertionError: of another type; floats of 0 to 1 would all be black.
  """
  chex.assert_type(frames_BTHW3, jnp.uint8)
  xs = jnp.asarray(frames_BTHW3).astype(jnp.float32) / _GREY - 1.0
  return cut_values(config, xs)


def cut_values(config: FsqConfig, x_BTHW3: jax.Array) -> jax.Array:
  """The same of floats in -1 to 1."""
  batch, _, height, width, _ = x_BTHW3.shape
  times = config.frame_factor
  first = jnp.repeat(x_BTHW3[:, :1], times - 1, axis=1)
  x_BTHW3 = jnp.concatenate([first, x_BTHW3], axis=1)
  side = config.side_px
  x_MGGX = patches_lib.cut(x_BTHW3.reshape(-1, height, width, 3), side)
  grid = x_MGGX.shape[1:3]
  x_BLtGGX = x_MGGX.reshape(batch, -1, times, *grid, x_MGGX.shape[-1])
  return jnp.moveaxis(x_BLtGGX, 2, 4).reshape(batch, -1, *grid, config.values)


def join(config: FsqConfig, x_BLGGX: jax.Array) -> jax.Array:
  """Frames [B, T, H, W, 3] of patches: of the first latent frame the last alone."""
  batch, latents, *grid, _ = x_BLGGX.shape
  times, side = config.frame_factor, config.side_px
  x_BLGGtX = x_BLGGX.reshape(batch, latents, *grid, times, -1)
  x_MGGX = jnp.moveaxis(x_BLGGtX, 4, 2).reshape(-1, *grid, 3 * side**2)
  frames_MHW3 = patches_lib.join(x_MGGX, side)
  frames_BTHW3 = frames_MHW3.reshape(batch, latents * times, *frames_MHW3.shape[1:])
  return frames_BTHW3[:, times - 1 :]


def encode(config: FsqConfig, params: Any, x_BLGGX: jax.Array) -> jax.Array:
  """Latents [B, L, G, G, E] of patches."""
  return tree_lib.apply(Encoder(config), params["encoder"], x_BLGGX)


def decode(config: FsqConfig, params: Any, values_BLGGE: jax.Array) -> jax.Array:
  """Frames [B, T, H, W, 3], about -1 to 1, of what codes stand for."""
  return join(config, tree_lib.apply(Decoder(config), params["decoder"], values_BLGGE))


def codes(config: FsqConfig, params: Any, frames: jax.Array, *, precision: str) -> jax.Array:
  """int32 codes of uint8 frames: [B, G, G] of images, [B, L, G, G] of clips.

  Args:
    config: the size.
    params: as `init` gives them, unboxed.
    frames: [B, H, W, 3] where `frame_factor` is 1, else [B, T, H, W, 3].
    precision: of the products.
  """
  is_image = config.frame_factor == 1
  x_BLGGX = cut(config, frames[:, None] if is_image else frames)
  with jax.default_matmul_precision(precision):
    z_BLGGE = encode(config, params, x_BLGGX)
  codes_BLGG = quantiser(config).codes(z_BLGGE, params.get("codebook"), precision=precision)
  return codes_BLGG[:, 0] if is_image else codes_BLGG


def draw(config: FsqConfig, params: Any, codes: jax.Array, *, precision: str) -> jax.Array:
  """uint8 frames of codes, shaped as `codes` takes and gives them."""
  is_image = config.frame_factor == 1
  codes_BLGG = codes[:, None] if is_image else codes
  values_BLGGE = quantiser(config).values(codes_BLGG, params.get("codebook"))
  with jax.default_matmul_precision(precision):
    drawn_BTHW3 = decode(config, params, values_BLGGE)
  frames_BTHW3 = jnp.clip(jnp.rint((drawn_BTHW3 + 1.0) * _GREY), 0, 255).astype(jnp.uint8)
  return frames_BTHW3[:, 0] if is_image else frames_BTHW3


def macs(config: FsqConfig, size_px: int) -> int:
  """Multiply-accumulates of encoding one latent frame of `size_px` a side.

  Each weight of a kernel counts once per token, also where it meets padding.

  Raises:
    ValueError: the side is no whole number of tokens.
  """
  api.check_sides((size_px, size_px, 3), config.side_px)
  encoder = jax.tree.leaves(shapes(config)["encoder"])
  weights = sum(leaf.size for leaf in encoder if leaf.ndim > 1) + config.codebook * config.embed
  return weights * (size_px // config.side_px) ** 2
