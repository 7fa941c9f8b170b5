"""Clips and their samples as batches of videos that a model goes on with.

Shapes: R clips, K samples of a clip, B videos of a batch, N (latent) frames, P
tokens of a frame.
"""

from collections.abc import Callable
import zlib

import numpy as np

from totojax import sequence
from totojax.tokenizers import api
from totojax.trained import generate


def check_amounts(spec: sequence.SequenceSpec, *, given: int, new: int, name: str) -> None:
  """Raises ValueError unless a model goes on with so many frames of pixels.

  Args:
    spec: of the model.
    given: frames of the context.
    new: frames after it.
    name: of the model.
  """
  latents = spec.latents
  window = min(spec.frames, spec.context // spec.frame_tokens)
  most = latents.whole_frames(window) if window else 0
  if not 1 <= given <= most:
    raise ValueError(
      f"{given} frames are given; the window of {name} has {most}: give 1 to {most} of them"
      + (", the last ones of a longer video" if given else "")
    )
  if new < 1:
    raise ValueError(f"{new} new frames are asked for; ask for 1 or more")
  held = latents.latent_frames(given)
  if latents.whole_frames(held) != given:
    fitting = [latents.whole_frames(n) for n in (held - 1, held) if n]
    raise ValueError(
      f"{given} frames are given, and a token of {name} stands for {latents.frame_factor} (the"
      f" first for {latents.first_frames}); give {' or '.join(map(str, fitting))}"
    )


def numbers(context_RNP: np.ndarray) -> np.ndarray:
  """uint32 [R]: of each context one that depends on its codes alone."""
  plain = np.ascontiguousarray(context_RNP, "<i4")
  return np.array([zlib.crc32(codes_NP.tobytes()) for codes_NP in plain], np.uint32)


def padded(array: np.ndarray, rows: int) -> np.ndarray:
  """The same with its last row again, up to so many."""
  return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])


def batch(
  decoder: generate.Decoder,
  context_BNP: np.ndarray,
  draw_B: np.ndarray,
  known_BNP: np.ndarray | None = None,
) -> generate.Batch:
  """Videos as a batch that divides over the decoder's devices; what is missing is padding."""
  rows = -(-len(context_BNP) // decoder.ways) * decoder.ways
  return generate.Batch(
    context_BNP=padded(context_BNP, rows),
    item_B=padded(numbers(context_BNP), rows),
    draw_B=padded(np.asarray(draw_B, np.uint32), rows),
    known_BNP=None if known_BNP is None else padded(known_BNP, rows),
  )


def samples(
  decoder: generate.Decoder, context_RNP: np.ndarray, *, further: int, samples: int, rows: int
) -> np.ndarray:
  """int32 codes [R, K, N + further, P] of clips and what follows them."""
  context_BNP = np.repeat(context_RNP, samples, axis=0)
  draw_B = np.tile(np.arange(samples), len(context_RNP))
  parts = []
  for first in range(0, len(context_BNP), rows):
    some = slice(first, first + rows)
    videos = batch(decoder, context_BNP[some], draw_B[some])
    made = np.stack([f.codes_BP for f in decoder.frames(videos, further=further)], axis=1)
    parts.append(made[: len(draw_B[some])])
  whole_BNP = np.concatenate([context_BNP, np.concatenate(parts)], axis=1)
  return whole_BNP.reshape(len(context_RNP), samples, *whole_BNP.shape[1:])


def restart(
  tokenizer: api.Tokenizer, spec: sequence.SequenceSpec
) -> Callable[[np.ndarray, int], np.ndarray] | None:
  """(codes [B, N, P] of a window, frames of it that stay) -> these as a video's beginning.

  None where codes of later frames are those of a beginning too. A causal
  tokenizer of clips makes the first latent frame of one frame, and the others of
  several: the window is drawn, and its last frames are encoded anew.
  """
  latents = spec.latents
  if not latents.has_start:
    return None

  def again(codes_BNP: np.ndarray, keep: int) -> np.ndarray:
    shape = *codes_BNP.shape[:2], *spec.frame_shape
    drawn = api.decode_clips(tokenizer, codes_BNP.reshape(shape))
    last = drawn[:, -latents.whole_frames(keep) :]
    return api.encode_clips(tokenizer, last).reshape(len(codes_BNP), keep, -1)

  return again
