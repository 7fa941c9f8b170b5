"""Training of a tokenizer of finite scalars: squared error, straight through.

Nothing but the reconstruction is asked for, whose squared error is what PSNR
measures: finite scalars need no loss that keeps codes in use. A codebook in
place of them has its distance to the latents beside it.

Pictures are seen moved, turned and in another light (`FsqViews`): a few
photographs are learnt by heart otherwise.

A share of the batch is darkened (`dim_frac`), and its error counted the more
the darker it is: a squared error alone would give dark clips a single code.

Shapes: B clips, T frames, H and W pixels, L latent frames, G grid side, E
channels of a code.
"""

from collections.abc import Mapping
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from totojax import tasks
from totojax.config.tokens import FsqConfig, FsqTraining, FsqViews
from totojax.tokenizers import api as tokenizer_api, fsq

_LEAST_MSE = 1e-6  # caps one clip's PSNR at 60 dB


class FsqTask:
  """A tokenizer of finite scalars in training (`tasks/__init__.py`)."""

  def __init__(
    self,
    model: FsqConfig,
    config: FsqTraining,
    views: FsqViews,
    *,
    frames: int,
    size_px: int,
    start: fsq.Start,
  ):
    """A task.

    Args:
      model: its size.
      config: its training.
      views: how the frames of a batch are changed.
      frames: of a training clip; 1 where the tokenizer is of images.
      size_px: side of the square training frames.
      start: of the training data's patches.

    Raises:
      ValueError: frames of no whole number of tokens, in space or time, or
        smaller than they are moved.
    """
    if views.move_px > size_px:
      raise ValueError(f"views.move_px {views.move_px}: frames have {size_px} pixels")
    tokenizer_api.check_sides((size_px, size_px, 3), model.side_px)
    if (frames - 1) % model.frame_factor or (model.frame_factor == 1 and frames > 1):
      raise ValueError(
        f"training clips have {frames} frames; a latent frame of {model.frame_factor} frames needs"
        " 1 and a multiple of that, and a tokenizer of images 1"
      )
    self.model = model
    self.config = config
    self.views = views
    self.frames = frames
    self.size_px = size_px
    self.start = start

  def batch_spec(self, batch: int) -> Mapping[str, jax.ShapeDtypeStruct]:
    times = () if self.model.frame_factor == 1 else (self.frames,)
    shape = (batch, *times, self.size_px, self.size_px, 3)
    return {"frames": jax.ShapeDtypeStruct(shape, jnp.uint8)}

  def axes(self) -> tasks.Variables:
    boxed = jax.eval_shape(lambda: fsq.init(self.model, jax.random.key(0)))
    return tasks.Variables(nn.get_partition_spec(boxed), {}, {})

  def init(self, key: jax.Array) -> tasks.Variables:
    params = nn.unbox(fsq.init(self.model, key))
    return tasks.Variables(fsq.begin(self.model, params, self.start), {}, {})

  def weights(self, batch: tasks.Batch) -> Mapping[str, jax.Array]:
    values = batch["frames"].size
    weights = {"reconstruction": jnp.float32(values)}
    if self.model.codebook:
      latents = self.model.latents.latent_frames(self.frames)
      places = values * latents // (3 * self.frames * self.model.side_px**2)
      weights["codebook"] = jnp.float32(places)
    return weights

  def loss(
    self,
    params: tasks.Tree,
    rest: tasks.Variables,
    batch: tasks.Batch,
    *,
    step: jax.Array,
    key: jax.Array,
  ) -> tasks.Losses:
    """The weighted squared error per value, in units of the full range."""
    model = self.model
    frames = batch["frames"]
    frames_BTHW3 = frames[:, None] if model.frame_factor == 1 else frames
    views_key, dark_key = jax.random.split(key)
    keys_B = jax.random.split(views_key, len(frames))
    seen_BTHW3 = jax.vmap(functools.partial(view, self.views))(frames_BTHW3, keys_B)
    x_BTHW3, light_B = self._darken(seen_BTHW3, dark_key)
    z_BLGGE = fsq.encode(model, params, fsq.cut_values(model, x_BTHW3))
    values_BLGGE, distance_BLGG = fsq.quantise(model, params, z_BLGGE)
    drawn_BTHW3 = fsq.decode(model, params, values_BLGGE)
    mse_B = jnp.mean(((drawn_BTHW3 - x_BTHW3) / 2.0) ** 2, axis=(1, 2, 3, 4))
    size = jnp.float32(frames.size / len(frames))
    codes = fsq.quantiser(model).codes(z_BLGGE, params.get("codebook")).reshape(-1)
    psnr_B = -10 * jnp.log10(mse_B + _LEAST_MSE)
    bright_B = (light_B == 1.0).astype(jnp.float32)
    used = jnp.sum(jnp.bincount(codes, length=model.vocab) > 0, dtype=jnp.float32)
    metrics = {
      "psnr_db": tasks.Weighted(jnp.sum(bright_B * psnr_B), jnp.maximum(jnp.sum(bright_B), 1.0)),
      "codes_used": tasks.Weighted(used, jnp.float32(1)),
    }
    error = size * jnp.sum(mse_B * light_B**-self.config.dim_weight)
    terms = {"reconstruction": tasks.LossTerm(error, 1.0)}
    if model.codebook:
      terms["codebook"] = tasks.LossTerm(jnp.sum(distance_BLGG), self.config.codebook)
    return terms, rest.stats, metrics

  def _darken(self, frames_BTHW3: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Clips as -1 to 1, some of them darker, and the light of each [B], 1 as it was."""
    config = self.config
    which, how, grain = jax.random.split(key, 3)
    shape = (len(frames_BTHW3), 1, 1, 1, 1)
    dims = jax.random.bernoulli(which, config.dim_frac, shape)
    least, most = jnp.log(config.dim[0]), jnp.log(config.dim[1])
    drawn = jnp.exp(jax.random.uniform(how, shape, minval=least, maxval=most))
    light = jnp.where(dims, drawn, 1.0)
    unit_BTHW3 = frames_BTHW3.astype(jnp.float32) / 255.0 * light
    # The grain of a dark picture, and its rounding to whole levels.
    noise = jax.random.normal(grain, unit_BTHW3.shape) * (config.grain / 255.0)
    dark_BTHW3 = jnp.clip(jnp.rint((unit_BTHW3 + noise) * 255.0), 0, 255) / 255.0
    unit_BTHW3 = jnp.where(dims, dark_BTHW3, unit_BTHW3)
    return 2.0 * unit_BTHW3 - 1.0, light.reshape(-1)


def view(config: FsqViews, clip_THW3: jax.Array, key: jax.Array) -> jax.Array:
  """A clip of square frames moved, turned and in another light, as whole levels."""
  moved, turned, lit = jax.random.split(key, 3)
  if config.move_px:
    most = config.move_px
    wide_THW3 = jnp.pad(clip_THW3, ((0, 0), (most, most), (most, most), (0, 0)), "symmetric")
    y, x = jax.random.randint(moved, (2,), 0, 2 * most + 1)
    clip_THW3 = jax.lax.dynamic_slice(wide_THW3, (0, y, x, 0), clip_THW3.shape)
  if config.turn:
    down, across, side = jax.random.bernoulli(turned, shape=(3,))
    clip_THW3 = jnp.where(down, clip_THW3[:, ::-1], clip_THW3)
    clip_THW3 = jnp.where(across, clip_THW3[:, :, ::-1], clip_THW3)
    clip_THW3 = jnp.where(side, clip_THW3.swapaxes(1, 2), clip_THW3)
  if config.gain:
    most = jnp.log1p(config.gain)
    gain_3 = jnp.exp(jax.random.uniform(lit, (3,), minval=-most, maxval=most))
    clip_THW3 = jnp.clip(jnp.rint(clip_THW3 * gain_3), 0, 255).astype(jnp.uint8)
  return clip_THW3
