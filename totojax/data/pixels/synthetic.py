"""Videos that the project renders itself: textured objects that move.

A clip has a background, one large object (the labelled one), up to a few small
ones, and sometimes a bar in front of all of them. Everything lives on a torus:
what leaves on the right comes back on the left. So the place, size and angle of
an object at any one frame have the same distribution for every motion, and a
motion can be read from several frames only, never from one. Shapes can be read
from one frame.

Clip i is a function of (config, i) alone. Edges come from signed distances in
pixels, which gives anti-aliasing for the price of one sample a pixel.

Shapes: N frames, H height, W width (H = W = size_px).
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from totojax.config.pixels import BACKGROUNDS, LABELS, MOTIONS, Scene

SHAPES = ("disc", "square", "triangle", "ring", "cross")
TEXTURES = ("halves", "quarters", "stripes", "core", "plain")

# These look different when turned, on any shape. The large object has one of
# them, or a spinning disc would be a still one.
_TURNING = TEXTURES[:3]

# Few colours, so that a vocabulary of some hundred codes can draw the scenes.
OBJECT_RGB = np.array([(225, 40, 40), (40, 170, 60), (50, 80, 225), (240, 205, 40)], np.float32)
_BACKGROUND_RGB = np.array(
  [[(28, 28, 34), (90, 90, 100)], [(225, 220, 210), (160, 150, 135)]], np.float32
)
_OCCLUDER_RGB = np.array((245, 245, 245), np.float32)
_SHADE = 0.55  # the darker of an object's two tones

# Sizes and speeds are fractions of the frame side, times are frames.
SMALL_RADIUS = (0.12, 0.15)
_ORBIT_RADIUS = (0.16, 0.24)
_ORBIT_PERIOD = (10.0, 16.0)
_SWING_REACH = (0.18, 0.28)
_SPIN_RATE = (0.2, 0.35)  # radians a frame
_PULSE = 0.3  # relative change of the radius
_PULSE_PERIOD = (8.0, 14.0)
_OCCLUDER_WIDTH = (0.12, 0.18)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticConfig(Scene):
  """A scene, and with a clip's index what decides everything in the clip."""

  seed: int


@dataclasses.dataclass(frozen=True)
class Clip:
  """One rendered clip."""

  frames_NHW3: np.ndarray  # uint8 pixels
  shape: int  # index into SHAPES of the large object
  motion: int  # index into MOTIONS of the large object


@dataclasses.dataclass(frozen=True)
class Path:
  """Place (fractions of the frame), radius and angle at each frame."""

  x_N: np.ndarray
  y_N: np.ndarray
  radius_N: np.ndarray
  angle_N: np.ndarray


def classes(by: str, motions: Sequence[str]) -> tuple[str, ...]:
  """Class names for labels by "motion", "shape" or "both" (shape-motion)."""
  if by not in LABELS:
    raise ValueError(f"label {by!r} is unknown; use one of {LABELS}")
  if by == "motion":
    return tuple(motions)
  if by == "shape":
    return SHAPES
  return tuple(f"{s}-{m}" for s in SHAPES for m in motions)


def label(clip: Clip, by: str, motions: Sequence[str]) -> int:
  """Index of the clip's class in `classes(by, motions)`."""
  shape, motion = SHAPES[clip.shape], MOTIONS[clip.motion]
  name = {"shape": shape, "motion": motion}.get(by, f"{shape}-{motion}")
  return classes(by, motions).index(name)


def render(config: SyntheticConfig, index: int) -> Clip:
  """Clip `index`: uint8 [frames, size_px, size_px, 3] and its two classes.

  Raises:
    ValueError: if the index is negative.
  """
  if index < 0:
    raise ValueError(f"clip index is {index}; use 0 or more")
  rng = np.random.default_rng([config.seed, index])
  shape = int(rng.integers(len(SHAPES)))
  motion = config.moves[rng.integers(len(config.moves))]
  time_N = np.arange(config.frames, dtype=np.float32)
  image_NHW3 = background(rng, config, time_N)
  small = int(rng.integers(config.objects))
  front = int(rng.integers(small + 1))  # small ones in front of the large one
  for layer in range(small + 1):
    if layer == small - front:
      path = _path(rng, motion, config.radius, config.speed, time_N)
      _draw(rng, image_NHW3, path, SHAPES[shape], _TURNING)
    else:
      other = config.moves[rng.integers(len(config.moves))]
      path = _path(rng, other, SMALL_RADIUS, config.speed, time_N)
      kind = SHAPES[rng.integers(len(SHAPES))]
      _draw(rng, image_NHW3, path, kind, TEXTURES)
  if rng.random() < config.occluder_frac:
    _occlude(rng, image_NHW3)
  frames_NHW3 = np.clip(np.rint(image_NHW3), 0, 255).astype(np.uint8)
  return Clip(frames_NHW3, shape, MOTIONS.index(motion))


def _path(
  rng: np.random.Generator,
  motion: str,
  radius_range: tuple[float, float],
  speed_range: tuple[float, float],
  time_N: np.ndarray,
) -> Path:
  """Where an object is; every motion has the same law at any one frame."""
  x, y, angle, phase = rng.uniform(0, [1, 1, 2 * np.pi, 2 * np.pi])
  radius = rng.uniform(*radius_range)
  speed = rng.uniform(*speed_range)
  turn = rng.uniform(0, 2 * np.pi)  # where on its orbit or swing it starts
  zero_N = np.zeros_like(time_N)
  x_N, y_N, angle_N, phase_N = zero_N + x, zero_N + y, zero_N + angle, zero_N
  match motion:
    case "still":
      pass
    case "right" | "left":
      x_N = x + (speed if motion == "right" else -speed) * time_N
    case "up" | "down":
      y_N = y + (speed if motion == "down" else -speed) * time_N
    case "clockwise" | "anticlockwise":
      sign = 1 if motion == "clockwise" else -1  # y points down
      omega = sign * 2 * np.pi / rng.uniform(*_ORBIT_PERIOD)
      reach = rng.uniform(*_ORBIT_RADIUS)
      x_N = x + reach * np.cos(turn + omega * time_N)
      y_N = y + reach * np.sin(turn + omega * time_N)
    case "swing":
      reach = rng.uniform(*_SWING_REACH)
      cycle_N = (turn / (2 * np.pi) + speed * time_N / (4 * reach)) % 1.0
      offset_N = reach * (4 * np.abs(cycle_N - 0.5) - 1)
      heading = rng.uniform(0, 2 * np.pi)
      x_N = x + np.cos(heading) * offset_N
      y_N = y + np.sin(heading) * offset_N
    case "spin":
      angle_N = angle + rng.choice([-1, 1]) * rng.uniform(*_SPIN_RATE) * time_N
    case "pulse":
      phase_N = 2 * np.pi / rng.uniform(*_PULSE_PERIOD) * time_N
  radius_N = radius * (1 + _PULSE * np.sin(phase + phase_N))
  return Path(x_N, y_N, radius_N, angle_N)


def _wrapped(offset: np.ndarray) -> np.ndarray:
  """Shortest way round the torus: -0.5 to 0.5 of a side."""
  return (offset + 0.5) % 1.0 - 0.5


def axis_of(size_px: int) -> np.ndarray:
  """Pixel centres as fractions of the side."""
  return ((np.arange(size_px) + 0.5) / size_px).astype(np.float32)


def _draw(
  rng: np.random.Generator,
  image_NHW3: np.ndarray,
  path: Path,
  shape: str,
  textures: tuple[str, ...],
) -> None:
  """Draws one object with one of the textures into the image, in place."""
  texture = textures[rng.integers(len(textures))]
  bright_3 = OBJECT_RGB[rng.integers(len(OBJECT_RGB))]
  paint(image_NHW3, path, shape, texture, bright_3)


def paint(
  image_NHW3: np.ndarray,
  path: Path,
  shape: str,
  texture: str,
  bright_N3: np.ndarray,
  shown_N: np.ndarray | float = 1.0,
) -> None:
  """Draws an object into the image, in place.

  Args:
    image_NHW3: float32 pixels.
    path: where it is.
    shape: one of `SHAPES`.
    texture: one of `TEXTURES`.
    bright_N3: its colour, [3] or at each frame.
    shown_N: 1.0 in frames that it is in, else 0.0.
  """
  u_NHW, v_NHW, pixels_N11 = _axes(path, image_NHW3.shape[1])
  alpha_NHW = coverage(_distance(u_NHW, v_NHW, shape) * pixels_N11)
  alpha_NHW *= np.reshape(np.asarray(shown_N, np.float32), (-1, 1, 1))
  light_NHW = coverage(_pattern(u_NHW, v_NHW, texture) * pixels_N11)
  tone_NHW = alpha_NHW * (_SHADE + (1 - _SHADE) * light_NHW)
  image_NHW3 *= 1 - alpha_NHW[..., None]
  image_NHW3 += tone_NHW[..., None] * np.reshape(bright_N3, (-1, 1, 1, 3))


def covered(path: Path, shape: str, size_px: int) -> np.ndarray:
  """[N, H, W], 0 to 1: the share of each pixel that `paint` gives to an object."""
  u_NHW, v_NHW, pixels_N11 = _axes(path, size_px)
  return coverage(_distance(u_NHW, v_NHW, shape) * pixels_N11)


def _axes(path: Path, size_px: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(u and v of each pixel [N, H, W], pixels of a radius [N, 1, 1]) of an object.

  Its coordinates, in radii: the texture moves and turns with the object.
  """
  axis = axis_of(size_px)
  dx_NW = _wrapped(axis[None] - path.x_N[:, None]).astype(np.float32)
  dy_NH = _wrapped(axis[None] - path.y_N[:, None]).astype(np.float32)
  radius_N11 = path.radius_N[:, None, None].astype(np.float32)
  cos_N11 = np.cos(path.angle_N)[:, None, None].astype(np.float32)
  sin_N11 = np.sin(path.angle_N)[:, None, None].astype(np.float32)
  dx_N1W, dy_NH1 = dx_NW[:, None, :], dy_NH[:, :, None]
  u_NHW = (cos_N11 * dx_N1W + sin_N11 * dy_NH1) / radius_N11
  v_NHW = (cos_N11 * dy_NH1 - sin_N11 * dx_N1W) / radius_N11
  return u_NHW, v_NHW, radius_N11 * size_px


def coverage(distance_px: np.ndarray) -> np.ndarray:
  """Share of a pixel inside an edge at a signed distance (negative inside)."""
  return np.clip(0.5 - distance_px, 0.0, 1.0)


def _distance(u: np.ndarray, v: np.ndarray, shape: str) -> np.ndarray:
  """Signed distance to the shape's edge, in radii; negative inside."""
  match shape:
    case "disc":
      return np.sqrt(u * u + v * v) - 1.0
    case "square":
      return np.maximum(np.abs(u), np.abs(v)) - 0.85
    case "triangle":
      slope = 0.8660254 * np.abs(u) - 0.5 * v
      return np.maximum(slope, v) - 0.6
    case "ring":
      return np.abs(np.sqrt(u * u + v * v) - 0.72) - 0.28
    case "cross":
      a, b = np.abs(u), np.abs(v)
      return np.maximum(np.minimum(a, b) - 0.36, np.maximum(a, b) - 1.0)
  raise ValueError(f"shape {shape!r} is unknown; use one of {SHAPES}")


def _pattern(u: np.ndarray, v: np.ndarray, texture: str) -> np.ndarray:
  """Like a distance, in radii: negative where the object has its light tone."""
  match texture:
    case "halves":
      return u
    case "quarters":
      return 2.0 * u * v
    case "stripes":
      return 0.5 * np.cos(u * (2 * np.pi / 1.4))
    case "core":
      return 0.45 - np.sqrt(u * u + v * v)
    case "plain":
      return np.full_like(u, -1.0)
  raise ValueError(f"texture {texture!r} is unknown; use one of {TEXTURES}")


def background(rng: np.random.Generator, config: SyntheticConfig, time_N: np.ndarray) -> np.ndarray:
  """float32 [frames, size, size, 3]; periodic, so that it can move."""
  kinds = config.backgrounds or BACKGROUNDS
  kind = kinds[rng.integers(len(kinds))]
  pair_23 = _BACKGROUND_RGB[rng.integers(len(_BACKGROUND_RGB))]
  shift_2 = rng.uniform(0, 1, 2)
  heading = rng.integers(4) * np.pi / 2
  pans = rng.random() < config.pan_frac
  rate = rng.uniform(*config.speed) if pans else 0.0
  axis = axis_of(config.size_px)
  x_NW = axis[None] + shift_2[0] + np.cos(heading) * rate * time_N[:, None]
  y_NH = axis[None] + shift_2[1] + np.sin(heading) * rate * time_N[:, None]
  x_N1W = (2 * np.pi * x_NW[:, None, :]).astype(np.float32)
  y_NH1 = (2 * np.pi * y_NH[:, :, None]).astype(np.float32)
  mix_NHW = _tone(rng, kind, x_N1W, y_NH1)
  shape = (len(time_N), config.size_px, config.size_px)
  mix_NHW1 = np.broadcast_to(mix_NHW, shape)[..., None]
  return pair_23[0] + mix_NHW1 * (pair_23[1] - pair_23[0])


def _tone(rng: np.random.Generator, kind: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """0 to 1, of period 2 pi in x and y: how much of the second colour."""
  match kind:
    case "plain":
      return np.zeros((1, 1, 1), np.float32) + np.float32(rng.integers(2))
    case "gradient":
      wave = np.cos(x) if rng.integers(2) else np.cos(y)
      return (0.5 + 0.5 * wave).astype(np.float32)
    case "stripes":
      a, b = ((2, 0), (0, 2), (1, 1), (1, -1))[rng.integers(4)]
      return np.clip(0.5 + 2.0 * np.sin(a * x + b * y), 0, 1)
    case "checker":
      return np.clip(0.5 + 2.0 * np.sin(2 * x) * np.sin(2 * y), 0, 1)
    case "noise":
      total = np.zeros((1, 1, 1), np.float32)
      for _ in range(3):
        a, b = rng.integers(-2, 3, 2)
        total = total + np.cos(a * x + b * y + rng.uniform(0, 2 * np.pi))
      return np.clip(0.5 + 0.3 * total, 0, 1).astype(np.float32)
  raise ValueError(f"background {kind!r} is unknown; use one of {BACKGROUNDS}")


def _occlude(rng: np.random.Generator, image_NHW3: np.ndarray) -> None:
  """Draws a bar that stands in front of everything, in place."""
  size_px = image_NHW3.shape[1]
  half_px = 0.5 * size_px * rng.uniform(*_OCCLUDER_WIDTH)
  centre_px = size_px * rng.uniform(0.2, 0.8)
  pixel = np.arange(size_px) + 0.5
  alpha = coverage(np.abs(pixel - centre_px) - half_px).astype(np.float32)
  across = rng.integers(2)
  alpha = alpha[None, :, None, None] if across else alpha[None, None, :, None]
  image_NHW3 *= 1 - alpha
  image_NHW3 += alpha * _OCCLUDER_RGB
