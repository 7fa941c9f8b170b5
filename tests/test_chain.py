"""Chains: every stage a run of its own, killed and continued anywhere."""

import json
import os
import signal
import time

import numpy as np
import pytest
import runs

from totojax import chain
from totojax import logs

pytestmark = pytest.mark.slow

SMALL = (
    "--config.stages.clips.amount.train=64",
    "--config.stages.clips.amount.val=8",
    "--config.stages.clips.amount.records_per_shard=16",
    "--config.stages.shards.tokenizing.records=8",
    "--config.stages.shards.tokenizing.records_per_shard=16",
    "--config.stages.shards.tokenizing.report_frames=64",
    "--config.stages.shards.tokenizing.kmeans_frames=256",
    "--config.stages.shards.tokenizing.kmeans_patches=2000",
    "--config.stages.pretrain.model.width=32",
    "--config.stages.pretrain.model.depth=2",
    "--config.stages.pretrain.train.total_tokens=81920.0",  # 20 steps
    "--config.stages.pretrain.optim.warmup_steps=2",
    "--config.stages.pretrain.every.log_steps=1",
    "--config.stages.pretrain.every.checkpoint_steps=4",
)
STAGES = ("clips", "tokenizer", "shards", "pretrain", "validate", "report")


def relative(workdir) -> list[str]:
  """The command with a relative folder, as the default, runs/demo, is one."""
  folder = os.path.relpath(workdir, runs.ROOT)
  return runs.command("configs/demo.py", folder, *SMALL)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("demo")
  runs.finish(runs.start(relative(workdir)))
  return workdir


def files(folder) -> dict[str, bytes]:
  """Every file below a folder by its path."""
  return {
      str(path.relative_to(folder)): path.read_bytes()
      for path in sorted(folder.rglob("*"))
      if path.is_file()
  }


def test_every_stage_left_what_it_should(whole):
  for stage in STAGES:
    assert (whole / stage / "done.json").exists(), stage
    config = json.loads((whole / stage / "config.json").read_text())
    assert "{workdir}" not in json.dumps(config), stage
  metrics = json.loads((whole / "validate" / "metrics.json").read_text())
  assert metrics["step"] == 20
  # The same number as the last evaluation during training: 8 of 8 rows.
  last = runs.metrics(whole / "pretrain")[-1]
  np.testing.assert_allclose(
      metrics["rendered/loss"], last["rendered/loss"], rtol=1e-5
  )
  lines = (whole / "validate" / "position_loss.csv").read_text().splitlines()
  assert len(lines) == 1 + 256
  mean = np.mean([float(line.split(",")[5]) for line in lines[1:]])
  np.testing.assert_allclose(mean, metrics["rendered/loss"], rtol=1e-4)
  assert (whole / "report" / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    "until, stage",
    [
        ("clips/train/shard-00001", "clips"),
        ("shards/train/shard-00001", "shards"),
        ("pretrain/checkpoints/8/_CHECKPOINT_METADATA", "pretrain"),
    ],
)
def test_killed_in_a_stage_ends_the_same(whole, tmp_path, until, stage):
  words = runs.command("configs/demo.py", tmp_path, *SMALL)
  process = runs.start(words)
  for _ in range(12_000):
    if (tmp_path / until).exists():
      break
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  runs.finish(process, code=-signal.SIGKILL)
  assert not (tmp_path / stage / "done.json").exists()
  runs.finish(runs.start(words))
  for store in ("clips/train", "clips/val", "shards/train", "shards/val"):
    assert files(tmp_path / store) == files(whole / store), store
  assert runs.metrics(tmp_path / "pretrain") == runs.metrics(
      whole / "pretrain"
  )
  ours, theirs = (
      json.loads((w / "validate" / "metrics.json").read_text())
      for w in (tmp_path, whole)
  )
  assert ours == theirs


def test_finished_stages_are_not_run_again(whole):
  (whole / "done.json").unlink()
  (whole / "report" / "done.json").unlink()
  before = os.stat(whole / "pretrain" / "metrics.jsonl").st_mtime_ns
  output = runs.finish(runs.start(relative(whole)))
  assert "[6/6] report" in output and "[4/6]" not in output
  assert os.stat(whole / "pretrain" / "metrics.jsonl").st_mtime_ns == before


def test_workdir_is_filled_in_everywhere():
  value = {"a": {"b": "{workdir}/x"}, "c": 3, "d": "{workdir}"}
  assert chain.resolve(value, "/w") == {"a": {"b": "/w/x"}, "c": 3, "d": "/w"}


def test_only_stages_that_began_hold_their_config(tmp_path):
  def config(lr):
    stages = {"a": {"run": "x", "path": "{workdir}/s"}, "b": {"lr": lr}}
    return {"run": "chain", "order": ("a", "b"), "stages": stages}

  first = tmp_path / "a"
  first.mkdir()
  begun = {"run": "x", "path": f"{tmp_path}/s"}
  (first / "config.json").write_text(json.dumps(begun))
  chain.check(tmp_path, config(1.0), allow_change=False)
  chain.check(tmp_path, config(2.0), allow_change=False)  # b has not begun

  second = tmp_path / "b"
  second.mkdir()
  (second / "config.json").write_text(json.dumps({"lr": 1.0}))
  chain.check(tmp_path, config(1.0), allow_change=False)
  with pytest.raises(logs.ConfigChanged, match="lr: 1.0 -> 2.0"):
    chain.check(tmp_path, config(2.0), allow_change=False)
  chain.check(tmp_path, config(2.0), allow_change=True)
  (second / "done.json").write_text("{}")
  with pytest.raises(logs.ConfigChanged, match="is finished"):
    chain.check(tmp_path, config(2.0), allow_change=True)
