"""How a process ends: each kind of error has its status and its one line."""

import errno
import signal
import subprocess
import sys
import time

import jax
from jax._src import distributed
from jax.experimental import multihost_utils
import pytest
import runs

from totojax import checkpoint, failures, plugins, rundir, storage
from totojax.config.schema import ConfigError
from totojax.rundir import directory, files, hosts, peers
from totojax.storage import objects, outages
from totojax.tokenizers.released import unpickler


def chained(outer: Exception, cause: Exception) -> Exception:
  outer.__cause__ = cause
  return outer


FULL = OSError(errno.ENOSPC, "No space left on device", "/run/metrics.jsonl")
TENSORSTORE = ValueError(
  "OUT_OF_RANGE: Failed to write 9 bytes: File too large [os_error_code='27']"
)
KINDS = [
  (ConfigError("config key x is y"), 2),
  (FileNotFoundError(errno.ENOENT, "No such file", "x"), 2),
  (ModuleNotFoundError("No module named 'av'"), 2),
  (rundir.Lost("taken over"), 2),
  (rundir.InUse("in use"), 2),
  (plugins.PluginError("mine.py, line 3: head() fails"), 2),
  (MemoryError(), 2),
  (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), 2),
  (RuntimeError("Unable to initialize backend 'cuda': no such device"), 2),
  (checkpoint.Damaged("run/checkpoints/7 is damaged"), 65),
  (files.Damaged("run/config.json", "no JSON"), 65),
  (chained(directory.ConfigChanged("restore it"), files.Damaged("a", "b")), 65),
  (unpickler.UnsafeOrDamaged("cut short"), 65),
  (objects.Damaged("store/shard is damaged"), 65),
  (FULL, 74),
  (chained(checkpoint.CheckpointError("could not be written"), TENSORSTORE), 74),
  (chained(checkpoint.CheckpointError("a"), ValueError("x [OS error 28: ENOSPC No space]")), 74),
  (chained(checkpoint.Damaged("cannot be read"), OSError(errno.EIO, "I/O error")), 74),
  (outages.StorageAway("gs://a did not answer"), 75),
  (chained(checkpoint.CheckpointError("not written"), ConnectionResetError("broken")), 75),
  (jax.errors.JaxRuntimeError("INTERNAL: CUDA_ERROR_ECC_UNCORRECTABLE"), 75),
  (KeyError("vocab"), 1),
  (AssertionError(), 1),
  (jax.errors.JaxRuntimeError("INTERNAL: something else"), 1),
]


@pytest.mark.parametrize("error, code", KINDS, ids=lambda value: getattr(value, "args", value))
def test_each_kind_has_its_status(error, code, capsys, monkeypatch):
  monkeypatch.setattr(failures.os, "_exit", sys.exit)
  with pytest.raises(SystemExit) as end:
    try:
      raise error
    except Exception:
      failures.end(error, trace=False, alone=True)
  said = capsys.readouterr().err
  assert end.value.code == code == failures.status(error)
  assert ("Traceback" in said) == (code == 1)
  last = said[said.index("totojax: ") :]
  assert ("report it" in last) == (code == 1)
  assert len(last.splitlines()) <= 2


def test_another_process_that_is_gone_is_no_bug(monkeypatch, capsys):
  error = jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed: Connection closed\nmore")
  assert failures.status(error) == 1  # alone there is no other
  monkeypatch.setattr(distributed.global_state, "num_processes", 2)
  assert failures.status(error) == 75
  assert failures.line(error).startswith("totojax: process 0 of 2 lost another one (UNKNOWN: Gloo")


def test_what_comes_out_of_a_file_is_escaped_and_cut():
  """A name with line breaks, codes of a terminal, half a character, or no end."""
  name = "a\r\n  b\x1b[2J\u2028\ud800" + "x" * 100_000
  line, hint = failures.line(ValueError(f"/p/list.txt: {name} is twice; name it once")).split("\n")
  assert line.startswith(r"totojax: /p/list.txt: a b\x1b[2J\u2028\ud800xxx")
  assert line.endswith("xxx is twice; name it once") and len(line) < 700
  assert line.isprintable() and "--traceback" in hint
  many = failures.line(files.Damaged("/p/f", " ".join(["word"] * 100_000), "; restore it"))
  assert many.startswith("totojax: /p/f is damaged (word word") and len(many) < 3000
  assert "; restore it" in many
  # Nothing is lost of what is not long, and keys have a line each.
  path = "/p/" + "dir/" * 120 + "é 日本.txt"
  assert failures.line(ValueError(path)).startswith(f"totojax: {path}\n")
  assert failures.line(ConfigError("two:\n  a\n  b")) == "totojax: two:\n  a\n  b"


def test_the_traceback_is_shown_where_it_is_wanted(capsys):
  with pytest.raises(SystemExit) as end:
    try:
      raise ConfigError("config key x is y")
    except ConfigError as error:
      failures.end(error, trace=True, alone=True)
  said = capsys.readouterr().err
  assert end.value.code == 2
  assert "test_failures.py" in said and said.splitlines()[-1] == "totojax: config key x is y"


def test_the_other_hosts_end_with_the_status_of_the_first(monkeypatch):
  """What process 0 sends, read by another."""
  sent = []
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(peers.time, "sleep", lambda seconds: None)
  for error in (storage.Damage("a is damaged"), ConfigError("a"), outages.StorageAway("a")):
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    keep = lambda padded: sent.append(padded) or padded
    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", keep)

    def fail(error=error):
      raise error

    with pytest.raises(type(error)):
      hosts.first(fail)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", lambda padded: sent[-1])
    with pytest.raises(Exception) as told:
      hosts.first(lambda: None)
    assert failures.status(told.value) == failures.status(error)
    assert str(told.value) == str(error)


PLANTED = """
import sys
from totojax import jobs, main
def typed(values, folder):
  raise KeyError("planted")
jobs.typed = typed
sys.argv = ["totojax", "--config=configs/smoke.py", "--workdir=/none"]
main.run()
"""


_BUSY = """
import hashlib
from totojax import main
from totojax.rundir import console
main._TWICE_S = 3.0
main.Interrupt()
with console.doing("compiling the update"):
  print("ready", flush=True)
  # As XLA does, without a look at what Python has to do.
  hashlib.pbkdf2_hmac("sha256", b"x", b"x", 2**31 - 1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_answered_at_once_and_a_second_one_ends_the_process(number, status):
  process = runs.start([sys.executable, "-c", _BUSY])
  assert process.stdout.readline() == "ready\n"
  begun = time.monotonic()
  process.send_signal(number)
  line, heard = process.stdout.readline(), time.monotonic()
  assert line.startswith(f"totojax: {number.name}: leaves when it can, after compiling the update")
  process.send_signal(number)  # as to a process and to its group: one and the same
  with pytest.raises(subprocess.TimeoutExpired):
    process.wait(1.0)
  time.sleep(max(heard + 3.1 - time.monotonic(), 0.0))
  process.send_signal(number)
  assert runs.finish(process, code=status) == "totojax: ended; the last whole checkpoint stays\n"
  assert time.monotonic() - begun < 200  # what it is at takes far longer


def test_a_bug_says_where_to_report_it():
  done = subprocess.run(
    [sys.executable, "-c", PLANTED],
    env=runs.environment(),
    cwd=runs.ROOT,
    text=True,
    capture_output=True,
  )
  assert done.returncode == 1
  *_, last = done.stderr.splitlines()
  assert "Traceback" in done.stderr and "in typed" in done.stderr
  assert last.startswith("totojax: a bug (KeyError: 'planted'). Please report it")
