"""The run directory: what is written, cut back, refused and measured."""

import json
import math

from etils import epath
import jax
from jax.experimental import multihost_utils
import numpy as np
import pytest

from totojax.rundir import directory, files, lock, metrics

CONFIG = {
  "run": "pretrain",
  "optim": {"lr": 3e-4, "warmup_steps": 5},
  "order": ("a", "b"),
  "data": {"train": {}},
}


def rows(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


@pytest.fixture
def workdir(place):
  directory.begin(epath.Path(place.url), CONFIG, steps=7)
  yield epath.Path(place.url)
  lock.release(place.url)


def test_flat():
  assert directory.flat(CONFIG) == {
    "run": "pretrain",
    "optim.lr": 3e-4,
    "optim.warmup_steps": 5,
    "order": ["a", "b"],
  }


def test_begin_says_what_runs(workdir):
  config = json.loads((workdir / "config.json").read_text())
  assert config["optim"] == CONFIG["optim"]
  manifest = json.loads((workdir / "manifest.json").read_text())
  assert manifest["steps"] == 7
  assert manifest["versions"]["jax"] == jax.__version__
  assert manifest["devices"] == {"kind": "cpu", "count": 8}
  assert manifest["processes"] == 1


def test_the_same_config_is_accepted(workdir):
  assert directory.check_config(workdir, CONFIG, allow_change=False) == workdir
  new = workdir / "new"
  assert directory.check_config(new, {"any": 1}, allow_change=False) == new
  assert not new.exists()  # a config that cannot be built leaves nothing


@pytest.mark.parametrize(
  "changes, lines",
  [
    ({"optim": {"lr": 0.1, "warmup_steps": 5}}, ["optim.lr: 0.0003 -> 0.1"]),
    (
      {"optim": {"lr": 3e-4}, "order": ("b", "a")},
      ["optim.warmup_steps: 5 -> '(absent)'", "order: ['a', 'b'] -> ['b', 'a']"],
    ),
    ({"data": {"train": {"x": {"path": "p"}}}}, ["data.train.x.path: '(absent)' -> 'p'"]),
  ],
)
def test_another_config_is_refused_by_key(workdir, changes, lines):
  with pytest.raises(directory.ConfigChanged) as caught:
    directory.check_config(workdir, CONFIG | changes, allow_change=False)
  text = str(caught.value)
  told = [line[2:] for line in text.splitlines() if line.startswith("  ")]
  assert told == lines
  assert str(workdir) in text and "--allow_changed_config" in text
  found = directory.check_config(workdir, CONFIG | changes, allow_change=True)
  assert found == workdir


def test_done(workdir):
  assert not directory.is_done(workdir)
  directory.mark_done(workdir, 1.5)
  assert directory.is_done(workdir)
  assert json.loads((workdir / "done.json").read_text()) == {"seconds": 1.5}


def test_a_json_file_is_replaced_whole(workdir):
  path = workdir / "value.json"
  files.write_json(path, {"a": [1, 2]})
  with pytest.raises(TypeError):
    files.write_json(path, {"a": object()})
  assert json.loads(path.read_text()) == {"a": [1, 2]}
  files.write_json(path, {"b": 1})
  assert json.loads(path.read_text()) == {"b": 1}
  assert not [p.name for p in workdir.iterdir() if p.name.endswith(".part")]


def test_a_write_that_dies_half_way_leaves_the_old_file(tmp_path, monkeypatch):
  path = epath.Path(tmp_path / "value.json")
  files.write_json(path, {"a": 1})

  def die(self, data):
    with open(self, "wb") as file:
      file.write(data[: len(data) // 2])
    raise OSError("no space left")

  monkeypatch.setattr(type(path), "write_bytes", die)
  with pytest.raises(OSError):
    files.write_json(path, {"a": 2, "b": 3})
  assert json.loads(path.read_text()) == {"a": 1}


def test_metrics_are_rows(workdir):
  log = metrics.MetricsLog(workdir, restored_step=0)
  log.write(0, "eval", {"k/loss": 4.0}, wall={"eval_s": 0.5})
  log.write(1, "train", {"loss": 5.0, "lr": 0.1}, wall={"time_s": 1.0})
  log.close()
  assert rows(workdir) == [
    {"step": 0, "kind": "eval", "k/loss": 4.0, "wall": {"eval_s": 0.5}},
    {"step": 1, "kind": "train", "loss": 5.0, "lr": 0.1, "wall": {"time_s": 1.0}},
  ]
  assert log.has_eval(0) and not log.has_eval(1)
  assert list((workdir / "tensorboard").iterdir())


def write_steps(workdir, last):
  log = metrics.MetricsLog(workdir, restored_step=0)
  for step in range(1, last + 1):
    log.write(step, "train", {"loss": 1.0 / step}, wall={})
    if step % 2 == 0:
      log.write(step, "eval", {"k/loss": 2.0}, wall={})
  log.close()


def test_metrics_are_cut_to_the_restored_step(workdir):
  write_steps(workdir, 5)
  kept = [row for row in rows(workdir) if row["step"] <= 3]
  log = metrics.MetricsLog(workdir, restored_step=3)
  log.close()
  assert rows(workdir) == kept and len(kept) == 4
  assert log.has_eval(2) and not log.has_eval(4)
  # From the start again: nothing stays.
  metrics.MetricsLog(workdir, restored_step=0).close()
  assert rows(workdir) == []


@pytest.mark.parametrize("cut", [1, 10, 25])
def test_a_last_line_cut_in_the_middle_is_dropped(workdir, cut):
  write_steps(workdir, 3)
  whole = rows(workdir)
  path = workdir / "metrics.jsonl"
  line = json.dumps({"step": 3, "kind": "eval", "wall": {}})
  path.write_text(path.read_text() + line[:cut])
  log = metrics.MetricsLog(workdir, restored_step=3)
  assert rows(workdir) == whole
  log.write(4, "train", {"loss": 0.1}, wall={})
  log.close()
  assert rows(workdir)[:-1] == whole and rows(workdir)[-1]["step"] == 4


@pytest.mark.parametrize(
  "row",
  [
    b'{"step": 3, "kind": "eval", "wall": 1}',
    b'{"step": 3, "kind": "eval", "wall": {"rate": "x"}}',
    b'{"step": 3, "kind": "eval", "loss": 1e999}',
    b'{"step": 3, "kind": "eval", "loss": 1' + b"0" * 400 + b"}",
    b'{"step": 3, "kind": "eval", "\xff": 1}',
    b'{"step": 3, "kind": "ev',
  ],
)
def test_a_whole_last_line_that_is_no_row_is_damage(workdir, row):
  """And none that was cut: of that the end of the line is missing."""
  write_steps(workdir, 3)
  path, whole = workdir / "metrics.jsonl", rows(workdir)
  data = path.read_bytes()
  path.write_bytes(data + row + b"\n")
  with pytest.raises(metrics.DamagedLine, match=f"line {len(whole) + 1} is damaged"):
    metrics.read(path)
  path.write_bytes(data + row)
  assert metrics.read(path) == whole


def test_what_json_has_no_number_for_is_null(workdir):
  log = metrics.MetricsLog(workdir, restored_step=0)
  values = {"nan": math.nan, "inf": math.inf, "low": -math.inf, "big": 1e300}
  log.write(1, "eval", values, wall={"rate": math.nan})
  log.close()
  text = (workdir / "metrics.jsonl").read_text()
  # NaN and Infinity are no JSON, though Python would read them.
  row = json.loads(text, parse_constant=pytest.fail)
  assert row["nan"] is row["inf"] is row["low"] is row["wall"]["rate"] is None
  assert row["big"] == 1e300


def test_only_the_first_process_writes(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  # Process 0 says that all went well.
  monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", np.zeros_like)
  workdir = epath.Path(tmp_path)
  directory.begin(workdir, CONFIG)
  log = metrics.MetricsLog(workdir, restored_step=0)
  log.write(0, "eval", {"k/loss": 1.0}, wall={})
  log.close()
  directory.mark_done(workdir, 1.0)
  assert list(workdir.iterdir()) == []
  assert log.has_eval(0)  # every process must know, to evaluate together


class Time:
  """A clock that is moved by hand."""

  now_s = 100.0

  def monotonic(self):
    return self.now_s


def test_clock(monkeypatch):
  """10 tokens a step, 3e9 FLOPs a token, two chips of 989e12 FLOP/s."""
  time = Time()
  monkeypatch.setattr(metrics, "time", time)
  clock = metrics.Clock(
    tokens_per_step=10, flops_per_token=3e9, devices=2, device_kind="NVIDIA H100 80GB HBM3"
  )
  for _ in range(4):
    clock.stepped()
  clock.waited(0.5)
  time.now_s += 7.0
  clock.paused(5.0)  # an evaluation
  figures = clock.read()
  assert figures == pytest.approx(
    {"time_s": 7.0, "tokens_per_s": 20.0, "data_frac": 0.25, "mfu": 20.0 * 3e9 / (2 * 989e12)}
  )
  # Then it starts anew, but for the time since the beginning.
  clock.stepped()
  time.now_s += 4.0
  figures = clock.read()
  assert figures["time_s"] == pytest.approx(11.0)
  assert figures["tokens_per_s"] == pytest.approx(2.5)
  assert figures["data_frac"] == 0.0


def test_clock_without_a_known_peak():
  values = dict(tokens_per_step=1, flops_per_token=1.0, devices=1)
  assert "mfu" not in metrics.Clock(**values, device_kind="cpu").read()
  values["flops_per_token"] = 0.0
  assert "mfu" not in metrics.Clock(**values, device_kind="TPU v4").read()


@pytest.mark.parametrize(
  "bad",
  [
    "x{",
    "5",
    '{"kind": "train"}',
    '{"step": "2", "kind": "train"}',
    '{"step": 2.5, "kind": "train"}',
    '{"step": -1, "kind": "train"}',
    '{"step": 1, "kind": 3}',
    '{"step": 1, "kind": "train", "loss": NaN}',
    '{"step": 1, "kind": "train", "loss": "1.0"}',
    "[" * 100_000,
  ],
)
def test_a_damaged_line_is_named_and_nothing_is_lost(tmp_path, bad):
  row = '{"step": 1, "kind": "train", "wall": {}}'
  text = f"{row}\n{bad}\n{row}\n"
  (tmp_path / "metrics.jsonl").write_text(text)
  with pytest.raises(ValueError, match="metrics.jsonl, line 2 is damaged"):
    metrics.MetricsLog(epath.Path(tmp_path), restored_step=1)
  assert (tmp_path / "metrics.jsonl").read_text() == text


def test_a_vast_log_is_refused_and_not_read(tmp_path, monkeypatch):
  monkeypatch.setattr(metrics, "MOST_BYTES", 100)
  row = '{"step": 1, "kind": "train", "wall": {}}\n'
  (tmp_path / "metrics.jsonl").write_text(row * 2)
  assert len(metrics.read(tmp_path / "metrics.jsonl")) == 2
  (tmp_path / "metrics.jsonl").write_text(row * 3)
  with pytest.raises(ValueError, match="metrics.jsonl is damaged .it has 123 bytes.*move it away"):
    metrics.read(tmp_path / "metrics.jsonl")
