"""What a model of short-term anticipation must beat: rules that look at no pixels.

  constant  the most frequent noun of the training split with its last box there,
            or its mean box, its most frequent verb and its mean time
  nearest   the thing that is nearest to the hand in the query's frame, with its own
            box and noun, and of that noun the most frequent verb and the mean time;
            or several, the nearest first

The second knows where things and hand are, which files of Ego4D do not say: a
rendered world writes it beside its annotations (`world/ego4d.py`).

Shapes: T things of a frame.
"""

import collections
from collections.abc import Mapping, Sequence
import dataclasses
import math
import os

import numpy as np

from totojax.data.sources import sta
from totojax.evals import sta_map
from totojax.storage import outside

BOXES = ("last", "mean")
_BYTES = 2**28  # of the file beside annotations


@dataclasses.dataclass(frozen=True, eq=False)
class Around:
  """What is in a query's frame."""

  boxes: np.ndarray  # float64 [T, 4], as `Query.boxes`
  nouns: np.ndarray  # int32 [T], index into `Annotations.nouns`
  away_m: np.ndarray  # float64 [T], metres from between the hand's fingers


def read_around(annotations: sta.Annotations) -> dict[str, Around]:
  """What is in each query's frame, of the file that the world wrote beside the annotations.

  Raises:
    ValueError: there is none, it lacks a query, or has something else; names it.
  """
  folder, name = os.path.split(annotations.path)
  path = os.path.join(folder, name.replace("fho_sta_", "world_sta_"))
  places = {id_: place for place, id_ in enumerate(annotations.noun_ids)}
  try:
    value = outside.read_json(path, most_bytes=_BYTES)
  except OSError as error:
    raise ValueError(
      f"{path} cannot be read ({error}); configs/world.py:ego4d_small writes it, and Ego4D has none"
    ) from error
  if not isinstance(value, Mapping):
    raise ValueError(f"{path} holds no JSON object")
  out = {}
  for query in annotations.queries:
    try:
      things = value[query.uid]["things"]
      boxes = [[_finite(v) for v in thing["box"]] for thing in things]
      if not boxes or any(len(box) != 4 for box in boxes):
        raise ValueError("there is nothing, or a box is not four numbers")
      out[query.uid] = Around(
        np.array(boxes, np.float64),
        np.array([places[thing["noun_category_id"]] for thing in things], np.int32),
        np.array([_finite(thing["away_m"]) for thing in things], np.float64),
      )
    except (KeyError, TypeError, ValueError) as error:
      raise ValueError(
        f"{path} says nothing that can be used of {query.uid} ({outside.shown(repr(error))});"
        " render the world again"
      ) from error
  return out


def _finite(value: object) -> float:
  if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
    raise ValueError(f"{value!r:.80} is no number")
  return float(value)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class _Habit:
  """Of the objects of some queries: what is usual."""

  verb: int
  ttc_s: float
  last: np.ndarray  # the last box, as a share of its frame
  mean: np.ndarray

  @classmethod
  def of(cls, rows: Sequence[tuple[int, int, float, np.ndarray]]) -> "_Habit":
    _, verbs, ttc_s, boxes = zip(*rows)
    return cls(_most(verbs), float(np.mean(ttc_s)), boxes[-1], np.mean(boxes, 0))


def _most(values: Sequence[int]) -> int:
  """The most frequent; of several the smallest."""
  counts = collections.Counter(values)
  return min(counts, key=lambda value: (-counts[value], value))


def _rows(train: sta.Annotations) -> list[tuple[int, int, float, np.ndarray]]:
  """(noun, verb, seconds, box as a share of its frame) of all objects, in order.

  Raises:
    ValueError: there are none.
  """
  rows = [
    (int(noun), int(verb), float(ttc_s), box / _size(query))
    for query in train.queries
    for noun, verb, ttc_s, box in zip(query.nouns, query.verbs, query.ttc_s, query.boxes)
  ]
  if not rows:
    raise ValueError(f"{train.path} has no objects; rules are made of a split that has")
  return rows


def _size(query: sta.Query) -> np.ndarray:
  return np.array([query.width_px, query.height_px] * 2, np.float64)


def constant(
  train: sta.Annotations, queries: Sequence[sta.Query], *, box: str = "last"
) -> dict[str, sta_map.Detections]:
  """The most frequent noun, with its "last" or "mean" box, by uid: one detection each.

  Raises:
    ValueError: no such box, or nothing is true of `train`.
  """
  if box not in BOXES:
    raise ValueError(f"box is {box!r}; use one of {', '.join(BOXES)}")
  rows = _rows(train)
  noun = _most([row[0] for row in rows])
  habit = _Habit.of([row for row in rows if row[0] == noun])
  share = habit.last if box == "last" else habit.mean
  return {
    query.uid: sta_map.Detections(
      (share * _size(query))[None],
      np.array([noun]),
      np.array([habit.verb]),
      np.array([habit.ttc_s]),
      np.ones(1),
    )
    for query in queries
  }


def nearest(
  train: sta.Annotations,
  queries: Sequence[sta.Query],
  around: Mapping[str, Around],
  *,
  count: int = 1,
) -> dict[str, sta_map.Detections]:
  """The things that are nearest to the hand, by uid.

  Args:
    train: whose verbs and times are the usual ones.
    queries: that are answered.
    around: of `read_around`.
    count: detections of each, at most. The metric spares the first four wrong ones
      of each object, so that 5 say no more than "one of these".

  Raises:
    ValueError: nothing is true of `train`.
  """
  rows = _rows(train)
  usual = _Habit.of(rows)
  habits = {
    noun: _Habit.of([row for row in rows if row[0] == noun]) for noun in {row[0] for row in rows}
  }
  out = {}
  for query in queries:
    one = around[query.uid]
    order = np.argsort(one.away_m, kind="stable")[:count]
    found = [habits.get(int(noun), usual) for noun in one.nouns[order]]
    out[query.uid] = sta_map.Detections(
      one.boxes[order],
      one.nouns[order],
      np.array([habit.verb for habit in found]),
      np.array([habit.ttc_s for habit in found]),
      np.exp(-one.away_m[order]),
    )
  return out
