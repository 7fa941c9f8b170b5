"""Checkpoints: asynchronous, sharded, whole or not there at all (orbax).

A step counts when the file is there that orbax writes last. It is the first to
go when a step is deleted, so half of one is never taken for whole. What is
restored is compared first with what is expected, name by name, because orbax
casts another dtype in silence. A damaged byte is told: TensorStore checks the
checksum of each chunk of an array that it reads, and of its own lists, and the
meta data have a digest.

Orbax's `CheckpointManager` is not used: on gs:// it asks for the bucket's
metadata, which those who may write objects need not be allowed to read, and it
deletes the files of a step in any order.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
import concurrent.futures
import contextlib
import functools
import hashlib
import json
import os
import threading
import time
import types
from typing import Any

from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint._src import asyncio_utils
from orbax.checkpoint._src.checkpointers import async_checkpointer
from orbax.checkpoint._src.futures import future, signaling_client
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
_SEAL = "meta", "sha256"  # keys of what is written of the meta data
_BEST = "best.json"  # names the step of `CheckpointConfig.best`, of those that are whole
_OTHERS_S = 60.0  # that other reads or writes may take once one has failed
_SAVE_S = 1200  # that orbax gives a save, besides what storage may be away


class CheckpointError(rundir.RunError):
  """A checkpoint that cannot be written, read, or used; names the path."""


class Damaged(rundir.Damaged, CheckpointError):
  """A checkpoint of which not every byte is as it was written."""


class Checkpoints:
  """The checkpoints of one run directory, for the run that writes it."""

  def __init__(
    self, directory: epath.PathLike, config: CheckpointConfig, *, checksums: bool = True
  ):
    self.directory = absolute(directory)
    self._keep, self._every = config.keep, config.keep_every_steps
    self._skips = config.skip_damaged
    # One process does it and all wait, or another may still see a half step.
    hosts.first(lambda: _set_aside(self.directory))
    self._steps = whole_steps(self.directory)
    self._keeps_best, self._best = bool(config.best), None
    if config.best:
      self._best = _best_step(self.directory, self._steps)
    elif self._steps:  # of a config that was changed: readers would still take it
      note = self.directory / _BEST
      hosts.first(lambda: files.remove(note) if files.exists(note) else None)
    # The device computes on while the host writes; `wait` says so.
    self._writer = ocp.AsyncCheckpointer(
      _handler(checksums),
      async_options=ocp.options.AsyncOptions(
        timeout_secs=be_patient(),
        # Before the mark: where another process has taken the run over by now,
        # the step may be half of its own.
        post_finalization_callback=lambda: lock.confirm(self.directory),
      ),
    )
    self._background = concurrent.futures.ThreadPoolExecutor(2, "checkpoint")
    self._saving: concurrent.futures.Future[None] | None = None
    self._deleting: concurrent.futures.Future[None] | None = None
    self._awaited = self._told = False

  def latest(self) -> int | None:
    """The newest step that is whole, or None."""
    return max(self._steps, default=None)

  def save(
    self, step: int, state: step_lib.TrainState, meta: dict[str, Any], *, best: bool = False
  ) -> None:
    """Starts writing `state` in the background; frozen arrays are left out.

    Args:
      step: updates made.
      state: after them.
      meta: saved with it (JSON).
      best: whether it is the best so far: it stays until there is a better one.

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
    arrays = written(state)
    try:
      with console.doing(f"writing the checkpoint of step {step}"):
        self._writer.save(
          self.directory / str(step),
          args=ocp.args.Composite(
            state=ocp.args.PyTreeSave(arrays), meta=ocp.args.JsonSave(sealed(meta, listed(arrays)))
          ),
        )
    except Exception as error:
      raise self._unwritable(step, error) from error
    self._saving = self._background.submit(self._finish, step, best)

  def mark_best(self, step: int | None) -> None:
    """Says that a step is the best so far, if it is whole; readers then take it."""
    if step not in self._steps or step == self._best:
      return
    if jax.process_index() == 0:
      lock.confirm()
      files.write_json(self.directory / _BEST, {"step": step})
    self._best = step

  def wait(self) -> None:
    """Returns when everything is on disk; raises as `save` does if not."""
    saving, self._saving = self._saving, None
    if saving is None:
      return
    self._awaited = True
    try:
      with console.doing("waiting for the last checkpoint to be written"):
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
    from totojax.checkpoint import restoring  # only now: a new run needs none of it

    while True:
      *older, step = self._steps
      # Nobody else writes here: what is wrong with it stays wrong.
      advice = "remove this folder to begin again"
      if older:
        advice = (
          f"remove this folder to go on from step {older[-1]}, which is whole"
          f" ({step - older[-1]} updates are made again)"
        )
        if not objects.is_url(self.directory):
          advice += ", or set checkpoint.skip_damaged"
      path = self.directory / str(step)
      try:
        return restoring.read_state(path, shapes, shardings, advice=advice)
      except Damaged as error:
        # An object store cannot rename, and nothing is deleted.
        if not (self._skips and older) or objects.is_url(path):
          raise
        console.say(f"{error}; checkpoint.skip_damaged is set, so it is put aside")
        aside = path.with_name(f"{step}.damaged-{time.time_ns()}")
        hosts.first(functools.partial(path.rename, aside))
        self._steps = older

  def close(self) -> None:
    """Waits for what is being written or deleted, then lets go of the folder."""
    self.wait()
    if self._keeps_best:  # the first host alone writes which: all see it before they read
      hosts.first(lambda: None)
    self._background.shutdown()
    self._writer.close()

  def _finish(self, step: int, best: bool) -> None:
    """In the background: waits for the files of `step`, then has old steps deleted."""
    try:
      with waiting(self.directory / str(step), "written", lambda: self._awaited):
        self._writer.wait_until_finished()
    except rundir.RunError:  # of the lease, which is lost
      raise
    except Exception as error:
      raise self._unwritable(step, error) from error
    self._steps.append(step)
    if best:  # only now: until then the one before must stay
      try:
        self.mark_best(step)
      except OSError as error:
        raise self._unwritable(step, error) from error
    # The next save need not wait for that.
    if self._deleting is None or self._deleting.done():
      self._deleting = self._background.submit(self._delete_old)

  def _delete_old(self) -> None:
    for step in self._steps[: -self._keep]:
      if step == self._best or (self._every and step % self._every == 0):
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

  def _unwritable(self, step: int, error: Exception) -> Exception:
    if line := refused(self.directory, "written", error):
      return CheckpointError(f"{line}; the last whole checkpoint stays")
    if outages.is_away(error):
      return away(self.directory / str(step), "written", error)
    return CheckpointError(
      f"{self.directory}: the checkpoint of step {step} could not be written"
      f" ({outages.brief(error)}); the last whole one stays. Free the disk or"
      " mend the path, then run the same command again"
    )


def latest_step(directory: epath.PathLike) -> int | None:
  """The newest whole step under `directory`; half-written ones do not count."""
  return max(whole_steps(directory), default=None)


def latest_meta(directory: epath.PathLike) -> dict[str, Any]:
  """What is saved beside the arrays of the newest whole step; {} without one."""
  step = latest_step(directory)
  if step is None:
    return {}
  try:
    return read_meta(absolute(directory) / str(step))[0]
  except (OSError, ValueError):  # told by `restore`
    return {}


def chosen_step(directory: epath.PathLike) -> int | None:
  """The whole step that readers take: the best, where the run keeps one, or the newest."""
  steps = whole_steps(directory)
  return _best_step(epath.Path(directory), steps) or max(steps, default=None)


def _best_step(directory: epath.Path, steps: Sequence[int]) -> int | None:
  """The step that is noted as the best, if it is one of `steps`."""
  path = directory / _BEST
  if not steps or not files.exists(path):
    return None
  step = files.read_json(path).get("step")
  if type(step) is not int:
    raise files.Damaged(path, "it names no step", "; remove it, and the newest checkpoint is used")
  return step if step in steps else None


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


def absolute(directory: epath.PathLike) -> epath.Path:
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


def be_patient() -> int:
  """Has orbax wait for storage as long as all else does.

  It gives TensorStore a context of its own, and hosts that wait for the first
  one five minutes, with no way to ask for other ones. A clock that is set
  forwards does not shorten any of it.

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
  # Its deadlines go by the time of the day, which may be set meanwhile.
  steady = types.SimpleNamespace(**{**vars(time), "time": time.monotonic})
  for module in (async_checkpointer, future, signaling_client):
    module.time = steady  # pyright: ignore[reportAttributeAccessIssue]
  return seconds


@contextlib.contextmanager
def waiting(
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


def away(path: epath.Path, verb: str, error: BaseException) -> outages.StorageAway:
  *_, error = outages.causes(error)  # what orbax says of it tells nothing
  return outages.StorageAway(
    f"{path} could not be {verb}: storage did not answer ({outages.brief(error)}); the"
    " last whole checkpoint stays. Run the same command again once it does"
    " (--storage_timeout_s says how long a run waits)"
  )


async def _with_others(work: Coroutine[Any, Any, Any]) -> Any:
  """Awaits what orbax does, and where it fails, all else that it has begun.

  It closes its event loop at the first error; what TensorStore answers from
  then on would be a traceback each, below the line that tells of the error.
  """
  try:
    return await work
  except Exception:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    with contextlib.suppress(TimeoutError):
      await asyncio.wait_for(asyncio.gather(*others, return_exceptions=True), _OTHERS_S)
    raise


_run_sync = asyncio_utils.run_sync
asyncio_utils.run_sync = lambda work: _run_sync(_with_others(work))


def _handler(checksums: bool) -> ocp.CompositeCheckpointHandler:
  """Writes arrays so that each chunk has a checksum, which its readers compare.

  Orbax has no option for it, and asks this function what to write of an array.
  Without checksums (what they cost is measured so) all is left to orbax.
  """

  def metadata(global_shape, chunk_shape, use_compression):
    # (A crc32c around what is compressed would be a copy more, both ways.)
    checked = {"name": "zstd", "configuration": {"level": 1, "checksum": True}}
    codecs = [
      {"name": "bytes", "configuration": {"endian": "little"}},
      checked if use_compression else {"name": "crc32c"},
    ]
    grid = {"name": "regular", "configuration": {"chunk_shape": chunk_shape}}
    return {"shape": global_shape, "chunk_grid": grid, "codecs": codecs}

  tensorstore_utils._build_zarr3_metadata = metadata
  return ocp.CompositeCheckpointHandler(
    state=ocp.PyTreeCheckpointHandler(use_zarr3=checksums), meta=ocp.JsonCheckpointHandler()
  )


def listed(tree: Any) -> str:
  """A digest of which arrays there are: names, shapes and dtypes."""
  rows = [(name, [*x.shape], np.dtype(x.dtype).name) for name, x in tree_lib.named_leaves(tree)]
  return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()


def sealed(meta: Mapping[str, Any], arrays: str) -> dict[str, str]:
  """Meta data as text and the digest of the list of arrays, with a digest of both."""
  text = json.dumps(meta, sort_keys=True)
  digest = hashlib.sha256((text + arrays).encode()).hexdigest()
  return {_SEAL[0]: text, _SEAL[1]: digest} | ({"arrays": arrays} if arrays else {})


def read_meta(path: epath.Path) -> tuple[dict[str, Any], str]:
  """The meta data of a step's folder, and `listed` of its arrays or "" in older ones.

  Raises:
    ValueError: they are damaged.
  """
  meta = json.loads(files.read_bytes(path / "meta" / "metadata"))
  if not set(_SEAL) & set(meta):  # of an older run
    return dict(meta), ""
  plain, arrays = json.loads(meta.get(_SEAL[0], "null")), str(meta.get("arrays", ""))
  if sealed(plain, arrays) != meta:
    raise ValueError("its meta data are not what was written")
  return plain, arrays


def written(state: step_lib.TrainState) -> dict[str, Any]:
  """What goes to disk, as a plain dict: all but the frozen arrays."""
  # Those are another file's or run's, which the config names.
  return {
    "step": state.step,
    "params": state.params,
    "stats": state.stats,
    "opt_state": state.opt_state,
  }


def refused(path: epath.Path, action: str, error: BaseException) -> str | None:
  """The line of a right that is lacking in a bucket; None of any other error."""
  if objects.is_url(path):
    from totojax.storage import buckets

    for cause in outages.causes(error):
      if outages.status(cause) == 403 and (words := buckets.refusal(path, action, cause)):
        return f"{path} {words}"
  return None


def cause(error: BaseException) -> str:
  """One line of an error that can be pages; --traceback shows all of it."""
  return f"{type(error).__name__}: {outages.brief(error)}"
