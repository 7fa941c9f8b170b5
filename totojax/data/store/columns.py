"""Columns: the arrays of a shard as they are read, and their digests.

Shapes: R records, U bytes of the longest id.
"""

from collections.abc import Callable, Mapping
import hashlib

import numpy as np

from totojax.data.store import manifests

# Labels are stored as int32.
MOST_CLASSES = 2**31


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
