"""Other people's encoders: frozen functions of pixels, probed as ours are.

`run = "features"` writes what an encoder gives, and a probe reads it beside our
own layers. An encoder is any function; ready are those of PyTorch modules (the
`parity` extra) and of the vision transformers of transformers, as MAE's and
DINO's. A file of the user's makes one:

  import transformers
  from totojax.trained import encoders

  def encoder():
    return encoders.of_vit(transformers.AutoModel.from_pretrained(NAME))

Shapes: R clips, N frames of a clip, B images, S pixels of a side, T tokens,
L layers, D width.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import numpy as np

from totojax import plugins

# Of ImageNet, as torchvision has them.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
POOLS = ("patches", "class", "tokens")


@dataclasses.dataclass(frozen=True)
class Encoder:
  """A frozen feature function.

  Attributes:
    size_px: side of the frames that it reads (S).
    frames: of a clip; 1 for images.
    layers: numbers of the layers that it gives, increasing.
    features: uint8 [R, N, S, S, 3] -> floats [L, R, D], or [L, R, T, D]: all
      tokens, which heads with attention can read.
  """

  size_px: int
  frames: int
  layers: tuple[int, ...]
  features: Callable[[np.ndarray], np.ndarray]


def torch() -> Any:
  """PyTorch.

  Raises:
    ImportError: it is missing; names the extra that brings it.
  """
  try:
    import torch as lib
  except ImportError as error:
    raise ImportError(
      "PyTorch is missing; install it with: pip install 'totojax[parity]'"
    ) from error
  return lib


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
) -> Encoder:
  """An encoder of images in PyTorch.

  A clip's features are the mean over its frames, or all their tokens.

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
  """
  numbers = tuple(layers)

  def features(clips_RNSS3: np.ndarray) -> np.ndarray:
    lib = torch()
    clips, count = clips_RNSS3.shape[:2]
    images_BSS3 = clips_RNSS3.reshape(-1, *clips_RNSS3.shape[2:])
    shift, scale = (
      lib.tensor(v, dtype=lib.float32, device=device).reshape(3, 1, 1) for v in (mean, std)
    )
    parts = []
    with lib.inference_mode():
      for start in range(0, len(images_BSS3), rows):
        part = np.ascontiguousarray(images_BSS3[start : start + rows])
        pixels = lib.from_numpy(part).to(device).permute(0, 3, 1, 2).float()
        outputs = list(forward((pixels / 255.0 - shift) / scale))
        _check(outputs, numbers, len(part))
        parts.append(lib.stack(outputs).float().cpu().numpy())
    x_LB = np.concatenate(parts, axis=1)
    width = x_LB.shape[-1]
    if x_LB.ndim == 4:  # the tokens of a clip are those of all its frames
      return x_LB.reshape(len(numbers), clips, -1, width)
    return x_LB.reshape(len(numbers), clips, count, width).mean(axis=2)

  return Encoder(size_px, frames, numbers, features)


def _check(outputs: list[Any], layers: tuple[int, ...], images: int) -> None:
  shapes = {tuple(x.shape) for x in outputs}
  fits = all(len(s) in (2, 3) and s[0] == images for s in shapes)
  if len(outputs) != len(layers) or len(shapes) != 1 or not fits:
    raise ValueError(
      f"forward gave {len(outputs)} tensors of shapes {sorted(shapes)} for {images} images;"
      f" {len(layers)} layers need one [{images}, width] or [{images}, tokens, width] each"
    )


def of_vit(model: Any, *, pool: str = "patches", **more: Any) -> Encoder:
  """A vision transformer of transformers: every layer, from the embeddings.

  Args:
    model: a `ViTModel` (DINO), `Dinov2Model`, `ViTMAEModel` or like it, with
      its `config` and, asked for, its hidden states; is set to evaluation.
      MAE's must not mask: `mask_ratio=0.0`.
    pool: "patches": the mean over their tokens; "class": the first token;
      "tokens": those of all patches, not pooled.
    more: `frames`, `mean`, `std` (as it was trained) and `rows` of `of_torch`.

  Raises:
    ValueError: another pool.
  """
  if pool not in POOLS:
    raise ValueError(f"pool is {pool!r}; use one of {', '.join(POOLS)}")
  config = model.eval().config
  patches = (config.image_size // config.patch_size) ** 2

  def forward(pixels: Any) -> list[Any]:
    states = model(pixel_values=pixels, output_hidden_states=True).hidden_states
    tokens = states[0].shape[1]
    if tokens <= patches:
      raise ValueError(
        f"{type(model).__name__} gives {tokens} tokens for {patches} patches"
        " and the class; it must not mask any: load it with mask_ratio=0.0"
      )
    if pool == "class":
      return [x[:, 0] for x in states]
    states = [x[:, tokens - patches :] for x in states]
    return states if pool == "tokens" else [x.mean(1) for x in states]

  return of_torch(
    forward,
    size_px=config.image_size,
    layers=range(config.num_hidden_layers + 1),
    device=next(model.parameters()).device,
    **more,
  )


def load(path: str) -> Encoder:
  """What `encoder()` of a Python file of the user's returns (`plugins`)."""
  return plugins.load(path, "encoder", Encoder)
