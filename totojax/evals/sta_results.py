"""Results of short-term anticipation as Ego4D's challenge takes them, and its checks.

  {"version": "1.0",
   "challenge": "ego4d_short_term_object_interaction_anticipation",
   "results": {uid: [{"box": [x1, y1, x2, y2], "noun_category_id": 1,
                      "verb_category_id": 2, "time_to_contact": 0.5, "score": 0.9}]}}

The version is that of the format: "1.0" for annotations of v2 too. The challenge's
validator looks at the type that JSON gives: 1 is no time, and 1.0 no class. Its
checks are made here in its order, so that the first that fails is the same.
"""

from collections.abc import Mapping, Sequence
import math
import os
from typing import Any

import numpy as np

from totojax.data.sources import sta
from totojax.evals import sta_map
from totojax.rundir import files
from totojax.storage import outside, reading

VERSION = "1.0"
CHALLENGE = "ego4d_short_term_object_interaction_anticipation"
MOST_VALUES = 2**27  # of the JSON: a hundred boxes of each of v2's queries are a fifth
_TYPES = {
  "box": list,
  "noun_category_id": int,
  "verb_category_id": int,
  "time_to_contact": float,
  "score": float,
}
_KINDS = {list: "a list of four numbers", int: "a whole number (1)", float: "a decimal (1.0)"}


class Invalid(ValueError):
  """What the challenge refuses.

  Attributes:
    rule: which of its checks: "field", "challenge", "version", "missing property",
      "property" or "uid".
  """

  def __init__(self, rule: str, message: str):
    self.rule = rule
    super().__init__(message)


def validate(results: str | os.PathLike[str] | Mapping[str, Any], annotations: sta.Annotations):
  """Raises Invalid where the challenge's validator refuses; the first reason, as there.

  It lets through NaN, boxes that are inside out, truth values in place of class
  numbers, empty lists, and images that the annotations have not.

  Args:
    results: what a file holds, or its path.
    annotations: whose images there must be.

  Raises:
    Invalid: as said.
    ValueError: the file is no JSON.
  """
  if isinstance(results, Mapping):
    _validate("the results", results, annotations)
  else:
    _validate(os.fspath(results), _load(os.fspath(results)), annotations)


def _validate(where: str, value: Any, annotations: sta.Annotations) -> None:
  if not isinstance(value, Mapping):
    raise Invalid("field", f"{where}: {value!r:.80} is no JSON object with 'results'")
  for name in ("results", "version", "challenge"):
    if name not in value:
      raise Invalid("field", f"{where}: the key {name!r} is missing")
  if value["challenge"] != CHALLENGE:
    raise Invalid(
      "challenge", f"{where}: challenge is {value['challenge']!r:.120}; use {CHALLENGE!r}"
    )
  if value["version"] != VERSION:
    raise Invalid(
      "version",
      f"{where}: version is {value['version']!r:.80}; it must be the text {VERSION!r}, for"
      " annotations of v2 too",
    )
  if not isinstance(value["results"], Mapping):
    raise Invalid("property", f"{where}: its results are no mapping of uids")
  for uid, rows in value["results"].items():
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
      raise Invalid("property", f"{where}, {uid!r:.100}: {rows!r:.80} is no list of detections")
    for number, row in enumerate(rows):
      _check(row, f"{where}, {uid!r:.100}, detection {number}")
  absent = sorted({*annotations.uids} - value["results"].keys())
  if absent:
    raise Invalid(
      "uid",
      f"{where}: {len(absent)} of {len(annotations.uids)} uids of {annotations.path} are missing,"
      f" as {absent[0]}; give each a list, and at least one box",
    )


def _check(row: Mapping[str, Any], where: str) -> None:
  for name, kind in _TYPES.items():
    if name not in row:
      raise Invalid("missing property", f"{where}: {name} is missing")
    value = row[name]
    if not isinstance(value, kind) or (kind is list and len(value) != 4):
      raise Invalid("property", f"{where}: {name} is {value!r:.80}; it must be {_KINDS[kind]}")


def _load(path: str) -> Any:
  try:
    return outside.parse(path, reading.load(path), finite=False, most=MOST_VALUES)
  except OSError as error:
    raise ValueError(f"{path} cannot be read: {error}") from error


def read(
  path: str | os.PathLike[str], annotations: sta.Annotations
) -> dict[str, sta_map.Detections]:
  """Detections by uid of a results file, of any model; those of other uids are left out.

  Raises:
    Invalid: the challenge would refuse it, or a class is none of the annotations',
      or a number none.
    ValueError: the file is no JSON.
  """
  path = os.fspath(path)
  value = _load(path)
  _validate(path, value, annotations)
  tables = [
    {id_: place for place, id_ in enumerate(ids)}
    for ids in (annotations.noun_ids, annotations.verb_ids)
  ]
  found = {}
  for uid in annotations.uids:
    rows = value["results"][uid]
    where = f"{path}, {uid}"
    try:
      boxes_D4 = np.array([[_number(v) for v in row["box"]] for row in rows], np.float64)
      found[uid] = sta_map.Detections(
        boxes_D4.reshape(-1, 4),
        *(
          np.array([table.get(row[f"{what}_category_id"], -1) for row in rows], np.int32)
          for table, what in zip(tables, ("noun", "verb"))
        ),
        *(
          np.array([row[name] for row in rows], np.float64) for name in ("time_to_contact", "score")
        ),
      )
    except ValueError as error:
      raise Invalid("property", f"{where}: {outside.shown(error)}") from error
    for what, numbers_D in (("noun", found[uid].nouns), ("verb", found[uid].verbs)):
      if (numbers_D < 0).any():
        row = rows[int(numbers_D.argmin())]
        id_ = row[f"{what}_category_id"]
        raise Invalid(
          "property", f"{where}: {what}_category_id {id_} is none of {annotations.path}"
        )
  return found


def _number(value: Any) -> float:
  if type(value) not in (int, float):
    raise ValueError(f"{value!r:.80} in a box is no number")
  return float(value)


def write(
  path: str | os.PathLike[str],
  found: Mapping[str, sta_map.Detections],
  annotations: sta.Annotations,
) -> None:
  """Writes a file that the challenge takes.

  Each image of the annotations gets its detections in their order; one without any,
  whose truth the challenge would leave out with it, gets a box that says nothing:
  the whole frame, the first classes, score 0.

  Args:
    path: of the file.
    found: detections by uid; classes are indices into the annotations' nouns and verbs.
    annotations: of the split.

  Raises:
    ValueError: a number is none, a class is out of range, or an image is unknown.
  """
  if unknown := sorted(found.keys() - {*annotations.uids}):
    raise ValueError(f"{unknown[0]!r:.100} is no uid of {annotations.path}")
  sizes = {query.uid: (query.width_px, query.height_px) for query in annotations.queries}
  results = {}
  for uid in annotations.uids:
    rows = _rows(uid, found[uid], annotations) if uid in found else []
    results[uid] = rows or [_nothing(*sizes.get(uid, (1, 1)), annotations)]
  value = {"version": VERSION, "challenge": CHALLENGE, "results": results}
  validate(value, annotations)
  files.write_json(path, value)


def _rows(
  uid: str, found: sta_map.Detections, annotations: sta.Annotations
) -> list[dict[str, Any]]:
  rows = []
  for d in range(len(found.scores)):
    numbers = [float(v) for v in (*found.boxes[d], found.ttc_s[d], found.scores[d])]
    if not all(map(math.isfinite, numbers)):
      raise ValueError(f"{uid}: box, time or score of detection {d} is no number ({numbers})")
    ids = []
    for what, number, known in (
      ("noun", int(found.nouns[d]), annotations.noun_ids),
      ("verb", int(found.verbs[d]), annotations.verb_ids),
    ):
      if not 0 <= number < len(known):
        raise ValueError(f"{uid}: {what} {number} of detection {d}; there are {len(known)}")
      ids.append(known[number])
    rows.append(_row(numbers[:4], ids, *numbers[4:]))
  return rows


def _nothing(width_px: int, height_px: int, annotations: sta.Annotations) -> dict[str, Any]:
  ids = annotations.noun_ids[0], annotations.verb_ids[0]
  return _row([0.0, 0.0, float(width_px), float(height_px)], ids, 0.0, 0.0)


def _row(box: list[float], ids: Sequence[int], ttc_s: float, score: float) -> dict[str, Any]:
  return dict(zip(_TYPES, (box, *ids, ttc_s, score)))
