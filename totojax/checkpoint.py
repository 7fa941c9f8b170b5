"""Checkpoints: asynchronous, sharded, whole or not there at all (orbax).

A step's folder gets its number only when everything in it is written. What is
restored is compared first with what is expected, name by name, because orbax
casts another dtype in silence.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from etils import epath
import jax
from jax.experimental import multihost_utils
import orbax.checkpoint as ocp

from totojax import step as step_lib
from totojax import tree as tree_lib
from totojax.config.training import CheckpointConfig
from totojax.rundir import errors
from totojax.storage import objects

_COMMITTED = "_CHECKPOINT_METADATA"  # orbax writes it when a step is whole


class CheckpointError(errors.RunError):
  """A checkpoint that cannot be written, read, or used; names the path."""


class Checkpoints:
  """The checkpoints of one run directory."""

  def __init__(self, directory: epath.PathLike, config: CheckpointConfig):
    self.directory = _absolute(directory)
    # Before the manager lists what is there.
    _set_aside(self.directory)
    self._manager = ocp.CheckpointManager(
      self.directory,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=config.keep,
        # 0 is ours for none.
        keep_period=config.keep_every_steps or None,
        # The device computes on while the host writes; `wait` says so.
        enable_async_checkpointing=True,
        create=True,
      ),
    )

  def latest(self) -> int | None:
    """The newest step that is whole, or None."""
    return latest_step(self.directory)

  def save(self, step: int, state: step_lib.TrainState, meta: dict[str, Any]) -> None:
    """Starts writing `state` in the background; frozen arrays are left out.

    Raises:
      CheckpointError: the disk is full, say, now or in the save before.
    """
    try:
      saved = self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(_written(state)), meta=ocp.args.JsonSave(meta)
        ),
        force=True,  # when to save is the loop's to say, not the manager's
      )
    except Exception as error:
      raise self._unwritable(step, error) from error
    # orbax says no in silence, and the run would go on unsaved.
    if not saved:
      raise CheckpointError(
        f"{self.directory}: step {step} was not saved, because a checkpoint"
        f" of it or of a later step ({self._manager.all_steps()}) is there;"
        " use another --workdir or remove it"
      )

  def wait(self) -> None:
    """Returns when everything is on disk; raises CheckpointError if not."""
    try:
      self._manager.wait_until_finished()
      self._manager.check_for_errors()
    except Exception as error:
      raise self._unwritable(None, error) from error

  def restore(
    self, shapes: step_lib.TrainState, shardings: step_lib.TrainState
  ) -> tuple[dict[str, Any], dict[str, Any]]:
    """The newest whole state, placed as `shardings`, and its meta data.

    The parts of a `TrainState` by name, without its frozen arrays, which the
    caller puts back.
    """
    # Placed as it is read: no host ever has the whole of a sharded array, and
    # the mesh may be another than the one that saved.
    step = self.latest()
    assert step is not None, "ask latest() first"
    wanted = jax.tree.map(
      lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
      _written(shapes),
      _written(shardings),
    )
    return _read(self.directory / str(step), wanted, partial=False)

  def close(self) -> None:
    """Waits for what is being written, then lets go of the folder."""
    self.wait()
    self._manager.close()

  def _unwritable(self, step: int | None, error: Exception) -> CheckpointError:
    of = "" if step is None else f" of step {step}"
    return CheckpointError(
      f"{self.directory}: the checkpoint{of} could not be written"
      f" ({objects.brief(error)}); the last whole one stays. Free the disk or"
      " mend the path, then run the same command again"
    )


def latest_step(directory: epath.PathLike) -> int | None:
  """The newest whole step under `directory`; half-written ones do not count."""
  directory = epath.Path(directory)
  if not directory.exists():
    return None
  steps = [
    int(path.name)
    for path in directory.iterdir()
    if path.name.isdigit() and (path / _COMMITTED).exists()
  ]
  return max(steps, default=None)


def _absolute(directory: epath.PathLike) -> epath.Path:
  """Orbax takes no other: it says so, but only after the first save."""
  name = os.fspath(directory)
  return epath.Path(name if "://" in name else os.path.abspath(name))


def _set_aside(directory: epath.Path) -> None:
  """Renames step folders that are not whole, which orbax would stumble over."""
  # One process renames and all wait, or another may still see a half step.
  if jax.process_index() == 0 and directory.exists():
    for path in directory.iterdir():
      if path.name.isdigit() and not (path / _COMMITTED).exists():
        path.rename(directory / f"{path.name}.incomplete-{time.time_ns()}")
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices("checkpoints set aside")


def read_params(
  directory: epath.PathLike, shapes: Any, shardings: Any
) -> tuple[Any, dict[str, Any]]:
  """(params, meta) of the newest checkpoint of a run, without its moments.

  Raises:
    CheckpointError: there is none, it is damaged, or it does not fit.
  """
  directory = _absolute(directory)
  step = latest_step(directory)
  if step is None:
    raise CheckpointError(f"{directory}: no whole checkpoint; train first, or name the right run")
  wanted = jax.tree.map(
    lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
    shapes,
    shardings,
  )
  tree, meta = _read(directory / str(step), {"params": wanted}, partial=True)
  return tree["params"], meta


def _written(state: step_lib.TrainState) -> dict[str, Any]:
  """What goes to disk, as a plain dict: all but the frozen arrays."""
  # Those are another file's or run's, which the config names.
  return {
    "step": state.step,
    "params": state.params,
    "stats": state.stats,
    "opt_state": state.opt_state,
  }


def _read(path: epath.Path, wanted: Any, *, partial: bool) -> tuple[Any, Any]:
  """Restores `wanted` and the meta data of one step's folder."""
  try:
    meta = json.loads((path / "meta" / "metadata").read_text())
    with ocp.PyTreeCheckpointer() as reader:
      listed = reader.metadata(path / "state").item_metadata
    if listed is None:
      raise ValueError("the list of its arrays cannot be read")
    found = listed.tree
  except Exception as error:
    raise CheckpointError(
      f"{path} is damaged ({_cause(error)}); remove this folder to go on from"
      " the checkpoint before it"
    ) from error
  # Compared before anything is read: a config that does not fit is told by the
  # names and shapes of its leaves, and costs no restore.
  flat_found = dict(tree_lib.named_leaves(found))
  flat_wanted = dict(tree_lib.named_leaves(wanted))
  if partial:  # parameters without moments: whatever else is there may be
    flat_found = {k: v for k, v in flat_found.items() if k in flat_wanted}
  lines = tree_lib.differences(flat_found, flat_wanted)
  if lines:
    raise CheckpointError(f"{path} does not fit this config:\n  " + "\n  ".join(lines))
  arguments = ocp.args.PyTreeRestore(
    item=wanted,
    restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
    partial_restore=partial,
  )
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
      return reader.restore(path / "state", args=arguments), meta
  except Exception as error:
    raise CheckpointError(
      f"{path} cannot be read ({_cause(error)}); remove this folder to go on"
      " from the checkpoint before it"
    ) from error


def _cause(error: Exception) -> str:
  """One line of an error that can be pages; --traceback shows all of it."""
  return f"{type(error).__name__}: {objects.brief(error)}"
