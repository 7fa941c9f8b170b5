"""What a tokenizer is to the rest: frames to codes and back, numpy to numpy.

Shapes: N and B frames, H height, W width, G grid side (a frame's sides may
differ), F values of a continuous token.
"""

from collections.abc import Callable, Mapping
import dataclasses
import hashlib
import json
from typing import Any

import jax
import numpy as np

# Below this, some codes of a float32 encoder change on a TPU.
HIGHEST = "highest"

# Precision of a product -> bf16 products that a TPU makes of it.
PASSES = {"highest": 6, "high": 3, "default": 1}


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """A trained tokenizer, or patches of pixels behind the same interface.

  Attributes:
    kind: "dvae", "patches", or a family of `families`, "vqgan" the first.
    vocab: number of codes; codes are 0 to vocab - 1. 0 where tokens are
      continuous ("patches").
    factor: pixels of one side of a token.
    fingerprint: 16 hex digits of the SHA-256 of weights and size. Stores and
      runs carry it, so that codes never meet another tokenizer's.
    size: its config, as plain values.
    encode: uint8 [N, H, W, 3] to int32 codes [N, H / factor, W / factor], or
      float32 [N, G, G, F] where tokens are continuous. In batches over all
      local devices; a frame's codes depend neither on the frames around it nor
      on how many frames or devices there are.
    decode: what `encode` gives to uint8 [N, G * factor, G * factor, 3].
    params: float32 numpy arrays. Place them on the device once before a loop
      over `codes_of`, or every call transfers them.
    codes_of: the same as `encode`, `(params, frames [B, H, W, 3])`, pure and
      traceable, for use inside a jitted function.
    macs: multiply-accumulates of encoding one square frame of so many pixels a
      side, each counted once: see `passes`.
    passes: bf16 products that a TPU makes of one multiply-accumulate.
  """

  kind: str
  vocab: int
  factor: int
  fingerprint: str
  size: Mapping[str, Any]
  encode: Callable[[np.ndarray], np.ndarray]
  decode: Callable[[np.ndarray], np.ndarray]
  params: Any
  codes_of: Callable[[Any, jax.Array], jax.Array]
  macs: Callable[[int], int]
  passes: int


def encode_clips(tokenizer: Tokenizer, frames_RNHW3: np.ndarray) -> np.ndarray:
  """int32 codes [R, N * tokens of a frame] of uint8 clips, in raster order.

  Shapes: R clips of N frames.

  Raises:
    ValueError: the tokenizer gives anything but codes of its own.
  """
  clips, frames, *shape = frames_RNHW3.shape
  codes_MGG = np.asarray(tokenizer.encode(frames_RNHW3.reshape(clips * frames, *shape)))
  check_codes(codes_MGG, tokenizer.vocab)
  return codes_MGG.reshape(clips, -1).astype(np.int32, copy=False)


def passes(precision: str) -> int:
  """bf16 products that a TPU makes of one product at this precision.

  Raises:
    ValueError: on another name.
  """
  if precision not in PASSES:
    raise ValueError(f"precision {precision!r} is unknown; use one of {sorted(PASSES)}")
  return PASSES[precision]


def fingerprint(tensors: Mapping[str, np.ndarray], size: Mapping[str, Any]) -> str:
  """16 hex digits of the SHA-256 over size and tensors as stored."""
  digest = hashlib.sha256(json.dumps(size, sort_keys=True).encode())
  for name in sorted(tensors):
    value = np.ascontiguousarray(tensors[name])
    digest.update(f"{name} {value.dtype.str} {value.shape}".encode())
    digest.update(value.tobytes())
  return digest.hexdigest()[:16]


def check_sides(shape: tuple[int, ...], factor: int) -> None:
  """Raises ValueError unless [.., H, W, C] is of whole tokens."""
  height, width = shape[-3:-1]
  if height % factor or width % factor or not height or not width:
    raise ValueError(
      f"frames are {height} x {width} pixels; a token is {factor} pixels"
      f" wide: resize or crop both to a multiple of {factor}"
    )


def check_frames(frames: np.ndarray, factor: int) -> None:
  """Raises ValueError unless frames are uint8 [N, H, W, 3] in whole tokens."""
  if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
    raise ValueError(
      f"frames are {frames.dtype} {frames.shape}; a tokenizer reads uint8"
      " [frames, height, width, 3]"
    )
  check_sides(frames.shape, factor)


def check_codes(codes: np.ndarray, vocab: int) -> None:
  """Raises ValueError unless codes are integers [N, G, G] below `vocab`."""
  if codes.ndim != 3 or not np.issubdtype(codes.dtype, np.integer):
    raise ValueError(
      f"a tokenizer's codes are {codes.dtype} {codes.shape}; they must be integers"
      " [frames, grid, grid]"
    )
  if codes.size and (codes.min() < 0 or codes.max() >= vocab):
    raise ValueError(
      f"codes run from {codes.min()} to {codes.max()}; this tokenizer has"
      f" codes 0 to {vocab - 1}. Tokens are codes + 4: subtract the specials"
    )
