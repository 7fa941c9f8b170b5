"""What a benchmark ran on, in words and numbers."""

from collections.abc import Callable, Mapping
import dataclasses
import os
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from totojax.rundir import provenance

_PEERS = ("torch", "transformers", "DALL-E", "av")
_SIDE = 8192  # of the matrices whose product is timed
_COPIED = 2**30  # bytes of the array whose copy is timed


@dataclasses.dataclass(frozen=True)
class Ceiling:
  """What the device reaches at best, measured here and now."""

  flops_per_s: float  # of a bfloat16 matrix product, 8,192 cubed
  bytes_per_s: float  # of a copy in the device's memory, read and written bytes


def is_accelerator() -> bool:
  return jax.default_backend() != "cpu"


def ceiling() -> Ceiling:
  """Measures the rates of the first device."""
  a, b = (jax.random.normal(jax.random.key(i), (_SIDE, _SIDE), jnp.bfloat16) for i in range(2))
  product_s = _seconds(jax.jit(jnp.matmul), a, b)
  copied = jnp.ones(_COPIED // 4, jnp.float32)
  copy_s = _seconds(jax.jit(lambda x: x + 1.0), copied)
  return Ceiling(2 * _SIDE**3 / product_s, 2 * _COPIED / copy_s)


def bytes_per_s(copied_mib: int) -> float:
  """Of memory: the faster of a copy and of a sum over an array of so many MiB.

  The copy counts what is read and what is written.
  """
  copied = jnp.ones(copied_mib * 2**20 // 4, jnp.float32)
  ways = ((2, jax.jit(lambda x: x + 1.0)), (1, jax.jit(jnp.sum)))
  return max(n * copied.nbytes / _seconds(way, copied, calls=1) for n, way in ways)


def _seconds(function: Callable[..., jax.Array], *arrays: jax.Array, calls: int = 20) -> float:
  """Of one call, the median over rounds of many calls."""
  jax.block_until_ready(function(*arrays))
  rounds = []
  for _ in range(5):
    begin = time.perf_counter()
    for _ in range(calls):
      last = function(*arrays)
    jax.block_until_ready(last)
    rounds.append((time.perf_counter() - begin) / calls)
  return statistics.median(rounds)


def describe() -> dict[str, Any]:
  """Processor, cores, memory, devices and versions."""
  environment = provenance.environment()
  return {
    "processor": provenance.processor(),
    "cores": provenance.cores(),
    "memory_gib": _memory_gib(),
    **environment,
    "versions": {**environment["versions"], **provenance.versions(_PEERS)},
  }


def load() -> float:
  """Programs that wanted to run over the last minute, on average."""
  return os.getloadavg()[0]


def sentence(machine: Mapping[str, Any]) -> str:
  """What `describe` gives, in words."""
  return (
    "{processor}, {cores} cores, {memory_gib:.0f} GiB; JAX on {devices[count]} x {devices[kind]}"
  ).format_map(machine)


def device_memory_gib() -> float:
  """Memory of one device, or of the machine where it has none of its own."""
  stats = jax.local_devices()[0].memory_stats() or {}
  return stats.get("bytes_limit", 2**30 * _memory_gib()) / 2**30


def _memory_gib() -> float:
  return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
