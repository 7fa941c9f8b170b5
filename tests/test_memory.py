"""Microbatches that fit a device's memory, as the compiler counts it."""

import json
import pathlib

import jax
import pytest
import runs
import stores

from totojax import rundir
from totojax.config import roots
from totojax.jobs import memory, pretrain

ROWS, STEPS = 64, 2  # of 16 tokens, on eight devices: up to eight microbatches


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return stores.pair(tmp_path_factory.mktemp("stores"))


def words(data, workdir, microbatches):
  keys = {
    "train.batch_tokens": ROWS * 16,
    "train.total_tokens": ROWS * 16.0 * STEPS,
    "optim.warmup_steps": 1,
    "compute.remat": "none",
    "train.microbatches": microbatches,
  }
  return runs.smoke(data, workdir, *(f"--config.{key}={value}" for key, value in keys.items()))


@pytest.fixture(scope="module")
def needs(data):
  """Microbatches -> bytes that the compiled step has at once, on one device."""
  found = {}
  for count in (1, 2, 4, 8):
    values = runs.load("configs/smoke.py", *words(data, "", count)[5:])
    built = pretrain.pretraining(roots.read(values.to_dict()))
    batch = next(iter(built.batches(0)))
    shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch.items()}
    stats = built.step_fn.lower(built.shapes, shapes).compile().memory_analysis()
    found[count] = (
      stats.argument_size_in_bytes
      + stats.output_size_in_bytes
      - stats.alias_size_in_bytes
      + stats.temp_size_in_bytes
      + stats.generated_code_size_in_bytes
    )
  assert found[1] > found[2] > found[4] > found[8]
  return found


@pytest.mark.slow
def test_the_fewest_that_fit_are_found_kept_and_told(data, needs, tmp_path, monkeypatch):
  limit = (needs[2] + needs[4]) // 2
  monkeypatch.setattr(memory, "limit_bytes", lambda: limit)
  printed = runs.here(words(data, tmp_path / "found", 0))
  assert "train.microbatches 0: 4, the fewest that fit" in printed
  manifest, config = (
    json.loads((tmp_path / "found" / f"{name}.json").read_text()) for name in ("manifest", "config")
  )
  assert manifest["microbatches"] == config["train"]["microbatches"] == 4
  assert manifest["step_gib"] * 2**30 == pytest.approx(needs[4])
  runs.here(words(data, tmp_path / "given", 4))
  assert runs.metrics(tmp_path / "found") == runs.metrics(tmp_path / "given")
  # What it was begun with stays, whatever fits today.
  monkeypatch.setattr(memory, "limit_bytes", lambda: 2 * needs[1])
  (tmp_path / "found" / "done.json").unlink()
  assert "microbatches" not in runs.here(words(data, tmp_path / "found", 0))
  assert "microbatches 0: 1," in runs.here(words(data, tmp_path / "roomy", 0))


@pytest.mark.slow
def test_what_fits_in_no_number_says_what_it_takes(data, needs, tmp_path, monkeypatch):
  monkeypatch.setattr(memory, "limit_bytes", lambda: needs[8] // 2)
  printed = runs.here(words(data, tmp_path, 0), code=rundir.USER)
  assert "are not enough for 64 rows in any number of microbatches: in" in printed
  assert not (tmp_path / "config.json").exists()


def test_a_device_has_a_share_of_the_machine():
  lines = pathlib.Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
  total = next(int(line.split()[1]) for line in lines if line.startswith("MemTotal:"))
  assert memory.limit_bytes() == pytest.approx(0.95 * 1024 * total / 8, rel=1e-3)
