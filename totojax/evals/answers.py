"""How near drawn answers of vision tasks are to the true ones, with intervals.

Each measure is a sum over scenes or a mean of them, so that a percentile
bootstrap over scenes draws how often each counts.

  abs_rel   absolute relative depth error: mean of |d - t| / t over pixels whose
            true depth t is known, and over scenes; 0 is perfect
  miou      mean over classes of intersection over union of all scenes' pixels,
            each drawn pixel being of the class with the nearest colour (the
            first of equally near ones). A class that is nowhere has none
  psnr_db   of 8 bits, at most 100 dB, mean over scenes

Shapes: R scenes, H and W pixels, C classes, D draws of a bootstrap.
"""

import dataclasses
from typing import Any

import numpy as np

from totojax.evals import continuations

MEASURES = {"depth": "abs_rel", "segmentation": "miou"}  # by task; of others the PSNR
LOWER_IS_BETTER = ("abs_rel",)
FARTHEST = 10.0  # what "inverse" depth is cut at
LEAST = 10  # scenes of an interval
_DRAWS, _LEVEL, _SEED = 2000, 0.95, 0  # of a bootstrap


@dataclasses.dataclass(frozen=True)
class Statistic:
  """What a measure keeps of each scene."""

  measure: str
  values: np.ndarray  # float64 [R] (NaN: none), or of miou [R, C, C]: true, drawn

  def of(self, times_DR: np.ndarray) -> np.ndarray:
    """float64 [D]: the measure of scenes that count so many times each."""
    if self.measure != "miou":
      is_known_R = ~np.isnan(self.values)
      values_R = np.where(is_known_R, self.values, 0.0)
      with np.errstate(invalid="ignore"):
        return times_DR @ values_R / (times_DR @ is_known_R)
    classes = self.values.shape[-1]
    pixels_DCC = (times_DR @ self.values.reshape(len(self.values), -1)).reshape(
      -1, classes, classes
    )
    both_DC = np.diagonal(pixels_DCC, axis1=1, axis2=2)
    either_DC = pixels_DCC.sum(1) + pixels_DCC.sum(2) - both_DC
    with np.errstate(invalid="ignore"):
      return np.nanmean(both_DC / either_DC, axis=1)


def statistic(
  measure: str, truth_RHW3: np.ndarray, drawn_RHW3: np.ndarray, **meaning: Any
) -> Statistic:
  """A measure of drawn answers, uint8 both.

  Args:
    measure: "abs_rel", "miou" or "psnr_db".
    truth_RHW3: the true answers.
    drawn_RHW3: those that are judged.
    **meaning: `kind` of `depths`, or `palette_C3`.
  """
  if measure == "abs_rel":
    return Statistic(measure, relative_errors(truth_RHW3, drawn_RHW3, **meaning))
  if measure == "miou":
    return Statistic(measure, confusions(truth_RHW3, drawn_RHW3, **meaning))
  return Statistic(measure, continuations.psnrs(truth_RHW3, drawn_RHW3))


def depths(grey_RHW3: np.ndarray, *, kind: str) -> np.ndarray:
  """float64 [R, H, W] of pictures, by the mean of their channels.

  Args:
    grey_RHW3: uint8.
    kind: "inverse" (255 / grey, at most `FARTHEST`) or "linear" (grey / 255; of
      black the least, 1 / 255).
  """
  grey_RHW = grey_RHW3.mean(-1, dtype=np.float64)
  if kind == "linear":
    return np.maximum(grey_RHW, 1.0) / 255
  return 255 / np.maximum(grey_RHW, 255 / FARTHEST)


def relative_errors(truth_RHW3: np.ndarray, drawn_RHW3: np.ndarray, *, kind: str) -> np.ndarray:
  """float64 [R]: mean of |d - t| / t over pixels that are not black in the truth; NaN: all are."""
  true_RHW, found_RHW = (depths(one, kind=kind) for one in (truth_RHW3, drawn_RHW3))
  is_known_RHW = truth_RHW3.any(-1)
  error_RHW = np.where(is_known_RHW, np.abs(found_RHW - true_RHW) / true_RHW, 0.0)
  with np.errstate(invalid="ignore"):
    return error_RHW.sum((1, 2)) / is_known_RHW.sum((1, 2))


def classes(pixels_RHW3: np.ndarray, palette_C3: np.ndarray) -> np.ndarray:
  """int [R, H, W]: the class of the nearest colour, the first of equally near ones."""
  off = pixels_RHW3[..., None, :].astype(np.int32) - palette_C3.astype(np.int32)
  return np.square(off).sum(-1).argmin(-1)


def confusions(
  truth_RHW3: np.ndarray, drawn_RHW3: np.ndarray, *, palette_C3: np.ndarray
) -> np.ndarray:
  """float64 [R, C, C]: pixels of each true class that were drawn as each."""
  count = len(palette_C3)
  out_RCC = np.zeros((len(truth_RHW3), count, count))
  for confusion_CC, truth_HW3, drawn_HW3 in zip(out_RCC, truth_RHW3, drawn_RHW3):
    true_HW, found_HW = (classes(one[None], palette_C3)[0] for one in (truth_HW3, drawn_HW3))
    np.add.at(confusion_CC, (true_HW.ravel(), found_HW.ravel()), 1)
  return out_RCC


def score(found: Statistic, less: Statistic | None = None) -> continuations.Interval:
  """A measure, or how much it is above another one's on the same scenes.

  The interval is of 95 %, by a percentile bootstrap over scenes; of fewer than
  `LEAST` there is none, as their draws are too much alike.
  """
  n = len(found.values)

  def of(times_DR: np.ndarray) -> np.ndarray:
    return found.of(times_DR) - (0.0 if less is None else less.of(times_DR))

  mean = float(of(np.ones((1, n)))[0])
  if np.isnan(mean):
    return continuations.Interval(None, None, None, n)
  if n < LEAST:
    return continuations.Interval(mean, None, None, n)
  rng = np.random.default_rng(_SEED)
  times_DR = rng.multinomial(n, np.full(n, 1 / n), size=_DRAWS).astype(np.float64)
  ends = (1 - _LEVEL) / 2, (1 + _LEVEL) / 2
  low, high = (float(end) for end in np.nanquantile(of(times_DR), ends))
  return continuations.Interval(mean, low, high, n)


def is_better(measure: str, difference: continuations.Interval) -> bool | None:
  """Whether what another one was taken from is better; None: the interval meets 0."""
  mean, low, high = difference.mean, difference.low, difference.high
  if mean is None or low is None or high is None or low <= 0 <= high:
    return None
  return (mean < 0) == (measure in LOWER_IS_BETTER)
