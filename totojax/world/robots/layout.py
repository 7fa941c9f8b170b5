"""What an observation and an action hold: names, sizes and where things are in them.

Shapes: B environments.
"""

import dataclasses
from typing import Any

import numpy as np

from totojax.config.robot_envs import EnvConfig

JOINTS = 7
ACTIONS = JOINTS + 1  # shares of env.step_rad that targets turn by; the gripper: -1 closes, 1 opens
OPENED_M = 0.04  # of each finger, from the middle
# proprio: joints, their speeds, the gripper's opening.
ANGLES, SPEEDS, OPENING = slice(0, 7), slice(7, 14), slice(14, 15)
PROPRIO = 15
# state: of the cube, or of the drawer's bar; of the place between the fingertips; how
# far the task is: metres that the cube is lifted or the drawer open.
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


def action_space() -> Space:
  """Of an action: float32 [8] from -1 to 1."""
  return Space((ACTIONS,), np.dtype(np.float32), -1.0, 1.0)


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
