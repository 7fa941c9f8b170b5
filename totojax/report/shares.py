"""Shares of items, as top-1 is one, with the intervals that their number leaves.

Wilson's interval (1927) is what a share and a count say of the share that more
items would show; unlike a standard error it is not 0 where none or all of a few
items are right. Of the difference of two shares: Newcombe's (1998, method 10),
which takes them as of independent items, and so is too wide for the same ones.
"""

import numpy as np

LEVEL = 0.95
_Z = 1.959963984540054  # normal quantile of (1 + LEVEL) / 2


def wilson(share: float | np.ndarray, items: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(low, high) of a share of so many items, or of arrays of both."""
  share, n = np.asarray(share, np.float64), np.maximum(items, 1)
  centre = share + _Z**2 / (2 * n)
  half = _Z * np.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
  low, high = (centre + part for part in (-half, half))
  return np.maximum(low / (1 + _Z**2 / n), 0.0), np.minimum(high / (1 + _Z**2 / n), 1.0)


def difference(share: float, other: float, items: float) -> tuple[float, float]:
  """(low, high) of `share` - `other`, each of so many items."""
  (low, high), (other_low, other_high) = wilson(share, items), wilson(other, items)
  gap = share - other
  return (
    float(gap - np.hypot(share - low, other_high - other)),
    float(gap + np.hypot(high - share, other - other_low)),
  )


def percent(share: float, items: float) -> str:
  """ "12.5 % (4.9 to 28.1)"."""
  low, high = wilson(share, items)
  return f"{100 * share:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
