"""The client of object stores: the only one, and whose account it takes."""

import base64
import datetime
import http.server
import json
import os
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse

import buckets
from etils import epath
import pytest
import runs
import stores
import test_buckets_checkpoints

import totojax
from totojax import storage
from totojax.storage import objects


def child(words, *, code=0, **environment):
  """(what a child printed, its seconds)."""
  begun = time.monotonic()
  done = subprocess.run(
    words,
    env={**runs.environment(), **environment},
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
  said, seconds = child(runs.command("configs/smoke.py", workdir), code=2)
  assert len(said.splitlines()) == 1
  assert said.startswith(f"totojax: {workdir} can be no run directory")
  assert "s3:// is for data alone" in said and seconds < 100  # of 120: it is not waited for
  with pytest.raises(ValueError, match=f"^{workdir} can be no run directory"):
    totojax.load(workdir)  # nor could a run be read there


@pytest.mark.parametrize(
  "workdir, told",
  [
    ("gs:///run", "names no bucket"),
    ("gs://", "names no bucket"),
    ("gs:/bucket/run", "a URL begins with gs://"),
    ("s3:bucket", "a URL begins with s3://"),
    ("gs://bucket/a/../run", 'no ".."'),
    ("gs://bucket/run#2", "a name with '#'"),
    ("gs://bucket/run?", "a name with '?'"),
    ("gs://bucket/a\nb", r"a name with '.n'"),
    ("/tmp/[a]/run", "a name with '.'; use another"),
    ("/tmp/a\\b", "a name with '..'; use another"),
  ],
)
def test_a_name_that_is_none_for_a_run(workdir, told):
  with pytest.raises(ValueError, match=f"can be no run directory: .*{told}") as caught:
    storage.check_run(workdir)
  assert "\n" not in str(caught.value)


def test_names_of_runs(place):
  """Of those that are let in, all that a checkpoint is made of is there."""
  for name in ("a b é… 100%", "a%2Fb&+,;=@!${x}*~'\"^|"):
    storage.check_run(place / name)
    test_buckets_checkpoints.save(place / f"{name}/checkpoints", 4)
    assert any(f"{name}/checkpoints/4/state/d/" in file for file in place.objects()), name


def test_a_name_that_is_refused_would_lose_arrays(place):
  """Negative control, on each kind of storage."""
  name = {"gs": "a#b", "local": "[a]"}[place.scheme]
  with pytest.raises(ValueError, match="no run directory"):
    storage.check_run(place / name)
  test_buckets_checkpoints.save(place / f"{name}/checkpoints", 4)
  assert not any(f"{name}/checkpoints/4/state/d/" in file for file in place.objects())


BLOCKED = """
import sys
class Blocker:
  def find_spec(self, name, path=None, target=None):
    if name in {names!r}:
      raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
"""


def path(*folders):
  """PYTHONPATH with `folders` before the project."""
  return os.pathsep.join([*map(str, folders), str(runs.ROOT)])


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
  words, there = [sys.executable, "-c"], path(tmp_path)
  ours = TENSORFLOW.format(url=bucket / "a", ours="from totojax.storage import paths")
  assert child([*words, ours], PYTHONPATH=there)[0].splitlines()[-1] == "1 ['a']"
  # Negative control: what etils would do.
  alone = TENSORFLOW.format(url=bucket / "a", ours="")
  assert "TensorFlow is imported" in child([*words, alone], PYTHONPATH=there, code=1)[0]


@pytest.mark.slow
def test_a_run_in_a_bucket_is_the_local_run_and_needs_no_other_client(bucket, tmp_path):
  others = set("gcsfs fsspec s3fs boto3 botocore google.cloud google.auth".split())
  (tmp_path / "sitecustomize.py").write_text(BLOCKED.format(names=others))
  for folder, there in ((str(tmp_path), path()), (bucket.url, path(tmp_path))):
    pair = (
      stores.write(f"{folder}/train", records=400, seed=1, prefix="train"),
      stores.write(f"{folder}/val", records=80, seed=2, prefix="val"),
    )
    child(runs.smoke(pair, f"{folder}/run"), PYTHONPATH=there)
  storage.check_run(bucket.url)  # for the paths below
  assert (epath.Path(bucket.url) / "run/done.json").exists()
  assert runs.metrics(bucket / "run") == runs.metrics(tmp_path / "run")
  runs.assert_same(runs.checkpoint(bucket / "run", 20), runs.checkpoint(tmp_path / "run", 20))
  # Negative control: what is blocked is what etils would take.
  alone = [sys.executable, "-c", TENSORFLOW.format(url=bucket / "a", ours="")]
  assert "fsspec should be installed" in child(alone, PYTHONPATH=path(tmp_path), code=1)[0]


TENSORSTORE = """
import sys
import tensorstore as ts
from totojax import storage
from totojax.storage import objects
once = ts.Context({"gcs_request_retries": {"max_retries": 1}})
kvstore = ts.KvStore.open(objects.kvstore_spec(sys.argv[1]), context=once).result()
assert kvstore.read("a").result().value == b"1"
"""


@pytest.fixture(name="account")
def _account(bucket, tmp_path, monkeypatch):
  """Reads in a child that has no credentials but those of the environment.

  The fixture is environment -> (Authorization headers, what was said).
  """
  objects.write(bucket / "a", b"1")
  monkeypatch.delenv("GOOGLE_AUTH_TOKEN_FOR_TESTING")
  nobody = {
    "HOME": str(tmp_path),
    "CLOUDSDK_CONFIG": str(tmp_path / "none"),
    "GCE_METADATA_ROOT": "127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",  # nothing of a test leaves the machine
  }

  def read(*, code=0, **environment):
    first = len(bucket.proxy.log)
    words = [sys.executable, "-c", TENSORSTORE, bucket.url]
    said, _ = child(words, code=code, **{**nobody, **environment})
    return {request.account for request in bucket.proxy.log[first:]}, said

  return read


class _Machine(http.server.BaseHTTPRequestHandler):
  """The metadata server of a machine of Google's, as a TPU VM."""

  def do_GET(self):  # noqa: N802
    path, _, query = self.path.partition("?")
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

  def log_message(self, *_):
    pass


@pytest.fixture(name="machine")
def _machine():
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Machine) as server:
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()


def test_nobody_reads_public_buckets(account):
  assert account()[0] == {""}


def test_the_account_of_the_machine(account, machine):
  assert account(GCE_METADATA_ROOT=machine)[0] == {"Bearer of-the-vm"}


class _Google(http.server.BaseHTTPRequestHandler):
  """A proxy that speaks for Google: it gives a token for whatever is asked."""

  def do_CONNECT(self):  # noqa: N802
    self.send_response(200)
    self.end_headers()
    self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
    self.rfile, self.wfile = (self.connection.makefile(mode, 0) for mode in ("rb", "wb"))
    self.handle_one_request()

  def do_POST(self):  # noqa: N802
    words = self.rfile.read(int(self.headers["Content-Length"])).decode()
    self.server.asked.append((self.headers["Host"], dict(urllib.parse.parse_qsl(words))))
    token = {"access_token": "of-the-key", "expires_in": 3000, "token_type": "Bearer"}
    answer = json.dumps(token).encode()
    self.send_response(200)
    self.send_header("Content-Type", "application/json")
    self.send_header("Content-Length", str(len(answer)))
    self.end_headers()
    self.wfile.write(answer)
    self.close_connection = True

  def log_message(self, *_):
    pass


@pytest.fixture(name="google")
def _google(tmp_path):
  """(the requests for tokens, the environment that leads there, an RSA key)."""
  buckets.need("cryptography")
  from cryptography import x509
  from cryptography.hazmat.primitives import hashes, serialization
  from cryptography.hazmat.primitives.asymmetric import rsa

  key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
  name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Google")])
  now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(1)
  certificate = (
    x509.CertificateBuilder(name, name, key.public_key(), 1, now - day, now + day)
    .add_extension(x509.SubjectAlternativeName([x509.DNSName("*.googleapis.com")]), False)
    .add_extension(x509.BasicConstraints(True, None), True)
    .sign(key, hashes.SHA256())
  )
  pem = serialization.Encoding.PEM
  secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
  ours = tmp_path / "google.pem"
  ours.write_bytes(secret + certificate.public_bytes(pem))
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Google) as server:
    server.asked, server.tls = [], ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.tls.load_cert_chain(ours)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    there = {"https_proxy": f"http://127.0.0.1:{server.server_port}"}
    yield server.asked, {**there, "TENSORSTORE_CA_BUNDLE": str(ours)}, key
    server.shutdown()


def test_the_account_of_a_key_file(account, google, tmp_path):
  from cryptography.hazmat.primitives import hashes, serialization
  from cryptography.hazmat.primitives.asymmetric import padding

  asked, there, key = google
  pem = key.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
  )
  file = tmp_path / "key.json"
  mine = {"GOOGLE_APPLICATION_CREDENTIALS": str(file), **there}
  service = {"type": "service_account", "client_email": "me@p", "private_key_id": "1"}
  # As Google's consoles write it. Its last word is not read.
  service |= {"private_key": pem.decode(), "token_uri": "http://127.0.0.1:9/token"}
  file.write_text(json.dumps(service))
  assert account(**mine)[0] == {"Bearer of-the-key"}
  user = {"type": "authorized_user", "client_id": "a", "client_secret": "b"}
  file.write_text(json.dumps({**user, "refresh_token": "c"}))
  assert account(**mine)[0] == {"Bearer of-the-key"}
  (host, words), (_, again) = asked
  assert host == "www.googleapis.com" and again["refresh_token"] == "c"
  signed, _, signature = words["assertion"].rpartition(".")
  decode = lambda text: base64.urlsafe_b64decode(text + "==")
  key.public_key().verify(decode(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
  assert json.loads(decode(signed.partition(".")[2]))["iss"] == "me@p"
  # One of a kind that TensorStore does not take is named.
  file.write_text(json.dumps({"type": "impersonated_service_account"}))
  found, said = account(code=1, **mine)
  assert found == set() and f"JSON credentials file: {file}" in said and len(asked) == 2
