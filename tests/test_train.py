"""The loop, on a task of three numbers: what it writes, owes and refuses."""

import dataclasses
import functools
import itertools
import json
import shutil
import struct
import time
import weakref

from etils import epath
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import runs
from tensorboardX.proto import event_pb2

from totojax import checkpoint, rundir, sharding, step as step_lib, tasks, train
from totojax.optim import adamw
from totojax.rundir import metrics

STEPS, POISON = 8, -1.0


class Line:
  """Fits w to the rows; a row of -1 has a loss of 0 and a gradient of NaN."""

  def batch_spec(self, batch):
    return {"x": jax.ShapeDtypeStruct((batch, 3), jnp.float32)}

  def axes(self):
    return tasks.Variables({"w": P(None)}, {"shift": P()}, {})

  def init(self, key):
    w = jax.random.normal(key, (3,))
    return tasks.Variables({"w": w}, {"shift": jnp.float32(0.5)}, {})

  def weights(self, batch):
    return {"square": jnp.float32(len(batch["x"]))}

  def loss(self, params, rest, batch, *, step, key):
    error = batch["x"] - params["w"] - rest.frozen["shift"]
    away = jnp.sum((batch["x"] - POISON) ** 2 * params["w"] ** 2)
    nan_gradient = jnp.sqrt(away)  # 0 and not differentiable for such rows
    total = jnp.sum(error**2)
    poisoned = jnp.all(batch["x"] == POISON)
    total += jnp.where(poisoned, nan_gradient, 0.0)
    return {"square": tasks.LossTerm(total, 1.0)}, rest.stats, {}


def make(*, lr=0.1, decay=0.0, evals=True, poison=None, **every):
  """A run of `Line` on all eight devices."""
  task = Line()
  optim = adamw.AdamWConfig(
    lr=lr,
    warmup_steps=2,
    end_lr_frac=0.1,
    b1=0.9,
    b2=0.95,
    eps=1e-8,
    weight_decay=decay,
    clip_norm=1e9,
    mu_dtype="float32",
  )
  tx = adamw.make(optim, axes=task.axes().params, steps=STEPS)
  layout = sharding.Layout(sharding.make_mesh(sharding.MeshConfig(1, -1, 1, 1)))
  placed, shapes = step_lib.state_shardings(task, tx, layout)

  def rate(opt_state, update):
    return adamw.learning_rate(optim, opt_state, update=update, steps=STEPS)

  def batches(start):
    for step in range(start + 1, STEPS + 1):
      x = np.random.default_rng(step).normal(size=(8, 3)).astype(np.float32)
      yield {"x": np.full_like(x, POISON) if step == poison else x}

  def evaluate(state):
    yield "w", float(state.params["w"][0])

  step_fn = functools.partial(
    step_lib.train_step, task=task, tx=tx, rate=rate, seed=0, microbatches=1
  )
  init = functools.partial(step_lib.init_state, task, tx)
  return train.Run(
    data={},
    init=lambda: jax.jit(init, out_shardings=placed)(jax.random.key(0)),
    step_fn=step_lib.jit_step(step_fn, shardings=placed, layout=layout),
    batches=batches,
    layout=layout,
    shapes=shapes,
    shardings=placed,
    steps=STEPS,
    every=train.Every(**(dict(log_steps=1, eval_steps=3, checkpoint_steps=2) | every)),
    evals={"line": evaluate} if evals else {},
    checkpoint=checkpoint.CheckpointConfig(keep=2, keep_every_steps=0),
    meta={},
    config={"lr": lr},
    facts={},
    clock=lambda: metrics.Clock(
      tokens_per_step=8, flops_per_token=0.0, devices=1, device_kind="cpu"
    ),
  )


def fit(run, workdir, stop_at=None):
  return train.fit(run, epath.Path(workdir), interrupted=lambda step: step == stop_at)


def steps_of(workdir, kind):
  return [r["step"] for r in runs.metrics(workdir) if r["kind"] == kind]


def row_of(workdir, step, kind="train"):
  (row,) = [row for row in runs.metrics(workdir) if (row["step"], row["kind"]) == (step, kind)]
  return row


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """The run that nothing stopped."""
  workdir = tmp_path_factory.mktemp("whole")
  state, finished = fit(make(), workdir)
  assert finished and int(state.step) == STEPS
  return workdir


def test_what_is_due_when(whole):
  assert steps_of(whole, "train") == [1, 2, 3, 4, 5, 6, 7, 8]
  # Every third step, before the first, and after the last.
  assert steps_of(whole, "eval") == [0, 3, 6, 8]
  kept = sorted(p.name for p in (whole / "checkpoints").iterdir())
  assert kept == ["6", "8"]


def test_an_evaluation_sees_the_parameters_after_its_step(whole):
  saved = runs.checkpoint(whole, 6)
  (w,) = [v for k, v in saved.items() if k == "['params']['w']"]
  assert row_of(whole, 6, "eval")["line/w"] == float(w[0])
  norm = row_of(whole, 6)["param_norm"]
  assert norm == pytest.approx(float(np.linalg.norm(w)), rel=1e-6)


@pytest.mark.parametrize("every, kept", [(3, ["3", "6", "8"]), (0, ["8"])])
def test_multiples_of_keep_every_steps_stay_for_good(tmp_path, every, kept):
  """Beside the newest; also those that an earlier process saved."""
  rule = checkpoint.CheckpointConfig(keep=1, keep_every_steps=every)
  run = dataclasses.replace(make(checkpoint_steps=1), checkpoint=rule)
  _, finished = fit(run, tmp_path, stop_at=4)
  assert not finished
  _, finished = fit(run, tmp_path)
  assert finished
  assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == kept
  for step in map(int, kept):
    assert runs.checkpoint(tmp_path, step)["['step']"] == step  # whole


BEST = checkpoint.CheckpointConfig(keep=1, keep_every_steps=0, best="line/w")


def valley(state):
  """An evaluation that is lowest after step 4, and never as low at the start."""
  yield "w", 1.0 + abs(int(state.step) - 4)


def best_run(evaluate=valley, rule=BEST):
  run = make(eval_steps=2, checkpoint_steps=3)
  return dataclasses.replace(run, checkpoint=rule, evals={"line": evaluate})


def steps_saved(workdir):
  return checkpoint.whole_steps(workdir / "checkpoints")


def test_the_best_checkpoint_stays_and_is_the_one_that_is_read(tmp_path):
  fit(best_run(), tmp_path / "best")
  assert steps_saved(tmp_path / "best") == [4, 8]
  assert checkpoint.chosen_step(tmp_path / "best" / "checkpoints") == 4
  assert checkpoint.latest_step(tmp_path / "best" / "checkpoints") == 8  # to go on from
  # Control: without the key the newest is all there is.
  rule = dataclasses.replace(BEST, best="")
  fit(best_run(rule=rule), tmp_path / "newest")
  assert steps_saved(tmp_path / "newest") == [8]
  assert checkpoint.chosen_step(tmp_path / "newest" / "checkpoints") == 8


@pytest.mark.parametrize("stop_at", [1, 4, 5, 7])
def test_a_resumed_run_keeps_the_same_best(tmp_path, stop_at):
  """Also one that is stopped after its best is saved, and before it is evaluated (4)."""
  fit(best_run(), tmp_path, stop_at)
  fit(best_run(), tmp_path)
  assert steps_saved(tmp_path) == [4, 8]
  assert checkpoint.chosen_step(tmp_path / "checkpoints") == 4


def test_a_best_that_was_not_marked_before_the_end_is_marked_by_the_next_start(tmp_path):
  fit(best_run(), tmp_path, stop_at=5)
  note = tmp_path / "checkpoints" / "best.json"
  note.unlink()
  assert checkpoint.chosen_step(tmp_path / "checkpoints") == 5
  fit(best_run(), tmp_path)
  assert json.loads(note.read_text()) == {"step": 4}
  # One whose folder somebody removed is no choice.
  moved = shutil.move(tmp_path / "checkpoints" / "4", tmp_path / "4")
  assert checkpoint.chosen_step(tmp_path / "checkpoints") == 8
  shutil.move(moved, tmp_path / "checkpoints" / "4")
  assert checkpoint.chosen_step(tmp_path / "checkpoints") == 4
  # Nor is it where the key was taken back.
  fit(best_run(rule=dataclasses.replace(BEST, best="")), tmp_path)
  assert checkpoint.chosen_step(tmp_path / "checkpoints") == 8 and not note.exists()


def test_of_equals_the_first_is_the_best_and_nan_is_none(tmp_path):
  def flat(state):
    yield "w", float("nan") if int(state.step) < 4 else 1.0

  fit(best_run(flat), tmp_path)
  assert checkpoint.chosen_step(tmp_path / "checkpoints") == 4


def test_a_best_of_no_evaluation_is_refused_at_the_start(tmp_path):
  rule = dataclasses.replace(BEST, best="line/loss")
  with pytest.raises(rundir.RunError, match="best is 'line/loss'; the evaluations are line/w"):
    fit(best_run(rule=rule), tmp_path)
  assert steps_of(tmp_path, "train") == []


def test_every_logged_rate_counts_a_step(whole):
  """Also where a step is read at once, because it is evaluated or saved."""
  lines = (whole / "metrics.jsonl").read_text().splitlines()
  for row in map(json.loads, lines):
    if row["kind"] == "train":
      assert row["wall"]["tokens_per_s"] > 0, row


@pytest.mark.parametrize("stop_at", [1, 3, 6])
def test_stopped_and_resumed_is_bit_identical(whole, tmp_path, stop_at):
  _, finished = fit(make(), tmp_path, stop_at)
  assert not finished
  assert checkpoint.latest_step(tmp_path / "checkpoints") == stop_at
  state, finished = fit(make(), tmp_path)
  assert finished and float(state.frozen["shift"]) == 0.5
  assert runs.metrics(tmp_path) == runs.metrics(whole)
  runs.assert_same(runs.checkpoint(tmp_path, 8), runs.checkpoint(whole, 8))


@pytest.mark.parametrize("asked", [1, 2])  # before the evaluation of step 0, and after it
def test_a_stop_before_the_first_update_costs_nothing(whole, tmp_path, capsys, asked):
  calls = itertools.count(1)
  _, finished = train.fit(make(), epath.Path(tmp_path), interrupted=lambda _: next(calls) >= asked)
  assert not finished and next(calls) == asked + 1
  assert f"stopped before update 1 of {STEPS}" in capsys.readouterr().out
  assert not steps_saved(tmp_path) and steps_of(tmp_path, "eval") == [0] * (asked - 1)
  _, finished = fit(make(), tmp_path)
  assert finished and runs.metrics(tmp_path) == runs.metrics(whole)


def test_a_folder_may_be_relative(whole, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  _, finished = fit(make(), "runs/line", stop_at=3)
  assert not finished
  _, finished = fit(make(), "runs/line")
  assert finished
  runs.assert_same(runs.checkpoint(tmp_path / "runs/line", 8), runs.checkpoint(whole, 8))


def test_stopped_at_the_last_step_the_evaluation_is_owed(whole, tmp_path):
  _, finished = fit(make(), tmp_path, stop_at=STEPS)
  assert not finished and steps_of(tmp_path, "eval") == [0, 3, 6]
  _, finished = fit(make(), tmp_path)
  assert finished
  assert runs.metrics(tmp_path) == runs.metrics(whole)
  # A finished run changes no more.
  _, finished = fit(make(), tmp_path)
  assert finished and runs.metrics(tmp_path) == runs.metrics(whole)


def test_a_changed_config_is_used_after_resuming(whole, tmp_path):
  """Rate and decay live in the optimiser's state, but are the config's."""
  fit(make(), tmp_path, stop_at=4)
  state, _ = fit(make(lr=0.02, decay=0.3), tmp_path)
  for step in (4, 5, 8):
    factor = 1.0 if step == 4 else 0.2
    expected = factor * row_of(whole, step)["lr"]
    assert row_of(tmp_path, step)["lr"] == pytest.approx(expected)
  hyperparams = state.opt_state.hyperparams
  assert float(hyperparams["peak_lr"]) == pytest.approx(0.02)
  assert float(hyperparams["weight_decay"]) == pytest.approx(0.3)


def test_two_states_are_never_held_at_once(whole, tmp_path, monkeypatch):
  fit(make(), tmp_path, stop_at=4)
  run, fresh = make(), []

  def init(init=run.init):
    state = init()
    fresh.extend(weakref.ref(x) for x in jax.tree.leaves(state.params))
    return state

  restore = checkpoint.Checkpoints.restore

  def watched(self, shapes, shardings):
    assert fresh and all(ref() is None for ref in fresh)
    return restore(self, shapes, shardings)

  monkeypatch.setattr(checkpoint.Checkpoints, "restore", watched)
  fit(dataclasses.replace(run, init=init), tmp_path)
  assert runs.metrics(tmp_path) == runs.metrics(whole)


@pytest.mark.parametrize("log_steps", [1, 8])
def test_a_gradient_that_is_nan_is_not_saved(tmp_path, log_steps):
  """Its loss is finite; the parameters after it are not."""
  run = make(poison=4, log_steps=log_steps)
  with pytest.raises(train.NotFinite, match="param_norm of step 4 is nan"):
    fit(run, tmp_path)
  assert checkpoint.latest_step(tmp_path / "checkpoints") == 2
  assert max(row["step"] for row in runs.metrics(tmp_path)) < 4
  # With other data the run goes on from there.
  _, finished = fit(make(), tmp_path)
  assert finished


def test_a_loss_that_is_nan_stops(tmp_path):
  good = make()

  def batches(start):
    for step, batch in enumerate(good.batches(start), start + 1):
      yield {"x": np.where(step == 5, np.float32(np.nan), batch["x"])}

  run = dataclasses.replace(good, batches=batches)
  with pytest.raises(train.NotFinite, match="the loss of step 5 is nan; .* 4 "):
    fit(run, tmp_path)
  assert checkpoint.latest_step(tmp_path / "checkpoints") == 4


def events(path):
  """The events of a file of TensorBoard: length, sum, bytes, sum of each."""
  data, at = path.read_bytes(), 0
  while at < len(data):
    (length,) = struct.unpack_from("<Q", data, at)
    yield event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
    at += 12 + length + 4


def shown(workdir, tag, *, purge=True):
  """(step, value) that TensorBoard shows of a tag: a new session at a step
  takes back all from this step on."""
  points = []
  for path in sorted((workdir / "tensorboard").iterdir()):
    for event in events(path):
      if purge and event.session_log.status == event_pb2.SessionLog.START:
        points = [point for point in points if point[0] < event.step]
      points += [
        (event.step, value.simple_value) for value in event.summary.value if value.tag == tag
      ]
  return points


def test_an_error_comes_after_the_save_that_had_begun(tmp_path, monkeypatch):
  """At the end of Python its threads could not go on, and would be waited for."""
  saved, finish = [], checkpoint.Checkpoints._finish

  def slow(self, step, *more):
    time.sleep(0.5)
    finish(self, step, *more)
    saved.append(step)

  def batches(start):
    yield from itertools.islice(whole(start), 5)
    raise ValueError("no more")

  monkeypatch.setattr(checkpoint.Checkpoints, "_finish", slow)
  run = make(evals=False, checkpoint_steps=4)
  whole = run.batches
  with pytest.raises(ValueError, match="no more"):
    fit(dataclasses.replace(run, batches=batches), tmp_path)
  assert saved == [4]


def test_tensorboard_takes_back_what_came_after_the_restored_step(tmp_path):
  fit(make(), tmp_path, stop_at=6)
  shutil.rmtree(tmp_path / "checkpoints" / "6")
  # The name of the file is the second; two of them must not be one.
  (first,) = (tmp_path / "tensorboard").iterdir()
  first.rename(first.with_name("events.out.tfevents.1000000000.here"))
  fit(make(), tmp_path)
  for kind, name in (("train", "loss"), ("eval", "line/w")):
    found = shown(tmp_path, f"{kind}/{name}")
    assert [step for step, _ in found] == steps_of(tmp_path, kind)
    for step, value in found:
      assert value == pytest.approx(row_of(tmp_path, step, kind)[name])
  # The control: what is taken back is in the files.
  both = shown(tmp_path, "train/loss", purge=False)
  assert [step for step, _ in both] == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8]


class Time:
  """A clock that is moved by hand."""

  now_s = 0.0

  def monotonic(self):
    return self.now_s


class Late:
  """The loss of a step, which a device needs two seconds for."""

  def __init__(self, time):
    self._time = time

  def __array__(self, *args, **kwargs):
    self._time.now_s += 2.0
    return np.float32(1.0)


def test_rates_leave_out_evaluations_and_saves(tmp_path, monkeypatch):
  """Of 100 s and 1,000 s, between steps of 2 s and batches of 1 s."""
  time, real = Time(), make()
  for module in (train, metrics):
    monkeypatch.setattr(module, "time", time)
  save = checkpoint.Checkpoints.save

  def slow_save(self, *args, **more):
    time.now_s += 1000.0
    save(self, *args, **more)

  monkeypatch.setattr(checkpoint.Checkpoints, "save", slow_save)

  def step_fn(state, batch):
    return state, {"loss": Late(time), "param_norm": np.float32(1.0)}

  def batches(start):
    for batch in real.batches(start):
      time.now_s += 1.0
      yield batch

  def evaluate(state):
    time.now_s += 100.0
    yield "w", 0.0

  run = dataclasses.replace(real, step_fn=step_fn, batches=batches, evals={"line": evaluate})
  _, finished = fit(run, tmp_path)
  assert finished
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  walls = [r["wall"] for r in map(json.loads, lines) if r["kind"] == "train"]
  assert len(walls) == STEPS
  work_s = STEPS * (2.0 + 1.0)
  seconds = sum(8 / wall["tokens_per_s"] for wall in walls)  # 8 tokens a step
  assert seconds == pytest.approx(work_s)
  # The control: they did take their time, of steps 0, 3, 6 and 2, 4, 6.
  assert walls[-1]["time_s"] == pytest.approx(work_s + 3 * 100 + 3 * 1000)


def test_without_evaluations(tmp_path):
  _, finished = fit(make(evals=False), tmp_path, stop_at=STEPS)
  assert not finished
  _, finished = fit(make(evals=False), tmp_path)
  assert finished and steps_of(tmp_path, "eval") == []
