"""Pyramids of maps: convolutions, resizing, FPN, and the fusion of a clip and a still.

Maps are channels last. The feature pyramid is that of Lin et al. (2017) as
torchvision has it; the fusion is StillFast's (Ragusa et al., 2023).

Shapes: B rows, H and W rows and columns, C channels.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

Params = Mapping[str, jax.Array]


def convolved(x_BHWC: jax.Array, kernel_hwCF: jax.Array, bias_F: jax.Array) -> jax.Array:
  """[B, H, W, F]: a convolution of odd size that keeps rows and columns."""
  out = jax.lax.conv_general_dilated(
    x_BHWC,
    kernel_hwCF.astype(x_BHWC.dtype),
    (1, 1),
    [(side // 2, side // 2) for side in kernel_hwCF.shape[:2]],
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  return out + bias_F.astype(x_BHWC.dtype)


def nearest(x_BHWC: jax.Array, size: tuple[int, int]) -> jax.Array:
  """[B, *size, C]: PyTorch's interpolate(mode="nearest")."""
  for axis, new in zip((1, 2), size):
    old = x_BHWC.shape[axis]
    if new == old:
      continue
    if new % old == 0:
      x_BHWC = jnp.repeat(x_BHWC, new // old, axis)
    else:
      x_BHWC = jnp.take(x_BHWC, jnp.arange(new) * old // new, axis)
  return x_BHWC


def resampled(x_BHWC: jax.Array, size: tuple[int, int]) -> jax.Array:
  """[B, *size, C]: linear between cells where it grows, means where it shrinks."""
  rows, channels = x_BHWC.shape[0], x_BHWC.shape[-1]
  if x_BHWC.shape[1:3] == size:
    return x_BHWC
  return jax.image.resize(x_BHWC, (rows, *size, channels), "linear")


def fpn(params: Params, maps: Sequence[jax.Array], *, last: bool = False) -> list[jax.Array]:
  """Maps of one width, of which each has seen all coarser ones.

  Args:
    params: `inner_<n>` [C_n, F] and `layer_<n>` [3, 3, F, F], each with its
      `_bias`, n = 0 of the finest map.
    maps: from fine to coarse, [B, H_n, W_n, C_n].
    last: whether there is a further map, every second cell of the coarsest.
  """

  def inner(n):
    return convolved(maps[n], params[f"inner_{n}"][None, None], params[f"inner_{n}_bias"])

  def layer(n, x):
    return convolved(x, params[f"layer_{n}"], params[f"layer_{n}_bias"])

  above = inner(len(maps) - 1)
  out = [layer(len(maps) - 1, above)]
  for n in reversed(range(len(maps) - 1)):
    own = inner(n)
    above = own + nearest(above, (own.shape[1], own.shape[2]))
    out.insert(0, layer(n, above))
  return [*out, out[-1][:, ::2, ::2]] if last else out


def fused(params: Params, still_BHWC: jax.Array, fast_BhwC: jax.Array) -> jax.Array:
  """[B, H, W, C]: a still's map and a clip's, whose mean over time this is.

  The clip's is resized to the still's, nearest, and convolved; their sum is
  convolved again (`fast`, `both`: [3, 3, C, C], with biases).
  """
  _, rows, columns, _ = still_BHWC.shape
  fast_BHWC = nearest(fast_BhwC, (rows, columns))
  fast_BHWC = convolved(fast_BHWC, params["fast"], params["fast_bias"])
  return convolved(still_BHWC + fast_BHWC, params["both"], params["both_bias"])
