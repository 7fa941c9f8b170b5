"""Runs on Weights & Biases: offline ones of the real library, read back from its files."""

import importlib.util
import json
import struct

from etils import epath
import numpy as np
from PIL import Image
import pytest

from totojax.config.schema import ConfigError
from totojax.data.pixels import movies
from totojax.rundir import events, metrics, pictures, wandb_runs

INSTALLED = pytest.mark.skipif(
  importlib.util.find_spec("wandb") is None, reason="wandb is not installed"
)
STRIP_HW3 = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)


@pytest.fixture(name="workdir")
def _workdir(tmp_path, monkeypatch):
  monkeypatch.setenv("WANDB_MODE", "offline")
  monkeypatch.setenv(events.WANDB, "toto")
  folder = tmp_path / "run"
  folder.mkdir()
  (folder / "config.json").write_text(json.dumps({"model": {"width": 96}, "seed": 3}))
  (folder / pictures.FOLDER).mkdir()
  (folder / pictures.FOLDER / "000000004.png").write_bytes(movies.png(STRIP_HW3))
  return epath.Path(folder)


def records(path):
  """Of a file of W&B: LevelDB's log after 7 bytes (crc, length and kind before each part)."""
  from wandb.proto import wandb_internal_pb2

  data, at, parts = path.read_bytes(), 7, b""
  while at + 7 <= len(data):
    left = 32768 - at % 32768
    if left < 7:  # the end of a block is filled up
      at += left
      continue
    _, length, kind = struct.unpack_from("<IHB", data, at)
    parts += data[at + 7 : at + 7 + length]
    at += 7 + length
    if kind in (1, 4):  # whole, or the last part
      yield wandb_internal_pb2.Record.FromString(parts)
      parts = b""


def history(path):
  rows = []
  for record in records(path):
    if record.WhichOneof("record_type") == "history":
      items = {(i.key or "/".join(i.nested_key)): i.value_json for i in record.history.item}
      rows.append({key: json.loads(value) for key, value in items.items()})
  return rows


def written(workdir, steps, restored):
  log = metrics.MetricsLog(workdir, restored_step=restored)
  for step in steps:
    log.write(step, "train", {"loss": 1 / step}, wall={"time_s": 0.5})
    if step % 4 == 0:
      log.write(step, "eval", {"samples/change": 0.25}, wall={})
  log.flush()
  log.close()


@INSTALLED
@pytest.mark.slow
def test_rows_settings_and_strips_are_there_and_a_resumed_run_is_the_same(workdir):
  written(workdir, range(1, 6), -1)
  written(workdir, range(5, 7), 4)
  first, second = sorted((workdir / "wandb").glob("offline-run-*/*.wandb"))
  assert (
    first.name
    == second.name
    == f"run-{json.loads((workdir / 'wandb.json').read_text())['id']}.wandb"
  )
  rows = history(first)
  losses = {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}
  assert losses == {step: pytest.approx(1 / step) for step in range(1, 6)}
  (drawn,) = [row for row in rows if "eval/samples/change" in row]
  assert drawn["step"] == 4 and drawn["eval/samples/change"] == 0.25
  with Image.open(first.parent / "files" / drawn[f"{pictures.TAG}/path"]) as found:
    np.testing.assert_array_equal(np.asarray(found), STRIP_HW3)
  assert [row["step"] for row in history(second) if "train/loss" in row] == [5, 6]
  (begun,) = [r.run for r in records(first) if r.WhichOneof("record_type") == "run"][:1]
  assert begun.project == "toto" and begun.display_name == "run"
  settings = {item.key: json.loads(item.value_json) for item in begun.config.update}
  assert settings["model.width"] == 96 and settings["seed"] == 3


@INSTALLED
@pytest.mark.slow
def test_trouble_is_one_warning(workdir, monkeypatch, capfd):
  log = metrics.MetricsLog(workdir, restored_step=-1)
  beside = log._events
  assert isinstance(beside, wandb_runs.Beside)

  def refuse(row):
    raise OSError("no space is left")

  monkeypatch.setattr(beside._run, "log", refuse)
  for step in (1, 2):
    log.write(step, "train", {"loss": 1.0}, wall={})
  log.flush()
  log.close()
  said = capfd.readouterr()
  assert (said.out + said.err).count("W&B gets no more of") == 1
  assert [row["step"] for row in metrics.read(workdir / metrics.FILE)] == [1, 2]


@INSTALLED
@pytest.mark.slow
def test_who_is_not_logged_in_is_told_what_to_do(workdir, monkeypatch):
  import wandb

  wandb.teardown()  # it has read its variables once, for an earlier test
  monkeypatch.setenv("WANDB_MODE", "online")
  monkeypatch.setenv("HOME", str(workdir))
  monkeypatch.setenv("NETRC", str(workdir / "none"))
  monkeypatch.delenv("WANDB_API_KEY", raising=False)
  with pytest.raises(ConfigError, match="^--wandb=toto: .*wandb login, or set WANDB_MODE=offline"):
    metrics.MetricsLog(workdir, restored_step=-1)


def test_without_the_extra_a_line_names_it(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  monkeypatch.setenv(events.WANDB, "")  # it is put back afterwards
  with pytest.raises(ConfigError, match=r"^--wandb=toto needs .*totojax\[wandb\]"):
    wandb_runs.turn_on("toto")
