"""Continuous tokens: patches of pixels (Table 3's "patch").

As inputs they are pixels from -1 to 1; as targets of a regression each patch is
normalised by its own mean and variance (He et al. 2022, section 3).

Shapes: B and N frames, H height, W width, G grid side (H or W over the side of
a patch), F values of a patch (3 side ** 2), in the order row, column, colour.
"""

import dataclasses
from typing import NamedTuple, TypeVar

import chex
import jax
import jax.numpy as jnp
import numpy as np

from totojax.config.model import PatchesConfig
from totojax.tokenizers import api, batches

Array = TypeVar("Array", jax.Array, np.ndarray)

_FORMAT = "totojax-patches-1"


class Targets(NamedTuple):
  """Normalised patches and what undoes the normalisation."""

  values_BGGF: jax.Array  # of mean 0 and variance 1
  mean_BGG1: jax.Array  # of each patch
  scale_BGG1: jax.Array  # the square root of variance + eps


def cut(frames_BHW3: Array, side_px: int) -> Array:
  """Patches [B, G, G, F] of frames, of their dtype.

  Raises:
    ValueError: the frames are of no whole number of patches.
  """
  api.check_sides(frames_BHW3.shape, side_px)
  batch, height, width, _ = frames_BHW3.shape
  high, wide = height // side_px, width // side_px
  split = frames_BHW3.reshape(batch, high, side_px, wide, side_px, 3)
  return split.transpose(0, 1, 3, 2, 4, 5).reshape(batch, high, wide, -1)


def join(patches_BGGF: Array, side_px: int) -> Array:
  """Frames [B, H, W, 3] of patches: the inverse of `cut`."""
  batch, high, wide, _ = patches_BGGF.shape
  split = patches_BGGF.reshape(batch, high, wide, side_px, side_px, 3)
  return split.transpose(0, 1, 3, 2, 4, 5).reshape(batch, high * side_px, wide * side_px, 3)


def inputs(config: PatchesConfig, frames_BHW3: jax.Array) -> jax.Array:
  """float32 [B, G, G, F] in -1 to 1 of uint8 frames.

  Raises:
    AssertionError: of another type; floats of 0 to 1 would all be black.
  """
  chex.assert_type(frames_BHW3, jnp.uint8)
  unit_BGGF = cut(frames_BHW3, config.side_px).astype(jnp.float32) / 255.0
  return 2.0 * unit_BGGF - 1.0


def pixels(config: PatchesConfig, inputs_BGGF: jax.Array) -> jax.Array:
  """uint8 frames of `inputs`, rounded and clipped: its exact inverse."""
  levels_BGGF = jnp.rint((inputs_BGGF + 1.0) / 2.0 * 255.0)
  whole_BGGF = jnp.clip(levels_BGGF, 0.0, 255.0).astype(jnp.uint8)
  return join(whole_BGGF, config.side_px)


def targets(config: PatchesConfig, inputs_BGGF: jax.Array) -> Targets:
  """What a regression predicts: each patch over its own mean and variance.

  The variance has F - 1 in the denominator, as in MAE's code.
  """
  mean_BGG1 = jnp.mean(inputs_BGGF, axis=-1, keepdims=True)
  centred_BGGF = inputs_BGGF - mean_BGG1
  variance_BGG1 = jnp.sum(centred_BGGF**2, axis=-1, keepdims=True) / (inputs_BGGF.shape[-1] - 1)
  scale_BGG1 = jnp.sqrt(variance_BGG1 + config.eps)
  return Targets(centred_BGGF / scale_BGG1, mean_BGG1, scale_BGG1)


def restore(targets_: Targets) -> jax.Array:
  """Inputs [B, G, G, F] of targets: the inverse of `targets`.

  Given predicted values with the statistics of the true patches, it is what
  they would look like.
  """
  return targets_.values_BGGF * targets_.scale_BGG1 + targets_.mean_BGG1


def tokenizer(config: PatchesConfig) -> api.Tokenizer:
  """`inputs` and `pixels` behind the interface of the tokenizers."""
  codes_of = lambda _, frames_BHW3: inputs(config, frames_BHW3)
  encoder = batches.LocalDevices(codes_of, {})
  decoder = batches.LocalDevices(lambda _, inputs_BGGF: pixels(config, inputs_BGGF), {})
  values = 3 * config.side_px**2

  def encode(frames_NHW3: np.ndarray) -> np.ndarray:
    api.check_frames(frames_NHW3, config.side_px)
    return encoder(frames_NHW3, rows=batches.call_rows(0))

  def decode(inputs_NGGF: np.ndarray) -> np.ndarray:
    if inputs_NGGF.ndim != 4 or inputs_NGGF.shape[-1] != values:
      raise ValueError(
        f"patches have shape {inputs_NGGF.shape}; give [frames, grid, grid,"
        f" {values}], {config.side_px} x {config.side_px} pixels of 3 colours"
      )
    return decoder(inputs_NGGF.astype(np.float32), rows=batches.call_rows(0))

  settings = dataclasses.asdict(config)
  return api.Tokenizer(
    kind="patches",
    vocab=0,
    factor=config.side_px,
    fingerprint=api.fingerprint({}, {"format": _FORMAT, **settings}),
    size=settings,
    encode=encode,
    decode=decode,
    params={},
    codes_of=codes_of,
    macs=lambda size_px: 0,
    passes=1,
  )
