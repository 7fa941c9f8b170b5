"""Top-1 and top-5 of many heads at once, over items with one or more views.

The scores of an item are the sum of its views' softmax (SlowFast's protocol).
What is kept of an item and a head is small: the rank of its class, and the
class that the head would name.

Shapes: B rows, V views of an item, I items of a batch, C classes, L layers,
S settings, M items in all.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

Outcome = Mapping[str, jax.Array]


def outcome(logits_BC: jax.Array, label_B: jax.Array, *, views: int) -> Outcome:
  """What one head makes of a batch of whole items, [I] each.

  Args:
    logits_BC: rows of an item stand together.
    label_B: -1 for rows that are padding; an item's first row is none.
    views: rows of an item.

  Returns:
    `rank` (classes with a higher score, 0: right; of equal scores the lower
    class comes first), `named` (the class with the highest score),
    `confidence` (its share of the scores) and `nll` in nats.
  """
  chex.assert_rank(logits_BC, 2)
  chex.assert_shape(label_B, logits_BC.shape[:1])
  real_B = (label_B >= 0).astype(jnp.float32)
  share_BC = jax.nn.softmax(logits_BC) * real_B[:, None]
  classes = logits_BC.shape[-1]
  score_IC = share_BC.reshape(-1, views, classes).sum(1)
  seen_I = jnp.maximum(real_B.reshape(-1, views).sum(1), 1.0)
  score_IC /= seen_I[:, None]
  label_I = jnp.maximum(label_B.reshape(-1, views)[:, 0], 0)
  own_I1 = jnp.take_along_axis(score_IC, label_I[:, None], axis=1)
  before_IC = jnp.arange(classes)[None] < label_I[:, None]
  above_IC = (score_IC > own_I1) | ((score_IC == own_I1) & before_IC)
  rank_I = above_IC.sum(1, dtype=jnp.int32)
  return {
    # Nothing is above what is no number: a head that gives it would be perfect.
    "rank": jnp.where(jnp.isfinite(own_I1[:, 0]), rank_I, classes),
    "named": jnp.argmax(score_IC, 1).astype(jnp.int32),
    "confidence": score_IC.max(1),
    "nll": -jnp.log(jnp.maximum(own_I1[:, 0], 1e-30)),
  }


@dataclasses.dataclass(frozen=True)
class Scores:
  """Every head on every item, [L, S, M]."""

  rank: np.ndarray
  named: np.ndarray
  confidence: np.ndarray
  nll: np.ndarray

  @property
  def items(self) -> int:
    return self.rank.shape[-1]

  def top(self, k: int) -> np.ndarray:
    """Share [L, S] of items whose class is among the `k` highest."""
    return np.mean(self.rank < k, axis=-1)

  def loss(self) -> np.ndarray:
    """Mean nats [L, S]."""
    return np.mean(self.nll, axis=-1)

  def without(self, left_out_LS: np.ndarray) -> "Scores":
    """The same, with heads that are never chosen: all they say is wrong."""
    out_LS1 = np.asarray(left_out_LS)[..., None]
    return dataclasses.replace(
      self,
      rank=np.where(out_LS1, np.iinfo(np.int32).max, self.rank),
      nll=np.where(out_LS1, np.inf, self.nll),
    )


def evaluate(
  outcomes: Callable[[Mapping[str, np.ndarray]], Outcome],
  batches: Iterable[Mapping[str, np.ndarray]],
  *,
  items: int,
) -> Scores:
  """The scores of every head on a finite data set.

  Args:
    outcomes: this host's rows -> [L, S, I] of the global batch, the same on
      every host.
    batches: the rows of each item together, in order; padding at the end.
    items: real ones in all.

  Raises:
    ValueError: the batches hold fewer.
  """
  parts = [{k: np.asarray(v) for k, v in outcomes(batch).items()} for batch in batches]
  columns = {name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]}
  count = columns["rank"].shape[-1]
  if count < items:
    raise ValueError(
      f"the batches hold {count} items and {items} are expected; the data set"
      " changed under the evaluation"
    )
  return Scores(**{name: value[..., :items] for name, value in columns.items()})


def best(top1_LS: np.ndarray, loss_LS: np.ndarray) -> tuple[int, int]:
  """(layer index, setting) with the highest top-1; of equals the lower loss."""
  chex.assert_equal_shape([top1_LS, loss_LS])
  order = np.lexsort((loss_LS.ravel(), -top1_LS.ravel()))
  layer, setting = np.unravel_index(order[0], top1_LS.shape)
  return int(layer), int(setting)


def summary(scores: Scores) -> Iterator[tuple[str, Any]]:
  """(name, value) for the log: the best head so far, and how many items."""
  layer, setting = best(scores.top(1), scores.loss())
  yield "top1", float(scores.top(1)[layer, setting])
  yield "top5", float(scores.top(5)[layer, setting])
  yield "nll", float(scores.loss()[layer, setting])
  yield "best_index", layer
  yield "best_setting", setting
  yield "n", scores.items
