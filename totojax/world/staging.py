"""What the kinds of scenes have in common: colours, rooms, cameras, free places.

Shapes: N frames.
"""

from collections.abc import Sequence
import colorsys
import math

import numpy as np

from totojax.world import scene as scene_lib, textures
from totojax.world.scene import Camera, Look, Spec, Vector

PRESS = 2e-4  # that things lie in the table at first, so as to touch it
_TRIES = 400


def colour(rng: np.random.Generator, *, vivid: bool = True) -> Vector:
  """A colour that is neither dark nor pale; not `vivid`: of a room."""
  hue = rng.uniform()
  low, high = ((0.55, 0.95), (0.65, 1.0)) if vivid else ((0.05, 0.35), (0.35, 0.75))
  return colorsys.hsv_to_rgb(hue, rng.uniform(*low), rng.uniform(*high))


def look(rng: np.random.Generator, *, vivid: bool = True, plain_frac: float = 0.25) -> Look:
  """A surface of two colours that are told apart."""
  first = colour(rng, vivid=vivid)
  second = colour(rng, vivid=vivid)
  if vivid and rng.uniform() < 0.4:
    second = (0.95, 0.95, 0.93) if rng.uniform() < 0.6 else (0.12, 0.12, 0.14)
  if not vivid:  # shades of one colour
    second = scene_lib.vector(min(1.0, c * rng.uniform(1.15, 1.5)) for c in first)
  names = textures.TEXTURES[1:] if vivid else ("checker", "noise", "wood", "stripes", "patches")
  texture = "plain" if rng.uniform() < plain_frac else str(rng.choice(names))
  shine = float(rng.uniform(0.05, 0.6)) if vivid else 0.05
  return Look(first, second, texture, int(rng.integers(2**31)), shine)


def light(rng: np.random.Generator) -> Vector:
  """Where a lamp above the table shines to."""
  angle = rng.uniform(0, 2 * np.pi)
  return float(0.55 * np.cos(angle)), float(0.55 * np.sin(angle)), -1.0


def camera(
  rng: np.random.Generator,
  spec: Spec,
  *,
  target: Vector,
  distance: float,
  azimuth: float,
  elevation: float,
  fovy_deg: float = 42.0,
  swing: float = 0.5,
) -> Camera:
  """A camera that stands still, or goes round its target as `spec.camera` has it.

  Args:
    rng: of the ride.
    spec: of the scene.
    target: what it looks at.
    distance: to the target.
    azimuth: radians from the front, to the right.
    elevation: radians above the table.
    fovy_deg: from the upper edge to the lower.
    swing: radians that it goes round the target, at most.
  """
  time_N = np.linspace(0, 1, spec.frames) if spec.frames > 1 else np.zeros(1)
  moves = spec.camera == "moving"
  ride_N = scene_lib.eased(time_N) if rng.uniform() < 0.5 else np.sin(np.pi * time_N)
  turn, rise, nearer = rng.uniform(-1, 1, 3) * (swing, 0.35 * swing, 0.25) * moves
  if moves:  # enough of it to be seen
    turn = np.copysign(max(abs(turn), 0.5 * swing), turn)
  azimuth_N, elevation_N = azimuth + turn * ride_N, elevation + rise * ride_N
  elevation_N = np.clip(elevation_N, 0.3, 1.4)
  distance_N = distance * (1 + nearer * ride_N)
  flat_N = distance_N * np.cos(elevation_N)
  target_N3 = np.broadcast_to(np.array(target, np.float64), (spec.frames, 3)).copy()
  offset_N3 = np.stack(
    [flat_N * np.sin(azimuth_N), -flat_N * np.cos(azimuth_N), distance_N * np.sin(elevation_N)], -1
  )
  if spec.zoom != 1:
    fovy_deg = math.degrees(2 * math.atan(math.tan(math.radians(fovy_deg) / 2) / spec.zoom))
  return Camera(target_N3 + offset_N3, target_N3, fovy_deg, 0.05 * distance, 12 * distance)


class Places:
  """Finds places on the table where nothing lies yet."""

  def __init__(self, rng: np.random.Generator, half: tuple[float, float], gap: float):
    self._rng, self._half, self._gap = rng, half, gap
    self.taken: list[tuple[float, float, float]] = []  # x, y, radius

  def take(self, radius: float) -> tuple[float, float]:
    """A free place for something round; the freest that was found, where none is free."""
    best, most = (0.0, 0.0), -np.inf
    for _ in range(_TRIES):
      x, y = (float(self._rng.uniform(-h, h)) for h in self._half)
      free = min((np.hypot(x - a, y - b) - r for a, b, r in self.taken), default=np.inf)
      if free > most:
        best, most = (x, y), free
      if free > radius + self._gap:
        break
    self.taken.append((*best, radius))
    return best


def pick(rng: np.random.Generator, names: Sequence[str], count: int) -> list[str]:
  """So many names, none twice before all were there."""
  out: list[str] = []
  while len(out) < count:
    out += [str(name) for name in rng.permutation(names)]
  return out[:count]
