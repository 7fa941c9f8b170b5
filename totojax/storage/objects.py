"""The only door to storage: bytes and arrays through TensorStore.

A path is a local directory or a URL (gs://, s3://, file://, memory://); nothing
above this file knows which. A failure comes out as a `StoreError` that begins
with the path, after other tries where it may pass (`outages`). What is read or
listed is what is there now: nothing of it is cached.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import functools
import os
from typing import Any

import numpy as np
import tensorstore as ts

from totojax.storage import outages
from totojax.storage.outages import brief as brief

Path = str | os.PathLike[str]
CACHE_BYTES = 64 * 2**20  # holds shard indices (16 bytes a record), not records
_RETRIES = {"max_retries": 2, "initial_delay": "250ms", "max_delay": "1s"}
_UNWRITTEN = "cannot be written: {cause}{disk}"
_DISK = ". Is the disk full, or the directory read-only?"
ABSENT = b"\x02"  # the version of an object that does not exist
# A connection that brings nothing for so long is broken, and made anew; curl
# would wait for ever. (TensorStore reads these once, as it begins.)
os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", "30")
os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")


class StoreError(ValueError):
  """What is missing, damaged, refused or not as expected; begins with the path."""


def text(path: Path) -> str:
  """`path` as text without a trailing slash, the way errors print it."""
  return os.fspath(path).rstrip("/")


def is_url(path: Path) -> bool:
  """Whether `path` is in an object store, say, and no local one."""
  return "://" in os.fspath(path)


def kvstore_spec(path: Path) -> dict[str, Any]:
  """TensorStore's description of the directory `path`.

  A local path, or a name in a bucket, may hold characters that a URL may not;
  URLs of other kinds are parsed by TensorStore itself.
  """
  name = text(path)
  scheme, _, rest = name.partition("://")
  if driver := {"gs": "gcs", "s3": "s3"}.get(scheme):
    bucket, _, below = rest.partition("/")
    spec = {"driver": driver, "bucket": bucket, "path": below and below + "/"}
    return spec if driver == "gcs" else spec | _s3()
  if is_url(name):
    return ts.KvStore.Spec(name + "/").to_json()
  return {"driver": "file", "path": os.path.abspath(name) + "/"}


def _s3() -> dict[str, Any]:
  """What the usual variables say of s3:// URLs: their server and region.

  AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL; AWS_REGION or AWS_DEFAULT_REGION. All
  other clients read them; TensorStore reads its credentials alone.
  """
  names = {
    "endpoint": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "aws_region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
  }
  found = {key: next(filter(None, map(os.environ.get, names[key])), None) for key in names}
  return {key: value for key, value in found.items() if value}


def read(path: Path) -> bytes | None:
  """The bytes of a file, or None where there is none.

  This, and all below, raises StoreError when the storage refuses, and
  `outages.StorageAway` when it does not answer.
  """
  return read_version(path)[0]


def write(path: Path, value: bytes, *, limit_s: float | None = None) -> None:
  """Replaces a file as a whole: readers see the old one or the new one.

  (A local file is written beside and renamed, an object store gets one put.)

  Args:
    path: of the file; its folder is made if need be.
    value: what it is to hold.
    limit_s: seconds in which to try again while storage is away; None for
      `outages.patience_s`.
  """
  folder, name = _split(path)
  _ask(path, lambda: folder.write(name, value), _UNWRITTEN, limit_s=limit_s)


def exists(path: Path) -> bool:
  """Whether there is such a file; a folder of an object store is no thing."""
  folder, name = _split(path)
  # No byte of it: asks for its size and version alone.
  found = _ask(path, lambda: folder.read(name, byte_range=slice(0, 0)))
  return found.state == "value"


def delete(path: Path) -> None:
  """Deletes a file, if there is one."""
  folder, name = _split(path)
  _ask(path, lambda: folder.write(name, None), "cannot be deleted: {cause}")


def keys(folder: Path, prefix: str = "") -> list[str]:
  """Names of all files below a folder, at any depth, relative to it, in order.

  Args:
    folder: a path or a URL.
    prefix: what the names begin with.
  """
  kvstore = _kvstore(folder)
  names = _ask(folder, lambda: kvstore.list(_range(prefix)), "cannot be listed: {cause}")
  if not names and is_url(folder):
    # TensorStore takes a refused listing (403, 401) for an empty one.
    exists(f"{text(folder)}/{prefix or '.listed'}")
  return sorted(name.decode() for name in names)


def children(folder: Path) -> list[str]:
  """Names directly below a folder, in order; those of folders end with "/"."""
  names = (name.partition("/") for name in keys(folder))
  return sorted({first + slash for first, slash, _ in names if first})


def delete_folder(folder: Path) -> None:
  """Deletes all files below a folder."""
  kvstore = _kvstore(folder)
  _ask(folder, lambda: kvstore.delete_range(_range("")), "cannot be deleted: {cause}")


def read_version(path: Path, *, limit_s: float | None = None) -> tuple[bytes | None, bytes]:
  """(bytes of a file or None, its version) for `write_version`."""
  folder, name = _split(path)
  result = _ask(path, lambda: folder.read(name), limit_s=limit_s)
  return (result.value if result.state == "value" else None), result.stamp.generation


def write_version(
  path: Path, value: bytes | None, version: bytes, *, limit_s: float | None = None
) -> bytes | None:
  """Replaces a file if it has not changed since its version was read.

  Args:
    path: of the file.
    value: what no other process writes, such as a token of its own, so that a
      write whose answer was lost is told from another's; None deletes the file.
    version: which is replaced: of `read_version`, or `ABSENT`.
    limit_s: as `write` has it.

  Returns:
    The new version; None where another process was first.
  """
  folder, name = _split(path)
  stamp = _ask(
    path, lambda: folder.write(name, value, if_equal=version), _UNWRITTEN, limit_s=limit_s
  )
  if stamp.generation:
    return stamp.generation
  # It has another version: also at the second try of a request that was
  # carried out and whose answer got lost.
  found, now = read_version(path, limit_s=limit_s)
  return now if found == value else None


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
  context = _context(os.getpid())
  array = _ask(
    path, lambda: ts.open(spec, create=True, delete_existing=True, context=context), _UNWRITTEN
  )
  _ask(path, lambda: array.write(values), _UNWRITTEN)


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
  return _ask(
    path,
    lambda: ts.open(spec, open=True, read=True, context=_context(os.getpid())),
    "is missing or is no Zarr array: {cause}",
  )


def attributes(array: ts.TensorStore) -> dict[str, Any]:
  """The JSON that `write_array` kept beside the array."""
  return array.spec().to_json()["metadata"].get("attributes", {})


def finish(path: Path, future: ts.Future, again: Callable[[], ts.Future]) -> np.ndarray:
  """The array that a read of the array at `path` gives.

  Args:
    path: of the array.
    future: the read.
    again: makes it once more, where storage was away.

  Raises:
    StoreError: for a missing, truncated or altered chunk, with the path.
  """
  asked = iter([future])
  return _ask(
    path,
    lambda: next(asked, None) or again(),
    "is truncated, incomplete or damaged: {cause}. Restore this directory from a copy, or make"
    " the data set again",
  )


def _ask(
  path: Path,
  ask: Callable[[], ts.Future],
  failure: str = "cannot be read: {cause}",
  *,
  limit_s: float | None = None,
) -> Any:
  """What a request gives; on an object store after more tries, if need be.

  Args:
    path: what it is about.
    ask: makes it.
    failure: what is said of `path` where it fails for good.
    limit_s: as `write` has it.
  """
  try:
    if not is_url(path):
      return ask().result()
    return outages.answer(text(path), ask, limit_s=limit_s)
  except outages.StorageAway:
    raise
  except Exception as error:
    what = _refusal(path, error) or failure.format(
      cause=brief(error), disk="" if is_url(path) else _DISK
    )
    raise StoreError(f"{text(path)} {what}") from error


def _refusal(path: Path, error: Exception) -> str | None:
  """What is said where a bucket says no; None where it says other things."""
  bucket = "/".join(text(path).split("/")[:3])
  code = outages.status(error)
  if code == 403:
    return (
      f"is not allowed to this account ({brief(error)}); give it the role Storage Object User on"
      f" {bucket}, or mend the path"
    )
  return (
    f"cannot be written: there is no bucket {bucket}; make it, or mend the path"
    if code == 404
    else None
  )


def _split(path: Path) -> tuple[ts.KvStore, str]:
  """(the folder of a file, its name there)."""
  folder, _, name = text(path if is_url(path) else os.path.abspath(path)).rpartition("/")
  return _kvstore(folder), name


def _range(prefix: str) -> ts.KvStore.KeyRange:
  """The names that begin with `prefix`."""
  begin = prefix.encode()
  return ts.KvStore.KeyRange(begin, begin[:-1] + bytes([begin[-1] + 1]) if begin else b"")


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
      # Few and quick: `outages` makes the others, and says so.
      "gcs_request_retries": _RETRIES,
      "s3_request_retries": _RETRIES,
    }
  )
