"""Sweeps: lanes against single runs, divergence, resuming, the optimum."""

import json
import math
import re

from etils import epath
import jax
import numpy as np
import pytest
import stores

from totojax import jobs, lanes, train
from totojax.config import recipes, roots, study_recipes
from totojax.config.schema import ConfigError
from totojax.jobs import pretrain as build_pretrain
from totojax.jobs.sweep import expand, job
from totojax.report import frame, optimum, reading, sweep_page
from totojax.rundir import directory

STEPS = 4
RATES = (2.0**-12, 2.0**-4)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  root = tmp_path_factory.mktemp("stores")
  return {
    "train": stores.write(root / "train", records=32, seed=0, prefix="t"),
    "val": stores.write(root / "val", records=8, seed=1, prefix="v"),
  }


def base(data):
  """One tiny model, `STEPS` updates of 8 rows."""
  c = recipes.pretrain("tiny")
  c.sequence.update(vocab=stores.VOCAB, grid=stores.GRID, frames=stores.FRAMES, context=16)
  c.model.update(width=16, depth=1, heads=2, mlp_dim=32, tied=False)
  c.mup.base_width = 8
  c.compute.dtype = "float32"
  c.optim.warmup_steps = 1
  c.train.update(batch_tokens=8 * 16, total_tokens=STEPS * 8 * 16.0)
  c.data.train = {"moving": recipes.source(data["train"], 1.0)}
  c.data.validation = {"moving": data["val"]}
  c.every = recipes.every(log=1, evaluate=STEPS, checkpoint=1)
  return c


def sweep_of(data, **changes):
  models = study_recipes.sizes(8, 16, depth=1, heads=2, mlp_ratio=2.0)
  c = study_recipes.sweep(base(data), models)
  c.sweep.seeds = (0,)
  c.sweep.log2_lr.update(mup=(-9.0, -6.0), standard=())
  c.sweep.update(changes)
  return c


def points_of(c, home=""):
  config = roots.read(c.to_dict())
  return list(expand.points(config.sweep, config.pretrain, home))


def fit(config, workdir, side=None, interrupted=lambda step: False):
  run = build_pretrain.pretraining(roots.read(config.to_dict()), side)
  return train.fit(run, epath.Path(workdir), interrupted=interrupted)


def rows_of(workdir):
  text = (epath.Path(workdir) / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


def losses(workdir, key="loss"):
  return [row[key] for row in rows_of(workdir) if row["kind"] == "train"]


@pytest.fixture(scope="module")
def singles(data, tmp_path_factory):
  """Each rate alone: (final parameters, training losses, validation loss)."""
  found = []
  for rate in RATES:
    config = base(data)
    config.mup.on = True
    config.optim.lr = rate
    workdir = tmp_path_factory.mktemp("single")
    state, _ = fit(config, workdir)
    val = rows_of(workdir)[-1]["moving/loss"]
    found.append((jax.device_get(state.params), losses(workdir), val))
  return found


@pytest.mark.parametrize("in_turn", [True, False])
def test_a_lane_is_the_run_that_it_would_be_alone(in_turn, singles, data, tmp_path):
  config = base(data)
  config.mup.on = True
  state, _ = fit(config, tmp_path, lanes.Lanes(RATES, in_turn))
  for i, (params, of_steps, val) in enumerate(singles):
    name = lanes.name(i)
    np.testing.assert_allclose(losses(tmp_path, f"{name}/loss"), of_steps, rtol=1e-5)
    assert rows_of(tmp_path)[-1][f"{name}/moving/loss"] == pytest.approx(val, rel=1e-5)
    jax.tree.map(
      lambda lane, one: np.testing.assert_allclose(lane[i], one, rtol=2e-4, atol=1e-6),
      jax.device_get(state.params),
      params,
    )
  # Control: the lanes are not the same run.
  assert singles[0][1][-1] != pytest.approx(singles[1][1][-1], rel=1e-3)


def test_a_diverged_lane_is_frozen_and_the_others_go_on(singles, data, tmp_path):
  config = base(data)
  config.mup.on = True
  config.optim.clip_norm = 1e9
  rates = (RATES[1], 1e38)
  state, finished = fit(config, tmp_path, lanes.Lanes(rates, True))
  assert finished
  at = int(state.stats["diverged"][1])
  assert 1 <= at <= STEPS and int(state.stats["diverged"][0]) == 0
  assert state.step.tolist() == [STEPS, at - 1]  # updates that were kept
  for leaf in jax.tree.leaves(jax.device_get(state.params)):
    assert np.isfinite(leaf).all()
  rows = rows_of(tmp_path)
  found = job.outcome(rows, 1, STEPS)
  assert found["diverged_at"] == at and found["val_loss"] is None
  alive = job.outcome(rows, 0, STEPS)
  assert alive["diverged_at"] == 0 and alive["val_loss"] > 0
  of_steps = losses(tmp_path, "lane01/loss")
  assert of_steps[at - 1 :] == [None] * (STEPS - at + 1)
  assert all(isinstance(x, float) for x in losses(tmp_path, "lane00/loss"))


def test_every_combination_is_a_point(data):
  c = sweep_of(data, seeds=(0, 1), total_tokens=(256.0, 512.0))
  c.sweep.log2_lr.standard = (-7.0,)
  points = points_of(c)
  assert len(points) == 2 * 2 * 2 * (2 + 1)
  assert len({point.name for point in points}) == len(points)
  assert len({point.run for point in points}) == 2 * 2 * 2 * 2
  for point in points:
    assert point.config.mup.on == (point.parametrisation == "mup")
    assert point.config.seed == point.seed
    assert point.config.train.total_tokens == point.total_tokens
    assert point.model == f"w{point.config.model.width}"
  # A key that all share makes other points; the learning rate's own does not.
  c.pretrain.optim.lr = 0.5
  again = points_of(c)
  assert [p.name for p in again] == [p.name for p in points]
  c.pretrain.optim.b2 = 0.5
  other = points_of(c)
  assert not {p.name for p in other} & {p.name for p in points}


def test_multipliers_are_crossed_with_the_models(data):
  c = sweep_of(data)
  plain = {point.model: point.config for point in points_of(c)}
  c.sweep.multipliers = {"plain": {}, "loud": {"output": 8.0, "embedding_std": 1.0}}
  points = points_of(c)
  assert len(points) == 2 * 2 * 2
  assert {p.model for p in points} == {"w8-plain", "w8-loud", "w16-plain", "w16-loud"}
  for point in points:
    model, _, name = point.model.partition("-")
    section = point.config.mup
    assert (section.output, section.embedding_std) == ((8.0, 1.0) if name == "loud" else (1.0, 0.0))
    assert section.on and section.base_width == 8
    assert point.config.model == plain[model].model
    if name == "plain":
      assert point.config == plain[model]


@pytest.mark.parametrize(
  "changes, told",
  [
    (dict(seeds=()), r"sweep.seeds is \(\); name some, each once"),
    (dict(seeds=(1, 1)), r"sweep.seeds is \(1, 1\); name some, each once"),
    (dict(lanes=-1), "sweep.lanes is -1"),
    (dict(together="both"), "sweep.together is 'both'"),
    (dict(log2_lr=dict(mup=(), standard=())), r"log2_lr has rates for \[\]; use 'mup' or"),
    (dict(multipliers={"x": {"outputs": 2.0}}), r"sweep.multipliers.x"),
    (dict(multipliers={"x": {}}, log2_lr=dict(mup=(), standard=(-6.0,))), "log2_lr.standard has"),
    (dict(log2_lr=dict(sp=(1.0,))), r"log2_lr has rates for \['sp'\]; use 'mup' or"),
    (
      dict(models={"x": {"depht": 1}}),
      r"models.x.depht does not exist; did you mean sweep.models.x.depth",
    ),
  ],
)
def test_a_bad_sweep_is_refused_before_anything_runs(changes, told, data, tmp_path):
  c = sweep_of(data).to_dict()
  c["sweep"] |= changes
  workdir = epath.Path(tmp_path / "run")
  with pytest.raises((ConfigError, ValueError), match=told):
    jobs.run(c, workdir, lambda step: False)
  assert not workdir.exists()


def test_a_sweep_that_was_moved_with_its_data_has_the_same_points(data):
  def names(home, data_in):
    c = sweep_of(data)
    for source in c.pretrain.data.train.values():
      source.path = f"{data_in}/shards"
    return [p.name for p in points_of(c, home)]

  here = names("/a/chain", "/a/chain")
  assert names("/b/moved", "/b/moved") == here
  # Controls: data elsewhere, and a folder whose name only begins alike.
  assert not set(names("/a/chain", "/a/other")) & set(here)
  assert not set(names("/a/chain", "/a/chain2")) & set(here)


def test_a_damaged_point_is_named_before_anything_is_trained(data, tmp_path):
  c = sweep_of(data).to_dict()
  (point, *_) = points_of(sweep_of(data), str(tmp_path))
  file = tmp_path / "run" / "points" / f"{point.name}.json"
  file.parent.mkdir(parents=True)
  file.write_text('{"steps": 1')
  with pytest.raises(ValueError, match="json is damaged .* remove it"):
    jobs.run(c, epath.Path(tmp_path / "run"), lambda step: False)


def test_programs_hold_as_many_rates_as_fit(data):
  c = sweep_of(data)
  c.sweep.log2_lr.mup = (-9.0, -8.0, -7.0, -6.0, -5.0)
  points = points_of(c)
  sizes = [len(program) for program in job._programs(points, 2)]
  assert sizes == [2, 2, 1] * 2
  assert [len(program) for program in job._programs(points, 0)] == [5, 5]


LOCAL = pytest.mark.exhaustive("test_sweep.py::test_a_sweep_resumes_skips_and_reports")  # on gs


@pytest.mark.slow
@pytest.mark.parametrize("place", [pytest.param("local", marks=LOCAL), "gs"], indirect=True)
def test_a_sweep_resumes_skips_and_reports(data, place, monkeypatch):
  config, trained = sweep_of(data).to_dict(), []
  workdir = epath.Path(place / "run")
  fit_ = train.fit

  def counted(run, folder, **more):
    trained.append(folder.name)
    return fit_(run, folder, **more)

  monkeypatch.setattr(train, "fit", counted)
  stops = iter([False, True])  # in the first model, after two updates
  assert not jobs.run(config, workdir, lambda step: next(stops))
  assert not (workdir / "points").exists()
  assert jobs.run(config, workdir, lambda step: False)
  assert len(trained) == 3 and trained[0] == trained[1]  # it went on
  assert len(list((workdir / "points").iterdir())) == 4
  assert not list(workdir.glob("runs/*/checkpoints"))
  table = (workdir / "sweep.csv").read_text()

  # The same without a stop: the same points, to the last digit.
  other = epath.Path(place / "other")
  assert jobs.run(config, other, lambda step: False)
  assert (other / "sweep.csv").read_text() == table

  # Again: nothing is trained. One rate more: only that one.
  trained.clear()
  assert jobs.run(config, workdir, lambda step: False)
  assert not trained
  config["sweep"]["log2_lr"]["mup"] += (-7.0,)
  assert jobs.run(config, workdir, lambda step: False)
  assert len(trained) == 2
  rows = reading.RunFolder(workdir).records("sweep.csv")
  assert len(rows) == 6
  assert {row["log2_lr"] for row in rows} == {"-9.0", "-7.0", "-6.0"}
  html = (workdir / "report.html").read_text()
  assert "Not shown" not in html and html.count("<svg role") == 2
  assert (workdir / "sweep_mup_512.png").exists()
  assert directory.read_config(workdir)["run"] == "sweep"


def curve(best, *, bend=0.1, noise=0.0, seeds=3, width=64, kind="mup", rates=(-10, -3)):
  """A noisy parabola around `best`, with an offset for each seed."""
  rng = np.random.default_rng(width)
  x_X = np.arange(*rates, dtype=float)
  x_P = np.tile(x_X, seeds)
  seed_P = np.repeat(np.arange(seeds), len(x_X))
  loss_P = 3.0 + bend * (x_P - best) ** 2 + 0.3 * seed_P
  loss_P += noise * rng.normal(size=len(x_P))
  return optimum.Curve(kind, f"w{width}", width, 1e5, x_P, loss_P, seed_P)


def test_the_optimum_of_an_exact_parabola():
  found = optimum.find(curve(-6.3))
  assert found.log2_lr == pytest.approx(-6.3, abs=1e-9)
  assert found.loss == pytest.approx(3.3, abs=1e-9)  # mean of three seeds
  assert found.high - found.low == pytest.approx(0.0, abs=1e-6)
  assert found.grid == -6.0 and not found.why
  # Oracle: numpy's own fit of the same points of one seed.
  one = curve(-6.3, seeds=1, noise=0.02)
  near = abs(one.x_P - optimum.find(one).grid) <= optimum.REACH_OCTAVES
  a, b, _ = np.polyfit(one.x_P[near], one.loss_P[near], 2)
  assert optimum.find(one).log2_lr == pytest.approx(-b / (2 * a), rel=1e-9)


def test_the_interval_holds_the_truth_as_often_as_it_says():
  """95 % of noisy repetitions, and fewer for an interval half as wide."""
  rng = np.random.default_rng(0)
  x_P = np.tile(np.arange(-8.0, -3.0), 3)
  seed_P = np.repeat(np.arange(3), 5)
  hits, halved = 0, 0
  trials = 400
  for _ in range(trials):
    loss_P = 3 + 0.1 * (x_P + 6.1) ** 2 + 0.02 * rng.normal(size=len(x_P))
    found = optimum.find(optimum.Curve("mup", "w", 64, 1.0, x_P, loss_P, seed_P))
    off = abs(found.log2_lr + 6.1)
    half = (found.high - found.low) / 2
    hits += off <= half
    halved += off <= half / 2
  assert 0.91 < hits / trials < 0.985
  assert halved / trials < 0.85


def test_what_is_no_optimum_is_said():
  at_end = optimum.find(curve(-1.0))
  assert at_end.log2_lr is None and "end of the list" in at_end.why
  flat = curve(-6.0, bend=0.0)
  flat.loss_P[flat.x_P == -6.0] -= 0.01
  wide = optimum.find(flat)
  assert wide.why == "" or "minimum" in wide.why
  dead = curve(-6.0)
  dead.loss_P[dead.x_P > -7.5] = np.nan  # the best left is -8, of three
  dead.loss_P[dead.x_P < -8.5] = np.nan
  assert "fewer than three" in optimum.find(dead).why
  with pytest.raises(ValueError, match="every run of w64 .* diverged"):
    dead.loss_P[:] = np.nan
    optimum.find(dead)


def test_the_verdict_says_what_happened():
  stays = [curve(-6.0, width=32), curve(-6.4, width=256)]
  (said,) = optimum.verdict(stays)
  assert "stays within one octave (0.40)" in said and "NOT" not in said
  drifts = [curve(-5.0, width=32, kind="standard"), curve(-7.5, width=256, kind="standard")]
  (said,) = optimum.verdict(drifts)
  assert "drifts by two octaves or more (2.50)" in said and "NOT" not in said
  # Neither shows: it says so.
  (said,) = optimum.verdict([curve(-5.0, width=32), curve(-6.5, width=256)])
  assert "between one and two octaves (1.50)" in said and "NOT" in said
  (said,) = optimum.verdict([curve(-5.0, width=32), curve(-1.0, width=256)])
  assert "no optimum at every width (w256: the best" in said
  (said,) = optimum.verdict([curve(-5.0)])
  assert "one width only" in said


def write_points(folder):
  lines = ["parametrisation,model,width,tokens,seed,log2_lr,val_loss,diverged_at"]
  for kind, width, best in (
    ("mup", 32, -6.0),
    ("mup", 64, -6.2),
    ("standard", 32, -5.5),
    ("standard", 64, -7.8),
  ):
    of = curve(best, width=width, kind=kind, noise=0.01)
    for x, loss, seed in zip(of.x_P, of.loss_P, of.seed_P):
      loss, at = (loss, 0) if x < -4.5 else ("", 7)
      lines.append(f"{kind},w{width},{width},1e5,{seed},{x},{loss},{at}")
  (folder / "sweep.csv").write_text("\n".join(lines) + "\n")


def test_models_of_one_width_are_ranked():
  x = np.array([-8.0, -7.0, -6.0])

  def of(model, losses):
    return optimum.Curve("mup", model, 32, 1e5, x, np.array(losses), np.zeros(3, int))

  curves = [of("worse", [3.0, 2.5, 2.75]), of("best", [3.0, 2.0, np.nan]), of("none", [np.nan] * 3)]
  (sentence,) = optimum.verdict(curves)
  assert sentence.endswith("width 32: best 2.000, worse 2.500.")


def test_the_page_shows_every_run_and_the_optima(tmp_path):
  write_points(tmp_path)
  sweep_page.write_figures(tmp_path)
  html = frame.write(tmp_path, sweep_page.PAGE).read_text()
  assert "Not shown" not in html.partition("<footer>")[0]  # there is no config to show
  assert html.count("<svg role") == 4  # two figures, wide and narrow
  assert "drifts by two octaves" in html and "stays within one octave" in html
  assert "All 84 runs" in html and "µP" in html
  assert len(list(tmp_path.glob("sweep_*.png"))) == 2
  # Diverged runs are missing points, not zeros.
  curves = sweep_page.read(reading.RunFolder(tmp_path))
  assert all(np.isnan(c.loss_P[c.x_P > -4.5]).all() for c in curves)
  assert all(math.isfinite(x) for x in sweep_page.limits(curves))


def test_a_page_without_its_csv_says_so(tmp_path):
  html = frame.write(tmp_path, sweep_page.PAGE).read_text()
  (line,) = re.findall(r"[^<>]*sweep.csv is missing[^<>]*", html)  # once, for all of these
  titles = [title for title, _ in sweep_page.PAGE.sections if title]
  assert line == f"Not shown: {', '.join([*titles, 'Verdict'])}: sweep.csv is missing."
