"""Pixels of clips and stills to what models of short-term anticipation read.

Shapes: R clips, T frames, N (latent) frames, S pixels of a side, P places of a
frame, L layers, D width.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from totojax import sequence, sharding
from totojax.config import sta
from totojax.config.schema import ConfigError
from totojax.jobs.sta import inputs
from totojax.models import taps
from totojax.storage import arrays as arrays_lib, outside, reading
from totojax.tokenizers import api
from totojax.trained import backbone, encoders as encoders_lib, model as pretrained, ready


@dataclasses.dataclass(frozen=True)
class Features:
  """Where features of a frozen encoder come from, and their sizes.

  Attributes:
    encode: gives what makes them of pixels; None: they are in `folder`.
    clip_px, still_px: sides of what is read; 0: no still.
    folder: features of others, a file for each query.
    frames: maps of a clip (N).
    grid, still_grid: places of a side of a clip's maps, and of a still's.
    width: of a feature (D).
    facts: what other features would differ in.
  """

  encode: Any
  clip_px: int
  still_px: int
  folder: str
  frames: int
  grid: int
  still_grid: int
  width: int
  facts: dict[str, Any]


def grid_of(size_px: int, factor: int, key: str) -> int:
  """Tokens of a side; raises ConfigError where they do not fill it."""
  if size_px % factor:
    raise ConfigError(
      f"{key} is {size_px}; the tokenizer cuts frames into squares of {factor} pixels: use a"
      " multiple"
    )
  return size_px // factor


def tokens(
  tokenizer: api.Tokenizer, clip: sequence.SequenceSpec, still: sequence.SequenceSpec | None
) -> inputs.Encode:
  """Rows of tokens: "tokens" [R, row] of clips, "still" of images."""

  def rows(codes_RP: np.ndarray, spec: sequence.SequenceSpec, kind: str) -> np.ndarray:
    shape = len(codes_RP), spec.frames, spec.frame_tokens
    made = [sequence.build(one, kind=kind, spec=spec) for one in codes_RP.reshape(shape)]
    return np.stack(made)

  def encode(clips_RTSS3: np.ndarray, stills_RSS3: np.ndarray | None) -> inputs.Arrays:
    out = {"tokens": rows(api.encode_clips(tokenizer, clips_RTSS3), clip, "video")}
    if still is not None:
      assert stills_RSS3 is not None, "stills are read where there is a grid of them"
      out["still"] = rows(api.encode_clips(tokenizer, stills_RSS3[:, None]), still, "image")
    return out

  return encode


def of_run(config: sta.StaFrozen) -> Features:
  """Of a pre-trained model of ours."""
  run = backbone.find(config.model_run, what="a model that is read")
  tokenizer = backbone.find_tokenizer(run, config.tokenizer)
  data, depth = config.data, run.model.config.depth
  layer = depth if config.layer < 0 else config.layer
  taps.check_layers([layer], depth)
  models = {}
  latents = run.model.spec.latents
  for name, size_px, frames in (
    ("clip", data.clip_px, latents.latent_frames(data.frames)),
    ("still", data.still_px, 1),
  ):
    if size_px:
      grid = grid_of(size_px, tokenizer.factor, f"data.{name}_px")
      spec = dataclasses.replace(run.model.spec, grid=grid)
      models[name] = backbone.for_clips(run.model.clone(spec=spec), frames=frames)
  if "still" in models:
    backbone.check_kind(latents, "image", "the last frame (data.still_px)")

  def encode() -> inputs.Encode:
    layout = sharding.layout(sharding.MeshConfig(data=-1, fsdp=1, tensor=1, sequence=1))
    programs = {}
    for name, model in models.items():
      model, params = backbone.load(
        run, model, trained=not config.untrained, depth=layer, layout=layout, seed=config.seed
      )
      programs[name] = (
        model,
        backbone.features(model, params, layers=[layer], pool="token", layout=layout),
      )

    def features(name: str, frames_RTSS3: np.ndarray) -> np.ndarray:
      model, program = programs[name]
      codes = api.encode_clips(tokenizer, frames_RTSS3)
      codes = codes.reshape(len(codes), model.spec.frames, model.spec.frame_tokens)
      rows = -(-len(codes) // layout.ways) * layout.ways
      kind = "video" if name == "clip" else "image"
      batch = pretrained.token_rows(codes, kind=kind, spec=model.spec, rows=rows)
      x_RNPD = program(batch)[: len(codes), 0]
      # Of several codes of a place the last has seen them all.
      x_RNPD = x_RNPD.reshape(*x_RNPD.shape[:2], model.spec.grid**2, -1, x_RNPD.shape[-1])
      return x_RNPD[:, :, :, -1].astype(np.float16)

    def of(clips_RTSS3: np.ndarray, stills_RSS3: np.ndarray | None) -> inputs.Arrays:
      out = {"clip": features("clip", clips_RTSS3)}
      if stills_RSS3 is not None:
        out["still"] = features("still", stills_RSS3[:, None])[:, 0]
      return out

    return of

  facts = {
    "model_run": str(run.path),
    "step": run.step,
    "digest": run.digest,
    "untrained": config.untrained,
    "layer": layer,
  }
  clip = models["clip"].spec
  still = models["still"].spec.grid if "still" in models else 0
  return Features(
    encode,
    data.clip_px,
    data.still_px,
    "",
    clip.frames,
    clip.grid,
    still,
    run.model.config.width,
    facts,
  )


def of_encoder(config: sta.StaFrozen) -> Features:
  """Of an encoder by name, or of the user's; it reads frames of its own size.

  An encoder of images reads each frame of a clip, one of videos the clip at once.
  """
  encoder = ready.load(config.encoder, pool="token")
  layer = encoder.layers[-1] if config.layer < 0 else config.layer
  if layer not in encoder.layers:
    raise ConfigError(f"{config.encoder} has layers {encoder.layers}, and none {layer}")
  at = encoder.layers.index(layer)

  def maps(clips_RTSS3: np.ndarray) -> np.ndarray:
    """float16 [R, N, P, D]."""
    rows, frames = clips_RTSS3.shape[:2]
    video = encoder.multiple > 1 or encoder.streams
    read = clips_RTSS3
    if video and frames > 1:
      read = read[:, encoders_lib.places(frames, most=encoder.frames, multiple=encoder.multiple)]
    elif not video:
      read = read.reshape(rows * frames, 1, *read.shape[2:])
    x_LRTD = np.asarray(encoder.features(read), np.float32)
    if x_LRTD.ndim != 4:
      raise ConfigError(
        f"the encoder gives features of shape {x_LRTD.shape}; anticipation needs a token of every"
        " place of a square map: [layers, clips, tokens, values]"
      )
    x_RTD = x_LRTD[at]
    places = (encoder.grid or math.isqrt(x_RTD.shape[1])) ** 2
    x_RNPD = x_RTD.reshape(rows, -1, places, x_RTD.shape[-1])
    return x_RNPD.astype(np.float16)

  def of(clips_RTSS3: np.ndarray, stills_RSS3: np.ndarray | None) -> inputs.Arrays:
    out = {"clip": maps(clips_RTSS3)}
    if stills_RSS3 is not None:
      out["still"] = maps(stills_RSS3[:, None])[:, -1]
    return out

  size_px = encoder.size_px
  still_px = size_px if config.data.still_px else 0
  blank = np.zeros((1, config.data.frames, size_px, size_px, 3), np.uint8)
  tried = of(blank, blank[:, -1] if still_px else None)["clip"].shape
  facts = {"encoder": config.encoder, "digest": encoder.digest, "layer": layer}
  grid = math.isqrt(tried[2])
  return Features(
    lambda: of, size_px, still_px, "", tried[1], grid, grid if still_px else 0, tried[3], facts
  )


def on_disk(config: sta.StaFrozen, uid: str) -> Features:
  """In a folder of others; the file of one query says their sizes."""
  arrays = read(config.features, uid)
  clip, still = arrays["clip"], arrays.get("still")
  return Features(
    None,
    0,
    0,
    config.features,
    clip.shape[0],
    math.isqrt(clip.shape[1]),
    0 if still is None else math.isqrt(still.shape[0]),
    clip.shape[-1],
    {"features": config.features},
  )


def read(folder: str, uid: str) -> inputs.Arrays:
  """float32 features of a query: UID.npz or UID.safetensors, with arrays "clip" [N, P, D] or
  [N, G, G, D], and perhaps "still" [P, D] or [G, G, D].

  Raises:
    Damaged, ConfigError: there is no such file, or it holds something else.
  """
  outside.check_name(folder, uid)
  for ending in ("npz", "safetensors"):
    path = reading.join(folder, f"{uid}.{ending}")
    if reading.exists(path):
      break
  else:
    raise ConfigError(f"{folder} has neither {uid}.npz nor {uid}.safetensors")
  arrays, out = arrays_lib.load(path, reading.load(path)), {}
  for name, rank in (("clip", 3), ("still", 2)):
    x = arrays.get(name)
    if x is None and name == "still":
      continue
    if x is not None and x.ndim == rank + 1 and x.shape[-3] == x.shape[-2]:
      x = x.reshape(*x.shape[:-3], -1, x.shape[-1])
    if x is None or x.ndim != rank or 0 in x.shape or math.isqrt(x.shape[-2]) ** 2 != x.shape[-2]:
      told = {name: [*x.shape] for name, x in arrays.items()}
      raise outside.Damaged(
        path,
        f"it has {told}; features are clip [frames, places, values] and, if at all, still"
        " [places, values], of square maps",
      )
    is_float = x.dtype.kind == "f" or x.dtype.name == "bfloat16"
    if not is_float or not np.isfinite(x.astype(np.float32)).all():
      raise outside.Damaged(path, f"{name} has values that are no finite numbers")
    out[name] = x.astype(np.float32)
  return out
