"""Physics, pixels and success of environments that share one model.

Imports MuJoCo where `film` does: a process that draws needs an OpenGL without a
screen, which `processes` sets up.
"""

import dataclasses
from typing import Any

import numpy as np

from totojax.config.robot_envs import EnvConfig
from totojax.world import arms, film, mjcf
from totojax.world.robots import bodies, layout

GOAL_M = {"pick": 0.4, "cabinet": 0.15}
_NEAR = 0.25  # of the goal: MVP's region about a lifted cube's goal
AT_BAR_M = 0.05  # how near the grip is to a bar that it holds
_WINDUP_RAD = 0.15  # that targets are ahead of their joints, at most
_START_RAD = 0.05  # that joints are off their homes at first


@dataclasses.dataclass
class Episode:
  """How far one environment is, and whether that is success."""

  steps: int = 0
  held: int = 0  # steps in the goal, one after the other; stays once it is success
  in_region: bool = False
  terminated: bool = False  # by success, where that ends it
  truncated: bool = False  # its last step is done
  is_done: bool = True  # either; or there was no reset yet

  def advance(self, config: EnvConfig, *, in_region: bool) -> None:
    """Counts a step, after which it is in the goal or is not."""
    self.steps += 1
    self.in_region = in_region
    self.held = held_steps(self.held, in_region, config.hold_steps)
    self.terminated = self.succeeded(config) and config.until_success
    self.truncated = self.steps >= config.steps
    self.is_done = self.terminated or self.truncated

  def succeeded(self, config: EnvConfig) -> bool:
    return self.held >= config.hold_steps

  def info(self, config: EnvConfig) -> dict[str, Any]:
    """success, in_region, held and steps, as they are now."""
    told = {"in_region": self.in_region, "held": self.held, "steps": self.steps}
    return {"success": self.succeeded(config), **told}


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What a step led to."""

  reward: float
  terminated: bool  # success, where that ends an episode
  truncated: bool  # its last step
  info: dict[str, Any]  # success, in_region, held, steps


def held_steps(held: int, in_region: bool, needed: int) -> int:
  """Steps in the goal, one after the other; so many as are needed are kept for good."""
  if held >= needed:
    return held
  return held + 1 if in_region else 0


class Stage:
  """A model, and a lens if pixels are wanted."""

  def __init__(self, config: EnvConfig):
    """Raises ImportError: MuJoCo is missing, or an OpenGL where pixels are drawn."""
    self.config, self.mj = config, film.mujoco()
    self.model = self.mj.MjModel.from_xml_string(bodies.build(config))
    self.substeps = bodies.substeps(config)
    self.lens = _Lens(self.mj, self.model, config) if config.image else None
    joint = self.model.joint
    names = [mjcf.joint(f"arm/{n}") for n in range(layout.JOINTS)]
    self.qpos = np.array([joint(name).qposadr[0] for name in names])
    self.dofs = np.array([joint(name).dofadr[0] for name in names])
    self.fingers = np.array([joint(f"hand/{side}/joint").qposadr[0] for side in ("left", "right")])
    self.low, self.high = np.array([link.limits for link in arms.ARMS[config.arm].links]).T
    self.home = np.array([link.home for link in arms.ARMS[config.arm].links])
    self.object = self.model.body("object").id
    self.grip = self.model.site("hand/grip").id
    self.goal_m = config.goal_m or GOAL_M[config.task]

  def close(self) -> None:
    """Frees OpenGL."""
    if self.lens is not None:
      self.lens.close()
      self.lens = None


class Simulation:
  """One environment of a stage."""

  def __init__(self, stage: Stage):
    self.stage, self.data = stage, stage.mj.MjData(stage.model)
    self.episode = Episode()
    self._target = stage.home.copy()
    self._begin_z = 0.0

  def reset(self, seed: int) -> None:
    """A new episode; the seed decides where everything is.

    Args:
      seed: at least 0.
    """
    stage, data, config = self.stage, self.data, self.stage.config
    stage.mj.mj_resetData(stage.model, data)
    rng = np.random.default_rng([seed, 0])
    start = stage.home + config.spread * rng.uniform(-_START_RAD, _START_RAD, layout.JOINTS)
    data.qpos[stage.qpos] = self._target = np.clip(start, stage.low, stage.high)
    data.qpos[stage.fingers] = layout.OPENED_M
    part = config.spread * rng.uniform(-1, 1, 4)
    if config.task == "pick":
      at, yaw = stage.model.joint("object/joint").qposadr[0], np.deg2rad(40) * part[2]
      data.qpos[at : at + 3] = 0.5 + 0.1 * part[0], 0.15 * part[1], bodies.CUBE
      data.qpos[at + 3 : at + 7] = _turned(yaw)
    else:
      x, y, z = 0.8 + 0.03 * part[0], 0.1 * part[1], 0.28 + 0.05 * part[3]
      yaw = np.deg2rad(14) * part[2] + 0.5 * np.arctan2(y, x)
      data.mocap_pos[0], data.mocap_quat[0] = (x, y, z), _turned(yaw)
    data.ctrl[:] = [*self._target, layout.OPENED_M, layout.OPENED_M]
    stage.mj.mj_forward(stage.model, data)
    self._begin_z = float(data.xpos[stage.object, 2])
    self.episode = Episode(is_done=False)

  def step(self, action: np.ndarray) -> Outcome:
    """Goes on for one step of control.

    Args:
      action: [8], clipped to -1 to 1.

    Raises:
      ValueError: physics gives no numbers.
    """
    stage, data, episode = self.stage, self.data, self.episode
    action = np.clip(np.asarray(action, np.float64), -1, 1)
    joints = data.qpos[stage.qpos]
    target = self._target + stage.config.step_rad * action[: layout.JOINTS]
    target = np.clip(target, joints - _WINDUP_RAD, joints + _WINDUP_RAD)
    self._target = np.clip(target, stage.low, stage.high)
    opening = 0.5 * (action[-1] + 1) * layout.OPENED_M
    data.ctrl[:] = [*self._target, opening, opening]
    stage.mj.mj_step(stage.model, data, nstep=stage.substeps)
    # Places are those of the state that is told, not of one step of physics before.
    stage.mj.mj_kinematics(stage.model, data)
    stage.mj.mj_comPos(stage.model, data)
    stage.mj.mj_camlight(stage.model, data)
    if not np.isfinite(data.qpos).all() or film.is_unstable(stage.mj, data):
      raise ValueError(
        f"physics of {stage.config.task} with {stage.config.arm} gave positions that are none"
      )
    episode.advance(stage.config, in_region=self._in_region())
    return Outcome(self._reward(), episode.terminated, episode.truncated, self.info())

  def info(self) -> dict[str, Any]:
    """success, in_region, held and steps, as they are now."""
    return self.episode.info(self.stage.config)

  def close(self) -> None:
    """Frees OpenGL, also of what shares its stage."""
    self.stage.close()

  @property
  def progress_m(self) -> float:
    """That the cube is lifted, or the drawer is open."""
    if self.stage.config.task == "pick":
      return float(self.data.xpos[self.stage.object, 2] - self._begin_z)
    return float(self.data.qpos[self.stage.model.joint("drawer/joint").qposadr[0]])

  def _away_m(self) -> float:
    data, stage = self.data, self.stage
    return float(np.linalg.norm(data.site_xpos[stage.grip] - data.xpos[stage.object]))

  def _in_region(self) -> bool:
    goal, progress = self.stage.goal_m, self.progress_m
    if self.stage.config.task == "pick":
      return abs(progress - goal) <= _NEAR * goal
    return progress >= goal and self._away_m() <= AT_BAR_M

  def _reward(self) -> float:
    """0 to 1: half for the grip that is at the object, half for what the task asks for."""
    share = np.clip(self.progress_m / self.stage.goal_m, 0, 1)
    return float(0.5 * (1 - np.tanh(5 * self._away_m())) + 0.5 * share)

  def observe(self) -> dict[str, np.ndarray]:
    """The parts of an observation (`layout`)."""
    stage, data = self.stage, self.data
    proprio = [*data.qpos[stage.qpos], *data.qvel[stage.dofs], data.qpos[stage.fingers].mean()]
    quat = np.empty(4)
    stage.mj.mju_mat2Quat(quat, data.site_xmat[stage.grip])
    state = [
      *data.xpos[stage.object],
      *_upper(data.xquat[stage.object]),
      *data.site_xpos[stage.grip],
      *_upper(quat),
      self.progress_m,
    ]
    pixels = stage.lens.take(data) if stage.lens is not None else {}
    return {
      **pixels,
      "proprio": np.array(proprio, np.float32),
      "state": np.array(state, np.float32),
    }


def _turned(yaw: float) -> tuple[float, ...]:
  return float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))


def _upper(quat: np.ndarray) -> np.ndarray:
  """Of the two quaternions of a turn, the one whose w is not negative."""
  return quat if quat[0] >= 0 else -quat


class _Lens:
  """Draws the cameras of a model with the process's OpenGL."""

  def __init__(self, mj: Any, model: Any, config: EnvConfig):
    self._mj, self._model = mj, model
    self._gl = film.context(mj, config.size_px, config.size_px)
    self._context = mj.MjrContext(model, mj.mjtFontScale.mjFONTSCALE_50)
    mj.mjr_setBuffer(mj.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
    self._drawn = film.plain_scene(mj, model)
    self._options = mj.MjvOption()
    self._options.sitegroup[:] = 0
    self._view = mj.MjrRect(0, 0, config.size_px, config.size_px)
    self._pixels = np.empty((config.size_px, config.size_px, 3), np.uint8)
    cameras = {"image": "front", **({"wrist": "wrist"} if config.wrist else {})}
    self._cameras = {}
    for name, camera in cameras.items():
      self._cameras[name] = mj.MjvCamera()
      self._cameras[name].type = mj.mjtCamera.mjCAMERA_FIXED
      self._cameras[name].fixedcamid = model.camera(camera).id

  def close(self) -> None:
    self._context.free()
    self._gl.free()

  def take(self, data: Any) -> dict[str, np.ndarray]:
    """uint8 [H, W, 3] of each camera."""
    mj, out = self._mj, {}
    for name, camera in self._cameras.items():
      every = mj.mjtCatBit.mjCAT_ALL
      mj.mjv_updateScene(self._model, data, self._options, None, camera, every, self._drawn)
      mj.mjr_render(self._view, self._drawn, self._context)
      mj.mjr_readPixels(self._pixels, None, self._view, self._context)
      out[name] = self._pixels[::-1].copy()  # OpenGL's rows begin below
    return out
