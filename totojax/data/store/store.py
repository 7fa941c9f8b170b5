"""A data set for random reads, each shard compared with the manifest.

Shapes: R records.
"""

from collections.abc import Iterator, Sequence
import concurrent.futures
import os
from typing import Any

import numpy as np

from totojax.data.store import columns, manifests
from totojax.storage import objects

CHECK_THREADS = 16  # shards probed at once on opening


class Store:
  """A data set for random reads; grain's `RandomAccessDataSource`.

  Arrays are opened when first read, in the process that reads them: a pickled
  or forked store carries its path and manifest only.
  """

  def __init__(self, path: objects.Path, manifest: manifests.Manifest):
    self.path = objects.text(path)
    self.manifest = manifest
    self._starts = np.cumsum([0] + [s.records for s in manifest.shards])
    self._arrays: dict[tuple[int, str], Any] = {}
    self._process = os.getpid()

  def __len__(self) -> int:
    return self.manifest.records

  def __repr__(self) -> str:
    return f"Store({self.path!r}, records={len(self)})"

  def __getstate__(self) -> dict[str, Any]:
    return {"path": self.path, "manifest": self.manifest}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__init__(state["path"], state["manifest"])

  def __getitem__(self, index: int) -> dict[str, Any]:
    """One record: array of each field, with `label` and `id` where present."""
    record = {name: x[0] for name, x in self.read([index]).items()}
    shard, place = self._locate(np.array([index]))
    if self.manifest.labels:
      record["label"] = int(self._column(shard[0], "label")[place[0]])
    if self.manifest.ids:
      record["id"] = columns.texts(self._column(shard[0], "id")[place])[0]
    return record

  def read(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
    """Records [R, *shape] of each field, in the order of `indices`.

    One request per shard that holds some of them, all in flight at once: about
    ten times the rate of single reads.

    Raises:
      IndexError: for an index outside the data set.
      StoreError: for a shard that is missing, damaged or not this data
        set's.
    """
    indices = np.asarray(indices, np.int64)
    shard_R, place_R = self._locate(indices)
    requests = []
    for shard in np.unique(shard_R):
      where = np.flatnonzero(shard_R == shard)
      for field in self.manifest.fields:
        ask = self._array(int(shard), field.name)[place_R[where]].read
        requests.append((int(shard), field.name, where, ask(), ask))
    fields = self.manifest.fields
    result = {f.name: np.empty((len(indices), *f.shape), f.dtype) for f in fields}
    for shard, name, where, future, again in requests:
      result[name][where] = objects.finish(self._file(shard, name), future, again)
    return result

  def labels(self) -> np.ndarray:
    """int32 [R]: the class of every record, -1 for none."""
    if not self.manifest.labels:
      raise objects.StoreError(f"{self.path} has no labels; make it with labels")
    shards = range(len(self.manifest.shards))
    return np.concatenate([self._column(s, "label") for s in shards])

  def ids(self) -> list[str]:
    """The item id of every record."""
    return [item for ids in self.id_columns() for item in columns.texts(ids)]

  def id_columns(self) -> Iterator[np.ndarray]:
    """uint8 [R, U]: the ids of each shard as they are stored, one at a time."""
    if not self.manifest.ids:
      raise objects.StoreError(f"{self.path} has no ids; make it with ids")
    for shard in range(len(self.manifest.shards)):
      yield self._column(shard, "id")

  def check(self) -> None:
    """Opens every shard and compares its name, shapes and probe.

    Reads two records, the labels and the ids of each shard.

    Raises:
      StoreError: naming a shard that is missing, truncated, foreign or in
        another one's place.
    """
    with concurrent.futures.ThreadPoolExecutor(CHECK_THREADS) as pool:
      for _ in pool.map(self.check_shard, range(len(self.manifest.shards))):
        pass

  def check_shard(self, index: int) -> None:
    """`check` for one shard."""
    self._compare(index, "probe", [0, self.manifest.shards[index].records - 1])

  def verify(self) -> None:
    """Reads every byte and compares the checksums; raises as `check` does."""
    for index in range(len(self.manifest.shards)):
      self._compare(index, "checksum", slice(None))

  def _compare(self, index: int, what: str, places: Any) -> None:
    """Compares the digest of some records, labels and ids with the manifest's."""
    m, shard = self.manifest, self.manifest.shards[index]
    arrays = {field.name: self._slice(index, field.name, places) for field in m.fields}
    for name, present in (("label", m.labels), ("id", m.ids)):
      if present:
        arrays[name] = self._column(index, name)
    actual, expected = columns.digest(arrays), getattr(shard, what)
    if actual != expected:
      raise objects.StoreError(
        f"{self.path}/{shard.name} holds other records than the manifest says ({what} {actual[:12]}"
        f" instead of {expected[:12]}): it was swapped, altered or taken from another data set."
        " Restore it from a copy, or make the data set again"
      )

  def _file(self, shard: int, name: str) -> str:
    return f"{self.path}/{self.manifest.shards[shard].name}/{name}"

  def _locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shard of each record, and its place there."""
    if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
      raise IndexError(
        f"{self.path} has records 0 to {len(self) - 1}; asked for"
        f" {indices.min()} to {indices.max()}"
      )
    shards = np.searchsorted(self._starts, indices, side="right") - 1
    return shards, indices - self._starts[shards]

  def _column(self, shard: int, name: str) -> np.ndarray:
    return self._slice(shard, name, slice(None))

  def _slice(self, shard: int, name: str, places: Any) -> np.ndarray:
    ask = self._array(shard, name)[places].read
    return objects.finish(self._file(shard, name), ask(), ask)

  def _array(self, shard: int, name: str) -> Any:
    """The open array of one column, opened and compared on first use."""
    if self._process != os.getpid():  # forked: the parent's threads are gone
      self._arrays, self._process = {}, os.getpid()
    key = (shard, name)
    if key not in self._arrays:
      array = objects.open_array(self._file(shard, name))
      _check_array(self._file(shard, name), array, self.manifest, shard, name)
      self._arrays[key] = array
    return self._arrays[key]


def _check_array(path: str, array: Any, m: manifests.Manifest, index: int, name: str) -> None:
  """Raises StoreError if an open array is not the manifest's."""
  shard, shape, dtype = m.shards[index], tuple(array.shape), array.dtype.name
  records = {field.name: (field.shape, field.dtype) for field in m.fields}
  records |= {"label": ((), "int32"), "id": (shape[1:], "uint8")}
  expected, expected_dtype = (shard.records, *records[name][0]), records[name][1]
  if (shape, dtype) != (expected, expected_dtype):
    raise objects.StoreError(
      f"{path} is {dtype} {shape}; the manifest says {expected_dtype}"
      f" {expected}. It belongs to another data set: restore it from a copy"
    )
  marks = objects.attributes(array)
  if marks != columns.attributes(shard):
    raise objects.StoreError(
      f"{path} was written as shard {marks.get('shard')!r} with checksum"
      f" {str(marks.get('checksum'))[:12]}; the manifest expects"
      f" {shard.name!r} with {shard.checksum[:12]}. Shards were re-ordered,"
      " or this one is from another data set: restore it from a copy"
    )


def open_store(
  path: objects.Path, *, tokenizer: str | None, vocab: int | None, grid: int | None
) -> Store:
  """Opens the data set at `path` and checks every shard (`Store.check`).

  Args:
    path: directory or URL.
    tokenizer: the fingerprint that its codes must come from; None for any.
    vocab: the number of codes that its tokenizer must have; None for any.
    grid: the tokens per side that a frame must have; None for any.

  Raises:
    objects.StoreError: saying what is missing, incomplete, damaged or different.
  """
  manifest = manifests.existing(path)
  name = objects.text(path)
  if not manifest.complete:
    raise objects.StoreError(
      f"{name} is incomplete: {manifest.records} records so far. Start the"
      " job that makes it again; it goes on where it stopped"
    )
  wanted = {"tokenizer": tokenizer, "vocab": vocab, "grid": grid}
  for key, value in wanted.items():
    actual = getattr(manifest, key)
    if value is not None and value != actual:
      raise objects.StoreError(
        f"{name} has {key} {actual!r}; this run needs {value!r}. Use the"
        " tokenizer that made the data set, or make it again with yours"
      )
  store = Store(path, manifest)
  store.check()
  return store
