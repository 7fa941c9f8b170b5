"""A trace of some updates in the run directory, and the line that opens it (`profile.steps`)."""

import dataclasses
import os
import tempfile
from typing import Any

from etils import epath
import jax

from totojax import train
from totojax.rundir import console
from totojax.storage import objects


def traced(run: train.Run, workdir: epath.Path, *, steps: int) -> train.Run:
  """The same run, with a trace of the first updates after its first one, which compiles.

  Every process writes what its own devices and threads do.

  Args:
    run: what is traced.
    workdir: of the run; traces of one in an object store stay on this machine.
    steps: updates that are traced, fewer where the run ends before.
  """
  return dataclasses.replace(run, step_fn=_Traced(run, workdir, steps))


class _Traced:
  """`Run.step_fn`, with a trace of some of its calls."""

  def __init__(self, run: train.Run, workdir: epath.Path, steps: int):
    self._run, self._left, self._made = run, steps, 0
    self._folder = os.fspath(workdir / "profile")
    if objects.is_url(workdir):
      self._folder = tempfile.mkdtemp(prefix="totojax-profile-")

  def __call__(self, state: Any, batch: Any) -> Any:
    self._made += 1
    if self._made == 1:
      self._left = min(self._left, self._run.steps - int(state.step) - 1)
      if not self._left:
        console.say("profile.steps: the run ends with its first update, and nothing is traced")
    if not 2 <= self._made <= self._left + 1:
      return self._run.step_fn(state, batch)
    if self._made == 2:
      jax.block_until_ready(state)  # what came before is no part of it
      jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
    with jax.profiler.StepTraceAnnotation("update", step_num=self._made):
      result = self._run.step_fn(state, batch)
    if self._made == self._left + 1:
      jax.block_until_ready(result)
      jax.profiler.stop_trace()
      console.say(
        f"{self._left} updates are traced: pip install xprof tensorboard, then  tensorboard"
        f" --logdir={self._folder}  (page Profile); or drop perfetto_trace.json.gz, which is below"
        " that folder, on https://ui.perfetto.dev"
      )
    return result
