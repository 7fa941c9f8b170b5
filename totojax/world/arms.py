"""Arms of seven joints, drawn with capsules on the published kinematics.

A row of Denavit and Hartenberg (Craig's): a turn alpha about x and a way a along
it, then the joint about z and a way d along that.

Sources: Franka Emika's Panda (Franka Control Interface, robot specifications),
KUKA's LBR iiwa 7 R800 (its data sheet). The capsules are ours.
"""

from collections.abc import Mapping
import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Link:
  """One joint, and what moves with it."""

  alpha: float  # radians
  a: float  # metres
  d: float
  limits: tuple[float, float]  # radians
  home: float  # of a pose that reaches a table

  @property
  def pos(self) -> tuple[float, float, float]:
    """Of its frame in the one before."""
    return self.a, -math.sin(self.alpha) * self.d, math.cos(self.alpha) * self.d

  @property
  def quat(self) -> tuple[float, float, float, float]:
    return math.cos(self.alpha / 2), math.sin(self.alpha / 2), 0.0, 0.0


@dataclasses.dataclass(frozen=True)
class Arm:
  """A chain of links that ends with a flange on the last one's z."""

  links: tuple[Link, ...]
  flange: float  # from the last frame, along z
  radius: float  # of what is drawn
  rgb: tuple[float, float, float]

  def pose(self, angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(position [3], rotation [3, 3]) of the flange, from the base, at such angles."""
    place = np.eye(4)
    for link, angle in zip(self.links, angles):
      ca, sa, ct, st = (f(x) for x in (link.alpha, angle) for f in (math.cos, math.sin))
      place = place @ np.array(
        [
          [ct, -st, 0, link.a],
          [st * ca, ct * ca, -sa, -sa * link.d],
          [st * sa, ct * sa, ca, ca * link.d],
          [0, 0, 0, 1],
        ]
      )
    return place[:3, 3] + place[:3, 2] * self.flange, place[:3, :3]


_Q = math.pi / 2


def _links(*rows: tuple[float, float, float, float, float, float]) -> tuple[Link, ...]:
  return tuple(Link(alpha, a, d, (low, high), home) for alpha, a, d, low, high, home in rows)


PANDA = Arm(
  _links(
    (0.0, 0.0, 0.333, -2.8973, 2.8973, 0.0),
    (-_Q, 0.0, 0.0, -1.7628, 1.7628, 0.1),
    (_Q, 0.0, 0.316, -2.8973, 2.8973, 0.0),
    (_Q, 0.0825, 0.0, -3.0718, -0.0698, -2.3),
    (-_Q, -0.0825, 0.384, -2.8973, 2.8973, 0.0),
    (_Q, 0.0, 0.0, -0.0175, 3.7525, 2.4),
    (_Q, 0.088, 0.0, -2.8973, 2.8973, 0.785),
  ),
  flange=0.107,
  radius=0.055,
  rgb=(0.92, 0.92, 0.90),
)
IIWA = Arm(
  _links(
    (0.0, 0.0, 0.34, -2.9671, 2.9671, 0.0),
    (-_Q, 0.0, 0.0, -2.0944, 2.0944, 0.5),
    (_Q, 0.0, 0.40, -2.9671, 2.9671, 0.0),
    (_Q, 0.0, 0.0, -2.0944, 2.0944, -1.6),
    (-_Q, 0.0, 0.40, -2.9671, 2.9671, 0.0),
    (-_Q, 0.0, 0.0, -2.0944, 2.0944, 1.0),
    (_Q, 0.0, 0.0, -3.0543, 3.0543, 0.0),
  ),
  flange=0.126,
  radius=0.06,
  rgb=(0.95, 0.55, 0.15),
)
ARMS: Mapping[str, Arm] = {"panda": PANDA, "iiwa": IIWA}
