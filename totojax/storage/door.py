"""The door of a work directory in a bucket: what a run will do there is tried.

Half a dozen requests, before anything is compiled. Whatever would stop the run
an hour later, such as a right to delete that is lacking, is one line now, with
the command that mends it.
"""

from __future__ import annotations

from collections.abc import Callable
import json
import os
import pathlib
import re
from typing import Any
import urllib.request
import uuid

from totojax.storage import objects, outages

PERMISSIONS = {
  "write": "storage.objects.create",
  "read": "storage.objects.get",
  "list": "storage.objects.list",
  "delete": "storage.objects.delete",
}
# All of these, and none that gives rights to others.
ROLE = "roles/storage.objectUser"
# URLs that are known to be all right.
_passed: set[str] = set()
# Google's refusals begin with the account.
_ACCOUNT = re.compile(r"([\w.+-]+@[\w.-]+) does not have (storage\.[\w.]+) access")
_LOGIN = "gcloud auth application-default login"
# How regions begin that are in a location of several: US, NAM4, EU, EUR4, ASIA1.
_CONTINENTS = {"US": "us-", "NAM": "us-", "EU": "europe-", "EUR": "europe-", "ASIA": "asia-"}


class Closed(objects.StoreError):
  """A work directory that a run could not use; says what to do."""


def check(folder: objects.Path, *, say: Callable[[str], None]) -> None:
  """Puts, reads, lists and deletes an object in a folder of gs://, once.

  Nothing is tried in other folders, nor below one that was tried before. An
  outage is waited for, as anywhere.

  Args:
    folder: of the run.
    say: tells the user what is no error, and worth a line.

  Raises:
    Closed: the bucket does not exist, or does not let this account in.
    outages.StorageAway: it does not answer.
  """
  name = objects.text(folder)
  if not name.startswith("gs://") or any(f"{name}/".startswith(f"{p}/") for p in _passed):
    return
  probe = f".door-{uuid.uuid4().hex}"
  path = f"{name}/{probe}"

  def put(limit_s=None):
    return objects.write_version(path, b"1", objects.ABSENT, limit_s=limit_s)

  try:
    _trying(name, "write", lambda: put(limit_s=0.0))
  except outages.StorageAway:
    _trying(name, "write", put)
  try:
    if _trying(name, "read", lambda: objects.read(path)) != b"1":
      raise Closed(f"{name} gives other bytes than were written; use another --workdir")
    if probe not in _trying(name, "list", lambda: objects.keys(name, probe)):
      raise Closed(_forbidden(name, "list", ""))  # where it is said in silence
    if objects.write_version(path, b"2", objects.ABSENT) is not None:
      say(f"{name}: its server ignores conditions of writes, so nothing keeps a second run out")
  finally:
    _trying(name, "delete", lambda: objects.delete(path))
  if line := _far(name):
    say(line)
  _passed.add(name)


def _trying(name: str, action: str, request: Callable[[], Any]) -> Any:
  """What a request gives; Closed, with a line for the user, where it is refused."""
  try:
    return request()
  except (objects.StoreError, outages.StorageAway) as error:
    cause = error.__cause__ or error
    # A token that has just been made is not too old: nobody is logged in.
    if isinstance(error, outages.StorageAway) and outages.status(cause) != 401:
      raise
    raise Closed(_reason(name, action, cause)) from cause


def _reason(name: str, action: str, error: BaseException) -> str:
  """The line for a refusal: what is wrong, and the command that mends it."""
  code, words = outages.status(error), str(error)
  bucket = _bucket(name)
  if code == 404:
    return (
      f"there is no bucket {bucket}; mend --workdir, or make it near the TPU:"
      f" gcloud storage buckets create {bucket} --location={_region() or 'REGION'}"
    )
  if "requester pays" in words:
    return (
      f"{bucket} lets its readers pay, which no work directory can; use another bucket, or turn"
      f" that off: gcloud storage buckets update {bucket} --no-requester-pays"
    )
  if "invalid_grant" in words or (code == 401 and "Anonymous" not in words):
    return f"the credentials for {name} have expired or were withdrawn; renew them: {_LOGIN}"
  if code == 401:
    return (
      f"there are no credentials for {name}; log in ({_LOGIN}), name a key file in"
      " GOOGLE_APPLICATION_CREDENTIALS, or make the TPU VM with a --service-account"
    )
  if code == 403 and re.search("SCOPE|scope", words):
    return (
      f"this machine may not {action} in {name} whatever its account may, by its access scopes;"
      " make the TPU VM with --scopes=cloud-platform"
    )
  if code == 403:
    return _forbidden(name, action, words)
  return f"{name} cannot be used: a run has to {action} there ({outages.brief(error)})"


def _forbidden(name: str, action: str, words: str) -> str:
  """The line for a right that is lacking; `words` of the server name the account."""
  account, permission = "", PERMISSIONS[action]
  if found := _ACCOUNT.search(words):
    account, permission = found.groups()
  kind = "serviceAccount" if not account or account.endswith("gserviceaccount.com") else "user"
  return (
    f"{account or 'this account'} may not {action} in {name} ({permission} is lacking): gcloud"
    f" storage buckets add-iam-policy-binding {_bucket(name)}"
    f" --member={kind}:{account or 'ACCOUNT'} --role={ROLE}"
  )


def _bucket(name: str) -> str:
  return "/".join(name.split("/")[:3])


def _far(name: str) -> str | None:
  """A line if the bucket is in another region than this machine, as far as known."""
  region = _region()
  if region is None:
    return None
  bucket = _bucket(name)
  server = os.environ.get("TENSORSTORE_GCS_HTTP_URL", "https://storage.googleapis.com")
  fields = "fields=location,customPlacementConfig"
  try:
    token = json.loads(_metadata("instance/service-accounts/default/token"))["access_token"]
    about = json.loads(
      _get(
        f"{server}/storage/v1/b/{bucket.removeprefix('gs://')}?{fields}",
        Authorization=f"Bearer {token}",
      )
    )
  except (OSError, ValueError, KeyError):  # a role need not allow it
    return None
  location = about.get("location", "").upper()
  # Of two regions that were chosen, or one.
  places = about.get("customPlacementConfig", {}).get("dataLocations", [location])
  continent = _CONTINENTS.get(location.rstrip("0123456789"))
  if region.upper() in places or (continent and region.startswith(continent)):
    return None
  return (
    f"{bucket} is in {location} and this machine in {region}: all reads and saves cross regions,"
    " slowly, and are billed; a bucket here: gcloud storage buckets create gs://NAME"
    f" --location={region}"
  )


def _region() -> str | None:
  """The region of the Google machine that this is, or None."""
  try:
    zone = _metadata("instance/zone").decode()  # projects/1/zones/us-central2-b
  except (OSError, ValueError):
    return None
  return zone.rpartition("/")[2].rpartition("-")[0] or None


def _metadata(name: str) -> bytes:
  """What the metadata server of Google's machines says; OSError elsewhere."""
  # The variables are those of Google's libraries and of TensorStore.
  host = os.environ.get("GCE_METADATA_HOST") or os.environ.get("GCE_METADATA_ROOT")
  if not host:
    # So that no other machine waits for a server that it has not.
    if "Google" not in pathlib.Path("/sys/class/dmi/id/product_name").read_text():
      raise OSError("no machine of Google's")
    host = "metadata.google.internal"
  return _get(f"http://{host}/computeMetadata/v1/{name}", **{"Metadata-Flavor": "Google"})


def _get(url: str, **headers: str) -> bytes:
  with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=2) as answer:
    return answer.read()
