"""configs/scale.py: what follows from a size, and that µP carries the rate."""

import pytest
import runs

from totojax import assembly, flops
from totojax.config import dial, roots
from totojax.config.schema import ConfigError

SIZES = {"20k": 2e4, "300k": 3e5, "2m": 2e6, "20m": 2e7, "0.1b": 1e8, "1b": 1e9}


def test_a_size_is_a_model_of_about_that_size():
  before = None
  for size, parameters in SIZES.items():
    c = dial.choose(*dial.read(size))
    assert 0.7 < c.parameters / parameters < 1.4, size
    config = roots.read(dial.config(c).to_dict())
    shape = assembly.shape(config.model)
    assert shape.depth * shape.matrices == c.parameters
    assert config.train.total_tokens >= 20 * c.parameters
    assert flops.steps(config.train.total_tokens, config.train.batch_tokens) == c.steps >= 200
    # The rate is one and the same; µP divides what Adam does to a matrix by the growth.
    assert config.optim.lr == 2.0**-6
    rule = assembly.parametrisation(config)
    assert rule.growth["embed"] == c.width / 32
    assert rule.growth["heads"] * rule.growth["head_dim"] == pytest.approx(c.width / 32)
    if before is not None:
      assert c.width > before.width and c.depth >= before.depth
      assert c.batch_tokens >= before.batch_tokens
    before = c


def test_heads_for_a_tpu_fill_its_matrix_unit():
  for size in SIZES:
    plain, tpu = dial.choose(*dial.read(size)), dial.choose(*dial.read(f"{size}-tpu"))
    assert 0.7 < tpu.parameters / plain.parameters < 1.6
    if tpu.width >= 256:
      assert tpu.width == 128 * tpu.heads
  assert dial.choose(*dial.read("20m")).width / dial.choose(*dial.read("20m")).heads == 64


@pytest.mark.parametrize("name", ["base", "large"])
def test_presets_for_a_tpu_are_the_papers_but_for_their_heads(name):
  paper, ours = (runs.load(f"configs/{file}.py") for file in (name, f"{name}_tpu"))
  wide = runs.load(f"configs/{name}_tpu.py:256")
  counts, whole = set(), paper.to_dict()
  for config, head_dim in ((paper, 64), (ours, 128), (wide, 256)):
    assert config.model.width == head_dim * config.model.heads
    shape = assembly.shape(roots.read(config.to_dict()).model)
    macs = flops.forward_macs_per_token(shape, vocab=8192, context=4096)
    counts.add((flops.parameters(shape, 8196), macs))
    heads = paper.model.heads
    assert {**config.to_dict(), "model": {**config.model.to_dict(), "heads": heads}} == whole
  assert len(counts) == 1
  with pytest.raises(ValueError, match="use 128 or 256"):
    runs.module(runs.ROOT / f"configs/{name}_tpu.py").get_config("96")


def test_what_was_chosen_is_printed_with_its_reasons(capsys):
  config = runs.load("configs/scale.py:20m")
  printed = capsys.readouterr().out.splitlines()
  assert len(printed) == 4 and all(line.startswith("scale 20m: ") for line in printed)
  for key in ("width", "depth", "heads", "mlp_dim"):
    assert str(config.model[key]) in "".join(printed)
  assert f"updates of {config.train.batch_tokens:,}" in printed[3]


@pytest.mark.parametrize("size", ["", "20", "big", "5k", "3b", "-1m", "1e3k", "1m-gpu"])
def test_what_is_no_size_is_refused(size):
  with pytest.raises(ConfigError, match="write parameters from 20k to 1b"):
    dial.read(size)
