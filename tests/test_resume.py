"""A run that was stopped ends where one that was not ends, bit for bit."""

import json
import os
import pathlib
import shutil
import signal

import pytest
import runs
import stores

from totojax import checkpoint, train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return stores.pair(tmp_path_factory.mktemp("stores"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
  """The run that nothing stopped: 20 steps."""
  workdir = tmp_path_factory.mktemp("whole")
  runs.here(runs.smoke(data, workdir))
  return workdir


def unfinished(whole, workdir) -> pathlib.Path:
  """A copy of a run that does not know yet that it is done."""
  shutil.copytree(whole, workdir, dirs_exist_ok=True)
  os.remove(workdir / "done.json")
  return workdir


LONG = 60  # steps
SLOWLY = (
  f"--config.train.total_tokens={LONG * 128.0}",
  "--config.every.checkpoint_steps=20",
  "--config.every.eval_steps=40",
)


@pytest.fixture(scope="module")
def long_whole(data, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("long")
  runs.finish(runs.start(runs.smoke(data, workdir, *SLOWLY)))
  return workdir


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_and_resumed_is_bit_identical(data, long_whole, tmp_path, number):
  words = runs.smoke(data, tmp_path, *SLOWLY)
  # The save of step 40 was begun, once that of step 20 was done.
  process = runs.start_and_stop(words, 50)
  process.send_signal(number)
  process.send_signal(signal.SIGCONT)
  gentle = number == signal.SIGTERM
  output = runs.finish(process, code=0 if gentle else -number)
  assert ("stopped at step" in output) == gentle
  assert not (tmp_path / "done.json").exists()
  reached = checkpoint.latest_step(tmp_path / "checkpoints")
  assert reached is not None and 0 < reached < LONG

  output = runs.finish(runs.start(words))
  assert f"resumed at step {reached} of {LONG}" in output
  assert runs.metrics(tmp_path) == runs.metrics(long_whole)
  runs.assert_same(runs.checkpoint(tmp_path, LONG), runs.checkpoint(long_whole, LONG))
  assert (tmp_path / "done.json").exists()
  assert "done already" in runs.here(words)


@pytest.mark.slow
def test_other_data_order_would_be_noticed(data, whole, tmp_path):
  runs.here(runs.smoke(data, tmp_path, "--config.seed=1"))
  with pytest.raises(AssertionError):
    runs.assert_same(runs.checkpoint(tmp_path, 20), runs.checkpoint(whole, 20))
  assert runs.metrics(tmp_path) != runs.metrics(whole)


@pytest.mark.slow
def test_changed_config_is_refused_by_key(data, whole):
  words = runs.smoke(data, whole, "--config.optim.lr=0.5")
  output = runs.here(words, code=2)
  assert "optim.lr: 0.01 -> 0.5" in output
  assert "--allow_changed_config" in output
  assert "Traceback" not in output


@pytest.mark.slow
def test_loss_that_is_not_finite_stops_before_it_is_saved(data, tmp_path):
  words = runs.smoke(data, tmp_path, "--config.optim.lr=1e30", "--config.optim.clip_norm=1e9")
  output = runs.here(words, code=2)
  # The first loss is of a sane state, but its update leaves none.
  assert "the param_norm of step 1 is inf" in output
  assert checkpoint.latest_step(tmp_path / "checkpoints") is None
  assert "Lower optim.lr" in output


@pytest.mark.slow
def test_full_disk_names_the_path(data, tmp_path):
  """A file-size limit stands for the full disk: writes fail half-way."""
  words = runs.smoke(data, tmp_path, "--config.model.width=256")
  limited = ["bash", "-c", 'ulimit -f 196; exec "$@"', "bash", *words]  # KiB
  output = runs.finish(runs.start(limited), code=74)
  assert str(tmp_path / "checkpoints") in output
  assert "could not be written" in output
  assert checkpoint.latest_step(tmp_path / "checkpoints") is None
  # With room again, the same command starts over and finishes.
  runs.here(words)
  assert (tmp_path / "done.json").exists()


def test_half_written_checkpoints_do_not_count(tmp_path):
  (tmp_path / "7").mkdir()  # orbax would take this for step 7
  (tmp_path / "9.orbax-checkpoint-tmp").mkdir()
  assert checkpoint.latest_step(tmp_path) is None


def test_half_written_checkpoints_are_set_aside(tmp_path):
  """Their step can then be saved, and what was in them is still there."""
  (tmp_path / "7").mkdir()
  (tmp_path / "7" / "something").write_text("kept")
  config = checkpoint.CheckpointConfig(keep=1, keep_every_steps=0)
  checkpoint.Checkpoints(tmp_path, config).close()
  (aside,) = [p for p in tmp_path.iterdir() if "incomplete" in p.name]
  assert aside.name.startswith("7.")
  assert (aside / "something").read_text() == "kept"
  assert not (tmp_path / "7").exists()


@pytest.mark.slow
def test_damaged_checkpoint_is_refused_by_path(data, whole, tmp_path):
  folder = unfinished(whole, tmp_path) / "checkpoints" / "20"
  meta = folder / "meta" / "metadata"
  meta.write_text(meta.read_text()[:3])
  output = runs.here(runs.smoke(data, tmp_path), code=65)
  assert str(folder) in output and "remove this folder" in output


@pytest.mark.slow
def test_damaged_arrays_are_told_in_a_line_and_skipped_where_that_is_asked_for(
  data, whole, tmp_path
):
  folder = unfinished(whole, tmp_path) / "checkpoints" / "20"
  runs.damage(folder)
  output = runs.here(runs.smoke(data, tmp_path), code=65)
  told = output[output.index("totojax: ") :].strip().splitlines()
  assert len(told) == 2, output
  assert f"{folder} cannot be read (" in told[0]
  assert "remove this folder" in told[0] and "--traceback" in told[1]
  # The cause is pages long.
  assert "array" in told[0] and "details" not in told[0]
  assert len(told[0]) < len(str(folder)) + 300
  # Of a key that was set only now, with the rows of what is made again.
  output = runs.here(runs.smoke(data, tmp_path, "--config.checkpoint.skip_damaged"))
  assert "it is put aside" in output and "resumed at step 16 of 20" in output
  assert runs.metrics(tmp_path) == runs.metrics(whole)
  runs.assert_same(runs.checkpoint(tmp_path, 20), runs.checkpoint(whole, 20))


@pytest.mark.slow
def test_metrics_are_cut_back_to_the_restored_step(data, whole, tmp_path):
  shutil.rmtree(unfinished(whole, tmp_path) / "checkpoints" / "20")
  with open(tmp_path / "metrics.jsonl", "a") as file:
    file.write('{"step": 21, "kind": "tr')  # cut in the middle of a write
  output = runs.here(runs.smoke(data, tmp_path))
  assert "resumed at step 16 of 20" in output
  assert runs.metrics(tmp_path) == runs.metrics(whole)


def test_every_refuses_zero():
  with pytest.raises(ValueError, match="every.log_steps is 0"):
    train.Every(0, 1, 1)


@pytest.mark.slow
def test_run_directory_says_what_ran(whole):
  manifest = json.loads((whole / "manifest.json").read_text())
  assert manifest["parameters"] == 64 * 32 + 32 + 2 * (4 * 32 * 32 + 3 * 32 * 64 + 2 * 32)
  assert manifest["mesh"] == {"data": 1, "fsdp": 8, "tensor": 1, "sequence": 1}
  assert manifest["devices"]["count"] == 8
  rows = runs.metrics(whole)
  assert [r["step"] for r in rows if r["kind"] == "eval"] == [0, 8, 16, 20]
  assert [r["step"] for r in rows if r["kind"] == "train"] == [*range(1, 21)]
  assert any((whole / "tensorboard").iterdir())
