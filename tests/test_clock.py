"""A clock that is set back or forwards: no result changes, and nothing waits for it."""

import importlib.util
import itertools
import json
import pathlib
import time

from orbax.checkpoint._src.futures import future
import pytest
import runs
import stores

from totojax import checkpoint

PACKAGE = importlib.util.find_spec("libfaketime")
JUMPS = ("-5h", "+19h", "-1h", "-26h")
STEPS = 120


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return stores.pair(tmp_path_factory.mktemp("stores"))


# The program, which waits for a clock that was set back not as long as in earnest.
PROGRAM = """
from totojax import main
from totojax.rundir import console
console.SET_BACK_S = 10.0
main.run()
"""


def set_clock(path: pathlib.Path, offset: str) -> None:
  """Written beside and renamed: half of one would be no time."""
  beside = path.with_suffix(".new")
  beside.write_text(f"{offset}\n", encoding="utf-8")
  beside.replace(path)


def rows(workdir) -> list[dict]:
  path = workdir / "metrics.jsonl"
  lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
  return [json.loads(line) for line in lines]


def test_a_clock_set_forwards_ends_no_save(monkeypatch):
  """Orbax's threads are waited for by a clock that nobody sets."""

  def joined():
    sleep = lambda: time.sleep(0.5)
    thread = future._SignalingThread(target=sleep, send_signals=[], receive_signals=[])
    thread.start()
    thread.join(timeout=60)

  steps = itertools.count(0, 3600)
  monkeypatch.setattr(time, "time", lambda: next(steps))
  monkeypatch.setattr(future, "time", time)
  with pytest.raises(TimeoutError, match="did not complete"):
    joined()
  checkpoint.be_patient()
  joined()


@pytest.mark.slow
@pytest.mark.skipif(PACKAGE is None, reason="libfaketime is not installed (the extra `test`)")
def test_a_clock_that_is_set_changes_nothing(data, tmp_path, monkeypatch):
  """TensorStore starts no thread until the clock is where it was.

  So a run whose clock is set back may stand still: then the watchdog ends it
  after a minute (here ten seconds), and the same command goes on.
  """
  assert PACKAGE is not None and PACKAGE.origin is not None
  library = pathlib.Path(PACKAGE.origin).parent / "vendor/libfaketime/src/libfaketime.so.1"
  words = (
    f"--config.train.total_tokens={STEPS * 128.0}",
    "--config.every.checkpoint_steps=20",
    "--config.every.eval_steps=50",
  )
  whole, workdir, clock = tmp_path / "whole", tmp_path / "set", tmp_path / "clock"
  runs.finish(runs.start(runs.smoke(data, whole, *words)))
  with monkeypatch.context() as patch:
    set_clock(clock, "+0")
    patch.setenv("LD_PRELOAD", str(library))
    patch.setenv("FAKETIME_TIMESTAMP_FILE", str(clock))
    patch.setenv("FAKETIME_CACHE_DURATION", "1")
    # What a clock that is set leaves as it is.
    patch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    python, *program = runs.smoke(data, workdir, *words)
    process = runs.start([python, "-c", PROGRAM, *program[2:]])
  while process.poll() is None and len(rows(workdir)) < 10:
    time.sleep(0.05)
  for offset in JUMPS:
    set_clock(clock, offset)
    before, begin = len(rows(workdir)), time.monotonic()
    while process.poll() is None and len(rows(workdir)) < before + 20:
      time.sleep(0.05)
      assert time.monotonic() < begin + 150, "neither the run nor its watchdog did anything"
  output = runs.finish(process, code=None)
  assert process.returncode in (0, 75), output
  print(f"the run ended with {process.returncode}")
  if process.returncode == 75:
    assert "nothing was done for 10.0 s" in output and "the clock was set back" in output
    runs.finish(runs.start(runs.smoke(data, workdir, *words)))
  assert runs.metrics(workdir) == runs.metrics(whole)
  runs.assert_same(runs.checkpoint(workdir, STEPS), runs.checkpoint(whole, STEPS))
  for row in rows(workdir):
    assert all(value >= 0 for value in row["wall"].values()), row
  done = json.loads((workdir / "done.json").read_text(encoding="utf-8"))
  assert 0 < done["seconds"] < 600
