"""The small parts of a block: normalisation, rotary positions, SwiGLU.

Shapes: B batch, T tokens, D width, H heads, K head dim, F mlp.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

from flax import linen as nn
from flax.linen import spmd
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from totojax.models import platform as platform_lib

# (key, shape, dtype) -> the values at the start.
Initializer = Callable[[jax.Array, tuple[int, ...], Any], jax.Array]


@dataclasses.dataclass(frozen=True)
class Scales:
  """What a parametrisation multiplies the forward pass by (`optim/mup.py`)."""

  attention: float  # times q k / sqrt(K)
  logits: float  # times the logits


STANDARD = Scales(attention=1.0, logits=1.0)


class Part(nn.Module):
  """A block, or its attention: what they know beside their inputs."""

  config: Any  # the `architecture.Architecture`
  implementation: str  # of attention
  dtype: Any  # of activations
  platform: platform_lib.Platform  # what the hardware wants
  scales: Scales = STANDARD  # of the parametrisation

  @nn.nowrap
  def part(self, kind: "type[Part]", name: str) -> "Part":
    """A part of this one, which knows the same."""
    return kind(self.config, self.implementation, self.dtype, self.platform, self.scales, name=name)


def parameter(
  module: nn.Module, name: str, init: Initializer, shape: tuple[int, ...], axes: tuple[str, ...]
) -> jax.Array:
  """A float32 parameter; its logical axes are written here and only here."""
  box = module.param(name, nn.with_logical_partitioning(init, axes), shape, jnp.float32)
  return box  # pyright: ignore[reportReturnType]  # flax has taken it out


def matrix(
  module: nn.Module,
  name: str,
  init: Initializer,
  shape: tuple[int, ...],
  axes: tuple[str, ...],
  dtype: Any,
) -> jax.Array:
  """A `parameter` as it is multiplied: in the dtype of compute, `gathered`."""
  return gathered(parameter(module, name, init, shape, axes).astype(dtype), axes)


def product(equation: str, x: jax.Array, weight: jax.Array, *, on_cpu: bool) -> jax.Array:
  """`jnp.einsum` of activations and a weight, both of one dtype.

  Args:
    equation: "BTD,DF->BTF" and its like: no axis is in all three.
    x: activations.
    weight: the axes that it shares with x are summed over.
    on_cpu: choose how the weight's gradient is computed. There the sum over
      all tokens reads one of its operands transposed, a copy by itself: of the
      wider one as autodiff writes it, of the narrower one here.
  """
  if not on_cpu:
    return jnp.einsum(equation, x, weight)
  inputs, out = equation.split("->")
  left, right = inputs.split(",")

  @jax.custom_vjp
  def multiply(x, weight):
    return jnp.einsum(equation, x, weight)

  def backward(kept, gradient):
    x, weight = kept
    dx = jnp.einsum(f"{out},{right}->{left}", gradient, weight)
    first, second = (left, x), (out, gradient)
    if x.size > gradient.size:
      first, second = second, first
    summed = set(left) & set(out)
    natural = "".join(a for a in first[0] + second[0] if a not in summed)
    dweight = jnp.einsum(f"{first[0]},{second[0]}->{natural}", first[1], second[1])
    # Or XLA takes the turn of the result into the product, with the operands
    # swapped.
    dweight = jax.lax.optimization_barrier(dweight)
    dweight = jnp.einsum(f"{natural}->{right}", dweight)
    return dx, dweight

  multiply.defvjp(lambda *both: (multiply(*both), both), backward)
  return multiply(x, weight)


def wide_product(equation: str, x: jax.Array, weight: jax.Array) -> jax.Array:
  """`jnp.einsum` of bfloat16 arrays with a float32 result.

  The gradient is rounded before it is multiplied, as PyTorch's autocast does:
  left in float32 it would make a GPU multiply in TF32, at half the rate. The
  compiler for TPUs rounds it anyway.
  """

  @jax.custom_vjp
  def multiply(x, weight):
    return jnp.einsum(equation, x, weight, preferred_element_type=jnp.float32)

  def backward(both, gradient):
    _, pull = jax.vjp(functools.partial(jnp.einsum, equation), *both)
    return pull(gradient.astype(both[0].dtype))

  multiply.defvjp(lambda *both: (multiply(*both), both), backward)
  return multiply(x, weight)


def gathered(weight: jax.Array, axes: tuple[str, ...]) -> jax.Array:
  """The whole of a weight that is split over `embed`; its gradient is split.

  Left to itself, the partitioner moves activations for some of the products
  and weights for others, and gives every chip the whole gradient.
  """
  open_axes = tuple(None if axis == "embed" else axis for axis in axes)

  @jax.custom_vjp
  def gather(weight):
    return spmd.with_logical_constraint(weight, open_axes)

  gather.defvjp(
    lambda weight: (gather(weight), None),
    lambda _, gradient: (spmd.with_logical_constraint(gradient, axes),),
  )
  return gather(weight)


@jax.custom_vjp
def looked_up(table_VD: jax.Array, inputs_BT: jax.Array) -> jax.Array:
  """Rows of a table, whose gradient is a product with rows of one 1.

  Autodiff's is a scatter of as many rows as there are tokens. It is the same
  sum, in another order.
  """
  return table_VD[inputs_BT]


def _looked_up_backward(kept, gradient_BTD):
  rows, inputs_BT = kept
  hot_BTV = jax.nn.one_hot(inputs_BT, rows, dtype=gradient_BTD.dtype)
  return jnp.einsum("BTV,BTD->VD", hot_BTV, gradient_BTD), None


looked_up.defvjp(
  lambda table_VD, inputs_BT: (looked_up(table_VD, inputs_BT), (len(table_VD), inputs_BT)),
  _looked_up_backward,
)


class RMSNorm(nn.Module):
  """x / rms(x) * scale in float32, cast, then scaled, as LLaMA does.

  Zhang and Sennrich, 2019 (arXiv 1910.07467), without the mean or a bias.
  """

  eps: float

  @nn.compact
  def __call__(self, x_BTD: jax.Array) -> jax.Array:
    scale_D = parameter(self, "scale", nn.initializers.ones, (x_BTD.shape[-1],), ("norm",))
    wide_BTD = x_BTD.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(wide_BTD), axis=-1, keepdims=True)
    normed_BTD = wide_BTD * jax.lax.rsqrt(mean_square + self.eps)
    return normed_BTD.astype(x_BTD.dtype) * scale_D.astype(x_BTD.dtype)


def rope_table(positions_T: jax.Array, head_dim: int, base: float) -> tuple[jax.Array, jax.Array]:
  """cos and sin [T, K / 2] in float32 of the angles p * base^(-2j / K).

  Su et al., 2021 (arXiv 2104.09864); positions are raster positions in the
  whole sequence, as the paper's base of 10,000 or 50,000 takes them (Table 4).
  """
  j = jnp.arange(0, head_dim, 2, dtype=jnp.float32)
  frequency_k = base ** (-j / head_dim)
  angle_Tk = positions_T.astype(jnp.float32)[:, None] * frequency_k[None]
  return jnp.cos(angle_Tk), jnp.sin(angle_Tk)


def apply_rope(
  x_BTHK: jax.Array, cos_Tk: jax.Array, sin_Tk: jax.Array, *, by_product: bool, scale: float = 1.0
) -> jax.Array:
  """Rotates pairs (j, j + K/2), the half-split layout of Hugging Face.

  Args:
    x_BTHK: queries or keys.
    cos_Tk: of the angles, from `rope_table`.
    sin_Tk: of the angles.
    by_product: swap the halves by a matrix of 0, 1 and -1. A TPU moves data
      between lanes slowly and multiplies matrices fast; the result is the same.
    scale: of the result.
  """
  if by_product:
    return _rope_by_product(x_BTHK, cos_Tk, sin_Tk, scale=scale)
  first, second = jnp.split(x_BTHK.astype(jnp.float32), 2, axis=-1)
  cos, sin = cos_Tk[None, :, None, :], sin_Tk[None, :, None, :]
  rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
  return (rotated * scale).astype(x_BTHK.dtype)


def _rope_by_product(x_BTHK, cos_Tk, sin_Tk, *, scale):
  half = x_BTHK.shape[-1] // 2
  unit = jnp.eye(half, dtype=x_BTHK.dtype)
  zero = jnp.zeros_like(unit)
  turn_KK = jnp.block([[zero, unit], [-unit, zero]])
  turned_BTHK = jnp.einsum(
    "BTHK,KJ->BTHJ",
    x_BTHK,
    turn_KK,
    preferred_element_type=jnp.float32,
    # Each sum has one term; with this it is exact in float32 as well.
    precision="highest" if x_BTHK.dtype == jnp.float32 else None,
  )
  cos, sin = (
    jnp.concatenate([table_Tk, table_Tk], axis=-1)[None, :, None, :]
    for table_Tk in (cos_Tk, sin_Tk)
  )
  rotated_BTHK = x_BTHK.astype(jnp.float32) * cos + turned_BTHK * sin
  return (rotated_BTHK * scale).astype(x_BTHK.dtype)


def kept_paths(key: jax.Array, *, rows: int, depth: int, drop: float) -> jax.Array:
  """float32 [depth, 2, rows]: 0 where a row skips a branch of a block.

  Stochastic depth (Huang et al., 2016) of each row, as timm has it: the share
  that is dropped grows from 0 at the first block to `drop` at the last one, and
  what is kept is divided by its share, so that its mean stays.
  """
  kept_L11 = 1.0 - jnp.linspace(0.0, drop, depth)[:, None, None]
  kept = jax.random.bernoulli(key, kept_L11, (depth, 2, rows))
  return kept / kept_L11


class SwiGLU(nn.Module):
  """down(silu(gate(x)) * up(x)), no biases (Shazeer, arXiv 2002.05202)."""

  mlp_dim: int
  init_std: float
  dtype: Any
  on_cpu: bool

  @nn.compact
  def __call__(self, x_BTD: jax.Array) -> jax.Array:
    width = x_BTD.shape[-1]
    init = nn.initializers.normal(self.init_std)
    inward = (width, self.mlp_dim), ("embed", "mlp")
    outward = (self.mlp_dim, width), ("mlp", "embed")

    gate_DF, up_DF = (matrix(self, name, init, *inward, self.dtype) for name in ("gate", "up"))
    down_FD = matrix(self, "down", init, *outward, self.dtype)
    inner = functools.partial(product, "BTD,DF->BTF", on_cpu=self.on_cpu)
    outer = functools.partial(product, "BTF,FD->BTD", on_cpu=self.on_cpu)
    gate_BTF = checkpoint_name(inner(x_BTD, gate_DF), "mlp")
    up_BTF = checkpoint_name(inner(x_BTD, up_DF), "mlp")
    hidden_BTF = jax.nn.silu(gate_BTF) * up_BTF
    return outer(hidden_BTF, down_FD)


def mesh_axes(*names: str | None) -> PartitionSpec:
  """How an array of these logical axes is split over the mesh that is set."""
  spec = spmd.logical_to_mesh_axes(names)
  assert spec is not None  # it is for no names
  return spec


def tokens_split(tokens: int) -> tuple[str | None, int]:
  """(mesh axis, parts) that sequences are split over here; (None, 1): whole.

  Raises:
    ValueError: the parts do not divide the tokens.
  """
  mesh = jax.sharding.get_abstract_mesh()
  axis = None if mesh.empty else mesh_axes("tokens")[0]
  if axis is None or mesh.shape[axis] == 1:
    return None, 1
  parts = mesh.shape[axis]
  if tokens % parts:
    raise ValueError(
      f"{tokens} tokens are not divisible by mesh.{axis} {parts}; use a size that divides them"
    )
  return axis, parts
