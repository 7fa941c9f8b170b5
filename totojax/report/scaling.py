"""Scaling laws: loss against training compute (the paper's Figure 9).

Compute is in multiply-accumulates of training, three times those of a forward
pass, and never 6 N D. A law is L(C) = floor + a C^-b with C in a unit of its
own, which a prefactor is worth nothing without.

Shapes: P points.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

PF_DAY_FLOPS = 1e15 * 86_400
LEAST_POINTS, LEAST_DECADES = 3, 1.0
HUBER = 1e-3  # in ln L: where the loss of a fit turns from square to linear


@dataclasses.dataclass(frozen=True)
class Law:
  """L(C) = floor + a (C / unit)^-b."""

  a: float  # loss above the floor at one unit
  b: float  # exponent
  floor: float  # irreducible loss, nats per token; 0: without such a term
  unit: float  # of compute, in MACs of training
  # Share of the variance of ln(L - floor) that it explains; NaN where it was
  # not fitted here.
  r2: float

  def __call__(self, macs_P: np.ndarray) -> np.ndarray:
    return self.floor + self.a * (np.asarray(macs_P) / self.unit) ** -self.b


# The printed law fits the paper's own dashed line when C counts millions of
# Figure 9's unit: MACs of one token x sequences of 4,096, forward only.
PAPER = Law(7.32, 0.0378, 0.0, 1e6 * 3 * 4096, np.nan)
# Brown et al., 2020 (Figure 3.1 there), in PF-days of training; text tokens.
GPT_3 = Law(2.57, 0.048, 0.0, PF_DAY_FLOPS / 2, np.nan)


def fit(
  macs_P: np.ndarray, loss_P: np.ndarray, *, floor: bool, unit: float = 1.0, force: bool = False
) -> Law:
  """The power law through points of a frontier.

  Without a floor: least squares of ln L on ln C. With one: the Huber loss of
  ln L over (ln a, b, floor), by L-BFGS from several starts.

  Args:
    macs_P: compute of training in MACs.
    loss_P: nats per token.
    floor: whether there is an irreducible term.
    unit: of compute in the law, in MACs.
    force: fits whatever there is.

  Raises:
    ValueError: fewer than three points (four with a floor), or less than a
      decade of compute, unless forced; or a value that has no logarithm.
  """
  macs_P, loss_P = np.asarray(macs_P, float), np.asarray(loss_P, float)
  _check(macs_P, loss_P, floor=floor, force=force)
  x_P, y_P = np.log(macs_P / unit), np.log(loss_P)
  centre = x_P.mean()
  dx_P = x_P - centre
  slope = np.sum(dx_P * (y_P - y_P.mean())) / np.sum(dx_P**2)
  ln_a, b, least = y_P.mean() - slope * centre, -slope, 0.0
  if floor:
    ln_a, b, least = _with_floor(x_P, y_P, loss_P.min())
  rest_P = np.log(np.maximum(loss_P - least, 1e-12))
  off_P = rest_P - (ln_a - b * x_P)
  spread = np.sum((rest_P - rest_P.mean()) ** 2)
  r2 = 1.0 - np.sum(off_P**2) / spread if spread > 0 else np.nan
  return Law(float(np.exp(ln_a)), float(b), float(least), unit, float(r2))


def _check(macs_P: np.ndarray, loss_P: np.ndarray, *, floor: bool, force: bool) -> None:
  if macs_P.shape != loss_P.shape or macs_P.ndim != 1:
    raise ValueError(
      f"compute {macs_P.shape} and loss {loss_P.shape} must be one value each a point"
    )
  if not (np.all(macs_P > 0) and np.all(loss_P > 0)):
    raise ValueError("compute and loss must be positive: they have logarithms")
  least = LEAST_POINTS + floor
  decades = np.log10(macs_P.max() / macs_P.min()) if len(macs_P) else 0.0
  if len(macs_P) < 2 or decades == 0.0:
    raise ValueError(
      f"{len(macs_P)} points over {decades:.2g} decades of compute make no line; train more models"
    )
  if not force and (len(macs_P) < least or decades < LEAST_DECADES):
    raise ValueError(
      f"{len(macs_P)} points over {decades:.2f} decades of compute; a law needs {least} points over"
      f" {LEAST_DECADES:g}. Train more models, or force it"
    )


def _with_floor(x_P: np.ndarray, y_P: np.ndarray, lowest: float) -> tuple[float, float, float]:
  """(ln a, b, floor) of the least Huber loss; floor is below every loss."""
  from scipy import optimize  # slow to import

  centre = x_P.mean()  # or a and b would be one long valley

  def objective(parameters):
    """The loss and its gradient.

    In units of HUBER^2, so that the optimiser's tolerances mean something.
    """
    (ln_a, ln_b, share), moved_P = parameters, x_P - centre
    b, part = np.exp(ln_b), 1.0 / (1.0 + np.exp(-share))
    floor, above_P = lowest * part, np.exp(ln_a - b * moved_P)
    off_P = np.log(floor + above_P) - y_P
    small_P = np.minimum(np.abs(off_P), HUBER)
    pull_P = np.clip(off_P, -HUBER, HUBER) / (floor + above_P)
    slopes = np.array(
      [
        np.sum(pull_P * above_P),
        -b * np.sum(pull_P * above_P * moved_P),
        floor * (1.0 - part) * np.sum(pull_P),
      ]
    )
    value = np.sum(small_P * (np.abs(off_P) - small_P / 2))
    return value / HUBER**2, slopes / HUBER**2

  best = None
  for b in (0.03, 0.1, 0.3, 0.6):
    for share in (-3.0, 0.0, 2.0):
      floor = lowest / (1.0 + np.exp(-share))
      ln_a = np.log(np.mean(np.exp(y_P)) - floor)
      solution = optimize.minimize(
        objective,
        (ln_a, np.log(b), share),
        jac=True,
        method="L-BFGS-B",
        bounds=((-30, 30), (np.log(1e-4), np.log(3.0)), (-12, 12)),
        options={"maxiter": 2000, "ftol": 1e-15, "gtol": 1e-9},
      )
      if best is None or solution.fun < best.fun:
        best = solution
  ln_a, ln_b, share = best.x
  b = np.exp(ln_b)
  return ln_a + b * centre, b, lowest / (1.0 + np.exp(-share))


def envelope(macs_P: np.ndarray, loss_P: np.ndarray, *, bins_per_decade: int) -> np.ndarray:
  """Indices of the frontier: the lowest loss of each bin, if it is a new low.

  Bins are equal in log compute. Points are of any number of runs; leave those
  of the warm-up out.

  Returns:
    int [F], in order of compute; losses strictly decrease.
  """
  macs_P, loss_P = np.asarray(macs_P, float), np.asarray(loss_P, float)
  bin_P = np.floor(np.log10(macs_P) * bins_per_decade).astype(int)
  lowest = {}
  for i in np.lexsort((macs_P, loss_P))[::-1]:  # the best comes last
    lowest[bin_P[i]] = i
  frontier = []
  for i in sorted(lowest.values(), key=lambda i: macs_P[i]):
    if not frontier or loss_P[i] < loss_P[frontier[-1]]:
      frontier.append(i)
  return np.array(frontier, int)


def bootstrap(
  macs_P: np.ndarray,
  loss_P: np.ndarray,
  run_P: Sequence[str],
  *,
  bins_per_decade: int,
  floor: bool,
  draws: int,
  seed: int,
  force: bool = False,
) -> tuple[float, float]:
  """95 % interval of the exponent: runs drawn with replacement.

  Points of one run are not independent, so runs are drawn, not points. A draw
  whose frontier makes no law is left out.

  Raises:
    ValueError: fewer than half of the draws make a law.
  """
  rng = np.random.default_rng(seed)
  names_P = np.asarray(run_P)
  runs = np.unique(names_P)
  exponents = []
  for _ in range(draws):
    sample = rng.choice(runs, len(runs))
    points = np.concatenate([np.flatnonzero(names_P == run) for run in sample])
    macs, loss = np.asarray(macs_P)[points], np.asarray(loss_P)[points]
    front = envelope(macs, loss, bins_per_decade=bins_per_decade)
    try:
      exponents.append(fit(macs[front], loss[front], floor=floor, force=force).b)
    except ValueError:
      continue
  if len(exponents) < draws / 2:
    raise ValueError(
      f"only {len(exponents)} of {draws} draws of {len(runs)} runs make a law; train more models"
    )
  low, high = np.quantile(exponents, (0.025, 0.975))
  return float(low), float(high)


def compared(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Where runs ended, of each recipe beside the first one, model by model and length by length.

  Args:
    rows: of scaling.csv.

  Returns:
    A row for each model, length and recipe, if there are several recipes: mean
    loss over seeds, its standard error (NaN of one seed), updates that were
    made for it, and the mean difference from the first recipe at equal seeds
    with the standard error of that.
  """
  ends: dict[tuple[Any, ...], dict[str, dict[Any, Mapping[str, Any]]]] = {}
  for row in rows:
    if row["last"]:
      place = ends.setdefault((row["parameters"], row["step"], row["tokens"]), {})
      place.setdefault(row["recipe"], {})[row["seed"]] = row
  names = sorted({row["recipe"] for row in rows})
  table = []
  for (parameters, step, tokens), recipes in sorted(ends.items()):
    if len(recipes) < 2:
      continue
    first = recipes.get(names[0], {})
    for name in (name for name in names if name in recipes):
      own = recipes[name]
      pairs = [seed for seed in own if seed in first and name != names[0]]
      less = [own[seed]["loss"] - first[seed]["loss"] for seed in pairs]
      table.append(
        {
          "parameters": parameters,
          "step": step,
          "tokens": tokens,
          "recipe": name,
          "seeds": len(own),
          "trained": sum(row["trained"] for row in own.values()),
          **dict(zip(("loss", "loss_sem"), _mean([row["loss"] for row in own.values()]))),
          **dict(zip(("difference", "difference_sem"), _mean(less))),
        }
      )
  return table


def _mean(values: Sequence[float]) -> tuple[float | None, float | None]:
  """(mean, its standard error), None where there are too few."""
  if len(values) < 2:
    return (float(values[0]) if values else None), None
  return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))
