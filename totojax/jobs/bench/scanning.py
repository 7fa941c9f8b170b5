"""Row `mamba_scan`: Mamba's recurrence in chunks, against token by token.

Shapes: B rows, T tokens, E inner width, S states.
"""

from collections.abc import Callable, Iterator
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from totojax.config.bench import MambaScanBench
from totojax.jobs.bench import measure
from totojax.models import mamba

Scan = Callable[..., tuple[jax.Array, jax.Array]]


def plain_scan(
  u_BTE: jax.Array,
  dt_BTE: jax.Array,
  a_ES: jax.Array,
  b_BTS: jax.Array,
  c_BTS: jax.Array,
  h_BSE: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """`mamba.selective_scan` as it is written down; its gradient keeps all h."""

  def one(h_BSE, token):
    u_BE, dt_BE, b_BS, c_BS = token
    decay_BSE = jnp.exp(dt_BE[:, None] * a_ES.T)
    h_BSE = decay_BSE * h_BSE + (dt_BE * u_BE)[:, None] * b_BS[..., None]
    return h_BSE, jnp.einsum("BSE,BS->BE", h_BSE, c_BS)

  by_token = (jnp.swapaxes(x, 0, 1) for x in (u_BTE, dt_BTE, b_BTS, c_BTS))
  h_BSE, y_TBE = jax.lax.scan(one, h_BSE, tuple(by_token))
  return jnp.swapaxes(y_TBE, 0, 1), h_BSE


def arguments(settings: MambaScanBench, *, seed: int) -> tuple[tuple[jax.Array, ...], jax.Array]:
  """Arguments of a scan, as in a new model, and the gradient of its outputs."""
  s, rng = settings, np.random.default_rng(seed)

  def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  wide, narrow = (s.rows, s.tokens, s.inner), (s.rows, s.tokens, s.state)
  dt_BTE = jnp.asarray(np.exp(rng.uniform(-6.9, -2.3, wide)), jnp.float32)
  a_ES = -jnp.broadcast_to(jnp.arange(1.0, s.state + 1), (s.inner, s.state))
  start_BSE = jnp.zeros((s.rows, s.state, s.inner), jnp.float32)
  u_BTE, b_BTS, c_BTS = normal(*wide), normal(*narrow), normal(*narrow)
  return (u_BTE, dt_BTE, a_ES, b_BTS, c_BTS, start_BSE), normal(*wide)


def gradients(scan: Scan) -> Callable[..., Any]:
  """(arguments, gradient of the outputs) -> of every argument but the state."""

  def loss(u_BTE, dt_BTE, a_ES, b_BTS, c_BTS, h_BSE, wanted_BTE):
    y_BTE, _ = scan(u_BTE, dt_BTE, a_ES, b_BTS, c_BTS, h_BSE)
    return jnp.sum(y_BTE * wanted_BTE)

  return jax.grad(loss, argnums=tuple(range(5)))


def rows(settings: MambaScanBench, harness: measure.Harness) -> Iterator[measure.Measurement]:
  """Tokens per second of values and gradients, and the memory of both."""
  inputs, wanted_BTE = arguments(settings, seed=harness.seed)

  def side(what: str, scan: Scan) -> tuple[measure.Side, int]:
    """The scan, and the bytes that it needs on the way."""
    program = jax.jit(gradients(scan)).lower(*inputs, wanted_BTE).compile()
    memory = program.memory_analysis()
    assert memory is not None  # CPU, GPU and TPU tell it
    run = lambda: jax.block_until_ready(program(*inputs, wanted_BTE))
    return measure.Side(what, run, settings.rows * settings.tokens), memory.temp_size_in_bytes

  def facts(rounds: measure.Rounds, temporary_bytes: dict[str, int]) -> dict[str, Any]:
    pairs = zip(*rounds.warmup)
    errors = [float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b))) for a, b in pairs]
    return {
      **dataclasses.asdict(settings),
      "temporary_bytes": temporary_bytes,
      "largest_difference": max(errors),
    }

  plain, plain_bytes = side("jax.lax.scan over all tokens", plain_scan)
  within = {
    "steps": "token by token in each chunk, which is computed again",
    "tree": "an associative scan in each chunk, which is computed again",
  }
  for name in settings.scans:
    scan = functools.partial(mamba.selective_scan, chunk_tokens=settings.chunk_tokens, scan=name)
    chunked, bytes_ = side(within[name], scan)
    goal = measure.Goal("times less temporary memory", plain_bytes / max(bytes_, 1), 2.0)
    yield harness.compare(
      chunked,
      plain,
      case=f"{name}, {settings.rows} x {settings.tokens} x {settings.inner}",
      compares="values and gradients of the selective scan",
      unit="tokens",
      goals=lambda rounds, goal=goal: [goal],
      facts=functools.partial(facts, temporary_bytes={name: bytes_, "plain": plain_bytes}),
    )
