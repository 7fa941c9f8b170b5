"""Intervals of numbers that are of several videos: a percentile bootstrap over these."""

from collections.abc import Callable

import numpy as np

_DRAWS, _LEVEL = 1000, 0.95
Value = Callable[[np.ndarray], float]  # how often each group is drawn, int [groups] -> a number


def interval(value: Value, groups: int, *, seed: int) -> tuple[float | None, float | None]:
  """95 % of a number; None of less than two groups.

  Args:
    value: the number.
    groups: videos, say, in which items are not independent.
    seed: of what is drawn.
  """
  if groups < 2:
    return None, None
  times_DG = np.random.default_rng(seed).multinomial(
    groups, np.full(groups, 1 / groups), size=_DRAWS
  )
  values = [value(times_G) for times_G in times_DG]
  low, high = np.nanquantile(values, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
  return float(low), float(high)
