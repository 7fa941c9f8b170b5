"""Flags that make XLA compile the tests' programs quickly, where it has them.

XLA ends its process at a flag that it does not know, and each version knows
others.
"""

from collections.abc import Iterable
import functools
import os
import re
import subprocess
import sys

# Tests compile far more than they compute: with the first two of these they
# take half the time. The second is unknown to jaxlib 0.12, which is slow
# without it. Small programs cut into 32 parts for as many compiling threads
# take an eighth more.
_FAST = (
  "--xla_backend_optimization_level=0",
  "--xla_cpu_use_fusion_emitters=false",
  "--xla_cpu_parallel_codegen_split_count=1",
)
# What `known` has found of them, for the processes that this one starts.
_KEPT = "TOTOJAX_TESTS_XLA_FLAGS"
_READ = "import jaxlib.xla_client as xla; xla.CompileOptions()"


@functools.cache
def known(flags: tuple[str, ...]) -> tuple[str, ...]:
  """Those of `flags` that the installed XLA knows, in their order.

  Raises:
    RuntimeError: XLA fails for another reason.
  """
  # A process of its own, which XLA may end.
  tried = subprocess.run(
    [sys.executable, "-c", _READ],
    env=os.environ | {"XLA_FLAGS": " ".join(flags)},
    capture_output=True,
    text=True,
  )
  if not tried.returncode:
    return flags
  unknown = re.search(r"Unknown flags? in XLA_FLAGS: (.*)", tried.stderr)
  left = tuple(flag for flag in flags if unknown and flag not in unknown[1].split())
  if not unknown or left == flags:
    raise RuntimeError(f"XLA does not read {flags}: {tried.stderr}")
  return left


def value(devices: int, *, more: Iterable[str] = ()) -> str:
  """XLA_FLAGS for so many devices on a CPU; `more` stand before ours."""
  count = f"--xla_force_host_platform_device_count={devices}"
  if _KEPT not in os.environ:
    os.environ[_KEPT] = " ".join(known(_FAST))
  return " ".join([*more, count, *os.environ[_KEPT].split()])
