"""What a next-token loss must beat: predictors that need no network.

Losses are in nats per visual token, as the model's validation loss is, and on
raw codes 0..V-1. Three predictors, all fitted on training codes alone:

  unigram     q(c) = (count(c) + 1) / (total + V), for every token.
  neighbours  p(x | left, up) of counts of the two tokens before it in its frame,
              drawn towards the mean of p(x | left) and p(x | up), and these
              towards q: (count(context, x) + a below(x)) / (count(context) + a).
              `a` is the one of PRIORS that suits a tenth of the training
              sequences best. Beyond an edge of the frame is a code of its own.
  copy        p(x | prev) = lam 1[x = prev] + (1 - lam) q(x), where prev is the
              code at the same place of the previous frame. Frame 1 has no
              previous frame and falls back to q.

"Below unigram" alone proves little: neighbours in a frame go together, and
neighbouring frames share most of their codes, so a model that copies passes. A
model that has learned shapes is below `neighbours`, one that has learned motion
or appearance is below `copy` on frames 2 and later.

Frames are latent ones. Of several codes of a place each has predictors of its
own, as if the others were not there: copying is of the same place and code. The
first latent frame has nothing before it, whatever it holds.

Shapes: M sequences, N frames, P tokens of a frame (G x G), V codes, K tokens in
all.
"""

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import Self

import numpy as np

from totojax.tokenizers import ngrams

AXES = "sequences, frames, tokens of a frame"
RATE_PRIOR = 16.0  # pairs that the shared copy rate counts for, per code
PRIORS = (0.5, 2.0, 8.0, 32.0, 128.0, 512.0)  # counts that what is below is worth


@dataclasses.dataclass(frozen=True)
class Score:
  """Mean loss in nats per token, with its standard error over sequences."""

  mean: float  # mean over all tokens scored
  # Standard error over sequences; NaN for a single sequence, since tokens of
  # one sequence are not independent.
  sem: float
  sequences: int  # sequences scored
  tokens: int  # tokens scored
  mean_M: np.ndarray  # mean loss of each sequence

  @classmethod
  def of(cls, mean_M: np.ndarray, tokens: int) -> Self:
    """From the means of sequences that have as many tokens each."""
    n = len(mean_M)
    sem = float(mean_M.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    return cls(float(mean_M.mean()), sem, n, tokens, mean_M)


@dataclasses.dataclass(frozen=True)
class CopyModel:
  """The copying predictor: q(c) and, for each previous code, lam."""

  unigram_V: np.ndarray
  lam_V: np.ndarray


def fit_unigram(codes_MNP: np.ndarray, *, vocab: int) -> np.ndarray:
  """Add-one smoothed code probabilities, float64 [V], summing to 1."""
  ngrams.check_codes(codes_MNP, vocab, axes=AXES)
  count_V = np.bincount(codes_MNP.reshape(-1), minlength=vocab)
  return (count_V + 1.0) / (codes_MNP.size + vocab)


def fit_copy(codes_MNP: np.ndarray, *, vocab: int, per_code: bool) -> CopyModel:
  """Fits the copying predictor by maximum likelihood on training codes.

  For one code c the likelihood is highest where the predicted probability of
  a repeat equals the observed rate: lam + (1 - lam) q(c) = r(c), that is
  lam = (r - q) / (1 - q), at least 0. A lam shared by all codes has no closed
  form; the derivative of its log likelihood falls in lam, so it is bisected.
  Training data without a single change would give lam = 1 and an infinite
  loss elsewhere: both fits stay at or below the rule of succession.

  Args:
    codes_MNP: training codes [sequences, frames, tokens], two frames or more.
    vocab: number of codes V.
    per_code: one lam for each code of the previous frame, with its rate drawn
      towards the common one by RATE_PRIOR pairs, instead of one lam for all.

  Raises:
    ValueError: with fewer than two frames, or codes outside 0..V-1.
  """
  unigram_V = fit_unigram(codes_MNP, vocab=vocab)
  previous, repeated = _pairs(codes_MNP)
  pairs_V = np.bincount(previous, minlength=vocab).astype(np.float64)
  repeats_V = np.bincount(previous, weights=repeated, minlength=vocab).astype(np.float64)
  if per_code:
    rate = (repeats_V.sum() + 1.0) / (pairs_V.sum() + 2.0)
    rate_V = (repeats_V + RATE_PRIOR * rate) / (pairs_V + RATE_PRIOR)
    # With one code q is 1 and lam is free; the clip keeps the division whole.
    room_V = np.maximum(1.0 - unigram_V, np.finfo(np.float64).tiny)
    lam_V = np.clip((rate_V - unigram_V) / room_V, 0.0, 1.0)
  else:
    lam = _shared_lam(unigram_V, pairs_V=pairs_V, repeats_V=repeats_V)
    lam_V = np.full(vocab, lam)
  return CopyModel(unigram_V=unigram_V, lam_V=lam_V)


def unigram_score(codes_MNP: np.ndarray, *, unigram_V: np.ndarray, first_frame: int) -> Score:
  """Loss of the unigram predictor on frames `first_frame` (from 0) and on."""
  ngrams.check_codes(codes_MNP, len(unigram_V), axes=AXES)
  nll_MNP = -np.log(unigram_V)[codes_MNP[:, first_frame:]]
  return _score(nll_MNP)


def copy_score(codes_MNP: np.ndarray, *, model: CopyModel, first_frame: int) -> Score:
  """Loss of the copying predictor on frames `first_frame` (from 0) and on.

  With first_frame = 0 the first frame is scored by the unigram.
  """
  return _score(copy_nll(codes_MNP, model)[:, first_frame:])


def copy_nll(codes_MNP: np.ndarray, model: CopyModel) -> np.ndarray:
  """float64 nats [M, N, P] of the copying predictor; the first frame's by the unigram."""
  ngrams.check_codes(codes_MNP, len(model.unigram_V), axes=AXES)
  previous_MNP, now_MNP = codes_MNP[:, :-1], codes_MNP[:, 1:]
  lam_MNP = model.lam_V[previous_MNP]
  p_MNP = (1.0 - lam_MNP) * model.unigram_V[now_MNP]
  p_MNP += lam_MNP * (now_MNP == previous_MNP)
  first_M1P = -np.log(model.unigram_V)[codes_MNP[:, :1]]
  return np.concatenate([first_M1P, -np.log(p_MNP)], axis=1)


@dataclasses.dataclass(frozen=True)
class NeighbourModel:
  """Counts of (left, up, code), (left, code) and (up, code) in training frames."""

  unigram_V: np.ndarray
  grams: tuple["Grams", ...]  # of contexts (left, up), left and up
  prior: float


@dataclasses.dataclass(frozen=True)
class Grams:
  """How often a code follows a context; both are numbers, and zeros are not kept."""

  keys: np.ndarray  # int64, increasing: context x V + code
  counts: np.ndarray
  contexts: np.ndarray  # int64, increasing
  context_counts: np.ndarray

  @classmethod
  def of(cls, context_K: np.ndarray, code_K: np.ndarray, vocab: int) -> Self:
    keys, counts = np.unique(context_K * vocab + code_K, return_counts=True)
    return cls(keys, counts, *np.unique(context_K, return_counts=True))

  def probability(
    self,
    context_K: np.ndarray,
    code_K: np.ndarray,
    below_K: np.ndarray,
    *,
    vocab: int,
    prior: float,
  ) -> np.ndarray:
    """Of the codes in their contexts, drawn towards `below`."""
    hits_K = _lookup(self.keys, self.counts, context_K * vocab + code_K)
    seen_K = _lookup(self.contexts, self.context_counts, context_K)
    return (hits_K + prior * below_K) / (seen_K + prior)


def fit_neighbours(codes_MNP: np.ndarray, *, vocab: int) -> NeighbourModel:
  """Counts neighbours, with the prior that suits the last tenth of sequences best.

  Args:
    codes_MNP: training codes; P is a square.
    vocab: number of codes V.

  Raises:
    ValueError: P is no square, or codes outside 0..V-1.
  """
  held = len(codes_MNP) // 10
  prior = PRIORS[len(PRIORS) // 2]
  if held:  # else there are too few to choose on
    rest = _count(codes_MNP[:-held], vocab=vocab)
    losses = [
      neighbour_score(codes_MNP[-held:], model=rest(prior), first_frame=0).mean for prior in PRIORS
    ]
    prior = PRIORS[int(np.argmin(losses))]
  return _count(codes_MNP, vocab=vocab)(prior)


def _count(codes_MNP: np.ndarray, *, vocab: int) -> Callable[[float], NeighbourModel]:
  """prior -> model."""
  contexts, code_K = _contexts(codes_MNP, vocab)
  grams = tuple(Grams.of(context_K, code_K, vocab) for context_K in contexts)
  return functools.partial(NeighbourModel, fit_unigram(codes_MNP, vocab=vocab), grams)


def neighbour_score(codes_MNP: np.ndarray, *, model: NeighbourModel, first_frame: int) -> Score:
  """Loss of the neighbours' counts on frames `first_frame` (from 0) and on."""
  vocab = len(model.unigram_V)
  ngrams.check_codes(codes_MNP, vocab, axes=AXES)
  codes_MNP = codes_MNP[:, first_frame:]
  (both_K, *single), code_K = _contexts(codes_MNP, vocab)
  both, *grams = model.grams
  q_K, prior = model.unigram_V[code_K], model.prior
  parts = [
    g.probability(context_K, code_K, q_K, vocab=vocab, prior=prior)
    for g, context_K in zip(grams, single)
  ]
  below_K = np.mean(parts, axis=0)
  p_K = both.probability(both_K, code_K, below_K, vocab=vocab, prior=prior)
  return _score(-np.log(p_K).reshape(codes_MNP.shape))


def _contexts(codes_MNP: np.ndarray, vocab: int) -> tuple[list[np.ndarray], np.ndarray]:
  """Numbers [K] of (left, up), left and up of every token, and the tokens [K]."""
  grid = math.isqrt(codes_MNP.shape[-1])
  if grid**2 != codes_MNP.shape[-1]:
    raise ValueError(f"frames have {codes_MNP.shape[-1]} tokens; neighbours need a square of them")
  codes = codes_MNP.reshape(-1, grid, grid).astype(np.int64)
  left, up = np.full_like(codes, vocab), np.full_like(codes, vocab)
  left[:, :, 1:], up[:, 1:] = codes[:, :, :-1], codes[:, :-1]
  both = left * (vocab + 1) + up
  return [x.reshape(-1) for x in (both, left, up)], codes.reshape(-1)


def _lookup(keys: np.ndarray, values: np.ndarray, wanted_K: np.ndarray) -> np.ndarray:
  """The values of keys; 0 of those that are not there."""
  at_K = np.minimum(np.searchsorted(keys, wanted_K), len(keys) - 1)
  return np.where(keys[at_K] == wanted_K, values[at_K], 0)


def evaluate(
  train_MNP: np.ndarray, validation_MNP: np.ndarray, *, vocab: int, codes: int = 1
) -> dict[str, float]:
  """All baselines, fitted on training codes and scored on validation codes.

  Args:
    train_MNP, validation_MNP: raw codes; P is G x G x `codes`, those of a place
      one after the other.
    vocab: number of codes V.
    codes: of a place.

  Returns:
    Flat names, in nats per visual token: `<baseline>/loss` over all frames and
    `<baseline>/later_loss` over frames 2 and on, each with `_sem`, for the
    baselines `unigram`, `neighbours`, `copy` (one lam) and `copy_per_code`;
    `copy/lam` (the mean over codes of a place); `uniform/loss` = ln V; and
    `fitted_records`, `scored_records`. What has a single frame has no later loss and no copy.
  """
  out = {
    "uniform/loss": float(np.log(vocab)),
    "fitted_records": len(train_MNP),
    "scored_records": len(validation_MNP),
  }
  is_video = min(train_MNP.shape[1], validation_MNP.shape[1]) > 1
  # Of each code of a place for itself.
  planes = lambda codes_MNP: [codes_MNP[..., code::codes] for code in range(codes)]
  train, validation = planes(train_MNP), planes(validation_MNP)

  def add(baseline, fit, score):
    models = [fit(plane) for plane in train]
    for name, first in {"loss": 0, "later_loss": 1}.items():
      if is_video or not first:
        scores = [score(c, model=m, first_frame=first) for c, m in zip(validation, models)]
        whole = Score.of(np.mean([s.mean_M for s in scores], axis=0), sum(s.tokens for s in scores))
        out[f"{baseline}/{name}"], out[f"{baseline}/{name}_sem"] = whole.mean, whole.sem
    return models

  add(
    "unigram",
    functools.partial(fit_unigram, vocab=vocab),
    lambda codes, *, model, first_frame: unigram_score(
      codes, unigram_V=model, first_frame=first_frame
    ),
  )
  add("neighbours", functools.partial(fit_neighbours, vocab=vocab), neighbour_score)
  if is_video:
    models = add("copy", functools.partial(fit_copy, vocab=vocab, per_code=False), copy_score)
    out["copy/lam"] = float(np.mean([model.lam_V[0] for model in models]))
    add("copy_per_code", functools.partial(fit_copy, vocab=vocab, per_code=True), copy_score)
  return out


def _pairs(codes_MNP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Flat previous codes, and whether the next frame repeats each of them."""
  if codes_MNP.shape[1] < 2:
    raise ValueError(
      f"codes have {codes_MNP.shape[1]} frame(s) a sequence; copying from the"
      " previous frame needs at least 2. Use the unigram baseline for images"
    )
  previous_MNP = codes_MNP[:, :-1]
  repeated_MNP = codes_MNP[:, 1:] == previous_MNP
  return previous_MNP.reshape(-1), repeated_MNP.reshape(-1)


def _shared_lam(unigram_V: np.ndarray, *, pairs_V: np.ndarray, repeats_V: np.ndarray) -> float:
  """The lam in [0, (n + 1) / (n + 2)] of highest likelihood, by bisection."""
  pairs = pairs_V.sum()
  misses = pairs - repeats_V.sum()

  def slope(lam):
    hits = repeats_V * (1.0 - unigram_V) / (lam + (1.0 - lam) * unigram_V)
    return hits.sum() - misses / (1.0 - lam)

  low, high = 0.0, (pairs + 1.0) / (pairs + 2.0)
  if slope(low) <= 0:
    return low
  if slope(high) >= 0:
    return high
  for _ in range(60):  # halves the interval to below one ulp
    middle = (low + high) / 2
    low, high = (middle, high) if slope(middle) > 0 else (low, middle)
  return (low + high) / 2


def _score(nll_MNP: np.ndarray) -> Score:
  if not nll_MNP.size:
    raise ValueError(
      f"no tokens to score: losses have shape {nll_MNP.shape}; give at least"
      " one sequence that has the frames asked for"
    )
  # Every sequence has the same number of tokens: the mean of means is exact.
  return Score.of(nll_MNP.reshape(len(nll_MNP), -1).mean(axis=1), nll_MNP.size)
