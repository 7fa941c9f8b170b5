"""Row `checkpoint`: saving and restoring, and what training feels of it."""

from __future__ import annotations

from collections.abc import Iterator
import os
import pathlib
import time
from typing import Any

import jax
import numpy as np

from totojax.config.bench import CheckpointBench
from totojax.jobs.bench import measure, training


def measure_checkpoint(
  settings: CheckpointBench, *, how: measure.How, folder: pathlib.Path
) -> Iterator[measure.Row]:
  """GB/s of saving and restoring, and steps/s while a save is going on."""
  trainer = training.Trainer(settings.trained)
  trainer.step()
  kept = trainer.checkpoints(folder / "checkpoints")
  plain = folder / "state.bytes"
  gigabytes = sum(x.nbytes for x in _arrays(trainer.state)) / 1e9
  saves = iter(range(1, 10**9))  # a checkpoint of each number is made once
  starts_s = []

  def save() -> float:
    kept.save(next(saves), trainer.state, {})
    kept.wait()
    return gigabytes

  def write() -> float:
    write_plain(plain, trainer.state)
    return gigabytes

  def restore() -> float:
    state, _ = kept.restore(trainer.run.shapes, trainer.run.shardings)
    jax.block_until_ready(state)
    return gigabytes

  def read() -> float:
    jax.block_until_ready(read_plain(plain, trainer.state))
    return gigabytes

  def steps_while_saving() -> float:
    begin = time.perf_counter()
    kept.save(next(saves), trainer.state, {})
    starts_s.append(time.perf_counter() - begin)
    return steps()

  def steps() -> float:
    for _ in range(settings.steps):
      trainer.step()
    return float(settings.steps)

  quiet = measure.nothing
  pairs = [
    (
      "save",
      "GB",
      "saving a train state until it is on disk",
      measure.Side("Checkpoints.save and wait", save, quiet),
      measure.Side("the same bytes to one file, synced", write, quiet),
    ),
    (
      "restore",
      "GB",
      "restoring a train state from the page cache to the device",
      measure.Side("Checkpoints.restore", restore, quiet),
      measure.Side("the same bytes from one file", read, quiet),
    ),
    (
      "train steps while saving",
      "steps",
      "train steps from the call of save on, and without one",
      measure.Side("steps while a save is going on", steps_while_saving, kept.wait),
      measure.Side("steps, nothing is being saved", steps, quiet),
    ),
  ]
  for case, unit, compares, ours, theirs in pairs:
    measured = measure.compare(ours, theirs, how=how)
    facts = {"gigabytes": gigabytes}
    if case == "train steps while saving":
      facts["call_of_save_s"] = measure.spread(starts_s).median
      facts["steps"] = settings.steps
    yield measure.Row(
      row="checkpoint",
      case=case,
      compares=compares,
      unit=unit,
      ours=ours.what,
      theirs=theirs.what,
      measured=measured,
      goals=(),
      facts=facts,
    )
  kept.close()


def _arrays(state: Any) -> list[jax.Array]:
  return jax.tree.leaves(state)


def write_plain(path: pathlib.Path, state: Any) -> None:
  """All arrays of a state, one after the other, until they are on the disk."""
  with open(path, "wb") as file:
    for array in _arrays(state):
      np.asarray(array).tofile(file)
    file.flush()
    os.fsync(file.fileno())


def read_plain(path: pathlib.Path, like: Any) -> list[jax.Array]:
  """What `write_plain` wrote, on the devices of `like`."""
  arrays = []
  with open(path, "rb") as file:
    for leaf in _arrays(like):
      found = np.fromfile(file, leaf.dtype, leaf.size).reshape(leaf.shape)
      arrays.append(jax.device_put(found, leaf.sharding))
  return arrays
