"""The convolution of the tokenizers, the way each kind of device likes it.

Shapes: B images, H height, W width, C channels.
"""

from collections.abc import Callable
import functools
import operator

import flax.linen as nn
import jax
import jax.numpy as jnp

# XLA's convolution on CPUs slows down with the length of its sums: 3 x 3 places
# of 2,048 channels went 1.5 to 1.7 times as fast in parts of 128 to 512 (on a
# Sapphire Rapids Xeon), and 128 was the best for DALL-E's whole encoder.
_CPU_CHANNELS = 128


def parameters(
  module: nn.Module,
  names: tuple[str, ...],
  shape: tuple[int, int, int, int],
  start: Callable[..., jax.Array],
) -> tuple[jax.Array, ...]:
  """Kernel and bias of a module, float32, by the names that they have in it.

  Args:
    module: the layer.
    names: of kernel and bias, or of the kernel alone.
    shape: of the kernel: height, width, channels in, channels out.
    start: initialiser of the kernel; the bias starts at 0.
  """
  axes = ("conv_height", "conv_width", "conv_in", "conv_out")
  return tuple(
    module.param(
      name, nn.with_logical_partitioning(init, axes[i:]), shape[i:], jnp.float32, unbox=True
    )
    for name, init, i in zip(names, (start, nn.initializers.zeros), (0, 3))
  )


def convolve(
  x_BHWC: jax.Array, kernel: jax.Array, *, stride: int, padding: tuple[int, int]
) -> jax.Array:
  """Convolution without bias.

  A kernel of one pixel is a matrix product. On CPUs the sum over many channels
  is taken in parts; the result differs by rounding alone.

  Args:
    x_BHWC: images.
    kernel: [height, width, channels in, channels out].
    stride: between places, in pixels, both ways.
    padding: zeros before and after, both ways.
  """
  if kernel.shape[:2] == (1, 1) and stride == 1 and padding == (0, 0):
    return jnp.matmul(x_BHWC, kernel[0, 0])
  convolution = functools.partial(
    jax.lax.conv_general_dilated,
    window_strides=(stride, stride),
    padding=(padding, padding),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )

  def sum_of_parts(x_BHWC, kernel):
    parts = (
      convolution(x_BHWC[..., i : i + _CPU_CHANNELS], kernel[:, :, i : i + _CPU_CHANNELS])
      for i in range(0, x_BHWC.shape[-1], _CPU_CHANNELS)
    )
    return functools.reduce(operator.add, parts)

  return jax.lax.platform_dependent(x_BHWC, kernel, cpu=sum_of_parts, default=convolution)
