"""Disks that are full, read-only, or gone: one line, exit status 74, and the run goes on later."""

import errno
import os
import pathlib
import signal
import subprocess
import sys

from etils import epath
import pytest
import runs
import stores

from totojax import checkpoint, failures
from totojax.rundir import files, local, lock, metrics
from totojax.storage import disks, objects

AGAIN = "then run the same command again: it goes on from what is saved"


def mount(path: pathlib.Path, *words: str) -> None:
  done = subprocess.run(["mount", *words, str(path)], capture_output=True, encoding="utf-8")
  if done.returncode:
    pytest.skip(f"no right to mount: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path):
  """A disk of 2 MiB of its own."""
  path = tmp_path / "disk"
  path.mkdir()
  mount(path, "-t", "tmpfs", "-o", "size=2m", "small")
  yield path
  while os.path.ismount(path):
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk: pathlib.Path) -> None:
  try:
    with open(disk / "others", "ab", 0) as file:
      while True:
        file.write(bytes(4096))
  except OSError as error:
    assert error.errno == errno.ENOSPC


def make_read_only(disk: pathlib.Path) -> None:
  mount(disk, "--bind", str(disk))
  mount(disk, "-o", "remount,bind,ro")


def store(disk):
  # Larger than what a file system may still have in its last page.
  stores.write(disk / "run/store", records=64, seed=0, prefix="t", frames=1024)


def log(disk):
  rows = metrics.MetricsLog(epath.Path(disk) / "run", restored_step=0)
  for step in range(1, 500):
    rows.write(step, "train", {"loss": 1.0}, wall={})


def page(disk):
  files.write_text(disk / "run/report.html", "words " * 10_000)


def features(disk):
  local.mapped(disk / "run/features.npy", shape=(2**20,))


WRITES = [(store, "run/store"), (log, "metrics.jsonl")]
WRITES += [(page, "report.html"), (features, "features.npy")]


@pytest.mark.parametrize("write, name", WRITES, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("harm", [fill, make_read_only])
def test_each_write_names_its_path_and_what_mends_it(disk, write, name, harm):
  (disk / "run").mkdir()
  harm(disk)
  with pytest.raises(Exception) as told:
    write(disk)
  assert failures.status(told.value) == 74
  line, hint = failures.line(told.value).splitlines()
  assert line.startswith(f"totojax: {disk}/run") and name in line, line
  words = f"{disk} has 0 B of 2 MiB left; free space there" if harm is fill else "mounted read-only"
  assert words in line and line.endswith(AGAIN)
  assert "could not be written" in line and "--traceback" in hint


def test_a_folder_that_is_gone_is_not_made_anew(disk):
  run = disk / "run"
  run.mkdir()
  lock.take(run)
  files.write_text(run / "a", "a")
  subprocess.run(["umount", "-l", str(disk)], check=True)
  run.mkdir()  # below the mount, as orbax and TensorStore would
  for write in (lambda: files.write_text(run / "b", "b"), lambda: lock.check(run / "c/d")):
    with pytest.raises(OSError) as told:
      write()
    assert failures.status(told.value) == 74
    assert f"totojax: {run} cannot be used" in failures.line(told.value)
  lock.check(disk)  # of another folder
  assert not any(run.iterdir())


@pytest.mark.parametrize(
  "number, words",
  [
    (errno.EDQUOT, "your quota there is used up"),
    (errno.EMFILE, "ulimit -n"),
    (errno.EFBIG, "ulimit -f"),
    (errno.ENFILE, "this machine has too many files open"),
    (errno.ESTALE, "bring it back"),
    (errno.EIO, "bring it back"),
  ],
)
def test_what_mends_it_is_said_of_each(tmp_path, number, words):
  error = OSError(number, os.strerror(number))
  assert disks.number(error) == number
  with pytest.raises(OSError), files.naming(tmp_path / "a"):
    raise error
  line = disks.line(error)
  assert line.startswith(f"{tmp_path}/a ") and words in line and line.endswith(AGAIN)
  # What TensorStore says, and what comes of it.
  text = f"""RESOURCE_EXHAUSTED: Failed writing: "{tmp_path}/b": No [os_error_code='{number}']"""
  outer = objects.StoreError("a store cannot be written")
  outer.__cause__ = ValueError(text)
  assert failures.status(outer) == 74 and disks.line(outer).startswith(f"{tmp_path}/b ")


def test_other_errors_are_none_of_a_disk():
  for error in (OSError(errno.ENOENT, "no such file"), OSError("text"), KeyError("a")):
    assert disks.number(error) is None


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return stores.pair(tmp_path_factory.mktemp("stores"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
  """The run that met no trouble."""
  workdir = tmp_path_factory.mktemp("whole")
  runs.finish(runs.start(runs.smoke(data, workdir, *LONG)))
  return workdir


LONG = (
  "--config.train.total_tokens=12800.0",
  "--config.every.checkpoint_steps=10",
  "--config.every.eval_steps=1000",
)


def unmount(disk: pathlib.Path) -> None:
  subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("harm", [fill, unmount])
def test_a_run_ends_at_once_and_goes_on_when_there_is_room(data, whole, disk, harm):
  words = runs.smoke(data, disk / "run", *LONG)
  process = runs.start_and_stop(words, 25)
  assert checkpoint.latest_step(disk / "run/checkpoints")
  harm(disk)
  process.send_signal(signal.SIGCONT)
  output = runs.finish(process, code=74)
  assert "Traceback" not in output and len(output.splitlines()) < 12, output
  last = output[output.index("totojax: ") :]
  assert f"totojax: {disk}/run" in last and AGAIN in last, output
  if harm is unmount:
    assert checkpoint.latest_step(disk / "run/checkpoints") is None  # below the mount
    return
  (disk / "others").unlink()
  reached = checkpoint.latest_step(disk / "run/checkpoints")
  assert reached and reached < 50  # it has ended at once
  output = runs.finish(runs.start(words))
  assert f"resumed at step {reached} of 100" in output
  assert runs.metrics(disk / "run") == runs.metrics(whole)


SAVE = """
import sys
import jax.numpy as jnp
from totojax import checkpoint, failures, step
params = {"w": jnp.ones((1024, 1024))}
state = step.TrainState(jnp.int32(1), params, stats={}, opt_state={}, frozen={})
config = checkpoint.CheckpointConfig(keep=1, keep_every_steps=0)
checkpoints = checkpoint.Checkpoints(sys.argv[1], config)
try:
  checkpoints.save(1, state, {})
  checkpoints.close()
except Exception as error:
  failures.end(error, trace=False, alone=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("harm", [fill, make_read_only])
def test_a_checkpoint_names_its_path(disk, harm):
  """In a process of its own: orbax would keep this one from its end."""
  (disk / "run/checkpoints").mkdir(parents=True)
  harm(disk)
  done = subprocess.run(
    [sys.executable, "-c", SAVE, str(disk / "run/checkpoints")],
    env=runs.environment(),
    cwd=runs.ROOT,
    encoding="utf-8",
    capture_output=True,
    timeout=240,
  )
  assert done.returncode == 74, done.stderr
  last = done.stderr[done.stderr.index("totojax: ") :]
  assert last.startswith(f"totojax: {disk}/run/checkpoints") and AGAIN in last


OPEN = """
import resource, sys
from totojax import main
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv.pop(1)), hard))
sys.argv[0] = "totojax"
main.run()
"""


@pytest.mark.slow
def test_too_many_open_files(data, tmp_path):
  words = runs.smoke(data, tmp_path, *LONG)[3:]
  done = subprocess.run(
    [sys.executable, "-c", OPEN, "16", *words],
    env=runs.environment(),
    cwd=runs.ROOT,
    encoding="utf-8",
    capture_output=True,
    timeout=240,
  )
  assert done.returncode == 74, done.stderr
  assert "ulimit -n" in done.stderr and "Traceback" not in done.stderr
