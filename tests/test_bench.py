"""The benchmark: its arithmetic by hand, and every row at a tiny size."""

import builtins
import dataclasses
import itertools
import json
import math
import pathlib

from etils import epath
import jax
import numpy as np
import pytest
import runs
import worlds

from totojax import assembly, jobs
from totojax.config import bench as bench_defaults, recipes, roots
from totojax.config.schema import ConfigError
from totojax.data.pixels import video
from totojax.data.store import store as store_lib
from totojax.jobs.bench import (
  decoding,
  generating,
  growth,
  hardware,
  job,
  measure,
  propagating,
  saving,
  startup,
  storing,
  torch_detection,
  training,
)
from totojax.rundir import files

SPREAD = {"median", "low", "high"}
ROW_KEYS = {
  "row",
  "case",
  "compares",
  "unit",
  "ratio",
  "cpu_ratio",
  "ours",
  "theirs",
  "goals",
  "facts",
}
SIDE_KEYS = {"what", "per_s", "per_cpu_s", "units", "wall_s", "cpu_s"}


class FakeClock:
  """A clock that moves only when a fake side works."""

  def __init__(self):
    self.now = measure.Usage(0.0, 0.0)
    self.order = []

  def __call__(self):
    return self.now

  def side(self, name, wall_s, cpu_s, units=6.0):
    """A side whose readings take these seconds, one after the other."""
    used = iter(zip(wall_s, cpu_s))

    def run():
      self.order.append(name)
      self._spend(*next(used))
      return units

    def after():
      self.order.append(f"{name} after")
      self._spend(100.0, 100.0)  # must not be in the reading

    return measure.Side(name, run, after=after)

  def _spend(self, wall_s, cpu_s):
    self.now = measure.Usage(self.now.wall_s + wall_s, self.now.cpu_s + cpu_s)


def test_sides_run_in_turns_and_the_first_turn_warms_up():
  clock = FakeClock()
  # The first of each is the warm-up: it would spoil every number below.
  ours = clock.side("a", [1000, 1, 2, 4], [1000, 2, 2, 2])
  theirs = clock.side("b", [1000, 3, 2, 2], [1000, 1, 6, 3])
  found = measure.compare(ours, theirs, how=measure.How(rounds=3, rest_s=0.0), clock=clock)
  assert clock.order == ["a", "a after", "b", "b after"] * 4
  assert [r.usage.wall_s for r in found.ours] == [1, 2, 4]
  assert [r.per_s for r in found.theirs] == [2, 3, 3]
  # Of the rounds: 3 / 1, 2 / 2, 2 / 4, and 1 / 2, 6 / 2, 3 / 2.
  assert found.ratio == measure.Spread(1.0, 0.5, 3.0)
  assert found.cpu_ratio == measure.Spread(1.5, 0.5, 3.0)


def test_the_ratio_is_of_rounds_and_not_of_medians():
  """A machine that slows down in the last rounds changes no ratio."""
  clock = FakeClock()
  ours = clock.side("a", [9, 1, 10, 100], [9, 1, 1, 1])
  theirs = clock.side("b", [9, 2, 20, 200], [9, 1, 1, 1])
  found = measure.compare(ours, theirs, how=measure.How(rounds=3, rest_s=0.0), clock=clock)
  assert found.ratio == measure.Spread(2.0, 2.0, 2.0)


def test_units_of_the_two_sides_may_differ():
  clock = FakeClock()
  ours = clock.side("a", [1, 2], [1, 2], units=8.0)
  theirs = clock.side("b", [1, 2], [1, 1], units=2.0)
  found = measure.compare(ours, theirs, how=measure.How(rounds=1, rest_s=0.0), clock=clock)
  assert found.ratio.median == 4.0 and found.cpu_ratio.median == 2.0


def test_the_real_clock_counts_wall_and_cpu_time():
  before = measure.usage()
  total = 0
  while measure.usage().cpu_s - before.cpu_s < 0.02:
    total += sum(range(1000))
  after = measure.usage()
  assert after.wall_s - before.wall_s > 0.01
  assert 0.02 <= after.cpu_s - before.cpu_s < 5.0


def test_what_cannot_be_rated_is_refused():
  idle = measure.Side("idle", lambda: 0.0)
  how = measure.How(rounds=1, rest_s=0.0)
  with pytest.raises(ValueError, match="idle did 0.0 units of work"):
    measure.compare(idle, idle, how=how)
  with pytest.raises(ValueError, match="bench.rounds is 0"):
    measure.How(rounds=0, rest_s=0.0)


def test_a_row_as_json_has_goals_that_are_met_or_missed():
  used = measure.Usage(2.0, 4.0)
  reading = measure.Timing(6.0, used)
  row = measure.Measurement(
    "r",
    "c",
    "words",
    "frames",
    "us",
    "them",
    measure.Rounds((reading,), (reading,)),
    (measure.Goal("a", 1.0, 1.0), measure.Goal("b", 0.9, 1.0)),
    {"size": 3},
  )
  value = measure.as_json(row)
  assert set(value) == ROW_KEYS
  assert [goal["met"] for goal in value["goals"]] == [True, False]
  assert value["ours"]["per_s"] == dict(median=3.0, low=3.0, high=3.0)
  assert value["ours"]["per_cpu_s"]["median"] == 1.5
  skipped = measure.as_json(measure.Unmeasured("r", "c", "no torch"))
  assert skipped == {"row": "r", "case": "c", "skipped": "no torch"}


def tiny(*rows):
  """The config of the job, every size as small as it goes."""
  c = bench_defaults.bench()
  c.bench.update(rows=rows, rounds=2, rest_s=0.0)
  c.decode.update(sizes=("64x48",), lengths_s=(2.1,), clips=2)
  c.decode.clip.size_px = 32
  c.dvae_encode.update(frames=2, size_px=16, hidden=64, vocab=512)
  c.tokenizers.update(families=("cosmos-di",), frames=2, size_px=16)
  c.store.update(records=32, frames=1, records_per_shard=16, batch=8, reads=2, singles=4)
  c.serving.update(rows=(1, 2), context=1, further=3, copied_mib=1)
  parts = (c.checkpoint, c.startup, c.decode_tokens, c.serving)
  for trained in (*(part.trained for part in parts), *c.train_step.trained.values()):
    trained.model.update(recipes.PRESETS["tiny"])
    trained.sequence.update(vocab=60, grid=2, frames=4, context=16)
    trained.train.batch_tokens = 32
  c.checkpoint.steps = 2
  c.sweep.update(log2_lr=(-9.0, -6.0), steps=3, together=("at_once",))
  c.sweep.trained.model.update(recipes.PRESETS["tiny"])
  c.sweep.trained.optim.warmup_steps = 1
  c.probe.update(widths=(64,), rows=8, classes=5)
  c.probe.trained.model.depth = 2
  c.probe.trained.sequence.update(vocab=60, grid=2, frames=4, context=16)
  c.growth.trained = c.startup.trained.copy_and_resolve_references()
  c.growth.models = {"wider": dict(recipes.PRESETS["tiny"], width=64)}
  c.growth.update(frames=(8,), devices=(2, 16))
  c.propagation.update(frames=4, grid=6, width=8)
  c.detection.update(boxes=60, regions=5, grids=(6, 3), width=4, size_px=64.0)
  c.mamba_scan.update(tokens=64, inner=4, state=16, chunk_tokens=8)
  return c.to_dict()


def measured(tmp_path, *rows, config=None):
  """The rows of bench.json."""
  config = config or tiny(*rows)
  assert jobs.run(config, epath.Path(tmp_path), lambda step: False)
  found = json.loads((tmp_path / job.FILE).read_text())
  assert set(found) == {"hardware", "load", "rounds", "rows"}
  assert found["rounds"] == config["bench"]["rounds"]
  assert found["hardware"]["cores"] >= 1 and found["hardware"]["processor"]
  return found["rows"]


def check(row, rounds=2):
  assert set(row) == ROW_KEYS, row
  for name in ("row", "compares", "unit"):
    assert row[name]
  for name in ("ratio", "cpu_ratio"):
    assert set(row[name]) == SPREAD
    assert 0 < row[name]["low"] <= row[name]["median"] <= row[name]["high"]
    assert math.isfinite(row[name]["high"])
  for side in (row["ours"], row["theirs"]):
    assert set(side) == SIDE_KEYS and side["what"]
    for name in ("units", "wall_s", "cpu_s"):
      assert len(side[name]) == rounds
      assert all(0 < x < math.inf for x in side[name]), side
  for goal in row["goals"]:
    assert goal["value"] > 0 and goal["met"] == (goal["value"] >= goal["least"])


def test_decode(tmp_path):
  pytest.importorskip("av")
  arrays, alone = measured(tmp_path, "decode")
  for row in (arrays, alone):
    check(row)
    # 2 clips of 16 frames, each fourth: 61 frames of a span.
    assert row["ours"]["units"] == row["theirs"]["units"] == [122.0, 122.0]
  assert arrays["goals"] and not alone["goals"]
  assert arrays["case"] == "64x48, 2.1 s, against RGB arrays"


def test_the_bare_loop_decodes_the_very_span(tmp_path):
  pytest.importorskip("av")
  config = tiny()
  settings = roots.read(config).decode
  spec = video.ClipSpec(**vars(settings.clip))
  path = tmp_path / "a.mp4"
  decoding.render(path, 90, height=48, width=64, settings=settings, seed=0)
  firsts = set()
  for i in range(6):
    item = decoding.items_lib.Item(str(i), path)
    wanted = decoding.span(item, spec, seed=0)
    assert len(wanted) == spec.span_frames
    assert 0 <= wanted.start and wanted.stop <= 90
    firsts.add(wanted.start)
    for arrays in (True, False):
      assert decoding.bare_loop(str(path), wanted, rate=settings.rate, arrays=arrays) == 61
  assert len(firsts) > 1  # each clip begins somewhere of its own


def test_store_write_and_read(tmp_path):
  pytest.importorskip("torch")
  rows = measured(tmp_path, "store_write", "store_read")
  for row in rows:
    check(row)
    assert "24 records/s" in row["goals"][0]["what"]
    assert row["goals"][0]["least"] == 100
  cases = [row["case"] for row in rows]
  assert cases == [
    "",
    "batches, against memmap",
    "single records, against memmap",
    "the training stream, against memmap",
    "batches, against DataLoader",
    "the training stream, against DataLoader",
  ]
  assert [row["ours"]["units"][0] for row in rows] == [32, 16, 4, 16, 16, 16]
  assert [row["theirs"]["units"][0] for row in rows] == [32, 16, 4, 16, 16, 16]


def test_both_sides_write_the_same_records(tmp_path):
  settings = roots.read(tiny()).store
  codes = storing._codes(settings, 0)
  storing.write_store(tmp_path / "s", codes, settings)
  storing.write_memmap(tmp_path / "m", codes, settings.batch)
  store = store_lib.open_store(tmp_path / "s", tokenizer=None, vocab=None, grid=None)
  np.testing.assert_array_equal(store.read(range(32))["codes"], codes)
  plain = np.fromfile(tmp_path / "m", np.uint16).reshape(codes.shape)
  np.testing.assert_array_equal(plain, codes)


def test_dvae_encode(tmp_path):
  pytest.importorskip("dall_e", exc_type=ImportError)
  (row,) = measured(tmp_path, "dvae_encode")
  check(row)
  assert row["ours"]["units"] == [2.0, 2.0]
  assert row["facts"]["codes_equal_frac"] == 1.0  # the same work is done


@pytest.mark.slow
def test_tokenizers(tmp_path):
  pytest.importorskip("torch")
  rows = measured(tmp_path, "tokenizers")
  for row, way in zip(rows, ("encode", "decode"), strict=True):
    check(row)
    assert row["case"] == f"cosmos-di, {way}, 2 frames of 16 px"
    assert row["ours"]["units"] == [2.0, 2.0]
    assert row["facts"]["equal_frac"] == 1.0  # the same work is done


def test_a_family_that_there_is_not_is_refused(tmp_path):
  config = tiny("tokenizers")
  config["tokenizers"]["families"] = ("vqgan", "vqgun")
  with pytest.raises(ConfigError, match="families has .'vqgun'.; use some of vqgan, llamagen"):
    measured(tmp_path, config=config)


@pytest.mark.slow
def test_train_step(tmp_path):
  pytest.importorskip("transformers")
  row, products = measured(tmp_path, "train_step")
  for found in (row, products):
    check(found)
  # Forward and two gradients of 2 x 32 tokens x inputs x outputs each.
  weights = 4 * 32 * 32 + 3 * 32 * 64 + 32 * 128
  assert products["ours"]["units"] == pytest.approx([6e-9 * 32 * weights] * 2)
  assert row["ours"]["units"] == row["theirs"]["units"] == [32.0, 32.0]
  # Both are new models of the same vocabulary (64 of 128 rows are padding for
  # us; transformers has them all).
  first = row["facts"]["first_loss"]
  assert first["ours"] == pytest.approx(math.log(64), rel=0.02)
  assert first["theirs"] == pytest.approx(math.log(128), rel=0.02)


def test_both_sides_make_the_same_products(monkeypatch):
  """And they are numpy's, in float64."""
  pytest.importorskip("torch")
  config = roots.read(tiny("train_step")).train_step.trained["4 layers"]
  kept = {}
  monkeypatch.setattr(jax, "device_put", lambda operands: kept.setdefault("operands", operands))

  class Kept:
    def compare(self, ours, theirs, **more):
      kept.update(ours=ours.run(), theirs=theirs.run())

  training._products("", config, Kept())
  assert len(kept["operands"]) == len(kept["ours"]) == len(kept["theirs"]) == 8
  for operands, ours, theirs in zip(*(kept[name] for name in ("operands", "ours", "theirs"))):
    x, w, g = (np.asarray(part, np.float64) for part in operands)
    for (y, dx, dw), turned in ((ours, False), (theirs, True)):
      dw = np.asarray(dw).T if turned else dw
      for found, wanted in ((y, x @ w), (dx, g @ w.T), (dw, x.T @ g)):
        np.testing.assert_allclose(np.asarray(found), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_decode_tokens(tmp_path):
  pytest.importorskip("transformers")
  (row,) = measured(tmp_path, "decode_tokens")
  check(row)
  assert row["ours"]["units"] == row["theirs"]["units"] == [4.0, 4.0]
  assert row["facts"]["tokens_equal_frac"] == 1.0  # the same work is done


@pytest.mark.slow
def test_serving(tmp_path, capsys):
  pytest.importorskip("transformers")
  rows = measured(tmp_path, "serving")
  assert [row["case"] for row in rows] == [f"{n} x 5 + 12 tokens, float32" for n in (1, 2)]
  read = []
  for row in rows:
    check(row)
    facts = row["facts"]
    assert facts["tokens_equal_frac"] == 1.0  # the same work is done
    for side in ("ours", "theirs"):
      # A third of the tokens is there with the first frame.
      assert 0 < facts[f"first_frame_s_{side}"] < max(row[side]["wall_s"])
      step_s = facts[f"step_ms_{side}"] / 1e3
      share = facts["read_bytes_of_a_step"] / step_s / facts["measured_bytes_per_s"]
      assert facts[f"memory_share_{side}"] == pytest.approx(share)
    read.append(facts["read_bytes_of_a_step"])
  # Of another row, keys and values of 12.5 tokens, in the mean of eight steps.
  c = recipes.PRESETS["tiny"]
  assert read[1] - read[0] == 2 * c["depth"] * c["width"] * 12.5 * 4
  printed = capsys.readouterr().out
  assert printed.count("First frame after") == 2 and printed.count("that the memory gives") == 2


@pytest.mark.slow
def test_probe(tmp_path):
  rows = measured(tmp_path, "probe")
  assert [row["case"] for row in rows] == [
    "average pooling, width 64",
    "attention pooling, width 64",
  ]
  for row in rows:
    check(row)
    assert row["facts"]["heads"] == 3 * 20
    assert row["ours"]["units"] == row["theirs"]["units"] == [8.0, 8.0]
    assert row["facts"]["times_a_forward_pass"] > 0.0


@pytest.mark.slow
def test_sweep(tmp_path):
  config = tiny("sweep")
  config["bench"]["rounds"] = 1
  (row,) = measured(tmp_path, config=config)
  check(row, rounds=1)
  assert row["case"] == "lanes at once (vmap)"
  assert row["ours"]["units"] == row["theirs"]["units"] == [6.0]
  losses = row["facts"]["last_loss"]
  # The same runs, and rates that differ.
  np.testing.assert_allclose(losses["at_once"], losses["apart"], rtol=1e-4)
  assert len({round(x, 5) for x in losses["apart"]}) == 2


def test_checkpoint(tmp_path):
  rows = measured(tmp_path, "checkpoint")
  for row in rows:
    check(row)
  assert [row["unit"] for row in rows] == ["GB", "GB", "GB", "GB", "steps"]
  assert rows[4]["ours"]["units"] == [2.0, 2.0]
  assert rows[4]["facts"]["call_of_save_s"] > 0


def test_the_plain_file_holds_the_whole_state(tmp_path):
  import jax.numpy as jnp

  state = {"a": jnp.arange(5.0), "b": jnp.int32(7), "c": jnp.ones((2, 3))}
  saving.write_plain(tmp_path / "f", state)
  assert (tmp_path / "f").stat().st_size == 4 * (5 + 1 + 6)
  a, b, c = saving.read_plain(tmp_path / "f", state)
  assert a.tolist() == [0, 1, 2, 3, 4] and b == 7 and c.shape == (2, 3)


@pytest.mark.slow
def test_growth(tmp_path, monkeypatch):
  wider, longer, more, too_many = measured(tmp_path, "growth")
  for row in (wider, longer, more):
    check(row)
    assert row["facts"]["first_step_s"] > 0
  small = wider["facts"]["smallest"]
  assert wider["facts"]["parameters"] > 2 * small["parameters"]
  assert (longer["facts"]["context"], small["context"]) == (32, 16)
  assert more["facts"]["devices"] == 2
  # Twice the sequences, so twice the work, on twice the devices.
  assert more["ours"]["units"][0] == 2 * more["theirs"]["units"][0]
  assert too_many["skipped"] == "needs 16 devices; there are 8"

  monkeypatch.setattr(hardware, "device_memory_gib", lambda: 1e-9)
  config = tiny("growth")
  config["growth"] |= {"frames": (), "devices": ()}
  (row,) = measured(tmp_path / "small", "growth", config=config)
  assert row["skipped"].startswith("needs about")


@pytest.mark.parametrize(
  "told, passed_over", [("RESOURCE_EXHAUSTED: 31 GB\nmore", True), ("INTERNAL: broken", False)]
)
def test_a_case_that_does_not_fit_costs_no_other_its_measurement(monkeypatch, told, passed_over):
  class Small:
    parameters, context, first_step_s = 1, 16, 0.1

    def __init__(self, config, devices):
      if config.sequence.context > 16:
        raise jax.errors.JaxRuntimeError(told)

    def step(self):
      return 1.0

  monkeypatch.setattr(growth, "_Case", Small)
  config = tiny("growth")
  config["growth"] |= {"models": {}, "devices": (2,)}
  settings = roots.read(config).growth
  how = measure.How(rounds=1, rest_s=0)
  cases = growth.rows(settings, measure.Harness("growth", how, 0, pathlib.Path()))
  if not passed_over:
    with pytest.raises(jax.errors.JaxRuntimeError, match="broken"):
      next(cases)
    return
  longer, more = cases
  assert longer.reason == told.splitlines()[0] and more.case == "2 devices"


def test_propagation(tmp_path):
  pytest.importorskip("torch")
  (row,) = measured(tmp_path, "propagation")
  assert row["facts"]["largest_difference"] < 1e-5 and row["facts"]["labels_equal_frac"] == 1
  settings = dataclasses.replace(bench_defaults.PropagationBench(), grid=16, width=32)
  small, large = (propagating.temporary_bytes(settings, chunk) for chunk in (16, 256))
  assert small < large / 4  # similarities are of a chunk alone


def test_detection(tmp_path):
  pytest.importorskip("torch")
  found = measured(tmp_path, "detection")
  assert [row["case"].split(" of ")[0] for row in found] == ["NMS", "RoI align", "RoI align"]
  for row in found:
    check(row)
  assert 1 < found[0]["facts"]["stay"] < 60 and found[0]["facts"]["differ"] == 0
  assert all(row["facts"]["largest_difference"] < 1e-5 for row in found[1:])


def test_what_detection_is_measured_against_is_torchvisions():
  pytest.importorskip("torch")
  with np.load(runs.ROOT / "tests" / "golden" / "torchvision_detection.npz") as g:
    stay = torch_detection.nms(g["boxes"], g["scores"], 0.5)()
    order = np.argsort(-g["scores"], kind="stable")
    np.testing.assert_array_equal(order[stay[order]], g["nms_05"])
    for roi, wanted in zip(g["ra_rois"], g["roialign_sr2"], strict=True):
      map_HWC = np.ascontiguousarray(np.moveaxis(g["ra_feat"][int(roi[0])], 0, -1))
      how = dict(scale=1 / 8, bins=7, samples=2)
      (found,) = torch_detection.roi_align(map_HWC, roi[None, 1:], **how)()
      np.testing.assert_allclose(np.moveaxis(found, -1, 0), wanted, rtol=1e-4, atol=1e-5)


def test_mamba_scan(tmp_path):
  rows = measured(tmp_path, "mamba_scan")
  assert [row["case"].split(",")[0] for row in rows] == ["steps", "tree"]
  for row in rows:
    check(row)
    assert row["facts"]["largest_difference"] < 1e-5
    assert min(row["facts"]["temporary_bytes"].values()) > 0
  config = tiny("mamba_scan")
  config["mamba_scan"]["scans"] = ("steps", "twigs")
  with pytest.raises(ConfigError, match="mamba_scan.scans is .*'twigs'"):
    measured(tmp_path / "other", config=config)


@pytest.mark.slow
def test_world(tmp_path):
  worlds.need()
  config = tiny("world")
  config["world"]["clips"] = 1
  config["world"]["scene"].update(frames=2, width_px=32, height_px=32)
  (row,) = measured(tmp_path, "world", config=config)
  check(row)
  assert row["ours"]["units"] == [2.0, 2.0] and row["theirs"]["units"] == [2.0, 2.0]
  assert [len(values) for values in row["facts"]["per_cpu_s"].values()] == [2, 2]


@pytest.mark.slow
def test_robots(tmp_path):
  worlds.need()
  config = tiny("robots")
  config["robots"].update(tasks=("cabinet",), size_px=32, frames=10)
  (row,) = measured(tmp_path, "robots", config=config)
  check(row)
  assert row["ours"]["units"] == [10.0, 10.0] and row["theirs"]["units"] == [1.0, 1.0]
  assert [len(values) for values in row["facts"]["per_cpu_s"].values()] == [2, 2]


def test_seconds_of_the_parts_of_a_start():
  first = dict(zip(startup.PARTS, (1.0, 3.0, 7.0, 8.0)))
  second = dict(zip(startup.PARTS, (3.0, 5.0, 15.0, 16.0)))
  assert startup.seconds([first, second]) == {
    "imported": 2.0,
    "initialised": 2.0,
    "first_step": 7.0,
    "second_step": 1.0,
  }


@pytest.mark.slow
def test_startup(tmp_path, monkeypatch):
  for name, value in runs.environment().items():
    monkeypatch.setenv(name, value)
  config = tiny("startup")
  config["bench"]["rounds"] = 1
  (row,) = measured(tmp_path, config=config)
  check(row, rounds=1)
  for name in ("with", "without"):
    parts = row["facts"][f"seconds_{name}_cache"]
    assert tuple(parts) == startup.PARTS
    assert all(0 < x < 300 for x in parts.values()), parts


@pytest.mark.slow
def test_a_start_that_fails_says_why(monkeypatch):
  for name, value in runs.environment().items():
    monkeypatch.setenv(name, value)
  config = tiny()["startup"]["trained"]
  config["train"]["batch_tokens"] = 33
  with pytest.raises(RuntimeError, match="batch_tokens 33 is not a multiple"):
    startup.child(roots.read(config), None)


@pytest.fixture
def without_torch(monkeypatch):
  """As where the extra `encoders` is not installed."""
  real = builtins.__import__

  def refuse(name, *rest, **more):
    if name.split(".")[0] in ("torch", "transformers", "dall_e"):
      raise ImportError(f"no module named {name}")
    return real(name, *rest, **more)

  monkeypatch.setattr(builtins, "__import__", refuse)


def test_rows_without_their_packages_are_named(tmp_path, without_torch, capsys):
  rows = measured(tmp_path, "dvae_encode", "store_read", "train_step")
  by_row = itertools.groupby(rows, key=lambda row: row["row"])
  by_row = {name: list(found) for name, found in by_row}
  for name in ("dvae_encode", "train_step"):
    (row,) = by_row[name]
    assert set(row) == {"row", "case", "skipped"}
    assert "totojax[encoders]" in row["skipped"]
  # What needs no PyTorch is measured all the same.
  *others, last = by_row["store_read"]
  assert len(others) == 3 and "totojax[encoders]" in last["skipped"]
  for row in others:
    check(row)
  printed = capsys.readouterr().out
  assert printed.count("skipped: ") == 3 and "totojax[encoders]" in printed


def test_the_table_says_what_is_compared(tmp_path, capsys):
  (row,) = measured(tmp_path, "store_write")
  printed = " ".join(capsys.readouterr().out.split())
  assert row["compares"] in printed and row["theirs"]["what"] in printed
  assert f"{row['ratio']['median']:.3g}" in printed


def test_an_unknown_row_is_refused_before_anything_is_measured(tmp_path):
  with pytest.raises(ConfigError, match="rows is .'speed',.; use 'decode', "):
    jobs.run(tiny("speed"), epath.Path(tmp_path), lambda step: False)
  config = tiny("store_write", "decode")
  config["decode"]["clip"]["frames"] = 0
  del config["decode"]["codec"]
  with pytest.raises(ConfigError, match="decode.codec is missing"):
    jobs.run(config, epath.Path(tmp_path), lambda step: False)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "place", ["local", pytest.param("gs", marks=pytest.mark.slow)], indirect=True
)
def test_an_interruption_ends_between_rows(place):
  config = tiny("store_write", "store_read")
  asked = []

  def interrupted(step):
    asked.append(step)
    return asked == [0, 1]

  workdir = epath.Path(place.url)
  assert not jobs.run(config, workdir, interrupted)
  assert asked == [0, 1] and not (workdir / job.FILE).exists()
  assert jobs.run(config, workdir, interrupted)
  rows = files.read_json(workdir / job.FILE)["rows"]
  assert {row["row"] for row in rows} == {"store_write", "store_read"}


def test_all_rows_are_measured_by_default():
  c = bench_defaults.bench()
  assert c.bench.rows == () and len(job.ROWS) == len(set(job.ROWS)) == 18
  assert tuple(job.ROWS) == bench_defaults.ROWS
  # Sections of one config do not share their parts.
  assert c.train_step.trained["4 layers"].sequence.context == 1024
  assert c.checkpoint.trained.sequence.context == 256


def test_utilisation_is_of_both_peaks():
  readings = (measure.Timing(1e6, measure.Usage(2.0, 1.0)),)  # 5e5 tokens/s
  slower = (measure.Timing(1e6, measure.Usage(4.0, 1.0)),)
  both = measure.Rounds(readings, slower)
  found = training.utilisation(both, 1e9, hardware.Ceiling(8e14, 4e12))
  assert found["mfu_of_measured_peak_ours"] == pytest.approx(5e14 / 8e14)
  assert found["mfu_of_measured_peak_theirs"] == pytest.approx(2.5e14 / 8e14)
  assert "mfu_ours" not in found  # a CPU is in no vendor's table
  assert training.utilisation(both, 1e9, None) == {}


def test_the_floor_of_decoding_reads_weights_and_cache_for_each_token():
  c = tiny()["decode_tokens"]["trained"]
  model = assembly.model(roots.read(c))
  weights = {"embedding": np.zeros((10, 4), np.float32)}
  reading = (measure.Timing(1.0, measure.Usage(2.0, 1.0)),)
  found = generating.floor(
    model,
    weights,
    rows=3,
    prompt_tokens=5,
    count=4,
    bytes_per_s=1e6,
    rounds=measure.Rounds(reading, reading),
  )
  shape = model.config
  # Before the four tokens the cache holds 5, 6, 7 and 8 of them.
  cache = [2 * shape.depth * shape.width * n * 3 * 4 for n in (5, 6, 7, 8)]
  total_s = (4 * 160 + sum(cache)) / 1e6
  assert found["bandwidth_floor_s"] == pytest.approx(total_s)
  assert found["floor_over_ours"] == pytest.approx(total_s / 2.0)


def test_ceilings_are_rates(monkeypatch):
  monkeypatch.setattr(hardware, "_SIDE", 64)
  monkeypatch.setattr(hardware, "_COPIED", 2**16)
  found = hardware.ceiling()
  assert 1e6 < found.flops_per_s < 1e15 and 1e6 < found.bytes_per_s < 1e14


def test_the_gpu_sizes_are_the_papers_models():
  c = bench_defaults.bench_accelerator()
  assert set(c.train_step.trained) == {"base", "large", "1b"}
  for name, trained in c.train_step.trained.items():
    assert dict(trained.model).items() >= dict(recipes.PRESETS[name]).items()
    assert trained.sequence.context == 4096
    assert trained.train.batch_tokens % 4096 == 0
    assert trained.compute.dtype == "bfloat16"
