"""A robot and its task as MuJoCo's XML.

The arm stands at the origin and faces x; the table's top is at 0. Joints and
their limits are those of the makers' data sheets (`totojax/world/arms.py`).
Bodies are ours and of primitives, and so are masses and motors; the weight of an
arm is compensated, as its controller does. The gripper is one of two fingers
with the sizes of Franka's hand, on either arm.

The cabinet hangs on a body without a joint, whose place is part of the state: one
model serves all environments of a task.
"""

from collections.abc import Mapping
import functools
import math
from xml.etree import ElementTree

from totojax.config.robot_envs import EnvConfig
from totojax.world import arms
from totojax.world.mjcf import chain, put, text
from totojax.world.robots import layout

MOUNTS: Mapping[str, float] = {"panda": 0.75 * math.pi, "iiwa": 0.0}  # radians about the flange's z
REACH = 0.1034  # from the flange to the place between the fingertips: Franka's hand
CUBE = 0.025  # half of a side
TRAVEL = 0.2  # of the drawer
STANDOFF = 0.07  # of the bar's middle, from where the drawer's front meets the cabinet
SUBSTEP_S = 0.005  # at most
MOTORS = tuple((force, 12.0 * force, 1.2 * force) for force in (87,) * 4 + (12,) * 3)
_FINGER = (0.008, 0.011, 0.026)  # half sizes
_TIP = 0.012  # that a finger goes on beyond the place of the grip
_THING = {"contype": "1", "conaffinity": "3"}
_LIMB = {"contype": "2", "conaffinity": "0"}  # touches things, never itself
_DRAWN = {"contype": "0", "conaffinity": "0"}
_COLOURS = {
  "arm": (0.92, 0.92, 0.90),
  "dark": (0.25, 0.25, 0.28),
  "finger": (0.45, 0.46, 0.5),
  "table": (0.55, 0.50, 0.44),
  "cube": (0.85, 0.12, 0.10),
  "cabinet": (0.33, 0.42, 0.55),
  "drawer": (0.80, 0.72, 0.52),
  "bar": (0.85, 0.12, 0.10),
}
# Place, what it looks at, degrees from the lower to the upper edge.
CAMERAS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...], float]] = {
  "pick": ((1.12, 0.30, 0.55), (0.47, 0.0, 0.19), 38.0),
  "cabinet": ((0.20, -0.85, 0.70), (0.62, 0.0, 0.28), 42.0),
}


def substeps(config: EnvConfig) -> int:
  """Steps of physics of one of control."""
  return math.ceil(1 / config.rate_hz / SUBSTEP_S - 1e-9)


def build(config: EnvConfig) -> str:
  """The XML."""
  root = ElementTree.Element("mujoco")
  _settings(root, config)
  asset, world = put(root, "asset"), put(root, "worldbody")
  for name, rgb in _COLOURS.items():
    colour = arms.ARMS[config.arm].rgb if name == "arm" else rgb
    put(asset, "material", name=name, rgba=text(*colour, 1), specular="0.2", shininess="0.4")
  put(
    world,
    "light",
    directional="true",
    castshadow="false",
    pos="0 0 3",
    dir="-0.35 0.3 -1",
    diffuse="0.6 0.6 0.58",
    specular="0.25 0.25 0.25",
    ambient="0 0 0",
  )
  put(world, "camera", name="front", **_camera(*CAMERAS[config.task]))
  _geom(world, "box", (0.9, 0.8, 0.03), (0.45, 0, -0.03), "table", **_THING)
  hand = _arm(root, world, config.arm)
  _cube(world) if config.task == "pick" else _cabinet(world)
  contact = put(root, "contact")
  for finger in ("left", "right"):
    put(contact, "exclude", body1=hand, body2=f"hand/{finger}")
  if config.task == "cabinet":
    put(contact, "exclude", body1="cabinet", body2="drawer")
  return ElementTree.tostring(root, encoding="unicode")


def _settings(root: ElementTree.Element, config: EnvConfig) -> None:
  put(root, "compiler", angle="radian")
  put(
    root,
    "option",
    timestep=text(1 / config.rate_hz / substeps(config)),
    integrator="implicitfast",
    cone="elliptic",
    impratio="10",
  )
  put(root, "statistic", extent="1", center="0 0 0", meansize="0.1")
  visual = put(root, "visual")
  side = str(config.size_px)
  put(visual, "global", offwidth=side, offheight=side)
  put(visual, "quality", shadowsize="0", offsamples="0", numslices="12", numstacks="8")
  put(visual, "map", znear="0.01", zfar="10")
  put(visual, "headlight", ambient="0.36 0.36 0.38", diffuse="0.25 0.25 0.25", specular="0 0 0")


def _camera(
  eye: tuple[float, ...], target: tuple[float, ...], fovy_deg: float
) -> Mapping[str, str]:
  x, y, z = (a - b for a, b in zip(eye, target))
  flat = math.hypot(x, y)
  right, up = (-y / flat, x / flat, 0.0), (-x * z / flat, -y * z / flat, flat)
  return {"pos": text(*eye), "xyaxes": text(*right, *up), "fovy": text(fovy_deg)}


def _geom(
  body: ElementTree.Element,
  kind: str,
  size: tuple[float, ...],
  pos: tuple[float, ...] | None,
  material: str,
  **more: str,
) -> None:
  at = {"pos": text(*pos)} if pos else {}
  put(body, "geom", type=kind, size=text(*size), material=material, **at, **more)


def _arm(root: ElementTree.Element, world: ElementTree.Element, name: str) -> str:
  """The arm, its gripper and their motors; the hand's body."""
  arm = arms.ARMS[name]
  part = functools.partial(_geom, mass="1", **_LIMB)
  base = put(world, "body", name="arm/base")
  _geom(base, "cylinder", (arm.radius * 1.4, 0.03), (0, 0, 0.03), "arm", mass="1", **_DRAWN)
  last = chain(base, arm, part, ("arm", "dark"), gravcomp="1")
  for body in base.iter("joint"):
    body.attrib |= {"armature": "0.1", "damping": "1"}
  half = MOUNTS[name] / 2
  hand = put(
    last,
    "body",
    name="hand",
    pos=text(0, 0, arm.flange),
    quat=text(math.cos(half), 0, 0, math.sin(half)),
    gravcomp="1",
  )
  _geom(hand, "box", (0.075, 0.028, 0.026), (0, 0, 0.03), "arm", mass="0.6", **_LIMB)
  put(hand, "site", name="hand/grip", pos=text(0, 0, REACH))
  put(
    hand,
    "camera",
    name="wrist",
    pos="0 -0.075 0.02",
    quat=text(0, 1, 0, 0),  # along z
    fovy="75",
  )
  actuators = put(root, "actuator")
  for count, (force, gain, damping) in enumerate(MOTORS):
    put(
      actuators,
      "position",
      joint=f"arm/{count}/joint",
      kp=text(gain),
      kv=text(damping),
      forcerange=text(-force, force),
    )
  for finger, sign in (("left", -1), ("right", 1)):
    body = put(hand, "body", name=f"hand/{finger}", gravcomp="1")
    put(
      body,
      "joint",
      name=f"hand/{finger}/joint",
      type="slide",
      axis=text(sign, 0, 0),
      range=text(0, layout.OPENED_M),
      armature="0.1",
      damping="5",
    )
    # Its inner side is at 0 where it is closed.
    at = (sign * _FINGER[0], 0, REACH + _TIP - _FINGER[2])
    _geom(
      body,
      "box",
      _FINGER,
      at,
      "finger",
      mass="0.05",
      friction="1.5 0.02 0.0001",
      condim="4",
      **_LIMB,
    )
    put(
      actuators, "position", joint=f"hand/{finger}/joint", kp="3000", kv="100", forcerange="-40 40"
    )
  return "hand"


def _cube(world: ElementTree.Element) -> None:
  body = put(world, "body", name="object", pos=text(0.5, 0, CUBE))
  put(body, "freejoint", name="object/joint")
  _geom(
    body, "box", (CUBE,) * 3, (0, 0, 0), "cube", mass="0.08", friction="1 0.01 0.0001", **_THING
  )


def _cabinet(world: ElementTree.Element) -> None:
  """Its front looks to -x; its origin is the middle of the drawer's front, closed."""
  cabinet = put(world, "body", name="cabinet", mocap="true", pos="0.8 0 0.28")
  depth, half_y, half_z, wall = 0.12, 0.17, 0.13, 0.012
  middle = depth + 0.004
  for z in (-1, 1):
    _geom(
      cabinet, "box", (depth, half_y, wall), (middle, 0, z * (half_z - wall)), "cabinet", **_THING
    )
  for y in (-1, 1):
    _geom(
      cabinet, "box", (depth, wall, half_z), (middle, y * (half_y - wall), 0), "cabinet", **_THING
    )
  _geom(cabinet, "box", (depth, half_y, 0.02), (middle, 0, -half_z - 0.02), "cabinet", **_THING)
  drawer = put(cabinet, "body", name="drawer", gravcomp="1")
  put(
    drawer,
    "joint",
    name="drawer/joint",
    type="slide",
    axis="-1 0 0",
    range=text(0, TRAVEL),
    damping="20",
    frictionloss="2",
    armature="0.2",
  )
  _geom(drawer, "box", (0.008, 0.14, 0.1), (-0.008, 0, 0), "drawer", mass="0.5", **_THING)
  _geom(drawer, "box", (0.1, 0.12, 0.006), (0.1, 0, -0.07), "drawer", mass="0.5", **_THING)
  bar = put(drawer, "body", name="object", pos=text(-STANDOFF, 0, 0))
  rubber = {"friction": "1.5 0.02 0.0001", "condim": "4"}
  ends = text(0, -0.06, 0, 0, 0.06, 0)
  _geom(bar, "capsule", (0.009,), None, "bar", fromto=ends, mass="0.1", **rubber, **_THING)
  for y in (-0.055, 0.055):
    rod = text(0, y, 0, STANDOFF - 0.016, y, 0)
    _geom(bar, "capsule", (0.007,), None, "bar", fromto=rod, mass="0.05", **_THING)
