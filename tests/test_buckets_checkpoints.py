"""Checkpoints on a local folder and on gs://, whole or not there, whatever fails.

A process that is killed sends nothing more, from one of its requests on: so the
proxy tears that request and all after it, and the bucket is left as a SIGKILL
there leaves it. Two runs at the end are killed for real.
"""

from concurrent import futures
import dataclasses
import multiprocessing
import os
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint._src.multihost import multihost
from orbax.checkpoint._src.serialization import tensorstore_utils
import pytest
import runs
import stores
import test_hosts

from totojax import checkpoint, rundir, step as step_lib
from totojax.checkpoint import restoring
from totojax.config.training import CheckpointConfig
from totojax.rundir import lock
from totojax.storage import objects, outages

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
  params, meta = restoring.read_params(place.url, SHAPES.params, PLACED.params)
  jax.tree.map(np.testing.assert_array_equal, params, state(20).params)
  assert meta == {"step": 20}
  # Orbax reads what is there as its own, and nobody asked for the bucket.
  if place.proxy:
    assert ocp.path.step.is_path_finalized(keeper.directory / "20")
    assert not [line for line in place.proxy.lines() if re.search(r"/b/bucket(\?|$)", line)]


def test_the_newest_step_of_another_process_is_seen(place):
  """A notebook has listed the folder before; nothing is kept of a listing."""
  save(place.url, 4)
  assert checkpoint.latest_step(place.url) == 4
  save(place.url, 8, keep=1)
  assert checkpoint.latest_step(place.url) == 8
  assert restoring.read_params(place.url, SHAPES.params, PLACED.params)[1] == {"step": 8}


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
  assert restoring.read_params(bucket.url, SHAPES.params, PLACED.params)[1] == {"step": 4}
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


@pytest.mark.slow
def test_killed_in_a_save_again_and_again(bucket):
  """In it, then in the clearing of what it left, then in the same save."""
  save(bucket.url, 4)
  array = "POST .*/8/state/ocdbt.process_0/d/"
  killed(bucket, array, 8, skip=2)  # or there may be one object alone to clear
  left = len(bucket.objects())
  killed(bucket, "DELETE .*/8/", 8, skip=1)
  assert steps_in(bucket) == {4: True, 8: False} and len(bucket.objects()) < left
  killed(bucket, array, 8)
  goes_on(bucket, 4)


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
def test_killed_before_each_request_that_changes_a_step(bucket):
  """Of a save and of the deletion after it: of each kind that there is, or of some.

  Those are spread over the save's files and the deletion's, and are the same each time.
  """
  save(bucket.url, 4, 8)
  first = len(bucket.proxy.log)
  save(bucket.url, 12)
  lines = bucket.proxy.lines("(POST|DELETE) .*/(12|4)/", first)
  kinds = dict.fromkeys(map(kind, lines))
  assert len(kinds) > 20
  patterns = list(kinds) if runs.EXHAUSTIVE else spread(list(kinds), 4)
  assert {pattern.split()[0] for pattern in patterns} == {"POST", "DELETE"}
  for pattern in patterns:
    place = dataclasses.replace(bucket, url=f"{bucket.url}-{time.monotonic_ns():x}")
    save(place.url, 4, 8)
    killed(place, pattern, 12)
    newest = 12 if pattern.startswith("DELETE") else 8
    assert checkpoint.latest_step(place.url) == newest, pattern
    keeper = opened(place.url)
    check(keeper, newest)
    keeper.close()
    assert False not in steps_in(place).values(), pattern


def spread(patterns: list[str], number: int) -> list[str]:
  """So many of them at equal distances, with the first and the last."""
  return [patterns[round(i)] for i in np.linspace(0, len(patterns) - 1, number)]


def kind(line: str) -> str:
  """A pattern of all requests that do the same with a file of a step."""
  method, *_ = line.split()
  (name,) = re.findall(r"/(?:12|4)/[^&?]*", line)
  return f"{method} .*" + re.sub(r"[0-9a-f]{32}", "[0-9a-f]{32}", name)


def test_a_step_that_goes_while_it_is_read_is_left_for_the_next(bucket):
  """The run that writes goes on, and says so to nobody."""
  save(bucket.url, 4, keep=1)
  with bucket.proxy.holding("GET .*/4/meta/metadata") as hold:
    with futures.ThreadPoolExecutor() as pool:
      reading = pool.submit(restoring.read_params, bucket.url, SHAPES.params, PLACED.params)
      assert hold.arrived.wait(60)
      save(bucket.url, 8, keep=1)
      hold.release()
      assert reading.result()[1] == {"step": 8}


def test_a_step_of_a_run_that_was_taken_over_gets_no_mark(bucket, monkeypatch):
  """It may be half another process's by then."""
  lost = rundir.Lost("taken over")
  save(bucket.url, 4)

  def confirm(folder):
    raise lost

  monkeypatch.setattr(lock, "confirm", confirm)
  keeper = opened(bucket.url)
  keeper.save(8, state(8), {"step": 8})
  with pytest.raises(rundir.Lost, match="^taken over$"):
    keeper.wait()
  keeper.close()
  assert steps_in(bucket) == {4: True, 8: False}


@pytest.fixture
def soon(monkeypatch):
  """What is said after 30 s is said after 0.2 s, and patience is at an end at once."""
  monkeypatch.setattr(outages, "LINE_AFTER_S", 0.2)
  monkeypatch.setattr(outages.Patience, "_lines", {})
  monkeypatch.setenv("TOTOJAX_STORAGE_TIMEOUT_S", "0")


def test_orbax_waits_as_long_as_all_else(tmp_path, monkeypatch):
  """Its own names are set: another orbax may have others."""
  for seconds, tries in ((0, 1), (31, 7), (900, 62)):
    monkeypatch.setenv("TOTOJAX_STORAGE_TIMEOUT_S", str(seconds))
    opened(tmp_path).close()
    for ocdbt in (True, False):
      spec = tensorstore_utils.get_ts_context(use_ocdbt=ocdbt)["gcs_request_retries"].to_json()
      assert spec["max_retries"] == tries
    assert multihost.coordination_timeout() == 1200 + seconds


def test_training_goes_on_while_a_save_waits_for_storage(bucket, soon, monkeypatch, capfd):
  """And the next save waits for it; of both something is said."""
  monkeypatch.setenv("TOTOJAX_STORAGE_TIMEOUT_S", "60")
  keeper = opened(bucket.url)
  waits = rf"waiting for {bucket.url}/4: \d requests had no answer, and are"
  told = ""
  with futures.ThreadPoolExecutor(1) as pool:
    with bucket.proxy.rule("POST .*/4/state/ocdbt.process_0/d/", status=503) as away:
      keeper.save(4, state(4), {"step": 4})  # else it would wait here, and raise
      while not away.hits:
        time.sleep(0.01)
      assert checkpoint.latest_step(bucket.url) is None
      waiting = pool.submit(keeper.wait)
      while not re.search(waits, told) and not waiting.done():
        told += capfd.readouterr().err
        time.sleep(0.01)
      assert not waiting.done()
    waiting.result()
  assert checkpoint.latest_step(bucket.url) == 4
  with bucket.proxy.rule("POST .*/8/state/ocdbt.process_0/d/", delay_s=1.5, times=1):
    keeper.save(8, state(8), {"step": 8})
    keeper.close()
  told = capfd.readouterr().err
  check(keeper, 8)
  assert f"waiting for {bucket.url}/8: it is still being written" in told


@pytest.mark.parametrize(
  "pattern, fault",
  [
    ("POST .*/8/state/ocdbt.process_0/d/", {"status": 401}),
    pytest.param("POST .*/8/commit_success", {"status": 503}, marks=pytest.mark.slow),
    pytest.param("POST .*/8/state/d/", {"reset": True}, marks=pytest.mark.slow),
    pytest.param("POST .*/8/_CHECK", {"reset": True}, marks=pytest.mark.slow),
  ],
)
def test_storage_that_stays_away_ends_the_run(bucket, soon, pattern, fault):
  save(bucket.url, 4)
  keeper = opened(bucket.url)
  with bucket.proxy.rule(pattern, **fault):
    keeper.save(8, state(8), {"step": 8})
    with pytest.raises(outages.StorageAway, match="/8 could not be written.*same command again"):
      keeper.wait()
  keeper.close()
  goes_on(bucket, 4)


@pytest.mark.parametrize(
  "pattern",
  ["GET .*/4/state/.*/d/", pytest.param("GET .*/4/meta/metadata", marks=pytest.mark.slow)],
)
def test_storage_that_stays_away_is_no_damage(bucket, soon, pattern):
  save(bucket.url, 4)
  keeper = opened(bucket.url)
  with bucket.proxy.rule(pattern, status=503):
    with pytest.raises(outages.StorageAway, match="/4 could not be read: storage did not answer"):
      keeper.restore(SHAPES, PLACED)
    with pytest.raises(outages.StorageAway):
      restoring.read_params(bucket.url, SHAPES.params, PLACED.params)
  keeper.close()


@pytest.mark.parametrize(
  "fault", [{"status": 403}, pytest.param({"status": 503}, marks=pytest.mark.slow)]
)
def test_a_deletion_that_fails_is_said_once_and_ends_nothing(bucket, soon, fault, capsys):
  with bucket.proxy.rule("DELETE", **fault):
    save(bucket.url, 4, 8, 12, keep=1)
  assert steps_in(bucket) == {4: True, 8: True, 12: True}
  assert capsys.readouterr().out.count("is older than checkpoint.keep wants, and stays") == 1
  save(bucket.url, 16, keep=1)
  assert steps_in(bucket) == {16: True}


def test_who_may_not_write_is_told_so(bucket, soon):
  keeper = opened(bucket.url)
  with bucket.proxy.rule("POST .*/4/state/", status=403):
    keeper.save(4, state(4), {})
    with pytest.raises(checkpoint.CheckpointError, match="may not be written .*objectUser"):
      keeper.wait()
  keeper.close()


@pytest.mark.parametrize("name", ["meta/", "state/ocdbt", "state/.*/d/"])
def test_who_may_not_read_is_not_told_of_damage(bucket, soon, name):
  """Whoever followed that advice would delete a whole checkpoint."""
  save(bucket.url, 4, 8)
  keeper = opened(bucket.url)
  with bucket.proxy.rule(f"GET .*/8/{name}", status=403):
    with pytest.raises(checkpoint.CheckpointError, match="may not be read .*objectUser") as caught:
      keeper.restore(SHAPES, PLACED)
  assert "damaged" not in str(caught.value) and "remove" not in str(caught.value)
  check(keeper, 8)
  keeper.close()


@pytest.mark.parametrize(
  "name, how",
  [
    ("meta/metadata", "gone"),
    ("state/ocdbt.process_0/d/", "gone"),
    pytest.param("state/ocdbt.process_0/d/", "cut", marks=pytest.mark.slow),
    pytest.param("state/_METADATA", "gone", marks=pytest.mark.slow),
    pytest.param("state/manifest.ocdbt", "cut", marks=pytest.mark.slow),
    pytest.param("meta/metadata", "cut", marks=pytest.mark.slow),
  ],
)
def test_damage_is_told_in_a_line_and_older_steps_stay(place, name, how):
  """A chunk, the list of the arrays, or what is known of the run."""
  save(place.url, 4, 8)
  # The largest of several, which has values and not only names.
  sizes = {file: len(data) for file, data in place.objects().items() if f"8/{name}" in file}
  file = max(sizes, key=sizes.__getitem__)
  path = f"{place.url}/{file}"
  if how == "gone":
    objects.delete(path)
  else:
    objects.write(path, place.objects()[file][: sizes[file] // 2])
  with pytest.raises(checkpoint.CheckpointError) as told:
    restoring.read_params(place.url, SHAPES.params, PLACED.params)
  # It may be of a run that goes on.
  assert "remove" not in str(told.value) and "wait until the run has saved" in str(told.value)
  keeper = opened(place.url)
  with pytest.raises(checkpoint.CheckpointError) as told:
    keeper.restore(SHAPES, PLACED)
  keeper.close()
  message = str(told.value)
  assert message.startswith(f"{place.url}/8 ") and "\n" not in message
  assert "remove this folder to go on from step 4, which is whole" in message
  assert len(message) < len(place.url) * 2 + 300
  keeper.directory.joinpath("8").rmtree()
  keeper = opened(place.url)
  check(keeper, 4)
  keeper.close()


@pytest.fixture(name="data")
def _data(tmp_path):
  return (
    stores.write(tmp_path / "train", records=96, seed=0, prefix="t"),
    stores.write(tmp_path / "val", records=16, seed=1, prefix="v"),
  )


@pytest.mark.slow
def test_a_run_whose_storage_stays_away_asks_for_another_start(bucket, data):
  """Orbax's pages are not shown; the step after the one that failed was trained."""
  with bucket.proxy.rule("POST .*/8/state/ocdbt.process_0/d/", status=503):
    words = runs.smoke(data, bucket / "run", "--storage_timeout_s=2")
    said = runs.finish(runs.start(words), code=75)
  assert len(said.splitlines()) < 12, said
  assert f"totojax: {bucket.url}/run/checkpoints/8 could not be written: storage did" in said
  assert runs.metrics(bucket / "run")[-1]["step"] > 8
  assert checkpoint.latest_step(bucket / "run/checkpoints") == 4


def tried_twice(start, workdir, proxy, pattern) -> list[str]:
  """Processes of one run, killed at a request, and what the next ones print."""
  with proxy.holding(pattern) as hold:
    processes = start(workdir)
    while not hold.arrived.wait(0.05):
      assert all(process.poll() is None for process in processes), processes[0].stdout.read()
    for process in processes:
      process.kill()
    for process in processes:
      runs.finish(process, code=-9)
  return [runs.finish(process) for process in start(workdir)]


@pytest.mark.slow
@pytest.mark.parametrize(
  "hosts, pattern, resumed",
  [
    pytest.param(
      1,
      "POST .*/12/state/ocdbt.process_0/d/",
      8,
      marks=pytest.mark.exhaustive("test_buckets_checkpoints.py::test_killed_in_a_save"),
    ),
    (2, "POST .*/12/state/ocdbt.process_1/manifest", 8),
  ],
)
def test_a_run_killed_in_a_save_ends_like_one_that_is_not(
  bucket, data, tmp_path, hosts, pattern, resumed
):
  """Of one process or two, all of which are killed: the same bits and rows."""

  def start(workdir):
    return test_hosts.start_hosts(runs.smoke(data, workdir), hosts, hosts)

  for process in start(tmp_path / "run"):
    runs.finish(process)
  first, *_ = tried_twice(start, bucket / "run", bucket.proxy, pattern)
  assert f"{bucket.url}/run/checkpoints/12: was never written to its end" in first
  assert f"resumed at step {resumed} of 20" in first
  assert runs.metrics(bucket / "run") == runs.metrics(tmp_path / "run")
  runs.assert_same(runs.checkpoint(bucket / "run", 20), runs.checkpoint(tmp_path / "run", 20))
  assert sorted(checkpoint.whole_steps(bucket / "run/checkpoints")) == [16, 20]


@pytest.mark.slow
def test_a_peer_that_is_lost_in_a_save_is_a_loss(bucket, data):
  """The other ends as wherever else it misses one: start it again."""
  words = runs.smoke(data, bucket / "run", "--host_timeout_s=10")
  with bucket.proxy.holding("POST .*/run/metrics", skip=1) as hold:
    first, second = test_hosts.start_hosts(words, 2, 2)
    while not hold.arrived.wait(0.05):
      assert first.poll() is second.poll() is None
    time.sleep(2.0)  # the other waits for it, in the save of a step
    first.kill()
    said = runs.finish(second, code=75)
    hold.release()
  runs.finish(first, code=-9)
  assert "lost another one" in said and "Free the disk" not in said
