"""What a tokenizer is to the rest: frames to codes and back, numpy to numpy.

Shapes: N frames, H height, W width, G grid side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """A trained tokenizer.

  Attributes:
    vocab: number of codes; codes are 0 to vocab - 1.
    factor: pixels of one side of a token.
    fingerprint: 16 hex digits of the SHA-256 of weights and config. Stores and
      runs carry it, so that codes never meet another tokenizer's.
    config: its size, as plain values.
    encode: uint8 [N, H, W, 3] to int32 codes [N, H / factor, W / factor]. A
      frame's codes do not depend on the frames around it.
    decode: integer codes [N, G, G] to uint8 [N, G * factor, G * factor, 3].
  """

  vocab: int
  factor: int
  fingerprint: str
  config: Mapping[str, Any]
  encode: Callable[[np.ndarray], np.ndarray]
  decode: Callable[[np.ndarray], np.ndarray]


def in_batches(
    function: Callable[[np.ndarray], Any], array: np.ndarray, batch: int
) -> np.ndarray:
  """Applies `function` to `batch` rows at a time; the last ones are padded.

  Every call sees the same shape, so a jitted function compiles once and a row's
  result cannot depend on how many rows there are.

  Raises:
    ValueError: if there are no rows.
  """
  rows = len(array)
  if not rows:
    raise ValueError("0 frames were given; a tokenizer needs at least one")
  parts = []
  for start in range(0, rows, batch):
    part = array[start : start + batch]
    short = batch - len(part)
    if short:
      part = np.concatenate([part, np.repeat(part[-1:], short, axis=0)])
    parts.append(np.asarray(function(part))[: batch - short])
  return np.concatenate(parts)


def check_frames(frames: np.ndarray, factor: int) -> None:
  """Raises ValueError unless frames are uint8 [N, H, W, 3] in whole tokens."""
  if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
    raise ValueError(
        f"frames are {frames.dtype} {frames.shape}; a tokenizer reads uint8"
        " [frames, height, width, 3]"
    )
  if any(side % factor for side in frames.shape[1:3]):
    raise ValueError(
        f"frames are {frames.shape[1]} x {frames.shape[2]} pixels; a token is"
        f" {factor} pixels wide: resize or crop both to a multiple of {factor}"
    )


def check_codes(codes: np.ndarray, vocab: int) -> None:
  """Raises ValueError unless codes are integers [N, G, G] below `vocab`."""
  if codes.ndim != 3 or not np.issubdtype(codes.dtype, np.integer):
    raise ValueError(
        f"codes are {codes.dtype} {codes.shape}; give integers [frames, grid,"
        " grid]"
    )
  if codes.size and (codes.min() < 0 or codes.max() >= vocab):
    raise ValueError(
        f"codes run from {codes.min()} to {codes.max()}; this tokenizer has"
        f" codes 0 to {vocab - 1}. Tokens are codes + 4: subtract the specials"
    )
