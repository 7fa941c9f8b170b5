"""Scenes of which half cannot be: an object vanishes, changes colour, passes through a wall.

A scene is four videos, as those of IntPhys are: of two worlds x and y, x that
stays x and y that stays y (possible), x that becomes y and y that becomes x
(impossible). So single frames say nothing: the possible videos together show
what the impossible ones show. A video is the same as its partner until the
change: x that stays is paired with x that becomes y.

  vanish         x: an object that moves, y: the background alone
  colour         x and y: the object in two colours
  wall           x: the object comes back from a wall, and passes through it;
                 y: it passes where there is no wall, and turns round in the air
  *_screen       the change happens while a screen hides the object

Everything lives on the torus of `synthetic`, with its objects and backgrounds.

Shapes: N frames, H height, W width (H = W = size_px).
"""

import dataclasses

import numpy as np

from totojax.config.pixels import Scene
from totojax.config.surprise import EVENTS
from totojax.data.pixels import synthetic

POSSIBLE = (True, False, True, False)
PAIR = (0, 0, 1, 1)
_SPEED = (0.05, 0.085)  # of a side, a frame: as `Scene` has it
_RADIUS = (0.22, 0.30)
_REACH = 1.21  # radii that a shape extends to: the corner of a square
_MARGIN = 0.04  # by which a screen is wider than what it hides
_WALL = 0.06  # half of its width
_TRAVEL = 0.6  # of a side: farther, an object comes to the wall from behind
_SCREEN_RGB = np.array((245, 245, 245), np.float32)


def check(event: str, frames: int) -> None:
  """Raises ValueError for an event that does not exist, or too few frames for one."""
  if event not in EVENTS:
    raise ValueError(f"event {event!r} is unknown; use one of {', '.join(EVENTS)}")
  if frames < 4:
    raise ValueError(f"a rendered video has {frames} frames; something happens in 4 or more")


@dataclasses.dataclass(frozen=True)
class _Look:
  """An object but for where it is."""

  shape: str
  texture: str
  rgb_23: np.ndarray  # two colours


def render(event: str, *, frames: int, size_px: int, seed: int, index: int) -> np.ndarray:
  """The four videos of a scene, uint8 [4, N, H, W, 3]; see `POSSIBLE` and `PAIR`.

  Args:
    event: one of `EVENTS`.
    frames: of a video. Something happens between the half and three quarters.
    size_px: side of a frame.
    seed: of everything drawn.
    index: of the scene; with the others it decides everything.

  Raises:
    ValueError: as `check`.
  """
  check(event, frames)
  rng = np.random.default_rng([seed, EVENTS.index(event), index])
  time_N = np.arange(frames, dtype=np.float32)
  change = int(rng.integers(frames // 2, max(frames - frames // 4, frames // 2 + 1)))
  scene = Scene(frames=frames, size_px=size_px, pan_frac=0.0)
  config = synthetic.SyntheticConfig(**vars(scene), seed=seed)
  background_NHW3 = synthetic.background(rng, config, time_N)
  look = _Look(
    shape=synthetic.SHAPES[rng.integers(len(synthetic.SHAPES))],
    texture=synthetic.TEXTURES[rng.integers(len(synthetic.TEXTURES))],
    rgb_23=synthetic.OBJECT_RGB[rng.choice(len(synthetic.OBJECT_RGB), 2, replace=False)],
  )
  draw = _walls if event == "wall" else _changes
  videos = draw(rng, event, background_NHW3, look, time_N, change)
  return np.clip(np.rint(videos), 0, 255).astype(np.uint8)


def _path(
  rng: np.random.Generator, along_N: np.ndarray, radius: float, across: float, *, is_x: bool
) -> synthetic.Path:
  """An object that moves along one axis, at a place of the other."""
  across_N, angle = np.full_like(along_N, across), rng.uniform(0, 2 * np.pi)
  x_N, y_N = (along_N, across_N) if is_x else (across_N, along_N)
  ones_N = np.ones_like(along_N)
  return synthetic.Path(x_N, y_N, radius * ones_N, angle * ones_N)


def _bar(image_NHW3: np.ndarray, centre: float, half: float, rgb: np.ndarray, *, is_x: bool):
  """Draws a bar across the frame, which stands across the axis of motion, in place."""
  size_px = image_NHW3.shape[1]
  offset = (synthetic.axis_of(size_px) - centre + 0.5) % 1.0 - 0.5
  alpha = synthetic.coverage((np.abs(offset) - half) * size_px).astype(np.float32)
  alpha = alpha[None, None, :, None] if is_x else alpha[None, :, None, None]
  image_NHW3 *= 1 - alpha
  image_NHW3 += alpha * rgb


def _changes(
  rng: np.random.Generator,
  event: str,
  background_NHW3: np.ndarray,
  look: _Look,
  time_N: np.ndarray,
  change: int,
) -> np.ndarray:
  """Of an object that is in it or not, or has one of two colours."""
  kind, _, screen = event.partition("_")
  speed, across, centre = rng.uniform(*_SPEED), rng.uniform(), rng.uniform()
  radius = rng.uniform(*(synthetic.SMALL_RADIUS if screen else _RADIUS))
  is_x, sign = bool(rng.integers(2)), rng.choice([-1, 1])
  # In the middle of the screen between the last frame before and the first after.
  along_N = centre + sign * speed * (time_N - change + 0.5)
  path = _path(rng, along_N, radius, across, is_x=is_x)
  is_after_N = time_N >= change
  out = []
  for before, after in ((0, 0), (0, 1), (1, 1), (1, 0)):
    world_N = np.where(is_after_N, after, before)
    rgb_N3, shown_N = look.rgb_23[world_N], np.ones_like(time_N)
    if kind == "vanish":
      rgb_N3, shown_N = look.rgb_23[0], 1.0 - world_N
    image_NHW3 = background_NHW3.copy()
    synthetic.paint(image_NHW3, path, look.shape, look.texture, rgb_N3, shown_N)
    if screen:
      half = _REACH * radius + speed / 2 + _MARGIN
      _bar(image_NHW3, centre, half, _SCREEN_RGB, is_x=is_x)
    out.append(image_NHW3)
  return np.stack(out)


def _walls(
  rng: np.random.Generator,
  event: str,
  background_NHW3: np.ndarray,
  look: _Look,
  time_N: np.ndarray,
  change: int,
) -> np.ndarray:
  """Of an object that comes to a wall, and of one that comes to none."""
  del event
  radius = rng.uniform(*synthetic.SMALL_RADIUS)
  fastest = _TRAVEL / max(change, len(time_N) - change)
  speed, across, centre = min(rng.uniform(*_SPEED), fastest), rng.uniform(), rng.uniform()
  is_x, sign = bool(rng.integers(2)), rng.choice([-1, 1])
  since_N = speed * (time_N - change)
  touch = _WALL + _REACH * radius
  passes_N, turns_N = since_N - touch, -np.abs(since_N) - touch
  rng_state = rng.bit_generator.state
  out = []
  for has_wall, along_N in ((1, turns_N), (1, passes_N), (0, passes_N), (0, turns_N)):
    rng.bit_generator.state = rng_state  # the same angle in all
    path = _path(rng, centre + sign * along_N, radius, across, is_x=is_x)
    image_NHW3 = background_NHW3.copy()
    synthetic.paint(image_NHW3, path, look.shape, look.texture, look.rgb_23[0])
    if has_wall:
      _bar(image_NHW3, centre, _WALL, look.rgb_23[1], is_x=is_x)
    out.append(image_NHW3)
  return np.stack(out)
