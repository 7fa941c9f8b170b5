"""Containers that cover and carry a golden snitch: a table like CATER's.

Lengths are CATER's: the table's part that counts is from -3 to 3, in 6 x 6 cells;
a cone may cover what is smaller than it and a cone, a sphere or the snitch, and
carries it as it slides; it is lifted off again. Movements are along lines, as
there, and nothing comes nearer to anything than their sizes. How long they take,
and in how many clips the snitch is to be carried while it is hidden, is in the spec.

Girdhar and Ramanan, "CATER", section 3.1; the planner is ours.

Shapes: N frames, T things.
"""

import dataclasses
import math

import numpy as np

from totojax.data.sources import cater
from totojax.world import scene as scene_lib, staging
from totojax.world.scene import Act, Camera, DRIVEN, Look, Scene, Spec, Thing, Track

SIZES = {"small": 0.25, "medium": 0.5, "large": 0.75}
COLOURS = {  # CLEVR's
  "gray": (87, 87, 87),
  "red": (173, 35, 35),
  "blue": (42, 75, 215),
  "green": (29, 105, 20),
  "brown": (129, 74, 25),
  "purple": (129, 38, 192),
  "cyan": (41, 208, 208),
  "yellow": (255, 238, 51),
}
GOLD = (255, 215, 0)
MATERIALS = {"rubber": 0.05, "metal": 0.9}
SNITCH_SIZE = 0.3
_SHAPES = {
  "cube": "cube",
  "sphere": "ball",
  "cylinder": "cylinder",
  "cone": "cone",
  cater.SNITCH: "snitch",
}
_COVERED = ("cone", "sphere", cater.SNITCH)
_PICK = 2.0  # how high things are lifted
_GAP = 0.08  # between things, at least
_LEAST = 4  # frames of a movement
_TRIES, _PLANS = 40, 60


@dataclasses.dataclass(frozen=True)
class Prop:
  """A thing in CATER's words."""

  name: str  # as "cone_2"
  shape: str  # spl, cone, cube, sphere, cylinder
  size_name: str
  size: float
  colour: str
  material: str
  turn_deg: float


@dataclasses.dataclass(frozen=True)
class Plan:
  """Who moves when: what CATER's files say beside the pixels."""

  props: tuple[Prop, ...]  # the snitch is the first
  pos_NT3: np.ndarray
  yaw_NT: np.ndarray  # radians
  acts: tuple[Act, ...]
  inside_NT: np.ndarray  # int: which thing covers it, -1 for none

  @property
  def is_carried_hidden(self) -> bool:
    """Whether the snitch gets into another cell below a container and stays there to the end."""
    hidden_N = self.inside_NT[:, 0] >= 0
    if not hidden_N[-1]:
      return False
    begin = len(hidden_N) - int(np.argmin(hidden_N[::-1])) if not hidden_N.all() else 0
    first, last = (cater.cell(float(x), float(y)) for x, y, _ in self.pos_NT3[[begin, -1], 0])
    return first != last


def plan(spec: Spec) -> Plan:
  """The movements of a spec's scene.

  Of `spec.share` of the scenes the first plan is taken in which the snitch is
  carried while hidden; of the others the first in which it is not.
  """
  wanted = spec.generator(2).uniform() < spec.share if spec.share else None
  found = None
  for attempt in range(_PLANS):
    found = _Planner(spec, spec.generator(3, attempt), eager=bool(wanted)).plan()
    if wanted is None or found.is_carried_hidden == wanted:
      break
  assert found is not None
  return found


def build(spec: Spec) -> Scene:
  """The scene of a plan: containers are cones, or cups where `spec.style` says so."""
  planned, rng = plan(spec), spec.generator(4)
  things, tracks = [], {}
  for t, prop in enumerate(planned.props):
    rgb = GOLD if prop.shape == cater.SNITCH else COLOURS[prop.colour]
    rgb = scene_lib.vector(c / 255 for c in rgb)
    shape = spec.style if prop.shape == "cone" and spec.style else _SHAPES[prop.shape]
    size = prop.size if shape in ("cone", "cup", "snitch") else _as_large(shape, prop.size)
    surface = Look(rgb, rgb, shine=MATERIALS[prop.material])
    pos = scene_lib.vector(planned.pos_NT3[0, t])
    yaw = float(planned.yaw_NT[0, t])
    things.append(Thing(prop.name, prop.shape, shape, size, surface, pos, yaw, DRIVEN))
    tracks[prop.name] = Track(planned.pos_NT3[:, t], scene_lib.yaw_quat(planned.yaw_NT[:, t]))
  shade = rng.uniform(0.5, 0.62)
  grey = Look(
    (shade, shade, shade),
    (1.08 * shade, 1.08 * shade, 1.08 * shade),
    "noise",
    int(rng.integers(2**31)),
    0.05,
  )
  return Scene(
    spec,
    tuple(things),
    _camera(rng, spec),
    grey,
    (7.0, 7.0),
    Look((0.72, 0.72, 0.73), shine=0.05),
    staging.light(rng),
    tracks,
    planned.acts,
  )


def _as_large(shape: str, size: float) -> float:
  """The size at which a primitive is as large as CATER's of that size."""
  return size / {"cube": 0.62 * math.sqrt(2), "ball": 0.75, "cylinder": 0.7}[shape]


def _camera(rng: np.random.Generator, spec: Spec) -> Camera:
  """CLEVR's place of the camera, by a little, from which all cells are seen."""
  azimuth = math.radians(46.6) + float(rng.normal(0, 0.02))
  target = (0.0, 0.0, 0.4)
  return staging.camera(
    rng,
    spec,
    target=target,
    distance=11.2,
    azimuth=azimuth,
    elevation=0.58 + float(rng.normal(0, 0.01)),
    fovy_deg=40.0,
  )


class _Planner:
  """Plans one scene: places first, then movements, stretch by stretch."""

  def __init__(self, spec: Spec, rng: np.random.Generator, *, eager: bool):
    self._spec, self._rng, self._eager = spec, rng, eager
    self.props = self._draw()
    n, t = spec.frames, len(self.props)
    self._pos = np.zeros((n, t, 3))
    self._yaw = np.tile(np.deg2rad([prop.turn_deg for prop in self.props]), (n, 1))
    self._inside = np.full((n, t), -1)
    self._acts: list[Act] = []
    places = staging.Places(rng, (cater.HALF * 0.97, cater.HALF * 0.97), _GAP)
    for i, prop in enumerate(self.props):
      self._pos[:, i] = *places.take(prop.size), prop.size

  def _draw(self) -> tuple[Prop, ...]:
    """The snitch, a medium and a large cone, and others."""
    rng, (least, most) = self._rng, self._spec.things
    kinds = [(cater.SNITCH, "small"), ("cone", "medium"), ("cone", "large")]
    for _ in range(max(int(rng.integers(least, most + 1)) - len(kinds), 0)):
      kinds.append((str(rng.choice(tuple(_SHAPES)[:4])), str(rng.choice(tuple(SIZES)))))
    out, counts = [], {}
    for shape, size in kinds:
      count = counts[shape] = counts.get(shape, -1) + 1
      is_gold = shape == cater.SNITCH
      out.append(
        Prop(
          f"{shape.capitalize()}_{count}",
          shape,
          size,
          SNITCH_SIZE if is_gold else SIZES[size] / (math.sqrt(2) if shape == "cube" else 1),
          "gold" if is_gold else str(rng.choice(tuple(COLOURS))),
          "metal" if is_gold else str(rng.choice(tuple(MATERIALS))),
          float(rng.uniform(0, 360)),
        )
      )
    return tuple(out)

  def plan(self) -> Plan:
    least, _ = self._spec.move_frames
    begin, last = 0, self._spec.frames - 1
    while begin + least <= last:
      ends = [begin]
      busy: set[int] = set()
      if self._rng.uniform() < (0.9 if self._eager else 0.5):
        ends.append(self._cover(begin, busy))
      for t in self._rng.permutation(len(self.props)):
        if t not in busy and self._inside[begin, t] < 0:
          ends.append(self._move(int(t), begin, busy))
      begin = max(ends) + 1
    return Plan(
      self.props, self._pos, self._yaw, tuple(sorted(self._acts, key=_when)), self._inside
    )

  def _span(self, begin: int) -> tuple[int, int]:
    """When a movement of a stretch that begins there begins and ends."""
    least, most = self._spec.move_frames
    start = begin + int(self._rng.integers(0, max(least // 2, 1)))
    end = min(start + int(self._rng.integers(least, most + 1)), self._spec.frames - 1)
    return start, end

  def _below(self, t: int, frame: int) -> list[int]:
    """All that a thing covers, and what that covers."""
    out = [i for i in range(len(self.props)) if self._inside[frame, i] == t]
    return out + [j for i in out for j in self._below(i, frame)]

  def _cover(self, begin: int, busy: set[int]) -> int:
    """A cone is put over something; when that ends."""
    pairs = [
      (a, b)
      for a, cone in enumerate(self.props)
      for b, prop in enumerate(self.props)
      if cone.shape == "cone"
      and prop.shape in _COVERED
      and cone.size > prop.size
      and a != b
      and self._inside[begin, a] < 0
      and self._inside[begin, b] < 0
      and not self._below(a, begin)
    ]
    order = self._rng.permutation(len(pairs))
    if self._eager:  # what covers the snitch first
      covered = [b == 0 or 0 in self._below(b, begin) for _, b in pairs]
      order = sorted(order, key=lambda i: not covered[i])
    for i in order:
      a, b = pairs[i]
      start, end = self._span(begin)
      goal = self._pos[start, b, :2]
      path = self._lifted(self._pos[start, a], goal, end - start)
      own = {a, b, *self._below(b, begin)}
      if end - start >= _LEAST and self._is_free(a, path, start, others_but=own):
        self._set(a, path, start)
        self._inside[end:, b] = a
        self._acts.append(Act("contain", self.props[a].name, self.props[b].name, start, end))
        busy |= own
        return end
    return begin

  def _move(self, t: int, begin: int, busy: set[int]) -> int:
    """A thing that nothing covers slides, is lifted somewhere else, or turns."""
    below, prop = self._below(t, begin), self.props[t]
    verbs = ["slide", "pick_place"]
    if not below and prop.shape not in ("cone", "sphere"):
      verbs.append("rotate")
    if below and self._eager and (0 in below):
      verbs = ["slide"]
    for _ in range(_TRIES):
      verb = str(self._rng.choice(verbs))
      start, end = self._span(begin)
      if end - start < _LEAST:
        return begin
      if verb == "rotate":
        self._yaw[start : end + 1, t] += np.linspace(0, np.pi / 2, end - start + 1)
        self._yaw[end + 1 :, t] += np.pi / 2
      else:
        goal = self._rng.uniform(-cater.HALF, cater.HALF, 2)
        place = self._pos[start, t]
        if verb == "slide":
          path = np.linspace(place, [*goal, place[2]], end - start + 1)
        else:
          path = self._lifted(place, goal, end - start)
        own = {t, *below} if verb == "slide" else {t}
        far = True
        if verb == "pick_place" and below:  # what was covered is not to be touched
          uncovered = self._pos[start, below[0], :2]
          far = np.hypot(*(goal - uncovered)) > prop.size + self.props[below[0]].size + _GAP
        if not far or not self._is_free(t, path, start, others_but={*own, *below}):
          continue
        self._set(t, path, start)
        if verb == "slide":
          for i in below:
            flat = path.copy()
            flat[:, 2] = self._pos[start, i, 2]
            self._set(i, flat, start)
        elif below:
          self._inside[start + 1 :, [i for i in below if self._inside[start, i] == t]] = -1
      for who in [t, *(below if verb == "slide" else ())]:
        self._acts.append(Act(verb, self.props[who].name, "", start, end))
      busy |= {t, *below}
      return end
    return begin

  def _lifted(self, place: np.ndarray, goal: np.ndarray, frames: int) -> np.ndarray:
    """Up, over, down: a fifth of the time, three fifths, a fifth."""
    high = place[2] + _PICK
    share = [0, 0.2, 0.8, 1]
    corners = np.array([place, [*place[:2], high], [*goal, high], [*goal, place[2]]])
    at = np.linspace(0, 1, frames + 1)
    return np.stack([np.interp(at, share, corners[:, axis]) for axis in range(3)], -1)

  def _set(self, t: int, path: np.ndarray, start: int) -> None:
    self._pos[start : start + len(path), t] = path
    self._pos[start + len(path) :, t] = path[-1]

  def _is_free(self, t: int, path: np.ndarray, start: int, *, others_but: set[int]) -> bool:
    """Whether a thing can go along a path and stay at its end."""
    whole = np.concatenate([path, np.repeat(path[-1:], len(self._pos) - start - len(path), 0)])
    for i, prop in enumerate(self.props):
      if i not in others_but:
        away = np.linalg.norm(whole - self._pos[start:, i], axis=1)
        near = away < prop.size + self.props[t].size + _GAP
        if near[self._inside[start:, i] < 0].any():  # what is covered is in its cone
          return False
    return True


def _when(act: Act) -> tuple[int, int, str]:
  return act.begin, act.end, act.subject
