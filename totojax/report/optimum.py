"""The best learning rate of a sweep, with the interval that its noise leaves.

Loss near its minimum is a quadratic in log2 of the learning rate. One is fitted
to all seeds of a model at once, with an offset for each seed, within a few
octaves of the best mean; its lowest point is the optimum. The 95 % interval is
the delta method's, from the residuals, with Student's t.

Shapes: P points, S seeds, X learning rates.
"""

import collections
from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

REACH_OCTAVES = 2.0  # on either side of the best mean
KEPT_OCTAVES = 1.0  # an optimum that moves less over all widths stays
MOVED_OCTAVES = 2.0  # one that moves as much or more drifts


@dataclasses.dataclass(frozen=True)
class Curve:
  """The points of one model in one parametrisation."""

  parametrisation: str  # "mup", "standard", or "muon": µP with Muon
  model: str  # its name
  width: int  # of the model
  tokens: float  # of each run
  x_P: np.ndarray  # log2 of the learning rate
  loss_P: np.ndarray  # NaN where a run diverged
  seed_P: np.ndarray  # of each point

  def means(self) -> tuple[np.ndarray, np.ndarray]:
    """(log2 rates, mean loss over seeds); NaN where any seed diverged."""
    x_X = np.unique(self.x_P)
    return x_X, np.array([self.loss_P[self.x_P == x].mean() for x in x_X])


@dataclasses.dataclass(frozen=True)
class Optimum:
  """Where a curve is lowest.

  Attributes:
    grid: the best learning rate of those tried, log2.
    log2_lr: from the quadratic; None where there is none to trust (`why`).
    low, high: 95 % interval of it; infinite where the data bound nothing.
    loss: of the quadratic there, mean over seeds.
    why: empty, or why there is none.
  """

  grid: float
  log2_lr: float | None
  low: float | None
  high: float | None
  loss: float | None
  why: str


def find(curve: Curve) -> Optimum:
  """The optimum of one curve.

  Raises:
    ValueError: every run diverged.
  """
  from scipy import stats  # slow to import

  x_X, mean_X = curve.means()
  if not np.isfinite(mean_X).any():
    raise ValueError(
      f"every run of {curve.model} ({curve.parametrisation}) diverged; add lower learning rates"
    )
  grid = float(x_X[np.nanargmin(mean_X)])
  finite_X = x_X[np.isfinite(mean_X)]

  def none(why):
    return Optimum(grid, None, None, None, None, why)

  if grid in (x_X[0], x_X[-1]):
    return none(f"the best, {grid:g}, is the end of the list: extend it")
  near_P = np.isfinite(curve.loss_P) & (abs(curve.x_P - grid) <= REACH_OCTAVES)
  if len(np.unique(curve.x_P[near_P])) < 3 or len(finite_X) < 3:
    return none("fewer than three learning rates near the best one converged")
  seeds, which_P = np.unique(curve.seed_P[near_P], return_inverse=True)
  dx_P, loss_P = curve.x_P[near_P] - grid, curve.loss_P[near_P]
  design = np.column_stack([np.eye(len(seeds))[which_P], dx_P, dx_P**2])  # an offset a seed
  fit, *_ = np.linalg.lstsq(design, loss_P, rcond=None)
  slope, bend = fit[-2], fit[-1]
  if bend <= 0:
    return none("the curve has no minimum: a quadratic opens downwards")
  shift = -slope / (2 * bend)
  if abs(shift) > REACH_OCTAVES:
    return none("the quadratic's minimum lies outside the points it was fitted")
  free = len(loss_P) - design.shape[1]
  half = np.inf
  if free > 0:
    variance = np.sum((design @ fit - loss_P) ** 2) / free
    covariance = variance * np.linalg.pinv(design.T @ design)[-2:, -2:]
    gradient = np.array([-1 / (2 * bend), slope / (2 * bend**2)])
    error = np.sqrt(gradient @ covariance @ gradient)
    half = float(stats.t.ppf(0.975, free) * error)
  lowest = float(grid + shift)
  loss = float(fit[:-2].mean() - slope**2 / (4 * bend))
  return Optimum(grid, lowest, lowest - half, lowest + half, loss, "")


def drift(curves: Sequence[Curve]) -> float | None:
  """Octaves between highest and lowest optimum; None where one is missing."""
  optima = [find(curve).log2_lr for curve in curves]
  rates = [rate for rate in optima if rate is not None]
  if len(rates) < len(optima):
    return None
  return max(rates) - min(rates)


def table(curves: Sequence[Curve]) -> list[dict[str, Any]]:
  """A row for each curve."""
  return [
    {
      "parametrisation": curve.parametrisation,
      "model": curve.model,
      "width": curve.width,
      "tokens": curve.tokens,
      "seeds": len(np.unique(curve.seed_P)),
      **dataclasses.asdict(find(curve)),
    }
    for curve in curves
  ]


def by_parametrisation(curves: Sequence[Curve]) -> Mapping[tuple[str, float], list[Curve]]:
  """Curves of one parametrisation and length, narrow ones first."""
  out = {}
  for curve in sorted(curves, key=lambda curve: curve.width):
    out.setdefault((curve.parametrisation, curve.tokens), []).append(curve)
  return out


def verdict(curves: Sequence[Curve]) -> list[str]:
  """Does the optimum stay where it is? A sentence for each parametrisation."""
  out = []
  for (kind, tokens), group in by_parametrisation(curves).items():
    name = f"{NAMES.get(kind, kind)}, {tokens:.3g} tokens a run"
    widths = collections.Counter(curve.width for curve in group)
    if max(widths.values()) > 1:
      out += _ranked(group, name)
      continue
    if len({curve.width for curve in group}) < 2:
      out.append(f"{name}: one width only, nothing to compare.")
      continue
    octaves = drift(group)
    if octaves is None:
      reasons = "; ".join(f"{curve.model}: {find(curve).why}" for curve in group if find(curve).why)
      out.append(f"{name}: no optimum at every width ({reasons}).")
      continue
    what, expected = "moves by between one and two octaves", False
    if octaves <= KEPT_OCTAVES:
      what, expected = "stays within one octave", kind != "standard"
    elif octaves >= MOVED_OCTAVES:
      what, expected = "drifts by two octaves or more", kind == "standard"
    span = f"widths {group[0].width} to {group[-1].width}"
    note = "as expected" if expected else "NOT as expected"
    out.append(f"{name}: the best learning rate {what} ({octaves:.2f}) over {span}, {note}.")
  return out


def claim(curves: Sequence[Curve]) -> tuple[str, str, bool | None]:
  """One line for all: (what became of the optimum, its interval, whether that is as expected).

  Of µP, where there is any: it is what the study is of.
  """
  groups = by_parametrisation(curves)
  kind, tokens = min(groups, key=lambda key: (key[0] != "mup", -key[1]))
  group = groups[kind, tokens]
  name, found = NAMES.get(kind, kind), {curve.model: find(curve) for curve in group}
  shared = max(collections.Counter(curve.width for curve in group).values()) > 1
  if shared or len(group) < 2:
    losses = {c.model: c.means()[1] for c in group if np.isfinite(c.loss_P).any()}
    if not losses:
      return f"{name}: every run diverged.", "", False
    best = min(losses, key=lambda model: np.nanmin(losses[model]))
    line = f"{name}: {best} has the lowest loss, {np.nanmin(losses[best]):.3f} nats per token."
    one = found[best]
  else:
    octaves = drift(group)
    if octaves is None:
      line, one = f"{name}: not every width has an optimum.", None
      lacking = [model for model, optimum in found.items() if optimum.why]
      return line, f"no interval: {', '.join(lacking)} ({found[lacking[0]].why})", None
    kept = octaves <= KEPT_OCTAVES
    word = "stays within one octave" if kept else f"moves by {octaves:.1f} octaves"
    span = f"widths {group[0].width} to {group[-1].width}"
    line, one = f"{name}: the best learning rate {word} over {span}.", found[group[-1].model]
    return line, _sure(one, group[-1].model), kept == (kind != "standard")
  return line, _sure(one, best), None


def _sure(found: Optimum, model: str) -> str:
  """The interval of one optimum, in words."""
  if found.log2_lr is None:
    return f"no interval of its learning rate: {found.why}"
  ends = "interval unknown: one point a rate"
  if found.low is not None and found.high is not None and np.isfinite(found.high):
    ends = f"95 % from 2^{found.low:.2f} to 2^{found.high:.2f}"
  return f"{model}: 2^{found.log2_lr:.2f} ({ends})"


def _ranked(curves: Sequence[Curve], name: str) -> list[str]:
  """A sentence for each width, which models share: the least loss at a rate that was tried."""
  out = []
  for width in sorted({curve.width for curve in curves}):
    losses = {}
    for curve in curves:
      mean_X = curve.means()[1]
      if curve.width == width and np.isfinite(mean_X).any():
        losses[curve.model] = float(np.nanmin(mean_X))
    ranked = ", ".join(
      f"{model} {losses[model]:.3f}" for model in sorted(losses, key=lambda model: losses[model])
    )
    out.append(f"{name}, width {width}: {ranked or 'every run diverged'}.")
  return out


NAMES = {"mup": "µP", "standard": "standard parametrisation", "muon": "µP with Muon"}
