"""Reads checkpoints: what is stored is compared with what is expected, and damage is told.

Of a run, only one that goes on or starts from another needs it.
"""

from typing import Any

from etils import epath
import jax
from jax.experimental import multihost_utils
import numpy as np
import orbax.checkpoint as ocp

from totojax import checkpoint, tree as tree_lib
from totojax.checkpoint import CheckpointError, Damaged
from totojax.storage import outages

_READS = 5  # of steps that a run which goes on deletes meanwhile


def read_params(
  directory: epath.PathLike, shapes: Any, shardings: Any
) -> tuple[Any, dict[str, Any]]:
  """(params, meta) of the `chosen_step` of a run, without its moments.

  Raises:
    CheckpointError: there is none, it is damaged, or it does not fit.
  """
  directory = checkpoint.absolute(directory)
  checkpoint.be_patient()
  expected = jax.tree.map(
    lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
    shapes,
    shardings,
  )
  for _ in range(_READS):
    step = checkpoint.chosen_step(directory)
    if step is None:
      raise CheckpointError(f"{directory}: no whole checkpoint; train first, or name the right run")
    try:
      # The run may go on, so nothing is said of removing anything.
      advice = "restore it from a copy, or wait until the run has saved another"
      tree, meta = read(directory / str(step), {"params": expected}, partial=True, advice=advice)
      return tree["params"], meta
    except CheckpointError:
      if step in checkpoint.whole_steps(directory):
        raise
  raise CheckpointError(
    f"{directory}: its run deletes each checkpoint before it can be read; keep more of them"
    " (checkpoint.keep), or wait until it has ended"
  )


def read_state(path: epath.Path, shapes: Any, shardings: Any, *, advice: str) -> tuple[Any, Any]:
  """As `read`, all of a `TrainState` but its frozen arrays, by name.

  Args:
    path: of the step.
    shapes: of the state.
    shardings: of the state.
    advice: what to do about a damaged one.
  """
  # Placed as it is read: no host ever has the whole of a sharded array, and
  # the mesh may be another than the one that saved.
  expected = jax.tree.map(
    lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
    checkpoint.written(shapes),
    checkpoint.written(shardings),
  )
  return read(path, expected, partial=False, advice=advice)


def read(path: epath.Path, expected: Any, *, partial: bool, advice: str) -> tuple[Any, Any]:
  """The arrays and the meta data of one step's folder; all hosts call it.

  Args:
    path: of the step.
    expected: shapes, dtypes and shardings.
    partial: whether more than these may be there.
    advice: what to do about a damaged one.

  Raises:
    Damaged: on all hosts, where what one of them reads is not what was written.
    CheckpointError: it does not fit, or cannot be read for another reason.
    outages.StorageAway: its storage does not answer.
  """
  value = error = None
  with checkpoint.waiting(path, "read"):
    try:
      value = _read_now(path, expected, partial=partial, advice=advice)
    except CheckpointError as caught:
      error = caught
      if error.__cause__ is not None and outages.is_away(error.__cause__):
        error = checkpoint.away(path, "read", error.__cause__)
    if jax.process_count() > 1:
      error = _agreed(path, error, advice)
  if error is not None:
    try:
      raise error
    finally:  # its frames, which it would hold, hold what TensorStore opened
      del error
  assert value is not None
  return value


def _agreed(path: epath.Path, error: Exception | None, advice: str) -> Exception | None:
  """What this host is to raise, once all have said how their part is."""
  kinds = [type(None), Damaged, outages.StorageAway, CheckpointError]
  own = next(number for number, kind in enumerate(kinds) if isinstance(error, kind))
  all_P = np.asarray(multihost_utils.process_allgather(np.int32(own))).reshape(-1)
  if error is not None or not all_P.any():
    return error
  other = int(np.flatnonzero(all_P)[0])
  return kinds[all_P[other]](f"{path} cannot be read by process {other}, see there; {advice}")


def _read_now(path: epath.Path, expected: Any, *, partial: bool, advice: str) -> tuple[Any, Any]:
  try:
    meta, arrays = checkpoint.read_meta(path)
    with ocp.PyTreeCheckpointer() as reader:
      listed = reader.metadata(path / "state").item_metadata
    if listed is None:
      raise ValueError("the list of its arrays cannot be read")
    stored = listed.tree
    if arrays and checkpoint.listed(stored) != arrays:
      raise ValueError("the list of its arrays is not what was written")
  except Exception as error:
    if line := checkpoint.refused(path, "read", error):
      raise CheckpointError(line) from error
    raise Damaged(f"{path} is damaged ({checkpoint.cause(error)}); {advice}") from error
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
    with ocp.Checkpointer(
      ocp.PyTreeCheckpointHandler(), multiprocessing_options=_alone()
    ) as reader:
      return reader.restore(path / "state", args=arguments), meta
  except Exception as error:
    if line := checkpoint.refused(path, "read", error):
      raise CheckpointError(line) from error
    raise Damaged(f"{path} cannot be read ({checkpoint.cause(error)}); {advice}") from error


def _alone() -> ocp.options.MultiprocessingOptions:
  """Has orbax wait for no other host: `_agreed` does, whether or not all could read."""
  if jax.process_count() == 1:
    return ocp.options.MultiprocessingOptions()
  here = jax.process_index()
  return ocp.options.MultiprocessingOptions(
    primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"reader{here}"
  )
