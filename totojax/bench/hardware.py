"""What a benchmark ran on, in words and numbers."""

from __future__ import annotations

from collections.abc import Mapping
import os
import pathlib
import platform
from typing import Any

import jax

from totojax import logs
from totojax.bench import peers

_PEERS = ("torch", "transformers", "DALL-E", "av")


def describe() -> dict[str, Any]:
  """Processor, cores, memory, devices and versions."""
  found = logs.environment()
  return {
      "processor": _processor(),
      "cores": peers.cores(),
      "memory_gib": _memory_gib(),
      **found,
      "versions": {**found["versions"], **logs.versions(_PEERS)},
  }


def load() -> float:
  """Programs that wanted to run over the last minute, on average."""
  return os.getloadavg()[0]


def sentence(found: Mapping[str, Any]) -> str:
  devices = found["devices"]
  return (
      f"{found['processor']}, {found['cores']} cores,"
      f" {found['memory_gib']:.0f} GiB; JAX on {devices['count']} x"
      f" {devices['kind']}"
  )


def device_memory_gib() -> float:
  """Memory of one device, or of the machine where it has none of its own."""
  stats = jax.local_devices()[0].memory_stats() or {}
  return stats.get("bytes_limit", 2**30 * _memory_gib()) / 2**30


def _processor() -> str:
  path = pathlib.Path("/proc/cpuinfo")
  if path.exists():
    for line in path.read_text().splitlines():
      if line.startswith("model name"):
        return line.partition(":")[2].strip()
  return platform.processor() or platform.machine()


def _memory_gib() -> float:
  return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
