"""Mixup and cutmix of frames on the device, before they are encoded.

Zhang et al., 2018 (arXiv 1710.09412) and Yun et al., 2019 (arXiv 1905.04899) as
timm has them (mode batch): one share for all rows of a microbatch, each of
which is mixed with the row at its place from the end. Tokens cannot be mixed;
pixels can, and the mixture is rounded to what a tokenizer reads.

Shapes: B rows, N frames, S pixels of a side, C classes.
"""

from typing import Any

import jax
import jax.numpy as jnp

from totojax import sequence, tasks
from totojax.config.labels import MixConfig
from totojax.tasks import encode
from totojax.tokenizers import api as tokenizer_api


class MixFrames(encode.EncodeFrames):
  """Frames are mixed and encoded, and `target` [B, C] made; in training alone."""

  def __init__(
    self,
    inner: tasks.Task,
    tokenizer: tokenizer_api.Tokenizer,
    *,
    spec: sequence.SequenceSpec,
    config: MixConfig,
    classes: int,
  ):
    super().__init__(inner, tokenizer, spec=spec)
    self.config, self.classes = config, classes

  def loss(
    self, params: Any, rest: tasks.Variables, batch: tasks.Batch, *, step: jax.Array, key: jax.Array
  ) -> tasks.Losses:
    own, further = jax.random.split(key)
    frames, target_BC = mixed(self.config, own, batch["frames"], batch["label"], self.classes)
    batch = {**batch, "frames": frames, "target": target_BC}
    return super().loss(params, rest, batch, step=step, key=further)


def mixed(
  config: MixConfig, key: jax.Array, frames_BNSS3: jax.Array, label_B: jax.Array, classes: int
) -> tuple[jax.Array, jax.Array]:
  """(uint8 frames, float32 targets [B, C]) of one microbatch."""
  switch, kind, mixup, cutmix, place = jax.random.split(key, 5)
  share, is_box, box_SS = 1.0, False, None
  if config.mixup:
    share = jax.random.beta(mixup, config.mixup, config.mixup)
  if config.cutmix:
    side = frames_BNSS3.shape[-2]
    share_drawn = jax.random.beta(cutmix, config.cutmix, config.cutmix)
    box_SS = box(place, side, share_drawn)
    is_box = jax.random.uniform(kind) < (config.switch if config.mixup else 1)
    # Cut by the border, a box is smaller than was wanted.
    share = jnp.where(is_box, 1.0 - jnp.mean(box_SS.astype(jnp.float32)), share)
  if not (config.mixup or config.cutmix):
    return frames_BNSS3, smoothed(label_B, classes, config.smoothing)
  is_mixed = jax.random.uniform(switch) < config.share
  share = jnp.where(is_mixed, share, 1.0)
  other = frames_BNSS3[::-1]
  blend = share * frames_BNSS3.astype(jnp.float32) + (1.0 - share) * other
  frames = jnp.rint(blend).astype(jnp.uint8)
  if box_SS is not None:
    boxed = jnp.where((box_SS & is_mixed)[..., None], other, frames_BNSS3)
    frames = jnp.where(is_box, boxed, frames)
  target_BC = smoothed(label_B, classes, config.smoothing)
  return frames, share * target_BC + (1.0 - share) * target_BC[::-1]


def box(key: jax.Array, side: int, share: jax.Array) -> jax.Array:
  """bool [S, S]: a square of (1 - share) of the area around a random pixel."""
  half = (side * jnp.sqrt(1.0 - share)).astype(jnp.int32) // 2
  y, x = jax.random.randint(key, (2,), 0, side)
  places = jnp.arange(side)
  rows = (places >= y - half) & (places < y + half)
  columns = (places >= x - half) & (places < x + half)
  return rows[:, None] & columns[None]


def smoothed(label_B: jax.Array, classes: int, smoothing: float) -> jax.Array:
  """float32 [B, C]: `smoothing` over all classes, the rest on the label."""
  hot_BC = jax.nn.one_hot(label_B, classes, dtype=jnp.float32)
  return hot_BC * (1.0 - smoothing) + smoothing / classes
