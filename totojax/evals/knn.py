"""k nearest neighbours: what a frozen feature tells without any training.

As DINO measures it (Caron et al., 2021): features of length one, the k training
features of the greatest dot product, and a class's score the sum of
exp(similarity / temperature) over its neighbours.

Equal similarities: the smaller training row first; equal scores: the smaller
class. References leave both open.

Shapes: M training rows, Q queries, K neighbours, C classes, D width.
"""

from collections.abc import Iterator
import functools

import jax
import jax.numpy as jnp
import numpy as np

NEIGHBOURS, TEMPERATURE = 20, 0.07  # the number that is reported
_TRAIN_ROWS, _QUERY_ROWS = 65_536, 512  # that are compared at a time


def normalised(x_MD: np.ndarray) -> np.ndarray:
  """Rows of length one, float32."""
  x_MD = np.asarray(x_MD, np.float32)
  return x_MD / np.maximum(np.linalg.norm(x_MD, axis=1, keepdims=True), 1e-12)


@functools.partial(jax.jit, static_argnames=("k",))
def _greatest(query_QD: jax.Array, train_MD: jax.Array, real: jax.Array, *, k: int):
  """Of equal values `top_k` gives the lower place first."""
  similar_QM = jnp.dot(query_QD, train_MD.T, precision=jax.lax.Precision.HIGHEST)
  similar_QM = jnp.where(jnp.arange(len(train_MD)) < real, similar_QM, -jnp.inf)
  return jax.lax.top_k(similar_QM, k)


def nearest(
  train_MD: np.ndarray, queries_QD: np.ndarray, *, k: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """(similarities, training rows) [some queries, K] of all queries in order, nearest first.

  Args:
    train_MD: training features, of any length.
    queries_QD: the same of queries.
    k: neighbours; all training rows, where there are fewer.
  """
  train_MD, queries_QD = normalised(train_MD), normalised(queries_QD)
  rows = min(_TRAIN_ROWS, len(train_MD))
  most = min(k, len(train_MD))
  for begin in range(0, len(queries_QD), _QUERY_ROWS):
    query_QD = queries_QD[begin : begin + _QUERY_ROWS]
    count = len(query_QD)
    query_QD = np.pad(query_QD, ((0, min(_QUERY_ROWS, len(queries_QD)) - count), (0, 0)))
    values, places = [], []
    for start in range(0, len(train_MD), rows):
      part_MD = train_MD[start : start + rows]
      real = len(part_MD)
      part_MD = np.pad(part_MD, ((0, rows - real), (0, 0)))
      value_QK, place_QK = _greatest(query_QD, part_MD, real, k=min(most, rows))
      values.append(np.asarray(value_QK)[:count])
      places.append(np.asarray(place_QK)[:count] + start)
    value_QN, place_QN = np.concatenate(values, 1), np.concatenate(places, 1)
    # Parts are in the order of their rows, and the sort is stable.
    order_QK = np.argsort(-value_QN, axis=1, kind="stable")[:, :most]
    yield np.take_along_axis(value_QN, order_QK, 1), np.take_along_axis(place_QN, order_QK, 1)


def votes(
  similar_QK: np.ndarray, label_QK: np.ndarray, *, classes: int, temperature: float
) -> np.ndarray:
  """Scores [Q, C] of classes, which are those of the rule over a row's greatest weight."""
  top_Q1 = similar_QK.max(axis=1, keepdims=True)  # without it small temperatures overflow
  weight_QK = np.exp((similar_QK.astype(np.float64) - top_Q1) / temperature)
  scores_QC = np.zeros((len(similar_QK), classes))
  np.add.at(scores_QC, (np.arange(len(similar_QK))[:, None], label_QK), weight_QK)
  return scores_QC


def shares(
  train_MD: np.ndarray,
  label_M: np.ndarray,
  queries_QD: np.ndarray,
  *,
  classes: int,
  neighbours: tuple[int, ...],
  temperature: float,
) -> Iterator[tuple[int, np.ndarray]]:
  """(k, scores [some queries, C] that add up to 1) for each k, queries in order."""
  for similar_QK, place_QK in nearest(train_MD, queries_QD, k=max(neighbours)):
    for k in neighbours:
      scores_QC = votes(
        similar_QK[:, :k], label_M[place_QK[:, :k]], classes=classes, temperature=temperature
      )
      yield k, scores_QC / scores_QC.sum(1, keepdims=True)
