"""From an encoder's latents to codes, and from codes to what a decoder reads.

Leading axes are free: a frame's [B, G, G, E] or a clip's [B, T, G, G, E].

Shapes: E dimension of a latent, V codes.
"""

import dataclasses
import math
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from totojax.tokenizers import api

# The widest code that int32 holds.
_BITS = 31


class Quantiser(Protocol):
  """Latents to codes and back; `book_VE` is None where none is learnt."""

  has_book: bool

  def codes(
    self, z_E: jax.Array, book_VE: jax.Array | None, *, precision: str = api.HIGHEST
  ) -> jax.Array:
    """int32 [...] of float32 latents [..., E]; of equals the first."""
    ...

  def values(self, codes: jax.Array, book_VE: jax.Array | None) -> jax.Array:
    """float32 [..., E], what the decoder is given for codes."""
    ...


@dataclasses.dataclass(frozen=True)
class Nearest:
  """The row at the least Euclidean distance.

  Attributes:
    unit: latents and rows have length one first (LlamaGen), as torch's
      `normalize` makes it; the decoder is given the normalised row.
  """

  unit: bool = False
  has_book = True

  def codes(self, z_E, book_VE, *, precision=api.HIGHEST):
    """The squared distance is |z|^2 + |e|^2 - 2 z e, summed in taming's order."""
    z_E, book_VE = self._scaled(z_E), self._scaled(book_VE)
    with jax.default_matmul_precision(precision):
      product_V = jnp.einsum("...e,ve->...v", z_E, book_VE)
    z2 = jnp.sum(z_E**2, axis=-1, keepdims=True)
    e2_V = jnp.sum(book_VE**2, axis=-1)
    return jnp.argmin(z2 + e2_V - 2 * product_V, axis=-1).astype(jnp.int32)

  def values(self, codes, book_VE):
    return self._scaled(book_VE)[codes]

  def _scaled(self, x_E):
    if not self.unit:
      return x_E
    return x_E / jnp.maximum(jnp.linalg.norm(x_E, axis=-1, keepdims=True), 1e-12)


@dataclasses.dataclass(frozen=True)
class LargestProduct:
  """The row whose dot product with the latent is the largest (IBQ).

  Not the nearest: long rows win. The decoder is given the plain row.
  """

  has_book = True

  def codes(self, z_E, book_VE, *, precision=api.HIGHEST):
    with jax.default_matmul_precision(precision):
      product_V = jnp.einsum("...e,ve->...v", z_E, book_VE)
    return jnp.argmax(product_V, axis=-1).astype(jnp.int32)

  def values(self, codes, book_VE):
    return book_VE[codes]


@dataclasses.dataclass(frozen=True)
class SignBits:
  """One bit a channel: whether it is above 0 (lookup-free, Open-MAGVIT2).

  The first channel is the least significant, so that the first of two factors
  of n and m bits is `codes % 2**n`, and the second `codes // 2**n`.
  """

  bits: int
  has_book = False

  def __post_init__(self):
    if not 1 <= self.bits < _BITS:
      raise ValueError(f"a code of {self.bits} bits was asked for; it has 1 to {_BITS - 1}")

  @property
  def vocab(self) -> int:
    return 2**self.bits

  def codes(self, z_E, book_VE=None, *, precision=api.HIGHEST):
    return jnp.sum((z_E > 0) << np.arange(self.bits, dtype=np.int32), axis=-1, dtype=jnp.int32)

  def values(self, codes, book_VE=None):
    bits_E = codes[..., None] >> np.arange(self.bits, dtype=np.int32) & 1
    return 2.0 * bits_E.astype(jnp.float32) - 1.0


@dataclasses.dataclass(frozen=True)
class Fsq:
  """Finite scalar quantisation (Mentzer et al. 2023): channels in levels.

  Always in float32; the first channel is the least significant.

  Attributes:
    levels: of each channel, at least 2.
  """

  levels: tuple[int, ...]
  has_book = False

  def __post_init__(self):
    if not self.levels or min(self.levels) < 2 or math.prod(self.levels) >= 2**_BITS:
      raise ValueError(
        f"levels are {self.levels}; each channel has 2 or more, with a product below 2**{_BITS}"
      )

  @property
  def vocab(self) -> int:
    return math.prod(self.levels)

  def codes(self, z_E, book_VE=None, *, precision=api.HIGHEST):
    # To even where it lies between two, as torch rounds.
    digits_E = jnp.rint(self._bounded(z_E)).astype(jnp.int32) + np.array(self.levels) // 2
    return jnp.sum(digits_E * self._basis(), axis=-1, dtype=jnp.int32)

  def rounded(self, z_E: jax.Array | np.ndarray) -> jax.Array:
    """`values` of the codes of latents, with the gradient of no rounding."""
    bounded_E = self._bounded(z_E)
    error_E = jax.lax.stop_gradient(jnp.rint(bounded_E) - bounded_E)
    return (bounded_E + error_E) / (np.array(self.levels) // 2).astype(np.float32)

  def _bounded(self, z_E: jax.Array | np.ndarray) -> jax.Array:
    """What is rounded: the whole numbers in its range are the levels."""
    levels = np.array(self.levels)
    half = (levels - 1) * 1.001 / 2
    offset = np.where(levels % 2, 0.0, 0.5)
    shift, half, offset = map(np.float32, (np.arctanh(offset / half), half, offset))
    return jnp.tanh(z_E + shift) * half - offset

  def values(self, codes, book_VE=None):
    half = np.array(self.levels, np.int32) // 2
    digits_E = codes[..., None] // self._basis() % np.array(self.levels, np.int32)
    return (digits_E - half).astype(jnp.float32) / half.astype(np.float32)

  def _basis(self) -> np.ndarray:
    """What one step of each channel adds to the code."""
    return np.cumprod((1, *self.levels[:-1]), dtype=np.int32)
