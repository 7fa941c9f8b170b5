"""The only door to storage: bytes and arrays through TensorStore.

A path is a local directory or a URL (gs://, s3://, file://, memory://); nothing
above this file knows which. A failure comes out as a `StoreError` that begins
with the path, after other tries where it may pass (`outages`). What is read or
listed is what is there now: nothing of it is cached.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
import math
import os
import pathlib
from typing import Any, TYPE_CHECKING

import numpy as np

from totojax.storage import Damage, outages
from totojax.storage.outages import brief as brief

if TYPE_CHECKING:  # imported by what reads or writes: a report needs none of it
  import tensorstore as ts

Path = str | os.PathLike[str]
CACHE_BYTES = 64 * 2**20  # holds shard indices (16 bytes a record), not records
_DESCRIPTION_BYTES = 2**20  # of an array's zarr.json; ours have a thousand
_RETRIES = {"max_retries": 2, "initial_delay": "250ms", "max_delay": "1s"}
# What is done to a file -> what is said where it fails.
_FAILURES = {
  "read": "cannot be read: {cause}",
  "written": "cannot be written: {cause}",
  "listed": "cannot be listed: {cause}",
  "deleted": "cannot be deleted: {cause}",
}
ABSENT = b"\x02"  # the version of an object that does not exist
# A connection that brings nothing for so long is broken, and made anew; curl
# would wait for ever. (TensorStore reads these once, as it begins.)
os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", "30")
os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")


class StoreError(ValueError):
  """What is missing, damaged, refused or not as expected; begins with the path."""


class Damaged(Damage, StoreError):
  """Data that are not what was written."""


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
    first, _, below = rest.partition("/")
    if not first:
      raise StoreError(f"{name} names no bucket; it has the form {scheme}://BUCKET/FOLDER")
    spec = {"driver": driver, "bucket": first, "path": below and below + "/"}
    from totojax.storage import buckets  # which is above this

    return spec | buckets.login(driver)
  if is_url(name):
    import tensorstore as ts

    return ts.KvStore.Spec(name + "/").to_json()
  return {"driver": "file", "path": os.path.abspath(name) + "/"}


def bucket(path: Path) -> str:
  """Of a URL in an object store, the URL of its bucket."""
  return "/".join(text(path).split("/")[:3])


def read(path: Path) -> bytes | None:
  """The bytes of a file, or None where there is none.

  This, and all below, raises StoreError when the storage refuses, and
  `outages.StorageAway` when it does not answer.
  """
  return read_version(path)[0]


def read_part(path: Path, begin: int, end: int) -> bytes | None:
  """Bytes `begin` to `end` of a file, those there are; None: there is no file."""
  folder, name = _split(path)
  for part in (slice(begin, end), slice(begin, None)):
    try:
      answer = ask(path, lambda part=part: folder.read(name, byte_range=part))
      return answer.value if answer.state == "value" else None
    except StoreError as error:
      # It ends before; nobody says where.
      if not str(error.__cause__).startswith("OUT_OF_RANGE"):
        raise
  return b""


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
  ask(path, lambda: folder.write(name, value), "written", limit_s=limit_s)


def exists(path: Path) -> bool:
  """Whether there is such a file; a folder of an object store is no thing."""
  folder, name = _split(path)
  # No byte of it: asks for its size and version alone.
  answer = ask(path, lambda: folder.read(name, byte_range=slice(0, 0)))
  return answer.state == "value"


def delete(path: Path) -> None:
  """Deletes a file, if there is one."""
  folder, name = _split(path)
  ask(path, lambda: folder.write(name, None), "deleted")


def keys(folder: Path, prefix: str = "") -> list[str]:
  """Names of all files below a folder, at any depth, relative to it, in order.

  Args:
    folder: a path or a URL.
    prefix: what the names begin with.
  """
  kvstore = _kvstore(folder)
  names = ask(folder, lambda: kvstore.list(_range(prefix)), "listed")
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
  ask(folder, lambda: kvstore.delete_range(_range("")), "deleted")


def read_version(path: Path, *, limit_s: float | None = None) -> tuple[bytes | None, bytes]:
  """(bytes of a file or None, its version) for `write_version`."""
  folder, name = _split(path)
  result = ask(path, lambda: folder.read(name), limit_s=limit_s)
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
  stamp = ask(path, lambda: folder.write(name, value, if_equal=version), "written", limit_s=limit_s)
  if stamp.generation:
    return stamp.generation
  # It has another version: also at the second try of a request that was
  # carried out and whose answer got lost.
  stored, now = read_version(path, limit_s=limit_s)
  return now if stored == value else None


def open_array(path: Path) -> ts.TensorStore:
  """Opens the Zarr 3 array at `path` for reading.

  Missing chunks raise when read: TensorStore would fill them with zeros. It
  gets the array's description by way of `outside`, as its own reader of JSON
  dies of what is nested too deep, and files that are such.

  Raises:
    StoreError: it is missing, or no array.
  """
  import tensorstore as ts

  from totojax.storage import outside  # which is above this

  failure = "is missing or is no Zarr array: {cause}"
  try:
    metadata = outside.read_json(f"{text(path)}/zarr.json", most_bytes=_DESCRIPTION_BYTES)
    most_bytes = _most_bytes(metadata)
    for file in () if is_url(path) else pathlib.Path(path).glob("c/**/*"):
      if not file.is_dir():  # of a pipe it would wait for a writer, of a giant abort
        outside.open_plain(file, most_bytes=most_bytes).close()
  except (OSError, outside.Damaged) as error:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", error)
    kind = Damaged if isinstance(error, outside.Damaged) else StoreError
    raise kind(f"{text(path)} {failure.format(cause=reason)}") from error
  spec = {
    "driver": "zarr3",
    "kvstore": kvstore_spec(path),
    "metadata": metadata,
    "fill_missing_data_reads": False,
    # Shards never change once written, so a cached index stays right.
    "recheck_cached_data": "open",
  }
  return ask(
    path,
    lambda: ts.open(spec, open=True, read=True, assume_metadata=True, context=context(os.getpid())),
    failure=failure,
  )


def _most_bytes(metadata: Any) -> int:
  """Of the file of an array with this description; records have a checksum and a place."""
  shape = metadata.get("shape") if isinstance(metadata, dict) else None
  if not isinstance(shape, list) or not all(type(side) is int for side in shape):
    return 0  # it is none
  return 8 * math.prod(shape) + 32 * max(shape, default=1) + 2**12


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
    Damaged: for a missing, truncated or altered chunk, with the path.
  """
  asked = iter([future])
  return ask(
    path,
    lambda: next(asked, None) or again(),
    failure="is truncated, incomplete or damaged: {cause}. Restore this directory from a copy, or"
    " make the data set again",
  )


def ask(
  path: Path,
  ask: Callable[[], ts.Future],
  action: str = "read",
  *,
  failure: str = "",
  limit_s: float | None = None,
) -> Any:
  """What a request gives; on an object store after more tries, if need be.

  Args:
    path: what it is about.
    ask: makes it.
    action: what is done there, of `_FAILURES`.
    failure: in place of what those say.
    limit_s: as `write` has it.
  """
  try:
    if not is_url(path):
      return ask().result()
    return outages.answer(text(path), ask, limit_s=limit_s)
  except outages.StorageAway:
    raise
  except Exception as error:
    refused, failure = "", failure or _FAILURES[action]
    if is_url(path):
      from totojax.storage import buckets

      refused = buckets.refusal(path, action, error)
    what = refused or failure.format(cause=brief(error))
    kind = Damaged if "damaged" in failure and not refused else StoreError
    raise kind(f"{text(path)} {what}") from error


def _split(path: Path) -> tuple[ts.KvStore, str]:
  """(the folder of a file, its name there)."""
  folder, _, name = text(path if is_url(path) else os.path.abspath(path)).rpartition("/")
  return _kvstore(folder), name


def _range(prefix: str) -> ts.KvStore.KeyRange:
  """The names that begin with `prefix`."""
  import tensorstore as ts

  begin = prefix.encode()
  return ts.KvStore.KeyRange(begin, begin[:-1] + bytes([begin[-1] + 1]) if begin else b"")


def _kvstore(path: Path) -> ts.KvStore:
  import tensorstore as ts

  spec = kvstore_spec(path)
  try:  # asks no server
    return ts.KvStore.open(spec, context=context(os.getpid())).result()
  except ValueError as error:
    raise StoreError(f"{text(path)} is no place for data: {brief(error)}") from error


@functools.lru_cache(maxsize=1)
def context(process: int) -> ts.Context:
  """Thread pools and cache of one process; small, since hosts feed chips."""
  import tensorstore as ts

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
