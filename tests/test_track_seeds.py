"""Tracking with several seeds: means, differences of the same sequences, and who chooses layers."""

import json

import numpy as np
import pytest
from scipy import stats
import test_configs
import test_track
import tracked

from totojax.config import roots
from totojax.evals import resampled
from totojax.jobs.track import job, kinds, seeded

NAMES = ("one", "two", "three", "four")
GRID = (12, 16)


def maps(truth, seed, amount):
  """Masks as features, and noise over them, at layers 1 and 2: in each half the other is better."""
  out = {}
  for number, (name, masks_THW) in enumerate(truth.items()):
    oracle = tracked.oracle(masks_THW, GRID)
    noise = amount * test_track.noise(oracle.shape, 10 * seed + number)
    both = oracle + noise, oracle + 40 * noise
    out[name] = dict(zip((1, 2), both if number < 2 else both[::-1]))
  return out


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  root = tmp_path_factory.mktemp("seeds")
  truth = tracked.davis(root / "data", names=NAMES)
  encoders = {
    f"s{seed}": test_track.features(root / f"maps{seed}", maps(truth, seed, 0.02 + 0.1 * seed))
    for seed in range(2)
  }
  c = test_track.config("davis", root / "data", encoders=encoders, baselines=("copy",))
  c["output"] |= {"sequences": 0, "masks": False}
  c |= {"select": 2, "seeds": {"mine": ("s0", "s1")}}
  assert test_track.run(c, root / "out")
  return root / "out", c


def test_layers_are_chosen_by_sequences_that_are_not_scored(run):
  out, _ = run
  metrics = json.loads((out / "metrics.json").read_text())
  best = {row["row"]: row for row in metrics["rows"]}
  assert metrics["sequences"] == 2 and best["s0"]["objects"] == 4
  table = {(r["row"], r["layer"]): r for r in test_track.rows(out / "per_layer.csv")}
  # Layer 1 tracks through the first two alone, and is scored where it does not.
  assert best["s0"]["layer"] == 1
  assert float(table["s0", "1"]["choice"]) > 0.7 > 0.5 > best["s0"]["score"]
  assert float(table["s0", "2"]["score"]) > best["s0"]["score"]  # control
  assert [r["sequence"] for r in test_track.rows(out / "per_sequence.csv")][:2] == [*NAMES[2:]]
  (given, *_) = test_track.rows(out / "results/s0-dino/per-sequence_results-val.csv")
  assert given["Sequence"] == "three_1"
  page = (out / "report.html").read_text()
  assert "2 further sequences chose" in page and "mean over seeds" in page
  assert "above copy" in page and "Not shown: its" not in page


def test_means_over_seeds_are_those_of_their_rows(run):
  out, _ = run
  metrics = json.loads((out / "metrics.json").read_text())
  each = {row["row"]: row["score"] for row in metrics["rows"]}
  (row,) = metrics["seeds"]
  assert row["each"] == pytest.approx([each["s0"], each["s1"]]) and row["layers"] == [1, 1]
  assert row["score"] == pytest.approx(np.mean(row["each"]))
  assert row["low"] < row["score"] < row["high"]
  above = row["above"]["copy"]
  assert above["score"] == pytest.approx(row["score"] - each["copy"])


def test_intervals_are_of_pairs():
  """What moves all trackers alike is in no difference; seeds that differ widen it."""
  kind, rng = kinds.Davis(2017), np.random.default_rng(0)
  hard = rng.uniform(0.2, 0.8, (20, 1, 1, 1))
  of = lambda shift: [*np.broadcast_to(hard + shift, (20, 2, 1, 3))]  # noqa: E731
  scores = {("a", "r", 0): of(0.05), ("b", "r", 0): of(0.07), ("pixels", "r", 0): of(0.0)}
  c = test_configs.load("configs/davis.py").to_dict()
  rule = c["propagation"]["dino"]
  tracker = test_track.tracker(features="x")
  c |= {"encoders": {"a": tracker, "b": tracker}, "propagation": {"r": rule}}
  config = roots.read(c | {"seeds": {"m": ("a", "b")}})
  (row,) = seeded.rows(kind, config, {key[:2]: 0 for key in scores}, scores)
  spread = stats.t.ppf(0.975, 1) * np.std([0.05, 0.07], ddof=1) / np.sqrt(2)
  above = row["above"]["pixels"]
  assert above["score"] == pytest.approx(0.06)
  assert above["high"] - above["score"] == pytest.approx(spread, rel=1e-6)
  # Of the score itself sequences count too, as the bootstrap has it.
  alone = resampled.interval(lambda t: float(t @ hard.ravel() / t.sum()) + 0.06, 20, seed=0)
  wanted = np.hypot(spread, np.subtract(alone, row["score"]))
  np.testing.assert_allclose(
    [row["score"] - row["low"], row["high"] - row["score"]], wanted, rtol=1e-6
  )
  for changes, told in (
    ({"m": ("a", "z")}, "seeds.m has 'z', which encoders has not"),
    ({"m": ("a",)}, "an interval takes two or more"),
    ({"a": ("a", "b")}, "seeds.a has the name of a row"),
  ):
    with pytest.raises(ValueError, match=told):
      roots.read(c | {"seeds": changes})


def test_untrained_models_differ_from_seed_to_seed():
  c = test_configs.load("configs/davis.py:dino,a=RUN0,b=RUN1,c=RUN2").to_dict()
  c |= {"seed": 5, "baselines": ("untrained",), "seeds": {"m": ("a", "c")}}
  of = {row.name: row.load.keywords["seed"] for row in job.rows_of(roots.read(c))}
  untrained = {name: seed for name, seed in of.items() if name.endswith("-untrained")}
  assert untrained == {"a-untrained": 5, "b-untrained": 5, "c-untrained": 6}


def test_some_sequence_is_left_to_be_scored(run, tmp_path):
  _, c = run
  with pytest.raises(ValueError, match="select is 4, and there are 4 sequences: none is left"):
    test_track.run(c | {"select": 4}, tmp_path / "out")
