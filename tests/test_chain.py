"""Chains: every stage a run of its own, killed and continued anywhere."""

import dataclasses
import json
import os
import shutil
import signal
import time

from etils import epath
import numpy as np
import pytest
import runs

from totojax.config import roots, studies, study_recipes
from totojax.jobs import chain
from totojax.rundir import directory

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
  "--config.stages.motion.amount.train=40",
  "--config.stages.motion.amount.val=8",
  "--config.stages.motion_shards.tokenizing.kmeans_frames=64",
  "--config.stages.motion_shards.tokenizing.kmeans_patches=1000",
  "--config.stages.probe.data.train_records=40",
  "--config.stages.probe.train.epochs=2.0",
  "--config.stages.generate.prompt.clips=2",
  "--config.stages.generate.new_frames=2",
)
# What tests here do with the probe is the same whatever it compares; each source
# takes seconds to compile.
FEWER = (*SMALL, "--config.stages.probe.backbones=('trained',)")
STAGES = ("clips", "tokenizer", "shards", "pretrain", "validate")
STAGES += ("motion", "motion_shards", "probe", "generate", "report")


def relative(workdir) -> list[str]:
  """The command with a relative folder, as the default, runs/demo, is one."""
  folder = os.path.relpath(workdir, runs.ROOT)
  return runs.command("configs/demo.py", folder, *FEWER)


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


@pytest.mark.slow
def test_every_stage_left_what_it_should(whole):
  for stage in STAGES:
    assert (whole / stage / "done.json").exists(), stage
    config = json.loads((whole / stage / "config.json").read_text())
    # Kept unfilled, so that the chain is its own wherever it is.
    assert str(whole) not in json.dumps(config), stage
  metrics = json.loads((whole / "validate" / "metrics.json").read_text())
  assert metrics["step"] == 20
  # The same number as the last evaluation during training: 8 of 8 rows.
  last = runs.metrics(whole / "pretrain")[-1]
  np.testing.assert_allclose(metrics["rendered/loss"], last["rendered/loss"], rtol=1e-5)
  lines = (whole / "validate" / "position_loss.csv").read_text().splitlines()
  assert len(lines) == 1 + 256
  mean = np.mean([float(line.split(",")[5]) for line in lines[1:]])
  np.testing.assert_allclose(mean, metrics["rendered/loss"], rtol=1e-4)
  assert (whole / "report" / "report.html").stat().st_size > 10_000


def wait_for(path, process) -> None:
  """Returns once a running chain has written `path`."""
  for _ in range(24_000):
    if path.exists():
      return
    assert process.poll() is None, f"it ended with {process.returncode} before {path}"
    time.sleep(0.005)
  raise TimeoutError(f"{path} was never written")


@pytest.mark.slow
def test_killed_in_three_stages_ends_the_same(whole, tmp_path):
  # Those that come after are killed where all is tried (test_kills.py).
  order = f"--config.order={STAGES[: STAGES.index('validate') + 1]!r}"
  words, caught = runs.command("configs/demo.py", tmp_path, *FEWER, order), 0
  for until, stage in (
    ("clips/train/shard-00001", "clips"),
    ("shards/train/shard-00001", "shards"),
    ("pretrain/checkpoints/8/_CHECKPOINT_METADATA", "pretrain"),
  ):
    process = runs.start(words)
    wait_for(tmp_path / until, process)
    process.send_signal(signal.SIGKILL)
    runs.finish(process, code=-signal.SIGKILL)
    caught += not (tmp_path / stage / "done.json").exists()
  assert caught >= 2  # one may have ended in the moment before
  runs.finish(runs.start(words))
  for store in ("clips/train", "clips/val", "shards/train", "shards/val"):
    assert files(tmp_path / store) == files(whole / store), store
  assert runs.metrics(tmp_path / "pretrain") == runs.metrics(whole / "pretrain")
  ours, theirs = (
    json.loads((w / "validate" / "metrics.json").read_text()) for w in (tmp_path, whole)
  )
  assert ours == theirs


@pytest.mark.slow
def test_finished_stages_are_not_run_again(whole):
  (whole / "report" / "done.json").unlink()
  before = os.stat(whole / "pretrain" / "metrics.jsonl").st_mtime_ns
  output = runs.finish(runs.start(relative(whole)))
  assert "[10/10] report" in output and "[4/10]" not in output
  assert os.stat(whole / "pretrain" / "metrics.jsonl").st_mtime_ns == before


@pytest.mark.slow
def test_a_chain_that_was_moved_goes_on(whole, tmp_path):
  """Named relative at first, now absolute; some of its stages are still to do."""
  moved = tmp_path / "elsewhere" / "demo"
  shutil.copytree(whole, moved)
  for stage in ("validate", "report"):
    shutil.rmtree(moved / stage)
  output = runs.finish(runs.start(runs.command("configs/demo.py", moved, *FEWER)))
  assert "[5/10] validate" in output and "[4/10]" not in output
  assert (moved / "done.json").exists()
  for file in ("validate/metrics.json", "pretrain/metrics.jsonl"):
    assert (moved / file).read_bytes() == (whole / file).read_bytes()
  # Validation reads the stores of the moved chain, not those left behind.
  shutil.rmtree(moved / "validate")
  shutil.rmtree(moved / "shards" / "val")
  output = runs.finish(runs.start(runs.command("configs/demo.py", moved, *FEWER)), code=2)
  assert f"{moved}/shards/val" in output and "Traceback" not in output


@pytest.mark.slow
def test_a_second_run_is_refused_and_sigterm_says_how_to_go_on(tmp_path):
  words = runs.command("configs/demo.py", tmp_path, *FEWER)
  first = runs.start(words)
  wait_for(tmp_path / "clips/train/manifest.json", first)
  # Held where it is: it might be done before the second one has looked.
  first.send_signal(signal.SIGSTOP)
  output = runs.finish(runs.start(words), code=2)
  assert f"{tmp_path} is in use by process {first.pid}" in output
  assert "Traceback" not in output
  first.send_signal(signal.SIGTERM)
  first.send_signal(signal.SIGCONT)
  last = runs.finish(first).strip().splitlines()[-1]
  assert last == (f"{tmp_path}: stopped; run the same command again to go on")
  assert not (tmp_path / "done.json").exists()


def test_a_stage_keeps_its_folders_name_open(tmp_path):
  """config.json has "{workdir}", jobs and readers have the folder."""
  stage = study_recipes.scaling("a={workdir}/s", "b={workdir}").to_dict()
  old, new = (epath.Path(tmp_path / name) for name in ("old", "new"))
  filled = directory.typed(stage, old)
  assert filled.scaling.runs == (f"a={old}/s", f"b={old}")
  directory.begin(old / "a", filled)
  assert "{workdir}/s" in (old / "a" / "config.json").read_text()
  old.rename(new)
  found = directory.read_config(new / "a")["scaling"]["runs"]
  assert found == [f"a={new}/s", f"b={new}"]
  config = studies.Chain(order=("a",), stages={"a": stage})
  for name in (new, os.path.relpath(new)):
    assert chain.check(name, config, allow_change=False) == epath.Path(name)
  # Another path is still another config.
  stage = study_recipes.scaling(f"a={old}/s", "b={workdir}").to_dict()
  config = studies.Chain(order=("a",), stages={"a": stage})
  with pytest.raises(directory.ConfigChanged, match="scaling.runs: "):
    chain.check(new, config, allow_change=False)


def test_the_advice_about_a_finished_stage_works(tmp_path):
  stages = {"a": {"lr": 1.0}, "b": {"lr": 1.0}, "c": {"lr": 1.0}}
  config = studies.Chain(order=("a", "b", "c"), stages=stages)
  workdir = epath.Path(tmp_path)
  for name in ("", *config.order):
    directory.begin(workdir / name, stages.get(name, config))
    directory.mark_done(workdir / name, 1.0)
  assert chain.is_done(workdir, config)
  config = dataclasses.replace(config, stages=stages | {"b": {"lr": 2.0}})
  for allow in (False, True):
    with pytest.raises(directory.ConfigChanged) as caught:
      chain.check(workdir, config, allow_change=allow)
    told = str(caught.value)
    assert "lr: 1.0 -> 2.0" in told and "--allow_changed_config" not in told
    assert f"remove {workdir / 'b'} and beside it c," in told
  for name in ("b", "c"):
    (workdir / name).rmtree()
  chain.check(workdir, config, allow_change=False)
  assert not chain.is_done(workdir, config)


def test_how_many_processes_render_may_change(tmp_path):
  """Alone and in a chain, begun or finished; what is rendered may not."""
  world = lambda processes, seed=0: roots.config("world", processes=processes, seed=seed).to_dict()
  of = lambda *values: studies.Chain(order=("clips",), stages={"clips": world(*values)})
  directory.begin(epath.Path(tmp_path / "clips"), world(-1))
  for finished in (False, True):
    if finished:
      directory.mark_done(tmp_path / "clips", 1.0)
    directory.check(tmp_path / "clips", world(1), allow_change=False)
    chain.check(tmp_path, of(1), allow_change=False)
    for check in (
      lambda: directory.check(tmp_path / "clips", world(1, 2), allow_change=False),
      lambda: chain.check(tmp_path, of(1, 2), allow_change=False),
    ):
      with pytest.raises(directory.ConfigChanged, match="  seed: 0 -> 2") as caught:
        check()
      assert "processes:" not in str(caught.value)


def test_order_and_stages_must_agree(tmp_path):
  for order in (("a", "c"), (), ("a", "a")):
    with pytest.raises(ValueError, match="name some of these, each once"):
      studies.Chain(order=order, stages={"a": {}, "b": {}})
  config = studies.Chain(order=("b",), stages={"a": {}, "b": {}})  # a stage alone
  chain.check(tmp_path, config, allow_change=False)


def test_only_stages_that_began_hold_their_config(tmp_path):
  def config(lr):
    stages = {"a": {"run": "x", "path": "{workdir}/s"}, "b": {"lr": lr}}
    return studies.Chain(order=("a", "b"), stages=stages)

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
  with pytest.raises(directory.ConfigChanged, match="lr: 1.0 -> 2.0"):
    chain.check(tmp_path, config(2.0), allow_change=False)
  chain.check(tmp_path, config(2.0), allow_change=True)
  (second / "done.json").write_text("{}")
  with pytest.raises(directory.ConfigChanged, match="stage is finished"):
    chain.check(tmp_path, config(2.0), allow_change=True)
