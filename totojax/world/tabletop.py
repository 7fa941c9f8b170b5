"""Things that lie, roll, slide and fall on a table, and one that drives through them."""

import numpy as np

from totojax.world import scene as scene_lib, shapes, staging
from totojax.world.scene import DRIVEN, Scene, Spec, Thing, Track

_HALF = (0.62, 0.5)
_AREA = (0.36, 0.26)  # where things begin
_SPEED = (0.45, 1.1)
_DRIVEN_FRAC = 0.4  # scenes with something that drives
_DROP = (0.12, 0.35)


def build(spec: Spec) -> Scene:
  """Some things; one or more of them are thrown, dropped or driven."""
  rng = spec.generator(1)
  least, most = spec.things
  count = int(rng.integers(least, most + 1))
  is_driven = rng.uniform() < _DRIVEN_FRAC
  places = staging.Places(rng, _AREA, 0.015)
  moving = int(rng.integers(1, max(count // 2, 1) + 1))
  things, tracks = [], {}
  for number, shape in enumerate(staging.pick(rng, shapes.LYING, count)):
    size = float(rng.uniform(0.055, 0.095))
    form = shapes.form(shape, size)
    x, y = places.take(form.radius)
    yaw = float(rng.uniform(-np.pi, np.pi))
    motion, velocity, spin, z = (
      scene_lib.FREE,
      (0.0, 0.0, 0.0),
      (0.0, 0.0, 0.0),
      form.bottom - staging.PRESS,
    )
    if number < moving:
      if number == 0 and is_driven:
        motion = DRIVEN
      elif rng.uniform() < 0.45:  # it is dropped
        z += float(rng.uniform(*_DROP))
        spin = scene_lib.vector(rng.uniform(-6, 6, 3))
      else:  # towards the middle, about
        aim = rng.uniform(-0.15, 0.15, 2) - (x, y)
        aim = aim / max(float(np.hypot(*aim)), 1e-6) * rng.uniform(*_SPEED)
        velocity = (float(aim[0]), float(aim[1]), 0.0)
        spin = (0.0, 0.0, float(rng.uniform(-8, 8)))
    name = f"{shape}_{number}"
    thing = Thing(
      name, shape, shape, size, staging.look(rng), (x, y, z), yaw, motion, velocity, spin
    )
    things.append(thing)
    if motion == DRIVEN:
      tracks[name] = _drive(rng, spec, thing)
  azimuth = float(rng.uniform(-np.pi, np.pi)) * 0.9
  camera = staging.camera(
    rng,
    spec,
    target=(float(rng.uniform(-0.05, 0.05)), float(rng.uniform(-0.05, 0.05)), 0.05),
    distance=float(rng.uniform(1.05, 1.4)),
    azimuth=azimuth,
    elevation=float(rng.uniform(0.5, 1.0)),
    swing=0.8,
  )
  return Scene(
    spec,
    tuple(things),
    camera,
    staging.look(rng, vivid=False),
    _HALF,
    staging.look(rng, vivid=False, plain_frac=0.6),
    staging.light(rng),
    tracks,
    friction=float(rng.uniform(0.12, 0.4)),
  )


def _drive(rng: np.random.Generator, spec: Spec, thing: Thing) -> Track:
  """A round trip about the table's middle, at a steady pace, nose forward."""
  time_N = np.arange(spec.frames) / spec.fps
  start = np.array(thing.pos[:2])
  radius = max(float(np.hypot(*start)), 0.12)
  begin = float(np.arctan2(start[1], start[0]))
  pace = float(rng.choice([-1, 1]) * rng.uniform(0.9, 2.0))
  angle_N = begin + pace * time_N
  swell_N = 1 + 0.25 * np.sin(2.3 * (angle_N - begin))
  x_N, y_N = (radius * swell_N * f(angle_N) for f in (np.cos, np.sin))
  x_N, y_N = x_N + start[0] - x_N[0], y_N + start[1] - y_N[0]
  yaw_N = thing.yaw + (angle_N - begin)
  pos_N3 = np.stack([x_N, y_N, np.full_like(x_N, thing.pos[2])], -1)
  return Track(pos_N3, scene_lib.yaw_quat(yaw_N))
