"""Other people's encoders: frozen functions of pixels, probed as ours are.

`run = "features"` writes what an encoder gives, and a probe reads it beside our
own layers. An encoder is any function; ready are those of PyTorch modules and of
the vision transformers of transformers (the `encoders` extra). By name, of
weights that lie on disk, they are in `ready`; a file of the user's makes any:

  import transformers
  from totojax.trained import encoders

  def encoder():
    return encoders.of_vit(transformers.AutoModel.from_pretrained(NAME))

Shapes: R clips, N frames of a clip, B images (or clips, of a model of videos), S
pixels of a side, T tokens, L layers, D width.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any

import numpy as np

from totojax import plugins

# Of ImageNet, as torchvision has them.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
POOLS = ("patches", "class", "tokens")
# model_type of transformers -> its norm after the last block, as
# `last_hidden_state` has passed it.
NORMS = {
  "clip_vision_model": "post_layernorm",  # which it applies to the class token alone
  "dinov3_vit": "norm",
  "vjepa2": "encoder.layernorm",
}
VIDEO = ("videomae", "vjepa2")  # model_type of those that read clips
# Repeats of an image that V-JEPA 2 is probed with.
STILL_FRAMES = 16


@dataclasses.dataclass(frozen=True)
class Encoder:
  """A frozen feature function.

  Attributes:
    size_px: side of the frames that it reads (S).
    frames: of a clip, at most; 1 for images.
    layers: numbers of the layers that it gives, increasing.
    features: uint8 [R, N, S, S, 3] -> floats [L, R, D], or [L, R, T, D]: all
      tokens, which heads with attention can read.
    multiple: what the frames of a video's clip are a multiple of. An image is a
      clip of one frame whatever this is.
    digest: of its weights, where they are not in its own file.
    normed: whether its layers have passed the norm after the last block.
    grid: places of a side of its map of tokens; 0: the root of an image's tokens.
    streams: whether a frame's features depend on all frames before it.
  """

  size_px: int
  frames: int
  layers: tuple[int, ...]
  features: Callable[[np.ndarray], np.ndarray]
  multiple: int = 1
  digest: str = ""
  normed: bool = False
  grid: int = 0
  streams: bool = False


def torch() -> Any:
  """PyTorch.

  Raises:
    ImportError: it is missing; names the extra that brings it.
  """
  try:
    import torch as lib
  except ImportError as error:
    raise _missing("PyTorch") from error
  return lib


def transformers() -> Any:
  """Hugging Face's transformers; raises as `torch`."""
  torch()
  try:
    import transformers as lib
  except ImportError as error:
    raise _missing("transformers") from error
  return lib


def _missing(name: str) -> ImportError:
  return ImportError(f"{name} is missing; install it with: pip install 'totojax[encoders]'")


def of_torch(
  forward: Callable[[Any], Sequence[Any]],
  *,
  size_px: int,
  layers: Sequence[int],
  frames: int = 1,
  mean: Sequence[float] = MEAN,
  std: Sequence[float] = STD,
  device: Any = "cpu",
  rows: int = 64,
  video: bool = False,
  **more: Any,
) -> Encoder:
  """An encoder of images or videos in PyTorch.

  Of an encoder of images a clip's features are the mean over its frames, or all
  their tokens.

  Args:
    forward: float32 pixels [B, 3, S, S], less `mean` and over `std`, to a
      tensor [B, D], or of tokens [B, T, D], for each layer. A module that gives
      one is `lambda x: [module(x)]`.
    size_px: side of the images.
    layers: the layers' numbers.
    frames: of a clip.
    mean, std: of the channels of pixels from 0 to 1.
    device: where the pixels go.
    rows: images of a call.
    video: whether `forward` reads clips, [B, N, 3, S, S]. A clip of one frame is
      an image, and is repeated: `STILL_FRAMES` times, `frames` where they are
      fewer or `multiple` is all of them.
    more: `multiple`, `digest`, `normed`, `grid` and `streams` of `Encoder`.
  """
  numbers = tuple(layers)
  multiple = more.get("multiple", 1)
  still = frames if multiple == frames else min(frames, STILL_FRAMES)

  def features(clips_RNSS3: np.ndarray) -> np.ndarray:
    lib = torch()
    clips, count = clips_RNSS3.shape[:2]
    inputs, at_once = clips_RNSS3, rows
    if not video:
      inputs = clips_RNSS3.reshape(-1, *clips_RNSS3.shape[2:])
    else:
      if count == 1:
        inputs = np.repeat(clips_RNSS3, still, axis=1)
      at_once = max(rows // inputs.shape[1], 1)
    shift, scale = (
      lib.tensor(v, dtype=lib.float32, device=device).reshape(3, 1, 1) for v in (mean, std)
    )
    parts = []
    with lib.inference_mode():
      for start in range(0, len(inputs), at_once):
        part = np.ascontiguousarray(np.moveaxis(inputs[start : start + at_once], -1, -3))
        pixels = lib.from_numpy(part).to(device).float()
        outputs = list(forward((pixels / 255.0 - shift) / scale))
        _check(outputs, numbers, len(part))
        parts.append(lib.stack(outputs).float().cpu().numpy())
    x_LB = np.concatenate(parts, axis=1)
    if video:
      return x_LB
    width = x_LB.shape[-1]
    if x_LB.ndim == 4:  # the tokens of a clip are those of all its frames
      return x_LB.reshape(len(numbers), clips, -1, width)
    return x_LB.reshape(len(numbers), clips, count, width).mean(axis=2)

  return Encoder(size_px, frames, numbers, features, **more)


def _check(outputs: list[Any], layers: tuple[int, ...], images: int) -> None:
  shapes = {tuple(x.shape) for x in outputs}
  fits = all(len(s) in (2, 3) and s[0] == images for s in shapes)
  if len(outputs) != len(layers) or len(shapes) != 1 or not fits:
    raise ValueError(
      f"forward gave {len(outputs)} tensors of shapes {sorted(shapes)} for {images} images;"
      f" {len(layers)} layers need one [{images}, width] or [{images}, tokens, width] each"
    )


def of_vit(
  model: Any, *, pool: str = "patches", size_px: int = 0, norm: bool = False, **more: Any
) -> Encoder:
  """A vision transformer of transformers: every layer, from the embeddings.

  Layer l is what leaves block l, before the norm that follows the last one.

  Args:
    model: a `ViTModel` (DINO), `Dinov2Model` or `Dinov2WithRegistersModel`,
      `DINOv3ViTModel`, `ViTMAEModel`, `CLIPVisionModel`, `VideoMAEModel`,
      `VJEPA2Model` or like it, with its `config` and, asked for, its hidden
      states; is set to evaluation, and MAE's to mask nothing.
    pool: "patches": the mean over their tokens; "class": the first token;
      "tokens": those of all patches, not pooled.
    size_px: side of the frames; 0: that of its config, but of DINOv2, whose
      released config has the 518 pixels of its positions, at most 224.
      Positions are interpolated as the model itself does.
    norm: whether every layer passes the model's norm after the last block, as
      V-JEPA 2 and DINOv2 are probed.
    more: `frames`, `mean`, `std` (as it was trained), `rows` and `digest` of
      `of_torch`.

  Raises:
    ValueError: another pool, or a size, pool or norm that this model has not.
  """
  if pool not in POOLS:
    raise ValueError(f"pool is {pool!r}; use one of {', '.join(POOLS)}")
  config = model.eval().config
  kind, name = config.model_type, type(model).__name__
  own_px = config.crop_size if kind == "vjepa2" else config.image_size
  if kind.startswith("dinov2"):
    size = size_px or min(own_px, 224)
  else:
    size = size_px or own_px
  if size % config.patch_size or (kind in VIDEO and size != own_px):
    wanted = f"{own_px} alone" if kind in VIDEO else f"a multiple of {config.patch_size}"
    raise ValueError(f"{name} reads frames of {wanted} pixels, and {size} were asked for")
  if pool == "class" and kind in VIDEO:
    raise ValueError(f"{name} has no class token; pool its patches")
  if norm and (_norm(model) is None or (kind == "clip_vision_model" and pool != "class")):
    which = "its patches" if _norm(model) is not None else "any token"
    raise ValueError(f"{name} applies no norm to {which} after its last block; leave norm out")
  if kind == "vit_mae":
    config.mask_ratio = 0.0
  multiple = {"videomae": getattr(config, "num_frames", 1), "vjepa2": 2}.get(kind, 1)
  frames = getattr(config, "num_frames" if kind == "videomae" else "frames_per_clip", 1)

  def forward(pixels: Any) -> list[Any]:
    states = hidden_states(model, pixels)
    patches = patches_of(model, pixels)
    tokens = states[0].shape[1]
    if tokens < patches + (kind not in VIDEO):
      raise ValueError(f"{name} gives {tokens} tokens for {patches} patches and the class")
    states = [x[:, :1] if pool == "class" else x[:, tokens - patches :] for x in states]
    if norm:
      states = [_norm(model)(x) for x in states]
    return states if pool == "tokens" else [x.mean(1) for x in states]

  return of_torch(
    forward,
    size_px=size,
    layers=range(config.num_hidden_layers + 1),
    device=next(model.parameters()).device,
    video=kind in VIDEO,
    normed=norm,
    grid=size // config.patch_size,
    **{"multiple": multiple, "frames": frames, **more},
  )


def patches_of(model: Any, pixels: Any) -> int:
  """Tokens of patches that a model makes of pixels [B, (N,) 3, H, W]."""
  config = model.config
  patches = (pixels.shape[-2] // config.patch_size) * (pixels.shape[-1] // config.patch_size)
  if config.model_type in VIDEO:
    patches *= pixels.shape[1] // config.tubelet_size
  return patches


def hidden_states(model: Any, pixels: Any) -> list[Any]:
  """What enters the first block and leaves each, [B, tokens, D], none of it normed.

  Args:
    model: as of `of_vit`.
    pixels: [B, 3, H, W], of models of videos [B, N, 3, H, W], normalised.
  """
  kind, more = model.config.model_type, {}
  if kind in ("vit", "vit_mae", "clip_vision_model"):
    side = model.config.image_size
    more["interpolate_pos_encoding"] = tuple(pixels.shape[-2:]) != (side, side)
  if kind == "vit_mae":  # without noise its tokens come in another order in each call
    order = pixels.new_ones(len(pixels), patches_of(model, pixels)).cumsum(1)
    more["noise"] = order
  if kind == "vjepa2":
    more["skip_predictor"] = True
  name = "pixel_values_videos" if kind == "vjepa2" else "pixel_values"
  return list(model(**{name: pixels}, output_hidden_states=True, **more).hidden_states)


def _norm(model: Any) -> Any:
  """The norm after the last block; None where there is none."""
  name = NORMS.get(model.config.model_type, "layernorm")
  return functools.reduce(lambda part, key: getattr(part, key, None), name.split("."), model)


def places(count: int, *, most: int, multiple: int = 1) -> np.ndarray:
  """Which of a clip's `count` frames an encoder sees, evenly; some twice where it needs more."""
  some = min(count, most)
  some = max(some - some % multiple, multiple)
  return np.linspace(0, count - 1, some).round().astype(int)


def checked(x_LR: Any, encoder: Encoder, *, name: str, clips: int, tokens: bool) -> np.ndarray:
  """What an encoder gave of so many clips, an array, once its shape is what it must be.

  Raises:
    ValueError: it is not.
  """
  x_LR = np.asarray(x_LR)
  expected = (len(encoder.layers), clips)
  if x_LR.ndim != 3 + tokens or x_LR.shape[:2] != expected:
    form, pool = ("tokens, width", "token") if tokens else ("width", "clip")
    raise ValueError(
      f"{name} gave features of shape {x_LR.shape}; for {clips} clips and pool {pool!r} they are"
      f" [{expected[0]} layers, {expected[1]}, {form}]"
    )
  return x_LR


def load(path: str) -> Encoder:
  """What `encoder()` of a Python file of the user's returns (`plugins`)."""
  return plugins.load(path, "encoder", Encoder)
