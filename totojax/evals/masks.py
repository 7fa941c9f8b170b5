"""Segmentation masks of videos against annotated ones: DAVIS' J and F (Perazzi et al. 2016).

J of an object in a frame is the intersection over the union of its masks. F is
the harmonic mean of how many pixels of the predicted contour have one of the
true contour near them, and the other way round; near is 0.008 of the frame's
diagonal, rounded up. The first frame is given and the last is not scored.

Shapes: T frames, H and W pixels, O objects.
"""

from collections.abc import Mapping, Sequence
import math

import numpy as np

NEAR_FRAC = 0.008  # of the diagonal
_GOOD = 0.5  # a frame that recall counts


def jaccard(truth_HW: np.ndarray, found_HW: np.ndarray) -> float:
  """Intersection over union of two boolean masks; 1 where both are empty."""
  union = np.count_nonzero(truth_HW | found_HW)
  return np.count_nonzero(truth_HW & found_HW) / union if union else 1.0


def contour(mask_HW: np.ndarray) -> np.ndarray:
  """Pixels of a boolean mask that differ from one right of, below or diagonally below them."""
  right, below, across = (mask_HW.copy() for _ in range(3))
  right[:, :-1] = mask_HW[:, 1:]
  below[:-1] = mask_HW[1:]
  across[:-1, :-1] = mask_HW[1:, 1:]
  edge_HW = (mask_HW ^ right) | (mask_HW ^ below) | (mask_HW ^ across)
  edge_HW[-1] = mask_HW[-1] ^ right[-1]
  edge_HW[:, -1] = mask_HW[:, -1] ^ below[:, -1]
  edge_HW[-1, -1] = False
  return edge_HW


def boundary(truth_HW: np.ndarray, found_HW: np.ndarray) -> float:
  """F of two boolean masks."""
  near_px = math.ceil(NEAR_FRAC * math.hypot(*truth_HW.shape))
  truth, found = (np.argwhere(contour(mask_HW)) for mask_HW in (truth_HW, found_HW))
  if not len(truth) or not len(found):
    return float(len(truth) == len(found))
  precision, recall = _near(found, truth, near_px), _near(truth, found, near_px)
  total = precision + recall
  return 2 * precision * recall / total if total else 0.0


def _near(points: np.ndarray, others: np.ndarray, most_px: int) -> float:
  """The share of points with one of `others` in a disk of this radius."""
  from scipy import spatial  # slow to import

  distance, _ = spatial.cKDTree(others).query(points, distance_upper_bound=most_px + 0.5)
  # Squares of distances between pixels are whole numbers.
  return float(np.mean(distance**2 < most_px**2 + 0.5))


def scores(truth_HW: np.ndarray, found_HW: np.ndarray, objects: int) -> np.ndarray:
  """J and F of every object of a frame, float64 [2, O].

  Args:
    truth_HW: ids, 0 the background; what is above `objects` is no object.
    found_HW: the same.
    objects: ids 1 to this are scored.

  Raises:
    ValueError: the frames differ in size, or there are more ids than objects.
  """
  if truth_HW.shape != found_HW.shape:
    raise ValueError(f"a mask is {found_HW.shape} and its truth {truth_HW.shape}; they must agree")
  if found_HW.max(initial=0) > objects:
    raise ValueError(
      f"a mask has id {found_HW.max()}, and the sequence {objects} objects; it must have no others"
    )
  pairs = [(truth_HW == number, found_HW == number) for number in range(1, objects + 1)]
  return np.array([[of(*pair) for pair in pairs] for of in (jaccard, boundary)])


def statistics(values_T: np.ndarray) -> Mapping[str, float]:
  """Mean, recall and decay of J or F of an object over the scored frames.

  Recall is the share of frames above 0.5, decay the mean of the first quarter
  less that of the last.
  """
  if not len(values_T):
    return {"mean": math.nan, "recall": math.nan, "decay": math.nan}
  ends = np.round(np.linspace(1, len(values_T), 5) + 1e-10).astype(int) - 1
  first, last = (values_T[ends[i] : ends[i + 1] + 1].mean() for i in (0, 3))
  return {
    "mean": float(values_T.mean()),
    "recall": float((values_T > _GOOD).mean()),
    "decay": float(first - last),
  }


def summary(objects: Sequence[np.ndarray]) -> Mapping[str, float]:
  """The columns of DAVIS' table, all objects of all sequences alike.

  Args:
    objects: J and F of each object over its scored frames, [2, T].
  """
  found = [[statistics(values_T) for values_T in both_2T] for both_2T in objects]
  out = {
    f"{name}-{what.title()}": float(np.mean([each[i][what] for each in found]))
    for i, name in enumerate("JF")
    for what in ("mean", "recall", "decay")
  }
  return {"J&F-Mean": (out["J-Mean"] + out["F-Mean"]) / 2, **out}
