"""Top-5 mean average precision of short-term anticipation (Ego4D).

What will be touched, how and when, is one of several things a frame, and people
annotate only the one that was. So of each image the first (K - 1) n false
positives, in the order of scores and of all nouns together, are left out, where
n is how many true objects it has: "top 5" is not "five boxes".

Four columns, each matched on its own: Noun; Noun + Verb; Noun + TTC; and Overall,
all three. A detection takes the free true object with the largest overlap among
those that it agrees with: IoU above 0.5, of boxes whose ends count as pixels; the
time to contact at most 0.25 s off. Average precision of each noun that something
true has, over the images together, with precision made monotonic (VOC's area);
the mean over nouns, in percent.

The challenge's own code leaves an image out, with all that is true of it, where a
submission has no box for it, which raises the number. `strict=False` does so too.
Equal scores of an image go last first, as there; of several images in their order.

Shapes: D detections and O true objects of an image, P detections of all images,
C columns, G videos.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, Protocol

import numpy as np

from totojax.evals import resampled

COLUMNS = ("noun", "noun_verb", "noun_ttc", "overall")
IOU, TTC_S = 0.5, 0.25  # above; at most
_TINY = 1e-11  # in the denominator, as there


@dataclasses.dataclass(frozen=True)
class Detections:
  """What is foreseen of an image.

  Raises:
    ValueError: the arrays are not of one length, or a score is none.
  """

  boxes: np.ndarray  # [D, 4], x1 y1 x2 y2 in pixels of the full-size frame
  nouns: np.ndarray  # int [D]
  verbs: np.ndarray  # int [D]
  ttc_s: np.ndarray  # [D], seconds to the contact
  scores: np.ndarray  # [D], higher is surer

  def __post_init__(self):
    shapes = {f.name: np.shape(getattr(self, f.name)) for f in dataclasses.fields(self)}
    count = len(self.scores)
    wanted = {name: (count, 4) if name == "boxes" else (count,) for name in shapes}
    if shapes != wanted:
      raise ValueError(f"detections have shapes {shapes}; {count} scores need {wanted}")
    if not np.isfinite(self.scores).all():
      raise ValueError("a detection's score is no finite number; leave it out, or give it one")


class Truth(Protocol):
  """What is true of an image, as `data.sources.sta.Query` has it."""

  @property
  def boxes(self) -> np.ndarray: ...  # [O, 4]
  @property
  def nouns(self) -> np.ndarray: ...  # int [O]
  @property
  def verbs(self) -> np.ndarray: ...  # int [O]
  @property
  def ttc_s(self) -> np.ndarray: ...  # [O]


def iou(found_D4: np.ndarray, true_O4: np.ndarray) -> np.ndarray:
  """Overlap of boxes, float64 [D, O]: ends are pixels too, so a width is x2 - x1 + 1."""
  found_D14, true_1O4 = (
    np.asarray(found_D4, np.float64)[:, None],
    np.asarray(true_O4, np.float64)[None],
  )
  low, high = np.maximum(found_D14, true_1O4)[..., :2], np.minimum(found_D14, true_1O4)[..., 2:]
  both_DO = _area(low, high)
  each = [_area(boxes[..., :2], boxes[..., 2:]) for boxes in (found_D14, true_1O4)]
  return both_DO / (each[0] + each[1] - both_DO + _TINY)


def _area(low: np.ndarray, high: np.ndarray) -> np.ndarray:
  return np.maximum(high - low + 1, 0).prod(-1)


def top_k_map(
  found: Mapping[str, Detections],
  truth: Mapping[str, Truth],
  *,
  k: int | None = 5,
  strict: bool = True,
) -> dict[str, float]:
  """The four columns in percent.

  Args:
    found: by image. Images that `truth` has not do not count.
    truth: by image.
    k: of the rule above; 1 or None leaves no false positive out.
    strict: whether what is true of an image without a detection counts.

  Raises:
    ValueError: an image has no entry in `found`, or there is nothing true.
  """
  return _Pool.of(found, truth, {uid: uid for uid in truth}, k=k, strict=strict).columns()


def summary(
  found: Mapping[str, Detections],
  truth: Mapping[str, Truth],
  videos: Mapping[str, str],
  *,
  k: int | None = 5,
  seed: int = 0,
) -> dict[str, Any]:
  """What there is to tell of a model: numbers, intervals, and what does not count.

  Args:
    found: by image.
    truth: by image.
    videos: of each image; those of one are not independent.
    k: as `top_k_map`.
    seed: of the bootstrap.

  Returns:
    The four columns; "interval": of each [low, high] of 95 % by a bootstrap over
    videos (None: of less than two); "images", "objects", "videos", and "empty":
    images without a detection. "compatible": the columns as the challenge's code
    has them, where they are others.

  Raises:
    ValueError: as `top_k_map`.
  """
  pool = _Pool.of(found, truth, videos, k=k, strict=True)
  empty = [uid for uid in truth if not len(found[uid].scores)]
  out: dict[str, Any] = dict(pool.columns())
  out["interval"] = {
    name: list(
      resampled.interval(lambda times_G, c=c: pool.column(c, times_G), pool.videos, seed=seed)
    )
    for c, name in enumerate(COLUMNS)
  }
  out |= {"images": len(truth), "objects": pool.objects, "videos": pool.videos}
  out["empty"] = len(empty)
  if empty and len(empty) < len(truth):
    compatible = top_k_map(found, truth, k=k, strict=False)
    if compatible != {name: out[name] for name in COLUMNS}:
      out["compatible"] = compatible
  return out


@dataclasses.dataclass(frozen=True)
class _Noun:
  """Of a noun in a column: the detections that count, surest first."""

  hits_P: np.ndarray  # 1.0 right, 0.0 wrong
  of_P: np.ndarray  # number of the video
  truth_of: np.ndarray  # of each true object its video

  def average_precision(self, times_G: np.ndarray) -> float | None:
    """The area under monotonic precision over recall; None: nothing is true.

    Args:
      times_G: how often each video counts.
    """
    if not (count := times_G[self.truth_of].sum()):
      return None
    times_P = times_G[self.of_P]
    right_P = np.cumsum(self.hits_P * times_P)
    precision_P = right_P / np.maximum(np.cumsum(times_P), 1)
    highest_P = np.maximum.accumulate(precision_P[::-1])[::-1]
    return float(np.diff(right_P, prepend=0.0) @ highest_P) / count


@dataclasses.dataclass(frozen=True)
class _Pool:
  """All images together."""

  nouns: Sequence[Sequence[_Noun]]  # of each column
  objects: int
  videos: int

  @classmethod
  def of(
    cls,
    found: Mapping[str, Detections],
    truth: Mapping[str, Truth],
    videos: Mapping[str, str],
    *,
    k: int | None,
    strict: bool,
  ) -> "_Pool":
    if missing := [uid for uid in truth if uid not in found]:
      raise ValueError(
        f"{len(missing)} of {len(truth)} images have no entry, as {missing[0]!r:.100}; give"
        " those without a detection empty ones"
      )
    numbers: dict[str, int] = {}
    rows, true_nouns, true_videos = [], [], []
    for uid, true in truth.items():
      if not len(found[uid].scores) and not strict:
        continue
      number = numbers.setdefault(videos[uid], len(numbers))
      order_D = _surest(found[uid].scores)
      hits_DC = _matched(found[uid], true, order_D)
      if k is not None and k > 1:
        misses_DC = 1 - hits_DC
        spared_DC = (misses_DC == 1) & (misses_DC.cumsum(0) <= (k - 1) * len(true.nouns))
        hits_DC[spared_DC] = np.nan
      own = (
        np.asarray(found[uid].nouns)[order_D],
        np.asarray(found[uid].scores, np.float64)[order_D],
      )
      rows.append((hits_DC, *own, np.full(len(order_D), number)))
      true_nouns.append(np.asarray(true.nouns, np.int64))
      true_videos.append(np.full(len(true.nouns), number))
    if not sum(map(len, true_nouns)):
      raise ValueError(f"nothing is true of any of {len(truth)} images, so there is no precision")
    hits_PC, nouns_P, scores_P, of_P = (np.concatenate(column) for column in zip(*rows))
    all_true, true_of = np.concatenate(true_nouns), np.concatenate(true_videos)
    nouns: list[list[_Noun]] = [[] for _ in COLUMNS]
    for noun in np.unique(all_true):
      own_P = np.flatnonzero(nouns_P == noun)
      own_P = own_P[np.argsort(-scores_P[own_P], kind="stable")]
      for column, hits_P in zip(nouns, hits_PC[own_P].T):
        counts_P = ~np.isnan(hits_P)
        mine = hits_P[counts_P], of_P[own_P][counts_P]
        column.append(_Noun(*mine, true_of[all_true == noun]))
    return cls(nouns, len(all_true), len(numbers))

  def columns(self) -> dict[str, float]:
    once_G = np.ones(self.videos, np.int64)
    return {name: self.column(c, once_G) for c, name in enumerate(COLUMNS)}

  def column(self, column: int, times_G: np.ndarray) -> float:
    """Of videos that count so often; NaN where none of them has anything true."""
    each = [noun.average_precision(times_G) for noun in self.nouns[column]]
    found = [one for one in each if one is not None]
    return float(100 * sum(found) / len(found)) if found else float("nan")


def _surest(scores: np.ndarray) -> np.ndarray:
  """Places of scores from the highest on; of equal ones the last comes first."""
  return np.argsort(np.asarray(scores, np.float64), kind="stable")[::-1]


def _matched(found: Detections, true: Truth, order_D: np.ndarray) -> np.ndarray:
  """1.0 where a detection takes a true object, surest first, [D, C]."""
  overlap_DO = iou(found.boxes, true.boxes)[order_D]
  noun_DO, verb_DO = (
    np.asarray(one)[order_D, None] == np.asarray(other)[None]
    for one, other in ((found.nouns, true.nouns), (found.verbs, true.verbs))
  )
  off_DO = np.asarray(found.ttc_s, np.float64)[order_D, None] - np.asarray(true.ttc_s, np.float64)
  near_DO = np.abs(off_DO) <= TTC_S
  place_DO = (overlap_DO > IOU) & noun_DO
  agree = (place_DO, place_DO & verb_DO, place_DO & near_DO, place_DO & verb_DO & near_DO)
  hits_DC = np.zeros((len(order_D), len(COLUMNS)))
  for c, agree_DO in enumerate(agree):
    is_free_O = np.ones(overlap_DO.shape[1], bool)
    for d in np.flatnonzero(agree_DO.any(1)):
      of_O = np.where(agree_DO[d] & is_free_O, overlap_DO[d], -1.0)
      best = of_O.argmax()
      if of_O[best] >= 0:
        hits_DC[d, c], is_free_O[best] = 1.0, False
  return hits_DC
