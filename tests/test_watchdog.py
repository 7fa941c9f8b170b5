"""A run that is stuck ends by itself; one that is slow, or was suspended, does not."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import runs
import test_hosts
import test_train

from totojax import rundir
from totojax.rundir import console

LIMIT_S = 0.6
SCRIPT = """
import ctypes, os, time
from totojax.rundir import console

def in_c():
  ctypes.CDLL(None).poll(None, 0, -1)

print("begun", flush=True)
console.watchdog.turn_on()
"""
STUCK = f"""
with console.watchdog.watched({LIMIT_S}), console.phase("compiling", shown=True):
  with console.doing("a step"):
    in_c()
"""
SLOW = f"""
with console.watchdog.watched({LIMIT_S}):
  bar = console.Progress("training", unit="steps", total=10, done=0)
  for _ in range(5):
    time.sleep({LIMIT_S} / 2)
    bar.advance()
"""


def start(script):
  words = [sys.executable, "-c", SCRIPT + script]
  process = subprocess.Popen(
    words,
    env=runs.environment(),
    cwd=runs.ROOT,
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
  )
  assert process.stdout.readline() == "begun\n"
  return process


def test_what_is_stuck_in_c_ends_and_says_where():
  begin = time.monotonic()
  output = runs.finish(start(STUCK), code=rundir.RESTART)
  assert time.monotonic() - begin >= LIMIT_S
  *stacks, last = output.splitlines()
  assert last.startswith("totojax: nothing was done for 0.6 s (compiling > a step); the stacks of")
  assert "start the same command again" in last and "every.watchdog_s" in last
  # Of the main thread, which is where it hangs, and of the watchdog's own.
  assert any("in in_c" in line for line in stacks) and any("in _watch" in line for line in stacks)


def test_what_goes_on_is_left_alone_however_long_it_takes():
  """In all more than twice the limit."""
  assert "nothing was done" not in runs.finish(start(SLOW))


def test_time_in_which_a_process_is_suspended_does_not_count():
  process = start(STUCK.replace("in_c()", "time.sleep(0.3)"))
  time.sleep(0.1)
  process.send_signal(signal.SIGSTOP)
  time.sleep(2 * LIMIT_S)
  process.send_signal(signal.SIGCONT)
  assert "nothing was done" not in runs.finish(process)


@pytest.mark.parametrize("offset_s, ends", [(-7230, True), (-2, False), (7200, False)])
def test_a_clock_that_was_set_back_is_waited_for_a_minute_alone(offset_s, ends):
  """Here half a second; a watchdog that waits for hours is patient otherwise."""
  set_clock = f"""
set_s, now = 0, time.time
time.time = lambda: now() + set_s
console.SET_BACK_S = 0.5
dog = console.Watchdog()
dog.turn_on()
with dog.watched(7200):
  time.sleep(0.8)  # nothing is done, and the clock is right
  set_s = {offset_s}
  time.sleep({60 if ends else 1})
"""
  output = runs.finish(start(set_clock), code=rundir.RESTART if ends else 0)
  last = output.splitlines()[-1] if ends else ""
  assert ends == ("nothing was done for 0.5 s" in last)
  assert ends == ("the clock was set back, and is 2 h 0 min behind" in last)


def test_it_ends_though_nobody_reads_what_it_says(monkeypatch):
  ended = []
  monkeypatch.setattr(console, "_after", lambda seconds, action: action())
  monkeypatch.setattr(console.os, "_exit", ended.append)
  monkeypatch.setattr(console.faulthandler, "dump_traceback", lambda file: 1 / 0)
  console.Watchdog()._end(1.0)
  assert ended == [rundir.RESTART] * 2


def test_a_limit_holds_within_its_block():
  dog, seen = console.Watchdog(), []
  with dog.watched(5.0):
    with dog.watched():  # a bar, which has none of its own
      seen.append(dog._limit_s)
    with dog.watched(0):  # never, whatever is around it
      with dog.watched():
        seen.append(dog._limit_s)
    seen.append(dog._limit_s)
  with dog.watched():
    seen.append(dog._limit_s)
  assert seen == [5.0, 0, 5.0, console.WATCHDOG_S] and dog._limit_s is None


def test_training_is_watched_as_its_config_says(tmp_path, monkeypatch):
  """Each step, evaluation and save is something that was done."""
  limits, fed = [], []

  @contextlib.contextmanager
  def watched(limit_s=None):
    limits.append(limit_s)
    yield

  monkeypatch.setattr(console.watchdog, "watched", watched)
  monkeypatch.setattr(
    console.watchdog, "feed", lambda: fed.append([*map(str, console.watchdog.doing)])
  )
  test_train.fit(test_train.make(watchdog_s=123.0), tmp_path)
  assert limits == [123.0] and not console.watchdog.doing
  last = [words[-1] for words in fed if words]
  for what in ("training: 3/", "the evaluation line of step 3", "writing the checkpoint of step 4"):
    assert any(line.startswith(what) for line in last), what


@pytest.mark.slow
def test_a_step_that_blocks_ends_the_run_which_goes_on(tmp_path):
  words = runs.smoke(test_hosts.small(tmp_path), tmp_path / "run")
  ailing = [words[0], "tests/ailing.py", *words[3:]]
  process = runs.start(ailing, AILS="block", AT="10", WATCHDOG_S="2")
  output = runs.finish(process, code=rundir.RESTART)
  last = output.splitlines()[-1]
  assert last.startswith("totojax: nothing was done for 2.0 s (training: 10/20 steps)")
  assert "in in_c" in output
  # The save of step 8 was begun, once that of step 4 was done.
  assert re.search("resumed at step [48] of 20", runs.finish(runs.start(words)))


@pytest.mark.slow
def test_a_host_that_stops_ends_the_other_which_says_where_it_waits(tmp_path):
  """Well before it is taken for lost; and once it wakes up, it is too late for it."""
  words = runs.smoke(test_hosts.small(tmp_path), tmp_path / "run", test_hosts.LONG)
  processes = test_hosts.start_ailing(words, second="stop", at=6, WATCHDOG_S="3")
  output = runs.finish(processes[0], code=rundir.RESTART)
  last = output.splitlines()[-1]
  assert last.startswith("totojax: nothing was done for 3.0 s (training: ")
  assert "in fit" in output  # of the stacks
  assert os.waitpid(processes[1].pid, os.WNOHANG) == (0, 0)  # it stands still
  processes[1].send_signal(signal.SIGCONT)
  # Which it notices first is chance: that the first is gone, or its own watchdog,
  # whose time was up but for a moment when it was stopped.
  last = runs.finish(processes[1], code=rundir.RESTART).splitlines()[-1]
  assert "lost another one" in last or last.startswith("totojax: nothing was done for 3.0 s (")
  assert runs.metrics(tmp_path / "run")[-1]["step"] <= 8  # neither went on
