"""Frozen features of single frames, of any encoder: what policies see.

A vector a frame and layer: the mean over the frame's tokens (section 4.6).

Shapes: B frames, H and W pixels, S pixels of a side, L layers, D width.
"""

from collections.abc import Callable, Mapping
import dataclasses
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
    return model.features(clips, pool="clip", **options)

  facts = {
    "model_run": str(run.path),
    "step": run.step,
    "digest": run.digest,
    "untrained": config.untrained,
    "view": dataclasses.asdict(view),
  }
  return Views(layers, of, facts)


def _of_encoder(config: track.Tracker, view: policies.CameraView, layers: tuple[int, ...]) -> Views:
  encoder = ready.load(config.encoder, pool="clip", norm=config.norm)
  places = [encoder.layers.index(layer) for layer in layers]

  def of(frames_BHW3: np.ndarray) -> np.ndarray:
    clips = cropped(frames_BHW3, view.crop_px)[:, None]
    clips = augment.fitted(clips, encoder.size_px, _RESAMPLE)
    parts = [clips[at : at + view.rows] for at in range(0, len(clips), view.rows)]
    return np.concatenate(
      [
        encoders.checked(
          encoder.features(part), encoder, name=config.encoder, clips=len(part), tokens=False
        )[places]
        for part in parts
      ],
      axis=1,
    ).astype(np.float32)

  facts = {"encoder": config.encoder, "digest": encoder.digest, "normed": encoder.normed}
  return Views(layers, of, {**facts, "view": dataclasses.asdict(view)})


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
