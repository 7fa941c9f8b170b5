"""Two processes are never at work in one run directory."""

import fcntl
import json
import os
import signal
import subprocess
import sys

from etils import epath
import pytest
import runs

from totojax.rundir import directory, lease, lock

HOLD = """
import os, sys, time
from totojax.rundir import lock
lock.take(sys.argv[1])
lock.take(sys.argv[1])  # again: it is ours
if "fork" in sys.argv and os.fork() == 0:
  print(os.getpid(), flush=True)
  time.sleep(60)
  os._exit(0)
if "fork" not in sys.argv:
  print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.fixture
def hold(place):
  """Starts a process that takes the lock; gives it, and the number it says."""
  started, said = [], []

  def start(*words):
    process = subprocess.Popen(
      [sys.executable, "-c", HOLD, place.url, *words],
      env=runs.environment(),
      cwd=runs.ROOT,
      text=True,
      stdout=subprocess.PIPE,
    )
    started.append(process)
    said.append(int(process.stdout.readline()))
    return process, said[-1]

  yield start
  for process in started:
    process.kill()
    process.wait()
    process.stdout.close()
  for number in said:
    try:
      os.kill(number, signal.SIGKILL)
    except ProcessLookupError:
      pass
  lock.release(place.url)


def kept(place) -> dict:
  """What says whose a folder is."""
  (name,) = place.objects().keys() & {lock.FILE, lease.FILE}
  return json.loads(place.objects()[name])


def test_another_process_is_kept_out_and_told_who_is_in(hold, place):
  process, number = hold()
  with pytest.raises(lock.InUse) as caught:
    directory.begin(epath.Path(place.url), {"run": "x"})
  assert place.url in str(caught.value)
  assert f"process {number} on {os.uname().nodename}" in str(caught.value)
  assert "--workdir" in str(caught.value)
  # Nothing was written, and what says whose it is was left alone.
  assert len(place.objects()) == 1 and kept(place)["pid"] == number

  process.send_signal(signal.SIGKILL)
  process.wait()
  # The dead hold nothing, and are not waited for.
  directory.begin(epath.Path(place.url), {"run": "x"})
  assert "config.json" in place.objects()
  assert kept(place)["pid"] == os.getpid()


def test_a_worker_that_outlives_its_parent_holds_nothing(hold, place):
  process, child = hold("fork")
  with pytest.raises(lock.InUse):
    lock.take(place.url)
  process.send_signal(signal.SIGKILL)
  process.wait()
  os.kill(child, 0)  # it is still there
  lock.take(place.url)


def test_the_same_process_begins_again(tmp_path):
  for _ in range(3):
    directory.begin(epath.Path(tmp_path), {"run": "x"})
  # By another name too.
  (tmp_path / "link").symlink_to(tmp_path)
  directory.begin(epath.Path(tmp_path / "link"), {"run": "x"})
  assert str(os.getpid()) in (tmp_path / lock.FILE).read_text()


def test_an_owner_that_is_not_known(tmp_path):
  with open(tmp_path / lock.FILE, "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)  # of another descriptor: as another process
    with pytest.raises(lock.InUse, match="in use by another process"):
      lock.take(tmp_path)


def test_file_systems_without_locks(tmp_path, monkeypatch):
  def none(*_):
    raise OSError(95, "Operation not supported")

  monkeypatch.setattr(lock.fcntl, "flock", none)
  directory.begin(epath.Path(tmp_path), {"run": "x"})
  assert (tmp_path / "config.json").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / lock.FILE).mkdir()  # as root may write anywhere
  with pytest.raises(ValueError, match="cannot be made .Is a directory"):
    directory.begin(epath.Path(tmp_path), {"run": "x"})
