"""Joints of people in videos: heat maps on a grid, coordinates out of them, PCK (JHMDB).

As the code of Jabri et al. (2020) does it, after which published numbers go.

Shapes: J joints, T frames, h and w cells of a grid, C channels (the background,
then the joints). Coordinates are (x, y).
"""

from collections.abc import Sequence

import numpy as np

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)
_SIGMA = 0.5  # cells
_REACH = 1.5  # cells that a joint's map reaches
_BOX_FRAC = 0.6  # of the diagonal of the box around a person


def heat_maps(
  place_2J: np.ndarray, *, size_px: tuple[int, int], grid: tuple[int, int]
) -> np.ndarray:
  """Joints as maps, float32 [h, w, 1 + J].

  A joint is a Gaussian of half a cell about the cell that it is nearest to, cut
  to four cells. At the left and upper border that cell is one further in: bounds
  are cut towards zero, and published numbers have it so.

  Args:
    place_2J: pixels, from 0.
    size_px: (height, width) of the frame.
    grid: (h, w).
  """
  (height, width), (h, w) = size_px, grid
  maps_hwJ = np.zeros((h, w, place_2J.shape[1]), np.float32)
  for joint, (x, y) in enumerate(place_2J.T):
    (left, right), (top, bottom) = (
      (int(np.trunc(v - _REACH)), int(np.trunc(v + _REACH + 1)))
      for v in (x * w / width, y * h / height)
    )
    if left >= w or top >= h or right < 0 or bottom < 0:
      continue
    rows = np.arange(max(top, 0), min(bottom, h))
    columns = np.arange(max(left, 0), min(right, w))
    square = (rows[:, None] - top - 2) ** 2 + (columns[None] - left - 2) ** 2
    maps_hwJ[rows[:, None], columns[None], joint] = np.exp(-square / (2 * _SIGMA**2))
  rest_hw1 = (maps_hwJ.sum(-1, keepdims=True) == 0).astype(np.float32)
  return np.concatenate([rest_hw1, maps_hwJ], axis=-1)


def coordinates(maps_hwC: np.ndarray, *, cells: int = 5) -> np.ndarray:
  """Where each joint's map is, float64 [2, J] in cells; -1 of a map that is 0 all over.

  The mean of the largest cells, weighted by their values. Of equal ones the first
  in the order of rows is taken, which no reference says.

  Args:
    maps_hwC: of a frame; channel 0 is the background.
    cells: that are taken.
  """
  h, w, _ = maps_hwC.shape
  flat_JS = maps_hwC[..., 1:].reshape(h * w, -1).T.astype(np.float64)
  order_JK = np.argsort(-flat_JS, axis=1, kind="stable")[:, :cells]
  weights_JK = np.take_along_axis(flat_JS, order_JK, 1)
  seen_J = flat_JS.sum(1) != 0
  total_J = np.where(seen_J, weights_JK.sum(1), 1.0)
  places_2JK = np.stack([order_JK % w, order_JK // w])
  place_2J = (places_2JK * weights_JK).sum(-1) / total_J
  return np.where(seen_J, place_2J, -1.0)


def box_px(truth_2JT: np.ndarray, seen_JT: np.ndarray) -> np.ndarray:
  """0.6 of the diagonal of the box around the joints that are seen, [T]; 0 of one or none."""
  sides = []
  for truth_JT in truth_2JT:
    # Published numbers begin at -1: all joints beyond it have another box.
    most = np.where(seen_JT, truth_JT, -1.0).max(0, initial=-1.0)
    sides.append(most - np.where(seen_JT, truth_JT, np.inf).min(0))
  return np.where(seen_JT.any(0), _BOX_FRAC * np.hypot(*sides), 0.0)


def distances(found_2JT: np.ndarray, truth_2JT: np.ndarray) -> list[np.ndarray]:
  """Distances of each joint in boxes of its frame, where it was found; without frame 0.

  Args:
    found_2JT: pixels; an x below 0 says that a joint was not found.
    truth_2JT: pixels, from 0.
  """
  seen_JT = found_2JT[0] >= 0
  with np.errstate(divide="ignore", invalid="ignore"):
    apart_JT = np.hypot(*(found_2JT - truth_2JT)) / box_px(truth_2JT, seen_JT)
  return [apart[1:][seen[1:]] for apart, seen in zip(apart_JT, seen_JT)]


def counted(apart: Sequence[np.ndarray], thresholds: Sequence[float] = THRESHOLDS) -> np.ndarray:
  """int64 [1 + thresholds, J]: distances of each joint that there are, and those up to each.

  Those of several videos add up: their frames count alike.
  """
  right = [[np.count_nonzero(d <= most) for d in apart] for most in thresholds]
  return np.array([[len(d) for d in apart], *right])


def pck(counts: np.ndarray) -> np.ndarray:
  """Shares of joints that are right, of `counted`, [thresholds, J]; NaN of one never found.

  PCK is their mean over joints. A joint that was not found is left out, so that
  losing joints costs nothing: counts stand beside the shares.
  """
  shares = np.full(counts[1:].shape, np.nan)
  return np.divide(counts[1:], counts[0], out=shares, where=counts[0] > 0)
