"""Mamba's block (Table 6): a selective state space model instead of attention.

Gu and Dao, 2023 (arXiv 2312.00752), the version of `mamba_ssm` 1: with
u = silu(conv(x)) and step sizes dt, input and output maps B and C that depend
on the token,

  h_t = exp(dt_t A) h_{t-1} + (dt_t u_t) B_t        y_t = C_t h_t + D u_t

All of the recurrence is float32. It is computed in chunks, each of which is
recomputed in the backward pass, so that memory holds one chunk's states and the
states between chunks, and not all of them.

Shapes: B batch, T tokens, D width, E inner width, S state, R rank of the steps,
K width of the convolution, M chunks, N tokens of a chunk.
"""

import dataclasses
import functools
import math
from typing import Any, ClassVar, NamedTuple

from flax import linen as nn
from flax.linen import spmd
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from totojax.config import model as model_config
from totojax.models import architecture, layers

SCANS = ("steps", "tree")


class State(NamedTuple):
  """What a block remembers of the tokens before."""

  inputs_BKE: jax.Array  # the last K - 1 inputs of the convolution
  h_BSE: jax.Array  # the state; channels come last, where a TPU computes 128 at a time


class MambaConfig(model_config.Mamba, architecture.Architecture):
  """Section `model` of "mamba", and what is computed from it.

  `scan` "steps" is one token after the other within a chunk; "tree" is an
  associative scan: fewer operations one after the other, but more in all,
  through memory. The same results beyond rounding, as of `chunk_tokens`.
  """

  kind: ClassVar[str] = "mamba"
  wide: ClassVar[frozenset[str]] = frozenset({"log_a", "steps_bias", "skip", "scale"})
  starts_smaller: ClassVar[bool] = True
  prefix_tokens: ClassVar[int] = 0  # always causal

  @property
  def inner(self) -> int:
    return self.expand * self.width

  @property
  def rank(self) -> int:
    return self.step_rank or math.ceil(self.width / 16)

  def block(self) -> type[nn.Module]:
    return Block

  def norm(self, name: str | None = None) -> nn.Module:
    return layers.RMSNorm(self.norm_eps, name=name)

  def placed_input(self, x_BTD: jax.Array, positions_T: jax.Array) -> jax.Array:
    """In float32, as `mamba_ssm` has the residual stream."""
    del positions_T
    return x_BTD.astype(jnp.float32)

  def empty_state(self, rows: int) -> State:
    """Before the first token."""
    return State(
      jnp.zeros((rows, self.conv - 1, self.inner), jnp.float32),
      jnp.zeros((rows, self.state, self.inner), jnp.float32),
    )

  def state_axes(self) -> State:
    inputs = PartitionSpec("layers", "batch", None, "mlp")
    h = PartitionSpec("layers", "batch", "state", "mlp")
    return State._make((inputs, h))

  @property
  def matrices(self) -> int:
    """3 D E + E (K + 2 R + 2 S)."""
    narrow = self.conv + 2 * self.rank + 2 * self.state
    return 3 * self.width * self.inner + self.inner * narrow

  @property
  def vectors(self) -> int:
    """Norm; biases of convolution and steps, and the skip; the decay."""
    return self.width + 3 * self.inner + self.inner * self.state

  def mixing_macs(self, context: int) -> int:
    """Four products: dt A, (dt u) B, exp(dt A) h and C h."""
    del context
    return 4 * self.inner * self.state

  def growth(self, *, base_width: int, base_heads: int, base_mlp_dim: int) -> dict[str, float]:
    """The base model has the same states; of attention nothing counts."""
    del base_heads, base_mlp_dim
    base = dataclasses.replace(self, width=base_width)
    return {
      "embed": self.width / base_width,
      "mlp": self.inner / base.inner,
      "rank": self.rank / base.rank,
    }


def selective_scan(
  u_BTE: jax.Array,
  dt_BTE: jax.Array,
  a_ES: jax.Array,
  b_BTS: jax.Array,
  c_BTS: jax.Array,
  h_BSE: jax.Array,
  *,
  chunk_tokens: int,
  scan: str,
) -> tuple[jax.Array, jax.Array]:
  """The recurrence over all tokens, all arguments float32.

  Args:
    u_BTE: inputs.
    dt_BTE: step sizes, positive.
    a_ES: the decay, negative.
    b_BTS, c_BTS: input and output maps.
    h_BSE: the state before the first token.
    chunk_tokens: tokens whose states exist at a time.
    scan: one of `SCANS`, within a chunk.

  Returns:
    C_t h_t as [B, T, E], and the last state [B, S, E].
  """
  tokens = u_BTE.shape[1]
  size = min(chunk_tokens, tokens)
  pad = -tokens % size

  def chunks(x):
    # A step of size zero leaves the state as it is.
    x = jnp.pad(x, ((0, 0), (0, pad), (0, 0)))
    x = x.reshape(x.shape[0], -1, size, x.shape[-1])
    return jnp.moveaxis(x, 1, 0)

  def step(h_BSE, token):
    u_BE, dt_BE, b_BS, c_BS = token
    decay_BSE = jnp.exp(dt_BE[:, None] * a_SE)
    h_BSE = decay_BSE * h_BSE + (dt_BE * u_BE)[:, None] * b_BS[..., None]
    return h_BSE, jnp.sum(h_BSE * c_BS[..., None], axis=1)

  @jax.checkpoint
  def one(h_BSE, chunk):
    u_BNE, dt_BNE, b_BNS, c_BNS = chunk
    if scan == "steps":
      by_token = (jnp.swapaxes(x, 0, 1) for x in chunk)
      h_BSE, y_NBE = jax.lax.scan(step, h_BSE, tuple(by_token))
      return h_BSE, jnp.swapaxes(y_NBE, 0, 1)
    decay_BNSE = jnp.exp(dt_BNE[:, :, None] * a_SE)
    input_BNSE = (dt_BNE * u_BNE)[:, :, None] * b_BNS[..., None]
    kept_BNSE, added_BNSE = jax.lax.associative_scan(_compose, (decay_BNSE, input_BNSE), axis=1)
    h_BNSE = kept_BNSE * h_BSE[:, None] + added_BNSE
    y_BNE = jnp.sum(h_BNSE * c_BNS[..., None], axis=2)
    return h_BNSE[:, -1], y_BNE

  a_SE = a_ES.T
  last_BSE, y_MBNE = jax.lax.scan(one, h_BSE, tuple(map(chunks, (u_BTE, dt_BTE, b_BTS, c_BTS))))
  y_BTE = jnp.moveaxis(y_MBNE, 0, 1).reshape(u_BTE.shape[0], -1, u_BTE.shape[-1])
  return y_BTE[:, :tokens], last_BSE


def _compose(first, second):
  """The map h -> a2 (a1 h + x1) + x2."""
  (a1, x1), (a2, x2) = first, second
  return a1 * a2, a2 * x1 + x2


class Mixer(nn.Module):
  """The selective state space layer, on normed inputs."""

  config: MambaConfig
  dtype: Any
  on_cpu: bool

  @nn.compact
  def __call__(self, x_BTD: jax.Array, state: State) -> tuple[jax.Array, State]:
    """Outputs [B, T, D], and the state after the last token.

    Args:
      x_BTD: inputs.
      state: after the tokens before.
    """
    c = self.config
    inner, rank = c.inner, c.rank
    init = nn.initializers.normal(c.init_std)

    def matrix(name, shape, axes, start: layers.Initializer = init):
      return layers.matrix(self, name, start, shape, axes, self.dtype)

    product = functools.partial(layers.product, on_cpu=self.on_cpu)
    x_BTE, gate_BTE = (
      checkpoint_name(
        product("BTD,DE->BTE", x_BTD, matrix(name, (c.width, inner), ("embed", "mlp"))),
        "projection",
      )
      for name in ("input", "gate")
    )

    seen_BJE = jnp.concatenate([state.inputs_BKE.astype(self.dtype), x_BTE], axis=1)
    u_BTE = self._convolve(seen_BJE, x_BTE.shape[1])
    # Three parameters, as ranks grow with the width and states do not.
    sizes = {"rank": rank, "state_in": c.state, "state_out": c.state}
    maps_EX = jnp.concatenate(
      [matrix(k, (inner, size), ("mlp", k.partition("_")[0])) for k, size in sizes.items()], axis=1
    )
    steps_BTR, b_BTS, c_BTS = jnp.split(
      product("BTE,EX->BTX", u_BTE, maps_EX), [rank, rank + c.state], axis=-1
    )
    steps_RE = matrix("steps", (rank, inner), ("rank", "mlp"), _uniform(rank**-0.5))
    bias_E = layers.parameter(self, "steps_bias", _step_bias, (inner,), ("mlp",))
    wide = lambda x: x.astype(jnp.float32)
    dt_BTE = jax.nn.softplus(wide(product("BTR,RE->BTE", steps_BTR, steps_RE)) + bias_E)
    a_ES = -jnp.exp(layers.parameter(self, "log_a", _log_a, (inner, c.state), ("mlp", "norm")))
    scan = functools.partial(selective_scan, chunk_tokens=c.chunk_tokens, scan=c.scan)
    y_BTE, h_BSE = scan(wide(u_BTE), dt_BTE, a_ES, wide(b_BTS), wide(c_BTS), state.h_BSE)
    skip_E = layers.parameter(self, "skip", nn.initializers.ones, (inner,), ("mlp",))
    y_BTE = (y_BTE + skip_E * wide(u_BTE)).astype(self.dtype)
    y_BTE = checkpoint_name(y_BTE, "attention")  # what stands in its place
    # What writes to the residual stream starts 1 / sqrt(L) smaller, as
    # `mamba_ssm` has it, of one branch in a block.
    start = nn.initializers.normal(c.init_std / math.sqrt(c.depth))
    out_ED = matrix("out", (inner, c.width), ("mlp", "embed"), start)
    last = seen_BJE[:, seen_BJE.shape[1] - (c.conv - 1) :]
    out_BTD = product("BTE,ED->BTD", y_BTE * jax.nn.silu(gate_BTE), out_ED)
    return out_BTD, State(wide(last), h_BSE)

  def _convolve(self, seen_BJE: jax.Array, tokens: int) -> jax.Array:
    """silu of a causal convolution of each channel; J = K - 1 + T."""
    c = self.config
    start = _uniform(c.conv**-0.5)  # as torch's Conv1d
    w_KE = layers.parameter(self, "conv", start, (c.conv, c.inner), ("norm", "mlp")).astype(
      self.dtype
    )
    bias_E = layers.parameter(self, "conv_bias", start, (c.inner,), ("mlp",)).astype(self.dtype)
    mixed_BTE = sum(seen_BJE[:, k : k + tokens] * w_KE[k] for k in range(c.conv))
    return jax.nn.silu(mixed_BTE + bias_E)


class Block(layers.Part):
  """h = x + mixer(norm(x)); the trunk gives it a residual in float32."""

  config: MambaConfig

  @nn.compact
  def __call__(
    self, x_BTD: jax.Array, rope: None, segments_BT: None, state: State | None = None
  ) -> tuple[jax.Array, State | None]:
    """The residual stream, and the state where one was given.

    Args:
      x_BTD: the residual stream.
      rope: for the shape of all blocks' arguments alone.
      segments_BT: the same: everything before a token is seen.
      state: after the tokens before; None at the start of a sequence of which
        no more follows.
    """
    del rope, segments_BT
    c = self.config
    normed_BTD = layers.RMSNorm(c.norm_eps, name="norm")(x_BTD)
    goes_on = state is not None
    if not goes_on:
      state = c.empty_state(x_BTD.shape[0])
    mixed_BTD, state = Mixer(c, self.dtype, self.platform.cpu_products, name="mixer")(
      normed_BTD.astype(self.dtype), state
    )
    x_BTD = checkpoint_name(x_BTD + mixed_BTD, "residual")
    self.sow("intermediates", "residual", x_BTD)
    x_BTD = spmd.with_logical_constraint(x_BTD, ("batch", "tokens", None))
    return x_BTD, state if goes_on else None


def _uniform(limit: float) -> layers.Initializer:
  def init(key, shape, dtype):
    return jax.random.uniform(key, shape, dtype, -limit, limit)

  return init


def _log_a(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
  """log(1), ..., log(S) for every channel (S4D-real)."""
  del key
  return jnp.broadcast_to(jnp.log(jnp.arange(1, shape[-1] + 1)), shape).astype(dtype)


def _step_bias(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
  """softplus of it is log-uniform from 0.001 to 0.1, at least 0.0001."""
  low, high = math.log(1e-3), math.log(1e-1)
  dt = jnp.exp(jax.random.uniform(key, shape, dtype, low, high))
  dt = jnp.maximum(dt, 1e-4)
  return dt + jnp.log(-jnp.expm1(-dt))
