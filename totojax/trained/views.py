"""Frozen features of single frames, of any encoder: what policies see.

A vector a frame and layer: the mean over the frame's tokens (section 4.6), or means
over regions of it side by side.

Shapes: B frames, H and W pixels, S pixels of a side, L layers, D width, G tokens of a
side, T tokens, K regions of a side.
"""

from collections.abc import Callable, Mapping
import dataclasses
import math
from typing import Any

import numpy as np

from totojax.config import policies, track
from totojax.config.schema import ConfigError
from totojax.data.pixels import augment
from totojax.models import taps
from totojax.trained import backbone, encoders, model as pretrained, ready

_RESAMPLE = "bicubic"  # as clips are made for training


@dataclasses.dataclass(frozen=True)
class Views:
  """Something that makes features of frames.

  Attributes:
    layers: numbers of the layers, increasing.
    of: uint8 [B, H, W, 3] -> float32 [L, B, D].
    facts: what other features would differ in.
  """

  layers: tuple[int, ...]
  of: Callable[[np.ndarray], np.ndarray]
  facts: Mapping[str, Any]


def layers_of(config: track.Tracker) -> tuple[int, ...]:
  """Those that are tried; where none are said, the middle one. Loads no parameters.

  Raises:
    ValueError: there is no such encoder or run, or it has no such layer.
  """
  if config.encoder:
    there = ready.load(config.encoder, pool="clip", norm=config.norm).layers
    chosen = config.layers or (there[len(there) // 2],)
    if unknown := sorted({*chosen} - {*there}):
      raise ConfigError(f"{config.encoder} has layers {there}, and none {unknown[0]}")
    return tuple(sorted(chosen))
  run = backbone.find(config.model_run, what="a model that policies see with", patches=True)
  depth = run.model.config.depth
  chosen = tuple(sorted(config.layers)) or (-(-depth // 2),)
  taps.check_layers(chosen, depth)
  return chosen


def load(config: track.Tracker, view: policies.CameraView) -> Views:
  """The features that a config names; raises as `layers_of`."""
  layers = layers_of(config)
  if config.encoder:
    return _of_encoder(config, view, layers)
  run = backbone.find(config.model_run, what="a model that policies see with", patches=True)
  backbone.check_kind(run.model.spec.latents, view.start, "what policies see")
  model = pretrained.load(
    run.path, tokenizer=config.tokenizer, depth=layers[-1], trained=not config.untrained
  )

  def of(frames_BHW3: np.ndarray) -> np.ndarray:
    seen_BHW3 = cropped(frames_BHW3, view.crop_px)
    # A program for each power of two: what is missing is padding.
    rows = min(view.rows, 1 << max(len(seen_BHW3) - 1, 0).bit_length())
    options = {"layer": layers, "kind": view.start, "rows": rows}
    # Of videos a frame is a clip of one.
    clips = seen_BHW3 if view.start == "image" else seen_BHW3[:, None]
    if view.pool_side == 1:
      return model.features(clips, pool="clip", **options)
    x_LB = model.features(clips, pool="token", **options)
    grid = run.model.spec.grid
    # Of several codes of a place the mean too, as over the whole frame.
    x_LBTD = x_LB.reshape(*x_LB.shape[:2], grid**2, -1, model.width).mean(3)
    return pooled(x_LBTD, view.pool_side, grid=grid)

  facts = {
    "model_run": str(run.path),
    "step": run.step,
    "digest": run.digest,
    "untrained": config.untrained,
    "view": dataclasses.asdict(view),
  }
  return Views(layers, of, facts)


def _of_encoder(config: track.Tracker, view: policies.CameraView, layers: tuple[int, ...]) -> Views:
  tokens = view.pool_side > 1
  encoder = ready.load(config.encoder, pool="token" if tokens else "clip", norm=config.norm)
  places = [encoder.layers.index(layer) for layer in layers]

  def of(frames_BHW3: np.ndarray) -> np.ndarray:
    clips = cropped(frames_BHW3, view.crop_px)[:, None]
    clips = augment.fitted(clips, encoder.size_px, _RESAMPLE)
    parts = [clips[at : at + view.rows] for at in range(0, len(clips), view.rows)]
    found = []
    for part in parts:
      options = {"name": config.encoder, "clips": len(part), "tokens": tokens}
      x_LB = encoders.checked(encoder.features(part), encoder, **options)[places]
      found.append(pooled(x_LB, view.pool_side, grid=encoder.grid) if tokens else x_LB)
    return np.concatenate(found, axis=1).astype(np.float32)

  facts = {"encoder": config.encoder, "digest": encoder.digest, "normed": encoder.normed}
  return Views(layers, of, {**facts, "view": dataclasses.asdict(view)})


def pooled(x_LBTD: np.ndarray, side: int, *, grid: int) -> np.ndarray:
  """Means over side x side regions of a map of tokens, side by side: [L, B, side^2 x D].

  Regions are those of adaptive average pooling: where they do not divide the map
  they share tokens. Several maps of a frame, as models of videos have, are averaged
  before. One token a frame is a vector that has no places, and stays as it is.

  Args:
    x_LBTD: tokens in raster order, map after map.
    side: regions of a side.
    grid: tokens of a side; 0: the root of T.

  Raises:
    ConfigError: tokens are no such map, or it has fewer of a side than regions.
  """
  layers, frames, tokens, width = x_LBTD.shape
  if tokens == 1:
    return x_LBTD[:, :, 0]
  grid = grid or math.isqrt(tokens)
  if tokens % grid**2 or side > grid:
    raise ConfigError(
      f"view.pool_side is {side}, and a frame has {tokens} tokens, {grid} of a side; use"
      f" {grid} or less, or 1 where they are no square map"
    )
  x_LBGGD = x_LBTD.reshape(layers, frames, -1, grid, grid, width).mean(2)
  ends = [(n * grid // side, -(-(n + 1) * grid // side)) for n in range(side)]
  parts = [x_LBGGD[:, :, a:b, c:d].mean((2, 3)) for a, b in ends for c, d in ends]
  return np.concatenate(parts, axis=-1)


def cropped(frames_BHW3: np.ndarray, size_px: int) -> np.ndarray:
  """A square in the middle of the lower edge; 0: the frames.

  Raises:
    ConfigError: the frames are smaller.
  """
  if not size_px:
    return frames_BHW3
  height, width = frames_BHW3.shape[1:3]
  if size_px > min(height, width):
    raise ConfigError(
      f"view.crop_px is {size_px}, and frames are {height} x {width} pixels; use a smaller one"
    )
  left = (width - size_px) // 2
  return frames_BHW3[:, height - size_px :, left : left + size_px]
