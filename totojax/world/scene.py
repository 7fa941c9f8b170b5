"""What is drawn, as data: things, what moves them, a camera, a light.

A scene follows from its `Spec`, a kind, a seed and a few numbers (`kinds.build`),
so that a spec is all that needs to be kept. The table's top is z = 0, x points
right and y away from a camera that stands at its front; lengths are metres, but
for `containers`, which has CATER's own units.

Shapes: N frames.
"""

from collections.abc import Iterable, Mapping
import dataclasses

import numpy as np

Vector = tuple[float, float, float]
FREE, DRIVEN, FIXED = "free", "driven", "fixed"
TABLE = 0  # among contacts and events; things count from 1, as their masks do


@dataclasses.dataclass(frozen=True)
class Spec:
  """All that a scene follows from."""

  kind: str  # of `kinds.KINDS`
  seed: int  # of everything drawn
  index: int  # of the scene; with the seed and the other numbers it decides everything
  frames: int
  width_px: int
  height_px: int
  fps: float
  things: tuple[int, int]  # that lie about: least and most
  camera: str = "still"  # or "moving"
  # Each kind has its own use for these two.
  style: str = ""  # containers: cone, cup; hand: hand, gripper, arm
  share: float = 0.0  # containers: clips in which the snitch is to be carried while hidden
  move_frames: tuple[int, int] = (20, 30)  # containers: of one movement, least and most
  nouns: str = "shape"  # hand: what things are told apart by: "shape" or "colour"
  zoom: float = 1.0  # how much larger things are seen

  def generator(self, *more: int) -> np.random.Generator:
    """Of what is drawn for this scene; other numbers, other draws."""
    return np.random.default_rng([self.seed, self.index, *more])


@dataclasses.dataclass(frozen=True)
class Look:
  """The surface of something: two colours and a texture."""

  rgb: Vector  # 0 to 1
  rgb2: Vector = (1.0, 1.0, 1.0)
  texture: str = "plain"  # of `textures.TEXTURES`
  seed: int = 0  # of the texture
  shine: float = 0.15  # specular, 0 to 1


@dataclasses.dataclass(frozen=True)
class Thing:
  """One thing; it stands upright at `pos`, turned by `yaw`."""

  name: str  # one in a scene
  noun: str  # what it is called as a class
  shape: str  # of `shapes.SHAPES`
  size: float  # half of its greatest extent, about
  look: Look
  pos: Vector  # of its origin, in the first frame
  yaw: float = 0.0  # radians, about z
  motion: str = FREE  # by physics; or DRIVEN along its track, or FIXED
  velocity: Vector = (0.0, 0.0, 0.0)  # a second, FREE: in the first frame
  spin: Vector = (0.0, 0.0, 0.0)  # radians/s, about its own axes
  is_seen_through: bool = False  # whether it collides with nothing


@dataclasses.dataclass(frozen=True)
class Track:
  """Where a driven thing is, frame by frame; straight in between."""

  pos_N3: np.ndarray
  quat_N4: np.ndarray  # w x y z
  opening_N: np.ndarray | None = None  # of a hand: from its middle to each side


@dataclasses.dataclass(frozen=True)
class Hold:
  """From a frame on, a free thing (or its drawer) goes with a driven one."""

  thing: str
  by: str
  frame: int


@dataclasses.dataclass(frozen=True)
class Act:
  """What somebody does: from one frame to another, both included."""

  verb: str
  subject: str
  object: str  # "": nothing
  begin: int
  end: int


@dataclasses.dataclass(frozen=True)
class Camera:
  """A camera of square pixels that looks from one place at another; z is up."""

  eye_N3: np.ndarray
  target_N3: np.ndarray
  fovy_deg: float  # from the upper edge to the lower
  near: float
  far: float


@dataclasses.dataclass(frozen=True)
class Scene:
  """A film before it is shot."""

  spec: Spec
  things: tuple[Thing, ...]
  camera: Camera
  table: Look
  half_table: tuple[float, float]  # half of its sides, x and y
  room: Look  # floor and walls
  light: Vector  # where it shines to
  tracks: Mapping[str, Track] = dataclasses.field(default_factory=dict)
  acts: tuple[Act, ...] = ()
  holds: tuple[Hold, ...] = ()
  arm: str = ""  # name of the thing that an arm carries; "": none
  friction: float = 0.6

  def number(self, name: str) -> int:
    """Of a thing, by its name: what its pixels have in masks."""
    return 1 + next(n for n, thing in enumerate(self.things) if thing.name == name)

  @property
  def half_room(self) -> float:
    """Half of the room's side."""
    return 4.0 * max(self.half_table)


def vector(values: Iterable[float]) -> Vector:
  """Three numbers as plain ones."""
  x, y, z = (float(value) for value in values)
  return x, y, z


def yaw_quat(yaw_N: np.ndarray) -> np.ndarray:
  """Quaternions [N, 4] of turns about z."""
  zero_N = np.zeros_like(yaw_N)
  return np.stack([np.cos(yaw_N / 2), zero_N, zero_N, np.sin(yaw_N / 2)], -1)


def eased(share: np.ndarray | float) -> np.ndarray:
  """0 to 1 with minimum jerk, as hands move; clipped outside."""
  t = np.clip(share, 0.0, 1.0)
  return t**3 * (10 - 15 * t + 6 * t**2)
