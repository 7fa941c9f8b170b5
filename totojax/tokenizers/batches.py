"""A traceable function of a batch as a numpy function of any number of rows.

Every device runs the same program on the same number of rows, however many
devices and rows there are, so that a row's result depends on itself alone.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import numpy as np

# What one device computes in one call, at most: 8 frames of 128 pixels for the
# dVAE of DALL-E, which fills a chip and bounds the memory. On a CPU 2 of them,
# whose activations stay nearer to the cores.
_CALL_MACS = 2**38
_CPU_CALL_MACS = 2**36
# However little a frame asks for. Few are filled up to it, which costs a CPU what
# it costs a chip nothing.
_MOST_FRAMES = 64
_CPU_MOST_FRAMES = 8


def call_rows(macs_per_row: int, frames_per_row: int = 1) -> int:
  """Rows, each an image or the frames of a clip, that one device takes at a time."""
  on_cpu = jax.default_backend() == "cpu"
  most_macs = _CPU_CALL_MACS if on_cpu else _CALL_MACS
  most_frames = _CPU_MOST_FRAMES if on_cpu else _MOST_FRAMES
  return max(1, min(most_frames // frames_per_row, most_macs // max(1, macs_per_row)))


class LocalDevices:
  """`function(params, rows)`, with the rows spread over all local devices.

  No device is touched before the first call.
  """

  def __init__(self, function: Callable[[Any, jax.Array], jax.Array], params: Any):
    self._function = function
    self._params = params
    self._program = functools.cache(self._compiled)

  def __call__(self, array: np.ndarray, *, rows: int) -> np.ndarray:
    """Applies the function to `rows` rows per device at a time.

    The last call is filled up by repeating its last row; what fits one device
    goes to one alone.

    Raises:
      ValueError: if there are no rows.
    """
    total = len(array)
    if not total:
      raise ValueError("0 frames were given; a tokenizer needs at least one")
    devices = len(jax.local_devices())
    parts, start = [], 0
    running: list[tuple[jax.Array, int]] = []  # with their rows that count
    fetch = lambda result, rows: np.asarray(result)[:rows]
    while start < total:
      left = total - start
      batch = rows * (1 if left <= rows else devices)
      run, place = self._program(batch // rows)
      part = array[start : start + batch]
      short = batch - len(part)
      if short:
        part = np.concatenate([part, np.repeat(part[-1:], short, axis=0)])
      running.append((run(jax.device_put(part, place)), min(batch, left)))
      # The call before is fetched while this one runs.
      if len(running) > 1:
        parts.append(fetch(*running.pop(0)))
      start += batch
    parts += [fetch(*call) for call in running]
    return np.concatenate(parts)

  def _compiled(self, devices: int) -> tuple[Callable[..., jax.Array], Any]:
    """The compiled function on the first devices, and the rows' sharding."""
    mesh = jax.make_mesh(
      (devices,), ("batch",), axis_types=(AxisType.Auto,), devices=jax.local_devices()[:devices]
    )
    replicated, rows = PartitionSpec(), PartitionSpec("batch")
    run = jax.jit(
      jax.shard_map(self._function, mesh=mesh, in_specs=(replicated, rows), out_specs=rows)
    )
    params = jax.device_put(self._params, NamedSharding(mesh, replicated))
    return functools.partial(run, params), NamedSharding(mesh, rows)
