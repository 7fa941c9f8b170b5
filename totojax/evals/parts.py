"""Parts of people in videos: the mean intersection over union of VIP (Zhou et al. 2018).

One histogram is of all pixels of all frames of all videos, the first included.
"""

import numpy as np

CLASSES = 20  # the background is one


def histogram(truth: np.ndarray, found: np.ndarray, *, classes: int = CLASSES) -> np.ndarray:
  """int64 [classes, classes]: pixels by true (rows) and found class.

  Pixels whose truth is no class are left out.

  Raises:
    ValueError: another shape, or something was found that is no class.
  """
  if truth.shape != found.shape:
    raise ValueError(f"labels are {found.shape} and their truth {truth.shape}; they must agree")
  counted = (truth >= 0) & (truth < classes)
  truth, found = truth[counted].astype(np.int64), found[counted].astype(np.int64)
  if found.size and not 0 <= found.min() <= found.max() < classes:
    raise ValueError(f"labels go up to {found.max()}; classes are 0 to {classes - 1}")
  return np.bincount(truth * classes + found, minlength=classes**2).reshape(classes, classes)


def ious(counts: np.ndarray) -> np.ndarray:
  """float64 [classes] of a histogram; NaN of what is neither true nor found anywhere."""
  both = np.diag(counts).astype(np.float64)
  union = counts.sum(0) + counts.sum(1) - both
  return np.divide(both, union, out=np.full(len(both), np.nan), where=union > 0)


def miou(counts: np.ndarray) -> float:
  """The mean over the classes that are there, 0 to 1."""
  return float(np.nanmean(ious(counts)))
