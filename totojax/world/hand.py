"""A hand, a gripper or an arm that comes to one of several things and does something.

It waits, comes to its target and touches it: takes it (from above, and lifts
it), pushes it (from the side) or opens it (a drawer, by its knob). Where it
starts says nothing of where it goes: often it is nearest to another thing.

Its own z is the way its fingers point, x the way that they close, and its
origin lies between their tips.

Shapes: N frames.
"""

import dataclasses

import numpy as np

from totojax.config.world import LEAST_FRAMES
from totojax.world import arms, scene as scene_lib, shapes, staging
from totojax.world.scene import Act, DRIVEN, FIXED, Hold, Scene, Spec, Thing, Track

VERBS = ("take", "push", "open")
ACTORS = ("hand", "gripper", *arms.ARMS)
_HALF = (0.6, 0.45)
_AREA = (0.27, 0.17)
TAKEN = ("cube", "brick", "ball", "cylinder", "pill", "egg", "bottle", "mug")
COLOURS = {  # nouns, where these tell things apart
  "red": (0.85, 0.12, 0.1),
  "yellow": (0.95, 0.85, 0.12),
  "green": (0.12, 0.65, 0.2),
  "cyan": (0.15, 0.75, 0.85),
  "blue": (0.12, 0.2, 0.85),
  "magenta": (0.85, 0.2, 0.75),
}
_CABINET, _SLEEVE = (0.5, 0.33, 0.18), (0.4, 0.4, 0.43)  # theirs, where colours are nouns
_SKINS = ((0.96, 0.80, 0.69), (0.87, 0.67, 0.51), (0.66, 0.46, 0.33), (0.43, 0.29, 0.21))
_SQUEEZE = 0.006  # that fingers are closed farther than what they hold
_WAIT, _COME, _NEAR = 0.22, 0.6, 0.72  # shares of the film: begins to come, is above, has closed
_TABLE_GAP = 0.012


def build(spec: Spec) -> Scene:
  """A target among other things, and who comes to it."""
  if spec.frames < LEAST_FRAMES:
    raise ValueError(f"{spec.frames} frames; a hand takes {LEAST_FRAMES} to come to something")
  rng = spec.generator(5)
  actor = spec.style or ACTORS[int(rng.integers(2))]
  verb = VERBS[int(rng.integers(3))]
  least, most = spec.things
  count = max(int(rng.integers(least, most + 1)), 2)
  places = staging.Places(rng, _AREA, 0.045)
  things: list[Thing] = []
  # The target is drawn first: it gets a place with room around it.
  cabinets = 1 if verb == "open" else int(rng.uniform() < 0.5)
  names = ["cabinet"] * cabinets + staging.pick(rng, TAKEN, count - cabinets)
  if verb != "open":
    names = [*names[cabinets:], *names[:cabinets]]
  for number, shape in enumerate(names):
    is_cabinet = shape == "cabinet"
    size = float(rng.uniform(0.095, 0.11) if is_cabinet else rng.uniform(0.05, 0.065))
    form = shapes.form(shape, size)
    x, y = places.take(form.radius)
    yaw = float(rng.uniform(-0.35, 0.35))
    pos = (x, y, form.bottom - staging.PRESS)
    motion = FIXED if is_cabinet else scene_lib.FREE
    noun = "drawer" if is_cabinet else shape
    things.append(Thing(f"{noun}_{number}", noun, shape, size, staging.look(rng), pos, yaw, motion))
  if spec.nouns == "colour":
    things = _coloured(things, spec.generator(6))
  target = things[0]
  script = _script(rng, spec, verb, actor, things)
  form_name = "hand" if actor == "hand" else "gripper"
  look = _surface(rng, actor)
  if spec.nouns == "colour":
    look = dataclasses.replace(look, rgb2=_SLEEVE)
  start = scene_lib.vector(script.track.pos_N3[0])
  own = Thing(actor, actor, form_name, _SIZES[form_name], look, start, motion=DRIVEN)
  order = [int(i) for i in rng.permutation(len(things))]  # numbers say nothing
  camera = staging.camera(
    rng,
    spec,
    target=(0.0, 0.02, 0.03),
    # An arm is seen with what it stands on.
    distance=float(rng.uniform(0.84, 0.98)) * (1.4 if actor in arms.ARMS else 1.0),
    azimuth=float(rng.uniform(-0.35, 0.35)) + (0.5 if actor in arms.ARMS else 0.0),
    elevation=float(rng.uniform(0.72, 1.0)),
    swing=0.35,
  )
  return Scene(
    spec,
    (*(things[i] for i in order), own),
    camera,
    staging.look(rng, vivid=False),
    _HALF,
    staging.look(rng, vivid=False, plain_frac=0.6),
    staging.light(rng),
    {actor: script.track},
    (Act(verb, actor, target.name, script.touch, spec.frames - 1),),
    () if verb == "push" else (Hold(target.name, actor, script.touch + 1),),
    arm=actor if actor in arms.ARMS else "",
    friction=0.5,
  )


def _coloured(things: list[Thing], rng: np.random.Generator) -> list[Thing]:
  """The same things in plain colours, which are their nouns; a drawer is one by its shape."""
  names = iter(staging.pick(rng, tuple(COLOURS), len(things)))
  out = []
  for thing in things:
    noun = thing.noun if thing.shape == "cabinet" else next(names)
    rgb = COLOURS.get(noun, _CABINET)
    out.append(dataclasses.replace(thing, noun=noun, look=scene_lib.Look(rgb, rgb)))
  return out


_SIZES = {"hand": 0.05, "gripper": 0.05}


def _surface(rng: np.random.Generator, actor: str) -> scene_lib.Look:
  if actor == "hand":
    return scene_lib.Look(_SKINS[rng.integers(len(_SKINS))], staging.colour(rng), shine=0.05)
  return scene_lib.Look((0.85, 0.86, 0.88), (0.15, 0.15, 0.17), shine=0.5)


class _Script:
  """Places of the hand through the film, by poses at shares of it."""

  def __init__(self, spec: Spec):
    self._spec = spec
    self._keys: list[tuple[float, np.ndarray, np.ndarray, float]] = []
    self.touch = 0  # frame at which the fingers have closed

  def at(self, share: float, pos: np.ndarray, turn: np.ndarray, opening: float) -> None:
    self._keys.append((share, np.asarray(pos, np.float64), turn, opening))

  @property
  def track(self) -> Track:
    """Minimum jerk from key to key."""
    n = self._spec.frames
    share_N = np.arange(n) / max(n - 1, 1)
    pos_N3, quat_N4, opening_N = np.empty((n, 3)), np.empty((n, 4)), np.empty(n)
    times = [key[0] for key in self._keys]
    for i, share in enumerate(share_N):
      k = int(np.clip(np.searchsorted(times, share, "right") - 1, 0, len(times) - 2))
      (t0, p0, q0, o0), (t1, p1, q1, o1) = self._keys[k : k + 2]
      part = scene_lib.eased((share - t0) / (t1 - t0))
      pos_N3[i], opening_N[i] = p0 + part * (p1 - p0), o0 + part * (o1 - o0)
      q1 = q1 if q0 @ q1 >= 0 else -q1
      quat = (1 - part) * q0 + part * q1
      quat_N4[i] = quat / np.linalg.norm(quat)
    # Last bits of linear algebra depend on where arrays lie: they are rounded off.
    return Track(np.round(pos_N3, 9), np.round(quat_N4, 9), np.round(opening_N, 9))


def _script(
  rng: np.random.Generator, spec: Spec, verb: str, actor: str, things: list[Thing]
) -> _Script:
  """What the hand does, as poses."""
  target = things[0]
  form, place, script = shapes.form(target.shape, target.size), np.array(target.pos), _Script(spec)
  script.touch = int(np.ceil(_NEAR * (spec.frames - 1)))
  near = script.touch / (spec.frames - 1)
  wide, start = 0.055, _start(rng, things)
  # An arm of flesh comes from the front, one of metal from above.
  forward = float(rng.uniform(0.6, 1.1) if actor == "hand" else rng.uniform(0.0, 0.3))
  rest = _towards((0.0, forward, -1.0), 0.0)
  script.at(0.0, start, rest, 0.03)
  script.at(
    _WAIT + float(rng.uniform(-0.08, 0.08)), start + rng.uniform(-0.03, 0.03, 3), rest, 0.03
  )
  if verb == "take":
    lean = (float(rng.uniform(-0.2, 0.2)), forward, -1.0)
    turn = _towards(lean, target.yaw)
    way = np.array(lean) / np.linalg.norm(lean)
    grasp = place - [0, 0, 0.25 * form.bottom]
    closed = form.half_width - _SQUEEZE
    script.at(_COME, grasp - 0.09 * way - [0, 0, -0.02], turn, wide)
    script.at(_COME + 0.6 * (near - _COME), grasp, turn, max(form.half_width + 0.012, 0.03))
    script.at(near, grasp, turn, closed)
    away = np.array([rng.uniform(-0.1, 0.1), rng.uniform(-0.16, 0.0), rng.uniform(0.12, 0.2)])
    script.at(1.0, grasp + away, turn, closed)
  elif verb == "push":
    along = _free_way(rng, target, things)
    turn = _towards(
      (0.8 * along[0], 0.8 * along[1], -0.6), float(np.arctan2(along[1], along[0])) - np.pi / 2
    )
    low = np.array([0, 0, max(0.3 * form.bottom, _TABLE_GAP) - form.bottom])
    reach = form.radius + 0.012
    script.at(_COME, place + low - along * (reach + 0.07) + [0, 0, 0.03], turn, 0.0)
    script.at(near, place + low - along * (_side(target, along) - 0.004), turn, 0.0)
    script.at(1.0, place + low + along * float(rng.uniform(0.08, 0.14)), turn, 0.0)
  else:
    out = np.array([np.sin(target.yaw), -np.cos(target.yaw), 0.0])  # where the drawer goes
    knob = place + out * (0.75 + 0.3) * target.size
    turn = _towards((-0.75 * out[0], -0.75 * out[1], -0.66), target.yaw)
    closed = form.half_width - _SQUEEZE
    script.at(_COME, knob + 0.07 * out + [0, 0, 0.05], turn, wide)
    script.at(_COME + 0.6 * (near - _COME), knob, turn, form.half_width + 0.012)
    script.at(near, knob, turn, closed)
    script.at(1.0, knob + out * float(rng.uniform(0.06, 0.1)), turn, closed)
  return script


def _start(rng: np.random.Generator, things: list[Thing]) -> np.ndarray:
  """Where a hand waits: above the front of the table, or above something."""
  if rng.uniform() < 0.5:
    other = things[int(rng.integers(len(things)))]
    return np.array([other.pos[0], other.pos[1] - 0.06, 0.2]) + rng.uniform(-0.03, 0.03, 3)
  return np.array([rng.uniform(-0.3, 0.3), rng.uniform(-0.32, -0.2), rng.uniform(0.15, 0.24)])


def _towards(way: tuple[float, float, float], yaw: float) -> np.ndarray:
  """The quaternion of a hand whose z is `way`, and whose x is level and turned by `yaw`."""
  z = np.array(way) / np.linalg.norm(way)
  x = np.array([np.cos(yaw), np.sin(yaw), 0.0])
  x = x - (x @ z) * z
  x /= np.linalg.norm(x)
  y = np.cross(z, x)
  return _quat(np.stack([x, y, z], 1))


def _quat(turn: np.ndarray) -> np.ndarray:
  """w x y z of a rotation [3, 3]: the eigenvector of Bar-Itzhack's matrix."""
  (a, b, c), (d, e, f), (g, h, i) = turn
  k = np.array(
    [
      [a - e - i, d + b, g + c, h - f],
      [d + b, e - a - i, h + f, c - g],
      [g + c, h + f, i - a - e, d - b],
      [h - f, c - g, d - b, a + e + i],
    ]
  )
  _, vectors = np.linalg.eigh(k / 3)
  x, y, z, w = vectors[:, -1]
  return np.array([w, x, y, z]) * (1 if w >= 0 else -1)


def _side(target: Thing, along: np.ndarray) -> float:
  """From a thing's middle to its side, against a way [3]."""
  if target.shape not in ("cube", "brick"):
    form = shapes.form(target.shape, target.size)
    own = _local(target, along)
    long = form.radius if target.shape in ("pill", "egg") else form.half_width
    return float(np.hypot(own[0] * form.half_width, own[1] * long))
  half = shapes.form(target.shape, target.size).geoms[0].size
  own = np.abs(_local(target, along))
  return float(min(half[i] / max(own[i], 1e-6) for i in range(2)))


def _local(target: Thing, way: np.ndarray) -> np.ndarray:
  c, s = np.cos(target.yaw), np.sin(target.yaw)
  return np.array([c * way[0] + s * way[1], -s * way[0] + c * way[1]])


def _free_way(rng: np.random.Generator, target: Thing, things: list[Thing]) -> np.ndarray:
  """A level way [3], rather from the front, before and behind which nothing lies."""
  best, most = np.array([0.0, 1.0, 0.0]), -np.inf
  for _ in range(40):
    angle = float(rng.uniform(0.1 * np.pi, 0.9 * np.pi))
    way = np.array([np.cos(angle), np.sin(angle), 0.0])
    free = 1.0
    for other in things[1:]:
      away = np.array(other.pos) - target.pos
      beside = abs(way[0] * away[1] - way[1] * away[0])
      if -0.25 < way @ away < 0.3:
        free = min(free, beside - shapes.form(other.shape, other.size).radius)
    if free > most:
      best, most = way, free
  return best
