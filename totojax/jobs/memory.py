"""`train.microbatches = 0`: the fewest parts of a batch that fit the devices' memory.

The compiler says what a step needs, before anything is computed. What it
compiled for the answer is what trains.
"""

from collections.abc import Callable, Iterator
import dataclasses
import math
import os
from typing import Any

import jax
import numpy as np

from totojax import assembly, sharding
from totojax.rundir import console

_FULL = 0.95  # of a device's memory: what is left is for batches to come, and for holes
GIB = 2**30


def fewest(
  build: Callable[[int], assembly.Program], *, rows: int
) -> tuple[int, assembly.Program, dict[str, Any]]:
  """The smallest number of microbatches that fits.

  Args:
    build: microbatches -> train step.
    rows: of the global batch.

  Returns:
    The number, its train step, compiled, and facts for manifest.json.

  Raises:
    ValueError: no number fits; says what the last one needs.
  """
  limit, need, parts, count = limit_bytes(), 0, 0, 1
  while count:
    parts, more, program = count, count, build(count)
    spec = program.task.batch_spec(rows)
    with console.phase(f"compiling the update, in {parts} part{'s' * (parts > 1)}"):
      compiled = _compiled(program, spec)
    if compiled is not None:
      state, work = _bytes(compiled.memory_analysis())
      need = state + work
      if need <= limit:
        step_fn = sharding.Jitted(compiled, program.layout.mesh)
        console.say(
          f"train.microbatches 0: {parts}, the fewest that fit; a step takes {need / GIB:.3g} GiB"
          f" of a device's {limit / GIB:.3g}"
        )
        facts = {"microbatches": parts, "step_gib": need / GIB, "device_gib": limit / GIB}
        return parts, dataclasses.replace(program, step_fn=step_fn), facts
      if state >= limit:
        break
      # Twice the parts halve at best what is computed with.
      more = max(parts, math.ceil(parts * work / (limit - state)) - 1)
    count = next((n for n in divisors(rows, program.layout.mesh) if n > more), 0)
  raise ValueError(
    f"a device's {limit / GIB:.3g} GiB are not enough for {rows} rows in any number of"
    f" microbatches: in {parts} a step takes {need / GIB:.3g}. Keep less (compute.remat=full), use"
    " more devices (mesh.fsdp), or train a smaller model"
  )


def divisors(rows: int, mesh: Any) -> Iterator[int]:
  """Numbers of microbatches into which a batch can be cut on a mesh, rising."""
  for count in range(1, rows + 1):
    try:
      sharding.check_batch(rows, microbatches=count, mesh=mesh)
    except ValueError:
      continue
    yield count


def limit_bytes() -> int:
  """What a step may take of a device's memory, the same on every host."""
  stats = jax.local_devices()[0].memory_stats() or {}
  limit = stats.get("bytes_limit")
  if not limit:  # a CPU, whose devices share the machine's
    limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // jax.local_device_count()
  gib = np.float32(_FULL * limit / GIB)
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    gib = multihost_utils.process_allgather(gib).min()
  return int(gib * GIB)


def _compiled(program: assembly.Program, spec: Any) -> Any:
  """The compiled step, or None where the compiler itself finds it too large."""
  lowered = program.step_fn.lower(program.shapes, spec)
  try:
    return lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    return None


def _bytes(stats: Any) -> tuple[int, int]:
  """Bytes of what a step is given and leaves, and of what it computes with."""
  state = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
  return state, stats.temp_size_in_bytes + stats.generated_code_size_in_bytes
