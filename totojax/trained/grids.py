"""Maps of features of the frames of a video, one frame after the other, of any encoder.

Frames are given one at a time and maps come as soon as they can, so that a video
of any length needs no more memory than a few frames of it.

Shapes: T frames, H and W pixels, S pixels of a side, L layers, h and w places of a
map (G x G of an encoder of squares), D width, R sequences of a forward pass, N
frames of one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools
import itertools
import math
import os
from typing import Any

import numpy as np

from totojax import sequence, sharding
from totojax.config import track
from totojax.config.schema import ConfigError
from totojax.data.pixels import augment
from totojax.data.store import feature_files
from totojax.evals import label_maps
from totojax.models import taps
from totojax.storage import arrays as arrays_lib, outside, reading
from totojax.tokenizers import api
from totojax.trained import backbone, encoders, model as pretrained, ready

_RESAMPLE = "bicubic"  # as clips are made for training
PATCH_PX = 8  # of pixels as features: the paper's tokens
Frames = Iterable[np.ndarray]  # uint8 [H, W, 3]
Maps = Iterator[Sequence[np.ndarray]]  # of each frame, of each layer, float32 [h, w, D]


@dataclasses.dataclass(frozen=True)
class Grids:
  """Something that makes maps of frames.

  Attributes:
    layers: numbers of the layers, increasing.
    of: (name of a video, its frames) -> maps of its frames, in order.
    input_px: (height, width) of what is read; (0, 0): 8 times the map's.
    facts: what other maps would differ in.
  """

  layers: tuple[int, ...]
  of: Callable[[str, Frames], Maps]
  input_px: label_maps.Size
  facts: Mapping[str, Any]

  def input_size(self, grid: label_maps.Size) -> label_maps.Size:
    """(height, width) of what is read, by the map's."""
    if all(self.input_px):
      return self.input_px
    return grid[0] * PATCH_PX, grid[1] * PATCH_PX


def of_tracker(config: track.Tracker, frames: track.Frames, *, seed: int) -> Grids:
  """Those that a config names; loads what makes them.

  Raises:
    ValueError: there is no such encoder, run or folder, or it has no such layers,
      size or input.
  """
  if config.features:
    return on_disk(config.features, layers=config.layers)
  if config.encoder:
    return of_encoder(config, frames)
  return of_run(config, frames, seed=seed)


def pixels(size_px: label_maps.Size) -> Grids:
  """Patches of 8 x 8 pixels themselves, from -1 to 1; layer 0."""
  h, w = grid_of(size_px, PATCH_PX, "patches of pixels")

  def of(name: str, frames: Frames) -> Maps:
    del name
    for frame_HW3 in map(_squash(size_px), frames):
      cut = frame_HW3.reshape(h, PATCH_PX, w, PATCH_PX, 3).swapaxes(1, 2)
      yield [(cut.reshape(h, w, -1) / 127.5 - 1.0).astype(np.float32)]

  return Grids((0,), of, size_px, {"pixels": [*size_px]})


def grid_of(size_px: label_maps.Size, side_px: int, whose: str) -> label_maps.Size:
  """Squares of a side that a frame is cut into, down and across."""
  for key, px in zip(("size_px", "width_px"), size_px):
    if px % side_px:
      raise ConfigError(
        f"frames.{key} is {px}; {whose} cuts frames into squares of {side_px} pixels: use a"
        " multiple"
      )
  return size_px[0] // side_px, size_px[1] // side_px


def on_disk(folder: str, *, layers: Sequence[int] = ()) -> Grids:
  """Maps in files: NAME.npz or NAME.safetensors, arrays layer_<number> [T, h, w, D].

  A name with slashes has them in its path too.
  """
  if not reading.is_folder(folder):
    raise ConfigError(f"{folder} is no folder; give one with a file of features for each sequence")

  @functools.cache
  def first() -> tuple[int, ...]:
    for name in sorted(os.walk(folder), key=lambda one: one[0]):
      for file in sorted(name[2]):
        if file.endswith((".npz", ".safetensors")):
          return tuple(_read(os.path.join(name[0], file)))
    raise ConfigError(f"{folder} holds no .npz and no .safetensors")

  chosen = tuple(layers) or first()

  def of(name: str, frames: Frames) -> Maps:
    for ending in ("npz", "safetensors"):
      path = reading.join(folder, f"{name}.{ending}")
      if reading.exists(path):
        break
    else:
      raise ConfigError(f"{folder} has neither {name}.npz nor {name}.safetensors")
    maps = _read(path)
    if lost := sorted({*chosen} - {*maps}):
      raise outside.Damaged(path, f"it has no layer {lost[0]}, and layers {[*maps]}")
    there, count = len(maps[chosen[0]]), 0
    for count, _ in enumerate(frames, 1):
      if count <= there:
        yield [maps[layer][count - 1] for layer in chosen]
    if count != there:
      raise outside.Damaged(path, f"it has maps of {there} frames, and {name} has {count}")

  return Grids(chosen, of, (0, 0), {"features": folder})


def _read(path: str) -> dict[int, np.ndarray]:
  """Layer -> maps [T, h, w, D] of a file, in order of layers.

  Raises:
    Damaged: they are of other shapes, or not finite.
  """
  arrays = arrays_lib.load(path, reading.load(path))
  start = feature_files.layer_name(0)[:-1]
  numbers = (name.removeprefix(start) for name in arrays if name.startswith(start))
  found = {
    n: arrays[feature_files.layer_name(n)] for n in sorted(map(int, filter(str.isdigit, numbers)))
  }
  shapes = {x.shape[:3] if x.ndim == 4 else () for x in found.values()}
  if len(shapes) != 1 or shapes == {()} or any(0 in x.shape for x in found.values()):
    told = {name: [*x.shape] for name, x in arrays.items()}
    raise outside.Damaged(
      path,
      f"it has {told}; maps are layer_<number> [frames, height, width, values], of all layers of as"
      " many frames, rows and columns",
    )
  for layer, x in found.items():
    if (
      x.dtype.kind != "f"
      and x.dtype.name != "bfloat16"
      or not np.isfinite(x.astype(np.float32)).all()
    ):
      raise outside.Damaged(path, f"layer {layer} has values that are no finite numbers")
  return {layer: x.astype(np.float32) for layer, x in found.items()}


def _squash(size_px: label_maps.Size) -> augment.Squash:
  return augment.Squash(size_px[0], _RESAMPLE, size_px[1])


def of_encoder(config: track.Tracker, frames: track.Frames) -> Grids:
  """Of an encoder by name, or of the user's.

  An encoder of images reads frames alone. One of clips reads them in turn, the
  last filled with its last frame, and of fewer maps than frames each frame has
  what lies between (linear over time, as representations4d's notebook). One that
  streams reads the whole video at once.
  """
  name, size = config.encoder, frames.size_px
  if frames.width_px not in (0, size):
    raise ConfigError(
      f"frames.width_px is {frames.width_px}, and {name} reads squares of {size}; leave it 0, or"
      " give maps on disk (features:FOLDER)"
    )
  if size and not _is_own(name) and "@" not in name.partition(":")[0]:
    kind, _, path = name.partition(":")
    if kind in ("dinov2", "dinov3", "mae", "clip", "rvm", "4ds"):  # whose places are interpolated
      name = f"{kind}@{size}:{path}"
  encoder = ready.load(name, pool="token", norm=config.norm)
  chosen = config.layers or encoder.layers
  if unknown := sorted(set(chosen) - set(encoder.layers)):
    raise ConfigError(f"{config.encoder} has layers {encoder.layers}, and none {unknown[0]}")
  places = [encoder.layers.index(layer) for layer in chosen]
  clip = encoder.frames if encoder.multiple > 1 else frames.rows

  def of(name: str, video: Frames) -> Maps:
    del name
    prepared = map(_squash((encoder.size_px, encoder.size_px)), video)
    if encoder.streams:
      yield from _mapped(encoder, np.stack([*prepared])[None], places)
      return
    while part := [*itertools.islice(prepared, clip)]:
      if encoder.multiple == 1:
        yield from _mapped(encoder, np.stack(part)[:, None], places)
        continue
      filled = part + part[-1:] * (clip - len(part))
      yield from itertools.islice(_mapped(encoder, np.stack(filled)[None], places), len(part))

  facts = {"encoder": config.encoder, "digest": encoder.digest, "normed": encoder.normed}
  side = encoder.size_px
  return Grids(tuple(chosen), of, (side, side), {**facts, "size_px": side})


def _is_own(name: str) -> bool:
  return not ready.is_name(name)


def _mapped(encoder: encoders.Encoder, clips_RNSS3: np.ndarray, places: Sequence[int]) -> Maps:
  """Maps of every frame of clips, clip by clip."""
  frames = clips_RNSS3.shape[1]
  x_LRTD = np.asarray(encoder.features(clips_RNSS3), np.float32)[places]
  tokens = x_LRTD.shape[2] if x_LRTD.ndim == 4 else 1
  grid = encoder.grid or math.isqrt(tokens // frames)
  maps, rest = divmod(tokens, max(grid**2, 1))
  if x_LRTD.ndim != 4 or rest or not maps or grid < 2:
    raise ConfigError(
      f"the encoder gives features of shape {x_LRTD.shape} for {clips_RNSS3.shape}; tracking needs"
      " a token of every place of a square map: [layers, clips, tokens, values]"
    )
  for x_LTD in np.moveaxis(x_LRTD, 1, 0):
    x_LNhwD = x_LTD.reshape(len(places), maps, grid, grid, -1)
    if maps != frames:
      over_time = label_maps.interpolation(maps, frames)
      x_LNhwD = np.einsum("tn,lnhwd->lthwd", over_time, x_LNhwD)
    yield from np.moveaxis(x_LNhwD, 1, 0)


@dataclasses.dataclass(frozen=True)
class _Wide(sequence.SequenceSpec):
  """Frames of `grid` rows of tokens and another number of columns."""

  columns: int = 0

  @property
  def frame_shape(self) -> tuple[int, ...]:
    rows, _, *codes = super().frame_shape
    return rows, self.columns, *codes


def of_run(config: track.Tracker, frames: track.Frames, *, seed: int) -> Grids:
  """Of a pre-trained model of ours, or of one as it was before training."""
  run = backbone.find(config.model_run, what="a model that tracks", patches=True)
  depth = run.model.config.depth
  layers = config.layers or tuple(range(depth + 1))
  taps.check_layers(layers, depth)
  tokenizer = backbone.find_tokenizer(run, config.tokenizer)
  spec = run.model.spec
  if spec.latents.is_temporal:
    raise ConfigError(
      f"{run.path} reads tokens of {spec.frame_factor} frames at a time, and tracking needs"
      " features of every frame: use the model of a tokenizer of images"
    )
  kind = "video" if frames.input == "video" else "image"
  size_px = frames.size(spec.grid * tokenizer.factor)
  h, w = grid_of(size_px, tokenizer.factor, f"the tokenizer of {run.path}")
  read_frames = {"image": 1, "self_repeat": 2, "video": frames.clip_frames}[frames.input]
  wide = _Wide(**dataclasses.asdict(spec) | {"grid": h}, columns=w)
  model = run.model.clone(config=_shape(run, frames), spec=wide)
  model = backbone.for_clips(model, frames=read_frames)
  # Rows are spread over devices, and parameters whole on each.
  layout = sharding.Layout(
    sharding.make_mesh(sharding.MeshConfig(data=-1, fsdp=1, tensor=1, sequence=1))
  )
  model, params = backbone.load(
    run, model, trained=not config.untrained, depth=layers[-1], layout=layout, seed=seed
  )
  program = backbone.features(model, params, layers=layers, pool="token", layout=layout)
  rows = -(-frames.rows // layout.ways) * layout.ways
  build = pretrained.patch_rows if run.patches is not None else pretrained.token_rows

  def codes(frame_SS3: np.ndarray) -> np.ndarray:
    """[P] or, of patches, [P, F]."""
    if run.patches is not None:
      cut = tokenizer.encode(frame_SS3[None])
      return cut.reshape(h * w, -1)
    return api.encode_clips(tokenizer, frame_SS3[None, None]).reshape(-1)

  def of(name: str, video: Frames) -> Maps:
    del name
    inputs = _inputs(map(codes, map(_squash(size_px), video)), read_frames, frames.input)
    while part := [*itertools.islice(inputs, rows)]:
      batch = build(np.stack(part), kind=kind, spec=model.spec, rows=rows)
      x_RLPD = program(batch)[: len(part), :, -1]
      # Of several codes of a place the last has seen them all.
      x_RLPD = x_RLPD.reshape(*x_RLPD.shape[:2], h, w, -1, x_RLPD.shape[-1])[..., -1, :]
      yield from x_RLPD

  facts = {
    "model_run": str(run.path),
    "step": run.step,
    "digest": run.digest,
    "untrained": config.untrained,
    "tokenizer": tokenizer.fingerprint,
    "frames": dataclasses.asdict(frames),
  }
  return Grids(tuple(layers), of, size_px, facts)


def _shape(run: backbone.Trained, frames: track.Frames) -> Any:
  """The run's architecture with the base and mask that are asked for."""
  changes: dict[str, Any] = {}
  if frames.full_attn:
    changes["prefix_tokens"] = -1
  if frames.rope_base:
    changes["rope_base"] = frames.rope_base
  shape = run.model.config
  if lacking := sorted({*changes} - {field.name for field in dataclasses.fields(shape)}):
    key = {"prefix_tokens": "full_attn"}.get(lacking[0], lacking[0])
    raise ConfigError(
      f"frames.{key} is set, and a {type(shape).__name__}, which {run.path} is, has none: leave it"
    )
  return dataclasses.replace(shape, **changes)


def _inputs(codes: Iterable[np.ndarray], frames: int, how: str) -> Iterator[np.ndarray]:
  """Sequences [N, ...] of frames, one for each frame, which is its last."""
  before: list[np.ndarray] = []
  for one in codes:
    if how == "video":
      before = [*before[1:], one] if before else [one] * frames
      yield np.stack(before)
    else:
      yield np.stack([one] * frames)
