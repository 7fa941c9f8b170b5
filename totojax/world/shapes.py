"""What things are made of: MuJoCo's primitives, and bodies of revolution.

Shapes: P points, F faces.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses

import numpy as np

from totojax.world.scene import Vector

_ROUND = 20  # corners of a body of revolution
IDENTITY = (1.0, 0.0, 0.0, 0.0)
ALONG_X = (0.7071067811865476, 0.0, 0.7071067811865476, 0.0)  # from z
ALONG_Y = (0.7071067811865476, -0.7071067811865476, 0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Mesh:
  """Triangles, as large as their geom; seen from where they turn anticlockwise."""

  points_P3: np.ndarray
  faces_F3: np.ndarray


@dataclasses.dataclass(frozen=True)
class Geom:
  """One geom of a body."""

  type: str  # of MuJoCo
  size: tuple[float, ...] = ()  # halves of its sides, as MuJoCo has them
  pos: Vector = (0.0, 0.0, 0.0)
  quat: tuple[float, float, float, float] = IDENTITY
  mesh: Mesh | None = None
  is_second: bool = False  # whether it has the look's second colour, plain
  part: str = ""  # of a body that moves on its own: "drawer", "left", "right"


@dataclasses.dataclass(frozen=True)
class Form:
  """A shape at a size."""

  geoms: tuple[Geom, ...]
  bottom: float  # from its origin down to what it stands on
  radius: float  # about z, of all of it
  top: float  # from its origin up
  half_width: float  # along x, where a hand takes it


def revolved(
  profile: Sequence[tuple[float, float]],
  corners: int = _ROUND,
  poles: tuple[float, float] | None = None,
) -> Mesh:
  """A profile of (radius, z), from the bottom up, turned about z.

  It ends in points on the axis: at z of `poles`, flat by default.
  """
  angle_C = 2 * np.pi * np.arange(corners) / corners
  rings = [
    np.stack([r * np.cos(angle_C), r * np.sin(angle_C), np.full(corners, z)], -1)
    for r, z in profile
  ]
  ends = [(0.0, 0.0, z) for z in poles or (profile[0][1], profile[-1][1])]
  points_P3 = np.concatenate([*rings, ends])
  first, last = len(points_P3) - 2, len(points_P3) - 1
  faces = []
  for c in range(corners):
    after = (c + 1) % corners
    for ring in range(len(profile) - 1):
      a, b = ring * corners + c, ring * corners + after
      faces += [(a, b, b + corners), (a, b + corners, a + corners)]
    top = (len(profile) - 1) * corners
    faces += [(first, after, c), (last, top + c, top + after)]
  return Mesh(points_P3, np.array(faces))


def torus(major: float, minor: float, turn: np.ndarray) -> Mesh:
  """A ring about z, turned by a matrix."""
  around, across = 16, 6
  u, v = np.meshgrid(
    2 * np.pi * np.arange(around) / around, 2 * np.pi * np.arange(across) / across, indexing="ij"
  )
  out = major + minor * np.cos(v)
  points_P3 = np.stack([out * np.cos(u), out * np.sin(u), minor * np.sin(v)], -1).reshape(-1, 3)
  faces = []
  for i in range(around):
    for j in range(across):
      a, b = i * across + j, (i + 1) % around * across + j
      c, d = ((i + 1) % around * across + (j + 1) % across, i * across + (j + 1) % across)
      faces += [(a, b, c), (a, c, d)]
  return Mesh(points_P3 @ turn.T, np.array(faces))


def skin(geom: Geom, corners: int) -> Mesh:
  """What a geom looks like, in its body's frame; what is round has so many corners."""
  points_P3, faces_F3 = _own_skin(geom, corners)
  w, x, y, z = geom.quat
  axis, about_P3 = np.array([x, y, z]), 2 * np.cross([x, y, z], points_P3)
  return Mesh(points_P3 + w * about_P3 + np.cross(axis, about_P3) + geom.pos, faces_F3)


def _own_skin(geom: Geom, corners: int) -> tuple[np.ndarray, np.ndarray]:
  """Points [P, 3] and faces [F, 3] in the geom's own frame; edges are sharp."""
  if geom.mesh is not None:
    return geom.mesh.points_P3, geom.mesh.faces_F3
  if geom.type == "box":
    return _BOX.points_P3 * geom.size, _BOX.faces_F3
  if geom.type == "cylinder":
    radius, half = geom.size
    angle_C = 2 * np.pi * np.arange(corners) / corners
    ring_C3 = np.stack([np.cos(angle_C) * radius, np.sin(angle_C) * radius, 0 * angle_C + half], -1)
    low_C3 = ring_C3 * (1, 1, -1)
    c = np.arange(corners)
    after = (c + 1) % corners
    side = [(c, after, after + corners), (c, after + corners, c + corners)]
    fan = np.arange(1, corners - 1)
    ends = [(0 * fan + 2 * corners, fan + 1 + 2 * corners, fan + 2 * corners)]
    ends += [(0 * fan + 3 * corners, fan + 3 * corners, fan + 1 + 3 * corners)]
    points_P3 = np.concatenate([low_C3, ring_C3, low_C3, ring_C3])
    return points_P3, np.concatenate([np.stack(face, -1) for face in (*side, *ends)])
  radius, half = (geom.size[0], geom.size[1]) if geom.type == "capsule" else (1.0, 0.0)
  rises = np.pi / 2 * np.arange(max(corners // 4, 2)) / max(corners // 4, 2)
  upper = [(radius * np.cos(rise), half + radius * np.sin(rise)) for rise in rises]
  lower = [(r, -z) for r, z in upper[::-1]]
  profile = [*lower[: None if half else -1], *upper]
  round_ = revolved(profile, corners, (-half - radius, half + radius))
  scale = {"sphere": geom.size[:1], "ellipsoid": geom.size}.get(geom.type, (1.0,))
  return round_.points_P3 * scale, round_.faces_F3


def _box() -> Mesh:
  """From -1 to 1, each face with points of its own."""
  u, v = np.array([-1.0, 1, 1, -1]), np.array([-1.0, -1, 1, 1])
  points = [
    np.roll(np.stack([np.full(4, side), side * u, v], -1), axis, 1)
    for axis in range(3)
    for side in (-1.0, 1.0)
  ]
  faces = [
    (4 * n + a, 4 * n + b, 4 * n + c) for n in range(6) for a, b, c in ((0, 1, 2), (0, 2, 3))
  ]
  return Mesh(np.concatenate(points), np.array(faces))


_BOX = _box()


def together(meshes: Sequence[Mesh]) -> Mesh:
  """Several as one."""
  offsets = np.cumsum([0, *(len(mesh.points_P3) for mesh in meshes)])
  faces = [mesh.faces_F3 + offset for mesh, offset in zip(meshes, offsets)]
  return Mesh(np.concatenate([mesh.points_P3 for mesh in meshes]), np.concatenate(faces))


def _whole(*geoms: Geom, bottom: float, radius: float, top: float, half_width: float) -> Form:
  return Form(geoms, bottom, radius, top, half_width)


def _cube(s: float) -> Form:
  h = 0.62 * s
  return _whole(Geom("box", (h, h, h)), bottom=h, radius=1.42 * h, top=h, half_width=h)


def _brick(s: float) -> Form:
  half = (0.5 * s, 0.95 * s, 0.42 * s)
  return _whole(Geom("box", half), bottom=half[2], radius=1.08 * s, top=half[2], half_width=half[0])


def _sphere(s: float) -> Form:
  r = 0.75 * s
  return _whole(Geom("sphere", (r,)), bottom=r, radius=r, top=r, half_width=r)


def _cylinder(s: float) -> Form:
  r, h = 0.6 * s, 0.7 * s
  return _whole(Geom("cylinder", (r, h)), bottom=h, radius=r, top=h, half_width=r)


def _roller(s: float) -> Form:
  r, h = 0.5 * s, 0.85 * s
  geom = Geom("cylinder", (r, h), quat=ALONG_Y)
  return _whole(geom, bottom=r, radius=float(np.hypot(r, h)), top=r, half_width=r)


def _pill(s: float) -> Form:
  r = 0.42 * s
  geom = Geom("capsule", (r, 0.55 * s), quat=ALONG_Y)
  return _whole(geom, bottom=r, radius=s, top=r, half_width=r)


def _egg(s: float) -> Form:
  geom = Geom("ellipsoid", (0.58 * s, 0.9 * s, 0.58 * s))
  return _whole(geom, bottom=0.58 * s, radius=0.9 * s, top=0.58 * s, half_width=0.58 * s)


def _bottle(s: float) -> Form:
  body = Geom("cylinder", (0.42 * s, 0.62 * s), pos=(0, 0, -0.38 * s))
  shoulder = Geom("sphere", (0.41 * s,), pos=(0, 0, 0.22 * s))
  cap = Geom("cylinder", (0.18 * s, 0.22 * s), pos=(0, 0, 0.78 * s), is_second=True)
  return _whole(body, shoulder, cap, bottom=s, radius=0.42 * s, top=s, half_width=0.42 * s)


def _mug(s: float) -> Form:
  r, h = 0.55 * s, 0.65 * s
  inner = 0.84 * r
  wall = revolved([(r, -h), (r, h), (inner, h), (inner, -0.85 * h)])
  handle = (
    Geom("capsule", (0.09 * s, 0.14 * s), (0, r + 0.12 * s, 0.3 * s), ALONG_Y, is_second=True),
    Geom("capsule", (0.09 * s, 0.14 * s), (0, r + 0.12 * s, -0.3 * s), ALONG_Y, is_second=True),
    Geom("capsule", (0.09 * s, 0.3 * s), (0, r + 0.28 * s, 0), is_second=True),
  )
  return _whole(Geom("mesh", mesh=wall), *handle, bottom=h, radius=0.95 * s, top=h, half_width=r)


def _dumbbell(s: float) -> Form:
  r = 0.38 * s
  ends = [Geom("sphere", (r,), (0, y * s, 0), is_second=True) for y in (-0.6, 0.6)]
  bar = Geom("capsule", (0.18 * s, 0.6 * s), quat=ALONG_Y)
  return _whole(bar, *ends, bottom=r, radius=s, top=r, half_width=0.2 * s)


def _cone(s: float) -> Form:
  mesh = revolved([(s, -s), (0.8 * s, -0.15 * s), (0.09 * s, s)])  # a ball has room in it
  return _whole(Geom("mesh", mesh=mesh), bottom=s, radius=s, top=s, half_width=0.5 * s)


def _cup(s: float) -> Form:
  mesh = revolved([(s, -s), (1.02 * s, -0.85 * s), (0.72 * s, 0.95 * s), (0.66 * s, s)])
  return _whole(Geom("mesh", mesh=mesh), bottom=s, radius=1.02 * s, top=s, half_width=0.8 * s)


def _snitch(s: float) -> Form:
  turns = [
    np.eye(3),
    np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]]),
    np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]),
  ]
  mesh = together([torus(0.72 * s, 0.2 * s, np.asarray(turn, float)) for turn in turns])
  r = 0.92 * s
  return _whole(Geom("mesh", mesh=mesh), bottom=r, radius=r, top=r, half_width=r)


def _cabinet(s: float) -> Form:
  """A box whose drawer is pulled to -y by a knob."""
  wide, deep, high, wall = 0.9 * s, 0.75 * s, 0.55 * s, 0.07 * s
  sides = [Geom("box", (wall, deep, high), (x * (wide - wall), 0, 0)) for x in (-1, 1)]
  flat = [Geom("box", (wide, deep, wall), (0, 0, z * (high - wall))) for z in (-1, 1)]
  back = Geom("box", (wide, wall, high), (0, deep - wall, 0))
  within = high - 2.6 * wall
  front = Geom(
    "box", (wide - 2.4 * wall, wall, within), (0, -deep, 0), is_second=True, part="drawer"
  )
  floor = Geom(
    "box",
    (wide - 3 * wall, 0.8 * deep, wall),
    (0, -0.1 * deep, -within),
    is_second=True,
    part="drawer",
  )
  knob = Geom(
    "capsule", (0.09 * s, 0.12 * s), (0, -deep - 0.2 * s, 0), ALONG_Y, is_second=True, part="drawer"
  )
  return _whole(
    *sides,
    *flat,
    back,
    front,
    floor,
    knob,
    bottom=high,
    radius=1.17 * s,
    top=high,
    half_width=0.09 * s,
  )


def _gripper(s: float) -> Form:
  """Two fingers that point along z; its origin is between their tips."""
  geoms = [
    Geom("box", (0.9 * s, 0.42 * s, 0.35 * s), (0, 0, -2.15 * s)),
    Geom("cylinder", (0.42 * s, 0.6 * s), (0, 0, -3.0 * s)),
    Geom("cylinder", (0.5 * s, 0.12 * s), (0, 0, -3.6 * s), is_second=True),
  ]
  for part, sign in (("left", -1), ("right", 1)):
    finger = (0.14 * s, 0.24 * s, 0.95 * s)
    geoms.append(Geom("box", finger, (sign * 0.14 * s, 0, -0.85 * s), part=part))
    pad = (0.05 * s, 0.25 * s, 0.3 * s)
    geoms.append(Geom("box", pad, (sign * 0.05 * s, 0, -0.25 * s), is_second=True, part=part))
  return Form(tuple(geoms), 0.1 * s, s, 4 * s, s)


def _hand(s: float) -> Form:
  """Four fingers and a thumb that point along z, and a forearm in a sleeve."""
  geoms = [
    Geom("ellipsoid", (0.36 * s, 0.88 * s, 1.05 * s), (-0.1 * s, 0, -2.35 * s)),
    Geom("capsule", (0.38 * s, 0.9 * s), (-0.05 * s, 0, -3.7 * s)),
    Geom("capsule", (0.52 * s, 2.4 * s), (-0.05 * s, 0, -7.0 * s), is_second=True),
  ]
  for y, reach in ((-0.63, 0.86), (-0.21, 1.0), (0.21, 0.97), (0.63, 0.78)):
    half = 0.78 * reach * s
    at = (-0.2 * s, y * s, -1.8 * s + half)
    geoms.append(Geom("capsule", (0.2 * s, half), at, part="left"))
  geoms.append(Geom("capsule", (0.23 * s, 0.7 * s), (0.23 * s, 0.1 * s, -1.0 * s), part="right"))
  return Form(tuple(geoms), 0.2 * s, s, 9 * s, s)


SHAPES: Mapping[str, Callable[[float], Form]] = {
  "cube": _cube,
  "brick": _brick,
  "ball": _sphere,
  "cylinder": _cylinder,
  "roller": _roller,
  "pill": _pill,
  "egg": _egg,
  "bottle": _bottle,
  "mug": _mug,
  "dumbbell": _dumbbell,
  "cone": _cone,
  "cup": _cup,
  "snitch": _snitch,
  "cabinet": _cabinet,
  "gripper": _gripper,
  "hand": _hand,
}
LYING = ("cube", "brick", "ball", "cylinder", "roller", "pill", "egg", "bottle", "mug", "dumbbell")


def form(shape: str, size: float) -> Form:
  """A shape at a size (half of its greatest extent, about).

  Raises:
    ValueError: there is no such shape.
  """
  if shape not in SHAPES:
    raise ValueError(f"shape {shape!r} is unknown; use one of {', '.join(SHAPES)}")
  return SHAPES[shape](size)
