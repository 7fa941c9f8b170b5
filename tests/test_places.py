"""Where a run is: odd names, other locales, copies, moves, and folders that two share."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import runs
import stores

from totojax import checkpoint

LONG = (
  "--config.train.total_tokens=12800.0",
  "--config.every.checkpoint_steps=10",
  "--config.every.eval_steps=50",
)
# 200 characters and more, with spaces, and of more than one byte each.
ODD = "/".join(["ein Ordner mit Zwischenräumen", *["視頻 émbeddings ½"] * 11])
LATIN = pytest.mark.exhaustive("test_places.py::test_text_is_utf8_in_any_locale")  # in C
LOCALES = {"C": {"LC_ALL": "C"}, "ISO-8859-1": {"LC_ALL": "en_US.ISO-8859-1"}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return stores.pair(tmp_path_factory.mktemp("stores"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("whole")
  runs.finish(runs.start(runs.smoke(data, workdir, *LONG)))
  return workdir


def wait_for_checkpoint(workdir, process) -> None:
  while checkpoint.latest_step(workdir / "checkpoints") is None:
    assert process.poll() is None, runs.finish(process)
    time.sleep(0.005)


def assert_same_run(workdir, whole) -> None:
  assert runs.metrics(workdir) == runs.metrics(whole)
  runs.assert_same(runs.checkpoint(workdir, 100), runs.checkpoint(whole, 100))


def locale(name: str, folder) -> dict[str, str]:
  """The environment of a locale, which is made where the machine has it not."""
  if name != "C":
    made = folder / "en_US.ISO-8859-1"
    words = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(made)]
    if not shutil.which("localedef") or subprocess.run(words, capture_output=True).returncode:
      pytest.skip("localedef cannot make en_US.ISO-8859-1 here")
  return runs.environment() | LOCALES[name] | {"LOCPATH": str(folder), "PYTHONUTF8": "0"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["C", pytest.param("ISO-8859-1", marks=LATIN)])
def test_text_is_utf8_in_any_locale(data, whole, tmp_path, name):
  """On a path of 200 characters, with the folders of the store named so as well."""
  environment = locale(name, tmp_path)
  script = "import sys; print(sys.getfilesystemencoding(), sys.stdout.encoding)"
  plain = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True)
  assert b"utf-8" not in plain.stdout  # else nothing is tried here
  odd = [shutil.copytree(path, tmp_path / ODD / split) for path, split in zip(data, "tv")]
  workdir = tmp_path / ODD / "run"
  for words in (
    runs.smoke((str(odd[0]), str(odd[1])), workdir, *LONG),
    runs.command("configs/audit.py", tmp_path / ODD / "audit"),
  ):
    done = subprocess.run(words, env=environment, cwd=runs.ROOT, capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr.decode()
    assert (done.stdout + done.stderr).decode("utf-8")
  assert_same_run(workdir, whole)
  names = {path.name for path in tmp_path.iterdir()}
  assert names - {"en_US.ISO-8859-1"} == {ODD.partition("/")[0]}


@pytest.mark.slow
def test_setup_reads_its_files_in_any_locale(tmp_path):
  environment = locale("C", tmp_path)
  words = [sys.executable, "setup.py", "--long-description"]
  done = subprocess.run(words, env=environment, cwd=runs.ROOT, capture_output=True)
  assert done.returncode in (0, 1) and b"UnicodeDecodeError" not in done.stderr, done.stderr


@pytest.mark.slow
def test_a_copy_of_a_run_at_work_goes_on_and_a_moved_one_says_so(data, whole, tmp_path):
  words = runs.smoke(data, tmp_path / "run", *LONG)
  # It is not done before its folder is away: at step 60 it waits.
  ailing = [words[0], "tests/ailing.py", *words[3:]]
  process = runs.start(ailing, AILS="stop", AT="60")
  wait_for_checkpoint(tmp_path / "run", process)
  # As `cp -r` does: file by file, while they change and go.
  subprocess.run(["cp", "-r", str(tmp_path / "run"), str(tmp_path / "copy")], capture_output=True)
  (tmp_path / "run").rename(tmp_path / "moved")
  while process.poll() is None:
    process.send_signal(signal.SIGCONT)
    time.sleep(0.05)
  output = runs.finish(process, code=74)
  assert f"{tmp_path}/run cannot be used" in output and "moved" in output
  assert "Traceback" not in output
  assert not (tmp_path / "run" / "metrics.jsonl").exists()
  for name in ("copy", "moved"):
    runs.finish(runs.start(runs.smoke(data, tmp_path / name, *LONG)))
    assert_same_run(tmp_path / name, whole)


@pytest.mark.slow
def test_two_runs_share_a_store_and_a_compilation_cache(data, whole, tmp_path, monkeypatch):
  """One of them is killed while it may be writing the cache."""
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
  monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
  names = ("a", "b", "killed")
  a, b, killed = (runs.start(runs.smoke(data, tmp_path / name, *LONG)) for name in names)
  while not (tmp_path / "cache").exists() or len(os.listdir(tmp_path / "cache")) < 5:
    assert killed.poll() is None
    time.sleep(0.005)
  killed.send_signal(signal.SIGKILL)
  runs.finish(killed, code=-signal.SIGKILL)
  for process in (a, b):
    runs.finish(process)
  runs.finish(runs.start(runs.smoke(data, tmp_path / "killed", *LONG)))
  for name in names:
    assert_same_run(tmp_path / name, whole)
