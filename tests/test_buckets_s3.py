"""s3://, for data alone: whose server, region and account; what is said of each."""

import time

import pytest
import runs
import stores
import tensorstore as ts
import token_sets

from totojax.data.store import manifests
from totojax.rundir import directory
from totojax.storage import buckets, objects, outages, reading

KEY = """<?xml version="1.0" encoding="UTF-8"?><Error><Code>InvalidAccessKeyId</Code>
<Message>The key does not exist.</Message></Error>"""
REGION = KEY.replace("InvalidAccessKeyId", "PermanentRedirect").replace("key", "endpoint")


@pytest.mark.parametrize("name", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_the_usual_variables(s3_bucket, monkeypatch, capfd, name):
  # Of the region tells the signature, of the endpoint that it was asked.
  monkeypatch.delenv("AWS_REGION")
  monkeypatch.setenv(name, "eu-north-1")
  objects.write(s3_bucket / "a", b"1")
  assert {"/eu-north-1/s3/" in request.account for request in s3_bucket.proxy.log} == {True}
  assert {"Credential=key/" in request.account for request in s3_bucket.proxy.log} == {True}
  asked = len(s3_bucket.proxy.log)
  monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_bucket.environment["AWS_ENDPOINT_URL"])
  monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
  assert objects.read(s3_bucket / "a") == b"1" and len(s3_bucket.proxy.log) > asked
  assert capfd.readouterr() == ("", "")  # of files in ~/.aws that are not there


@pytest.mark.parametrize(
  "status, message, told",
  [
    (403, KEY, "{folder} may not be .*The key does not exist.* takes s3:[A-Z].* on s3://bucket$"),
    (301, REGION, "{folder} is in another region .*set AWS_REGION to that of s3://bucket"),
    (400, KEY, "{folder} cannot be .*: 400 .*The key does not exist"),
  ],
)
def test_refusals_are_a_line(s3_bucket, status, message, told):
  told = told.replace("{folder}", f"^{s3_bucket.url}[/a-z.]*")
  with s3_bucket.proxy.rule(".", status=status, message=message):
    for ask in (manifests.existing, objects.keys, lambda folder: token_sets.write(folder, 9)):
      with pytest.raises(
        objects.StoreError, match="^" + told.replace(" ", "[/a-z.]* ", 1)
      ) as caught:
        ask(s3_bucket.url)
      assert "\n" not in str(caught.value) and "x-amzn" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_bucket_that_is_not_there(bucket, s3_bucket, scheme):
  there = {"gs": bucket, "s3": s3_bucket}[scheme]
  asks = manifests.existing, directory.read_config, reading.is_folder, reading.load
  for ask in (*asks, lambda path: objects.write(path, b"1")):
    with pytest.raises(objects.StoreError, match=f"there is no {scheme}://none; .*make it"):
      ask(f"{scheme}://none/a")
  # A folder that is not there, of a bucket that is, says nothing of it: also
  # where who asks may not list it, or nobody knows.
  for rule in ({"status": 401}, {"status": 403}, {"status": 503}, {"reset": True}):
    with there.proxy.rule(r"GET .*maxResults=1", **rule):
      with pytest.raises(objects.StoreError, match="no data set there. Check the path"):
        manifests.existing(there / "a")
  with pytest.raises(FileNotFoundError, match="no run directory|is not a run directory"):
    directory.read_config(there / "a")


def test_nonsense_is_told_without_a_request(s3_bucket, monkeypatch):
  for scheme in ("gs", "s3"):
    with pytest.raises(objects.StoreError, match=f"^{scheme}:///a names no bucket"):
      objects.read(f"{scheme}:///a/b")
    with pytest.raises(objects.StoreError, match=f"^{scheme}://A /a is no place for data"):
      objects.read(f"{scheme}://A /a/b")
  monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9")
  with pytest.raises(objects.StoreError, match="AWS_ENDPOINT_URL is '127.0.0.1:9'; it is a URL"):
    objects.read(s3_bucket / "a")
  assert s3_bucket.proxy.log == []


def test_without_credentials(s3_bucket, monkeypatch, tmp_path, capfd):
  objects.write(s3_bucket / "a", b"1")
  s3_bucket.proxy.log.clear()
  for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
    monkeypatch.delenv(name)
  monkeypatch.setenv("HOME", str(tmp_path))
  with pytest.raises(
    objects.StoreError, match="may not be read without keys .AWS_ACC.*s3:GetObject"
  ):
    objects.read(s3_bucket / "a")
  assert {request.account for request in s3_bucket.proxy.log} == {""}
  # Nothing of all the places where TensorStore would look for one.
  assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
  "variables, kind",
  [
    ({}, "anonymous"),
    ({"AWS_ACCESS_KEY_ID": "a", "AWS_PROFILE": "b"}, "environment"),
    ({"AWS_PROFILE": "b"}, "default"),
    ({"AWS_WEB_IDENTITY_TOKEN_FILE": "/token"}, "default"),
    ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/"}, "ecs"),
    ({"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:9"}, "imds"),
  ],
)
def test_where_an_account_is_looked_for(s3_bucket, monkeypatch, tmp_path, variables, kind):
  monkeypatch.setattr(buckets.pathlib.Path, "home", lambda: tmp_path)
  monkeypatch.setattr(buckets, "_AMAZONS", tmp_path / "none")  # also on a machine of Amazon's
  for name in s3_bucket.environment.keys() - {"AWS_ENDPOINT_URL"}:
    monkeypatch.delenv(name)
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  spec = objects.kvstore_spec(s3_bucket.url)
  assert spec.get("aws_credentials", {"type": "default"}) == {"type": kind}
  ts.KvStore.Spec(spec)
  if not variables:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").touch()
    assert "aws_credentials" not in objects.kvstore_spec(s3_bucket.url)
    (tmp_path / ".aws/credentials").unlink()
    (tmp_path / "none").write_text("Amazon EC2\n")
    assert objects.kvstore_spec(s3_bucket.url)["aws_credentials"] == {"type": "imds"}


def test_a_server_that_is_not_there(s3_bucket, monkeypatch):
  monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
  monkeypatch.setattr(outages, "patience_s", lambda: 0.0)
  begun = time.monotonic()
  with pytest.raises(outages.StorageAway, match=f"{s3_bucket.url}/a did not .*127.0.0.1 port 9"):
    objects.read(s3_bucket / "a")
  assert time.monotonic() - begun < 10


@pytest.mark.slow
def test_training_reads_stores_there(s3_bucket, tmp_path):
  pairs = [
    tuple(
      stores.write(f"{folder}/{name}", records=records, seed=seed, prefix=name)
      for name, records, seed in (("train", 400, 1), ("val", 80, 2))
    )
    for folder in (tmp_path, s3_bucket.url)
  ]
  for pair, workdir in zip(pairs, ("local", "s3")):
    said = runs.finish(runs.start(runs.smoke(pair, tmp_path / workdir)))
  assert "ERROR" not in said and ".aws" not in said
  assert runs.metrics(tmp_path / "s3") == runs.metrics(tmp_path / "local")
  runs.assert_same(*(runs.checkpoint(tmp_path / workdir, 20) for workdir in ("s3", "local")))
