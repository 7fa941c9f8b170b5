"""Checkpoints on a local folder and on gs://, whole or not there, whatever fails.

A process that is killed sends nothing more, from one of its requests on: so the
proxy tears that request and all after it, and the bucket is left as a SIGKILL
there leaves it. Two runs at the end are killed for real.
"""

import collections
import dataclasses
import multiprocessing
import os
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from totojax import checkpoint
from totojax import step as step_lib
from totojax.config.training import CheckpointConfig
from totojax.storage import objects

MARK = "commit_success.txt"


def state(seed: int) -> step_lib.TrainState:
  values = np.random.default_rng(seed).standard_normal((40, 8)).astype(np.float32)
  params = {"kernel": jnp.asarray(values), "bias": jnp.asarray(values[0], jnp.bfloat16)}
  return step_lib.TrainState(jnp.int32(seed), params, {}, {}, {})


SHAPES = jax.eval_shape(lambda: state(0))
PLACED = jax.tree.map(lambda leaf: jax.sharding.SingleDeviceSharding(jax.devices()[0]), SHAPES)


def opened(url, *, keep=2, every=0) -> checkpoint.Checkpoints:
  return checkpoint.Checkpoints(url, CheckpointConfig(keep=keep, keep_every_steps=every))


def save(url, *steps: int, **config) -> None:
  keeper = opened(url, **config)
  for step in steps:
    keeper.save(step, state(step), {"step": step})
  keeper.close()


def check(keeper: checkpoint.Checkpoints, step: int) -> None:
  """The newest step of `keeper` is this, and all of it is there."""
  assert keeper.latest() == step
  restored, meta = keeper.restore(SHAPES, PLACED)
  assert meta == {"step": step}
  wanted = state(step)
  for name in ("step", "params"):
    jax.tree.map(np.testing.assert_array_equal, restored[name], getattr(wanted, name))


def steps_in(place) -> dict[int, bool]:
  """step -> whether its mark is there, for all that have any file."""
  names = [name.split("/") for name in place.objects() if "/" in name]
  return {int(n[0]): [n[0], MARK] in names for n in names if n[0].isdigit()}


# One child has imported all that is needed, and forks for each case.
children = multiprocessing.get_context("forkserver")
children.set_forkserver_preload(["totojax.checkpoint"])


def _child(environment, *arguments, **config) -> None:
  os.environ.update(environment)
  save(*arguments, **config)


def killed(place, pattern, *steps, arrives=False, skip=0, **config) -> None:
  """A process gets a SIGKILL at a request of its saves of `steps`.

  Args:
    place: a folder of gs://.
    pattern: of the request, as in `proxy.Rule`.
    steps: to save.
    arrives: whether the request is carried out.
    skip: how many that match are let through before.
    config: of `opened`.
  """
  process = children.Process(
    target=_child, args=(place.environment, place.url, *steps), kwargs=config
  )
  with place.proxy.holding(pattern, skip=skip) as hold:
    process.start()
    while not hold.arrived.wait(0.01):
      assert process.is_alive(), f"no {skip + 1}. request {pattern}"
    process.kill()
    process.join()
    done = len(place.proxy.log)
    hold.release(passes=arrives)
    while not place.proxy.lines(pattern, done):
      time.sleep(0.01)


def test_steps_are_kept_restored_and_deleted_anywhere(place):
  save(place.url, 4, 8, 12, 16, keep=2, every=8)
  assert steps_in(place) == {8: True, 12: True, 16: True}
  assert checkpoint.latest_step(place.url) == 16
  keeper = opened(place.url, every=8)
  check(keeper, 16)
  with pytest.raises(checkpoint.CheckpointError, match="step 12 was not saved"):
    keeper.save(12, state(12), {})
  keeper.save(20, state(20), {"step": 20})
  keeper.close()
  assert steps_in(place) == {8: True, 16: True, 20: True}
  params, meta = checkpoint.read_params(place.url, SHAPES.params, PLACED.params)
  jax.tree.map(np.testing.assert_array_equal, params, state(20).params)
  assert meta == {"step": 20}
  # Orbax reads what is there as its own, and nobody asked for the bucket.
  if place.proxy:
    assert ocp.path.step.is_path_finalized(keeper.directory / "20")
    assert not [line for line in place.proxy.lines() if re.search(r"/b/bucket(\?|$)", line)]
    assert not place.proxy.lines("moveTo|rewriteTo")


def test_the_newest_step_of_another_process_is_seen(place):
  """A notebook has listed the folder before; nothing is kept of a listing."""
  save(place.url, 4)
  assert checkpoint.latest_step(place.url) == 4
  save(place.url, 8, keep=1)
  assert checkpoint.latest_step(place.url) == 8
  assert checkpoint.read_params(place.url, SHAPES.params, PLACED.params)[1] == {"step": 8}


def test_a_local_step_of_older_orbax_counts(local):
  """Its mark is that the folder has its name: the file came later."""
  save(local.url, 4)
  path = f"{local.url}/4/{MARK}"
  objects.delete(path)
  assert not objects.exists(path)
  keeper = opened(local.url)
  check(keeper, 4)
  keeper.close()


def test_an_object_without_its_mark_does_not_count(bucket, capsys):
  save(bucket.url, 4, 8)
  objects.delete(f"{bucket.url}/8/{MARK}")
  assert checkpoint.latest_step(bucket.url) == 4
  assert checkpoint.read_params(bucket.url, SHAPES.params, PLACED.params)[1] == {"step": 4}
  assert steps_in(bucket) == {4: True, 8: False}  # who only reads deletes nothing
  keeper = opened(bucket.url)
  assert f"{bucket.url}/8: was never written to its end" in capsys.readouterr().out
  assert steps_in(bucket) == {4: True}
  check(keeper, 4)
  keeper.close()


def goes_on(place, newest) -> None:
  """The next process: it finds the newest whole step, and saves as if nothing were."""
  assert checkpoint.latest_step(place.url) == newest
  keeper = opened(place.url)
  check(keeper, newest)
  assert False not in steps_in(place).values()
  for step in range(newest + 4, 17, 4):
    keeper.save(step, state(step), {"step": step})
  keeper.wait()
  check(keeper, 16)
  keeper.close()
  assert steps_in(place) == {12: True, 16: True}


@pytest.mark.parametrize(
  "pattern, arrives, newest",
  [("POST .*/8/state/ocdbt.process_0/d/", False, 4), ("POST .*/8/commit_success", True, 8)],
)
def test_killed_in_a_save(bucket, pattern, arrives, newest):
  save(bucket.url, 4)
  killed(bucket, pattern, 8, arrives=arrives)
  goes_on(bucket, newest)


def test_killed_in_a_deletion(bucket):
  """Its marks are gone before anything else is."""
  save(bucket.url, 4, 8)
  whole = bucket.objects()
  killed(bucket, "DELETE .*/4/state/", 12, skip=3)
  left = {name for name in bucket.objects() if name.startswith("4/")}
  assert left and left < {name for name in whole if name.startswith("4/")}
  assert steps_in(bucket) == {4: False, 8: True, 12: True}
  goes_on(bucket, 12)


@pytest.mark.slow
@pytest.mark.parametrize("arrives", [False, True])
def test_killed_at_each_request_that_changes_a_step(bucket, arrives):
  """Of a save and of the deletion after it; the mark alone makes a step whole."""
  save(bucket.url, 4, 8)
  first = len(bucket.proxy.log)
  save(bucket.url, 12)
  counts = collections.Counter(map(kind, bucket.proxy.lines("(POST|DELETE) .*/(12|4)/", first)))
  assert len(counts) > 20
  for pattern, count in counts.items():
    for skip in {0, count - 1}:
      place = dataclasses.replace(bucket, url=f"{bucket.url}-{time.monotonic_ns():x}")
      save(place.url, 4, 8)
      killed(place, pattern, 12, skip=skip, arrives=arrives)
      marked = "/12/commit_success" in pattern and arrives
      newest = 12 if marked or pattern.startswith("DELETE") else 8
      assert checkpoint.latest_step(place.url) == newest, (pattern, skip)
      keeper = opened(place.url)
      check(keeper, newest)
      keeper.close()
      assert False not in steps_in(place).values(), (pattern, skip)


def kind(line: str) -> str:
  """A pattern of all requests that do the same with a file of a step."""
  method, name = line.split()[0], re.search(r"(/(12|4)/[^&?]*)", line)[1]
  return f"{method} .*" + re.sub(r"[0-9a-f]{32}", "[0-9a-f]{32}", name)
