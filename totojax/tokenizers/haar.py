"""Haar wavelets: pixels to patches of channels, and back (Cosmos).

Shapes: B images, H height, W width, C channels; of clips [B, T, H, W, C].
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def haar(x_BHWC: jax.Array, axes: Sequence[int], rounds: int) -> jax.Array:
  """Patches as channels: `rounds` of means and half differences of neighbours.

  A round halves the axes and doubles the channels for each; channel = band *
  channels + channel, bands from all-low to all-high, the first axis the most
  significant (Cosmos: width, height; of clips time, height, width).

  Raises:
    ValueError: an axis has an odd length on the way.
  """
  for _ in range(rounds):
    bands = [x_BHWC]
    for axis in axes:
      if x_BHWC.shape[axis] % 2:
        raise ValueError(f"axis {axis} of {x_BHWC.shape} is odd; halve even lengths alone")
      bands = [
        half
        for band in bands
        for a, b in [(_every_second(band, axis, 0), _every_second(band, axis, 1))]
        for half in ((a + b) / 2, (a - b) / 2)
      ]
    x_BHWC = jnp.concatenate(bands, axis=-1)
  return x_BHWC


def unhaar(x_BHWC: jax.Array, axes: Sequence[int], rounds: int) -> jax.Array:
  """The inverse of `haar`."""
  for _ in range(rounds):
    bands = jnp.split(x_BHWC, 2 ** len(axes), axis=-1)
    for axis in reversed(axes):
      bands = [
        jnp.stack([low + high, low - high], axis=axis + 1).reshape(
          *low.shape[:axis], 2 * low.shape[axis], *low.shape[axis + 1 :]
        )
        for low, high in zip(bands[::2], bands[1::2])
      ]
    (x_BHWC,) = bands
  return x_BHWC


def _every_second(x: jax.Array, axis: int, first: int) -> jax.Array:
  return jax.lax.slice_in_dim(x, first, x.shape[axis], 2, axis)
