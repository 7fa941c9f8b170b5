"""Experts: an action for any state, by what is known of it and inverse kinematics.

They remember nothing, so DAgger may ask them about whatever a student came to.
The grip is led along a few places, each of which follows from where it is: before
the object, at it, closed on it, and away with it.

Shapes: B environments, J joints.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools

import numpy as np

from totojax.config.robot_envs import EnvConfig
from totojax.world import arms
from totojax.world.robots import bodies, layout

_DAMPING = 1e-3  # of the inverse, as of `film`
_SPEED_M, _HELD_M, _SPEED_RAD = 0.05, 0.03, 0.25  # of the grip in a step, at most
_GAIN = 0.6  # of what is left of the way, in a step: arms lag behind
_HOMING = 0.05  # of what is left of the joints: the way to their homes
_ALIGNED_M, _ALIGNED_RAD = 0.012, 0.15  # beside the way in, so that it may go on
_CLOSE_M, _SLIP = 0.012, 2.0  # from the object, where fingers close; and how many times as far
_OPENED = {"pick": 1.0, "cabinet": 0.2}  # of the gripper's action: a bar's gap is narrow
_FIRM_M = 0.004  # more than that, and fingers have not closed yet
_PITCH = np.deg2rad(65)  # of a hand that holds the bar, below level
_OVER_M = 0.03  # that a drawer is pulled beyond its goal


@dataclasses.dataclass(frozen=True)
class Grasp:
  """How something is taken hold of."""

  before_m: float  # from the object, where the grip waits
  closing_m: float  # of the gripper's opening, below which fingers have begun to close
  half_m: float  # of what is between the fingers


_GRASPS = {"pick": Grasp(0.10, 0.037, bodies.CUBE), "cabinet": Grasp(0.08, 0.022, 0.009)}


def kinematics(arm: arms.Arm, mount: float, angles_BJ: np.ndarray) -> tuple[np.ndarray, ...]:
  """Where the grip is, how it is turned, and how both follow the joints.

  Args:
    arm: whose.
    mount: radians that the hand is turned on the flange.
    angles_BJ: of the joints.

  Returns:
    (positions [B, 3], rotations [B, 3, 3], Jacobians [B, 6, J] of metres and radians).
  """
  rows = len(angles_BJ)
  turn_B33 = np.broadcast_to(np.eye(3), (rows, 3, 3))
  pos_B3 = np.zeros((rows, 3))
  places, axes = [], []
  for count, link in enumerate(arm.links):
    pos_B3 = pos_B3 + turn_B33 @ np.array(link.pos)
    ca, sa = np.cos(link.alpha), np.sin(link.alpha)
    turn_B33 = turn_B33 @ np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    places.append(pos_B3)
    axes.append(turn_B33[..., 2])
    turn_B33 = turn_B33 @ _about_z(angles_BJ[:, count])
  pos_B3 = pos_B3 + turn_B33[..., 2] * (arm.flange + bodies.REACH)
  turn_B33 = turn_B33 @ _about_z(np.full(rows, mount))
  axes_BJ3 = np.stack(axes, 1)
  levers_BJ3 = np.cross(axes_BJ3, pos_B3[:, None] - np.stack(places, 1))
  jacobian_B6J = np.concatenate([levers_BJ3, axes_BJ3], -1).swapaxes(1, 2)
  return pos_B3, turn_B33, jacobian_B6J


def expert(config: EnvConfig) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
  """The expert of a task and an arm.

  Returns:
    a function of (state [.., 15], proprio [.., 15]), as observations have them, that
    gives the action, float32 [.., 8], or [.., 7] of robosuite.
  """
  if config.simulator == "robosuite":
    from totojax.world.robots import suite_experts

    return functools.partial(suite_experts.act, config)
  return functools.partial(_act, config)


def _act(config: EnvConfig, state: np.ndarray, proprio: np.ndarray) -> np.ndarray:
  lead = np.shape(state)[:-1]
  state_BS = np.asarray(state, np.float64).reshape(-1, layout.STATE)
  proprio_BP = np.asarray(proprio, np.float64).reshape(-1, layout.PROPRIO)
  arm, mount = arms.ARMS[config.arm], bodies.MOUNTS[config.arm]
  angles_BJ = proprio_BP[:, layout.ANGLES]
  pos_B3, turn_B33, jacobian_B6J = kinematics(arm, mount, angles_BJ)
  goal_B3, turned_B33, closes_B = _GOALS[config.task](
    config, state_BS, proprio_BP, pos_B3, turn_B33
  )
  speed_B1 = np.where(closes_B, _HELD_M, _SPEED_M)[:, None]
  way_B3 = at_most(_GAIN * (goal_B3 - pos_B3), speed_B1)
  about_B3 = at_most(_GAIN * rotation_to(turn_B33, turned_B33), _SPEED_RAD)
  step_BJ = _solve(arm, angles_BJ, jacobian_B6J, np.concatenate([way_B3, about_B3], -1))
  share_BJ = step_BJ / config.step_rad
  share_BJ /= np.maximum(np.abs(share_BJ).max(-1, keepdims=True), 1)  # the same way, slower
  grip_B1 = np.where(closes_B, -1.0, _OPENED[config.task])[:, None]
  action_BA = np.concatenate([share_BJ, grip_B1], -1)
  return action_BA.astype(np.float32).reshape(*lead, layout.ACTIONS)


def _solve(
  arm: arms.Arm, angles_BJ: np.ndarray, jacobian_B6J: np.ndarray, error_B6: np.ndarray
) -> np.ndarray:
  """Radians of joints [B, J] that move the grip so, and otherwise to their homes."""
  transposed_BJ6 = jacobian_B6J.swapaxes(1, 2)
  inverse_BJ6 = transposed_BJ6 @ np.linalg.inv(jacobian_B6J @ transposed_BJ6 + _DAMPING * np.eye(6))
  home_BJ = _HOMING * (np.array([link.home for link in arm.links]) - angles_BJ)
  moved_BJ = (inverse_BJ6 @ error_B6[..., None])[..., 0]
  kept_BJ = home_BJ - (inverse_BJ6 @ (jacobian_B6J @ home_BJ[..., None]))[..., 0]
  low, high = np.array([link.limits for link in arm.links]).T
  return np.clip(angles_BJ + moved_BJ + kept_BJ, low, high) - angles_BJ


Goal = tuple[np.ndarray, np.ndarray, np.ndarray]  # place [B, 3], turn [B, 3, 3], closed [B]


def _pick(
  config: EnvConfig,
  state_BS: np.ndarray,
  proprio_BP: np.ndarray,
  pos_B3: np.ndarray,
  turn_B33: np.ndarray,
) -> Goal:
  """From above, with the fingers along a side of the cube that is near to it."""
  cube_B3 = state_BS[:, layout.OBJECT_POS]
  turned_B33 = down(side(state_BS, turn_B33))
  into_B3 = np.broadcast_to(np.array([0.0, 0.0, -1.0]), cube_B3.shape)
  goal_B3, holds_B, closes_B = approach(
    _GRASPS["pick"], cube_B3, into_B3, proprio_BP, pos_B3, turn_B33, turned_B33
  )
  lift_B = (config.goal_m or 0.4) - state_BS[:, layout.PROGRESS][:, 0]
  lifted_B3 = cube_B3 + np.stack([0 * lift_B, 0 * lift_B, lift_B], -1)
  return np.where(holds_B[:, None], lifted_B3, goal_B3), turned_B33, closes_B


def _cabinet(
  config: EnvConfig,
  state_BS: np.ndarray,
  proprio_BP: np.ndarray,
  pos_B3: np.ndarray,
  turn_B33: np.ndarray,
) -> Goal:
  """From above and before it, a finger on either side of the bar; then the drawer's way."""
  bar_B3 = state_BS[:, layout.OBJECT_POS]
  frame_B33 = rotations(state_BS[:, layout.OBJECT_QUAT])
  c, s = np.cos(_PITCH), np.sin(_PITCH)
  # Columns: the fingers' way, level across, and into the gap.
  hand_33 = np.array([[-s, 0, c], [0, 1, 0], [-c, 0, -s]])
  turned_B33 = frame_B33 @ hand_33
  goal_B3, holds_B, closes_B = approach(
    _GRASPS["cabinet"], bar_B3, turned_B33[..., 2], proprio_BP, pos_B3, turn_B33, turned_B33
  )
  left_B = (config.goal_m or 0.15) + _OVER_M - state_BS[:, layout.PROGRESS][:, 0]
  pulled_B3 = bar_B3 - frame_B33[..., 0] * left_B[:, None]
  return np.where(holds_B[:, None], pulled_B3, goal_B3), turned_B33, closes_B


_GOALS: Mapping[str, Callable[..., Goal]] = {"pick": _pick, "cabinet": _cabinet}


def approach(
  grasp: Grasp,
  object_B3: np.ndarray,
  into_B3: np.ndarray,
  proprio_BP: np.ndarray,
  pos_B3: np.ndarray,
  turn_B33: np.ndarray,
  turned_B33: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(place [B, 3] to go to, whether the object is held [B], whether fingers close [B]).

  The nearer the grip is to the way in, the farther in it may go.
  """
  off_B3 = pos_B3 - object_B3
  depth_B = (off_B3 * into_B3).sum(-1)
  beside_B = np.linalg.norm(off_B3 - depth_B[:, None] * into_B3, axis=-1)
  wrong_B = np.linalg.norm(rotation_to(turn_B33, turned_B33), axis=-1)
  excess_B = np.maximum((beside_B - _ALIGNED_M) / 0.02, (wrong_B - _ALIGNED_RAD) / 0.2)
  back_B = grasp.before_m * np.clip(excess_B, 0, 1)
  goal_B3 = object_B3 - back_B[:, None] * into_B3
  opening_B, away_B = proprio_BP[:, layout.OPENING][:, 0], np.linalg.norm(off_B3, axis=-1)
  # Fingers that have begun to close, or hold the object, do not open for a small slip.
  slip_B = np.where(opening_B < grasp.closing_m, _SLIP, 1.0)
  closes_B = away_B < slip_B * _CLOSE_M
  holds_B = closes_B & (opening_B < grasp.half_m + _FIRM_M)
  return goal_B3, holds_B, closes_B


def side(state_BS: np.ndarray, turn_B33: np.ndarray) -> np.ndarray:
  """Headings [B] of a cube's side: the one that is nearest to the hand's, within its turn."""
  frame_B33 = rotations(state_BS[:, layout.OBJECT_QUAT])
  # Of a cube that lies on another side, an axis that is level.
  level_B = np.argmax(np.hypot(frame_B33[:, 0], frame_B33[:, 1]), -1)
  axis_B3 = np.take_along_axis(frame_B33, level_B[:, None, None], 2)[..., 0]
  yaw_B = np.arctan2(axis_B3[:, 1], axis_B3[:, 0])
  yaw_B4 = yaw_B[:, None] + np.pi / 2 * np.arange(4)
  hand_B = np.arctan2(turn_B33[:, 1, 0], turn_B33[:, 0, 0])
  away_B4 = np.abs(_wrapped(yaw_B4 - hand_B[:, None]))
  return np.take_along_axis(yaw_B4, np.argmin(away_B4, -1)[:, None], 1)[:, 0]


def _wrapped(angle: np.ndarray) -> np.ndarray:
  return (angle + np.pi) % (2 * np.pi) - np.pi


def down(yaw_B: np.ndarray) -> np.ndarray:
  """Rotations [B, 3, 3] of hands that point down, with fingers along such headings."""
  c_B, s_B, o_B = np.cos(yaw_B), np.sin(yaw_B), np.zeros_like(yaw_B)
  columns = [(c_B, s_B, o_B), (s_B, -c_B, o_B), (o_B, o_B, o_B - 1)]
  return np.stack([np.stack(column, -1) for column in columns], -1)


def _about_z(angle_B: np.ndarray) -> np.ndarray:
  c_B, s_B, o_B = np.cos(angle_B), np.sin(angle_B), np.zeros_like(angle_B)
  rows = [(c_B, -s_B, o_B), (s_B, c_B, o_B), (o_B, o_B, o_B + 1)]
  return np.stack([np.stack(row, -1) for row in rows], -2)


def rotations(quat_B4: np.ndarray) -> np.ndarray:
  """Matrices [B, 3, 3] of quaternions w x y z."""
  w, x, y, z = (quat_B4 / np.linalg.norm(quat_B4, axis=-1, keepdims=True)).T
  rows = [
    (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
    (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
    (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
  ]
  return np.stack([np.stack(row, -1) for row in rows], -2)


def rotation_to(turn_B33: np.ndarray, goal_B33: np.ndarray) -> np.ndarray:
  """The axis, as long as the angle [B, 3], about which a turn becomes another."""
  rest_B33 = goal_B33 @ turn_B33.swapaxes(1, 2)
  sine_B3 = 0.5 * np.stack(
    [
      rest_B33[:, 2, 1] - rest_B33[:, 1, 2],
      rest_B33[:, 0, 2] - rest_B33[:, 2, 0],
      rest_B33[:, 1, 0] - rest_B33[:, 0, 1],
    ],
    -1,
  )
  length_B1 = np.linalg.norm(sine_B3, axis=-1, keepdims=True)
  cosine_B1 = 0.5 * (np.trace(rest_B33, axis1=1, axis2=2)[:, None] - 1)
  return sine_B3 / np.maximum(length_B1, 1e-9) * np.arctan2(length_B1, cosine_B1)


def at_most(way_B3: np.ndarray, length: np.ndarray | float) -> np.ndarray:
  """Vectors, those that are longer made so long."""
  return way_B3 / np.maximum(np.linalg.norm(way_B3, axis=-1, keepdims=True) / length, 1)
