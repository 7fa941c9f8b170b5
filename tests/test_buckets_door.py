"""What is tried in a work directory of a bucket before a run begins."""

import json
import re

import pytest
import web

from totojax import jobs
from totojax.storage import buckets, door, objects, outages

ACCOUNT = "tpu@project.iam.gserviceaccount.com"
COMMAND = (
  "gcloud storage buckets add-iam-policy-binding gs://bucket"
  " --member=serviceAccount:{} --role=roles/storage.objectUser"
)
REQUESTS = {
  "written": ("POST .*upload", "storage.objects.create"),
  "read": ("GET .*alt=media", "storage.objects.get"),
  "listed": ("GET .*/o\\?", "storage.objects.list"),
  "deleted": ("DELETE", "storage.objects.delete"),
}


def entered(url: str) -> list[str]:
  """What the door says of a folder that it lets in."""
  said = []
  door.check(url, say=said.append)
  return said


def refusal(url: str) -> str:
  """The line that it refuses it with."""
  with pytest.raises(objects.StoreError) as caught:
    entered(url)
  assert "\n" not in str(caught.value)
  return str(caught.value)


def test_a_good_folder_is_tried_once_and_left_as_it_was(bucket):
  objects.write(bucket / "old", b"1")
  bucket.proxy.log.clear()
  assert entered(bucket.url) == []
  assert len(bucket.proxy.log) == 6 and bucket.objects() == {"old": b"1"}
  for _, (request, _) in REQUESTS.items():
    assert bucket.proxy.lines(request), request
  bucket.proxy.log.clear()
  for url in (bucket.url, bucket.url + "/", bucket / "stage"):
    assert entered(url) == []
  assert bucket.proxy.log == []
  entered(bucket.url + "x")  # no part of it
  assert bucket.proxy.log


def test_folders_that_are_no_bucket_are_not_tried(tmp_path):
  for folder in (tmp_path / "run", "memory://run"):
    assert entered(folder) == []
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("action", REQUESTS)
def test_a_right_that_is_lacking_is_named(bucket, action):
  request, permission = REQUESTS[action]
  with bucket.proxy.rule(request, status=403, message="Access denied.") as rule:
    line = refusal(bucket.url)
  assert rule.hits and line.startswith(bucket.url)
  assert re.search(f" may not be {action} by this account .*{permission}", line)
  assert line.endswith(COMMAND.format("ACCOUNT"))
  # The server says who and what; but it says nothing that TensorStore hears of a listing.
  words = f"{ACCOUNT} does not have {permission} access to the Google Cloud Storage object."
  with bucket.proxy.rule(request, status=403, message=words):
    line = refusal(bucket.url)
  if action != "listed":
    assert f" may not be {action} by {ACCOUNT} ({permission} is lacking)" in line
    assert line.endswith(COMMAND.format(ACCOUNT))
  assert entered(bucket.url) == []  # a refusal is not kept in mind
  left = bucket.objects()
  assert len(left) == (2 if action == "deleted" else 0)


def test_people_are_no_service_accounts(bucket):
  words = "ann@example.org does not have storage.objects.create access to it."
  with bucket.proxy.rule("POST", status=403, message=words):
    assert "--member=user:ann@example.org --role" in refusal(bucket.url)


@pytest.mark.parametrize(
  "status, message, words",
  [
    (401, "Anonymous caller does not have storage.objects.create access", "without a login: gcl"),
    (401, "Invalid Credentials", "has expired.*: gcloud auth application-default login"),
    (400, "Bucket is a requester pays bucket but no user project provided.", "--no-requester-pays"),
    (403, "Provided scope(s) are not authorized", "access scopes.*--scopes=cloud-platform"),
    (400, "Something else", "cannot be written: 400 "),
  ],
)
def test_other_refusals_say_what_to_do(bucket, status, message, words):
  with bucket.proxy.rule("", status=status, message=message):
    line = refusal(bucket.url)
  assert line.startswith(bucket.url)
  assert re.search(words, line), line


def test_a_key_file_that_is_none(bucket, monkeypatch, tmp_path):
  key = tmp_path / "key.json"
  monkeypatch.delenv("GOOGLE_AUTH_TOKEN_FOR_TESTING")
  monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
  with pytest.raises(objects.StoreError, match=f"CREDENTIALS is '{key}', which is no file"):
    door.check(bucket.url, say=print)
  # As TensorStore says it, which reads a key once in a process.
  for words in (
    f"Unexpected content of the JSON credentials file: {key}",
    "Could not load the private key",
  ):
    line = buckets.refusal("gs://bucket/run", "read", ValueError(f"UNKNOWN: {words}"))
    assert f"CREDENTIALS is '{key}', no whole key" in line and words in line
  monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "abc")  # which it takes first
  assert entered(bucket.url) == []


def test_a_login_that_was_withdrawn():
  """As TensorStore says it where a token cannot be renewed."""
  error = ValueError(
    "Bad Request [http_response_code='400'] [http_response_body='{\"error\": \"invalid_grant\"}']"
  )
  assert "login has expired" in str(buckets.refusal("gs://bucket/run", "read", error))


def test_a_bucket_that_does_not_exist(bucket):
  line = refusal("gs://nobucket/run")
  assert "there is no gs://nobucket;" in line
  assert line.endswith("gcloud storage buckets create gs://nobucket --location=REGION")


def test_outages_are_waited_for_and_are_no_refusal(bucket, monkeypatch):
  monkeypatch.setattr(objects, "_RETRIES", {"max_retries": 1, "initial_delay": "10ms"})
  objects.context.cache_clear()
  with bucket.proxy.rule("", status=503, times=3) as rule:  # more than TensorStore tries
    assert entered(bucket.url) == []
  assert rule.hits == 3
  monkeypatch.setenv("TOTOJAX_STORAGE_TIMEOUT_S", "0")
  with bucket.proxy.rule("", status=503), pytest.raises(outages.StorageAway, match=bucket.url):
    entered(bucket.url + "-other")
  objects.context.cache_clear()


def test_a_server_that_ignores_conditions_is_a_warning(bucket, monkeypatch):
  plain = objects.write_version

  def ignored(path, value, version, **more):
    return plain(path, value, objects.read_version(path)[1], **more)

  monkeypatch.setattr(objects, "write_version", ignored)
  (line,) = entered(bucket.url)
  assert "nothing keeps a second run out" in line and bucket.objects() == {}


@pytest.mark.parametrize(
  "zone, near", [("us-central1-a", True), ("us-central2-b", False), ("europe-west4-a", False)]
)
def test_another_region_is_a_warning(bucket, monkeypatch, zone, near):
  """The emulator's bucket is in US-CENTRAL1."""
  path = "/computeMetadata/v1/instance"
  files = {
    f"{path}/zone": f"projects/1/zones/{zone}".encode(),
    f"{path}/service-accounts/default/token": json.dumps({"access_token": "abc"}).encode(),
  }
  with web.serving(files) as site:
    monkeypatch.setenv("GCE_METADATA_HOST", site.url.removeprefix("http://").rstrip("/"))
    said = entered(bucket.url)
  if near:
    assert said == []
  else:
    (line,) = said
    assert "gs://bucket is in US-CENTRAL1 and this machine in " + zone[:-2] in line
    assert line.endswith("--location=" + zone[:-2])


@pytest.mark.parametrize(
  "about, region, near",
  [
    ({"location": "US"}, "us-east5", True),
    ({"location": "US"}, "europe-west4", False),
    ({"location": "EUR4"}, "europe-west4", True),
    (
      {"location": "US", "customPlacementConfig": {"dataLocations": ["US-EAST1", "US-EAST4"]}},
      "us-east4",
      True,
    ),
    ({"location": "ASIA-EAST1"}, "asia-east1", True),
    ({"location": "ASIA-EAST1"}, "asia-east2", False),
  ],
)
def test_locations_of_several_regions(monkeypatch, about, region, near):
  monkeypatch.setattr(door, "_region", lambda: region)
  monkeypatch.setattr(door, "_metadata", lambda name: b'{"access_token": "abc"}')
  monkeypatch.setattr(door, "_get", lambda url, **headers: json.dumps(about))
  assert (door._far("gs://bucket/run") is None) == near


def test_a_job_does_not_begin_behind_a_closed_door(bucket):
  """Before its config is read: that one is wrong would be said later."""
  with pytest.raises(objects.StoreError, match="there is no gs://nobucket"):
    jobs.run({"run": "report", "nonsense": 1}, "gs://nobucket/run", lambda step: False)
  with pytest.raises(ValueError, match="nonsense"):
    jobs.run({"run": "report", "nonsense": 1}, bucket.url, lambda step: False)
