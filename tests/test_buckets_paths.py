"""`epath.Path` means the same on a local folder, gs:// and s3://."""

import json
import subprocess
import sys

from etils import epath
import pytest
import runs

from totojax.storage import paths


def test_files_and_folders(data_place):
  root = epath.Path(data_place.url) / "run"
  assert isinstance(root, paths.ObjectPath) == (data_place.scheme != "local")
  assert str(root) == data_place / "run" and root.name == "run"
  assert not root.exists() and not root.is_dir()
  root.mkdir(parents=True)
  (root / "a b").mkdir(parents=True, exist_ok=True)
  assert (root / "a b/é").write_text("1é\n") == 3
  assert (root / "a b/c").write_bytes(b"\xff12") == 3
  assert (root / "a b/é").read_text() == "1é\n"
  assert (root / "a b/c").read_bytes() == b"\xff12"
  assert root.is_dir() and (root / "a b").is_dir() and not (root / "a b").is_file()
  assert (root / "a b/c").is_file() and not (root / "a b/c").is_dir()
  assert not (root / "a").exists()  # which names begin with
  with pytest.raises(FileExistsError):
    (root / "a b").mkdir()
  (root / "b.txt").write_text("2")
  assert sorted(path.name for path in root.iterdir()) == ["a b", "b.txt"]
  assert sorted(path.name for path in root.glob("*")) == ["a b", "b.txt"]
  assert [str(path.relative_to(root)) for path in root.glob("*/c")] == ["a b/c"]
  assert [path.name for path in root.glob("b.*")] == ["b.txt"]
  with pytest.raises(FileExistsError):
    (root / "b.txt").rename(root / "a b/c")
  (root / "b.txt").replace(root / "a b/c")
  assert not (root / "b.txt").exists() and (root / "a b/c").read_text() == "2"
  (root / "a b/c").copy(root / "d")
  assert (root / "d").read_text() == (root / "a b/c").read_text() == "2"
  (root / "d").unlink()
  for gone in (root / "d", root / "b.txt"):
    with pytest.raises(FileNotFoundError):
      gone.read_text()
    with pytest.raises(FileNotFoundError):
      gone.unlink()
    gone.unlink(missing_ok=True)
  root.rmtree()
  assert not root.exists()
  root.rmtree(missing_ok=True)
  with pytest.raises(FileNotFoundError):
    root.rmtree()


def test_open_files(data_place):
  path = epath.Path(data_place.url) / "file"
  with path.open("w") as file:
    file.write("one\n")
    if data_place.scheme != "local":
      assert not path.exists()  # whole, or not there
  with path.open("a") as file:
    file.write("two é\n")
  with path.open() as file:
    assert list(file) == ["one\n", "two é\n"]
  with path.open("rb") as file:
    assert file.read(4) == b"one\n" and file.read() == "two é\n".encode()
  with pytest.raises(FileNotFoundError):
    (path.parent / "other").open("rb")
  with pytest.raises(ValueError, match="mode"):
    path.open("x")


def test_what_is_not_done_is_refused(bucket):
  """It does not go to another client."""
  with pytest.raises(NotImplementedError, match=f"{bucket.url}/a: .* of an object store"):
    epath.Path(bucket / "a").stat()


@pytest.mark.slow
def test_compiled_programs_are_kept_there(bucket):
  words = [sys.executable, "-c", "from totojax.storage import paths; import jax; jax.jit(abs)(1.0)"]
  environment = runs.environment() | {"JAX_COMPILATION_CACHE_DIR": bucket / "cache"}
  for _ in range(2):
    subprocess.run(words, env=environment, check=True)
  (file,) = bucket.objects()
  assert file.startswith("cache/jit_abs")
  assert len(bucket.proxy.lines("POST .*jit_abs")) == 1


CHILD = """
import json, sys
from totojax.storage import paths
from etils import epath
path = epath.Path(sys.argv[1])
assert not path.exists()
print(json.dumps([type(path).__name__, sorted(sys.modules)]))
"""


def test_no_other_client_is_loaded(bucket):
  """Nor looked for: TensorFlow, where it is installed, is one of them."""
  words = [sys.executable, "-c", CHILD, bucket / "a"]
  done = subprocess.run(words, env=runs.environment(), capture_output=True, text=True, check=True)
  name, modules = json.loads(done.stdout)
  assert name == "ObjectPath"
  others = {"gcsfs", "s3fs", "fsspec", "boto3", "aiohttp", "google.cloud.storage", "tensorflow"}
  assert not others & set(modules) and "tensorstore" in modules
