"""Checkpoints with a damaged byte: refused, or read as they were written."""

import json
import pathlib
import random
import shutil
import sys
import time

import classed
from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint._src import asyncio_utils
import probes
import pytest
import runs

import totojax
from totojax import checkpoint, jobs, step as step_lib
from totojax.config import recipes
from totojax.config.training import CheckpointConfig
from totojax.rundir import directory
from totojax.tokenizers import weights

FLIPS = 8 if runs.EXHAUSTIVE else 4  # of each file


def state(seed: int) -> step_lib.TrainState:
  """Arrays that TensorStore writes to files of their own, and some in its lists."""
  key = jax.random.key(seed)
  params = {
    "large": jax.random.normal(key, (128, 96)),
    "half": jax.random.normal(key, (64, 64)).astype(jnp.bfloat16),
    "small": jnp.arange(5, dtype=jnp.float32) + seed,
  }
  return step_lib.TrainState(step=jnp.int32(seed), params=params, stats={}, opt_state={}, frozen={})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  folder = epath.Path(tmp_path_factory.mktemp("damage") / "checkpoints")
  checkpoints = checkpoint.Checkpoints(folder, CheckpointConfig())
  for step in (1, 2):
    checkpoints.save(step, state(step), {"step": step, "name": "a run"})
  checkpoints.close()
  return folder


def restored(folder, **config):
  like = state(0)
  shardings = jax.tree.map(lambda x: x.sharding, like)
  checkpoints = checkpoint.Checkpoints(folder, CheckpointConfig(**config))
  try:
    tree, meta = checkpoints.restore(jax.eval_shape(lambda: like), shardings)
  finally:
    checkpoints.close()
  return jax.tree.map(np.asarray, tree), meta


def equal(tree, step):
  expected = state(step).params
  return all(np.array_equal(tree["params"][k], np.asarray(expected[k])) for k in expected)


def test_a_flipped_bit_anywhere_is_no_other_state(saved, tmp_path):
  rng = random.Random(20)
  refused = 0
  paths = [p.relative_to(saved) for p in pathlib.Path(saved, "2").rglob("*") if p.is_file()]
  assert any("/d/" in str(path) for path in paths)
  for path in paths:
    size = len((saved / path).read_bytes())
    for _ in range(min(FLIPS, size)):
      copy = epath.Path(tmp_path / "copy")
      shutil.rmtree(copy, ignore_errors=True)
      shutil.copytree(saved, copy)
      data = bytearray((copy / path).read_bytes())
      data[rng.randrange(size)] ^= 1 << rng.randrange(8)
      (copy / path).write_bytes(bytes(data))
      try:
        tree, meta = restored(copy)
      except checkpoint.CheckpointError as error:
        refused += 1
        assert str(error).startswith(str(copy / "2")), error
      else:
        assert equal(tree, 2) and meta == {"step": 2, "name": "a run"}, path
  assert refused > FLIPS


def test_without_checksums_a_flipped_bit_is_another_state(tmp_path):
  """The control: what orbax writes by itself."""
  path = tmp_path / "plain"
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as writer:
    writer.save(path, args=ocp.args.PyTreeSave({"large": state(1).params["large"]}))
  largest = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
  data = bytearray(largest.read_bytes())
  data[len(data) // 2] ^= 4
  largest.write_bytes(bytes(data))
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
    tree = reader.restore(path)
  assert not np.array_equal(tree["large"], state(1).params["large"])


def damaged(saved, tmp_path):
  folder = epath.Path(tmp_path / "damaged")
  shutil.copytree(saved, folder)
  runs.damage(folder / "2")
  return folder


def test_the_one_before_is_used_where_the_config_says_so(saved, tmp_path, capsys):
  folder = damaged(saved, tmp_path)
  with pytest.raises(checkpoint.Damaged, match=r"1 updates are made again.*skip_damaged"):
    restored(folder)
  assert checkpoint.whole_steps(folder) == [1, 2]
  tree, meta = restored(folder, skip_damaged=True)
  assert equal(tree, 1) and meta["step"] == 1
  (aside,) = [p.name for p in folder.iterdir() if "damaged" in p.name]
  assert aside.startswith("2.damaged-") and checkpoint.whole_steps(folder) == [1]
  assert str(folder / "2") in " ".join(capsys.readouterr().out.split())
  checkpoints = checkpoint.Checkpoints(folder, CheckpointConfig())
  checkpoints.save(2, state(2), {"step": 2})  # the run comes by there again
  checkpoints.close()
  assert equal(restored(folder)[0], 2)


def test_another_config_is_no_damage(saved, tmp_path):
  """A checkpoint that does not fit is not put aside."""
  folder = epath.Path(tmp_path / "other")
  shutil.copytree(saved, folder)
  like = state(0)
  like.params["large"] = jnp.zeros((2, 2))
  checkpoints = checkpoint.Checkpoints(folder, CheckpointConfig(skip_damaged=True))
  with pytest.raises(checkpoint.CheckpointError, match="does not fit"):
    checkpoints.restore(jax.eval_shape(lambda: like), jax.tree.map(lambda x: x.sharding, like))
  checkpoints.close()
  assert checkpoint.whole_steps(folder) == [1, 2]


def test_orbaxs_list_of_arrays_is_damage_and_no_other_config(saved, tmp_path):
  """Its names, and an array that is not in it any more."""
  for old, new in (("half", "hblf"), ("large", "largf"), ("small", "smaml")):
    folder = epath.Path(tmp_path / new)
    shutil.copytree(saved, folder)
    path = folder / "2" / "state" / "_METADATA"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(checkpoint.Damaged, match="list of its arrays.*skip_damaged"):
      restored(folder)
    assert equal(restored(folder, skip_damaged=True)[0], 1)


def test_meta_data_that_were_changed_are_refused(saved, tmp_path):
  folder = epath.Path(tmp_path / "meta")
  shutil.copytree(saved, folder)
  path = folder / "2" / "meta" / "metadata"
  values = json.loads(path.read_text())
  path.write_text(json.dumps(values))  # written otherwise, and the same
  assert restored(folder)[1]["step"] == 2
  path.write_text(json.dumps({**values, "meta": values["meta"].replace("2", "3")}))
  with pytest.raises(checkpoint.Damaged, match="meta data"):
    restored(folder)


def test_older_checkpoints_without_checksums_are_read(tmp_path):
  folder = tmp_path / "old"
  writer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
  tree = {k: v for k, v in checkpoint.written(state(7)).items()}
  writer.save(
    folder / "7",
    args=ocp.args.Composite(state=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave({"x": 1})),
  )
  writer.wait_until_finished()
  writer.close()
  tree, meta = restored(epath.Path(folder))
  assert equal(tree, 7) and meta == {"x": 1}


def job(make):
  """Runs a job on a run and pictures, of its config."""

  def read(run, workdir):
    config = make(run)
    jobs.run(getattr(config, "to_dict", lambda: config)(), epath.Path(workdir), classed.NEVER)

  return read


def probe(run):
  """On a labelled store, to which the run's own tokens are good."""
  folder = pathlib.Path(run).parent
  mark = weights.load("shipped")
  like = dict(classes=classed.CLASSES, tokenizer=mark.fingerprint, vocab=mark.vocab)
  stores = [
    probes.write(folder / p, np.arange(n) % 3, prefix=p, seed=n, **like)
    for p, n in (("t", 48), ("v", 19))
  ]
  return probes.config(run, *stores)


def features(run):
  config = recipes.features(run)
  config.source.update(root=classed.data()["images"], kind="image")
  config.source.folder.class_folders = True
  config.amount.workers = 0
  return config


def tuned(config):
  config.data.holdout_frac = 0.2
  return classed.small(config, classed.data()["images"])


def started(run):
  """Pre-training from the run's parameters."""
  return {**directory.read_config(run), "init_from": run}


READERS = {
  "totojax.load": lambda run, workdir: totojax.load(run),
  "validate": job(recipes.validate),
  "features": job(features),
  "probe": job(probe),
  "joint": job(lambda run: tuned(recipes.joint(run))),
  "finetune": job(lambda run: tuned(recipes.finetune(run))),
  "init_from": job(started),
}


# Those that compile what they train before they read.
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("joint", "finetune", "init_from")]


@pytest.mark.parametrize("reader", [*list(READERS)[:4], *SLOW])
def test_every_reader_refuses_a_damaged_checkpoint(reader, tmp_path):
  run = tmp_path / "run"
  shutil.copytree(classed.data()["model"], run)
  step = run / "checkpoints" / str(checkpoint.latest_step(run / "checkpoints"))
  runs.damage(step)
  with pytest.raises(checkpoint.Damaged) as caught:
    READERS[reader](str(run), tmp_path / "work")
  told = str(caught.value)
  assert told.startswith(f"{step} cannot be read (") and "restore it from a copy" in told
  assert len(told.splitlines()) == 1


@pytest.mark.parametrize("waits", [True, False])
def test_nothing_is_said_after_the_error(waits, tmp_path, monkeypatch):
  """What TensorStore answers once orbax has given up; the control is orbax alone."""
  told, folder = [], tmp_path / "run"
  monkeypatch.setattr(sys, "unraisablehook", lambda found: told.append(found.exc_value))
  if not waits:
    monkeypatch.setattr(asyncio_utils, "run_sync", checkpoint._run_sync)
  shutil.copytree(classed.data()["model"], folder)
  (step,) = checkpoint.whole_steps(folder / "checkpoints")
  runs.damage(folder / "checkpoints" / str(step))
  for _ in range(4 if waits else 40):
    with pytest.raises(ValueError, match="Error reading"):
      runs.checkpoint(folder, step)
    time.sleep(0.1)
    if told:
      break
  closed = [str(error) for error in told if "Event loop is closed" in str(error)]
  assert bool(closed) != waits
