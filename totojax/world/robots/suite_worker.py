"""Environments of robosuite, in a Python of their own: `suite` starts this file by its path.

It stands by itself: numpy, robosuite 1.5.2 and MuJoCo 3.3.7, and nothing of this
package, which need not be installed there. It reads requests from its standard input
and answers on its standard output, one for one; what robosuite prints goes to
standard error. It ends when its input does, so nobody is left behind.

A message is `TJXS`, bytes of a head and of a body (uint32, little-endian), the head as
JSON, and the body: the arrays that the head lists, one after the other.

Shapes: B environments, H and W pixels, A numbers of an action.
"""

import importlib.metadata
import json
import os
import signal
import struct
import sys
from typing import Any, IO

import numpy as np

ROBOSUITE, MUJOCO = "1.5.2", "3.3.7"  # an episode of a seed is theirs
COMMANDS = (
  f"python -m venv X && X/bin/pip install --no-deps robosuite=={ROBOSUITE} && X/bin/pip install"
  f" mujoco=={MUJOCO} numba scipy termcolor opencv-python-headless pyopengl pillow tqdm"
)
_ROBOTS = {"panda": "Panda", "iiwa": "IIWA"}
_TASKS = {"lift": "Lift", "door": "Door"}
_MODEL_SEED = 0  # of the cube's size, which is of the model: the same in all episodes
_MAGIC, _SIZES = b"TJXS", struct.Struct("<4sII")
_MOST = 2**30  # bytes of a part of a message


def send(stream: IO[bytes], head: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
  """Writes a message."""
  whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
  listed = [[name, array.dtype.str, array.shape] for name, array in whole.items()]
  told = json.dumps({**head, "arrays": listed}).encode()
  body = b"".join(array.tobytes() for array in whole.values())
  stream.write(_SIZES.pack(_MAGIC, len(told), len(body)) + told + body)
  stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """The next message.

  Raises:
    EOFError: there is none any more, or half of one.
    ValueError: what comes is no message.
  """
  magic, head_bytes, body_bytes = _SIZES.unpack(_exactly(stream, _SIZES.size))
  if magic != _MAGIC or max(head_bytes, body_bytes) > _MOST:
    raise ValueError(f"what comes is no message of environments: it begins with {magic!r}")
  head = json.loads(_exactly(stream, head_bytes))
  body, at, arrays = _exactly(stream, body_bytes), 0, {}
  for name, kind, shape in head.pop("arrays"):
    dtype, count = np.dtype(kind), int(np.prod(shape, dtype=np.int64))
    arrays[name] = np.frombuffer(body, dtype, count, at).reshape(shape).copy()
    at += dtype.itemsize * count
  return head, arrays


def _exactly(stream: IO[bytes], count: int) -> bytes:
  data = stream.read(count)
  if len(data) < count:
    raise EOFError(f"the other side ended after {len(data)} of {count} bytes")
  return data


def main() -> None:
  """Answers until there is nobody to answer."""
  # What robosuite and its libraries print must not come between messages.
  source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
  os.dup2(2, 1)
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the other side's
  suite = None
  while True:
    try:
      head, arrays = receive(source)
    except EOFError:
      return
    try:
      if head["ask"] == "begin":
        suite = Suite(head)
        answer = {}
      else:
        assert suite is not None
        answer = {"reset": suite.reset, "step": suite.step}[head["ask"]](**arrays)
      send(sink, {"error": ""}, answer)
    except BrokenPipeError:
      return
    except ImportError as error:
      send(sink, {"error": _line(error), "kind": "import"}, {})
    except Exception as error:  # robosuite has asserts, and exceptions of its own
      send(sink, {"error": _line(error), "kind": "value"}, {})


def _line(error: Exception) -> str:
  return " ".join(str(error).split()) or type(error).__name__


def _checked_suite() -> tuple[Any, Any]:
  """robosuite and MuJoCo, of the versions that are known.

  Raises:
    ImportError: one is missing, or of another version; says how they are installed.
  """
  told = f"in the Python {sys.executable}; make one for it: {COMMANDS}; and name it X/bin/python"
  for name, wanted in (("robosuite", ROBOSUITE), ("mujoco", MUJOCO)):
    try:
      found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      raise ImportError(f"there is no {name} {told}") from None
    if found != wanted:
      raise ImportError(f"{name} is {found} and must be {wanted} {told}")
  try:
    import mujoco  # before robosuite, which would have it look for OpenGL where none is asked for
    import robosuite
  except (ImportError, AttributeError, RuntimeError, OSError) as error:
    raise ImportError(f"robosuite cannot be imported ({_line(error)}) {told}") from error
  return robosuite, mujoco


class Suite:
  """Environments of one kind, which share what draws."""

  def __init__(self, asked: dict[str, Any]):
    """Raises ImportError: robosuite or OpenGL is missing."""
    robosuite, mujoco = _checked_suite()
    from robosuite.controllers import load_composite_controller_config

    robot = _ROBOTS[asked["arm"]]
    made = [
      robosuite.make(
        _TASKS[asked["task"]],
        robots=robot,
        controller_configs=load_composite_controller_config(controller="BASIC", robot=robot),
        has_renderer=False,
        has_offscreen_renderer=False,
        use_camera_obs=False,
        use_object_obs=False,
        reward_shaping=True,
        control_freq=asked["rate_hz"],
        ignore_done=True,
        hard_reset=False,
        renderer="mujoco",  # a viewer's name; nothing of it is made
        seed=_MODEL_SEED,
      )
      for _ in range(asked["count"])
    ]
    self._lens = _Lens(mujoco, made[0], asked) if asked["image"] else None
    self._worlds = [_World(mujoco, one, asked["task"], asked["arm"]) for one in made]
    self._seen: list[dict[str, np.ndarray]] = [{} for _ in made]

  def reset(self, seed: np.ndarray, which: np.ndarray) -> dict[str, np.ndarray]:
    """Episodes of these seeds [B] where `which` [B]; observations of all."""
    for number, world in enumerate(self._worlds):
      if which[number]:
        world.reset(int(seed[number]))
        self._seen[number] = self._observed(world)
    return self._stacked()

  def step(self, action: np.ndarray, which: np.ndarray) -> dict[str, np.ndarray]:
    """A step of those of `which` [B] with actions [B, A]; also reward and in_region [B].

    Raises:
      ValueError: physics gives no numbers.
    """
    reward, in_region = np.zeros(len(which), np.float32), np.zeros(len(which), bool)
    for number, world in enumerate(self._worlds):
      if which[number]:
        reward[number], in_region[number] = world.step(action[number])
        self._seen[number] = self._observed(world)
    return {**self._stacked(), "reward": reward, "in_region": in_region}

  def _observed(self, world: "_World") -> dict[str, np.ndarray]:
    pixels = self._lens.take(world) if self._lens is not None else {}
    return {**pixels, **world.observe()}

  def _stacked(self) -> dict[str, np.ndarray]:
    return {name: np.stack([seen[name] for seen in self._seen]) for name in self._seen[0]}


class _World:
  """One environment of robosuite."""

  def __init__(self, mujoco: Any, env: Any, task: str, arm: str):
    self._mj, self._env, self._task, self._arm = mujoco, env, task, arm
    env._observables = {}  # robosuite's, at each step of physics; `observe` has ours
    self._robot = env.robots[0]
    gripper = self._robot.gripper["right"]
    self._pads = [gripper.important_geoms[f"{side}_fingerpad"][0] for side in ("left", "right")]
    self._grip = gripper.important_sites["grip_site"]

  @property
  def model(self) -> Any:
    return self._env.sim.model._model

  @property
  def data(self) -> Any:
    return self._env.sim.data._data

  def reset(self, seed: int) -> None:
    """An episode in which everything is drawn from the seed."""
    env = self._env
    env.rng = env.placement_initializer.rng = np.random.default_rng(seed)
    env.reset()

  def step(self, action_A: np.ndarray) -> tuple[float, bool]:
    """(robosuite's shaped reward, whether it says success) after a step."""
    turned = np.array(np.clip(action_A, -1, 1), np.float64)
    turned[-1] = -turned[-1]  # robosuite's 1 closes
    _, reward, _, _ = self._env.step(turned)
    self._mj.mj_kinematics(self.model, self.data)  # places are those of the state that is told
    self._mj.mj_comPos(self.model, self.data)
    self._mj.mj_camlight(self.model, self.data)
    if not np.isfinite(self.data.qpos).all():
      raise ValueError(f"physics of {self._task} with {self._arm} gave positions that are none")
    return float(reward), bool(self._env._check_success())

  def observe(self) -> dict[str, np.ndarray]:
    """`proprio` and `state`, as the environments beside this have them."""
    env, data = self._env, self.data
    left, right = (data.geom(name).xpos for name in self._pads)
    thick = min(self.model.geom(self._pads[0]).size)  # half of a pad
    opening = 0.5 * float(np.linalg.norm(left - right)) - thick
    joints, speeds = self._robot._ref_joint_pos_indexes, self._robot._ref_joint_vel_indexes
    grip = data.site(self._grip)
    if self._task == "lift":
      thing = data.body(env.cube.root_body)
      place, turn = thing.xpos, thing.xquat
      progress = place[2] - env.model.mujoco_arena.table_offset[2] - env.cube.size[2]
    else:
      place, turn = env._handle_xpos, data.body(env.door.latch_body).xquat
      progress = data.qpos[env.hinge_qpos_addr]
    held = np.empty(4)
    self._mj.mju_mat2Quat(held, grip.xmat)
    state = [*place, *_upper(turn), *grip.xpos, *_upper(held), progress]
    proprio = [*data.qpos[joints], *data.qvel[speeds], opening]
    return {"proprio": np.array(proprio, np.float32), "state": np.array(state, np.float32)}


def _upper(quat: np.ndarray) -> np.ndarray:
  """Of the two quaternions of a turn, the one whose w is not negative."""
  return quat if quat[0] >= 0 else -quat


class _Lens:
  """Draws the cameras of robosuite's scenes, without shadows and the like, which cost most."""

  def __init__(self, mujoco: Any, env: Any, asked: dict[str, Any]):
    self._mj, side = mujoco, asked["size_px"]
    model = env.sim.model._model
    model.vis.quality.offsamples = 0
    model.vis.global_.offwidth = model.vis.global_.offheight = side
    try:
      self._gl = mujoco.GLContext(side, side)
      self._gl.make_current()
    except Exception as error:  # each backend has its own
      raise ImportError(
        f"OpenGL gives no context of {side} x {side} pixels without a screen ({_line(error)});"
        " apt-get install -y libosmesa6 libegl1 libegl-mesa0"
      ) from error
    self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
    self._drawn = mujoco.MjvScene(model, maxgeom=model.ngeom + 8)
    flags = mujoco.mjtRndFlag
    for flag in (flags.mjRND_SHADOW, flags.mjRND_REFLECTION, flags.mjRND_SKYBOX, flags.mjRND_HAZE):
      self._drawn.flags[flag] = 0
    self._options = mujoco.MjvOption()
    self._options.geomgroup[:] = [0, 1, 0, 0, 0, 0]  # what is seen, not what collides
    self._options.sitegroup[:] = 0
    self._view = mujoco.MjrRect(0, 0, side, side)
    self._pixels = np.empty((side, side, 3), np.uint8)
    wanted = {"image": "agentview", **({"wrist": "robot0_eye_in_hand"} if asked["wrist"] else {})}
    self._cameras = {}
    for name, camera in wanted.items():
      self._cameras[name] = mujoco.MjvCamera()
      self._cameras[name].type = mujoco.mjtCamera.mjCAMERA_FIXED
      self._cameras[name].fixedcamid = model.camera(camera).id

  def take(self, world: _World) -> dict[str, np.ndarray]:
    """uint8 [H, W, 3] of each camera."""
    mj, out = self._mj, {}
    for name, camera in self._cameras.items():
      every = mj.mjtCatBit.mjCAT_ALL
      mj.mjv_updateScene(world.model, world.data, self._options, None, camera, every, self._drawn)
      mj.mjr_render(self._view, self._drawn, self._context)
      mj.mjr_readPixels(self._pixels, None, self._view, self._context)
      out[name] = self._pixels[::-1].copy()  # OpenGL's rows begin below
    return out


if __name__ == "__main__":
  sys.path.pop(0)  # this folder has files of other people's modules' names
  main()
