"""The token contract: how frames of codes become one sequence of tokens.

A visual code c in 0..V-1 is token c + 4. Ids 0 to 3 are pad, video start, end
and image start: the paper's [1], [2] and [3] (section 3.4), which would collide
with codes 1 to 3 if codes were not moved up. A sequence is

  [start] x_1 ... x_N [end]        N = frames x grid x grid x codes

in raster order, the codes of a place one after the other; frames are latent
ones where the tokenizer makes one of several (`config.model.LatentSpec`).
Pre-training cuts it to the first `context + 1` tokens: the inputs are the first
`context` of them and the targets the same shifted by one. With 16 frames of
16 x 16 tokens and a context of 4,096, every visual token is a target.

Shapes: B batch, T tokens, N frames, G grid side, K codes of a place, P tokens of
a frame (G x G x K).
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from totojax.config.model import SequenceSpec, SPECIALS

Array = TypeVar("Array", jax.Array, np.ndarray)

PAD = 0
VIDEO_START = 1
END = 2
IMAGE_START = 3

START = {"video": VIDEO_START, "image": IMAGE_START}


def build(codes_NP: np.ndarray, *, kind: str, spec: SequenceSpec) -> np.ndarray:
  """One training row from the codes of one video or of several images.

  Args:
    codes_NP: integer codes, [frames, grid * grid * codes], raster order within frames.
    kind: "video" or "image"; decides the start token.
    spec: the sequence.

  Returns:
    int32 tokens [context + 1]: `[start] + tokens + [end]`, cut at the context
    and padded with PAD on the right.

  Raises:
    ValueError: on another shape, an unknown kind, or a code outside 0..V-1.
  """
  if kind not in START:
    raise ValueError(f"kind {kind!r} is unknown; use 'video' or 'image'")
  expected = (spec.frames, spec.frame_tokens)
  if codes_NP.shape != expected:
    each = f" of {spec.codes} codes each" if spec.codes > 1 else ""
    raise ValueError(
      f"codes have shape {codes_NP.shape}; {spec.frames} frames of a"
      f" {spec.grid}x{spec.grid} grid{each} need {expected}"
    )
  codes = codes_NP.reshape(-1).astype(np.int64)
  low, high = int(codes.min()), int(codes.max())
  if low < 0 or high >= spec.vocab:
    raise ValueError(
      f"codes run from {low} to {high}; this tokenizer has codes 0 to"
      f" {spec.vocab - 1}. Was the data made with another tokenizer?"
    )
  row_T = np.full(spec.row_tokens, PAD, np.int32)
  whole = np.concatenate([[START[kind]], codes + SPECIALS, [END]])
  cut = min(len(whole), spec.row_tokens)
  row_T[:cut] = whole[:cut]
  return row_T


def split(tokens_BR: Array) -> tuple[Array, Array]:
  """Inputs and next-token targets, each [B, T], of rows [B, T + 1]."""
  return tokens_BR[:, :-1], tokens_BR[:, 1:]


def is_visual(tokens: jax.Array) -> jax.Array:
  """Where a token is a visual one: what the loss counts (Eq. 2)."""
  return tokens >= SPECIALS


def codes_of(tokens: np.ndarray) -> np.ndarray:
  """Visual codes of visual tokens, any shape; specials raise ValueError."""
  if np.any(tokens < SPECIALS):
    raise ValueError("special tokens (ids 0 to 3) have no code; cut them off first")
  return tokens - SPECIALS


def segment_ids(inputs_BT: jax.Array, spec: SequenceSpec) -> jax.Array:
  """int32 [B, T]: which image of a packed sequence each position belongs to.

  A video is one segment. In a sequence of images the start token counts to the
  first image. Padding gets a segment of its own, so that nothing attends to it.
  """
  positions_T = jnp.arange(inputs_BT.shape[1])
  image_T = jnp.maximum(positions_T - 1, 0) // spec.frame_tokens
  is_image_B1 = inputs_BT[:, :1] == IMAGE_START
  segments_BT = jnp.where(is_image_B1, image_T[None], 0)
  return jnp.where(inputs_BT == PAD, -1, segments_BT).astype(jnp.int32)
