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
import pathlib
import re
from typing import Any, TYPE_CHECKING
import urllib.error
import urllib.request

import numpy as np

from totojax.storage import outages
from totojax.storage.outages import brief as brief

if TYPE_CHECKING:  # imported by what reads or writes: a report needs none of it
  import tensorstore as ts

Path = str | os.PathLike[str]
CACHE_BYTES = 64 * 2**20  # holds shard indices (16 bytes a record), not records
_RETRIES = {"max_retries": 2, "initial_delay": "250ms", "max_delay": "1s"}
# What is done to a file -> what is said where it fails, and the right it takes.
_FAILURES = {
  "read": "cannot be read: {cause}",
  "written": "cannot be written: {cause}",
  "listed": "cannot be listed: {cause}",
  "deleted": "cannot be deleted: {cause}",
}
_AMAZONS_RIGHTS = {
  "read": "GetObject",
  "written": "PutObject",
  "listed": "ListBucket",
  "deleted": "DeleteObject",
}
_RIGHTS = {"read": "get", "written": "create", "listed": "list", "deleted": "delete"}
# Says so on a machine of Amazon's.
_AMAZONS = pathlib.Path("/sys/class/dmi/id/sys_vendor")
# Google's refusals begin with the account.
_ACCOUNT = re.compile(r"([\w.+-]+@[\w.-]+) does not have (storage\.[\w.]+) access")
_ASIDE_S = 5.0  # that a question may take of which nothing depends but words
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
  import tensorstore as ts

  name = text(path)
  scheme, _, rest = name.partition("://")
  if driver := {"gs": "gcs", "s3": "s3"}.get(scheme):
    first, _, below = rest.partition("/")
    if not first:
      raise StoreError(f"{name} names no bucket; it has the form {scheme}://BUCKET/FOLDER")
    spec = {"driver": driver, "bucket": first, "path": below and below + "/"}
    if driver == "gcs" and (key := _key_file()) and not os.path.isfile(key):
      # TensorStore would go on as nobody.
      raise StoreError(
        f"GOOGLE_APPLICATION_CREDENTIALS is {key!r}, which is no file; mend or unset it"
      )
    return spec if driver == "gcs" else spec | _s3()
  if is_url(name):
    return ts.KvStore.Spec(name + "/").to_json()
  return {"driver": "file", "path": os.path.abspath(name) + "/"}


def _key_file() -> str | None:
  """The key file that TensorStore will read for gs://, where one is named."""
  if os.environ.get("GOOGLE_AUTH_TOKEN_FOR_TESTING"):
    return None
  return os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")


def bucket(path: Path) -> str:
  """Of a URL in an object store, the URL of its bucket."""
  return "/".join(text(path).split("/")[:3])


def _s3() -> dict[str, Any]:
  """What the usual variables say of s3:// URLs: server, region and account.

  AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL; AWS_REGION or AWS_DEFAULT_REGION. All
  other clients read them; TensorStore reads its credentials alone.
  """
  names = {
    "endpoint": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "aws_region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
  }
  values = {key: next(filter(None, map(os.environ.get, names[key])), None) for key in names}
  spec: dict[str, Any] = {key: value for key, value in values.items() if value}
  if not spec.get("endpoint", "http").startswith("http"):
    raise StoreError(
      f"{' or '.join(names['endpoint'])} is {spec['endpoint']!r}; it is a URL, as https://HOST:PORT"
    )
  if (account := _amazons_login()) != "default":
    spec["aws_credentials"] = {"type": account}
  return spec


def _amazons_login() -> str:
  """Where TensorStore is to look for an account of s3://, as it names the place.

  Left to itself it looks everywhere, and tells in pages, for each array that is
  opened, where there was none.
  """
  have = lambda *names: any(map(os.environ.get, names))
  if have("AWS_ACCESS_KEY_ID"):
    return "environment"
  home = pathlib.Path.home() / ".aws"
  named = "AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"
  tokens = "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"
  if have(*named, *tokens) or any((home / name).is_file() for name in ("config", "credentials")):
    return "default"
  if have("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"):
    return "ecs"
  if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
    return "anonymous"
  try:
    amazons = "Amazon" in _AMAZONS.read_text()
  except OSError:
    amazons = False
  return "imds" if amazons or have("AWS_EC2_METADATA_SERVICE_ENDPOINT") else "anonymous"


def check_bucket(path: Path) -> None:
  """Raises StoreError where what is not there is in no bucket.

  TensorStore is told so, and says of all that is read that it is not there. Of
  Google everybody is told, whoever may read.
  """
  there, code = bucket(path), 0
  if there.startswith("gs://"):
    server = os.environ.get("TENSORSTORE_GCS_HTTP_URL", "https://storage.googleapis.com")
    url = f"{server}/storage/v1/b/{there.removeprefix('gs://')}/o?maxResults=1"
    try:
      urllib.request.urlopen(url, timeout=_ASIDE_S).close()
    except urllib.error.HTTPError as error:
      code = error.code
    except OSError:  # it was worth a try
      pass
  elif there.startswith("s3://"):
    try:
      keys(there, ".listed")
    except StoreError as error:
      code = outages.status(error.__cause__ or error)
  if code == 404:
    raise StoreError(f"{text(path)} {_no_bucket(there)}")


def _no_bucket(there: str) -> str:
  if not there.startswith("gs://"):
    return f"is in no bucket: there is no {there}; make it, or mend the path"
  return (
    f"is in no bucket: there is no {there}; mend the path, or make it in the region of the TPU:"
    f" gcloud storage buckets create {there} --location=REGION"
  )


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
      answer = _ask(path, lambda part=part: folder.read(name, byte_range=part))
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
  _ask(path, lambda: folder.write(name, value), "written", limit_s=limit_s)


def exists(path: Path) -> bool:
  """Whether there is such a file; a folder of an object store is no thing."""
  folder, name = _split(path)
  # No byte of it: asks for its size and version alone.
  answer = _ask(path, lambda: folder.read(name, byte_range=slice(0, 0)))
  return answer.state == "value"


def delete(path: Path) -> None:
  """Deletes a file, if there is one."""
  folder, name = _split(path)
  _ask(path, lambda: folder.write(name, None), "deleted")


def keys(folder: Path, prefix: str = "") -> list[str]:
  """Names of all files below a folder, at any depth, relative to it, in order.

  Args:
    folder: a path or a URL.
    prefix: what the names begin with.
  """
  kvstore = _kvstore(folder)
  names = _ask(folder, lambda: kvstore.list(_range(prefix)), "listed")
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
  _ask(folder, lambda: kvstore.delete_range(_range("")), "deleted")


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
    path, lambda: folder.write(name, value, if_equal=version), "written", limit_s=limit_s
  )
  if stamp.generation:
    return stamp.generation
  # It has another version: also at the second try of a request that was
  # carried out and whose answer got lost.
  stored, now = read_version(path, limit_s=limit_s)
  return now if stored == value else None


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
  import tensorstore as ts

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
    path, lambda: ts.open(spec, create=True, delete_existing=True, context=context), "written"
  )
  _ask(path, lambda: array.write(values), "written")


def open_array(path: Path) -> ts.TensorStore:
  """Opens the Zarr 3 array at `path` for reading.

  Missing chunks raise when read: TensorStore would fill them with zeros.
  """
  import tensorstore as ts

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
    failure="is missing or is no Zarr array: {cause}",
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
    failure="is truncated, incomplete or damaged: {cause}. Restore this directory from a copy, or"
    " make the data set again",
  )


def _ask(
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
    failure = failure or _FAILURES[action]
    what = refusal(path, action, error) or failure.format(cause=brief(error))
    if action == "written" and not is_url(path):
      what += ". Is the disk full, or the directory read-only?"
    raise StoreError(f"{text(path)} {what}") from error


def refusal(path: Path, action: str, error: BaseException) -> str | None:
  """What is said of `path` where a bucket says no, with what mends it.

  Args:
    path: what was asked for.
    action: what was to be done, of `_FAILURES`.
    error: of TensorStore.

  Returns:
    The words after the path; None where the error is another.
  """
  code, words = outages.status(error), str(error)
  there = bucket(path)
  login = "gcloud auth application-default login"
  if not there.startswith("gs://"):
    nobody = _amazons_login() == "anonymous"
    whom = "without keys (AWS_ACCESS_KEY_ID, AWS_PROFILE)" if nobody else "by this account"
    reasons = {
      301: f"is in another region ({brief(error)}); set AWS_REGION to that of {there}",
      403: f"may not be {action} {whom} ({brief(error)}); it takes"
      f" s3:{_AMAZONS_RIGHTS[action]} on {there}",
      404: _no_bucket(there),
    }
    return reasons.get(code or 0)
  if code == 404:
    return _no_bucket(there)
  if "JSON credentials file" in words or "load the private key" in words:
    return (
      f"cannot be {action}: GOOGLE_APPLICATION_CREDENTIALS is {_key_file()!r}, no whole key"
      f" of a service account, a user or a federation ({brief(error)})"
    )
  if "requester pays" in words:
    return (
      "is in a bucket that lets its readers pay; use another, or turn that off:"
      f" gcloud storage buckets update {there} --no-requester-pays"
    )
  if "invalid_grant" in words or (code == 401 and "Anonymous" not in words):
    return f"cannot be {action}: the login has expired or was withdrawn; renew it: {login}"
  if code == 401:
    return (
      f"cannot be {action} without a login: {login}, or name a key file in"
      " GOOGLE_APPLICATION_CREDENTIALS, or make the TPU VM with a --service-account"
    )
  if code == 403 and re.search("scope", words, re.IGNORECASE):
    return (
      f"may not be {action} by this machine, whatever its account may, for its access scopes; make"
      " the TPU VM with --scopes=cloud-platform"
    )
  return _forbidden(there, action, error) if code == 403 else None


def _forbidden(there: str, action: str, error: BaseException) -> str:
  """The words for a right that is lacking, and the command that gives it."""
  account, reason = "", f"{brief(error)}; it takes storage.objects.{_RIGHTS[action]}"
  if match := _ACCOUNT.search(str(error)):
    account, right = match.groups()
    reason = f"{right} is lacking"
  kind = "user" if account and not account.endswith("gserviceaccount.com") else "serviceAccount"
  return (
    f"may not be {action} by {account or 'this account'} ({reason}): gcloud storage buckets"
    f" add-iam-policy-binding {there} --member={kind}:{account or 'ACCOUNT'}"
    " --role=roles/storage.objectUser"
  )


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
    return ts.KvStore.open(spec, context=_context(os.getpid())).result()
  except ValueError as error:
    raise StoreError(f"{text(path)} is no place for data: {brief(error)}") from error


@functools.lru_cache(maxsize=1)
def _context(process: int) -> ts.Context:
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
