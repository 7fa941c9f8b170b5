"""Scores of encoders that differ in their seed: means, and how far above others they are.

An interval has two parts, which add as squares: a bootstrap over sequences, which
all seeds share, and the spread over seeds, by Student's t (`probe.seeds`). A
difference is of the same sequences, and of the same seed where the other has seeds.

Shapes: V sequences.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from totojax.config import track
from totojax.evals import resampled
from totojax.jobs.probe import seeds
from totojax.jobs.track import kinds

Scores = Mapping[tuple[str, str, int], Sequence[np.ndarray]]  # (row, rule, layer) -> of each
_UNTRAINED = "untrained"


def rows(
  kind: kinds.Kind, config: track.Track, layers: Mapping[tuple[str, str], int], scores: Scores
) -> list[dict[str, Any]]:
  """A row for each name of `config.seeds`, or its untrained encoders, and each rule.

  Args:
    kind: of the data set.
    config: whose seeds and rules there are.
    layers: (row, rule) -> the layer that counts.
    scores: of every sequence.

  Returns:
    The mean with "low" and "high", layers, and of names with others beside them
    "above": other -> the same of the difference.
  """
  out = []

  def values(row: str, rule: str) -> resampled.Value:
    return kind.weighed(scores[row, rule, layers[row, rule]])

  for name, members in config.seeds.items():
    untrained = [f"{member}-{_UNTRAINED}" for member in members]
    for rule in config.propagation:
      mine = [values(member, rule) for member in members]
      count = len(scores[members[0], rule, layers[members[0], rule]])
      above: dict[str, Any] = {}
      out.append(_row(mine, count, config.seed))
      out[-1] |= {"row": name, "rule": rule, "above": above}
      out[-1]["layers"] = [layers[member, rule] for member in members]
      if (untrained[0], rule) in layers:
        before = [values(member, rule) for member in untrained]
        above[_UNTRAINED] = _row(_less(mine, before), count, config.seed)
        out.append(_row(before, count, config.seed))
        out[-1] |= {"row": f"{name}-{_UNTRAINED}", "rule": rule, "above": {}}
        out[-1]["layers"] = [layers[member, rule] for member in untrained]
      for other, its_rule in (("pixels", rule), ("copy", "copy")):
        if (other, its_rule) in layers:
          theirs = [values(other, its_rule)] * len(mine)
          above[other] = _row(_less(mine, theirs), count, config.seed)
  return out


def _less(
  mine: Sequence[resampled.Value], theirs: Sequence[resampled.Value]
) -> list[resampled.Value]:
  return [lambda times_V, a=a, b=b: a(times_V) - b(times_V) for a, b in zip(mine, theirs)]


def _row(values: Sequence[resampled.Value], sequences: int, seed: int) -> dict[str, Any]:
  """The mean over seeds of a number of all sequences, with its interval."""
  once_V = np.ones(sequences, int)
  found = [value(once_V) for value in values]
  low, high = resampled.interval(
    lambda times_V: float(np.mean([value(times_V) for value in values])), sequences, seed=seed
  )
  if low is None or high is None:
    return {"score": float(np.mean(found)), "low": None, "high": None, "each": found}
  ends = dataclasses.asdict(seeds.widened(found, low, high))
  return {"score": ends.pop("mean"), **ends, "each": found}
