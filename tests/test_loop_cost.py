"""What the loop itself costs: nothing that the device waits for."""

import collections
import contextlib
import dataclasses
import gc
import os
import resource
import sys

from etils import epath
import jax
import numpy as np
import pytest
import test_train

from totojax import sharding, train

NEVER = lambda step: False


def never_due(run, steps):
  """A run of many steps that neither logs, evaluates nor saves on the way."""
  far = train.Every(log_steps=10**9, eval_steps=10**9, checkpoint_steps=10**9)
  return dataclasses.replace(run, steps=steps, every=far, evals={})


class Metric:
  """A number that notes when it is read."""

  def __init__(self, step, events):
    self._step, self._events = step, events

  def __array__(self, *args, **kwargs):
    self._events.append(("read", self._step))
    return np.float32(1.0)


def test_a_step_is_dispatched_before_the_metrics_of_the_last_are_read(tmp_path):
  events, count = [], iter(range(1, 100))
  real = test_train.make()

  def step_fn(state, batch):
    step = next(count)
    events.append(("dispatch", step))
    one = Metric(step, events)
    return state, {"loss": one, "param_norm": np.float32(1.0)}

  def batches(start):
    while True:
      yield {"x": np.zeros((8, 3), np.float32)}

  run = never_due(real, steps=6)
  run = dataclasses.replace(run, step_fn=step_fn, batches=batches)
  train.fit(run, epath.Path(tmp_path), interrupted=NEVER)
  for step in range(1, 6):
    assert events.index(("dispatch", step + 1)) < events.index(("read", step))
  # And no later than that: a loss that is not finite stops at the next step.
  for step in range(1, 5):
    assert events.index(("read", step)) < events.index(("dispatch", step + 2))


def test_nothing_moves_between_host_and_device_unasked(tmp_path, monkeypatch):
  moved = []

  def guarded(function):
    def call(*args, **more):
      moved.append(function)
      with jax.transfer_guard("disallow"):
        return function(*args, **more)

    return call

  run = test_train.make()
  run = dataclasses.replace(run, step_fn=guarded(run.step_fn))
  place = guarded(sharding.Layout.place)
  monkeypatch.setattr(sharding.Layout, "place", place)
  monkeypatch.setattr(jax, "device_get", guarded(jax.device_get))
  _, finished = test_train.fit(run, tmp_path)
  assert finished and len(moved) >= 3 * test_train.STEPS
  # The control: the guard sees a batch that is handed over as numpy.
  state = run.init()
  batch = next(iter(run.batches(0)))
  with pytest.raises(Exception, match="Disallowed host-to-device"):
    run.step_fn(state, batch)


@contextlib.contextmanager
def compilations():
  """The names of what is compiled meanwhile."""
  found = []

  def listen(event, duration, **more):
    if event.endswith("backend_compile_duration"):
      found.append(more.get("fun_name", event))

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield found
  finally:
    from jax._src import monitoring

    monitoring.unregister_event_duration_listener(listen)


def test_nothing_is_compiled_after_the_second_step(tmp_path):
  run, late = test_train.make(), []
  with compilations() as found:

    def step_fn(state, batch):
      late.append(len(found))
      return run.step_fn(state, batch)

    test_train.fit(dataclasses.replace(run, step_fn=step_fn), tmp_path)
    total = len(found)
  assert late[0] > 0 or late[1] > 0, "the listener hears nothing"
  assert late[2:] == [late[2]] * len(late[2:])
  # Saving at the end may compile; the steps did not.
  assert total >= late[-1]


def long_run(steps):
  run = never_due(test_train.make(), steps)
  rows = np.ones((8, 3), np.float32)

  def batches(start):
    while True:
      yield {"x": rows}

  return dataclasses.replace(run, batches=batches)


def test_a_step_makes_few_calls_of_python_and_never_more(tmp_path):
  """Between steps that compute nothing: of the package, and of everything."""
  counts, steps = collections.Counter(), []
  package = os.path.dirname(train.__file__)
  metrics = {"loss": np.float32(1.0), "param_norm": np.float32(1.0)}

  def count(frame, event, argument):
    counts["all"] += event in ("call", "c_call")
    if event == "call" and frame.f_code.co_filename.startswith(package):
      counts["ours"] += 1

  def step_fn(state, batch):
    sys.setprofile(None)
    steps.append(dict(counts))
    counts.clear()
    sys.setprofile(count)
    return state, metrics

  run = dataclasses.replace(long_run(300), step_fn=step_fn)
  try:
    train.fit(run, epath.Path(tmp_path), interrupted=NEVER)
  finally:
    sys.setprofile(None)
  # The first has nothing to read, and the third may find caches empty. 9 and
  # 278 were counted; a call is 0.1 to 1 us.
  assert len(steps) == 300
  assert 0 < max(step["ours"] for step in steps[3:]) <= 20
  assert max(step["all"] for step in steps[3:]) < 1000
  # A step long after the start is none the dearer for it.
  assert steps[-1]["all"] <= steps[3]["all"] + 10


@pytest.mark.slow
def test_memory_is_flat_over_ten_thousand_steps(tmp_path):
  seen = {}
  run = long_run(10_000)

  def interrupted(step):
    if step in (2000, 10_000):
      gc.collect()
      peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
      peak *= 1 if sys.platform == "darwin" else 1024
      seen[step] = peak, len(jax.live_arrays())
    return False

  train.fit(run, epath.Path(tmp_path), interrupted=interrupted)
  (early, arrays), (late, arrays_late) = seen[2000], seen[10_000]
  assert late - early < 16 * 2**20, (early, late)
  assert arrays_late <= arrays + 8
