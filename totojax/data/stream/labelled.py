"""Records with a class: training rows, exact evaluation rows, checks.

Rows come as in `stream` and `heldout`, with `label` beside what is read. What
is read may be tokens or features that were made before.

Shapes: M records, L layers, D width.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import hashlib
import json
from typing import Any

import grain
import numpy as np

from totojax.data.store import store as store_lib
from totojax.data.stream import mixture as stream_lib, rows as rows_lib
from totojax.rundir import files
from totojax.storage import objects

_NONE = -1  # the label of a row that is padding


@dataclasses.dataclass(frozen=True)
class Records:
  """Some records of a labelled store."""

  # Where they are; None: in image files (`views.records`), or features alone
  # are known of them.
  store: store_lib.Store | None
  name: str  # of the store, for errors
  records: np.ndarray  # their numbers, increasing
  labels: np.ndarray  # int32, of every record of the store
  ids: tuple[str, ...]  # of every record of the store; views of one item share theirs
  classes: tuple[str, ...]  # names by label; may be empty

  @property
  def tokens(self) -> store_lib.Store:
    """The store, of records that have one."""
    assert self.store is not None
    return self.store

  @property
  def identity(self) -> dict[str, Any]:
    """What stands for them in a run: of files and features, their names and classes."""
    if self.store is not None:
      return self.store.manifest.identity
    state = hashlib.sha256(np.ascontiguousarray(self.labels).tobytes())
    state.update(json.dumps([self.ids, self.classes]).encode())
    items = hashlib.sha256(json.dumps(sorted(self.ids)).encode()).hexdigest()
    return {
      "digest": state.hexdigest()[:32],
      "records": len(self.labels),
      "items": items,
      "tokenizer": "",
    }

  def items(self) -> list[list[int]]:
    """The records of each item, items in the order of their first record."""
    views: dict[str, list[int]] = {}
    for record in self.records:
      views.setdefault(self.ids[record], []).append(int(record))
    return list(views.values())


def records(store: store_lib.Store, name: str, *, most: int = 0, seed: int = 0) -> Records:
  """The records of a store: all of them, or `most` out of every class.

  Raises:
    ValueError: it has no labels or no ids, a record has no class, or the views
      of one item have different ones.
  """
  manifest = store.manifest
  for what in ("labels", "ids"):
    if not getattr(manifest, what):
      raise ValueError(
        f"{name} ({store.path}) has no {what}; probing needs them. Make the"
        " store from a source that has classes"
      )
  labels, ids = store.labels(), tuple(store.ids())
  data = Records(store, name, np.arange(len(labels)), labels, ids, manifest.classes)
  return subset(checked(data, store.path), most=most, seed=seed)


def subset(data: Records, *, most: int, seed: int) -> Records:
  """So many records, of each class its share but at least one; 0: all.

  Which ones follows from the seed and the names of items, whose views stay
  together: the last item may not fit, so that there are a few fewer.
  """
  if not 0 < most < len(data.records):
    return data
  place = []  # (how far down its class an item is, and the item)
  for items in _by_class(data, seed).values():
    place += [(i / len(items), item) for i, item in enumerate(items)]
  chosen = []
  for _, item in sorted(place, key=lambda one: one[0]):
    if len(chosen) + len(item) > most:
      break
    chosen += item
  return dataclasses.replace(data, records=np.sort(np.array(chosen, int)))


def _by_class(data: Records, seed: int) -> dict[int, list[list[int]]]:
  """The items of each class, in an order that the seed and their names draw."""
  by_class = {}
  for item in data.items():
    by_class.setdefault(int(data.labels[item[0]]), []).append(item)

  def draw(item):
    return hashlib.sha256(f"{seed} {data.ids[item[0]]}".encode()).digest()

  return {label: sorted(items, key=draw) for label, items in by_class.items()}


def checked(data: Records, path: str) -> Records:
  """`data`, if every record of it has a class, and views of one item the same.

  Raises:
    ValueError: they have not; names `path`.
  """
  without = np.flatnonzero(data.labels < 0)
  if len(without):
    raise ValueError(
      f"{len(without)} of {len(data.labels)} records of {data.name} ({path}) have no class, the"
      f" first of them {data.ids[without[0]]!r}; leave them out, or give each a class"
    )
  classes = {}
  for i, label in zip(data.ids, data.labels):
    if classes.setdefault(i, label) != label:
      raise ValueError(
        f"item {i!r} of {data.name} ({path}) has class {classes[i]} and class"
        f" {label}; an item has one class"
      )
  return data


def check_apart(train: Records, validation: Records) -> None:
  """Raises ValueError where an item is in both."""
  shared = sorted({*train.ids} & {*validation.ids})
  if shared:
    raise ValueError(
      f"item {shared[0]!r} is in {train.name} and in {validation.name}"
      f" ({len(shared)} such items); make one of them without these"
    )


def missing(path: str) -> list[tuple[str, str]]:
  """(id, reason) of the items that the job which made a store could not use.

  Read from the job's tables beside the store, or beside a folder of features;
  empty where there are none.
  """
  folder, _, name = path.rstrip("/").rpartition("/")
  pairs = []
  for table in ("missing.csv", "quarantine.csv", "skipped.csv"):
    data = objects.read(f"{folder or '.'}/{table}")
    if data is not None:
      _, *rows = files.parse_table(f"{folder or '.'}/{table}", data)
      # Others may write such a table too.
      pairs += [(r[1], r[2]) for r in rows if len(r) == 3 and r[0] == name]
  return pairs


def split(data: Records, *, held_frac: float, seed: int) -> tuple[Records, Records]:
  """(the rest, held-out share of every class); views stay together.

  Which items are held out follows from their names. A class of one item stays
  whole in the rest.
  """
  holdout = []
  for items in _by_class(data, seed).values():
    count = min(round(held_frac * len(items)), len(items) - 1)
    holdout += [record for item in items[:count] for record in item]
  inside = np.zeros(len(data.labels), bool)
  inside[holdout] = True
  return (
    dataclasses.replace(data, records=data.records[~inside[data.records]]),
    dataclasses.replace(data, records=data.records[inside[data.records]]),
  )


def check_classes(train: Records, validation: Records, *, classes: int) -> int:
  """How many classes there are.

  Args:
    train: what is trained on, without what is held out of it.
    validation: what is evaluated.
    classes: expected; 0: as many as the stores say.

  Raises:
    ValueError: the two data sets number their classes differently, there are
      more or fewer than expected, only one, or one without a training record.
  """
  if train.classes != validation.classes:
    pairs = zip(train.classes, validation.classes)
    first = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    difference = f"{len(train.classes)} and {len(validation.classes)} of them"
    if first is not None:
      difference += f"; class {first} is {train.classes[first]!r} and {validation.classes[first]!r}"
    raise ValueError(
      f"{train.name} and {validation.name} have different classes"
      f" ({difference}); make both with the same list"
    )
  highest = 1 + max(int(data.labels[data.records].max()) for data in (train, validation))
  named = len(train.classes) or highest
  count = classes or named
  if count < highest or (train.classes and count != named):
    raise ValueError(
      f"data.classes is {count}; the stores name {len(train.classes)} classes and their labels go"
      f" up to {highest - 1}. Set data.classes to {max(named, highest)}, or to 0"
    )
  if count < 2:
    raise ValueError(
      f"{train.name} has {count} class; there is nothing to tell apart. Use"
      " data of two classes or more"
    )
  seen = np.bincount(train.labels[train.records], minlength=count)
  empty = np.flatnonzero(seen == 0)
  if len(empty):
    names = [f"{c} ({train.classes[c]})" if train.classes else str(c) for c in empty[:5]]
    raise ValueError(
      f"{len(empty)} of {count} classes have no training record in {train.name}:"
      f" {', '.join(names)}. Add some, or make the stores without these classes"
    )
  return count


Read = Callable[[Sequence[rows_lib.Row]], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class ReadLabelled:
  """What `read` reads, with the class of each row; -1 for padding."""

  read: Read
  labels: np.ndarray

  def __call__(self, rows: Sequence[rows_lib.Row]) -> dict[str, np.ndarray]:
    arrays = dict(self.read(rows))
    arrays.pop("source", None)
    label_B = [self.labels[row.draws[0].record] if row.draws else _NONE for row in rows]
    return {**arrays, "label": np.array(label_B, np.int32)}


@dataclasses.dataclass(frozen=True)
class ReadInputs:
  """Rows of `rows.ReadTokens` without the end, which is no input."""

  read: rows_lib.ReadTokens

  def __call__(self, rows: Sequence[rows_lib.Row]) -> dict[str, np.ndarray]:
    tokens_BR = self.read(rows)["tokens"]
    return {"tokens": np.ascontiguousarray(tokens_BR[:, :-1])}


@dataclasses.dataclass(frozen=True)
class ReadFeatures:
  """Rows of features [M, L, ...] that were made before, as float32."""

  features_ML: np.ndarray
  # Whose they are, increasing; None: of every record of the store.
  records: np.ndarray | None = None

  @property
  def in_memory(self) -> bool:
    return not isinstance(self.features_ML, np.memmap)

  def of(self, records: np.ndarray | Sequence[int]) -> np.ndarray:
    """Their features, by the numbers of the records."""
    rows = records if self.records is None else np.searchsorted(self.records, records)
    return np.asarray(self.features_ML[rows], np.float32)

  def __call__(self, rows: Sequence[rows_lib.Row]) -> dict[str, np.ndarray]:
    shape = (len(rows), *self.features_ML.shape[1:])
    features_BL = np.zeros(shape, np.float32)
    real = [b for b, row in enumerate(rows) if row.draws]
    drawn = [rows[b].draws[0].record for b in real]
    features_BL[real] = self.of(drawn)
    return {"features": features_BL}


def stream(
  data: Records, read: Read, *, seed: int, batch: int, host: int, hosts: int
) -> grain.MapDataset:
  """Endless training batches of one host; element s is part of step s's batch.

  As `stream.stream`: every record once an epoch, in an order of its own, the
  same global batch for any number of hosts.
  """
  order = rows_lib.order(source=0, seed=seed)
  plans = grain.MapDataset.source(data.records).shuffle(order).repeat()
  plans = plans.map_with_index(functools.partial(_row, len(data.records)))
  return stream_lib.share(plans, batch=batch, host=host, hosts=hosts).map(
    ReadLabelled(read, data.labels)
  )


# Every head group of a probe has the same ones, and grain draws each number of few
# records in tens of microseconds: it walks a cycle of 65,536.
@functools.lru_cache(320)
def _permutation(count: int, order: int, epoch: int) -> np.ndarray:
  """The numbers 0..count-1 as `stream` has them in an epoch, int32."""
  endless = grain.MapDataset.range(count).shuffle(order).repeat()
  numbers = endless.batch(count, batch_fn=functools.partial(np.asarray, dtype=np.int32))[epoch]
  assert numbers is not None, "only a filter leaves elements out"
  return numbers


def stream_in_memory(
  data: Records,
  read: ReadFeatures,
  first_step: int,
  *,
  seed: int,
  batch: int,
  host: int,
  hosts: int,
) -> Iterator[dict[str, np.ndarray]]:
  """The batches of `stream`, from step `first_step` on.

  Of features that are in memory: a permutation an epoch and a slice of it a
  step, where `stream` asks for every row by itself.
  """
  rows, count = stream_lib.share_rows(batch, host=host, hosts=hosts), len(data.records)
  order = rows_lib.order(source=0, seed=seed)
  position = (first_step * hosts + host) * rows
  while True:
    parts, missing = [], rows
    while missing:
      at = position + rows - missing
      parts.append(_permutation(count, order, at // count)[at % count :][:missing])
      missing -= len(parts[-1])
    record_B = data.records[np.concatenate(parts)]
    yield {"features": read.of(record_B), "label": data.labels[record_B].astype(np.int32)}
    position += hosts * rows


def _row(records: int, position: int, record: np.integer) -> rows_lib.Row:
  return rows_lib.Row(0, (rows_lib.Draw(int(record), position // records),))


@dataclasses.dataclass(frozen=True)
class ItemBatches(stream_lib.Finite):
  """Every item once, in order; the batches of one host.

  Attributes:
    batches: as `stream` gives them; the same number on every host.
    items: real ones; any others are padding at the end.
    views: rows of an item; those that one lacks are padding.
    at_once: items of a global batch.
    first: the first record of each item.
  """

  items: int
  views: int
  at_once: int
  first: np.ndarray


def finite(
  data: Records, read: Read, *, batch: int, ways: int, by_item: bool, host: int, hosts: int
) -> ItemBatches:
  """Every record once, with the rows of an item in one batch and on one device.

  Args:
    data: the records.
    read: what is read of them.
    batch: rows of a global batch, at most where an item has no more.
    ways: parts that a batch is split into over devices.
    by_item: whether records of one id are views of one item; otherwise every
      record is an item.
    host, hosts: which host this is, of how many.
  """
  items = data.items() if by_item else [[int(record)] for record in data.records]
  if not items:
    raise ValueError(f"{data.name} has no record to evaluate")
  views = max(map(len, items))
  at_once = max(batch // (views * ways), 1) * ways
  empty = [[]] * (-len(items) % at_once)
  plans = []
  for item in [*items, *empty]:
    plans += [rows_lib.Row(0, (rows_lib.Draw(record, None),)) for record in item]
    plans += [rows_lib.Row(0, ())] * (views - len(item))
  shared = stream_lib.share(
    grain.MapDataset.source(plans), batch=at_once * views, host=host, hosts=hosts
  )
  return ItemBatches(
    items=len(items),
    views=views,
    at_once=at_once,
    first=np.array([item[0] for item in items]),
    batches=shared.map(ReadLabelled(read, data.labels)),
  )
