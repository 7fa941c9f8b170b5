"""The only door to data sets: bytes and arrays through TensorStore.

A path is a local directory or a URL (gs://, s3://, file://, memory://); nothing
above this file knows which. Every failure of TensorStore comes out as a
`StoreError` that begins with the path.
"""

from __future__ import annotations

from collections.abc import Mapping
import functools
import os
from typing import Any

import numpy as np
import tensorstore as ts

Path = str | os.PathLike[str]
CACHE_BYTES = 64 * 2**20  # holds shard indices (16 bytes a record), not records


class StoreError(ValueError):
  """A data set that is missing, damaged, incomplete or not the one expected."""


def text(path: Path) -> str:
  """`path` as text without a trailing slash, the way errors print it."""
  return os.fspath(path).rstrip("/")


def kvstore_spec(path: Path) -> dict[str, Any]:
  """TensorStore's description of the directory `path`.

  A URL is parsed by TensorStore itself (gs:// is driver gcs, s3:// is s3); any
  other text is a local path, which may hold characters that a URL may not.
  """
  name = text(path)
  if "://" in name:
    return {**ts.KvStore.Spec(name + "/").to_json(), **_s3(name)}
  return {"driver": "file", "path": os.path.abspath(name) + "/"}


def _s3(url: str) -> dict[str, Any]:
  """What the usual variables say of an s3:// URL: its server and region.

  AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL; AWS_REGION or AWS_DEFAULT_REGION. All
  other clients read them; TensorStore reads its credentials alone.
  """
  if not url.startswith("s3://"):
    return {}
  names = {
    "endpoint": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "aws_region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
  }
  found = {key: next(filter(None, map(os.environ.get, names[key])), None) for key in names}
  return {key: value for key, value in found.items() if value}


def read_bytes(path: Path, name: str) -> bytes | None:
  """The bytes of file `name` in `path`, or None where there is none."""
  try:
    result = _kvstore(path).read(name).result()
  except Exception as error:
    raise StoreError(f"{text(path)}/{name} cannot be read: {error}") from error
  return result.value if result.state == "value" else None


def write_bytes(path: Path, name: str, value: bytes) -> None:
  """Replaces file `name` in `path` as a whole: readers see the old or the new.

  (A local file is written beside and renamed, an object store gets one put.)
  """
  try:
    _kvstore(path).write(name, value).result()
  except Exception as error:
    raise StoreError(
      f"{text(path)}/{name} cannot be written: {error}. Is the disk full, or"
      " the directory read-only?"
    ) from error


def write_array(
  path: Path, values: np.ndarray, *, single_records: bool, attributes: Mapping[str, Any]
) -> None:
  """Writes `values` [records, ...] as one Zarr 3 array, replacing any other.

  The array is one file: a Zarr shard whose inner chunks are single records, or
  the whole array, each with a crc32c, and the index of the chunks as well.

  Args:
    path: directory of the array.
    values: the records, at least one.
    single_records: one record per inner chunk, for random reads.
    attributes: JSON kept beside the array.

  Raises:
    StoreError: when the storage refuses, with the path.
  """
  inner = [1, *values.shape[1:]] if single_records else list(values.shape)
  checked = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
  sharding = {
    "chunk_shape": inner,
    "codecs": checked,
    "index_codecs": checked,
    "index_location": "end",
  }
  spec = {
    "driver": "zarr3",
    "kvstore": kvstore_spec(path),
    # A record of zeros would otherwise not be written, and then be missing.
    "store_data_equal_to_fill_value": True,
    "metadata": {
      "shape": list(values.shape),
      "data_type": values.dtype.name,
      "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(values.shape)}},
      "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
      "attributes": dict(attributes),
    },
  }
  try:
    array = ts.open(spec, create=True, delete_existing=True, context=_context(os.getpid())).result()
    array.write(values).result()
  except Exception as error:
    raise StoreError(
      f"{text(path)} cannot be written: {error}. Is the disk full, or the directory read-only?"
    ) from error


def open_array(path: Path) -> ts.TensorStore:
  """Opens the Zarr 3 array at `path` for reading.

  Missing chunks raise when read: TensorStore would fill them with zeros.
  """
  spec = {
    "driver": "zarr3",
    "kvstore": kvstore_spec(path),
    "fill_missing_data_reads": False,
    # Shards never change once written, so a cached index stays right.
    "recheck_cached_data": "open",
  }
  try:
    return ts.open(spec, open=True, read=True, context=_context(os.getpid())).result()
  except Exception as error:
    raise StoreError(f"{text(path)} is missing or is no Zarr array: {brief(error)}") from error


def attributes(array: ts.TensorStore) -> dict[str, Any]:
  """The JSON that `write_array` kept beside the array."""
  return array.spec().to_json()["metadata"].get("attributes", {})


def finish(path: Path, future: ts.Future) -> np.ndarray:
  """The array that a read of the array at `path` gives.

  Raises:
    StoreError: for a missing, truncated or altered chunk, with the path.
  """
  try:
    return future.result()
  except Exception as error:
    raise StoreError(
      f"{text(path)} is truncated, incomplete or damaged: {brief(error)}."
      " Restore this directory from a copy, or make the data set again"
    ) from error


def _kvstore(path: Path) -> ts.KvStore:
  return ts.KvStore.open(kvstore_spec(path), context=_context(os.getpid())).result()


@functools.lru_cache(maxsize=1)
def _context(process: int) -> ts.Context:
  """Thread pools and cache of one process; small, since hosts feed chips."""
  del process  # the key of the cache: a forked child gets pools of its own
  return ts.Context(
    {
      "cache_pool": {"total_bytes_limit": CACHE_BYTES},
      "data_copy_concurrency": {"limit": 2},
      "file_io_concurrency": {"limit": 4},
    }
  )


def brief(error: Exception) -> str:
  """The first line of TensorStore's message, without what it appends.

  It appends its specification, and orbax pages of it.
  """
  line = (str(error).splitlines() or [type(error).__name__])[0]
  for mark in (" [tensorstore_spec=", " See full TensorStore details"):
    line = line.split(mark)[0]
  return line.rstrip(".")
