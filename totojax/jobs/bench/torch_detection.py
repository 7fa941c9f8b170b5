"""NMS and RoI align as they are commonly written in PyTorch (the `parity` extra).

Shapes: K boxes, R regions, H and W cells of a map, C channels.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from totojax.jobs.bench import peers


def nms(boxes_K4: np.ndarray, scores_K: np.ndarray, threshold: float) -> Callable[[], np.ndarray]:
  """Non-maximum suppression as it is commonly written: a loop over the boxes that stay.

  Returns:
    () -> bool [K], which ones these are.
  """
  torch = peers.pytorch()
  device = peers.device_of(torch)

  def run() -> np.ndarray:
    with torch.inference_mode():
      boxes, scores = (torch.from_numpy(x).to(device) for x in (boxes_K4, scores_K))
      sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
      areas, stay = sides.prod(1), torch.zeros_like(scores, dtype=torch.bool)
      left = scores.argsort(descending=True, stable=True)
      while len(left):
        best, left = left[0], left[1:]
        stay[best] = True
        low = torch.maximum(boxes[best, :2], boxes[left, :2])
        high = torch.minimum(boxes[best, 2:], boxes[left, 2:])
        both = (high - low).clamp(min=0).prod(1)
        left = left[both / (areas[best] + areas[left] - both) <= threshold]
      return stay.cpu().numpy()

  return run


def roi_align(
  map_HWC: np.ndarray, boxes_R4: np.ndarray, *, scale: float, bins: int, samples: int
) -> Callable[[], np.ndarray]:
  """Means of bilinear samples as they are commonly written: four corners of each are looked up.

  Returns:
    () -> [R, bins, bins, C], as torchvision's `roi_align` with aligned=False.
  """
  torch = peers.pytorch()
  device = peers.device_of(torch)
  places_S = (torch.arange(bins * samples, device=device) + 0.5) / samples

  def along(low: Any, high: Any, cells: int) -> tuple[Any, ...]:
    """(cell, next cell, share of the next, whether it counts) [R, samples]."""
    at = low[:, None] + (high - low).clamp(min=1)[:, None] / bins * places_S
    real, at = (at >= -1) & (at <= cells), at.clamp(0, cells - 1)
    cell = at.floor().long()
    return cell, (cell + 1).clamp(max=cells - 1), at - cell, real

  def run() -> np.ndarray:
    with torch.inference_mode():
      values = torch.from_numpy(map_HWC).to(device)
      x1, y1, x2, y2 = (torch.from_numpy(boxes_R4).to(device) * scale).unbind(1)
      rows, columns = along(y1, y2, values.shape[0]), along(x1, x2, values.shape[1])
      total: Any = 0.0
      for row, tall in ((rows[0], 1 - rows[2]), (rows[1], rows[2])):
        for column, wide in ((columns[0], 1 - columns[2]), (columns[1], columns[2])):
          share = (tall * rows[3])[:, :, None] * (wide * columns[3])[:, None]
          total = total + share[..., None] * values[row[:, :, None], column[:, None]]
      parts = total.unflatten(1, (bins, samples)).unflatten(3, (bins, samples))
      return parts.mean((2, 4)).cpu().numpy()

  return run
