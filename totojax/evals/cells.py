"""Answers that are cells of a grid: top-1, top-5, and how far off they are.

CATER's measures (Girdhar and Ramanan, 2019, section 4.3): L1 is the mean Manhattan
distance of the named cell from the right one, in cells; cell c is in row
c // side, column c % side.

Shapes: M clips, S runs, C cells.
"""

import dataclasses
from typing import Any

import numpy as np


def distance(first_M: np.ndarray, second_M: np.ndarray, side: int) -> np.ndarray:
  """Manhattan distances of cells, int [M] in cells; arrays may broadcast."""
  first_M, second_M = np.asarray(first_M), np.asarray(second_M)
  rows = abs(first_M // side - second_M // side)
  return rows + abs(first_M % side - second_M % side)


@dataclasses.dataclass(frozen=True)
class Answers:
  """What one way of answering says of every clip, run by run."""

  top1_SM: np.ndarray  # share: of a rule that draws, what is expected
  l1_SM: np.ndarray  # cells
  top5_SM: np.ndarray | None = None  # None: it names one cell alone

  @classmethod
  def named(
    cls, named: Any, labels_M: np.ndarray, side: int, *, rank: Any = None, first: Any = None
  ) -> "Answers":
    """Of named cells [M] or [S, M].

    Args:
      named: the cells.
      labels_M: the right ones.
      side: cells of a row.
      rank: of the right ones among all, 0 the first, as `named`; None: see `first`.
      first: the five cells that stand first for every clip; None: there are none.
    """
    named_SM = np.atleast_2d(named)
    top5 = None
    if rank is not None:
      top5 = (np.atleast_2d(rank) < 5).astype(float)
    elif first is not None:
      top5 = np.isin(labels_M, first).astype(float)[None]
    hits_SM = (named_SM == labels_M).astype(float)
    return cls(hits_SM, distance(named_SM, labels_M, side).astype(float), top5)


def chance(labels_M: np.ndarray, side: int) -> Answers:
  """What is expected of naming cells at random, each as often."""
  cells = side * side
  l1_M = distance(np.arange(cells), np.asarray(labels_M)[:, None], side).mean(1)
  top1_M = np.full(len(l1_M), 1 / cells)
  return Answers(top1_M[None], l1_M[None], np.minimum(5 * top1_M, 1.0)[None])


def constant(train_labels: np.ndarray, labels_M: np.ndarray, side: int) -> dict[str, Answers]:
  """What naming one cell always gives: the most frequent of training, and the least far off."""
  cells = np.arange(side * side)
  counts_C = np.bincount(train_labels, minlength=len(cells))
  order = np.argsort(-counts_C, kind="stable")
  far_C = distance(cells[:, None], np.asarray(train_labels), side).mean(1)
  named = {"frequent": int(order[0]), "middle": int(np.argmin(far_C))}
  firsts = {"frequent": order[:5], "middle": np.argsort(far_C, kind="stable")[:5]}
  return {
    name: Answers.named(np.full(len(labels_M), cell), labels_M, side, first=firsts[name])
    for name, cell in named.items()
  }
