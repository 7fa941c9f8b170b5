"""Proof that two data sets share no item, made once and kept.

Ids are compared as 16-byte hashes (two ids have one with a chance of 2^-128),
of which those of the smaller data set are in memory, sorted, and the other's
pass by shard after shard: 16 bytes a record and not a set of texts. What was
found to share nothing is written into both folders:

  <path>/certificates.json  {"ids": digest, "shares_nothing_with": [digest, ..]}

The digests are those of `Manifest.ids_digest` and of the items' origin, so a data
set that was changed has no certificate: it is compared again. Nothing else
depends on the file; it may be removed at any time.

Ids are paths below a root (`manifests.Origin`). Where two roots differ, items with one id
are still taken for one, for a folder may have been copied, unless their records
prove otherwise: cut alike, the same file gives the same records. And where one
root lies in the other, paths are compared as well as ids.

Shapes: R records of a shard, M records of the smaller data set, H shared ids.
"""

from collections.abc import Callable, Iterator, Sequence
import itertools
import json
from typing import Any

import numpy as np

from totojax.data.store import columns, manifests
from totojax.data.store.store import Store
from totojax.rundir import console
from totojax.storage import objects, outside

FILE = "certificates.json"
SAME_FRAC = 0.5  # of equal values: more are of one item, that other hardware encoded
SAME_LEVELS = 8  # of 255: pixels that another decoder made of one file
READ_RECORDS = 64  # at a time
Path = Callable[[bytes], bytes]


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
  if digest(train) in _known(held_out):
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
    mutual = digest(one) in _known(other) and digest(other) in _known(one)
    if not mutual and shared(one, other) is None:
      write(one, other)
      write(other, one)


def write(train: Store, held_out: Store) -> None:
  """Says in the held-out store's folder that `train` shares nothing with it.

  A folder that cannot be written gets no certificate: its ids are compared
  again the next time.
  """
  known = _known(held_out) | {digest(train)}
  value = {"ids": digest(held_out), "shares_nothing_with": sorted(known)}
  data = (json.dumps(value, indent=1) + "\n").encode()
  try:
    objects.write(f"{held_out.path}/{FILE}", data)
  except objects.StoreError:
    pass


def digest(store: Store) -> str:
  """Stands for the items of a store."""
  origin = store.manifest.origin
  return f"{store.manifest.ids_digest}{f' {origin.digest}' if origin else ''}"


def shared(one: Store, other: Store) -> tuple[str, int] | None:
  """(the first id, number of ids) of items that are in both stores; None: none is."""
  small, large = sorted((one, other), key=len)
  names = _names(small, _shared_marks(small, large))
  if names:
    names -= apart(small, large)
  here, there = (store.manifest.origin for store in (small, large))
  if here and there and here != there and here.overlaps(there):
    paths_H = _shared_marks(small, large, path=(here.path, there.path))
    names |= _names(small, paths_H, path=here.path)
  return (min(names), len(names)) if names else None


def apart(one: Store, other: Store) -> set[str]:
  """Ids that are in both stores and proven to be of different items.

  Only where their roots differ, and both were cut alike.
  """
  here, there = (store.manifest.origin for store in (one, other))
  if not here or not there or here == there:
    return set()
  if _cut(one.manifest) is None or _cut(one.manifest) != _cut(other.manifest):
    return set()
  marks_H = _shared_marks(one, other)
  return _names(one, marks_H[~_same_records(one, other, marks_H)])


def _names(store: Store, marks_H: np.ndarray, path: Path | None = None) -> set[str]:
  """The ids that have these marks."""
  if not len(marks_H):
    return set()
  return {
    item
    for ids_RU in store.id_columns()
    for item, place in zip(
      columns.texts(ids_RU), _places(marks_H, columns.marks(ids_RU, path)), strict=True
    )
    if place >= 0
  }


def _cut(manifest: manifests.Manifest) -> Any:
  """What decides the first record of an item; None where the manifest does not say."""
  info = manifest.info
  spec = info.get("spec", info.get("clip"))
  if spec is None or "seed" not in info:
    return None
  spec = {key: value for key, value in spec.items() if key != "crops"}
  return manifest.fields, manifest.tokenizer, info["seed"], spec


def _same_records(one: Store, other: Store, marks_H: np.ndarray) -> np.ndarray:
  """bool [H]: whether items that have one id may also be one, by their first records."""
  first_H, second_H = _first_records(one, marks_H), _first_records(other, marks_H)
  same_H = np.zeros(len(marks_H), bool)
  for start in range(0, len(marks_H), READ_RECORDS):
    part = slice(start, start + READ_RECORDS)
    ours, theirs = one.read(first_H[part]), other.read(second_H[part])
    for name, array in ours.items():
      levels = SAME_LEVELS if name == "frames" else 0
      away = np.abs(array.astype(np.int32) - theirs[name])
      same_H[part] |= (away <= levels).reshape(len(away), -1).mean(1) > SAME_FRAC
  return same_H


def _first_records(store: Store, marks_H: np.ndarray) -> np.ndarray:
  """int64 [H]: the first record of each mark, which the store has."""
  record_H, start = np.full(len(marks_H), -1), 0
  for marks_R in _marks(store):
    place_R = _places(marks_H, marks_R)
    for row in np.flatnonzero(place_R >= 0):
      if record_H[place_R[row]] < 0:
        record_H[place_R[row]] = start + row
    start += len(marks_R)
  return record_H


def _shared_marks(
  small: Store, large: Store, *, path: tuple[Path | None, Path | None] = (None, None)
) -> np.ndarray:
  """MARK [H]: sorted marks of ids, or of paths, that are in both; each once."""
  marks_M = np.empty(len(small), columns.MARK)
  end = 0
  for marks_R in _marks(small, path[0]):
    marks_M[end : end + len(marks_R)] = marks_R
    end += len(marks_R)
  marks_M.sort()
  # Of equal marks (crops of one item) only the first is ever hit.
  hit_M = np.zeros(len(marks_M), bool)
  with console.tracking(
    f"comparing the ids of {small.path} and {large.path}", unit="records", total=len(large)
  ) as bar:
    for marks_R in _marks(large, path[1]):
      place_R = _places(marks_M, marks_R)
      hit_M[place_R[place_R >= 0]] = True
      bar.advance(len(marks_R))
  return marks_M[hit_M]


def _marks(store: Store, path: Path | None = None) -> Iterator[np.ndarray]:
  return (columns.marks(ids_RU, path) for ids_RU in store.id_columns())


def _places(marks_M: np.ndarray, marks_R: np.ndarray) -> np.ndarray:
  """int64 [R]: where each mark stands first in sorted marks, -1: nowhere."""
  if not len(marks_M):
    return np.full(len(marks_R), -1)
  place_R = np.minimum(np.searchsorted(marks_M, marks_R), len(marks_M) - 1)
  return np.where(marks_M[place_R] == marks_R, place_R, -1)


def _known(store: Store) -> set[str]:
  """Digests of the stores that are known to share nothing with this one.

  A certificate of other ids says nothing of these, and neither does a damaged
  one: it is written anew.
  """
  try:
    value = outside.read_json(f"{store.path}/{FILE}")
    if value.get("ids") != digest(store):
      return set()
    return set(map(str, value["shares_nothing_with"]))
  except (ValueError, OSError, AttributeError, KeyError, TypeError) as error:
    if isinstance(error, objects.StoreError):
      raise
    return set()
