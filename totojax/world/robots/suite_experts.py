"""Experts of robosuite's tasks: as `experts`, but its controller moves the grip itself.

So there is no arm to solve for: an action is the way and the turn that are left.

Shapes: B environments.
"""

import dataclasses

import numpy as np

from totojax.config.robot_envs import EnvConfig
from totojax.world.robots import experts, layout

_GAIN, _TURN_GAIN = 3.0, 1.5  # of what is left, in a step: the controller is soft
_SLOW_M = 0.6 * layout.STEP_M  # of a step with something in the hand
_LIFTED_M = 0.15  # above the table, that a cube is lifted to
# By arm: the Panda's gripper opens to 0.04, Robotiq's to 0.065.
_LIFT = {"panda": experts.Grasp(0.08, 0.036, 0.021), "iiwa": experts.Grasp(0.08, 0.055, 0.021)}
_DOOR = {"panda": experts.Grasp(0.10, 0.036, 0.031), "iiwa": experts.Grasp(0.10, 0.055, 0.035)}
# Of a hand at the handle: how far below level it points, and how far it turns with the
# handle. The wrists reach different ways.
_PITCH = {"panda": np.deg2rad(55), "iiwa": np.deg2rad(40)}
_ROLL = {"panda": 1.0, "iiwa": 0.6}
# Of the door, in metres: from the latch's axis to the handle's place, which turns with
# it, and to the hinge's axis.
_LEVER, _OUT, _HINGE = 0.125, -0.10, 0.43
# Where on the lever it is taken, and where it is still held: the hand may slide, up to
# _NEAR_M beside it, and goes back by up to _BACK_M in a step.
_TAKEN_M, _HELD_M, _NEAR_M, _BACK_M = (0.11, 0.13), (0.05, 0.145), 0.03, 0.01
_TURNED_RAD = 1.45  # of a handle that is held down
# From where on the door is pulled, of the handle. The latch is out of the frame from about
# 1.2 on; pulled before that, the door holds on and Robotiq's fingers slip off.
_FREE_RAD = {"panda": 1.1, "iiwa": 1.3}
# Of a step, with the handle in the hand: the IIWA needs all of it against the spring.
_PUSH_M = {"panda": _SLOW_M, "iiwa": layout.STEP_M}
_AHEAD_RAD = 0.35  # that the hand wants to be ahead of the handle, or of the door
_AJAR_RAD = 0.15  # of a door whose latch is out
_OPEN_RAD = 0.39  # of one that is open: it ends at 0.4


@dataclasses.dataclass(frozen=True)
class _Seen:
  state_BS: np.ndarray
  proprio_BP: np.ndarray
  pos_B3: np.ndarray  # of the grip
  turn_B33: np.ndarray


def act(config: EnvConfig, state: np.ndarray, proprio: np.ndarray) -> np.ndarray:
  """The action, float32 [.., 7], for a state [.., 15] and what is felt [.., 15]."""
  lead = np.shape(state)[:-1]
  state_BS = np.asarray(state, np.float64).reshape(-1, layout.STATE)
  proprio_BP = np.asarray(proprio, np.float64).reshape(-1, layout.PROPRIO)
  pos_B3 = state_BS[:, layout.GRIP_POS]
  turn_B33 = experts.rotations(state_BS[:, layout.GRIP_QUAT])
  goal = {"lift": _lift, "door": _door}[config.task]
  goal_B3, turned_B33, closes_B = goal(config.arm, _Seen(state_BS, proprio_BP, pos_B3, turn_B33))
  held_m = _PUSH_M[config.arm] if config.task == "door" else _SLOW_M
  most_B1 = np.where(closes_B, held_m, layout.STEP_M)[:, None]
  way_B3 = experts.at_most(_GAIN * (goal_B3 - pos_B3), most_B1) / layout.STEP_M
  about_B3 = _TURN_GAIN * experts.rotation_to(turn_B33, turned_B33)
  about_B3 = experts.at_most(about_B3, layout.STEP_RAD) / layout.STEP_RAD
  grip_B1 = np.where(closes_B, -1.0, 1.0)[:, None]
  action_BA = np.concatenate([way_B3, about_B3, grip_B1], -1)
  return action_BA.astype(np.float32).reshape(*lead, layout.SUITE_ACTIONS)


def _lift(arm: str, seen: _Seen) -> experts.Goal:
  """From above, fingers along the side of the cube that is nearest to them."""
  cube_B3 = seen.state_BS[:, layout.OBJECT_POS]
  turned_B33 = experts.down(experts.side(seen.state_BS, seen.turn_B33))
  into_B3 = np.broadcast_to(np.array([0.0, 0.0, -1.0]), cube_B3.shape)
  goal_B3, holds_B, closes_B = experts.approach(
    _LIFT[arm], cube_B3, into_B3, seen.proprio_BP, seen.pos_B3, seen.turn_B33, turned_B33
  )
  lift_B1 = _LIFTED_M - seen.state_BS[:, layout.PROGRESS]
  lifted_B3 = seen.pos_B3 + np.concatenate([0 * lift_B1, 0 * lift_B1, lift_B1], -1)
  return np.where(holds_B[:, None], lifted_B3, goal_B3), turned_B33, closes_B


def _door(arm: str, seen: _Seen) -> experts.Goal:
  """From above, a finger on either side of the handle; down with it, then the door's way."""
  handle_B3 = seen.state_BS[:, layout.OBJECT_POS]
  latch_B33 = experts.rotations(seen.state_BS[:, layout.OBJECT_QUAT])
  open_B = seen.state_BS[:, layout.PROGRESS][:, 0]
  # The door's own axes: along it to the hinge, through it, and up.
  through_B3, up_B3 = latch_B33[..., 1], np.broadcast_to([0.0, 0.0, 1.0], handle_B3.shape)
  along_B3 = np.cross(through_B3, up_B3)
  lever_B3 = latch_B33[..., 0]
  angle_B = np.arctan2(-lever_B3[:, 2], (lever_B3 * along_B3).sum(-1))
  axis_B3 = handle_B3 - _LEVER * lever_B3 - _OUT * through_B3
  hinge_B3 = axis_B3 + _HINGE * along_B3
  # The hand comes from the front and above, and turns as the handle does.
  pitch, rolled_B1 = _PITCH[arm], _ROLL[arm] * angle_B[:, None]
  upright_B3 = np.cos(rolled_B1) * up_B3 + np.sin(rolled_B1) * along_B3  # across the lever
  into_B3 = np.cos(pitch) * through_B3 - np.sin(pitch) * upright_B3
  across_B3 = np.sin(pitch) * through_B3 + np.cos(pitch) * upright_B3
  across_B3 = (
    across_B3 * np.where((across_B3 * seen.turn_B33[..., 0]).sum(-1) < 0, -1.0, 1.0)[:, None]
  )
  turned_B33 = np.stack([across_B3, np.cross(into_B3, across_B3), into_B3], -1)
  # Where on the lever: the hand may slide along it.
  off_B3 = seen.pos_B3 - axis_B3 - _OUT * through_B3
  reach_B = (off_B3 * lever_B3).sum(-1)
  near_B = np.linalg.norm(off_B3 - reach_B[:, None] * lever_B3, axis=-1) < _NEAR_M
  low_B, high_B = (
    np.where(near_B, _HELD_M[0], _TAKEN_M[0]),
    np.where(near_B, _HELD_M[1], _TAKEN_M[1]),
  )
  reach_B = np.clip(reach_B, low_B, high_B)
  place_B3 = axis_B3 + reach_B[:, None] * lever_B3 + _OUT * through_B3
  goal_B3, holds_B, closes_B = experts.approach(
    _DOOR[arm], place_B3, into_B3, seen.proprio_BP, seen.pos_B3, seen.turn_B33, turned_B33
  )
  ajar_B = open_B > _AJAR_RAD
  down_B = np.where(ajar_B, angle_B, np.minimum(angle_B + _AHEAD_RAD, _TURNED_RAD))
  pull_B = np.where(
    ajar_B | (angle_B > _FREE_RAD[arm]), np.minimum(_AHEAD_RAD, _OPEN_RAD - open_B), 0.0
  )
  c_B1, s_B1 = np.cos(down_B)[:, None], np.sin(down_B)[:, None]
  back_B = reach_B + np.clip(_LEVER - reach_B, -_BACK_M, _BACK_M)
  there_B3 = (
    axis_B3 + back_B[:, None] * (c_B1 * along_B3 - s_B1 * up_B3) + _OUT * through_B3 - hinge_B3
  )
  c_B, s_B = np.cos(pull_B), np.sin(pull_B)
  x_B, y_B, z_B = there_B3.T
  swung_B3 = hinge_B3 + np.stack([c_B * x_B - s_B * y_B, s_B * x_B + c_B * y_B, z_B], -1)
  return np.where(holds_B[:, None], swung_B3, goal_B3), turned_B33, closes_B
