"""RVM and 4DS, encoders of videos whose parameters are plain .npz files.

RVM (recurrent video masked autoencoder) reads a frame at a time: a vision
transformer, whose tokens a gated transformer mixes into a state; the state after
frame t, which depends on frames 0 to t, is its feature. 4DS is a vision
transformer over patches of two frames. Both as google-deepmind/representations4d
releases them: pixels from 0 to 1 without a mean, LayerNorm with eps 1e-6 (of the
state 1e-4), GELU in its tanh form. Every size is taken from the arrays.

Names of parameters are those of the files, joined by "/".

Shapes: N frames, H and W pixels, P side of a patch, T tokens, D width, A heads, K
head dim, L layers.
"""

from collections.abc import Callable, Mapping
import dataclasses
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from totojax.storage import arrays as arrays_lib, outside

_EPS, _STATE_EPS = 1e-6, 1e-4
_RVM_PX, _RVM_GRID = 256, 16  # it was trained on, and its positions are of
_FILE_BYTES = 2**35
Params = Mapping[str, Any]
_HIGHEST = jax.lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True)
class Model:
  """What a file holds.

  Attributes:
    features: (params, uint8 [N, H, W, 3], pool=) -> float32 [L, D], or of the
      pool "token" [L, T, D].
    frames: of a clip; 0: any number.
  """

  params: Params
  features: Callable[..., jax.Array]
  layers: tuple[int, ...]
  size_px: int
  patch_px: int
  frames: int
  digest: str


def load(kind: str, path: str) -> Model:
  """The encoder of a file.

  Args:
    kind: "rvm" or "4ds".
    path: of the .npz, local or in a bucket.

  Raises:
    ValueError: it is no such file, or lacks an array or has one of another shape.
  """
  data = outside.load(path, most_bytes=_FILE_BYTES)
  digest = hashlib.sha256(data).hexdigest()[:32]
  arrays = arrays_lib.load(path, data)
  del data
  if kind == "rvm":
    params = {name: x for name, x in _below(arrays, ("params/",)).items() if "decoder" not in name}
    blocks = _check_rvm(path, params)
    size_px, patch_px, frames, features = _RVM_PX, 16, 0, rvm_features
    # The blocks of its encoder, then the state.
    layers = tuple(range(blocks + 2))
  else:
    params = _below(arrays, ("params/layers_0/", "layers_0/", "params/"))
    blocks = _check_4ds(path, params)
    features = four_ds_features
    kernel, places = params[_CONV_4DS].shape, params[_PLACES].shape
    size_px, patch_px = places[1] * kernel[1], kernel[1]
    frames, layers = places[0] * kernel[0], tuple(range(blocks + 1))
  if not all(np.isfinite(x).all() for x in params.values()):
    raise outside.Damaged(path, "it has parameters that are not finite")
  params = {name: jnp.asarray(x, jnp.float32) for name, x in params.items()}
  return Model(params, features, layers, size_px, patch_px, frames, digest)


_CONV = "patch_embedding/Conv_0/kernel"
_CONV_RVM, _CONV_4DS = f"tokenizer/{_CONV}", f"encoder/{_CONV}"
_PLACES = "encoder/posenc/embeddings"


def _below(arrays: Mapping[str, np.ndarray], prefixes: tuple[str, ...]) -> dict[str, np.ndarray]:
  """The arrays below the first prefix that there is; all of them where there is none."""
  for prefix in prefixes:
    if found := {k.removeprefix(prefix): x for k, x in arrays.items() if k.startswith(prefix)}:
      return found
  return dict(arrays)


class _Shapes:
  """Compares arrays with the shapes that they must have."""

  def __init__(self, path: str, params: Params):
    self._path, self._params = path, params

  def __call__(self, name: str, shape: tuple[int, ...]) -> None:
    found = self.of(name)
    if found != shape:
      raise outside.Damaged(self._path, f"{name} is {list(found)}; {list(shape)} is needed")

  def of(self, name: str, rank: int = 0) -> tuple[int, ...]:
    if name not in self._params:
      raise outside.Damaged(self._path, f"it has no array {name}")
    array = self._params[name]
    if array.dtype.kind not in "fV" or 0 in array.shape or (rank and array.ndim != rank):
      raise outside.Damaged(self._path, f"{name} is {array.dtype} {list(array.shape)}")
    return array.shape

  def norm(self, name: str, width: int) -> None:
    self(f"{name}/scale", (width,))
    self(f"{name}/bias", (width,))

  def block(self, name: str, width: int, *, cross: bool = False) -> None:
    for attention in ("attention", "ca_attention") if cross else ("attention",):
      _, heads, dim = self.of(f"{name}/{attention}/query/kernel", 3)
      for part in ("query", "key", "value"):
        self(f"{name}/{attention}/{part}/kernel", (width, heads, dim))
        self(f"{name}/{attention}/{part}/bias", (heads, dim))
      self(f"{name}/{attention}/out/kernel", (heads, dim, width))
      self(f"{name}/{attention}/out/bias", (width,))
      self.norm(f"{name}/{attention}_norm", width)
    self.norm(f"{name}/mlp_norm", width)
    _, hidden = self.of(f"{name}/mlp/dense_in/kernel", 2)
    self(f"{name}/mlp/dense_in/kernel", (width, hidden))
    self(f"{name}/mlp/dense_in/bias", (hidden,))
    self(f"{name}/mlp/dense_out/kernel", (hidden, width))
    self(f"{name}/mlp/dense_out/bias", (width,))


def _count(params: Params, start: str) -> int:
  """Blocks start0, start1, ... that there are."""
  count = 0
  while any(name.startswith(f"{start}{count}/") for name in params):
    count += 1
  return count


def _check_rvm(path: str, params: Params) -> int:
  shapes = _Shapes(path, params)
  *kernel, width = shapes.of(_CONV_RVM, 5)
  shapes(_CONV_RVM, (1, kernel[1], kernel[1], 3, width))
  if kernel[1] != 16 or width % 2:
    raise outside.Damaged(path, f"its patches are {kernel[1]} pixels, and RVM's 16")
  shapes(_CONV_RVM.replace("kernel", "bias"), (width,))
  shapes("cls_token", (1, width))
  blocks = _count(params, "encoder/layers_")
  for i in range(blocks):
    shapes.block(f"encoder/layers_{i}", width)
  shapes.norm("encoder/LayerNorm_0", width)
  for name in ("input_update", "input_reset", "state_update", "state_reset"):
    shapes(f"rnn_core/{name}/kernel", (width, width))
  shapes("rnn_core/state_layer_norm/scale", (width,))
  core = _count(params, "rnn_core/transformer/xa_blocks_")
  for i in range(core):
    shapes.block(f"rnn_core/transformer/xa_blocks_{i}", width, cross=True)
  shapes.norm("rnn_core/transformer/output_norm", width)
  if not blocks or not core:
    raise outside.Damaged(path, "it has no blocks")
  return blocks


def _check_4ds(path: str, params: Params) -> int:
  shapes = _Shapes(path, params)
  time, side, _, _, width = shapes.of(_CONV_4DS, 5)
  shapes(_CONV_4DS, (time, side, side, 3, width))
  shapes(_CONV_4DS.replace("kernel", "bias"), (width,))
  shapes.of(_PLACES, 4)
  if params[_PLACES].shape[-1] != width:
    raise outside.Damaged(path, f"{_PLACES} is not of the width of {width}")
  blocks = _count(params, "processor/layers_")
  for i in range(blocks):
    shapes.block(f"processor/layers_{i}", width)
  if not blocks:
    raise outside.Damaged(path, "it has no blocks")
  return blocks


def _norm(x: jax.Array, scale: jax.Array, bias: jax.Array | float, eps: float) -> jax.Array:
  mean = jnp.mean(x, -1, keepdims=True)
  variance = jnp.mean(jnp.square(x - mean), -1, keepdims=True)
  return (x - mean) * jax.lax.rsqrt(variance + eps) * scale + bias


def _normed(p: Params, name: str, x: jax.Array) -> jax.Array:
  return _norm(x, p[f"{name}/scale"], p[f"{name}/bias"], _EPS)


def _attention(p: Params, name: str, x_TD: jax.Array, y_SD: jax.Array) -> jax.Array:
  """Queries of x, keys and values of y."""

  def heads(part, z_TD):
    kernel = p[f"{name}/{part}/kernel"]
    return jnp.einsum("TD,DAK->TAK", z_TD, kernel, precision=_HIGHEST) + p[f"{name}/{part}/bias"]

  q_TAK, k_SAK, v_SAK = heads("query", x_TD), heads("key", y_SD), heads("value", y_SD)
  scores_ATS = jnp.einsum("TAK,SAK->ATS", q_TAK, k_SAK, precision=_HIGHEST)
  weights_ATS = jax.nn.softmax(scores_ATS * q_TAK.shape[-1] ** -0.5, axis=-1)
  mixed_TAK = jnp.einsum("ATS,SAK->TAK", weights_ATS, v_SAK, precision=_HIGHEST)
  out = jnp.einsum("TAK,AKD->TD", mixed_TAK, p[f"{name}/out/kernel"], precision=_HIGHEST)
  return out + p[f"{name}/out/bias"]


def _mlp(p: Params, name: str, x_TD: jax.Array) -> jax.Array:
  hidden = jnp.dot(x_TD, p[f"{name}/dense_in/kernel"], precision=_HIGHEST)
  hidden = jax.nn.gelu(hidden + p[f"{name}/dense_in/bias"], approximate=True)
  out = jnp.dot(hidden, p[f"{name}/dense_out/kernel"], precision=_HIGHEST)
  return out + p[f"{name}/dense_out/bias"]


def _self(p: Params, name: str, x_TD: jax.Array) -> jax.Array:
  y_TD = _normed(p, f"{name}/attention_norm", x_TD)
  return x_TD + _attention(p, f"{name}/attention", y_TD, y_TD)


def _feed(p: Params, name: str, x_TD: jax.Array) -> jax.Array:
  return x_TD + _mlp(p, f"{name}/mlp", _normed(p, f"{name}/mlp_norm", x_TD))


def _pixels(frames_NHW3: jax.Array) -> jax.Array:
  return jnp.asarray(frames_NHW3).astype(jnp.float32) / 255.0


def _patches(p: Params, conv: str, frames_NHW3: jax.Array) -> jax.Array:
  """[time, rows, columns, D] of patches without overlap."""
  kernel = p[conv]
  time, side, _, _, width = kernel.shape
  n, h, w = (size // k for size, k in zip(frames_NHW3.shape, (time, side, side)))
  cut = frames_NHW3.reshape(n, time, h, side, w, side, 3).transpose(0, 2, 4, 1, 3, 5, 6)
  x = jnp.dot(cut.reshape(n, h, w, -1), kernel.reshape(-1, width), precision=_HIGHEST)
  return x + p[conv.replace("kernel", "bias")]


def _waves(width: int, grid: tuple[int, int]) -> jax.Array:
  """[h, w, D]: sines and cosines of the flat place on RVM's grid, resized to another."""
  places_T1 = np.arange(_RVM_GRID**2)[:, None]
  angles_TF = places_T1 / 10_000.0 ** (2.0 * np.arange(width // 2) / width)
  waves_TD = np.stack([np.sin(angles_TF), np.cos(angles_TF)], -1).reshape(-1, width)
  waves = jnp.asarray(waves_TD.reshape(_RVM_GRID, _RVM_GRID, width), jnp.float32)
  if grid != (_RVM_GRID, _RVM_GRID):
    waves = jax.image.resize(waves, (*grid, width), "bicubic")
  return waves


def rvm_frame(p: Params, frame_HW3: jax.Array) -> list[jax.Array]:
  """What enters the first block of RVM's encoder and leaves each, [1 + patches, D]."""
  x_hwD = _patches(p, _CONV_RVM, frame_HW3[None])[0]
  rows, columns, width = x_hwD.shape
  x_hwD += _waves(width, (rows, columns))
  x_TD = jnp.concatenate([p["cls_token"], x_hwD.reshape(-1, width)])
  states = [x_TD]
  for i in range(_count(p, "encoder/layers_")):
    name = f"encoder/layers_{i}"
    states.append(_feed(p, name, _self(p, name, states[-1])))
  return states


def rvm_update(p: Params, state_TD: jax.Array, tokens_TD: jax.Array) -> jax.Array:
  """RVM's state after one more frame, of what leaves the encoder's last block."""
  e_TD = _normed(p, "encoder/LayerNorm_0", tokens_TD)

  def gate(name):
    of_input = jnp.dot(e_TD, p[f"rnn_core/input_{name}/kernel"], precision=_HIGHEST)
    of_state = jnp.dot(state_TD, p[f"rnn_core/state_{name}/kernel"], precision=_HIGHEST)
    return jax.nn.sigmoid(of_input + of_state)

  update_TD, reset_TD = gate("update"), gate("reset")
  memory_TD = reset_TD * _norm(state_TD, p["rnn_core/state_layer_norm/scale"], 0.0, _STATE_EPS)
  h_TD = e_TD
  for i in range(_count(p, "rnn_core/transformer/xa_blocks_")):
    name = f"rnn_core/transformer/xa_blocks_{i}"
    y_TD = _normed(p, f"{name}/ca_attention_norm", h_TD)
    h_TD = h_TD + _attention(p, f"{name}/ca_attention", y_TD, memory_TD)
    h_TD = _self(p, name, _feed(p, name, h_TD))
  h_TD = _normed(p, "rnn_core/transformer/output_norm", h_TD)
  return (1.0 - update_TD) * state_TD + update_TD * h_TD


def rvm(p: Params, frames_NHW3: jax.Array) -> tuple[jax.Array, jax.Array]:
  """RVM's layers and states of a clip.

  Args:
    p: parameters.
    frames_NHW3: uint8.

  Returns:
    [blocks + 1, N, T, D] of its encoder, and the states [N, T, D]; token 0 is the
    class.
  """

  def one(state_TD, frame_HW3):
    layers = rvm_frame(p, frame_HW3)
    state_TD = rvm_update(p, state_TD, layers[-1])
    return state_TD, (jnp.stack(layers), state_TD)

  x_NHW3 = _pixels(frames_NHW3)
  tokens = 1 + (x_NHW3.shape[1] // 16) * (x_NHW3.shape[2] // 16)
  zeros = jnp.zeros((tokens, p["cls_token"].shape[-1]))
  _, (layers_NLTD, states_NTD) = jax.lax.scan(one, zeros, x_NHW3)
  return jnp.swapaxes(layers_NLTD, 0, 1), states_NTD


def rvm_features(p: Params, frames_NHW3: jax.Array, *, pool: str) -> jax.Array:
  """`Model.features` of RVM: its encoder's layers, then the state."""
  layers_LNTD, states_NTD = rvm(p, frames_NHW3)
  x_LNTD = jnp.concatenate([layers_LNTD, states_NTD[None]])
  if pool == "class":
    return x_LNTD[:, :, 0].mean(1)
  x_LTD = x_LNTD[:, :, 1:].reshape(len(x_LNTD), -1, x_LNTD.shape[-1])
  return x_LTD if pool == "token" else x_LTD.mean(1)


def four_ds(p: Params, frames_NHW3: jax.Array) -> jax.Array:
  """What enters 4DS's first block and leaves each, [blocks + 1, T, D].

  The released module gives layer 0 twice and never the last one: its number i is
  layer i - 1 here.
  """
  x_nhwD = _patches(p, _CONV_4DS, _pixels(frames_NHW3))
  places = p[_PLACES]
  if places.shape[1:3] != x_nhwD.shape[1:3]:
    places = jax.image.resize(places, (len(places), *x_nhwD.shape[1:]), "bicubic")
  x_nhwD += places
  states = [x_nhwD.reshape(-1, x_nhwD.shape[-1])]
  for i in range(_count(p, "processor/layers_")):
    name = f"processor/layers_{i}"
    states.append(_feed(p, name, _self(p, name, states[-1])))
  return jnp.stack(states)


def four_ds_features(p: Params, frames_NHW3: jax.Array, *, pool: str) -> jax.Array:
  """`Model.features` of 4DS."""
  x_LTD = four_ds(p, frames_NHW3)
  return x_LTD if pool == "token" else x_LTD.mean(1)
