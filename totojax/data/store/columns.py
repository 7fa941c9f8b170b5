"""Columns: the arrays of a shard, from a job's records, and their digests.

Shapes: R records, U bytes of the longest id.
"""

from collections.abc import Callable, Mapping, Sequence
import hashlib
from typing import Any

import numpy as np

from totojax.data.store import manifests


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


# Labels are stored as int32.
MOST_CLASSES = 2**31


def _label_column(labels: Any, classes: int) -> np.ndarray:
  classes = classes or MOST_CLASSES
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


def texts(ids_RU: np.ndarray) -> list[str]:
  return [bytes(row).rstrip(b"\0").decode() for row in ids_RU]


# A hash of an id. Fixed-width bytes: numpy sorts and compares all of them.
MARK = np.dtype("S16")


def marks(ids_RU: np.ndarray, change: Callable[[bytes], bytes] | None = None) -> np.ndarray:
  """MARK [R]: a hash of every id, or what it is changed to, whatever its column's width."""
  rows = (bytes(row).rstrip(b"\0") for row in ids_RU)
  rows = map(change, rows) if change else rows
  hashes = (hashlib.blake2b(row, digest_size=16).digest() for row in rows)
  return np.frombuffer(b"".join(hashes), MARK)


def ids_sum(ids_RU: np.ndarray) -> str:
  """The sum of the marks, as 32 hex digits: the same in any order."""
  total = sum(int.from_bytes(mark, "big") for mark in marks(ids_RU).view("V16").tolist())
  return f"{total % 2**128:032x}"


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


def digest(arrays: Mapping[str, np.ndarray]) -> str:
  """sha256 of named arrays: names, types, shapes and little-endian bytes."""
  state = hashlib.sha256()
  for name in sorted(arrays):
    array = arrays[name]
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    state.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
    # As bytes, since types such as bfloat16 have no buffer of their own.
    state.update(np.ascontiguousarray(little).reshape(-1).view(np.uint8).data)
  return state.hexdigest()


def attributes(shard: manifests.Shard) -> dict[str, str]:
  return {"shard": shard.name, "checksum": shard.checksum}
