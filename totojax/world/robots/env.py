"""One environment with gymnasium's interface, in this process.

It loads MuJoCo, and OpenGL where it draws, which do not go well with jax: programs
that load jax use `envs.Envs`, whose processes do that for them. robosuite's is in a
process of its own here too.
"""

from typing import Any

import numpy as np

from totojax.config.robot_envs import EnvConfig
from totojax.world import processes
from totojax.world.robots import layout, simulation, suite


class Env:
  """A robot at its task: `reset` and `step`."""

  metadata = {"render_modes": ["rgb_array"]}
  render_mode = "rgb_array"

  def __init__(self, config: EnvConfig, gl: str = "", python: str = ""):
    """Raises ImportError: MuJoCo or robosuite is missing, or an OpenGL where it draws.

    Args:
      config: of it.
      gl: "egl" or "osmesa"; "": MUJOCO_GL, or the first that is found.
      python: that has robosuite (`suite.interpreter`); our own scenes need none.
    """
    self.config = config
    self.metadata = {**self.metadata, "render_fps": config.rate_hz}
    self._simulation: suite.Simulation | simulation.Simulation
    if config.simulator == "robosuite":
      self._simulation = suite.Simulation(config, gl, python)
    else:
      if config.image:
        processes.take_gl(gl)
      self._simulation = simulation.Simulation(simulation.Stage(config))
    self._seeds = np.random.default_rng()
    self._last: dict[str, np.ndarray] = {}
    self.action_space, self.observation_space = layout.spaces(config)

  @property
  def unwrapped(self) -> "Env":
    return self

  def reset(
    self, *, seed: int | None = None, options: dict[str, Any] | None = None
  ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A new episode: (observation, info).

    Args:
      seed: of where everything is; later episodes follow from it. None: as it comes.
      options: none are known.
    """
    del options
    if seed is not None:
      _check_seed(seed)
      self._seeds = np.random.default_rng([seed, 1])
    self._simulation.reset(int(self._seeds.integers(2**31)) if seed is None else seed)
    self._last = self._simulation.observe()
    return self._last, self._simulation.info()

  def step(
    self, action: np.ndarray
  ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
    """(observation, reward, terminated, truncated, info) after one step of control.

    Args:
      action: float [8]; shares of `env.step_rad` that the targets of joints turn by,
        and the gripper, -1 closed to 1 open. More than 1 is clipped. Of robosuite
        float [7] (`layout.SUITE_ACTIONS`).

    Raises:
      ValueError: an action of another shape, or with NaN; or the episode is over.
    """
    if self._simulation.episode.is_done:
      raise ValueError("the episode is over, or has not begun; call reset first")
    out = self._simulation.step(layout.checked(action, self.action_space.shape))
    self._last = self._simulation.observe()
    return self._last, out.reward, out.terminated, out.truncated, out.info

  def render(self) -> np.ndarray:
    """The last frame, uint8 [H, W, 3].

    Raises:
      ValueError: there is none.
    """
    if "image" not in self._last:
      raise ValueError("there is no frame; call reset first, and set env.image")
    return self._last["image"]

  def close(self) -> None:
    """Frees OpenGL, or ends robosuite's process."""
    self._simulation.close()


def _check_seed(seed: int) -> None:
  if seed < 0:
    raise ValueError(f"seed is {seed}; use 0 or more")


def gymnasium_env(config: EnvConfig, gl: str = "", python: str = "") -> Any:
  """An `Env` that is a `gymnasium.Env` too, as gymnasium's wrappers ask for.

  Raises:
    ImportError: gymnasium is missing; or as `Env`.
  """
  package = layout.gymnasium()
  if package is None:
    raise ImportError("this needs gymnasium; install it with: pip install gymnasium")
  base: Any = package.Env

  class GymnasiumEnv(Env, base):
    """Both; `np_random` is gymnasium's own, and draws nothing here."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
      base.reset(self, seed=seed)
      return Env.reset(self, seed=seed, options=options)

  return GymnasiumEnv(config, gl, python)
