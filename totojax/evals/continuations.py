"""How near continuations of clips come to the truth, and what they must beat.

PSNR is of each frame, at most 100 dB (which equal frames have), and SSIM as
`tokenizers.stats.ssim` has it. Means are over clips, which are the independent
units: what several samples of a clip, or its tokens, give is averaged before.

Shapes: R clips, K samples of a clip, N (latent) frames, T frames of pixels, P
tokens of a frame, V codes.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from totojax.evals import baselines
from totojax.tokenizers import stats

LEVEL = 0.95
MOST_DB = 100.0
_PEAK = 255.0


SHARES = frozenset(["accuracy", "change"])  # measures that no interval leaves 0 to 1 for


@dataclasses.dataclass(frozen=True)
class Interval:
  """A mean over clips, with the ends of its 95 % interval (Student's t)."""

  mean: float | None
  low: float | None  # None of a single clip
  high: float | None
  n: int  # clips

  @classmethod
  def of(cls, values_R: np.ndarray) -> "Interval":
    """Of one value of each clip; NaN is none."""
    from scipy import stats as distributions  # slow to import

    values = np.asarray(values_R, np.float64)
    values = values[~np.isnan(values)]
    n = len(values)
    if not n:
      return cls(None, None, None, 0)
    mean = float(values.mean())
    if n == 1:
      return cls(mean, None, None, 1)
    t = distributions.t.ppf((1 + LEVEL) / 2, n - 1)
    spread = float(t * values.std(ddof=1) / np.sqrt(n))
    return cls(mean, mean - spread, mean + spread, n)


def psnrs(original_MHW3: np.ndarray, other_MHW3: np.ndarray) -> np.ndarray:
  """float64 [M]: dB of each of uint8 images, at most `MOST_DB`."""
  error = np.square(original_MHW3.astype(np.float64) - other_MHW3).mean((1, 2, 3))
  with np.errstate(divide="ignore"):
    return np.minimum(10 * np.log10(_PEAK**2 / error), MOST_DB)


def pixel_measures(original_THW3: np.ndarray, other_THW3: np.ndarray) -> dict[str, np.ndarray]:
  """{"psnr_db": [T], "ssim": [T]} of frames; no SSIM of smaller ones than it needs."""
  found = {"psnr_db": psnrs(original_THW3, other_THW3)}
  if min(original_THW3.shape[1:3]) >= stats.WINDOW_PX:
    found["ssim"] = stats.ssims(original_THW3, other_THW3)
  return found


def changes(codes_NP: np.ndarray) -> np.ndarray:
  """float64 [N - 1]: share of tokens that are others than in the frame before."""
  return (codes_NP[1:] != codes_NP[:-1]).mean(-1)


def pixel_changes(frames_THW3: np.ndarray) -> np.ndarray:
  """float64 [T - 1]: mean absolute change of a pixel, of 255."""
  return np.abs(np.diff(frames_THW3.astype(np.float64), axis=0)).mean((1, 2, 3))


@dataclasses.dataclass(frozen=True)
class Predictors:
  """What needs no network, fitted on training codes: one for each code of a place."""

  copies: Sequence[baselines.CopyModel]
  records: int  # that they are fitted on

  @classmethod
  def fit(cls, codes_RNP: np.ndarray, *, vocab: int, codes: int) -> "Predictors":
    planes = [codes_RNP[..., k::codes] for k in range(codes)]
    fit = baselines.fit_copy if codes_RNP.shape[1] > 1 else _unigram_alone
    return cls([fit(plane, vocab=vocab, per_code=False) for plane in planes], len(codes_RNP))

  def losses(self, codes_NP: np.ndarray) -> dict[str, np.ndarray]:
    """{"copy": [N - 1], "unigram": [N - 1]}: mean nats of the frames after the first."""
    codes = len(self.copies)
    planes = [codes_NP[None, :, k::codes] for k in range(codes)]
    pairs = list(zip(planes, self.copies))
    copy = [baselines.copy_nll(plane, model)[0, 1:].mean(-1) for plane, model in pairs]
    unigram = [-np.log(model.unigram_V)[plane[0, 1:]].mean(-1) for plane, model in pairs]
    return {"copy": np.mean(copy, axis=0), "unigram": np.mean(unigram, axis=0)}

  def draws(self, frames: int, tokens: int, *, seed: int) -> np.ndarray:
    """int32 codes [frames, tokens] that the unigram draws."""
    rng, codes = np.random.default_rng(seed), len(self.copies)
    drawn = np.empty((frames, tokens), np.int32)
    for k, model in enumerate(self.copies):
      share = drawn[:, k::codes].shape
      drawn[:, k::codes] = rng.choice(len(model.unigram_V), size=share, p=model.unigram_V)
    return drawn


def _unigram_alone(codes_RNP: np.ndarray, *, vocab: int, per_code: bool) -> baselines.CopyModel:
  del per_code
  return baselines.CopyModel(baselines.fit_unigram(codes_RNP, vocab=vocab), np.zeros(vocab))


Values = Mapping[tuple[str, str], np.ndarray]  # (of what, measure) -> [T] or [N]


class Table:
  """Values of clips, frame by frame; from them rows of metrics.csv and means."""

  def __init__(self):
    self._values: dict[tuple[str, str], list[np.ndarray]] = {}

  def add(self, of: str, measure: str, values_T: np.ndarray) -> None:
    """Values of one clip, of the new frames in order; there may be fewer than of others."""
    self._values.setdefault((of, measure), []).append(np.asarray(values_T, np.float64))

  def rows(self) -> list[dict[str, Any]]:
    """A row for each measure of each new frame (from 1)."""
    out = []
    for (of, measure), clips in self._values.items():
      for frame in range(max(map(len, clips))):
        values = [values_T[frame] for values_T in clips if len(values_T) > frame]
        interval = dataclasses.asdict(Interval.of(np.array(values)))
        out.append({"frame": frame + 1, "of": of, "measure": measure, **interval})
    return out

  def means(self) -> dict[str, dict[str, Any]]:
    """ "OF/MEASURE" -> `Interval` over clips of their means over frames."""
    found = {}
    for (of, measure), clips in self._values.items():
      interval = Interval.of(_means(clips))
      if measure in SHARES and interval.low is not None and interval.high is not None:
        ends = {"low": max(interval.low, 0.0), "high": min(interval.high, 1.0)}
        interval = dataclasses.replace(interval, **ends)
      found[f"{of}/{measure}"] = interval
    return {name: dataclasses.asdict(interval) for name, interval in found.items()}

  def compared(self, measure: str, one: str, other: str) -> dict[str, Any] | None:
    """`Interval` of the differences of clips, one less the other; None: one is missing."""
    if not {(one, measure), (other, measure)} <= self._values.keys():
      return None
    pair = [_means(self._values[of, measure]) for of in (one, other)]
    return dataclasses.asdict(Interval.of(pair[0] - pair[1]))

  def drift(self, of: str, measure: str) -> dict[str, Any] | None:
    """`Interval` of the last quarter of the frames less the first; None: too few."""
    differences = []
    for values_T in self._values.get((of, measure), ()):
      part = len(values_T) // 4
      if part:
        differences.append(values_T[-part:].mean() - values_T[:part].mean())
    return dataclasses.asdict(Interval.of(np.array(differences))) if differences else None


def _means(clips: Sequence[np.ndarray]) -> np.ndarray:
  return np.array([values_T.mean() if len(values_T) else np.nan for values_T in clips])


def best(values_KT: np.ndarray) -> np.ndarray:
  """[T]: of the sample with the largest mean."""
  return values_KT[int(values_KT.mean(-1).argmax())]


def over_samples(
  measure: Callable[[np.ndarray], Mapping[str, np.ndarray]], samples: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
  """{measure: [K, T]} of what a function gives of each sample."""
  each = [measure(sample) for sample in samples]
  return {name: np.stack([one[name] for one in each]) for name in each[0]}
