"""Row `checkpoint`: saving and restoring, and what training feels of it."""

from collections.abc import Iterator
import itertools
import os
import pathlib
import time
from typing import Any

import jax
import numpy as np

from totojax import checkpoint
from totojax.config.bench import CheckpointBench
from totojax.jobs.bench import measure, training


def rows(settings: CheckpointBench, harness: measure.Harness) -> Iterator[measure.Measurement]:
  """GB/s of saving and restoring, and steps/s while a save is going on."""
  trainer = training.trainer(settings.trained)
  trainer.step()
  checkpoints, bare = (
    checkpoint.Checkpoints(harness.folder / name, settings.trained.checkpoint, checksums=checked)
    for name, checked in (("checkpoints", True), ("bare", False))
  )
  plain = harness.folder / "state.bytes"
  gigabytes = sum(x.nbytes for x in _arrays(trainer.state)) / 1e9
  numbers = itertools.count(1)  # a checkpoint of each number is saved once
  starts_s = []

  def save(to: checkpoint.Checkpoints = checkpoints) -> None:
    to.save(next(numbers), trainer.state, {})

  def save_whole(to: checkpoint.Checkpoints) -> None:
    save(to)
    to.wait()

  def restore(of: checkpoint.Checkpoints) -> None:
    jax.block_until_ready(of.restore(trainer.program.shapes, trainer.program.shardings)[0])

  def read() -> None:
    jax.block_until_ready(read_plain(plain, trainer.state))

  def steps_while_saving() -> None:
    begin = time.perf_counter()
    save()
    starts_s.append(time.perf_counter() - begin)
    steps()

  def steps() -> None:
    for _ in range(settings.steps):
      trainer.step()

  facts = {"gigabytes": gigabytes}
  ours = {
    "save": ("Checkpoints.save and wait", lambda: save_whole(checkpoints)),
    "restore": ("Checkpoints.restore", lambda: restore(checkpoints)),
  }
  compares = {
    "save": "saving a train state until it is on disk",
    "restore": "restoring a train state from the page cache to the device",
  }
  bare_name = "the same, the arrays as orbax writes them by itself, without checksums"
  for case, theirs, action in (
    ("save with checksums", bare_name, lambda: save_whole(bare)),
    ("restore with checksums", bare_name, lambda: restore(bare)),
    ("save", "the same bytes to one file, synced", lambda: write_plain(plain, trainer.state)),
    ("restore", "the same bytes from one file", read),
  ):
    verb = case.partition(" ")[0]
    name, own = ours[verb]
    yield harness.compare(
      measure.Side(name, own, gigabytes),
      measure.Side(theirs, action, gigabytes),
      case=case,
      compares=compares[verb],
      unit="GB",
      facts=lambda rounds: facts,
    )
  yield harness.compare(
    measure.Side(
      "steps while a save is going on", steps_while_saving, settings.steps, after=checkpoints.wait
    ),
    measure.Side("steps, nothing is being saved", steps, settings.steps),
    case="train steps while saving",
    compares="train steps from the call of save on, and without one",
    unit="steps",
    facts=lambda rounds: {
      **facts,
      "call_of_save_s": measure.spread(starts_s).median,
      "steps": settings.steps,
    },
  )
  checkpoints.close()
  bare.close()


def _arrays(state: Any) -> list[jax.Array]:
  return jax.tree.leaves(state)


def write_plain(path: pathlib.Path, state: Any) -> None:
  """All arrays of a state, one after the other, until they are on the disk."""
  with open(path, "wb") as file:
    for array in _arrays(state):
      np.asarray(array).tofile(file)
    file.flush()
    os.fsync(file.fileno())


def read_plain(path: pathlib.Path, state: Any) -> list[jax.Array]:
  """What `write_plain` wrote, on the devices of `like`."""
  arrays = []
  with open(path, "rb") as file:
    for leaf in _arrays(state):
      array = np.fromfile(file, leaf.dtype, leaf.size).reshape(leaf.shape)
      arrays.append(jax.device_put(array, leaf.sharding))
  return arrays
