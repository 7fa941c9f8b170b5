"""The released tokenizers in plain PyTorch: the other side of row `tokenizers`.

Most publishers have no package. These are their networks as PyTorch is usually
written: channels first, one call of the library for a layer, no fusing. One
class serves all, for our tree of parameters says which layers there are.

Shapes: B images or clips, C channels, T frames, H height, W width, G grid side,
E dimension of a code, V codes.
"""

from collections.abc import Callable, Mapping
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from totojax.tokenizers import haar, quantisers

Layers = Mapping[str, Any]  # of one module, by name
_NORM_GROUPS = 32


class Network:
  """Encoder, quantiser and decoder of images, with our parameters.

  Attributes:
    latents: float [B, 3, H, W], in the family's range, to [B, E, G, G]. May be
      replaced by the publisher's own module, and so may
    drawing: [B, E, G, G] to [B, 3, H, W].

  Args:
    torch: the library.
    config: the size, a `VqganConfig`.
    params: as `init` of its module gives them, unboxed.
    device: PyTorch's name of it.
  """

  latents: Callable[[Any], Any]
  drawing: Callable[[Any], Any]
  axes: tuple[int, ...] = (2, 1)  # of Haar patches

  def __init__(self, torch: Any, config: Any, params: Any, device: str):
    self._torch, self._f, self._config, self._device = torch, torch.nn.functional, config, device
    self._params = jax.tree.map(lambda leaf: self._tensor(channels_first(leaf)), params)
    wavelets = haar_kernels(config.patch, self.axes)
    self._patch, self._unpatch = map(self._tensor, wavelets)
    self.latents, self.drawing = self._latents, self._drawing

  def encode(self, frames_BHW3: np.ndarray) -> np.ndarray:
    """uint8 to int64 codes [B, G, G]."""
    with self._torch.inference_mode():
      return self._codes(self._quantised(frames_BHW3)).cpu().numpy()

  def latents_of(self, frames_BHW3: np.ndarray) -> np.ndarray:
    """uint8 to what is quantised, [B, G, G, E]."""
    with self._torch.inference_mode():
      return self._quantised(frames_BHW3).cpu().numpy()

  def _quantised(self, frames_BHW3: np.ndarray) -> Any:
    low = self._config.design.lowest
    x = self._torch.from_numpy(frames_BHW3).to(self._device)
    x = x.movedim(-1, 1).float() / 255 * (1 - low) + low
    return self.latents(x).movedim(1, -1)

  def decode(self, codes_BGG: np.ndarray) -> np.ndarray:
    """uint8 [B, H, W, 3], rounded to the nearest whatever the family does."""
    low = self._config.design.lowest
    with self._torch.inference_mode():
      codes = self._torch.from_numpy(codes_BGG.astype(np.int64)).to(self._device)
      y = self.drawing(self._values(codes).movedim(-1, 1))
      y = ((y.clamp(low, 1) - low) / (1 - low) * 255).round()
      return y.to(self._torch.uint8).movedim(1, -1).contiguous().cpu().numpy()

  def _tensor(self, value: Any) -> Any:
    return self._torch.tensor(np.ascontiguousarray(value), device=self._device)

  def _codes(self, z_E: Any) -> Any:
    """Of latents with channels last."""
    torch = self._torch
    match self._config.quantiser:
      case quantisers.Nearest(unit=unit):
        z_E, book_VE = (self._f.normalize(x, dim=-1) if unit else x for x in (z_E, self._book))
        squares = (z_E**2).sum(-1, keepdim=True) + (book_VE**2).sum(-1)
        return (squares - 2 * z_E @ book_VE.T).argmin(-1)
      case quantisers.LargestProduct():
        return (z_E @ self._book.T).argmax(-1)
      case quantisers.SignBits(bits=bits):
        return ((z_E > 0).long() << torch.arange(bits, device=self._device)).sum(-1)
      case quantisers.Fsq(levels=levels):
        counts = self._tensor(np.array(levels))
        half = (counts - 1) * 1.001 / 2
        offset = (counts % 2 == 0) * 0.5
        digits = torch.round(torch.tanh(z_E + torch.atanh(offset / half)) * half - offset)
        return ((digits.long() + counts // 2) * self._basis(levels)).sum(-1)
    raise TypeError(f"{self._config.quantiser} is a quantiser of none of these families")

  def _values(self, codes: Any) -> Any:
    """What the decoder reads, channels last."""
    match self._config.quantiser:
      case quantisers.SignBits(bits=bits):
        return 2.0 * (codes[..., None] >> self._torch.arange(bits, device=self._device) & 1) - 1.0
      case quantisers.Fsq(levels=levels):
        counts = self._tensor(np.array(levels))
        digits = codes[..., None] // self._basis(levels) % counts
        return (digits - counts // 2) / (counts // 2).float()
      case quantisers.Nearest(unit=True):
        return self._f.normalize(self._book, dim=-1)[codes]
    return self._book[codes]

  @property
  def _book(self) -> Any:
    return self._params["quantize"]["embedding"]["weight"]

  def _basis(self, levels: tuple[int, ...]) -> Any:
    return self._tensor(np.cumprod((1, *levels[:-1])))

  def _latents(self, x: Any) -> Any:
    params = self._params["encoder"]
    if self._config.patch > 1:
      x = self._f.conv2d(x, self._patch, stride=self._config.patch)
    x = self._conv(params["conv_in"], x)
    for i in range(len(self._config.widths)):
      x = self._level(params[f"down_{i}"], x)
      if f"downsample_{i}" in params:
        even = self._config.design.magvit
        x = self._conv(params[f"downsample_{i}"], x, stride=2, even=even)
    x = self._level(params["mid"], x)
    x = self._conv(params["conv_out"], self._f.silu(self._norm(params["norm_out"], x)))
    return self._around("quant_conv", x)

  def _drawing(self, codes: Any) -> Any:
    params = self._params["decoder"]
    x = self._conv(params["conv_in"], self._around("post_quant_conv", codes))
    x = self._level(params["mid"], x, codes)
    for i in reversed(range(len(self._config.widths))):
      if f"adaptive_{i}" in params:
        x = self._adaptive(params[f"adaptive_{i}"], x, codes)
      x = self._level(params[f"up_{i}"], x, codes)
      if f"upsample_{i}" in params:
        x = self._doubled(params[f"upsample_{i}"], x)
    x = self._f.silu(self._norm(params["norm_out"], x, codes))
    x = self._conv(params["conv_out"], x)
    if self._config.patch > 1:
      x = self._f.conv_transpose2d(x, self._unpatch, stride=self._config.patch)
    return x

  def _around(self, name: str, x: Any) -> Any:
    return self._conv(self._params[name], x) if name in self._params else x

  def _doubled(self, layer: Layers, x: Any) -> Any:
    if not self._config.design.magvit:
      return self._conv(layer, self._f.interpolate(x, scale_factor=2.0, mode="nearest"))
    # Channel = (2 row + column) C + c; pixel_shuffle's is 4 c + 2 row + column.
    x = self._conv(layer, x)
    x = x.unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2)
    return self._f.pixel_shuffle(x, 2)

  def _conv(self, layer: Layers, x: Any, *, stride: int = 1, even: bool = True) -> Any:
    half = layer["weight"].shape[-1] // 2
    if not even:
      x, half = self._f.pad(x, (0, 1, 0, 1)), 0
    return self._f.conv2d(x, layer["weight"], layer.get("bias"), stride, half)

  def _norm(self, layer: Layers, x: Any, codes: Any = None) -> Any:
    """A group norm, or a spatial one where the parameters are of that."""
    if "norm_layer" not in layer:
      return self._f.group_norm(x, self._config.groups, layer["scale"], layer["bias"], 1e-6)
    plain = layer["norm_layer"]
    y = self._f.group_norm(x, _NORM_GROUPS, plain["scale"], plain["bias"], 1e-6)
    codes = self._f.interpolate(codes, x.shape[-2:], mode="nearest")
    return y * self._conv(layer["conv_y"], codes) + self._conv(layer["conv_b"], codes)

  def _adaptive(self, layer: Layers, x: Any, codes: Any) -> Any:
    flat = codes.flatten(2)
    scale = self._conv(layer["gamma"], (flat.var(-1) + 1e-6).sqrt()[..., None, None])
    shift = self._conv(layer["beta"], flat.mean(-1)[..., None, None])
    return scale * self._f.group_norm(x, _NORM_GROUPS, eps=1e-6) + shift

  def _level(self, layers: Layers, x: Any, codes: Any = None) -> Any:
    """Residual blocks, and attention, in the order of their numbers."""
    for name in sorted(layers, key=lambda name: (int(name.split("_")[1]), name[0] == "a")):
      run = self._attention if name.startswith("attn") else self._block
      x = run(layers[name], x, codes)
    return x

  def _block(self, layers: Layers, x: Any, codes: Any) -> Any:
    y = self._conv(layers["conv1"], self._f.silu(self._norm(layers["norm1"], x, codes)))
    y = self._conv(layers["conv2"], self._f.silu(self._norm(layers["norm2"], y, codes)))
    return y + (self._conv(layers["nin_shortcut"], x) if "nin_shortcut" in layers else x)

  def _attention(self, layers: Layers, x: Any, codes: Any) -> Any:
    y = self._norm(layers["norm"], x, codes)
    q, k, v = (self._conv(layers[name], y).flatten(2).transpose(1, 2) for name in "qkv")
    y = self._f.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
    return x + self._conv(layers["proj_out"], y)


class ClipNetwork(Network):
  """The same of clips: float [B, 3, T, H, W] to [B, E, L, G, G] and back.

  Args are a `Network`'s, of a `CausalConfig`.
  """

  axes = (1, 2, 3)

  def _latents(self, x: Any) -> Any:
    config, params = self._config, self._params["encoder"]
    ahead = (config.patch if config.design.factorised else config.frame_factor) - 1
    x = self._led(x, ahead, repeats=True)
    if config.patch > 1:
      x = self._f.conv3d(x, self._patch, stride=config.patch)
    x = self._conv(params["conv_in"], x)
    for i in range(len(config.widths)):
      x = self._blocks(params, ("down_{}_block_{}", "down_temporal_{}_block_{}"), i, x)
      if f"downsample_{i}" in params:
        x = self._halved(params[f"downsample_{i}"], x)
      if f"downsample_temporal_{i}" in params:
        x = self._halved_time(params[f"downsample_temporal_{i}"], x)
    x = self._middle(params["mid"], x)
    x = self._conv(params["conv_out"], self._f.silu(self._norm(params["norm_out"], x)))
    return self._around("quant_conv", x)

  def _drawing(self, codes: Any) -> Any:
    config, params, first = self._config, self._params["decoder"], 1
    x = self._conv(params["conv_in"], self._around("post_quant_conv", codes))
    x = self._middle(params["mid"], x)
    for i in reversed(range(len(config.widths))):
      x = self._blocks(params, ("up_{}_block_{}", "up_temporal_{}_block_{}"), i, x)
      if f"upsample_{i}" in params:
        x = self._doubled(params[f"upsample_{i}"], x)
      if f"upsample_temporal_{i}" in params:
        x = self._doubled_time(params[f"upsample_temporal_{i}"], x, first)
        first *= 2
    x = self._conv(params["conv_out"], self._f.silu(self._norm(params["norm_out"], x)))
    if config.patch > 1:
      x = self._f.conv_transpose3d(x, self._unpatch, stride=config.patch)
    return x[:, :, -config.latents.whole_frames(codes.shape[2]) :]

  def _blocks(self, params: Layers, names: tuple[str, str], level: int, x: Any) -> Any:
    for i in range(max(self._config.blocks, 1) + 1):
      for name in (name.format(level, i) for name in names):
        x = self._block(params[name], x, None) if name in params else x
    return x

  def _middle(self, layers: Layers, x: Any) -> Any:
    x = self._block(layers["block_1"], x, None)
    x = self._attention(layers["attn_1"], x, None)
    if "attn_temporal" in layers:
      x = self._attention(layers["attn_temporal"], x, None, over_time=True)
    return self._block(layers["block_2"], x, None)

  def _attention(self, layers: Layers, x: Any, codes: Any, *, over_time: bool = False) -> Any:
    y = self._norm(layers["norm"], x)
    order = (0, 3, 4, 2, 1) if over_time else (0, 2, 3, 4, 1)
    q, k, v = (self._conv(layers[name], y).permute(order) for name in "qkv")
    shape = q.shape
    ends = (0, 2) if over_time else (0, 1)  # of a batch
    q, k, v = (z.flatten(*ends) if over_time else z.flatten(*ends).flatten(1, 2) for z in (q, k, v))
    y = self._f.scaled_dot_product_attention(q, k, v, is_causal=over_time).reshape(shape)
    y = y.permute([order.index(axis) for axis in range(5)])
    return x + self._conv(layers["proj_out"], y)

  def _norm(self, layer: Layers, x: Any, codes: Any = None) -> Any:
    """Over each frame, or of VidTok over the channels of each place."""
    if self._config.design.factorised:
      y = self._f.group_norm(_frames(x), 1, layer["scale"], layer["bias"], 1e-6)
      return _clips(y, x.shape[2])
    y = self._f.layer_norm(x.movedim(1, -1), x.shape[1:2], layer["scale"], layer["bias"], 1e-6)
    return y.movedim(-1, 1)

  def _conv(
    self, layer: Layers, x: Any, *, stride: int = 1, even: bool = True, in_time: int = 1
  ) -> Any:
    """Over space, over time or over both, as the kernel is; or the one and the other."""
    if "space" in layer:
      return self._conv(layer["time"], self._conv(layer["space"], x))
    kernel, bias = layer["weight"], layer["bias"]
    if kernel.ndim == 4:
      y = super()._conv(layer, _frames(x), stride=stride, even=even)
      return _clips(y, x.shape[2])
    kernel = kernel if kernel.ndim == 5 else kernel[..., None, None]
    x = self._led(x, kernel.shape[2] - in_time, repeats=self._config.design.repeats)
    half = kernel.shape[-1] // 2
    return self._f.conv3d(x, kernel, bias, (in_time, 1, 1), (0, half, half))

  def _led(self, x: Any, frames: int, *, repeats: bool) -> Any:
    before = x[:, :, :1] if repeats else self._torch.zeros_like(x[:, :, :1])
    return self._torch.cat([before] * frames + [x], 2)

  def _halved(self, layers: Layers, x: Any) -> Any:
    """Space, and of Cosmos, which adds means, time with it."""
    if not self._config.design.factorised:
      return self._conv(layers, x, stride=2, even=False)
    if "conv1" in layers:
      mean = self._f.avg_pool3d(x, (1, 2, 2))
      x = self._conv(layers["conv1"], x, stride=2, even=False) + mean
    if "conv2" in layers:
      x = self._led(x, 1, repeats=True)
      mean = self._f.avg_pool3d(x, (2, 1, 1))
      x = self._conv(layers["conv2"], x, in_time=2) + mean
    return self._conv(layers["conv3"], x)

  def _doubled(self, layers: Layers, x: Any) -> Any:
    twice = lambda x: self._f.interpolate(x, scale_factor=(1.0, 2.0, 2.0), mode="nearest")
    if not self._config.design.factorised:
      return self._conv(layers, twice(x))
    if "conv1" in layers:
      x = x.repeat_interleave(2, dim=2)[:, :, 1:]
      x = x + self._conv(layers["conv1"], x)
    if "conv2" in layers:
      x = twice(x)
      x = x + self._conv(layers["conv2"], x)
    return self._conv(layers["conv3"], x)

  def _halved_time(self, layers: Layers, x: Any) -> Any:
    led = self._led(x, 1, repeats=self._config.design.repeats)
    mean = self._f.avg_pool3d(led, (3, 1, 1), (2, 1, 1))
    return self._mixed(layers, mean, self._conv(layers["conv"], x, in_time=2))

  def _doubled_time(self, layers: Layers, x: Any, first: int) -> Any:
    if self._config.design.repeats:
      parts = [x[:, :, :first], x[:, :, first:]]
      twice = dict(scale_factor=(2.0, 1.0, 1.0), mode="trilinear")
      x = self._torch.cat([self._f.interpolate(p, **twice) for p in parts if p.shape[2]], 2)
    else:
      x = x.repeat_interleave(2, dim=2)
    return self._mixed(layers, x, self._conv(layers["conv"], x))

  def _mixed(self, layers: Layers, plain: Any, convolved: Any) -> Any:
    share = self._torch.sigmoid(layers["mix_factor"])
    return share * plain + (1 - share) * convolved


def _frames(x: Any) -> Any:
  """[B, C, T, H, W] to images [B T, C, H, W]."""
  return x.transpose(1, 2).flatten(0, 1)


def _clips(x: Any, frames: int) -> Any:
  """The inverse."""
  return x.unflatten(0, (-1, frames)).transpose(1, 2)


def channels_first(value: Any) -> np.ndarray:
  """A kernel [..., in, out] as [out, in, ...]; anything else as it is."""
  value = np.asarray(value)
  return np.moveaxis(value, (-1, -2), (0, 1)) if value.ndim > 2 else value


def haar_kernels(patch: int, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
  """The wavelets and their inverse as convolutions of a stride of `patch`.

  Returns:
    [channels of a patch, 3, ...], as PyTorch's `conv2d` and `conv3d` take it, and
    the same of the inverse, as their transposes do.
  """
  sides = (patch,) * len(axes)
  size, rounds = 3 * math.prod(sides), patch.bit_length() - 1
  ones = jnp.eye(size)
  bands = np.asarray(haar.haar(ones.reshape(size, *sides, 3), axes, rounds))
  back = haar.unhaar(ones.reshape(size, *(1 for _ in sides), size), axes, rounds)
  there = bands.reshape(size, size).T.reshape(size, *sides, 3)
  return np.moveaxis(there, -1, 1), np.moveaxis(np.asarray(back), -1, 1)
