"""LPIPS: how different two images look to VGG16 or AlexNet, with weights that the user has.

Zhang et al. 2018 (arXiv 1801.03924), version 0.1 of their package. Its networks
are torchvision's up to the fifth layer that is read, without dropout; weights
come from torchvision's state dict and the package's own file of five rows of
weights, each a torch file or safetensors, read without running anything.

Shapes: V videos, T frames, B images, H height, W width, C channels, P pairs.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import itertools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from totojax.config.schema import ConfigError
from totojax.evals import perceptual
from totojax.storage import arrays, objects, outside
from totojax.tokenizers import convolution
from totojax.tokenizers.released import official

VERSION = "0.1"
# Of pixels from -1 to 1.
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_PIXELS = 2**18  # that a network reads at a time
# `arrays.digest` of the five rows as the package has them -> net, version.
_RELEASED = {
  "c7c4037b040623b1b65e613cd8890e7247a3222486de9c61be4eb9f0ecb3491a": ("alex", "0.1"),
  "6101535eab962fe2a9c5ff9f5e66d12e63e4c54905512786bc26930bec506b18": ("vgg", "0.1"),
  "03c7912552dabc4281c5acb2f57f817c1ddaf7a15b43119e4ac2e5a7c57cfde6": ("alex", "0.0"),
  "2f5c46bad1e594d58c347fb04f7c3f53a92e60f2013a40d37479f17fb4a1ff02": ("vgg", "0.0"),
}


@dataclasses.dataclass(frozen=True)
class Conv:
  """A convolution and the ReLU after it."""

  place: int  # in `features` of torchvision's model
  width: int
  side: int = 3  # of its kernel
  stride: int = 1
  pool: bool = False  # whether maxima are taken before it
  read: bool = False  # whether LPIPS reads what leaves its ReLU

  @property
  def padding(self) -> int:
    return 2 if self.side > 3 else 1


@dataclasses.dataclass(frozen=True)
class Net:
  """Convolutions in a row."""

  convs: tuple[Conv, ...]
  window: int  # of maxima, two apart
  file: str  # an example of what is meant

  @property
  def least_px(self) -> int:
    """Side of the smallest images that leave something to every layer."""
    return next(side for side in itertools.count(1) if self._leaves(side))

  def _leaves(self, side: int) -> bool:
    for conv in self.convs:
      if conv.pool:
        side = (side - self.window) // 2 + 1 if side >= self.window else 0
      side = (side + 2 * conv.padding - conv.side) // conv.stride + 1
      if side < 1 or side + 2 * conv.padding < conv.side:
        return False
    return True

  @property
  def widths(self) -> tuple[int, ...]:
    """Channels of the layers that are read."""
    return tuple(conv.width for conv in self.convs if conv.read)


def _vgg() -> tuple[Conv, ...]:
  convs, place = [], 0
  for stage, (width, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
    for i in range(count):
      convs.append(Conv(place, width, pool=bool(stage) and i == 0, read=i == count - 1))
      place += 2
    place += 1
  return tuple(convs)


NETS: Mapping[str, Net] = {
  "vgg": Net(_vgg(), 2, "torchvision's vgg16 (vgg16-397923af.pth)"),
  "alex": Net(
    (
      Conv(0, 64, side=11, stride=4, read=True),
      Conv(3, 192, side=5, pool=True, read=True),
      Conv(6, 384, pool=True, read=True),
      Conv(8, 256, read=True),
      Conv(10, 256, read=True),
    ),
    3,
    "torchvision's alexnet (alexnet-owt-7be5be79.pth)",
  ),
}


@dataclasses.dataclass(frozen=True)
class Lpips:
  """A network with its weights.

  Attributes:
    name: of `NETS`.
    params: kernels [height, width, in, out] and biases, and weights of channels.
    digests: of the tensors that were taken of both files.
    released: whether the weights of channels are those that were released.
  """

  name: str
  net: Net
  params: Any
  digests: Mapping[str, str]
  released: bool

  def check_size(self, size_px: int) -> None:
    """Raises ConfigError where images of this side are too small for the network."""
    if size_px < (least := self.net.least_px):
      raise ConfigError(
        f"perceptual.lpips is {self.name!r}, which reads images of {least} pixels and more, and the"
        f" model's frames have {size_px}; leave perceptual.lpips empty"
      )

  def distances(self, videos_VTHW3: np.ndarray, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """float64 [P, T]: of the frames of pairs of videos, by their places.

    Args:
      videos_VTHW3: uint8, each of which passes the network once.
      pairs: places of videos.
    """
    videos, frames, height, width, _ = videos_VTHW3.shape
    some = min(max(_PIXELS // (videos * height * width), 1), frames)
    parts = []
    for start in range(0, frames, some):
      # The last of them again, so that all calls are of one shape.
      part = videos_VTHW3[:, np.minimum(np.arange(start, start + some), frames - 1)]
      parts.append(np.asarray(_distances(self.params, part, net=self.net, pairs=tuple(pairs))))
    return np.concatenate(parts, axis=1)[:, :frames].astype(np.float64)


@functools.partial(jax.jit, static_argnames=("net", "pairs"))
def _distances(params, videos_VTHW3, *, net: Net, pairs: tuple[tuple[int, int], ...]) -> jax.Array:
  videos, frames = videos_VTHW3.shape[:2]
  images_BHW3 = videos_VTHW3.reshape(-1, *videos_VTHW3.shape[2:])
  total = jnp.zeros((len(pairs), frames))
  for layer_BHWC, weight_C in zip(features(params, images_BHW3, net), params["lin"]):
    unit_VTHWC = perceptual.unit(layer_BHWC).reshape(videos, frames, *layer_BHWC.shape[1:])
    total += jnp.stack(
      [perceptual.layer_distance(unit_VTHWC[a], unit_VTHWC[b], weight_C) for a, b in pairs]
    )
  return total


def features(params: Any, images_BHW3: jax.Array, net: Net) -> list[jax.Array]:
  """What LPIPS reads of uint8 images, layer by layer: [B, H, W, C]."""
  x_BHWC = images_BHW3.astype(jnp.float32) / 127.5 - 1
  x_BHWC = (x_BHWC - jnp.array(_SHIFT)) / jnp.array(_SCALE)
  layers = []
  with jax.default_matmul_precision("highest"):
    for conv, (kernel, bias) in zip(net.convs, params["convs"]):
      if conv.pool:
        window = (1, net.window, net.window, 1)
        x_BHWC = jax.lax.reduce_window(x_BHWC, -jnp.inf, jax.lax.max, window, (1, 2, 2, 1), "VALID")
      padding = (conv.padding, conv.padding)
      x_BHWC = convolution.convolve(x_BHWC, kernel, stride=conv.stride, padding=padding)
      x_BHWC = jax.nn.relu(x_BHWC + bias)
      if conv.read:
        layers.append(x_BHWC)
  return layers


def load(name: str, *, backbone: str, lin: str) -> Lpips:
  """LPIPS of two files.

  Args:
    name: of `NETS`.
    backbone: torchvision's state dict; of it what the network reads is taken.
    lin: the package's `weights/v0.1/NAME.pth`.

  Raises:
    ValueError: a file is damaged, or another than is asked for.
    OSError: there is none.
  """
  return read(name, NETS[name], backbone=backbone, lin=lin)


def read(name: str, net: Net, *, backbone: str, lin: str) -> Lpips:
  """`load` of any network."""
  shapes, channels = {}, 3
  for conv in net.convs:
    shapes[f"features.{conv.place}.weight"] = (conv.width, channels, conv.side, conv.side)
    shapes[f"features.{conv.place}.bias"] = (conv.width,)
    channels = conv.width
  convs = _tensors(backbone, shapes, key="backbone", wanted=f"the state dict of {net.file}")
  wanted = f"weights/v{VERSION}/{name}.pth of the package lpips"
  shapes = {f"lin{i}.model.1.weight": (1, c, 1, 1) for i, c in enumerate(net.widths)}
  rows = _tensors(lin, shapes, key="lin", wanted=wanted)
  if least := [key for key, row in rows.items() if row.min() < 0]:
    raise outside.Damaged(lin, f"{least[0]} has weights below 0; give {wanted}")
  digests = {"backbone": arrays.digest(convs), "lin": arrays.digest(rows)}
  released = _RELEASED.get(digests["lin"])
  if released not in (None, (name, VERSION)):
    raise ConfigError(
      f"perceptual.lin is {lin}, which is of version {released[1]}, whose images are scaled"
      f" otherwise; give {wanted}"
    )
  params = {
    "convs": [
      (
        jnp.asarray(convs[f"features.{conv.place}.weight"].transpose(2, 3, 1, 0)),
        jnp.asarray(convs[f"features.{conv.place}.bias"]),
      )
      for conv in net.convs
    ],
    "lin": [jnp.asarray(row.reshape(-1)) for row in rows.values()],
  }
  return Lpips(name, net, params, digests, released is not None)


def _tensors(
  path: str, shapes: Mapping[str, tuple[int, ...]], *, key: str, wanted: str
) -> dict[str, np.ndarray]:
  """float32 tensors of a file, by their names; others are left unread."""
  if objects.is_url(path) or not os.path.exists(path):
    what = "in a bucket; copy it to this machine" if objects.is_url(path) else "not there"
    raise ConfigError(f"perceptual.{key} is {path!r}, which is {what}: give {wanted}")
  found = {}
  with official.opened(path) as state:
    for name, shape in shapes.items():
      if name not in state:
        raise outside.Damaged(path, f"it has no tensor {name}", f"; give {wanted}")
      if state[name].shape != shape:
        told = f"{name} is {[*state[name].shape]}, and {[*shape]} is needed"
        raise outside.Damaged(path, told, f"; give {wanted}")
      tensor = np.asarray(state[name])
      if tensor.dtype.kind not in "fV":  # V: bfloat16
        raise outside.Damaged(path, f"{name} is of {tensor.dtype}", f"; give {wanted}")
      found[name] = tensor.astype(np.float32)
      if not np.isfinite(found[name]).all():
        raise outside.Damaged(path, f"{name} has values that are not finite", "; copy it again")
  return found
