"""Checkpoints: asynchronous, sharded, whole or not there at all (orbax).

A step counts when the file is there that orbax writes last. It is the first to
go when a step is deleted, so half of one is never taken for whole. What is
restored is compared first with what is expected, name by name, because orbax
casts another dtype in silence.

Orbax's `CheckpointManager` is not used: on gs:// it asks for the bucket's
metadata, which those who may write objects need not be allowed to read, and it
deletes the files of a step in any order.
"""

from collections.abc import Callable, Iterator
import concurrent.futures
import contextlib
import json
import os
import threading
import time
from typing import Any, NoReturn

from etils import epath
import jax
import orbax.checkpoint as ocp
from orbax.checkpoint._src.multihost import multihost
from orbax.checkpoint._src.serialization import tensorstore_utils
import tensorstore as ts

from totojax import rundir, step as step_lib, tree as tree_lib
from totojax.config.training import CheckpointConfig
from totojax.rundir import console, files, hosts, lock
from totojax.storage import objects, outages

# Locally a step's folder gets its number when all is in it, and the older ones
# have the second alone; in an object store there is no such renaming.
_MARKS = ocp.path.atomicity.COMMIT_SUCCESS_FILE, "_CHECKPOINT_METADATA"
_READS = 5  # of steps that a run which goes on deletes meanwhile
_SAVE_S = 1200  # that orbax gives a save, besides what storage may be away


class CheckpointError(rundir.RunError):
  """A checkpoint that cannot be written, read, or used; names the path."""


class Checkpoints:
  """The checkpoints of one run directory, for the run that writes it."""

  def __init__(self, directory: epath.PathLike, config: CheckpointConfig):
    self.directory = _absolute(directory)
    self._keep, self._every = config.keep, config.keep_every_steps
    # One process does it and all wait, or another may still see a half step.
    hosts.first(lambda: _set_aside(self.directory))
    self._steps = whole_steps(self.directory)
    # The device computes on while the host writes; `wait` says so.
    self._writer = ocp.AsyncCheckpointer(
      ocp.CompositeCheckpointHandler(),
      async_options=ocp.options.AsyncOptions(
        timeout_secs=_be_patient(),
        # Before the mark: where another process has taken the run over by now,
        # the step may be half of its own.
        post_finalization_callback=lock.confirm,
      ),
    )
    self._background = concurrent.futures.ThreadPoolExecutor(2, "checkpoint")
    self._saving: concurrent.futures.Future[None] | None = None
    self._deleting: concurrent.futures.Future[None] | None = None
    self._awaited = self._told = False

  def latest(self) -> int | None:
    """The newest step that is whole, or None."""
    return max(self._steps, default=None)

  def save(self, step: int, state: step_lib.TrainState, meta: dict[str, Any]) -> None:
    """Starts writing `state` in the background; frozen arrays are left out.

    Raises:
      CheckpointError: the disk is full, say, now or in the save before.
      outages.StorageAway: of the save before.
    """
    self.wait()
    if self._steps and step <= self._steps[-1]:
      raise CheckpointError(
        f"{self.directory}: step {step} was not saved, because a checkpoint of it or of a later"
        f" step ({self._steps}) is there; use another --workdir or remove it"
      )
    try:
      self._writer.save(
        self.directory / str(step),
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(_written(state)), meta=ocp.args.JsonSave(meta)
        ),
      )
    except Exception as error:
      self._fail(step, error)
    self._saving = self._background.submit(self._finish, step)

  def wait(self) -> None:
    """Returns when everything is on disk; raises as `save` does if not."""
    saving, self._saving = self._saving, None
    self._awaited = True
    try:
      if saving is not None:
        saving.result()
    finally:
      self._awaited = False

  def restore(
    self, shapes: step_lib.TrainState, shardings: step_lib.TrainState
  ) -> tuple[dict[str, Any], dict[str, Any]]:
    """The newest whole state, placed as `shardings`, and its meta data.

    The parts of a `TrainState` by name, without its frozen arrays, which the
    caller puts back.
    """
    # Placed as it is read: no host ever has the whole of a sharded array, and
    # the mesh may be another than the one that saved.
    *older, step = self._steps
    expected = jax.tree.map(
      lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
      _written(shapes),
      _written(shardings),
    )
    # Nobody else writes here: what is wrong with it stays wrong.
    where = f"to go on from step {older[-1]}, which is whole" if older else "to begin again"
    return _read(
      self.directory / str(step), expected, partial=False, advice=f"remove this folder {where}"
    )

  def close(self) -> None:
    """Waits for what is being written or deleted, then lets go of the folder."""
    self.wait()
    self._background.shutdown()
    self._writer.close()

  def _finish(self, step: int) -> None:
    """In the background: waits for the files of `step`, then has old steps deleted."""
    try:
      with _waiting(self.directory / str(step), "written", lambda: self._awaited):
        self._writer.wait_until_finished()
    except rundir.RunError:  # of the lease, which is lost
      raise
    except Exception as error:
      self._fail(step, error)
    self._steps.append(step)
    # The next save need not wait for that.
    if self._deleting is None or self._deleting.done():
      self._deleting = self._background.submit(self._delete_old)

  def _delete_old(self) -> None:
    for step in self._steps[: -self._keep]:
      if self._every and step % self._every == 0:
        continue
      try:
        if jax.process_index() == 0:
          lock.confirm()
          _delete(self.directory / str(step))
        self._steps.remove(step)
      except (OSError, ValueError, outages.StorageAway) as error:
        # No reason to end a run; it is tried again after the next save.
        if not self._told:
          console.say(
            f"{self.directory / str(step)} is older than checkpoint.keep wants, and stays"
            f" ({outages.brief(error)})"
          )
        self._told = True

  def _fail(self, step: int, error: Exception) -> NoReturn:
    """Says why a step could not be written; where a peer is gone, that it is."""
    for cause in outages.causes(error):
      if isinstance(cause, jax.errors.JaxRuntimeError) and hosts.is_loss(cause):
        raise jax.errors.JaxRuntimeError(str(cause)) from None
    raise self._unwritable(step, error) from error

  def _unwritable(self, step: int, error: Exception) -> Exception:
    if line := _refused(self.directory, "written", error):
      return CheckpointError(f"{line}; the last whole checkpoint stays")
    if outages.is_away(error):
      return _away(self.directory / str(step), "written", error)
    return CheckpointError(
      f"{self.directory}: the checkpoint of step {step} could not be written"
      f" ({outages.brief(error)}); the last whole one stays. Free the disk or"
      " mend the path, then run the same command again"
    )


def latest_step(directory: epath.PathLike) -> int | None:
  """The newest whole step under `directory`; half-written ones do not count."""
  return max(whole_steps(directory), default=None)


def whole_steps(directory: epath.PathLike) -> list[int]:
  """The steps under `directory` that can be restored, in order."""
  return [step for step, whole in _whole_by_step(directory).items() if whole]


def _whole_by_step(directory: epath.PathLike) -> dict[int, bool]:
  """step -> whether it is whole, as it is now, for all that have a folder."""
  if objects.is_url(directory):
    names = [name.split("/") for name in objects.keys(directory)]
    steps = {int(step): False for step, *_ in names if step.isdecimal()}
    whole = {int(step): True for step, *rest in names if rest == [_MARKS[0]]}
    return dict(sorted({**steps, **whole}.items()))
  folders = [path for path in files.children(directory) if path.name.isdecimal()]
  steps = {int(path.name): (path / _MARKS[1]).exists() for path in folders}
  return dict(sorted(steps.items()))


def _absolute(directory: epath.PathLike) -> epath.Path:
  """Orbax takes no other: it says so, but only after the first save."""
  name = os.fspath(directory)
  if not objects.is_url(name):
    return epath.Path(os.path.abspath(name))
  from totojax.storage import paths  # noqa: F401  orbax reads and writes so from here on

  return epath.Path(name)


def _set_aside(directory: epath.Path) -> None:
  """Clears away step folders that are not whole, which orbax would stumble over.

  Local ones are renamed. Those of an object store, which cannot rename, are
  deleted: nothing can be restored from what was written of them, and to copy it
  would take as long as to write it, and be paid for, for ever.
  """
  for step, whole in _whole_by_step(directory).items():
    path = directory / str(step)
    # A listing that was cut short is no reason to delete a step.
    if whole or (objects.is_url(path) and files.exists(path / _MARKS[0])):
      continue
    if objects.is_url(path):
      console.say(f"{path}: was never written to its end, and is deleted")
      files.remove(path)
    else:
      path.rename(directory / f"{path.name}.incomplete-{time.time_ns()}")


def _delete(path: epath.Path) -> None:
  """Deletes a step, its marks before all else."""
  for mark in _MARKS:
    files.remove(path / mark)
  files.remove(path)


def _be_patient() -> int:
  """Has orbax wait for storage as long as all else does.

  It gives TensorStore a context of its own, and hosts that wait for the first
  one five minutes, with no way to ask for other ones.

  Returns:
    Seconds that a save may take in all.
  """
  tries, left_s, pause_s = 1, outages.patience_s(), 0.5
  while left_s > 0:
    tries, left_s, pause_s = tries + 1, left_s - pause_s, min(2 * pause_s, 16)
  retries = {"max_retries": tries, "initial_delay": "500ms", "max_delay": "16s"}
  for name in ("_BASE_TS_CONTEXT", "_DEFAULT_OCDBT_TS_CONTEXT"):
    getattr(tensorstore_utils, name, {})["gcs_request_retries"] = retries
  seconds = _SAVE_S + int(outages.patience_s())
  multihost._DEFAULT_BARRIER_TIMEOUT = seconds
  return seconds


@contextlib.contextmanager
def _waiting(
  path: epath.Path, verb: str, awaited: Callable[[], bool] = lambda: True
) -> Iterator[None]:
  """While the block runs, says now and then what takes so long, if anybody waits.

  Args:
    path: what is read or written.
    verb: which of the two, "read" or "written".
    awaited: whether the run stands still meanwhile.
  """
  over, before = threading.Event(), _tries_again()
  patience = outages.Patience(os.fspath(path), outages.patience_s())

  def watch():
    while not over.wait(patience.until_line_s()):
      if again := _tries_again() - before:
        patience.remind(f"{again} requests had no answer, and are made again")
      elif awaited():
        patience.remind(f"it is still being {verb}")

  watcher = threading.Thread(target=watch, daemon=True)
  watcher.start()
  try:
    yield
  finally:
    over.set()
    watcher.join()
  if _tries_again() > before:
    patience.over()


def _tries_again() -> int:
  """How many requests TensorStore has made again in this process."""
  counters = ts.experimental_collect_matching_metrics("/tensorstore/kvstore/gcs/retries")
  return sum(value["value"] for metric in counters for value in metric["values"])


def _away(path: epath.Path, verb: str, error: BaseException) -> outages.StorageAway:
  *_, error = outages.causes(error)  # what orbax says of it tells nothing
  return outages.StorageAway(
    f"{path} could not be {verb}: storage did not answer ({outages.brief(error)}); the"
    " last whole checkpoint stays. Run the same command again once it does"
    " (--storage_timeout_s says how long a run waits)"
  )


def read_params(
  directory: epath.PathLike, shapes: Any, shardings: Any
) -> tuple[Any, dict[str, Any]]:
  """(params, meta) of the newest checkpoint of a run, without its moments.

  Raises:
    CheckpointError: there is none, it is damaged, or it does not fit.
  """
  directory = _absolute(directory)
  _be_patient()
  expected = jax.tree.map(
    lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
    shapes,
    shardings,
  )
  for _ in range(_READS):
    step = latest_step(directory)
    if step is None:
      raise CheckpointError(f"{directory}: no whole checkpoint; train first, or name the right run")
    try:
      # The run may go on, so nothing is said of removing anything.
      advice = "restore it from a copy, or wait until the run has saved another"
      tree, meta = _read(directory / str(step), {"params": expected}, partial=True, advice=advice)
      return tree["params"], meta
    except CheckpointError:
      if step in whole_steps(directory):
        raise
  raise CheckpointError(
    f"{directory}: its run deletes each checkpoint before it can be read; keep more of them"
    " (checkpoint.keep), or wait until it has ended"
  )


def _written(state: step_lib.TrainState) -> dict[str, Any]:
  """What goes to disk, as a plain dict: all but the frozen arrays."""
  # Those are another file's or run's, which the config names.
  return {
    "step": state.step,
    "params": state.params,
    "stats": state.stats,
    "opt_state": state.opt_state,
  }


def _read(path: epath.Path, expected: Any, *, partial: bool, advice: str) -> tuple[Any, Any]:
  """Restores `wanted` and the meta data of one step's folder."""
  with _waiting(path, "read"):
    try:
      return _read_now(path, expected, partial=partial, advice=advice)
    except CheckpointError as error:
      if error.__cause__ is not None and outages.is_away(error.__cause__):
        raise _away(path, "read", error.__cause__) from error
      raise


def _read_now(path: epath.Path, expected: Any, *, partial: bool, advice: str) -> tuple[Any, Any]:
  try:
    meta = json.loads(files.read_bytes(path / "meta" / "metadata"))
    with ocp.PyTreeCheckpointer() as reader:
      listed = reader.metadata(path / "state").item_metadata
    if listed is None:
      raise ValueError("the list of its arrays cannot be read")
    stored = listed.tree
  except Exception as error:
    if line := _refused(path, "read", error):
      raise CheckpointError(line) from error
    raise CheckpointError(f"{path} is damaged ({_cause(error)}); {advice}") from error
  # Compared before anything is read: a config that does not fit is told by the
  # names and shapes of its leaves, and costs no restore.
  flat_stored = dict(tree_lib.named_leaves(stored))
  flat_expected = dict(tree_lib.named_leaves(expected))
  if partial:  # parameters without moments: whatever else is there may be
    flat_stored = {k: v for k, v in flat_stored.items() if k in flat_expected}
  lines = tree_lib.differences(flat_stored, flat_expected)
  if lines:
    raise CheckpointError(f"{path} does not fit this config:\n  " + "\n  ".join(lines))
  arguments = ocp.args.PyTreeRestore(
    item=expected,
    restore_args=ocp.checkpoint_utils.construct_restore_args(expected),
    partial_restore=partial,
  )
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
      return reader.restore(path / "state", args=arguments), meta
  except Exception as error:
    if line := _refused(path, "read", error):
      raise CheckpointError(line) from error
    raise CheckpointError(f"{path} cannot be read ({_cause(error)}); {advice}") from error


def _refused(path: epath.Path, action: str, error: BaseException) -> str | None:
  """The line of a right that is lacking in a bucket; None of any other error."""
  if objects.is_url(path):
    for cause in outages.causes(error):
      if outages.status(cause) == 403 and (words := objects.refusal(path, action, cause)):
        return f"{path} {words}"
  return None


def _cause(error: BaseException) -> str:
  """One line of an error that can be pages; --traceback shows all of it."""
  return f"{type(error).__name__}: {outages.brief(error)}"
