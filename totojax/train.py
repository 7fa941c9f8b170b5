"""The training loop: the only one.

The order, and why: a step is dispatched before the metrics of the one before
it are read, so the device never waits for the host; loss and parameters of a
step are known to be finite before it is saved; evaluations of a step come
before its checkpoint, so that a restored run never owes one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import dataclasses
import math
import time
from typing import Any

import jax
import numpy as np

from totojax import checkpoint as checkpoint_lib, rundir, sharding, step as step_lib
from totojax.config import schema
from totojax.config.training import Every
from totojax.rundir import console, directory, lock, metrics, provenance
from totojax.storage import outages

HostBatch = Mapping[str, np.ndarray]
Eval = Callable[[step_lib.TrainState], Iterable[tuple[str, float]]]


# The updates that a fresh run begins after, and what restores the state after
# these: (shapes, shardings) -> as `Checkpoints.restore`.
Branch = tuple[int, Callable[[step_lib.TrainState, step_lib.TrainState], tuple[Any, Any]]]


class NotFinite(rundir.RunError):
  """The loss of a step, or a parameter after it, is NaN or infinite."""


@dataclasses.dataclass(frozen=True)
class Run:
  """What one call of `fit` needs; made by `assembly.run`."""

  init: Callable[[], step_lib.TrainState]  # makes a fresh state, sharded
  # (state, batch) -> (state, metrics); donates the state.
  step_fn: Callable[..., tuple[step_lib.TrainState, step_lib.Metrics]]
  # First step -> iterator of this host's part of each batch.
  batches: Callable[[int], Iterator[HostBatch]]
  layout: sharding.Layout  # where batches are placed
  shapes: step_lib.TrainState  # ShapeDtypeStructs of the state
  shardings: step_lib.TrainState  # of the state
  steps: int  # updates of the whole run
  every: Every  # intervals
  evals: Mapping[str, Eval]  # prefix -> function of the state that yields (name, value)
  checkpoint: checkpoint_lib.CheckpointConfig  # which checkpoints stay
  meta: Mapping[str, Any]  # saved with every checkpoint (JSON)
  config: schema.Dataclass  # typed, for config.json
  data: provenance.Identities  # what is read, which must stay the same
  facts: Mapping[str, Any]  # for manifest.json
  clock: Callable[[], metrics.Clock]  # rate and MFU
  # Evaluations -> lines about them, for the end of the run.
  closing: Callable[[metrics.Evaluations], Iterable[str]] = lambda evals: ()
  branch: Branch | None = None  # of another run, where it begins with its state


def fit(
  run: Run, workdir: Any, *, interrupted: Callable[[int], bool]
) -> tuple[step_lib.TrainState, bool]:
  """Trains to `run.steps`, going on from the newest checkpoint in `workdir`.

  Args:
    run: what to do.
    workdir: an `epath.Path`, new or this run's (`directory.check_config`).
    interrupted: step -> whether to save and leave now; the same on every host.

  Returns:
    The last state, and whether the run is finished (False: interrupted).

  Raises:
    NotFinite: a loss or a parameter is NaN or infinite; names the step. Nothing
      of that step or of a later one is saved.
    provenance.DataChanged: the run was begun with other data.
  """
  with console.watchdog.watched(run.every.watchdog_s):
    return _fit(run, workdir, interrupted)


def _fit(
  run: Run, workdir: Any, interrupted: Callable[[int], bool]
) -> tuple[step_lib.TrainState, bool]:
  # All that the config asks for is built by now; a mistake left no folder.
  directory.begin(
    workdir,
    run.config,
    data=run.data,
    saved=lambda: checkpoint_lib.latest_meta(workdir / "checkpoints"),
    **run.facts,
  )
  checkpoints = checkpoint_lib.Checkpoints(workdir / "checkpoints", run.checkpoint)
  # The order of a start: a checkpoint of this run, else of the run that it
  # branches off, else the parameters of the run that `init_from` names, else
  # fresh. A fresh state is made even to resume: it has what no checkpoint
  # holds, the frozen arrays and the config's own numbers.
  with console.phase("making the parameters"):
    state = jax.block_until_ready(run.init())
  start, restore, how = checkpoints.latest() or 0, checkpoints.restore, "resumed"
  if not start and run.branch is not None:
    (start, restore), how = run.branch, "branched off"
  if start:
    kept = dict(frozen=state.frozen, hyperparams=state.opt_state.hyperparams)
    del state  # two of them need not fit on the devices
    with console.phase(f"restoring the checkpoint of step {start}"):
      state = _restored(run, restore, **kept)
    start = checkpoints.latest() or start  # one that is damaged may have been put aside
    console.say(f"{workdir}: {how} at step {start} of {run.steps}")
  # Rows after the checkpoint are written again, so they are dropped first.
  log = metrics.MetricsLog(workdir, restored_step=start)
  bar = console.Progress("training", unit="steps", total=run.steps, done=start, phases=True)
  try:
    state, finished = _loop(
      run, state, start, log=log, bar=bar, checkpoints=checkpoints, interrupted=interrupted
    )
    log.flush()
    checkpoints.close()
    if finished and jax.process_index() == 0:
      for line in run.closing(log.evaluations):
        console.say(line)
  except Exception as error:
    # A save that has begun is to end: Python would stop its threads, and then
    # wait for them. (Not where storage is away, or the run is another's.)
    if not isinstance(error, rundir.Lost) and not outages.is_away(error):
      with contextlib.suppress(Exception):
        checkpoints.wait()
    raise
  finally:
    bar.close()
    log.close()
  return state, finished


def _restored(
  run: Run,
  restore: Callable[[step_lib.TrainState, step_lib.TrainState], tuple[Any, Any]],
  *,
  frozen: Any,
  hyperparams: Mapping[str, jax.Array],
) -> step_lib.TrainState:
  """A checkpoint's state, with what is the config's and not a checkpoint's.

  The peak rate and the weight decay are in the optimiser's state; a run that
  goes on with a changed config must use the new ones.
  """
  restored, _ = restore(run.shapes, run.shardings)
  opt_state = restored["opt_state"]._replace(hyperparams=hyperparams)
  return step_lib.TrainState(**{**restored, "opt_state": opt_state}, frozen=frozen)


def _loop(
  run: Run,
  state: step_lib.TrainState,
  start: int,
  *,
  log: metrics.MetricsLog,
  bar: console.Progress,
  checkpoints: checkpoint_lib.Checkpoints,
  interrupted: Callable[[int], bool],
) -> tuple[step_lib.TrainState, bool]:
  """Steps `start` + 1 to the end."""
  clock = run.clock()
  best = run.checkpoint.best
  # What compiles the first time that it is done.
  first = {
    "update": console.phase("compiling the update"),
    "evaluation": console.phase("the first evaluation"),
  }

  def due(step, interval):
    return step % interval == 0 or step == run.steps

  def evaluate(step):
    begin = time.monotonic()
    with first.pop("evaluation", contextlib.nullcontext()):
      values = {}
      for name, fn in run.evals.items():
        with console.doing(f"the evaluation {name} of step {step}"):
          for key, value in fn(state):
            values[f"{name}/{key}" if name else key] = float(value)
            console.watchdog.feed()
    seconds = time.monotonic() - begin
    log.write(step, "eval", values, wall={"eval_s": seconds})
    clock.paused(seconds)
    if best and best not in values:
      raise rundir.RunError(
        f"config key checkpoint.best is {best!r}; the evaluations are {', '.join(sorted(values))}"
      )

  def settle(step, metrics):
    """Reads a step's metrics: they must be finite; writes its row."""
    lock.check()
    # One transfer for all of them.
    fetched = jax.device_get(dict(metrics))
    values = {name: float(value) for name, value in fetched.items()}
    # A gradient that is not finite shows in the parameters, not in the loss.
    for name in ("loss", "param_norm"):
      if not math.isfinite(values[name]):
        checkpoints.wait()  # what is still being written is good
        raise NotFinite(
          f"the {name} of step {step} is {values[name]}; nothing after step"
          f" {checkpoints.latest() or 0} was saved. Lower optim.lr, lengthen"
          " optim.warmup_steps, or look at the data of this step"
        )
    clock.stepped()  # here and not at dispatch: now it is done
    note = f"loss {values['loss']:.4f}"
    if due(step, run.every.log_steps):
      wall = clock.read()
      log.write(step, "train", values, wall=wall)
      note += _figures(wall)
      settle.figures = _figures(wall)
    else:
      note += settle.figures
    bar.advance(note=note)

  settle.figures = ""

  # Before the first update there is nothing to lose, and nothing to save.
  def leaves_now():
    if leave := start < run.steps and interrupted(start):
      console.say(f"stopped before update {start + 1} of {run.steps}")
    return leave

  if leaves_now():
    return state, False
  # Of step 0, or owed by a run that was asked to stop at this step.
  if run.evals and due(start, run.every.eval_steps) and not log.has_eval(start):
    evaluate(start)
  if best:  # saved before it was evaluated, or before it could be marked
    checkpoints.mark_best(log.lowest(best))
  if start >= run.steps:
    return state, True
  if leaves_now():
    return state, False

  with console.phase("reading the first batch"):
    source = iter(run.batches(start))
    batch = run.layout.place(next(source))
  unread = None  # (step, metrics) whose loss has not been looked at
  for step in range(start + 1, run.steps + 1):
    begin = time.monotonic()
    # The first call traces and compiles; what it dispatches is not waited for.
    with first.pop("update", contextlib.nullcontext()):
      state, metrics = run.step_fn(state, batch)
    if step == start + 1:
      clock.paused(time.monotonic() - begin)
    if step < run.steps:  # read while the device computes
      begin = time.monotonic()
      batch = run.layout.place(next(source))
      clock.waited(time.monotonic() - begin)
    if unread is not None:
      settle(*unread)
    unread = (step, metrics)

    leave = interrupted(step)
    save = leave or due(step, run.every.checkpoint_steps)
    eval_now = run.evals and due(step, run.every.eval_steps) and not leave
    # What is kept or evaluated must be finite, so here the host waits.
    if save or eval_now or step == run.steps:
      settle(*unread)
      unread = None
    if eval_now:
      evaluate(step)
    # The best is saved whatever is due: it may be none of the others.
    is_best = bool(eval_now and best and log.lowest(best) == step)
    if save or is_best:
      begin = time.monotonic()
      lock.confirm()  # another run's checkpoints are not to be touched
      log.flush()  # nor is one to count whose rows could still be lost
      meta = {"step": step, provenance.DATA: run.data, **run.meta}
      checkpoints.save(step, state, meta, best=is_best)
      clock.paused(time.monotonic() - begin)
    if leave:
      checkpoints.wait()
      console.say(f"stopped at step {step} of {run.steps}")
      # At the last step too: the next call makes the evaluations it owes.
      return state, False
  return state, True


def _figures(wall: Mapping[str, float]) -> str:
  text = f", {wall['tokens_per_s']:.4g} tokens/s"
  if "mfu" in wall:
    text += f", MFU {wall['mfu']:.1%}"
  return text + f", data {wall['data_frac']:.1%}"
