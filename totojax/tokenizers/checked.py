"""A tokenizer of the user's, of which every result is checked.

What it gives wrong would be found far away, or never: codes beyond its own are
other tokens, and a latent frame too few moves all that follow. So a mistake is
one line that names the file.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import numpy as np

from totojax import plugins
from totojax.tokenizers import api


def checked(tokenizer: api.Tokenizer, reference: str) -> api.Tokenizer:
  """The tokenizer that `reference` gave, whose functions raise PluginError.

  Inside of a jitted function shapes and types alone are seen, not codes.
  Continuous ones (`vocab` 0) are let through.
  """
  if not tokenizer.vocab:
    return tokenizer
  file = plugins.find(reference, "tokenizer").file
  latents, factor = tokenizer.latents, tokenizer.factor

  def call(name: str, what: Any, *args: Any) -> Any:
    function: Callable[..., Any] = getattr(tokenizer, name)
    with plugins.users(file, f"{name} fails at {what.dtype} {what.shape}"):
      return function(*args)

  def refuse(name: str, result: Any, what: Any, needed: str) -> None:
    raise plugins.PluginError(
      f"{file}: {name} gives {result} of {what.dtype} {what.shape}; it must give {needed}"
      " (docs/contributing.md)"
    )

  def code_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    *clips, height, width, _ = shape
    if latents.is_temporal:
      clips[1] = latents.latent_frames(clips[1])
    several = (latents.codes,) if latents.codes > 1 else ()
    return (*clips, height // factor, width // factor, *several)

  def of_frames(name: str, codes: Any, frames: Any) -> None:
    shape = code_shape(frames.shape)
    if not np.issubdtype(codes.dtype, np.integer) or codes.shape != shape:
      refuse(name, f"{codes.dtype} {codes.shape}", frames, f"integers {shape} with {latents}")

  def encode(frames: np.ndarray) -> np.ndarray:
    api.check_frames(frames, factor, latents)
    codes = np.asarray(call("encode", frames, frames))
    of_frames("encode", codes, frames)
    low, high = codes.min(initial=0), codes.max(initial=0)
    if low < 0 or high >= tokenizer.vocab:
      refuse(
        "encode", f"codes {low} to {high}", frames, f"0 to {tokenizer.vocab - 1}, by its vocab"
      )
    return codes

  def decode(codes: np.ndarray) -> np.ndarray:
    api.check_codes(codes, tokenizer.vocab, latents)
    drawn = np.asarray(call("decode", codes, codes))
    sides = [side * factor for side in codes.shape[1 + latents.is_temporal :][:2]]
    clips = (latents.whole_frames(codes.shape[1]),) if latents.is_temporal else ()
    shape = (len(codes), *clips, *sides, 3)
    if drawn.dtype != np.uint8 or drawn.shape != shape:
      refuse("decode", f"{drawn.dtype} {drawn.shape}", codes, f"uint8 {shape} with {latents}")
    return drawn

  def codes_of(params: Any, frames: Any) -> Any:
    codes = call("codes_of", frames, params, frames)
    of_frames("codes_of", codes, frames)
    return codes

  return dataclasses.replace(tokenizer, encode=encode, decode=decode, codes_of=codes_of)
