"""Episodes of robots: states, actions and pictures, whoever recorded them.

Shapes: N steps of an episode, S numbers of a state, A of an action, J joints, H and W
pixels.
"""

from collections.abc import Callable, Sequence
import dataclasses

import numpy as np

from totojax.data.pixels import augment
from totojax.data.sources import items

# (camera, steps in ascending order, how frames are resized) -> uint8 [steps, H, W, 3]
Frames = Callable[[str, Sequence[int], augment.Resize], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Episode:
  """What was recorded from a start to an end."""

  name: str
  task: str  # in words; "" where nobody said
  state_NS: np.ndarray  # float32
  action_NA: np.ndarray  # float32; of step n: what was done in the state of step n
  frames: Frames = dataclasses.field(repr=False)

  @property
  def steps(self) -> int:
    return len(self.action_NA)


@dataclasses.dataclass(frozen=True)
class Recording:
  """All episodes of a data set."""

  fps: float  # steps a second; 0 where the format does not say
  cameras: tuple[str, ...]
  state_names: tuple[str, ...]  # () where the format does not say
  action_names: tuple[str, ...]
  episodes: tuple[Episode, ...]
  missing: tuple[items.Skipped, ...]  # episodes that give nothing, and why

  def __post_init__(self):
    if not self.episodes:
      example = "".join(f"; {one.id}: {one.reason}" for one in self.missing[:1])
      raise ValueError(f"no episode is left ({len(self.missing)} are missing{example})")
    for what in ("state_NS", "action_NA"):
      widths = {getattr(one, what).shape[1] for one in self.episodes}
      if len(widths) > 1:
        raise ValueError(f"episodes have {what} of {sorted(widths)} numbers; all must be alike")


def checked(name: str, state_NS: np.ndarray, action_NA: np.ndarray) -> None:
  """Raises ValueError unless both are tables of finite numbers with as many steps."""
  for what, table in (("state", state_NS), ("action", action_NA)):
    if table.ndim != 2 or not len(table):
      raise ValueError(f"{name}: the {what} is {table.shape}; it must be [steps, numbers]")
    if not np.isfinite(table).all():
      step = int(np.argmin(np.isfinite(table).all(1)))
      raise ValueError(f"{name}: the {what} of step {step} is not finite")
  if len(state_NS) != len(action_NA):
    raise ValueError(f"{name} has {len(state_NS)} states and {len(action_NA)} actions")


def moving(joints_NJ: np.ndarray, gripper_N: np.ndarray, *, least_rad: float = 0.004) -> np.ndarray:
  """Steps at which something has moved since the last kept one: RPT's filter, as we read it.

  Radosavovic et al. 2023 leave out what moves less; from which step on is [gap].

  Args:
    joints_NJ: angles.
    gripper_N: how far the gripper is open.
    least_rad: a step is left out where no joint has moved farther, and the gripper has not.

  Returns:
    int64, ascending; the first step is always kept.
  """
  kept = [0]
  for step in range(1, len(joints_NJ)):
    farthest = np.abs(joints_NJ[step] - joints_NJ[kept[-1]]).max()
    if farthest > least_rad or gripper_N[step] != gripper_N[kept[-1]]:
      kept.append(step)
  return np.array(kept)


def deltas(
  joints_NJ: np.ndarray, gripper_N: np.ndarray, kept: np.ndarray, *, gripper_scale: float = 0.2
) -> np.ndarray:
  """Actions [kept - 1, J + 1] that lead from a kept step to the next: RPT's.

  Changes of the joints' angles, and the gripper of the next step times `gripper_scale`.
  """
  moved = np.diff(joints_NJ[kept], axis=0)
  return np.column_stack([moved, gripper_scale * gripper_N[kept[1:]]]).astype(np.float32)
