"""Proof that two data sets share no item, made once and kept.

Ids are compared as 16-byte hashes (two ids have one with a chance of 2^-128),
of which those of the smaller data set are in memory, sorted, and the other's
pass by shard after shard: 16 bytes a record and not a set of texts. What was
found to share nothing is written into both folders:

  <path>/certificates.json  {"ids": digest, "shares_nothing_with": [digest, ..]}

The digests are those of `Manifest.ids_digest`, so a data set that was changed
has no certificate: it is compared again. Nothing else depends on the file; it
may be removed at any time.

Shapes: R records of a shard, M records of the smaller data set.
"""

from collections.abc import Iterator, Sequence
import itertools
import json
from typing import Any

import numpy as np

from totojax.data.store import columns
from totojax.data.store.store import Store
from totojax.rundir import console
from totojax.storage import objects

FILE = "certificates.json"


def check(train: Store, held_out: Store) -> tuple[str, int] | None:
  """What a store of training data and a held-out one share, if anything.

  The certificate of the held-out store is asked first; where it has none for
  this training store both are read, and it gets one, if its folder can be
  written.

  Returns:
    (the first shared id, number of shared ids), or None where there is none.

  Raises:
    StoreError: a store has no ids, or cannot be read.
  """
  if train.manifest.ids_digest in _known(held_out):
    return None
  overlap = shared(train, held_out)
  if overlap is None:
    write(train, held_out)
  return overlap


def certify(stores: Sequence[Store]) -> None:
  """Certificates for all pairs of stores of one job that share nothing.

  A pair that does gets none, and is refused by whoever trains on one and
  evaluates on the other. Stores without ids are passed over.
  """
  with_ids = [store for store in stores if store.manifest.ids]
  for one, other in itertools.combinations(with_ids, 2):
    mutual = one.manifest.ids_digest in _known(other)
    mutual &= other.manifest.ids_digest in _known(one)
    if not mutual and shared(one, other) is None:
      write(one, other)
      write(other, one)


def write(train: Store, held_out: Store) -> None:
  """Says in the held-out store's folder that `train` shares nothing with it.

  A folder that cannot be written gets no certificate: its ids are compared
  again the next time.
  """
  known = _known(held_out) | {train.manifest.ids_digest}
  value = {"ids": held_out.manifest.ids_digest, "shares_nothing_with": sorted(known)}
  data = (json.dumps(value, indent=1) + "\n").encode()
  try:
    objects.write(f"{held_out.path}/{FILE}", data)
  except objects.StoreError:
    pass


def shared(one: Store, other: Store) -> tuple[str, int] | None:
  """(the first id, number of ids) that are in both stores; None: no id is."""
  small, large = sorted((one, other), key=len)
  marks_M = np.empty(len(small), columns.MARK)
  end = 0
  for marks_R in _marks(small):
    marks_M[end : end + len(marks_R)] = marks_R
    end += len(marks_R)
  marks_M.sort()
  # Of equal marks (crops of one item) only the first is ever hit.
  hit_M = np.zeros(len(marks_M), bool)
  with console.tracking(
    f"comparing the ids of {one.path} and {other.path}", unit="records", total=len(large)
  ) as bar:
    for marks_R in _marks(large):
      place_R = _places(marks_M, marks_R)
      hit_M[place_R[place_R >= 0]] = True
      bar.advance(len(marks_R))
  if not hit_M.any():
    return None
  names = (
    item
    for ids_RU in small.id_columns()
    for item, place in zip(columns.texts(ids_RU), _places(marks_M, columns.marks(ids_RU)))
    if hit_M[place]
  )
  return min(names), int(hit_M.sum())


def _marks(store: Store) -> Iterator[np.ndarray]:
  return map(columns.marks, store.id_columns())


def _places(marks_M: np.ndarray, marks_R: np.ndarray) -> np.ndarray:
  """int64 [R]: where each mark stands first in sorted marks, -1: nowhere."""
  place_R = np.minimum(np.searchsorted(marks_M, marks_R), len(marks_M) - 1)
  return np.where(marks_M[place_R] == marks_R, place_R, -1)


def _known(store: Store) -> set[str]:
  """Digests of the stores that are known to share nothing with this one.

  A certificate of other ids says nothing of these, and neither does a damaged
  one: it is written anew.
  """
  data = objects.read(f"{store.path}/{FILE}")
  try:
    value: Any = json.loads(data or b"{}")
    if value.get("ids") != store.manifest.ids_digest:
      return set()
    return set(map(str, value["shares_nothing_with"]))
  except (ValueError, AttributeError, KeyError, TypeError):
    return set()
