"""A chain that is killed again and again ends where one that was not ends, bit for bit.

  TOTOJAX_EXHAUSTIVE=1 TOTOJAX_KILLS=100 TOTOJAX_KILLS_SEED=7 pytest -m slow -s tests/test_kills.py

makes as many kills as docs/results/trust.md tells of; without the last two
there are few. In CI chains and hosts are killed at steps that are named
(test_chain.py, test_hosts.py), and in each part of a save
(test_buckets_checkpoints.py).
"""

import collections
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import runs
import stores
import test_chain
import test_hosts

from totojax import checkpoint

KILLS = int(os.environ.get("TOTOJAX_KILLS", "3"))
SEED = int(os.environ.get("TOTOJAX_KILLS_SEED", "0"))
A_CHAIN = 10  # kills, at most, before it is compared and another one begun
STORES = ("clips/train", "clips/val", "shards/train", "shards/val")
STAGES = ("clips", "tokenizer", "shards", "pretrain", "probe", "report")
KILLED = [stage for stage in STAGES if stage != "tokenizer"]  # that one is there at once
WORDS = (
  *test_chain.FEWER,
  f"--config.order={STAGES!r}",
  "--config.stages.pretrain.every.eval_steps=10",
)


def command(workdir) -> list[str]:
  return runs.command("configs/demo.py", workdir, *WORDS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("whole")
  runs.finish(runs.start(command(workdir)))
  return workdir


def assert_same_chain(workdir: pathlib.Path, whole: pathlib.Path) -> None:
  """Stores, state, metrics and scores are those of the chain that nothing stopped."""
  for store in STORES:
    assert test_chain.files(workdir / store) == test_chain.files(whole / store), store
  assert runs.metrics(workdir / "pretrain") == runs.metrics(whole / "pretrain")
  runs.assert_same(
    runs.checkpoint(workdir / "pretrain", 20), runs.checkpoint(whole / "pretrain", 20)
  )
  scores = [dict(np.load(w / "probe/trained/scores.npz")) for w in (workdir, whole)]
  runs.assert_same(*scores)
  for stage in STAGES:
    assert (workdir / stage / "done.json").exists(), stage
  assert (workdir / "report" / "report.html").exists()


def has_begun(workdir: pathlib.Path, process: subprocess.Popen) -> bool:
  """Whether a process has taken its work directory."""
  try:
    return json.loads((workdir / ".lock").read_text(encoding="utf-8"))["pid"] == process.pid
  except (OSError, ValueError):
    return False


def seconds(workdir: pathlib.Path) -> float:
  """What a run took that is done."""
  return json.loads((workdir / "done.json").read_text(encoding="utf-8"))["seconds"]


def begins(process: subprocess.Popen, stage: str) -> None:
  """Returns as a chain begins a stage, or ends."""
  assert process.stdout is not None
  for line in process.stdout:
    if line.startswith("[") and line.rstrip().endswith(f"] {stage}"):
      return


def stop(process: subprocess.Popen, after_s: float, number: int) -> bool:
  """Sends a signal some time from now; False where the process had ended before."""
  until = time.monotonic() + after_s
  wait([process], lambda: time.monotonic() > until)
  alive = process.poll() is None
  process.send_signal(number)
  return alive


def signals(rng: np.random.Generator, stages: list[str]) -> list[tuple[str, str, float]]:
  """Stage, signal and share of the stage's time of some kills, in order."""
  return [
    (stages[i], "SIGTERM" if rng.random() < 0.2 else "SIGKILL", rng.random())
    for i in sorted(rng.integers(len(stages), size=A_CHAIN))
  ]


def reached(workdir: pathlib.Path) -> str:
  """The first stage of a chain that is not done."""
  stages = (stage for stage in STAGES if not (workdir / stage / "done.json").exists())
  return next(stages, "end")


@pytest.mark.exhaustive("test_chain.py::test_killed_in_three_stages_ends_the_same")
def test_a_chain_survives_kills_in_any_stage(whole, tmp_path):
  """Each chain is killed so often, then ends and is compared; another one is begun."""
  rng, workdir, chains = np.random.default_rng(SEED), tmp_path / "chain", 0
  took = {stage: seconds(whole / stage) for stage in STAGES}
  kills = collections.Counter()
  while kills.total() < KILLS:
    for stage, name, share in signals(rng, KILLED):
      if kills.total() == KILLS or (workdir / stage / "done.json").exists():
        continue
      process = runs.start(command(workdir))
      begins(process, stage)
      alive = stop(process, share * took[stage], getattr(signal, name))
      output = runs.finish(process, code=None)
      kills[reached(workdir), name] += alive
      # It may come to its end in the moment before.
      ended = name == "SIGTERM" or (workdir / "done.json").exists()
      assert process.returncode == -signal.SIGKILL or (ended and not process.returncode), output
    runs.finish(runs.start(command(workdir)))
    assert_same_chain(workdir, whole)
    shutil.rmtree(workdir)
    chains += 1
  print(f"seed {SEED}: {dict(kills)}, {chains} chains, all the same as the unbroken one")


@pytest.mark.exhaustive("test_chain.py::test_killed_in_three_stages_ends_the_same")
def test_another_chain_would_be_noticed(whole, tmp_path):
  """Control: one bit of a store, one row of metrics."""
  workdir = shutil.copytree(whole, tmp_path / "chain")
  (shard,) = (workdir / "shards/val/shard-00000/codes").rglob("c/*/*")
  values = bytearray(shard.read_bytes())
  values[7] ^= 1
  shard.write_bytes(values)
  with pytest.raises(AssertionError, match="shards/val"):
    assert_same_chain(workdir, whole)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  root = tmp_path_factory.mktemp("stores")
  return (
    stores.write(root / "train", records=96, seed=0, prefix="t"),
    stores.write(root / "val", records=19, seed=1, prefix="v"),
  )


def smoke(data, workdir) -> list[str]:
  return runs.smoke(data, workdir, test_hosts.LONG, "--config.every.checkpoint_steps=4")


def wait(processes: list[subprocess.Popen], ready) -> None:
  """Returns once something is so, or one of the processes has ended."""
  while all(process.poll() is None for process in processes) and not ready():
    time.sleep(0.01)


@pytest.fixture(scope="module")
def two_hosts(data, tmp_path_factory):
  """The run of two hosts that nothing stopped."""
  workdir = tmp_path_factory.mktemp("hosts")
  test_hosts.finish(test_hosts.start_hosts(smoke(data, workdir), 2, test_hosts.DEVICES))
  return workdir


@pytest.mark.exhaustive("test_hosts.py::test_a_lost_host_ends_the_other_and_the_run_goes_on")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_two_hosts_survive_signals_to_either(data, two_hosts, tmp_path, number):
  """The one that is left ends by itself, and both are started again."""
  rng, workdir, kills, ended = np.random.default_rng(SEED), tmp_path / "killed", 0, 0
  start = lambda: test_hosts.start_hosts(smoke(data, workdir), 2, test_hosts.DEVICES)
  while kills < max(KILLS // 10, 1):
    processes = start()
    wait(processes, lambda: has_begun(workdir, processes[0]))
    after_s = rng.uniform(0, seconds(two_hosts))
    kills += stop(processes[rng.integers(2)], after_s, number)
    for process in processes:
      output = runs.finish(process, code=None)
      assert process.returncode in (0, 75, -signal.SIGKILL), output
    if (workdir / "done.json").exists():
      assert_same_run(workdir, two_hosts)
      shutil.rmtree(workdir)
      ended += 1
  test_hosts.finish(start())
  assert_same_run(workdir, two_hosts)
  print(f"seed {SEED}: {kills} {number.name} to one host of two, {ended + 1} runs, as unbroken")


def assert_same_run(workdir: pathlib.Path, whole: pathlib.Path) -> None:
  assert runs.metrics(workdir) == runs.metrics(whole)
  runs.assert_same(*(runs.checkpoint(w, test_hosts.STEPS) for w in (workdir, whole)))


@pytest.mark.exhaustive("test_hosts.py::test_a_lost_host_ends_the_other_and_the_run_goes_on")
def test_four_hosts_then_two_then_one(data, tmp_path):
  """Each leaves at a SIGTERM; the losses are those of one process, to 1e-6."""
  workdir, whole = tmp_path / "fewer", tmp_path / "whole"
  for number in (4, 2):
    before = checkpoint.latest_step(workdir / "checkpoints") or 0
    processes = test_hosts.start_hosts(smoke(data, workdir), number, test_hosts.DEVICES)
    saved = lambda: checkpoint.latest_step(workdir / "checkpoints") or 0
    wait(processes, lambda: saved() > before)
    for process in processes:
      process.send_signal(signal.SIGTERM)
    test_hosts.finish(processes)
    assert before < saved() < test_hosts.STEPS
  for folder in (workdir, whole):
    runs.finish(runs.start(smoke(data, folder), test_hosts.DEVICES))
  test_hosts.assert_close(runs.metrics(workdir), runs.metrics(whole), rtol=1e-6)


ENDS_SLOWLY = """
import sys, time
from totojax import main
main.Interrupt()
class Slow:
  def __del__(self):
    print("ending", flush=True)
    time.sleep(1)
kept = Slow()
"""


def test_a_signal_while_python_ends_is_not_its_status():
  process = runs.start([sys.executable, "-c", ENDS_SLOWLY])
  assert process.stdout is not None
  assert process.stdout.readline() == "ending\n"
  process.send_signal(signal.SIGTERM)
  runs.finish(process, code=0)
