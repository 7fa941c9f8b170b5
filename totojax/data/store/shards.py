"""Shards: fixed-length records in Zarr 3 arrays, written once, read at random.

  <path>/manifest.json
  <path>/shard-00000/<field>     [records, ...] one record per inner chunk
  <path>/shard-00000/label, id   [records], [records, bytes] one chunk each

The same store holds tokens (`codes`) and pixels (`frames`). Each array carries
its shard's name and checksum as Zarr attributes, so that a shard in another
one's place is noticed; each chunk and index carries a crc32c, so that damage is
noticed when read; and a missing chunk raises instead of reading as zeros.

Shapes: R records, U bytes of the longest id.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from totojax.data.store import columns, manifests
from totojax.data.store.store import Store
from totojax.rundir import lock, provenance
from totojax.storage import objects, zarr

StoreError = objects.StoreError
# Of `info`: what is known at the end, and where the source was (it may be moved).
FREE = (manifests.SHORT, manifests.ROOT, manifests.PREFIX)


class Writer:
  """Writes a data set so that an interrupted job goes on where it stopped.

    writer = Writer(path, manifest)
    for item in items[writer.cursor or 0:]:
      writer.append({"codes": ..}, labels=.., ids=.., cursor=item.index + 1)
    writer.close()

  The records of one `append` stay in one shard, and a shard is closed by the
  append that fills it, so a deterministic job writes the same bytes however
  often it was stopped. Records are in memory until their shard is full.

  How far the job is stands in the manifest and not in a note of its own
  (`rundir.pieces`): the cursor and the shard before it must appear in the same
  step, or records would be written twice or never.
  """

  def __init__(self, path: objects.Path, manifest: manifests.Manifest):
    """Starts the data set, or goes on with it.

    Args:
      path: directory or URL of the data set.
      manifest: from `manifests.new`.

    Raises:
      StoreError: if what is there was made with other values, or is damaged.
    """
    if manifest.shards or manifest.complete:
      raise ValueError(
        f"the manifest for {objects.text(path)} names shards already; give one from manifests.new"
      )
    self.path = objects.text(path)
    existing = manifests.load(path)
    if existing is None:
      manifests.save(path, manifest)
    else:
      check_same_head(self.path, existing, manifest)
      Store(path, existing).check()
    self.manifest = existing or manifest
    self._pending: list[dict[str, np.ndarray]] = []
    self._pending_records = 0
    self._pending_cursor = self.manifest.cursor

  @property
  def cursor(self) -> Any:
    """What the last `append` in a whole shard said; None at the start."""
    return self.manifest.cursor

  @property
  def complete(self) -> bool:
    """Whether an earlier job has already ended: nothing is left to do."""
    return self.manifest.complete

  def append(
    self,
    values: Mapping[str, np.ndarray],
    *,
    labels: Sequence[int] | np.ndarray | None,
    ids: Sequence[str] | None,
    cursor: Any,
  ) -> None:
    """Adds records, and writes a shard when there are enough of them.

    Args:
      values: array [R, *shape] of each field of the manifest.
      labels: class of each record, -1 for none; None if the manifest has none.
      ids: id of the item of each record; None if the manifest has none.
      cursor: JSON value from which the job goes on after these records.

    Raises:
      ValueError: when the records are not what the manifest says.
      StoreError: when the shard cannot be written.
    """
    if self.manifest.complete:
      raise StoreError(f"{self.path} is complete; remove it or write to another path")
    arrays = checked(self.manifest, values, labels, ids)
    self._pending.append(arrays)
    self._pending_records += len(next(iter(arrays.values())))
    self._pending_cursor = cursor
    if self._pending_records >= self.manifest.records_per_shard:
      self._commit(complete=False)

  def close(self, **info: Any) -> None:
    """Writes the last records and marks the data set complete.

    Args:
      **info: what only the end of the job knows, for the manifest's `info`.
    """
    if self.manifest.complete:
      return
    if not self._pending_records and not self.manifest.shards:
      raise ValueError(f"{self.path} has no record; append some before closing it")
    self.manifest = dataclasses.replace(self.manifest, info={**self.manifest.info, **info})
    self._commit(complete=True)

  def _commit(self, *, complete: bool) -> None:
    """Writes the pending records as a shard, then names it in the manifest."""
    lock.check(self.path)
    shards = self.manifest.shards
    if self._pending_records:
      shard = write_shard(
        self.path, self.manifest, number=len(shards), arrays=concatenate(self._pending)
      )
      shards = (*shards, shard)
    manifest = dataclasses.replace(
      self.manifest, shards=shards, cursor=self._pending_cursor, complete=complete
    )
    manifests.save(self.path, manifest)
    self.manifest = manifest
    self._pending, self._pending_records = [], 0


def write_shard(
  path: objects.Path, manifest: manifests.Manifest, *, number: int, arrays: Mapping[str, np.ndarray]
) -> manifests.Shard:
  """Writes one shard and reads its ends back; the manifest is left as it is.

  Args:
    path: directory or URL of the data set.
    manifest: what its records are.
    number: of the shard; one that is there is replaced.
    arrays: from `checked`, at least one record.

  Raises:
    StoreError: when the shard cannot be written.
  """
  shard = manifests.Shard(
    name=f"shard-{number:05d}",
    records=len(next(iter(arrays.values()))),
    checksum=columns.digest(arrays),
    probe=columns.digest(probe(manifest, arrays)),
    ids=columns.ids_sum(arrays["id"]) if "id" in arrays else "",
  )
  for name, array in arrays.items():
    zarr.write_array(
      f"{objects.text(path)}/{shard.name}/{name}",
      array,
      single_records=name not in ("label", "id"),
      attributes=columns.attributes(shard),
    )
  Store(path, dataclasses.replace(manifest, shards=(shard,))).check()
  return shard


def check_same_head(path: str, existing: manifests.Manifest, wanted: manifests.Manifest) -> None:
  """Whether a job with these values may go on with a store.

  Versions of what decodes its items may differ with `--allow_other_versions`.

  Raises:
    StoreError: it may not.
  """
  lists = [m.info.get("listing") for m in (existing, wanted)]
  if None not in lists and lists[0] != lists[1]:
    raise StoreError(
      f"{path} was begun with {existing.info.get('items')} items, and the source now lists"
      f" {wanted.info.get('items')}, or others: files were added, removed or renamed. Bring them"
      " back to go on, or write to another --workdir"
    )
  old, new = manifests.head(existing), manifests.head(wanted)
  for head in (old, new):
    for key in FREE:
      head["info"].pop(key, None)
  before, here = (head["info"].pop(manifests.DECODERS, []) for head in (old, new))
  try:
    provenance.check_versions(path, before, here)
  except ValueError as error:
    raise StoreError(str(error)) from error
  different = [key for key in new if old[key] != new[key]]
  if different:
    key = different[0]
    raise StoreError(
      f"{path} was begun with {key} {old[key]!r}, and this job has {new[key]!r} (in all:"
      f" {', '.join(different)}). Use the same values to go on, or write to another path"
    )


def checked(
  manifest: manifests.Manifest,
  values: Mapping[str, np.ndarray],
  labels: Sequence[int] | np.ndarray | None,
  ids: Sequence[str] | None,
) -> dict[str, np.ndarray]:
  """The arrays of some records, compared with the manifest and copied."""
  names = {field.name for field in manifest.fields}
  if set(values) != names:
    raise ValueError(f"records have {sorted(values)}; needed: {sorted(names)}")
  for name, column in (("labels", labels), ("ids", ids)):
    wanted = getattr(manifest, name)
    if (column is not None) != wanted:
      raise ValueError(f"{name} are {'missing' if wanted else 'given'}; the manifest says {wanted}")
  arrays = {}
  for field in manifest.fields:
    x = np.asarray(values[field.name])
    if x.shape[1:] != field.shape or len(x) < 1:
      raise ValueError(
        f"{field.name} have shape {x.shape}; needed: (records,"
        f" {', '.join(map(str, field.shape))}) with at least one record"
      )
    if field.name == "codes" and x.dtype.kind in "iu":
      low, high = int(x.min()), int(x.max())
      if low < 0 or high >= manifest.vocab:
        raise ValueError(
          f"codes run from {low} to {high}; the tokenizer has codes 0 to {manifest.vocab - 1}"
        )
    elif x.dtype != np.dtype(field.dtype):
      raise ValueError(f"{field.name} are {x.dtype}; needed: {field.dtype}")
    arrays[field.name] = np.array(x, field.dtype)
  if labels is not None:
    arrays["label"] = _label_column(labels, len(manifest.classes))
  if ids is not None:
    arrays["id"] = _id_column(ids)
  lengths = {name: len(array) for name, array in arrays.items()}
  if len(set(lengths.values())) != 1:
    raise ValueError(f"records differ in number: {lengths}")
  return arrays


def _label_column(labels: Any, classes: int) -> np.ndarray:
  classes = classes or columns.MOST_CLASSES
  column = np.asarray(labels)
  if column.dtype.kind not in "iu" or column.ndim != 1:
    raise ValueError(f"labels are {column.dtype} {column.shape}; needed: ints")
  if column.min() < -1 or column.max() >= classes:
    raise ValueError(
      f"labels run from {column.min()} to {column.max()}; there are"
      f" {classes} classes, and -1 for none"
    )
  return column.astype(np.int32)


def _id_column(ids: Sequence[str]) -> np.ndarray:
  """uint8 [R, U]: UTF-8, padded with zeros to the longest."""
  encoded = [item.encode() for item in ids]
  bad = [item for item in ids if not item or "\0" in item]
  if bad:
    raise ValueError(f"id {bad[0]!r} is empty or holds a zero byte; name items")
  width = max(map(len, encoded))
  padded = b"".join(item.ljust(width, b"\0") for item in encoded)
  return np.frombuffer(padded, np.uint8).reshape(len(ids), width).copy()


def concatenate(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  joined = {}
  for name in parts[0]:
    arrays = [part[name] for part in parts]
    if name == "id":
      width = max(array.shape[1] for array in arrays)
      arrays = [np.pad(array, ((0, 0), (0, width - array.shape[1]))) for array in arrays]
    joined[name] = np.concatenate(arrays)
  return joined


def probe(manifest: manifests.Manifest, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """First and last record of the fields; all labels and ids."""
  fields = {field.name for field in manifest.fields}
  return {name: array[[0, -1]] if name in fields else array for name, array in arrays.items()}
