"""The client of object stores: there is one, whose credentials are the usual ones."""

import http.server
import json
import os
import subprocess
import sys
import threading
import time

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
import pytest
import runs

from totojax.rundir import directory
from totojax.storage import objects


def child(words, *paths, code=0, **environment):
  """(what a child printed, its seconds); `paths` go first on its PYTHONPATH."""
  path = os.pathsep.join([*map(str, paths), str(runs.ROOT)])
  begun = time.monotonic()
  done = subprocess.run(
    words,
    env={**runs.environment(), "PYTHONPATH": path, **environment},
    cwd=runs.ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    timeout=200,
  )
  assert done.returncode == code, done.stdout
  return done.stdout, time.monotonic() - begun


@pytest.mark.parametrize("workdir", ["s3://bucket/run", "https://bucket/run", "file:///run"])
def test_a_work_directory_that_no_client_reaches(workdir):
  said, seconds = child(runs.command("configs/smoke.py", workdir), code=1)
  assert len(said.splitlines()) == 1
  assert said.startswith(f"totojax: {workdir} can be no run directory")
  assert "s3:// is for data alone" in said and seconds < 10
  with pytest.raises(ValueError, match=f"^{workdir} can be no run directory"):
    directory.read_config(workdir)  # nor could a run be read there


TENSORFLOW = """
from etils import epath
{ours}
path = epath.Path({url!r})
path.write_text("1")
print(path.read_text(), [p.name for p in path.parent.iterdir()])
"""


def test_an_installed_tensorflow_changes_nothing(bucket, tmp_path):
  (tmp_path / "tensorflow").mkdir()
  (tmp_path / "tensorflow/__init__.py").write_text("raise OSError('TensorFlow is imported')")
  words = [sys.executable, "-c"]
  ours = TENSORFLOW.format(url=bucket / "a", ours="from totojax.storage import paths")
  assert child([*words, ours], tmp_path)[0].splitlines()[-1] == "1 ['a']"
  # Negative control: what etils would do.
  said, _ = child([*words, TENSORFLOW.format(url=bucket / "a", ours="")], tmp_path, code=1)
  assert "TensorFlow is imported" in said


READ = """
import sys
import tensorstore as ts
from totojax.storage import objects
once = ts.Context({"gcs_request_retries": {"max_retries": 1}})
kvstore = ts.KvStore.open(objects.kvstore_spec(sys.argv[1]), context=once).result()
assert kvstore.read("a").result().value == b"1"
"""


@pytest.fixture(name="account")
def _account(bucket, tmp_path, monkeypatch):
  """Reads in a child that has no credentials but those of the environment.

  The fixture is script, environment -> (Authorization headers, what was said).
  """
  objects.write(bucket / "a", b"1")
  for name in ("GOOGLE_AUTH_TOKEN_FOR_TESTING", "NO_GCE_CHECK"):
    monkeypatch.delenv(name)
  nobody = {
    "HOME": str(tmp_path),
    "CLOUDSDK_CONFIG": str(tmp_path / "none"),
    "GCE_METADATA_ROOT": "127.0.0.1:9",
    "GCE_METADATA_IP": "127.0.0.1:9",
    "NO_GCE_CHECK": "true",
    "https_proxy": "http://127.0.0.1:9",  # nothing of a test leaves the machine
  }

  def read(script, *, code=0, **environment):
    first = len(bucket.proxy.log)
    words = [sys.executable, "-c", script, bucket.url]
    said, _ = child(words, code=code, **{**nobody, **environment})
    return {request.account for request in bucket.proxy.log[first:]}, said

  return read


class _Machine(http.server.BaseHTTPRequestHandler):
  """The metadata server of a machine of Google's, as a TPU VM."""

  def do_GET(self):  # noqa: N802
    path, _, query = self.path.partition("?")
    self.rfile.read(int(self.headers.get("Content-Length", 0)))
    account = {"email": "vm@project", "scopes": ["https://www.googleapis.com/auth/cloud-platform"]}
    token = {"access_token": "of-the-vm", "expires_in": 3000, "token_type": "Bearer"}
    if path.endswith("/token"):
      answer = json.dumps(token)
    elif path.endswith("/universe-domain"):
      answer = "googleapis.com"
    else:
      answer = json.dumps(account) if "recursive=true" in query else "project"
    self.send_response(200)
    self.send_header("Metadata-Flavor", "Google")
    self.send_header("Content-Type", "application/json" if answer[0] == "{" else "text/plain")
    self.end_headers()
    self.wfile.write(answer.encode())

  do_POST = do_GET  # noqa: N815  of a key file's `token_uri`

  def log_message(self, *_):
    pass


@pytest.fixture(name="machine")
def _machine():
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Machine) as server:
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()


def test_it_is_anonymous_without_credentials(account):
  assert account(READ)[0] == {""}


def test_it_takes_the_account_of_the_machine(account, machine):
  there = {"NO_GCE_CHECK": "", "GCE_METADATA_ROOT": machine, "GCE_METADATA_IP": machine}
  assert account(READ, **there)[0] == {"Bearer of-the-vm"}


def test_it_takes_a_key_file(account, machine, tmp_path):
  key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
  kinds = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
  pem = key.private_bytes(*kinds, serialization.NoEncryption()).decode()
  words = {"type": "service_account", "private_key": pem, "client_email": "me@project"}
  words |= {"private_key_id": "1", "client_id": "2", "token_uri": f"http://{machine}/token"}
  file = tmp_path / "key.json"
  file.write_text(json.dumps(words))
  mine = {"GOOGLE_APPLICATION_CREDENTIALS": str(file)}
  # TensorStore asks Google for the token, wherever `token_uri` points to.
  found, said = account(READ, code=1, **mine)
  assert found == set() and "ServiceAccount" in said and "googleapis.com" in said
  # Of somebody else's rights it can make no use: the file is named.
  file.write_text(json.dumps({"type": "impersonated_service_account"}))
  found, said = account(READ, code=1, **mine)
  assert found == set() and f"JSON credentials file: {file}" in said
