"""What an observation and an action hold: names, sizes and where things are in them.

Shapes: B environments.
"""

import dataclasses
from typing import Any

import numpy as np

from totojax.config.robot_envs import EnvConfig

JOINTS = 7
ACTIONS = JOINTS + 1  # shares of env.step_rad that targets turn by; the gripper: -1 closes, 1 opens
# Of robosuite: shares of STEP_M that the grip moves by and of STEP_RAD that it turns by
# about the world's axes; the gripper, of which the sign alone counts.
SUITE_ACTIONS, STEP_M, STEP_RAD = 7, 0.05, 0.5
OPENED_M = 0.04  # of each finger, from the middle
# proprio: joints, their speeds, the gripper's opening.
ANGLES, SPEEDS, OPENING = slice(0, 7), slice(7, 14), slice(14, 15)
PROPRIO = 15
# state: of the cube, or of the drawer's bar or the door's handle; of the place between the
# fingertips; how far the task is: metres that the cube is lifted or the drawer is open,
# radians that the door is.
OBJECT_POS, OBJECT_QUAT = slice(0, 3), slice(3, 7)
GRIP_POS, GRIP_QUAT = slice(7, 10), slice(10, 14)
PROGRESS = slice(14, 15)
STATE = 15


@dataclasses.dataclass(frozen=True)
class Space:
  """What gymnasium's Box says, where gymnasium is not installed."""

  shape: tuple[int, ...]
  dtype: Any
  low: float
  high: float

  def contains(self, value: Any) -> bool:
    """Whether an array is of this space."""
    array = np.asarray(value)
    return (
      array.shape == self.shape
      and array.dtype == self.dtype
      and bool(np.all((array >= self.low) & (array <= self.high)))
    )

  def sample(self, seed: int = 0) -> np.ndarray:
    """An array of this space; of one without bounds, of a normal distribution."""
    rng = np.random.default_rng(seed)
    if not np.isfinite(self.low):
      return rng.normal(size=self.shape).astype(self.dtype)
    if np.issubdtype(self.dtype, np.integer):
      return rng.integers(int(self.low), int(self.high) + 1, self.shape).astype(self.dtype)
    return rng.uniform(self.low, self.high, self.shape).astype(self.dtype)


def actions(config: EnvConfig) -> int:
  """Numbers of an action."""
  return SUITE_ACTIONS if config.simulator == "robosuite" else ACTIONS


def action_space(config: EnvConfig) -> Space:
  """Of an action: float32 [8], or [7] of robosuite, from -1 to 1."""
  return Space((actions(config),), np.dtype(np.float32), -1.0, 1.0)


def observation_space(config: EnvConfig) -> dict[str, Space]:
  """Of each part of an observation."""
  side = config.size_px
  pixels = Space((side, side, 3), np.dtype(np.uint8), 0, 255)
  free = np.dtype(np.float32), -np.inf, np.inf
  return {
    **({"image": pixels} if config.image else {}),
    **({"wrist": pixels} if config.wrist else {}),
    "proprio": Space((PROPRIO,), *free),
    "state": Space((STATE,), *free),
  }


def gymnasium() -> Any | None:
  """The package; None: it is not installed."""
  try:
    import gymnasium as package
  except ImportError:
    return None
  return package


def spaces(config: EnvConfig) -> tuple[Any, Any]:
  """(of actions, of observations): gymnasium's where it is installed, else `Space`s."""
  action, parts = action_space(config), observation_space(config)
  package = gymnasium()
  if package is None:
    return action, parts
  theirs = package.spaces
  boxes: dict[str, Any] = {
    k: theirs.Box(s.low, s.high, s.shape, s.dtype.type) for k, s in parts.items()
  }
  return theirs.Box(-1.0, 1.0, action.shape, np.float32), theirs.Dict(boxes)


def checked(action: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """The action as an array.

  Raises:
    ValueError: it has another shape, or values that are not finite.
  """
  array = np.asarray(action, np.float32)
  if array.shape != shape:
    raise ValueError(f"the action has shape {array.shape}; it must be {shape}")
  if not np.isfinite(array).all():
    raise ValueError("the action has values that are not finite; give numbers from -1 to 1")
  return array
