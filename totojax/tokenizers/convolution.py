"""The convolution of the tokenizers, the way each kind of device likes it.

Shapes: B images or clips, T frames, P places of a frame, M frames of all clips,
H height, W width, C channels.
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
# Channels that pay for the sums around the products of `_winograd`, and the tiles of
# 2 x 2 places to be multiplied at once.
_WINOGRAD_CHANNELS = 64
_WINOGRAD_TILES = 256


def parameters(
  module: nn.Module, names: tuple[str, ...], shape: tuple[int, ...], start: Callable[..., jax.Array]
) -> tuple[jax.Array, ...]:
  """Kernel and bias of a module, float32, by the names that they have in it.

  Args:
    module: the layer.
    names: of kernel and bias, or of the kernel alone.
    shape: of the kernel: height, width, channels in, channels out; or with its
      frames before them, or frames in place of both sides.
    start: initialiser of the kernel; the bias starts at 0.
  """
  space = ("conv_height", "conv_width")
  places = {3: ("conv_time",), 4: space, 5: ("conv_time", *space)}[len(shape)]
  axes = (*places, "conv_in", "conv_out")
  return tuple(
    module.param(
      name, nn.with_logical_partitioning(init, axes[i:]), shape[i:], jnp.float32, unbox=True
    )
    for name, init, i in zip(names, (start, nn.initializers.zeros), (0, -1))
  )


def convolve(
  x_BHWC: jax.Array, kernel: jax.Array, *, stride: int, padding: tuple[int, int]
) -> jax.Array:
  """Convolution without bias.

  A kernel of one pixel is a matrix product. On CPUs a wide one of 3 x 3 that
  keeps the size is `_winograd`, and of others the sum over many channels is
  taken in parts; the result differs by rounding alone.

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

  batch, rows, columns, _ = x_BHWC.shape
  height, width, *channels = kernel.shape
  same_size = (height, width, stride, *padding) == (3, 3, 1, 1, 1)
  tiles = (rows // 2) * (columns // 2)
  wide = min(channels) >= _WINOGRAD_CHANNELS and 2 * batch * tiles >= max(channels)
  suits = same_size and wide and x_BHWC.dtype == jnp.float32
  on_cpu = sum_of_parts
  if suits and rows % 2 == columns % 2 == 0:
    counts = (n for n in range(1, batch) if batch % n == 0 and n * tiles >= _WINOGRAD_TILES)
    winograd = functools.partial(_winograd, images=next(counts, batch))
    on_cpu = jax.custom_vjp(winograd)
    # Gradients are of what has no strided slices.
    on_cpu.defvjp(
      lambda x, k: (winograd(x, k), (x, k)), lambda xs, g: jax.vjp(sum_of_parts, *xs)[1](g)
    )
  return jax.lax.platform_dependent(x_BHWC, kernel, cpu=on_cpu, default=convolution)


@functools.partial(jax.jit, static_argnames="images")
def _winograd(x_BHWC: jax.Array, kernel: jax.Array, *, images: int) -> jax.Array:
  """A convolution by 3 x 3 with 16 products for 2 x 2 places, not 36.

  F(2 x 2, 3 x 3) of Lavin and Gray 2015 (arXiv 1509.09308): rows and columns of
  tiles of 4 x 4, two apart, and of the kernel are mixed, multiplied as
  matrices over the channels, and mixed again.

  Args:
    x_BHWC: images with even sides.
    kernel: [3, 3, channels in, channels out].
    images: that are taken at a time, of which B is a multiple: few stay near the
      core.
  """
  batch, height, width, channels = x_BHWC.shape

  def mixed(k):
    """[4, ...] of three."""
    ends = (k[0] + k[2]) / 2
    return jnp.stack([k[0], ends + k[1] / 2, ends - k[1] / 2, k[2]])

  kernel_PCF = mixed(mixed(kernel).swapaxes(0, 1)).swapaxes(0, 1).reshape(16, channels, -1)

  def rows(x, axis):
    """[4, ...] of each two rows and the two after them, half as many."""
    first, second = (jax.lax.slice_in_dim(x, i, None, 2, axis) for i in (0, 1))
    cut = functools.partial(jax.lax.slice_in_dim, axis=axis)
    a, b, c, d = cut(first, 0, -1), cut(second, 0, -1), cut(first, 1, None), cut(second, 1, None)
    return jnp.stack([a - c, b + c, c - b, b - d])

  def pairs(y, axis):
    """The two places that four products give, along a new axis."""
    return jnp.stack([y[0] + y[1] + y[2], y[1] - y[2] - y[3]], axis)

  def convolved(x_NHWC):
    padded = jnp.pad(x_NHWC, ((0, 0), (1, 1), (1, 1), (0, 0)))
    tiles_44NhwC = rows(rows(padded, 1), 3).swapaxes(0, 1)
    tiles_PTC = tiles_44NhwC.reshape(16, -1, channels)
    y_PTF = jnp.einsum("ptc,pcf->ptf", tiles_PTC, kernel_PCF)
    y_44NhwF = y_PTF.reshape(4, 4, images, height // 2, width // 2, -1)
    y_Nh2w2F = pairs(pairs(y_44NhwF, 3), 4)
    return y_Nh2w2F.reshape(images, height, width, -1)

  y_SNHWF = jax.lax.map(convolved, x_BHWC.reshape(-1, images, height, width, channels))
  return y_SNHWF.reshape(batch, height, width, -1)


def doubled(x_BHWC: jax.Array, times: int = 2) -> jax.Array:
  """Each pixel repeated, both ways."""
  return x_BHWC.repeat(times, axis=1).repeat(times, axis=2)


def convolve_doubled(x_BHWC: jax.Array, kernel: jax.Array) -> jax.Array:
  """`convolve` of `doubled` images by a kernel of 3 x 3, as large as they are.

  A pixel of the result sees 2 x 2 different ones. CPUs take so many products,
  not 3 x 3, by a kernel for even and one for odd rows, and columns: on a
  Sapphire Rapids Xeon in half to two thirds of the time. The result differs by
  rounding alone.
  """

  def by_parity(x_BHWC, kernel):
    batch, height, width, _ = x_BHWC.shape
    padded = jnp.pad(x_BHWC, ((0, 0), (1, 1), (1, 1), (0, 0)))
    parts = [
      convolve(
        padded[:, row : row + height + 1, column : column + width + 1],
        part,
        stride=1,
        padding=(0, 0),
      )
      for row, band in enumerate(_parities(kernel, 0))
      for column, part in enumerate(_parities(band, 1))
    ]
    parts_BHWrcC = jnp.stack(parts, axis=3).reshape(batch, height, width, 2, 2, -1)
    return parts_BHWrcC.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, -1)

  def plainly(x_BHWC, kernel):
    return convolve(doubled(x_BHWC), kernel, stride=1, padding=(1, 1))

  return jax.lax.platform_dependent(x_BHWC, kernel, cpu=by_parity, default=plainly)


def _parities(kernel: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
  """What an even and an odd place give their two neighbours along an axis."""
  before, here, after = jnp.split(kernel, 3, axis)
  even, odd = (before, here + after), (before + here, after)
  return jnp.concatenate(even, axis), jnp.concatenate(odd, axis)


def swish(x: jax.Array) -> jax.Array:
  """x sigmoid(x), by the tangent: XLA's CPUs take the logistic 3 times as long."""
  return x * (0.5 + 0.5 * jnp.tanh(0.5 * x))


def convolve_frames(
  x_BTHWC: jax.Array, kernel: jax.Array, *, stride: int, padding: tuple[int, int]
) -> jax.Array:
  """Convolution over time, or over space and time, without bias and padding in time.

  Of one pixel it is a convolution of images with places for a width. Of more it
  is one of images for each frame of the kernel: XLA's over three axes took 1.9
  times as long on a CPU.

  Args:
    x_BTHWC: clips.
    kernel: [frames, channels in, channels out], or [frames, height, width,
      channels in, channels out].
    stride: between frames.
    padding: zeros before and after, in height and width.
  """
  batch, frames, height, width, channels = x_BTHWC.shape
  if kernel.ndim == 3:
    y_BTPC = jax.lax.conv_general_dilated(
      x_BTHWC.reshape(batch, frames, height * width, channels),
      kernel[:, None],
      (stride, 1),
      "VALID",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y_BTPC.reshape(batch, -1, height, width, kernel.shape[-1])
  last = frames - len(kernel)
  parts = (
    convolve(
      x_BTHWC[:, tap : tap + last + 1 : stride].reshape(-1, height, width, channels),
      of_tap,
      stride=1,
      padding=padding,
    )
    for tap, of_tap in enumerate(kernel)
  )
  y_MHWC = functools.reduce(operator.add, parts)
  return y_MHWC.reshape(batch, -1, *y_MHWC.shape[1:])
