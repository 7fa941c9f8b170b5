"""Power laws: known ones recovered, numpy's fit, frontiers by hand."""

import dataclasses

import numpy as np
import pytest
from scipy import spatial

from totojax.report import plots, reading, scaling, scaling_page
from totojax.rundir import files

MACS = np.logspace(13, 17, 9)


def noisy(seed=0, noise=0.01):
  rng = np.random.default_rng(seed)
  return 7.32 * MACS**-0.0378 * np.exp(noise * rng.normal(size=len(MACS)))


def test_the_printed_law_is_recovered():
  law = scaling.fit(MACS, 7.32 * MACS**-0.0378, floor=False)
  assert law.a == pytest.approx(7.32, rel=1e-9)
  assert law.b == pytest.approx(0.0378, rel=1e-9)
  assert law.r2 == pytest.approx(1.0, abs=1e-9) and law.floor == 0.0
  # In another unit the exponent stays and the prefactor does not.
  other = scaling.fit(MACS, 7.32 * MACS**-0.0378, floor=False, unit=1e6)
  assert other.b == pytest.approx(law.b, rel=1e-9)
  assert other.a == pytest.approx(7.32 * 1e6**-0.0378, rel=1e-9)
  np.testing.assert_allclose(other(MACS), law(MACS), rtol=1e-9)


def test_noisy_points_are_fitted_as_numpy_does():
  loss = noisy()
  law = scaling.fit(MACS, loss, floor=False)
  slope, offset = np.polyfit(np.log(MACS), np.log(loss), 1)
  assert law.b == pytest.approx(-slope, rel=1e-9)
  assert np.log(law.a) == pytest.approx(offset, rel=1e-9)
  rest = np.log(loss) - np.log(law(MACS))
  assert law.r2 == pytest.approx(1 - rest.var() / np.log(loss).var())
  assert law.r2 < 0.999  # this data has noise


@pytest.mark.parametrize("floor, a, b", [(2.7, 45.3, 0.2), (1.5, 20.0, 0.12)])
def test_an_irreducible_term_is_recovered(floor, a, b):
  unit = 1e6
  loss = floor + a * (MACS / unit) ** -b
  law = scaling.fit(MACS, loss, floor=True, unit=unit)
  assert law.floor == pytest.approx(floor, rel=1e-3)
  assert law.b == pytest.approx(b, rel=1e-2)
  np.testing.assert_allclose(law(MACS), loss, rtol=1e-4)
  # Control: the law without one misses these points.
  plain = scaling.fit(MACS, loss, floor=False, unit=unit)
  assert np.abs(plain(MACS) / loss - 1).max() > 3e-3


def test_an_outlier_moves_the_floor_little():
  loss = 2.0 + 20 * (MACS / 1e6) ** -0.15
  loss[4] *= 1.1
  law = scaling.fit(MACS, loss, floor=True, unit=1e6)
  clean = np.delete(np.arange(len(MACS)), 4)
  np.testing.assert_allclose(law(MACS)[clean], loss[clean], rtol=5e-3)


@pytest.mark.parametrize(
  "macs, loss, floor, told",
  [
    ([1e13, 1e15], [4.0, 3.0], False, "2 points over 2.00 decades"),
    ([1e13, 2e13, 9e13], [4.0, 3.5, 3.0], False, "over 0.95 decades"),
    ([1e13, 1e14, 1e15], [4.0, 3.5, 3.0], True, "needs 4 points"),
  ],
)
def test_too_little_data_is_refused_unless_forced(macs, loss, floor, told):
  with pytest.raises(ValueError, match=told):
    scaling.fit(np.array(macs), np.array(loss), floor=floor)
  law = scaling.fit(np.array(macs), np.array(loss), floor=floor, force=True)
  assert law.b > 0


def test_what_is_no_data_is_always_refused():
  with pytest.raises(ValueError, match="must be positive"):
    scaling.fit(np.array([1e3, 0.0]), np.array([1.0, 2.0]), floor=False)
  with pytest.raises(ValueError, match="make no line"):
    scaling.fit(np.array([1e3, 1e3]), np.ones(2), floor=False, force=True)
  with pytest.raises(ValueError, match="one value each"):
    scaling.fit(np.ones(2), np.ones(3), floor=False)


def runs():
  """Points of four runs: each falls fast, then flattens at its own loss."""
  macs, loss, names = [], [], []
  for i, size in enumerate((1e13, 1e14, 1e15, 1e16)):
    c = np.geomspace(size, 300 * size, 40)
    macs.append(c)
    loss.append(7.32 * (c / 1e6) ** -0.0378 + 0.3 * (size / c) + 0.02 * i)
    names += [f"a{i}"] * len(c)
  return np.concatenate(macs), np.concatenate(loss), np.array(names)


def test_the_frontier_by_hand():
  macs = np.array([1.0, 1.5, 12.0, 15.0, 120.0, 1500.0, 1600.0])
  loss = np.array([5.0, 4.0, 4.5, 3.0, 3.5, 2.0, 1.0])
  # Bins of a decade: best 1 (4.0), 3 (3.0), 4 (3.5, no new low), 6 (1.0).
  found = scaling.envelope(macs, loss, bins_per_decade=1)
  assert found.tolist() == [1, 3, 6]
  order = np.array([6, 2, 0, 5, 1, 4, 3])
  shuffled = scaling.envelope(macs[order], loss[order], bins_per_decade=1)
  assert order[shuffled].tolist() == [1, 3, 6]


def test_the_frontier_holds_the_lower_hull():
  """Points of the convex hull seen from below are on a fine frontier."""
  macs, loss, _ = runs()
  front = scaling.envelope(macs, loss, bins_per_decade=1000)
  assert np.all(np.diff(loss[front]) < 0) and np.all(np.diff(macs[front]) > 0)
  points = np.column_stack([np.log(macs), np.log(loss)])
  hull = spatial.ConvexHull(points)
  below = {
    int(i)
    for simplex, equation in zip(hull.simplices, hull.equations)
    if equation[1] < 0 and equation[0] < 0
    for i in simplex
  }
  assert len(below) > 3 and below <= set(front.tolist())


def test_the_interval_of_the_exponent():
  macs, loss, names = runs()
  settings = dict(bins_per_decade=4, floor=False, draws=60, seed=0)
  low, high = scaling.bootstrap(macs, loss, names, **settings)
  front = scaling.envelope(macs, loss, bins_per_decade=4)
  b = scaling.fit(macs[front], loss[front], floor=False).b
  assert low < b < high and high - low < 0.05
  assert scaling.bootstrap(macs, loss, names, **settings) == (low, high)
  one = names == "a0"
  with pytest.raises(ValueError, match="0 of 60 draws of 1 runs"):
    scaling.bootstrap(np.ones(one.sum()), loss[one], names[one], **settings)


def test_the_papers_law_in_true_macs():
  """Figure 9 at 1e16 of its unit reads 3.06; GPT-3's law counts PF-days."""
  axis = 1e16
  assert scaling.PAPER(axis * 3 * 4096) == pytest.approx(3.06, rel=3e-3)
  raw = 7.32 * axis**-0.0378
  assert raw == pytest.approx(1.818, rel=1e-3)  # what the law says as printed
  one_pf_day = 8.64e19 / 2
  assert scaling.GPT_3(one_pf_day) == pytest.approx(2.57)
  assert scaling.GPT_3(1000 * one_pf_day) == pytest.approx(2.57 * 1e3**-0.048)


def test_the_figure(tmp_path):
  macs, loss, names = runs()
  front = scaling.envelope(macs, loss, bins_per_decade=4)
  law = scaling.fit(macs[front], loss[front], floor=False)
  fitted = np.isin(np.arange(len(macs)), front).astype(int)
  points = zip(names, macs, loss, fitted, strict=True)
  rows = [dict(zip(("run", "macs", "loss", "frontier"), point)) for point in points]
  files.write_csv(tmp_path / "scaling.csv", rows)
  files.write_json(tmp_path / "laws.json", {"law": dataclasses.asdict(law)})
  draw = scaling_page.drawing(reading.RunFolder(tmp_path))
  svg = plots.figure(draw, "", name="scaling", label="loss over compute")
  for word in ("a0", "a3", "fit", "GPT-3 (text)", "training compute (MACs)"):
    assert word in svg, word
  plots.write(tmp_path / "scaling.png", draw)
  assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


def end(recipe, seed, loss, *, step=100, last=1, trained=100):
  return dict(
    parameters=10, step=step, tokens=8 * step, last=last, recipe=recipe, seed=seed, loss=loss
  ) | {"trained": trained}


def test_recipes_are_compared_seed_by_seed():
  """Seeds differ by far more than recipes do, which pairs see and means do not."""
  rows = [end("cosine", seed, 3.0 + seed) for seed in range(3)]
  rows += [end("wsd", seed, 2.9 + seed + 0.01 * seed, trained=20) for seed in range(3)]
  rows += [end("wsd", 0, 9.0, last=0), end("wsd", 0, 2.0, step=200)]  # no end, and no cosine
  first, second = scaling.compared(rows)
  assert (first["recipe"], first["seeds"], first["trained"]) == ("cosine", 3, 300)
  assert first["loss"] == pytest.approx(4.0) and first["difference"] is None
  assert (second["recipe"], second["trained"]) == ("wsd", 60)
  assert second["difference"] == pytest.approx(-0.09)
  assert second["difference_sem"] == pytest.approx(0.01 / 3**0.5)
  assert second["loss_sem"] == pytest.approx(1.01 / 3**0.5)
  assert scaling.compared(rows[:3]) == []  # nothing to compare
