"""Runs that branch off another's checkpoints: bit for bit the run in one go, or refused."""

import json
import shutil

import pytest
import runs
import stores

from totojax import checkpoint

pytestmark = pytest.mark.slow

WSD = ("--config.optim.schedule=wsd", "--config.optim.warmup_steps=2")
TOKENS = 128  # of an update


def length(steps: int) -> str:
  return f"--config.train.total_tokens={float(steps * TOKENS)}"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return stores.pair(tmp_path_factory.mktemp("stores"))


@pytest.fixture(scope="module")
def trunk(data, tmp_path_factory):
  """A constant rate for 12 updates, of which 4 and 8 are kept."""
  workdir = tmp_path_factory.mktemp("runs") / "trunk"
  words = (*WSD, length(12), "--config.optim.decay_frac=0.0")
  keep = ("--config.every.checkpoint_steps=4", "--config.checkpoint.keep_every_steps=4")
  runs.here(runs.smoke(data, workdir, *words, *keep))
  assert checkpoint.whole_steps(workdir / "checkpoints") == [4, 8, 12]
  return workdir


def decayed(data, workdir, *more):
  """The command of a run of 10 updates, of which 2 are a decay to 0."""
  words = (*WSD, length(10), "--config.optim.decay_frac=0.2", "--config.optim.end_lr_frac=0.0")
  return runs.smoke(data, workdir, *words, *more)


def test_a_branch_is_the_run_in_one_go(data, trunk, tmp_path):
  runs.here(decayed(data, tmp_path / "whole"))
  branch = decayed(data, tmp_path / "branch", f"--config.branch_from={trunk}@8")
  printed = runs.here([*branch, "--config.every.log_steps=1"])
  assert "branched off at step 8 of 10" in printed
  ends = {name: runs.checkpoint(tmp_path / name, 10) for name in ("whole", "branch")}
  runs.assert_same(ends["branch"], ends["whole"])
  facts = json.loads((tmp_path / "branch" / "manifest.json").read_text())
  assert facts["branch_from"] == {"run": str(trunk), "step": 8} and facts["steps"] == 10
  rows = runs.metrics(tmp_path / "branch")
  assert [row["step"] for row in rows if row["kind"] == "train"] == [9, 10]
  # Negative control: the trunk, without the two updates.
  with pytest.raises(AssertionError):
    runs.assert_same(runs.checkpoint(trunk, 8), ends["whole"])


def test_a_branch_that_is_stopped_goes_on_from_its_own_checkpoints(data, trunk, tmp_path):
  words = decayed(data, tmp_path / "b", f"--config.branch_from={trunk}@4")
  words += ["--config.every.checkpoint_steps=3"]
  runs.here(words)
  whole = runs.checkpoint(tmp_path / "b", 10)
  (tmp_path / "b" / "done.json").unlink()
  shutil.rmtree(tmp_path / "b" / "checkpoints" / "10")
  assert "resumed at step 9 of 10" in runs.here(words)
  runs.assert_same(runs.checkpoint(tmp_path / "b", 10), whole)


@pytest.mark.parametrize(
  "step, word, told",
  [
    (8, "--config.seed=1", "seed is 0 there and 1 here"),
    (8, "--config.optim.b2=0.9", "optim.b2 is 0.95 there and 0.9 here"),
    (8, "--config.train.batch_tokens=256", "train.batch_tokens is 128 there and 256 here"),
    (12, "--config.seed=0", "the rate of this run falls from update 8 of 10 on"),
    (8, "--config.optim.schedule=cosine", "optim.schedule is 'wsd' there and 'cosine' here"),
    (6, "--config.seed=0", "no whole checkpoint of step 6; there are [4, 8, 12]"),
    (8, "--config.init_from=elsewhere", "init_from and branch_from are both set"),
    ("", "--config.seed=0", "write RUN@STEP"),
  ],
)
def test_what_is_no_branch_is_refused_in_a_line(data, trunk, tmp_path, step, word, told):
  words = decayed(data, tmp_path / "b", f"--config.branch_from={trunk}@{step}", word)
  printed = runs.here(words, code=2)
  line = next(line for line in printed.splitlines() if line.startswith("totojax: "))
  assert told in line
  assert not (tmp_path / "b").exists()


def test_other_training_data_are_refused(data, trunk, tmp_path):
  others = stores.write(tmp_path / "others", records=16, seed=7, prefix="o")
  words = decayed((str(others), data[1]), tmp_path / "b", f"--config.branch_from={trunk}@8")
  assert "has other training data than this run" in runs.here(words, code=2)
