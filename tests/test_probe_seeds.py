"""Probes of several seeds: their intervals, and what a report says of them."""

import csv
import json

from etils import epath
import fake_chain
import numpy as np
import pages
import pytest
from scipy import stats

from totojax import jobs
from totojax.config.schema import ConfigError
from totojax.jobs.probe import seeds
from totojax.report import layer_sections, plots, shares

SOURCES = {"trained": 3, "untrained": 3, "pixels": 1, "histogram": 1}
GOOD = {
  "trained": (0.80, 0.82, 0.84),
  "untrained": (0.26, 0.25, 0.27),
  "pixels": (0.40, 0.41, 0.40),
  "histogram": (0.25, 0.25, 0.25),
}


def probes(root, question, top1, *, n=1000):
  """Folders of probes, one for each seed; returns their paths."""
  paths = []
  for seed in range(len(top1["trained"])):
    folder = root / f"{question}_{seed}"
    folder.mkdir(parents=True)
    config = {"run": "probe", "seed": seed}
    (folder / "config.json").write_text(json.dumps(config))
    lines = ["backbone,layer,setting,top1,n,train_loss"]
    metrics = {"n": n, "n_expected": n, "classes": 4, "majority_top1": 0.26}
    for source, layers in SOURCES.items():
      best = top1[source][seed]
      lines += [
        f"{source},{layer},{s},{best - 0.01 * (layers - 1 - layer + s):.6f},{n},0.5"
        for layer in range(layers)
        for s in range(2)
      ]
      for split in ("holdout", "validation"):
        metrics |= {
          f"{source}/chosen_on_{split}/top1": best,
          f"{source}/chosen_on_{split}/top1_sem": 0.01,
          f"{source}/chosen_on_{split}/layer": layers - 1,
        }
    (folder / "per_layer.csv").write_text("\n".join(lines) + "\n")
    (folder / "metrics.json").write_text(json.dumps(metrics))
    paths.append(str(folder))
  return paths


def together(root, **questions):
  """Runs the job; returns its folder and its metrics.json."""
  config = {"run": "probe_seeds", "probe_seeds": questions}
  workdir = epath.Path(root / "seeds")
  assert jobs.run(config, workdir, lambda step: False)
  return workdir, json.loads((workdir / "metrics.json").read_text())


def test_an_interval_by_hand():
  found = seeds.interval((0.80, 0.82, 0.84), 1000)
  # Student's t of two degrees of freedom is 4.3027; the normal one, 1.9600.
  of_seeds = 4.302653 * 0.02 / 3**0.5
  of_items = stats.binomtest(820, 1000).proportion_ci(0.95, method="wilson")
  assert found.mean == pytest.approx(0.82)
  below = (of_seeds**2 + (0.82 - of_items.low) ** 2) ** 0.5
  above = (of_seeds**2 + (of_items.high - 0.82) ** 2) ** 0.5
  assert found.low == pytest.approx(0.82 - below, rel=1e-6)
  assert found.high == pytest.approx(0.82 + above, rel=1e-6)


@pytest.mark.parametrize("right, items", [(0, 32), (32, 32), (3, 32), (41, 240)])
def test_a_share_has_wilsons_interval(right, items):
  found = shares.wilson(right / items, items)
  wanted = stats.binomtest(right, items).proportion_ci(0.95, method="wilson")
  np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)
  if right == 0:
    assert shares.percent(0.0, 32) == "0.0 % (0.0 to 10.7)"
  # The control: a standard error would be nothing of none.
  assert found[1] - found[0] > 0.05


def test_a_difference_of_shares_has_newcombes_interval():
  low, high = shares.difference(0.7, 0.6, 1000)
  (a, b), (c, d) = (
    stats.binomtest(k, 1000).proportion_ci(0.95, method="wilson") for k in (700, 600)
  )
  assert low == pytest.approx(0.1 - ((0.7 - a) ** 2 + (d - 0.6) ** 2) ** 0.5, rel=1e-9)
  assert high == pytest.approx(0.1 + ((b - 0.7) ** 2 + (0.6 - c) ** 2) ** 0.5, rel=1e-9)


def test_intervals_hold_the_truth_as_often_as_they_say():
  """Seeds of one accuracy each, all scored on the same sample of items."""
  rng = np.random.default_rng(0)
  items, inside, without_items = 300, 0, 0
  for _ in range(400):
    own = rng.normal(0.6, 0.01, 3)
    hard = rng.random(items)  # an item is right where it is easy enough
    values = [(hard < accuracy).mean() for accuracy in own]
    found = seeds.interval(values, items)
    inside += found.low < 0.6 < found.high
    spread = 4.3027 * np.std(values, ddof=1) / 3**0.5
    without_items += abs(found.mean - 0.6) < spread
  assert inside / 400 > 0.94
  assert without_items / 400 < 0.8  # what seeds alone would have promised


def test_tables_are_joined_and_the_claim_follows_the_intervals(place):
  level = GOOD | {"untrained": (0.74, 0.76, 0.75)}
  root = epath.Path(place.url)
  workdir, found = together(
    root, motion=probes(root, "motion", GOOD), shape=probes(root, "shape", level)
  )
  assert found["motion/pays"] is True and found["shape/pays"] is False
  assert found["motion/trained/layers"] == [2, 2, 2]
  assert found["motion/seeds"] == 3 and found["motion/n"] == 1000
  assert found["motion/untrained/top1"] == pytest.approx(0.26)
  with (workdir / "per_layer.csv").open() as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 2 * 3 * 2 * sum(SOURCES.values())
  assert {row["backbone"] for row in rows} == set(SOURCES)
  own = [
    float(row["top1"])
    for row in rows
    if (row["question"], row["seed"], row["backbone"]) == ("motion", "1", "trained")
  ]
  assert max(own) == pytest.approx(0.82)


def test_probes_that_do_not_belong_together_are_refused(tmp_path):
  paths = probes(tmp_path / "a", "motion", GOOD)
  with pytest.raises(ConfigError, match="motion names 1 run; an interval"):
    together(tmp_path, motion=paths[:1])
  others = probes(tmp_path / "b", "motion", GOOD, n=900)
  with pytest.raises(ConfigError, match="n .1000, 900. are not of one"):
    together(tmp_path, motion=[paths[0], others[1]])
  with pytest.raises(ConfigError, match="none/per_layer.csv does not exist"):
    together(tmp_path, motion=[paths[0], str(tmp_path / "none")])


def page_of(chain, monkeypatch):
  monkeypatch.setattr(plots, "_svg", lambda *_, **__: "<svg></svg>")
  monkeypatch.setattr(plots, "_legend", lambda *_: "")
  return pages.Page(fake_chain.page(chain).read_text())


def test_the_report_shows_every_probe_and_all_seeds(tmp_path, monkeypatch):
  chain = fake_chain.write(tmp_path / "learns")
  assert "What each layer knows" not in page_of(chain, monkeypatch).text
  paths = probes(chain, "motion", GOOD)
  together(chain, motion=paths)
  config = json.loads((chain / "config.json").read_text())
  config["order"] += ["motion_0", "motion_1", "motion_2", "seeds"]
  (chain / "config.json").write_text(json.dumps(config))
  text = page_of(chain, monkeypatch).text
  for words in (
    "motion: the trained backbone is at least 76.4 %",
    "at most 43.7 %",
    "top-1 on 1000 validation items of 4 classes, mean of 3 seeds",
    "the same model, untrained",
    "motion_2",
    "always the largest class",
    "The trained backbone is above the rest. +41.0 points",
  ):
    assert words in text, words
  assert "has not finished" not in text
  (chain / "motion_1" / "per_layer.csv").unlink()
  text = page_of(chain, monkeypatch).text
  assert "This probe has not finished." in text and "+40.0 points" in text


def test_the_report_shows_one_probe_in_the_open(tmp_path, monkeypatch):
  chain = fake_chain.write(tmp_path / "demo")
  (path, *_) = probes(tmp_path, "probe", GOOD)
  epath.Path(path).rename(chain / "probe")
  config = json.loads((chain / "config.json").read_text())
  config["order"].insert(-1, "probe")
  (chain / "config.json").write_text(json.dumps(config))
  text = page_of(chain, monkeypatch).text
  assert "Top-1 accuracy on 1000 validation items of 4 classes" in text
  assert "+40.0 points against the best other: small pixels" in text


def test_the_curve_is_the_mean_of_each_seeds_best_setting(tmp_path):
  workdir, _ = together(tmp_path, motion=probes(tmp_path, "motion", GOOD))
  with open(workdir / "per_layer.csv") as file:
    rows = list(csv.DictReader(file))
  table = layer_sections._over_seeds(rows)
  np.testing.assert_allclose(table["trained"]["layer"], [0, 1, 2])
  np.testing.assert_allclose(table["trained"]["top1"], [0.80, 0.81, 0.82])
