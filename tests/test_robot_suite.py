"""robosuite's environments: messages, success, what is missing; robosuite itself where it is."""

import dataclasses
import io
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import worlds

from totojax.config import policies, robots
from totojax.config.robot_envs import EnvConfig, SUITE_TASKS
from totojax.config.schema import ConfigError
from totojax.jobs.robots import rollouts, worlds as worlds_lib
from totojax.world.robots import env as env_lib, experts, layout, suite, suite_worker

HERE = pathlib.Path(__file__).parent


def config(task="lift", arm="panda", **more):
  return EnvConfig(**{"simulator": "robosuite", "task": task, "arm": arm, "image": False} | more)


# Keys.


@pytest.mark.parametrize(
  "more, match",
  [
    ({"simulator": "world"}, "env.task is 'lift'.*simulator 'world' are pick, cabinet; use one"),
    ({"task": "pick"}, "env.task is 'pick'.*simulator 'robosuite' are lift, door; use one"),
    ({"simulator": "gazebo"}, "env.simulator"),
    ({"spread": 0.5}, "env.spread is 0.5, which robosuite does not know; leave it at 1.0"),
    ({"goal_m": 0.1}, "env.goal_m is 0.1"),
  ],
)
def test_what_does_not_fit_is_told_in_one_line(more, match):
  with pytest.raises(ConfigError, match=match) as caught:
    config(**more)
  assert "\n" not in str(caught.value)
  assert robots.env("door", "iiwa").simulator == "robosuite"
  assert robots.env("pick", "iiwa").simulator == "world"


# Messages.


def test_messages_are_read_as_they_were_written_or_refused():
  stream = io.BytesIO()
  arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "none": np.zeros((0, 4), np.uint8)}
  suite_worker.send(stream, {"ask": "step"}, arrays)
  whole = stream.getvalue()
  assert whole[:4] == b"TJXS" and int.from_bytes(whole[8:12], "little") == 24
  head, found = suite_worker.receive(io.BytesIO(whole))
  assert head == {"ask": "step"}
  for name, array in arrays.items():
    assert found[name].dtype == array.dtype
    np.testing.assert_array_equal(found[name], array)
  for cut in (0, 3, 20, len(whole) - 1):
    with pytest.raises(EOFError):
      suite_worker.receive(io.BytesIO(whole[:cut]))
  with pytest.raises(ValueError, match="no message of environments"):
    suite_worker.receive(io.BytesIO(b"robosuite WARNING: no macros" + whole))


@pytest.fixture(name="stood_in")
def _stood_in(monkeypatch):
  """Environments whose worker is `suite_process`: robosuite's part is a count."""
  monkeypatch.setenv("SUITE_WORKER", suite_worker.__file__)
  monkeypatch.setattr(suite_worker, "__file__", str(HERE / "suite_process.py"))
  monkeypatch.delenv(suite.VARIABLE, raising=False)


def act(*first):
  actions = np.zeros((len(first), 7), np.float32)
  actions[:, 0] = first
  return actions


def test_success_is_counted_and_what_is_over_stands_still(stood_in):
  del stood_in
  with suite.Envs(config(hold_steps=3, steps=10), 3, processes=2) as made:
    with pytest.raises(ValueError, match="call reset first"):
      made.step(act(0, 0, 0))
    seen = made.reset(5)
    np.testing.assert_array_equal(seen["state"][:, 0], [5, 6, 7])
    for step in range(10):
      out = made.step(act(1, step != 1, 0))  # the second is once outside
    np.testing.assert_array_equal(out.success_B, [True, True, False])
    np.testing.assert_array_equal(out.terminated_B, [True, True, False])
    np.testing.assert_array_equal(out.truncated_B, [False, False, True])
    np.testing.assert_array_equal([one.steps for one in made.episodes], [3, 5, 10])
    np.testing.assert_array_equal(out.observation["state"][:, 0], [8, 10, 7])
    assert not made.step(act(1, 1, 1)).active_B.any()
    made.reset(9, which=np.array([False, True, False]))
    assert made.step(act(1, 1, 1)).active_B.tolist() == [False, True, False]
    with pytest.raises(ValueError, match=r"shape \(3, 8\); it must be \(3, 7\)"):
      made.step(np.zeros((3, 8)))


def test_a_worker_that_fails_or_dies_is_told_in_one_line_and_none_is_left(stood_in):
  del stood_in
  for number, error, match in (
    (2, ValueError, "^physics gave nothing$"),
    (1, OSError, r"robosuite died \(exit code 7; out of memory\); run the same"),
  ):
    made = suite.Envs(config(), 2, processes=2)
    made.reset(0)
    started = [worker._process for worker in made._workers]
    actions = act(0, 0)
    actions[1, number] = 1
    with pytest.raises(error, match=match) as caught:
      made.step(actions)
    assert "\n" not in str(caught.value)
    assert all(process.returncode is not None for process in started)


def test_one_environment_has_gymnasiums_interface(stood_in):
  del stood_in
  made = env_lib.Env(config(hold_steps=2))
  assert made.action_space.shape == (7,)
  with pytest.raises(ValueError, match="call reset first"):
    made.step(np.zeros(7))
  seen, info = made.reset(seed=4)
  assert seen["state"].shape == (15,) and seen["state"][0] == 4 and info["steps"] == 0
  assert made.step(np.ones(7) * [1, 0, 0, 0, 0, 0, 0])[1:4] == (1.0, False, False)
  seen, _, terminated, truncated, info = made.step(np.ones(7) * [1, 0, 0, 0, 0, 0, 0])
  assert (terminated, truncated) == (True, False) and seen["state"][0] == 6
  assert info == {"success": True, "in_region": True, "held": 2, "steps": 2}
  made.close()


# What is missing.


def _started(python=""):
  with suite.Envs(config(), 1, python=python) as made:
    made.reset(0)


def test_what_is_missing_is_told_with_the_commands(tmp_path, monkeypatch):
  monkeypatch.delenv(suite.VARIABLE, raising=False)
  commands = "pip install --no-deps robosuite==1.5.2 .* mujoco==3.3.7 numba"
  with pytest.raises(OSError, match=f"nowhere cannot be started .*{commands}"):
    _started("nowhere")
  bare = tmp_path / "python"
  bare.write_text("#!/bin/sh\necho 'No module named numpy' >&2\nexit 1\n")
  bare.chmod(0o755)
  with pytest.raises(OSError, match=f"exit code 1; No module named numpy.*{commands}"):
    _started(str(bare))
  # Of the Python that runs, whose packages seem to be of other versions.
  for name, version, match in (
    ("robosuite", "1.4.0", "robosuite is 1.4.0 and must be 1.5.2"),
    ("robosuite", "1.5.2", None),
    ("mujoco", "4.0.0", "mujoco is 4.0.0 and must be 3.3.7"),
  ):
    folder = tmp_path / "site" / f"{name}-{version}.dist-info"
    folder.mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (folder / "METADATA").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    if match:
      with pytest.raises(ImportError, match=f"^{match} in the Python .*{commands}") as caught:
        _started()
      assert "\n" not in str(caught.value)
    if version == "1.4.0":
      (folder / "METADATA").unlink()
      folder.rmdir()


# Experts.


def test_experts_take_one_state_or_many_and_give_actions_of_the_space():
  rng = np.random.default_rng(1)
  for task in SUITE_TASKS:
    expert = experts.expert(config(task, "iiwa"))
    states, proprios = rng.normal(size=(4, 15)), rng.normal(size=(4, 15))
    many = expert(states, proprios)
    assert all(layout.action_space(config(task)).contains(one) for one in many)
    np.testing.assert_allclose(many[2], expert(states[2], proprios[2]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  "arm, stuck, free, speed", [("panda", 1.0, 1.2, 0.6), ("iiwa", 1.2, 1.4, 1)]
)
def test_a_door_is_pulled_only_once_its_latch_is_out(arm, stuck, free, speed):
  """Of a hand that holds the handle, turned so far, of a door that opens to -y."""

  def moved(angle):
    state, proprio = np.zeros(15), np.zeros(15)
    state[layout.OBJECT_QUAT] = [np.cos(angle / 2), 0, np.sin(angle / 2), 0]
    state[layout.GRIP_POS] = -0.005 * np.array([np.cos(angle), 0, -np.sin(angle)])
    state[layout.GRIP_QUAT] = [1, 0, 0, 0]
    proprio[layout.OPENING] = 0.03
    return experts.expert(config("door", arm))(state, proprio)

  assert abs(moved(stuck)[1]) < 1e-6 and moved(free)[1] < -0.3
  assert moved(0.5)[2] < 0 and moved(0.5)[6] == -1
  np.testing.assert_allclose(np.linalg.norm(moved(0.5)[:3]), speed, rtol=1e-5)


# robosuite itself.


@pytest.fixture(name="python", scope="module")
def _python():
  """The interpreter that has robosuite."""
  ask = "import importlib.metadata as m; print(m.version('robosuite'))"
  try:
    told = subprocess.run(
      [suite.interpreter(), "-c", ask], capture_output=True, text=True, check=False
    )
    found = told.stdout.strip()
  except OSError as error:
    found = str(error)
  if found != suite_worker.ROBOSUITE:
    pytest.skip(f"needs a Python with robosuite, which {suite.VARIABLE} names (docs/robots.md)")
  return suite.interpreter()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_pixels_after_anything_else(python):
  worlds.need()
  actions = np.random.default_rng(0).uniform(-1, 1, (3, 2, 7))
  with suite.Envs(config("door", image=True, wrist=True, size_px=48), 2, python=python) as made:

    def play(seeds):
      seen = [made.reset(seeds)]
      return [*seen, *(made.step(a).observation for a in actions)]

    once, other, again = play([5, 6]), play([7, 8]), play([5, 6])
    actions[:, 1] = actions[:, 0]
    same = play([5, 5])
  with suite.Envs(config("door", image=True, wrist=True, size_px=48), 1, python=python) as made:
    actions = actions[:, :1]
    alone = play([5])
  for a, b, c in zip(once, again, alone):
    for name in ("image", "wrist", "proprio", "state"):
      np.testing.assert_array_equal(a[name], b[name])
      np.testing.assert_array_equal(a[name][0], c[name][0])  # in another process
  for name in ("image", "wrist", "state"):  # nor do those of a process know of each other
    np.testing.assert_array_equal(same[-1][name][0], same[-1][name][1])
  assert (once[0]["image"][0] != other[0]["image"][0]).mean() > 0.005
  assert (once[0]["image"][0] != once[-1]["image"][0]).mean() > 0.005
  assert once[0]["image"].shape == (2, 48, 48, 3) and once[0]["image"].std() > 20


@pytest.mark.slow
@pytest.mark.parametrize("task, arm", [("lift", "iiwa"), ("door", "panda")])
def test_experts_succeed_in_roll_outs_and_who_does_nothing_does_not(python, task, arm):
  where = dataclasses.replace(robots.env(task, arm), image=False)
  settings = policies.Worlds(count=3, processes=1, python=python)
  nothing = lambda seen: np.zeros((3, 0), np.float32)  # noqa: E731
  with worlds_lib.opened(where, settings) as made:
    found = [*rollouts.roll(made, [1, 2, 3], nothing, None, drawn=False)]
    assert sum(one.succeeded for one in found) >= 2
    assert found[0].done_NA.shape[1] == 7
  with worlds_lib.opened(dataclasses.replace(where, steps=15), settings) as made:
    still = lambda features, felt: np.zeros((3, 7), np.float32)  # noqa: E731
    found = [*rollouts.roll(made, [1, 2, 3], nothing, still, drawn=False, labelled=False)]
    assert not any(one.succeeded for one in found)
    moved = np.ptp(found[0].state_NS[5:, layout.GRIP_POS], axis=0)
    assert moved.max() < 0.02


@pytest.mark.slow
def test_a_worker_ends_with_who_started_it(python):
  """Killed itself, that one can end nobody."""
  code = (
    "import sys, time\n"
    "from totojax.config.robot_envs import EnvConfig\n"
    "from totojax.world.robots import suite\n"
    "c = EnvConfig(simulator='robosuite', task='lift', image=False)\n"
    "made = suite.Envs(c, 1, python=sys.argv[1]); made.reset(0)\n"
    "print(made._workers[0]._process.pid, flush=True); time.sleep(600)\n"
  )
  parent = subprocess.Popen([sys.executable, "-c", code, python], stdout=subprocess.PIPE)
  assert parent.stdout is not None
  child = int(parent.stdout.readline())
  os.kill(parent.pid, signal.SIGKILL)
  parent.wait()
  while pathlib.Path(f"/proc/{child}").exists():  # or the test's own limit ends this
    state = pathlib.Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
    if state == "Z":
      break
    time.sleep(0.05)
