"""What a user sees while a run works: phases, rates, and no noise of libraries."""

import importlib.util
import logging
import os
import re
import subprocess
import sys
import time

from absl import logging as absl_logging
import jax
import pytest

from totojax.rundir import console


@pytest.fixture
def clock(monkeypatch):
  """Time that passes when a test says so; returns a function of seconds."""
  now = [1000.0]
  monkeypatch.setattr(console.time, "monotonic", lambda: now[0])

  def passes(seconds):
    now[0] += seconds

  return passes


def test_no_time_is_left_before_the_second_window(clock, capsys):
  bar = console.Progress("training", unit="steps", total=100, done=0, phases=True)
  clock(60.0)  # that the first unit compiles
  bar.advance(note="loss 1")
  assert capsys.readouterr().err == "training: 1/100 steps, loss 1\n"
  for _ in range(20):
    clock(1.0)
    bar.advance()
  err = capsys.readouterr().err
  # One unit a second; with the first one in it the rate would be a quarter.
  assert err == "training: 16/100 steps, 1 steps/s, 1 min 24 s left\n"
  bar.close()
  assert capsys.readouterr().err == "training: 21/100 steps, took 1 min 20 s\n"


def test_a_resumed_job_counts_what_it_did_itself(clock):
  rate = console.Rate(50)
  clock(10.0)
  assert rate.read(50) is None, "nothing is done yet"
  assert rate.read(51) is None, "the first window"
  clock(1.0)
  assert rate.read(53) is None, "too short a window"
  clock(9.0)
  assert rate.read(71) == pytest.approx(2.0)


def line_of(capsys) -> str:
  """What a thread says, once it has said something."""
  told, end = "", time.monotonic() + 60
  while not told.endswith("\n") and time.monotonic() < end:
    told += capsys.readouterr().err
  return told


def test_what_takes_long_says_so_and_what_is_quick_does_not(monkeypatch, capsys):
  monkeypatch.setattr(console, "SILENCE_S", 60.0)
  with console.phase("compiling", shown=True):
    pass
  assert capsys.readouterr().err == ""
  monkeypatch.setattr(console, "SILENCE_S", 0.05)
  with console.phase("compiling", shown=True):
    assert line_of(capsys) == "compiling ...\n"
  assert re.match(r"compiling: \d+\.\d s", capsys.readouterr().err)
  with console.phase("compiling", shown=False):
    time.sleep(0.1)
  assert capsys.readouterr().err == "", "another host than the first"


def test_a_job_by_pieces_says_that_it_has_begun(monkeypatch, capsys):
  monkeypatch.setattr(console, "SILENCE_S", 0.05)
  with console.tracking("tokenizing", unit="clips", total=10) as bar:
    assert line_of(capsys) == "tokenizing: 0/10 clips, begun\n"
    bar.advance(10)
  capsys.readouterr()
  monkeypatch.setattr(console, "SILENCE_S", 0.5)
  with console.tracking("tokenizing", unit="clips", total=10) as bar:
    bar.advance(10)
    time.sleep(0.6)
  assert "begun" not in capsys.readouterr().err


def test_filters_drop_what_is_no_news_and_no_more():
  console.after_jax()
  console.after_jax()
  seen = []
  handler = logging.Handler()
  handler.emit = seen.append

  def is_shown(path, level, words):
    """Whether what absl logs from a line of a file comes through."""
    seen.clear()
    exec(compile(f"log({level}, {words!r})", path, "exec"), {"log": absl_logging.log})
    return bool(seen)

  logger = absl_logging.get_absl_logger()
  logger.addHandler(handler)
  before = absl_logging.get_verbosity()
  absl_logging.set_verbosity(absl_logging.INFO)
  orbax, words = "/site/orbax/checkpoint/handler.py", "_CHECKPOINT_METADATA file does not exist"
  assert not is_shown(orbax, absl_logging.WARNING, words)
  assert is_shown(orbax, absl_logging.ERROR, words)
  assert is_shown(orbax, absl_logging.WARNING, "the disk is full")
  assert is_shown("/site/other/handler.py", absl_logging.WARNING, words)
  absl_logging.set_verbosity(before)
  logger.removeHandler(handler)


_START = "import os; os.environ.pop('JAX_PLATFORMS', 0); from totojax.rundir import console\n"
_START += "console.before_jax(); console.after_jax(); import jax; print(jax.devices())"


@pytest.mark.slow
@pytest.mark.parametrize("forced", [False, True])
def test_libtpu_without_a_tpu_says_nothing(forced):
  pytest.importorskip("libtpu")
  if jax.config.jax_platforms != "cpu" or importlib.util.find_spec("jax_plugins"):
    pytest.skip("other devices are here")
  environment = {**os.environ, **({"JAX_FORCE_TPU_INIT": "1"} if forced else {})}
  run = subprocess.run(
    [sys.executable, "-c", _START], env=environment, capture_output=True, text=True, check=False
  )
  if not forced:
    assert "CpuDevice" in run.stdout and run.stderr == ""
  else:  # the control: whoever asks for a TPU hears what is wrong with it
    assert "TPU" in run.stderr
