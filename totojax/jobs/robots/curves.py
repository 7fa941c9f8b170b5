"""Success over steps of the environment: points, and what they come to over seeds."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from totojax.jobs.probe import seeds

HALF = 0.5


@dataclasses.dataclass(frozen=True)
class Point:
  """What a policy was worth after so many steps of roll-outs."""

  env_steps: int
  success_mean: float
  n_ep: int


Curve = Sequence[Point]  # of a seed, in order


def area(curve: Curve, end: float) -> float:
  """Mean success from step 0, where it is 0, to `end`, linear between points."""
  x, y = _ends(curve)
  inside = np.append(x[x < end], end)
  return float(np.trapezoid(np.interp(inside, x, y), inside) / end)


def steps_to(curve: Curve, share: float = HALF) -> float | None:
  """Steps after which success is first so large, linear between points; None: never."""
  x, y = _ends(curve)
  above = np.flatnonzero(y >= share)
  if not len(above):
    return None
  at = above[0]
  return float(x[at - 1] + (share - y[at - 1]) / (y[at] - y[at - 1]) * (x[at] - x[at - 1]))


def _ends(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
  x = np.array([0, *(point.env_steps for point in curve)], float)
  return x, np.array([0.0, *(point.success_mean for point in curve)])


def interval(values: Sequence[float], *, least: float = 0.0, most: float = 1.0) -> dict[str, Any]:
  """The mean over seeds and 95 % of it (Student's t); without ends for one seed."""
  mean, each = float(np.mean(values)), [float(v) for v in values]
  if len(values) < 2:
    return {"mean": mean, "low": None, "high": None, "each": each}
  half = seeds.spread(values)
  return {
    "mean": mean,
    "low": max(mean - half, least),
    "high": min(mean + half, most),
    "each": each,
  }


def summary(found: Mapping[Any, Sequence[Curve]]) -> list[dict[str, Any]]:
  """Of each row, curves of seeds -> last success, area and steps to 50 %.

  The area of all rows is up to the least last step of any curve.
  """
  end = min(curve[-1].env_steps for each in found.values() for curve in each)
  out = []
  for each in found.values():
    reached = [steps_to(curve) for curve in each]
    steps = [one for one in reached if one is not None]
    out.append(
      {
        "last": interval([curve[-1].success_mean for curve in each]),
        "area": interval([area(curve, end) for curve in each]),
        "area_steps": end,
        "steps_to_half": reached,
        # Of no mean where some never come so far.
        "steps_to_half_mean": float(np.mean(steps)) if len(steps) == len(each) else None,
        "n_ep": each[0][-1].n_ep,
        "env_steps": float(np.mean([curve[-1].env_steps for curve in each])),
      }
    )
  return out
