"""Codes of a large vocabulary as several smaller ones for a place.

A vocabulary of 262,144 needs a head of as many logits. Open-MAGVIT2's own model
predicts 64 and then 4,096 in its place (Luo et al., 2024, arXiv 2409.04410:
asymmetric token factorisation): `code % 64` and `code // 64`. So it is here, for
any number of parts, each the quotient of those before it. Every part has ids of
its own, those of the second after those of the first, so that the vocabulary is
their sum and a token says which part it is of.

Of codes that are themselves numbers with digits (FSQ's), parts that are products
of neighbouring levels keep each digit whole.

Wherever a config names a tokenizer, "FILE:split=64,4096" names it split.

Shapes: K parts.
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import json
import math
import re
from typing import Any

import jax.numpy as jnp
import numpy as np

from totojax.tokenizers import api

_REFERENCE = re.compile(r"(.+):split=(.*)")


def reference(name: str) -> tuple[str, tuple[int, ...]]:
  """("FILE", (64, 4096)) of "FILE:split=64,4096"; no parts of any other name.

  Raises:
    ValueError: what follows are no numbers.
  """
  match = _REFERENCE.fullmatch(name)
  if match is None:
    return name, ()
  words = match[2].split(",")
  if not all(re.fullmatch("[0-9]{1,10}", word) for word in words):
    raise ValueError(f"{name}: after split= stand the parts with commas between, as split=64,4096")
  return match[1], tuple(map(int, words))


def check_parts(parts: Sequence[int], vocab: int) -> None:
  """Raises ValueError unless so many codes can be split into the parts."""
  if len(parts) < 2 or min(parts) < 2 or math.prod(parts) != vocab:
    raise ValueError(
      f"codes are split into {tuple(parts)}; the parts must be two or more, each at least 2, whose"
      f" product is the vocabulary of {vocab}"
    )


def split(tokenizer: api.Tokenizer, parts: Sequence[int]) -> api.Tokenizer:
  """A tokenizer of images or clips whose codes are split.

  Its fingerprint follows from the tokenizer's and the parts.

  Args:
    tokenizer: with one code for a place.
    parts: sizes, whose product is its vocabulary.

  Raises:
    ValueError: other parts, or it has several codes for a place already.
  """
  parts = tuple(parts)
  if tokenizer.latents.codes != 1:
    raise ValueError(
      f"a {tokenizer.kind} tokenizer has {tokenizer.latents.codes} codes for a place already;"
      " only one can be split"
    )
  check_parts(parts, tokenizer.vocab)
  latents = dataclasses.replace(tokenizer.latents, codes=len(parts))

  def decode(codes: np.ndarray) -> np.ndarray:
    api.check_codes(codes, sum(parts), latents)
    return tokenizer.decode(joined(codes, parts))

  return dataclasses.replace(
    tokenizer,
    vocab=sum(parts),
    latents=latents,
    fingerprint=fingerprint(tokenizer.fingerprint, parts),
    size={**tokenizer.size, "split": list(parts)},
    encode=lambda frames: divided(np.asarray(tokenizer.encode(frames)), parts, np),
    decode=decode,
    codes_of=lambda params, frames: divided(tokenizer.codes_of(params, frames), parts, jnp),
  )


def slots(tokenizer: api.Tokenizer) -> tuple[tuple[int, int], ...]:
  """(first, one after the last) of the codes that each code of a place can be.

  Of a tokenizer whose codes were not split each may be any.
  """
  parts = tokenizer.size.get("split")
  if not parts:
    return ((0, tokenizer.vocab),) * tokenizer.latents.codes
  ends = np.cumsum([0, *parts]).tolist()
  return tuple(zip(ends, ends[1:]))


def fingerprint(whole: str, parts: Sequence[int]) -> str:
  """16 hex digits, of a tokenizer's fingerprint and the parts."""
  return hashlib.sha256(json.dumps([whole, *parts]).encode()).hexdigest()[:16]


def divided(codes: Any, parts: Sequence[int], xp: Any) -> Any:
  """int32 [.., K] of codes [..] below the product of the parts; `xp` is np or jnp."""
  rest, slots, first = codes.astype(xp.int32), [], 0
  for size in parts:
    slots.append(rest % size + first)
    rest, first = rest // size, first + size
  return xp.stack(slots, axis=-1)


def joined(codes: np.ndarray, parts: Sequence[int]) -> np.ndarray:
  """int32 codes [..] of `divided` ones [.., K].

  Raises:
    ValueError: an id is none of its part's.
  """
  whole, first, scale = np.zeros(codes.shape[:-1], np.int32), 0, 1
  for slot, size in enumerate(parts):
    part = codes[..., slot].astype(np.int32) - first
    if part.size and not 0 <= part.min() <= part.max() < size:
      wrong = part[(part < 0) | (part >= size)][0] + first
      raise ValueError(
        f"code {slot + 1} of a place is {wrong}; the codes of this part are {first} to"
        f" {first + size - 1}: the parts of {tuple(parts)} stand in this order"
      )
    whole, first, scale = whole + part * scale, first + size, scale * size
  return whole
