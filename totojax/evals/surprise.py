"""Whether impossible videos surprise a model more: pairings and metrics, as those of the data sets.

Higher is more surprising everywhere here; a plausibility is its negative. Names
say whose a metric is: what IntPhys (Riochet et al., 2018), InfLevel (Weihs et
al., 2022), IntPhys 2 (2025) and V-JEPA's study of intuitive physics (Garrido et
al., 2025) print. Of NaN, which a window without counted tokens would have,
nothing is defined: callers leave it out.

Shapes: M videos, C contexts, W windows, N frames of a window, G groups.
"""

from collections.abc import Mapping, Sequence

import numpy as np

_QUANTILE = 0.9  # of possible videos below the threshold of V-JEPA's absolute accuracy
_LEAST = 10  # possible videos that it needs
_THRESHOLDS = 100  # of the best absolute accuracy
_DRAWS = 2000  # of a bootstrap
_LEVEL = 0.95


def window_losses(nll_WN: np.ndarray, contexts: Sequence[int]) -> np.ndarray:
  """float64 [C, W]: mean loss of the frames after each context, window by window.

  Args:
    nll_WN: mean loss of each frame of each window, given those before it.
    contexts: frames that are given, fewer than N.
  """
  return np.stack([nll_WN[:, context:].mean(1, dtype=np.float64) for context in contexts])


def filtered(losses_CW: np.ndarray) -> np.ndarray:
  """[W]: the least loss over contexts (V-JEPA's "Filtered")."""
  return losses_CW.min(0)


def breaks(digests: Sequence[Sequence[bytes | int]]) -> list[int]:
  """The first frame in which each video but the first differs from the first; its length: none.

  Frames are compared, not sums of differences, which can cancel.
  """
  first, *others = digests
  return [
    next((t for t, (a, b) in enumerate(zip(first, other)) if a != b), len(first))
    for other in others
  ]


def quadruplet(digests: Sequence[Sequence[bytes | int]]) -> tuple[tuple[int, int], tuple[int, int]]:
  """The two pairs of four videos: the partner of the first is like it for longest.

  Of equally long ones the first counts (V-JEPA's study).
  """
  found = breaks(digests)
  partner = 1 + int(np.argmax(found))
  rest = tuple(n for n in (1, 2, 3) if n != partner)
  return (0, partner), (rest[0], rest[1])


def relative(possible_M: np.ndarray, impossible_M: np.ndarray) -> dict[str, float]:
  """Accuracies of pairs: "strict", where a tie is a loss, and "half", where it is a half."""
  wins, ties = possible_M < impossible_M, possible_M == impossible_M
  return {"strict": float(wins.mean()), "half": float((wins + 0.5 * ties).mean())}


def auroc(possible_M: np.ndarray, impossible_M: np.ndarray) -> float:
  """The share of (possible, impossible) in which the impossible surprises more; ties half."""
  values = np.sort(possible_M)
  below = np.searchsorted(values, impossible_M, "left")
  up_to = np.searchsorted(values, impossible_M, "right")
  return float((below + up_to).mean() / 2 / len(values))


def auprc(possible_M: np.ndarray, impossible_M: np.ndarray) -> float:
  """Area below precision over recall by trapezia, of finding possible videos (V-JEPA's study)."""
  values = np.concatenate([possible_M, impossible_M])
  is_possible = np.arange(len(values)) < len(possible_M)
  order = np.argsort(values, kind="stable")  # the least surprising first
  values, hits = values[order], np.cumsum(is_possible[order])
  last = np.append(values[1:] != values[:-1], True)  # of equal values
  precision = (hits / np.arange(1, len(values) + 1))[last]
  recall = (hits / len(possible_M))[last]
  recall, precision = np.append(0.0, recall), np.append(1.0, precision)
  return float(np.sum(np.diff(recall) * (precision[1:] + precision[:-1]) / 2))


def absolute(possible_M: np.ndarray, impossible_M: np.ndarray) -> float | None:
  """V-JEPA's: below the threshold that nine tenths of possible videos are below; None: too few.

  The threshold is of the same videos.
  """
  n = len(possible_M)
  if n < _LEAST:
    return None
  threshold = np.sort(possible_M)[int(np.ceil(_QUANTILE * n))]
  right = (possible_M < threshold).sum() + (impossible_M > threshold).sum()
  return float(right / (n + len(impossible_M)))


def best_absolute(possible_M: np.ndarray, impossible_M: np.ndarray) -> float:
  """The same with the best of a hundred thresholds, which has seen the answers."""
  grid = np.linspace(possible_M.min(), impossible_M.max(), _THRESHOLDS)
  right = [(possible_M < t).sum() + (impossible_M > t).sum() for t in grid]
  return float(max(right) / (len(possible_M) + len(impossible_M)))


def halves(possible_M: np.ndarray, impossible_M: np.ndarray) -> float:
  """IntPhys's absolute accuracy: the more surprising half is called impossible.

  Of ties at the border it is the mean over their orders.
  """
  values = np.concatenate([possible_M, impossible_M])
  called = len(values) // 2  # impossible
  border = np.sort(values)[::-1][called - 1] if called else np.inf
  above, tied = values > border, values == border
  share = (called - above.sum()) / max(tied.sum(), 1)  # of the tied ones
  chance = above + share * tied  # of being called impossible
  n = len(possible_M)
  return float(((1 - chance[:n]).sum() + chance[n:].sum()) / len(values))


Groups = Sequence[tuple[np.ndarray, np.ndarray]]  # surprise of possible and impossible videos


def sums(groups: Groups) -> float:
  """IntPhys's relative accuracy: whether a scene's impossible videos sum up to more; ties half."""
  less = [np.sign(impossible.sum() - possible.sum()) for possible, impossible in groups]
  return float(np.mean((1 + np.array(less)) / 2))


def crossed(groups: Groups) -> float:
  """InfLevel's: each possible video against each impossible one of its group; ties half."""
  shares = [
    (np.sign(impossible[None] - possible[:, None]) + 1).mean() / 2
    for possible, impossible in groups
  ]
  return float(np.mean(shares))


def permuted(groups: Groups, *, draws: int, seed: int) -> float:
  """InfLevel's one-sided p: how often `crossed` is as large with scores dealt anew in groups."""
  rng, total_D = np.random.default_rng(seed), np.zeros(draws)
  for possible, impossible in groups:
    dealt_D = rng.permuted(np.tile(np.concatenate([possible, impossible]), (draws, 1)), axis=1)
    left_D, right_D = dealt_D[:, : len(possible), None], dealt_D[:, None, len(possible) :]
    total_D += (np.sign(right_D - left_D) + 1).mean((1, 2)) / 2
  more = (total_D / len(groups) >= crossed(groups) - 1e-12).sum()
  return float((more + 1) / (draws + 1))


def auroc_interval(groups: Groups, *, seed: int) -> tuple[float, float]:
  """95 % of AUROC by a percentile bootstrap over groups, whose videos are not independent."""
  rng, n = np.random.default_rng(seed), len(groups)
  sizes = np.array([(len(possible), len(impossible)) for possible, impossible in groups], float)
  ends = np.cumsum([0, *sizes[:, 1].astype(int)])[:-1]
  impossible_M = np.concatenate([impossible for _, impossible in groups])
  wins_GG = np.empty((n, n))  # of the impossible videos of a column over the possible of a row
  for row, (possible, _) in enumerate(groups):
    below = (np.sign(impossible_M[None] - possible[:, None]) + 1).sum(0) / 2
    wins_GG[row] = np.add.reduceat(below, ends)
  times_DG = rng.multinomial(n, np.full(n, 1 / n), size=_DRAWS).astype(float)
  won_D = np.einsum("dg,dg->d", times_DG @ wins_GG, times_DG)
  low, high = np.quantile(
    won_D / np.prod(times_DG @ sizes, axis=1), [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]
  )
  return float(low), float(high)


def measures(pairs: np.ndarray, groups: Groups) -> Mapping[str, float | None]:
  """All metrics but intervals.

  Args:
    pairs: [pairs, 2], of the possible and the impossible video.
    groups: all videos.
  """
  possible = np.concatenate([group[0] for group in groups])
  impossible = np.concatenate([group[1] for group in groups])
  of_pairs = relative(pairs[:, 0], pairs[:, 1]) if len(pairs) else {"strict": None, "half": None}
  return {
    "pairs": of_pairs["strict"],
    "pairs_half": of_pairs["half"],
    "auroc": auroc(possible, impossible),
    "auprc": auprc(possible, impossible),
    "absolute": absolute(possible, impossible),
    "best_absolute": best_absolute(possible, impossible),
    "halves": halves(possible, impossible),
    "sums": sums(groups),
    "crossed": crossed(groups),
  }
