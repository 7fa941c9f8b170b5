"""Robots: kinematics, success, pixels that follow from a seed, experts, lost processes."""

import importlib.util
import os
import sys

import numpy as np
import pytest
import worlds

from totojax.config.robot_envs import ARMS, EnvConfig, TASKS
from totojax.config.schema import ConfigError
from totojax.data.pixels import workers
from totojax.world import arms
from totojax.world.robots import bodies, env as env_lib, envs, experts, layout, simulation

BOTH = [(task, arm) for task in TASKS for arm in ARMS]
STEPS = 150  # of an episode here: experts take half of that


def blind(task="pick", arm="panda", **more):
  """An environment without pixels, which needs no OpenGL."""
  return EnvConfig(**{"task": task, "arm": arm, "image": False, "steps": STEPS} | more)


def need_mujoco():
  """Skips where it is missing; never imports it."""
  if importlib.util.find_spec("mujoco") is None:
    pytest.skip("needs mujoco of the extra 'world'")


# Arms.


@pytest.mark.parametrize("arm", ARMS)
def test_kinematics_are_those_of_the_arm_and_its_jacobian_those_of_differences(arm):
  """Against `Arm.pose`, a chain of Denavit and Hartenberg's matrices."""
  rng = np.random.default_rng(0)
  low, high = np.array([link.limits for link in arms.ARMS[arm].links]).T
  angles_BJ = rng.uniform(low, high, (5, 7))
  mount = bodies.MOUNTS[arm]
  pos_B3, turn_B33, jacobian_B6J = experts.kinematics(arms.ARMS[arm], mount, angles_BJ)
  c, s = np.cos(mount), np.sin(mount)
  for row, angles in enumerate(angles_BJ):
    flange, turn = arms.ARMS[arm].pose(angles)
    np.testing.assert_allclose(pos_B3[row], flange + bodies.REACH * turn[:, 2], rtol=1e-9)
    about = turn @ [[c, -s, 0], [s, c, 0], [0, 0, 1]]
    np.testing.assert_allclose(turn_B33[row], about, rtol=1e-9, atol=1e-12)
    for joint in range(7):
      moved = angles + 1e-6 * np.eye(7)[joint]
      after, turned = arms.ARMS[arm].pose(moved)
      way = (after + bodies.REACH * turned[:, 2] - pos_B3[row]) / 1e-6
      np.testing.assert_allclose(jacobian_B6J[row, :3, joint], way, rtol=1e-4, atol=1e-5)
      spin = (turned @ turn.T - np.eye(3)) / 1e-6
      axis = [spin[2, 1], spin[0, 2], spin[1, 0]]
      np.testing.assert_allclose(jacobian_B6J[row, 3:, joint], axis, rtol=1e-4, atol=1e-5)


def _places(config):
  """In a child: what MuJoCo says and what the kinematics say of the grip, after some steps."""
  made = env_lib.Env(config)
  rng = np.random.default_rng(0)
  seen, _ = made.reset(seed=0)
  out = []
  for _ in range(12):
    seen, *_ = made.step(rng.uniform(-1, 1, layout.ACTIONS))
    angles_BJ = seen["proprio"][None, layout.ANGLES].astype(np.float64)
    ours = experts.kinematics(arms.ARMS[config.arm], bodies.MOUNTS[config.arm], angles_BJ)
    out.append((seen["state"][layout.GRIP_POS], ours[0][0]))
  return np.array(out)


def test_observed_grips_are_where_the_arms_put_them():
  need_mujoco()
  with workers.children(1) as child:
    for arm in ARMS:
      theirs, ours = child.submit(_places, blind(arm=arm)).result().swapaxes(0, 1)
      np.testing.assert_allclose(theirs, ours, atol=2e-6)
      assert np.ptp(theirs, 0).max() > 0.01  # it moves


# Success.


def test_success_is_ten_steps_in_a_row_and_stays():
  def held(regions):
    steps = 0
    for region in regions:
      steps = simulation.held_steps(steps, region, 10)
    return steps

  assert held([True] * 9) == 9
  assert held([True] * 9 + [False]) == 0
  assert held([True] * 9 + [False] + [True] * 9) == 9
  assert held([True] * 10 + [False] * 30) == 10
  assert held([True, False] * 30) == 0


# Experts, through processes.


def rollout(config, count, policy, seeds=0, processes=1):
  """(success [B], steps [B], first and last observation) of one episode each."""
  with envs.Envs(config, count, processes=processes) as made:
    first = seen = made.reset(seeds)
    steps_B, success_B = np.zeros(count, int), np.zeros(count, bool)
    for _ in range(config.steps):
      out = made.step(policy(seen["state"], seen["proprio"]))
      seen, success_B = out.observation, out.success_B
      steps_B += out.active_B
      if (out.terminated_B | out.truncated_B).all():
        break
  return success_B, steps_B, first, seen


def still(state, proprio):
  del proprio
  return np.tile(np.array([0] * 7 + [1], np.float32), (len(state), 1))


def test_an_expert_succeeds_and_who_does_nothing_does_not():
  need_mujoco()
  config = blind("cabinet", "iiwa")
  success_B, steps_B, _, last = rollout(config, 2, experts.expert(config))
  assert success_B.all() and steps_B.max() < STEPS
  assert (last["state"][:, layout.PROGRESS] >= simulation.GOAL_M["cabinet"]).all()
  success_B, steps_B, first, last = rollout(blind("cabinet", "iiwa", steps=15), 1, still)
  assert not success_B.any() and steps_B[0] == 15
  np.testing.assert_allclose(first["state"], last["state"], atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("task, arm", BOTH)
def test_experts_succeed_in_95_of_100_episodes(task, arm):
  need_mujoco()
  config = blind(task, arm)
  success_B, *_ = rollout(config, 100, experts.expert(config))
  assert success_B.sum() >= 95


@pytest.mark.slow
def test_an_expert_mends_what_a_student_did():
  """DAgger asks it about states that it would not have come to."""
  need_mujoco()
  config = blind("pick", steps=300)
  rng, expert = np.random.default_rng(0), experts.expert(config)
  with envs.Envs(config, 10) as made:
    seen = made.reset(0)
    for step in range(config.steps):
      actions = expert(seen["state"], seen["proprio"])
      if step < 40:  # a student that knows little
        actions = actions + rng.normal(0, 1.0, actions.shape)
      out = made.step(actions)
      seen = out.observation
      if (out.terminated_B | out.truncated_B).all():
        break
  assert out.success_B.sum() >= 9


def test_experts_take_one_state_or_many_and_give_actions_of_the_space():
  rng = np.random.default_rng(1)
  for task, arm in BOTH:
    expert = experts.expert(blind(task, arm))
    states, proprios = rng.normal(size=(4, 15)), rng.normal(size=(4, 15))
    many = expert(states, proprios)
    assert many.shape == (4, layout.ACTIONS) and many.dtype == np.float32
    space = layout.action_space(blind(task, arm))
    assert all(space.contains(one) for one in many)
    np.testing.assert_allclose(many[2], expert(states[2], proprios[2]), rtol=1e-5, atol=1e-6)


# Pixels.


@pytest.fixture(name="drawn", scope="module")
def _drawn():
  worlds.need()
  config = EnvConfig(size_px=48, wrist=True, steps=20)
  with envs.Envs(config, 3) as made:
    yield made


def test_the_same_seed_gives_the_same_pixels_after_anything_else(drawn):
  actions = np.random.default_rng(0).uniform(-1, 1, (4, 3, layout.ACTIONS))

  def play(seeds):
    seen = [drawn.reset(seeds)]
    return [*seen, *(drawn.step(a).observation for a in actions)]

  once, other, again = play([5, 6, 5]), play(7), play([5, 6, 5])
  actions[:, 2] = actions[:, 0]
  same = play([5, 6, 5])
  for a, b in zip(once, again):
    for name in ("image", "wrist", "proprio", "state"):
      np.testing.assert_array_equal(a[name], b[name])
  # Environments of one process do not know of each other.
  for name in ("image", "wrist", "state"):
    np.testing.assert_array_equal(same[-1][name][0], same[-1][name][2])
  assert (once[0]["image"][0] != other[0]["image"][0]).mean() > 0.005
  assert (once[0]["image"][0] != once[-1]["image"][0]).mean() > 0.005
  assert drawn.config.size_px == once[0]["image"].shape[1] and once[0]["image"].dtype == np.uint8


def test_what_is_over_stands_still_and_some_begin_anew(drawn):
  drawn.reset(0)
  with pytest.raises(ValueError, match="not finite"):
    drawn.step(np.full((3, 8), np.nan))
  with pytest.raises(ValueError, match=r"shape \(2, 8\); it must be \(3, 8\)"):
    drawn.step(np.zeros((2, 8)))
  with pytest.raises(ValueError, match="seeds has shape"):
    drawn.reset([1, 2])
  for _ in range(drawn.config.steps):
    out = drawn.step(np.zeros((3, 8)))
  assert out.truncated_B.all() and out.active_B.all() and not out.success_B.any()
  after = drawn.step(np.ones((3, 8)))
  assert not after.active_B.any() and after.truncated_B.all() and not after.reward_B.any()
  np.testing.assert_array_equal(after.observation["image"], out.observation["image"])
  drawn.reset(9, which=np.array([False, True, False]))
  assert drawn.step(np.zeros((3, 8))).active_B.tolist() == [False, True, False]


def test_neither_mujoco_nor_opengl_is_loaded_here(drawn):
  del drawn
  assert "mujoco" not in sys.modules and "OpenGL" not in sys.modules


# What goes wrong.


@pytest.mark.slow
def test_a_process_that_dies_is_told():
  need_mujoco()
  with envs.Envs(blind(), 2, processes=2) as made:
    made.reset(0)
    made._children[1].submit(os._exit, 7)
    with pytest.raises(OSError, match=r"environments of pick \(panda\) died; run the same command"):
      for _ in range(3):
        made.step(np.zeros((2, 8)))


def _alone(config):
  """In a child: what one environment says to wrong calls."""
  made, told = env_lib.Env(config), []
  for wrong in (
    lambda: made.step(np.zeros(8)),
    lambda: made.reset(seed=-1),
    lambda: (made.reset(seed=0), made.step(np.zeros(7))),
    made.render,
  ):
    try:
      wrong()
    except ValueError as error:
      told.append(str(error))
  return told


@pytest.mark.slow
def test_one_environment_refuses_wrong_calls_in_one_line():
  need_mujoco()
  with workers.children(1) as child:
    told = child.submit(_alone, blind()).result()
  wanted = ("call reset first", "seed is -1", r"shape \(7,\)", "set env.image")
  assert len(told) == 4
  for line, part in zip(told, wanted):
    assert part.replace("\\", "") in line and "\n" not in line


def _as_gymnasium(config):
  from gymnasium.utils.env_checker import check_env

  made = env_lib.gymnasium_env(config)
  check_env(made, skip_render_check=True)
  return type(made.observation_space).__name__


@pytest.mark.slow
def test_gymnasium_finds_nothing_wrong():
  worlds.need()
  if importlib.util.find_spec("gymnasium") is None:
    pytest.skip("needs gymnasium")
  with workers.children(1) as child:
    assert child.submit(_as_gymnasium, EnvConfig(size_px=32)).result() == "Dict"


@pytest.mark.parametrize(
  "more, match",
  [
    ({"task": "pour"}, "env.task"),
    ({"arm": "ur5"}, "env.arm"),
    ({"wrist": True}, "env.wrist is set and env.image is not"),
    ({"hold_steps": 200}, "env.hold_steps is 200, more than env.steps 150"),
    ({"task": "cabinet", "goal_m": 0.3}, "the drawer opens 0.2 m"),
  ],
)
def test_wrong_settings_are_refused_in_one_line(more, match):
  with pytest.raises(ConfigError, match=match) as caught:
    blind(**more)
  assert "\n" not in str(caught.value)


def test_no_environments_are_refused():
  with pytest.raises(ValueError, match="count is 0; use 1 or more"):
    envs.Envs(blind(), 0)
