"""Two real processes: the same losses, data, checkpoint and resume as one."""

import json
import shutil
import signal
import socket
import time

import numpy as np
import pytest
import runs
import stores

from totojax import checkpoint

pytestmark = pytest.mark.slow
STEPS = 80  # of the run that is stopped on its way


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  root = tmp_path_factory.mktemp("stores")
  return (
      stores.write(root / "train", records=96, seed=0, prefix="t"),
      # Not a multiple of the batch: the last validation batch is padded.
      stores.write(root / "val", records=19, seed=1, prefix="v"),
  )


def free_port() -> int:
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


def start_hosts(words: list[str], hosts: int, devices: int) -> list:
  """Processes of one run over loopback, `devices` devices in all."""
  port = free_port()
  return [
      runs.start(
          [
              *words,
              "--multihost",
              f"--coordinator=127.0.0.1:{port}",
              f"--processes={hosts}",
              f"--process={host}",
          ],
          devices // hosts,
      )
      for host in range(hosts)
  ]


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
  """One process with two devices."""
  workdir = tmp_path_factory.mktemp("alone")
  runs.finish(runs.start(runs.smoke(data, workdir), devices=2))
  return workdir


def assert_close(rows: list[dict], expected: list[dict]) -> None:
  assert [(r["step"], r["kind"]) for r in rows] == [
      (r["step"], r["kind"]) for r in expected
  ]
  for row, other in zip(rows, expected):
    assert row.keys() == other.keys()
    for name in row.keys() - {"step", "kind"}:
      np.testing.assert_allclose(
          row[name], other[name], rtol=1e-5, err_msg=f"{row['step']} {name}"
      )


def test_two_hosts_train_like_one(data, alone, tmp_path):
  processes = start_hosts(runs.smoke(data, tmp_path), hosts=2, devices=2)
  outputs = [runs.finish(process) for process in processes]
  assert json.loads((tmp_path / "manifest.json").read_text())["processes"] == 2
  assert_close(runs.metrics(tmp_path), runs.metrics(alone))
  ours, theirs = (runs.checkpoint(w, 20) for w in (tmp_path, alone))
  assert ours.keys() == theirs.keys()
  for name in ours:
    np.testing.assert_allclose(
        ours[name], theirs[name], rtol=1e-4, atol=1e-6, err_msg=name
    )
  # Only the first process speaks.
  assert "resumed" not in outputs[1]


def test_two_hosts_stop_together_and_one_goes_on(data, tmp_path):
  """SIGTERM to one of two; then one process with two devices finishes."""
  longer = (
      f"--config.train.total_tokens={STEPS * 128.0}",
      "--config.every.checkpoint_steps=40",
      "--config.every.eval_steps=40",
  )
  words = runs.smoke(data, tmp_path, *longer)
  processes = start_hosts(words, hosts=2, devices=2)
  path = tmp_path / "metrics.jsonl"
  for _ in range(1200):
    if path.exists() and '"step": 9,' in path.read_text():
      break
    time.sleep(0.05)
  processes[1].send_signal(signal.SIGTERM)
  outputs = [runs.finish(process) for process in processes]
  reached = checkpoint.latest_step(tmp_path / "checkpoints")
  assert 0 < reached < STEPS
  assert f"stopped at step {reached} of {STEPS}" in outputs[0]

  output = runs.finish(runs.start(words, devices=2))
  assert f"resumed at step {reached} of {STEPS}" in output
  whole = tmp_path / "whole"
  runs.finish(runs.start(runs.smoke(data, whole, *longer), devices=2))
  ours, theirs = runs.metrics(tmp_path), runs.metrics(whole)
  assert_close(ours[:20], theirs[:20])
  # Rounding grows over updates; the data stays the same to the last step.
  assert abs(ours[-1]["moving/loss"] - theirs[-1]["moving/loss"]) < 1e-2


def test_one_host_resumed_on_two(data, alone, tmp_path):
  """16 steps on one process and device, then 4 on two: the same batches."""
  words = runs.smoke(data, tmp_path)
  runs.finish(runs.start(words))
  shutil.rmtree(tmp_path / "checkpoints" / "20")
  (tmp_path / "done.json").unlink()
  outputs = [
      runs.finish(process) for process in start_hosts(words, 2, devices=2)
  ]
  assert "resumed at step 16 of 20" in outputs[0]
  assert_close(runs.metrics(tmp_path), runs.metrics(alone))
