"""The door of a work directory in a bucket: what a run will do there is tried.

Half a dozen requests, before anything is compiled. Whatever would stop the run
an hour later, such as a right to delete that is lacking, is one line now, with
the command that mends it.
"""

from collections.abc import Callable
import json
import os
import pathlib
import urllib.request
import uuid

from totojax.storage import buckets, objects, outages

# URLs that are known to be all right.
_passed: set[str] = set()
# How regions begin that are in a location of several: US, NAM4, EU, EUR4, ASIA1.
_CONTINENTS = {"US": "us-", "NAM": "us-", "EU": "europe-", "EUR": "europe-", "ASIA": "asia-"}


def check(folder: objects.Path, *, say: Callable[[str], None]) -> None:
  """Puts, reads, lists and deletes an object in a folder of gs://, once.

  Nothing is tried in other folders, nor below one that was tried before. An
  outage is waited for, as anywhere.

  Args:
    folder: of the run.
    say: tells the user what is no error, and worth a line.

  Raises:
    objects.StoreError: the bucket does not exist, or does not let this account
      in; with the command that mends it.
    outages.StorageAway: it does not answer.
  """
  name = objects.text(folder)
  if not name.startswith("gs://") or any(f"{name}/".startswith(f"{p}/") for p in _passed):
    return
  probe = f".door-{uuid.uuid4().hex}"
  path = f"{name}/{probe}"
  _put(path)
  try:
    if objects.read(path) != b"1":
      raise objects.StoreError(f"{name} gives other bytes than were written; use another --workdir")
    if probe not in objects.keys(name, probe):  # as `objects.keys` is refused
      silence = PermissionError("it lists nothing [http_response_code='403']")
      raise objects.StoreError(f"{name} {buckets.refusal(name, 'listed', silence)}")
    if objects.write_version(path, b"2", objects.ABSENT) is not None:
      say(f"{name}: its server ignores conditions of writes, so nothing keeps a second run out")
  finally:
    objects.delete(path)
  if line := _far(name):
    say(line)
  _passed.add(name)


def _put(path: str) -> None:
  """The first request of all, so that a refused login is one that was just made."""
  try:
    objects.write_version(path, b"1", objects.ABSENT, limit_s=0.0)
  except outages.StorageAway as error:
    # Later it may be too old, and a newer one is waited for.
    if error.__cause__ and outages.status(error.__cause__) == 401:
      line = buckets.refusal(path, "written", error.__cause__)
      raise objects.StoreError(f"{path} {line}") from None
    objects.write_version(path, b"1", objects.ABSENT)


def _far(name: str) -> str | None:
  """A line if the bucket is in another region than this machine, as far as known."""
  region = _region()
  if region is None:
    return None
  bucket = "/".join(name.split("/")[:3])
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
    if "Google" not in pathlib.Path("/sys/class/dmi/id/product_name").read_text(encoding="utf-8"):
      raise OSError("no machine of Google's")
    host = "metadata.google.internal"
  return _get(f"http://{host}/computeMetadata/v1/{name}", **{"Metadata-Flavor": "Google"})


def _get(url: str, **headers: str) -> bytes:
  with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=2) as answer:
    return answer.read()
