"""`run = "probe"` from stores to tables, against logistic regression."""

import csv
import dataclasses
import functools
import json
import pathlib
import shutil
import types

import classed
from etils import epath
import jax
import numpy as np
import probes
import pytest
import runs
from scipy import optimize
import stores

from totojax import assembly, jobs, rundir, sequence
from totojax.config import recipes, roots
from totojax.config.schema import ConfigError
from totojax.data.store import store as store_lib
from totojax.data.stream import labelled, rows as rows_lib, without_backbone
from totojax.evals import top1
from totojax.jobs.labels import tables
from totojax.jobs.probe import job as probe_job, memory as probe_plan, setup as build
from totojax.models import heads
from totojax.report import layer_sections, reading, shares
from totojax.rundir import files
from totojax.tasks import classify, encode, pretrain
from totojax.tokenizers import api
from totojax.trained import backbone

TRAIN, VAL = np.arange(96) % 3, np.arange(32) % 3


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  root = tmp_path_factory.mktemp("probe")
  return {
    "root": root,
    "model": probes.backbone(root),
    "train": probes.write(root / "t", TRAIN, prefix="t", seed=1),
    "val": probes.write(root / "v", VAL, prefix="v", seed=2),
    "train_px": probes.pixels(root / "tp", TRAIN, prefix="t", seed=3),
    "val_px": probes.pixels(root / "vp", VAL, prefix="v", seed=4),
  }


def config(data, /, **sections):
  return probes.config(data["model"], data["train"], data["val"], **sections)


def run(config, workdir, interrupted=lambda step: False):
  return jobs.run(config, epath.Path(workdir), interrupted)


def prepare(config):
  return build.prepare(roots.read(config))


def table(workdir):
  with open(pathlib.Path(workdir) / "per_layer.csv") as file:
    return list(csv.DictReader(file))


def metrics(workdir):
  return json.loads((pathlib.Path(workdir) / "metrics.json").read_text())


@pytest.fixture(scope="module")
def finished(data):
  """One run with everything in it."""
  workdir = data["root"] / "finished"
  assert run(
    config(
      data,
      backbones=("trained", "untrained", "pixels", "histogram"),
      data=dict(train_pixels=data["train_px"], validation_pixels=data["val_px"], expected=33),
      optim=dict(lrs=(0.03, 0.003)),
      train=dict(epochs=60.0),
      paper=dict(name="Table 5, average pooling", top1=53.2),
    ),
    workdir,
  )
  return workdir


def test_what_can_be_told_apart_is(finished):
  rows = table(finished)
  assert [(r["backbone"], r["layer"], r["setting"]) for r in rows] == [
    (b, str(layer), str(s))
    for b, layers in (("trained", 3), ("untrained", 3), ("pixels", 1), ("histogram", 1))
    for layer in range(layers)
    for s in range(2)
  ]
  found = metrics(finished)
  for source in ("trained", "untrained", "pixels", "histogram"):
    assert found[f"{source}/chosen_on_holdout/top1"] > 0.93, source
  assert found["n"] == 32 and found["n_expected"] == 33
  assert all(r["n"] == "32" and r["n_expected"] == "33" for r in rows)
  assert {r["depth_frac"] for r in rows[:6]} == {"0.0000", "0.5000", "1.0000"}
  assert found["majority_top1"] == pytest.approx(11 / 32)
  assert found["paper/top1"] == pytest.approx(0.532)


def test_a_model_without_heads_says_so_where_heads_are_needed():
  head = roots.read(recipes.probe("", "", "").to_dict()).head
  of, c = dataclasses.replace, recipes.pretrain("tiny")
  recipes.use(c, "mamba", "tiny")
  model = assembly.shape(roots.read(c.to_dict()).model)
  assert heads.filled(of(head, pool="average"), model).heads == 0
  assert heads.filled(of(head, pool="cross", heads=4), model).heads == 4
  with pytest.raises(ConfigError, match="a mamba has none; set head.heads to"):
    heads.filled(of(head, pool="attention"), model)


def test_the_chosen_head_is_the_best_of_where_it_was_chosen(finished):
  rows, found = table(finished), metrics(finished)
  for split, column in (("validation", "top1"), ("holdout", "holdout_top1")):
    own = [r for r in rows if r["backbone"] == "trained"]
    best = max(float(r[column]) for r in own)
    at = f"trained/chosen_on_{split}"
    picked = [
      r
      for r in own
      if int(r["layer"]) == found[f"{at}/layer"] and float(r["lr"]) == found[f"{at}/lr"]
    ]
    assert float(picked[0][column]) == best
    assert float(picked[0]["top1"]) == pytest.approx(found[f"{at}/top1"])


def test_predictions_are_those_that_were_counted(finished):
  with open(finished / "predictions.csv") as file:
    rows = [r for r in csv.DictReader(file) if r["backbone"] == "trained"]
  assert [r["id"] for r in rows] == [f"v/{i}" for i in range(32)]
  assert [int(r["label"]) for r in rows] == VAL.tolist()
  right = [r["label"] == r["predicted"] for r in rows]
  assert right == [r["rank"] == "0" for r in rows]
  top1 = metrics(finished)["trained/chosen_on_holdout/top1"]
  assert np.mean(right) == pytest.approx(top1)
  assert rows[0]["label_name"] == "low"


def test_the_report_shows_the_curve_and_what_to_compare_with(finished):
  folder = reading.RunFolder(finished.parent)
  (finished.parent / "probe").symlink_to(finished)
  text = layer_sections.layers(folder)
  for word in (
    "token histogram, no backbone",
    "Table 5, average pooling",
    "53.2",
    "1 of 33 validation items are missing",
    "<svg",
    "32 validation items",
  ):
    assert word in text, word
  assert (finished / "layer_curve.png").stat().st_size > 5000
  own = (finished / "report.html").read_text()  # of the probe alone
  assert "1 of 33 validation items are missing" in own and "<svg" in own
  assert "Not shown" not in own


def test_a_report_of_heads_that_nothing_was_held_out_for(finished, tmp_path):
  """As fine-tuning leaves them: what is known of the one head is shown."""
  found = {k: v for k, v in metrics(finished).items() if "chosen_on_holdout" not in k}
  (tmp_path / "metrics.json").write_text(json.dumps(found))
  shutil.copy(finished / "per_layer.csv", tmp_path)
  text = layer_sections.layers(reading.RunFolder(tmp_path), ".")
  top1, n = found["trained/chosen_on_validation/top1"], found["n"]
  low, high = shares.wilson(top1, n)
  for value in (low, high, top1):
    assert f">{100 * value:.1f}<" in text
  said = layer_sections.claim(reading.RunFolder(tmp_path))
  assert "this model" not in said.line and f"on {n:,} items" in said.interval


def test_a_best_rate_at_the_end_of_the_grid_is_told(finished):
  found, rows = metrics(finished), table(finished)
  rates = sorted({float(row["lr"]) for row in rows})
  told = " ".join(found["notes"])
  for source in ("trained", "untrained"):
    best = found[f"{source}/chosen_on_holdout/lr"]
    ends = best in (rates[0], rates[-1]) and len(rates) > 1
    assert (f"{source}: its best rate, {best:g}, is the" in told) == ends
  assert "the largest class" not in told  # of heads that learnt


@pytest.mark.parametrize(
  "rate, decay, told",
  [
    (0.1, 0.3, []),
    (0.1, 0.0, []),  # nothing is below none
    (0.1, 3.0, ["its best decay, 3, is the largest of optim.weight_decays"]),
    (
      0.01,
      3.0,
      [
        "its best rate, 0.01, is the smallest of optim.lrs",
        "its best decay, 3, is the largest of optim.weight_decays",
      ],
    ),
  ],
)
def test_an_optimum_at_an_end_of_the_grid_is_one_line(rate, decay, told):
  one = tables.Heads("histogram", (0,), 1, np.zeros((1, 9)), {"validation": None})
  settings = [(lr, wd) for lr in (0.01, 0.1, 1.0) for wd in (0.0, 0.3, 3.0)]
  chosen = {"top1": 0.9, "lr": rate, "weight_decay": decay}
  metrics = {f"histogram/chosen_on_validation/{k}": v for k, v in chosen.items()}
  notes = list(tables._notes(one, settings, metrics | {"majority_top1": 1 / 3}))
  line = f"histogram: {', and '.join(told)}; one beyond may be better"
  assert notes == ([line] if told else [])


def test_a_head_that_diverges_is_left_out_and_named(data, tmp_path, capsys):
  grid = dict(name="adamw", lrs=(0.03, 30.0), weight_decays=(0.0, 3.0))
  short = dict(epochs=10.0)
  assert run(config(data, train=short, optim=grid), tmp_path / "grid")
  line = "trained: 3 of 12 heads diverged and are left out: layer 0 with rate 30 and decay 3, layer"
  assert line in capsys.readouterr().out
  assert [n for n in metrics(tmp_path / "grid")["notes"] if "diverged" in n]
  rows = table(tmp_path / "grid")
  assert len(rows) == 9 and not [
    r for r in rows if r["lr"] == "30.0" and r["weight_decay"] == "3.0"
  ]
  # The control: without it the others are what they are beside it.
  grid = dict(grid, lrs=(0.03,))
  assert run(config(data, train=short, optim=grid), tmp_path / "fine")
  assert "diverged" not in capsys.readouterr().out
  both = [scores(tmp_path / name) for name in ("grid", "fine")]
  for key in ("train_loss", "validation/nll", "validation/rank"):
    np.testing.assert_allclose(both[0][key][:, :2], both[1][key], rtol=1e-5)
  assert np.isnan(both[0]["train_loss"][:, 3]).all()


def test_a_head_that_diverged_is_never_chosen():
  """Not even where it is right everywhere and the others are nowhere."""
  rank = np.array([[[0, 0], [1, 0], [1, 1]]])
  found = top1.Scores(rank, rank, np.zeros(rank.shape), np.array([[[0.0, 0], [1, 1], [2, 2]]]))
  heads_ = tables.Heads("a", (0,), 1, np.array([[np.nan, 1.0, 1.0]]), {"validation": found})
  assert heads_.best("validation") == (0, 1)
  fine = dataclasses.replace(heads_, train_loss=np.zeros((1, 3)))
  assert fine.best("validation") == (0, 0), "the control"
  with pytest.raises(rundir.RunError, match="all 3 heads of a diverged; lower optim.lrs"):
    dataclasses.replace(heads_, train_loss=np.full((1, 3), np.nan)).best("validation")


@pytest.mark.parametrize("top, below", [(0.3, True), (0.34, False)])
def test_a_head_below_the_largest_class_is_told(top, below):
  one = tables.Heads("joint", (0,), 1, np.zeros((1, 1)), {"validation": None})
  chosen = {"top1": top, "lr": 0.1, "weight_decay": 0.0}
  metrics = {f"joint/chosen_on_validation/{k}": v for k, v in chosen.items()}
  notes = list(tables._notes(one, [(0.1, 0.0)], metrics | {"majority_top1": 1 / 3}))
  told = ["joint: top-1 30.0 % is below the 33.3 % of always naming the largest class"]
  assert notes == told * below


def test_it_is_not_done_twice(finished, data):
  marks = {p: p.stat().st_mtime_ns for p in finished.glob("*/scores.npz")}
  assert len(marks) == 4
  written = files.read_json(finished / "config.json")
  assert run(written, finished)
  for path, mark in marks.items():
    assert path.stat().st_mtime_ns == mark


def scores(workdir, unit="trained"):
  with np.load(pathlib.Path(workdir) / unit / "scores.npz") as file:
    return dict(file)


def assert_close(a, b, *, rtol):
  assert a.keys() == b.keys()
  for name in ("train_loss", "validation/nll", "holdout/nll"):
    np.testing.assert_allclose(a[name], b[name], rtol=rtol, atol=1e-4)


@pytest.fixture(scope="module")
def plain(data):
  """A short run that others are compared with."""
  workdir = data["root"] / "plain"
  assert run(config(data, train=dict(epochs=4.0)), workdir)
  return scores(workdir)


def test_a_run_without_kept_features_is_the_same(data, plain, tmp_path):
  assert run(config(data, train=dict(epochs=4.0), cache="off"), tmp_path)
  assert not (tmp_path / "features").exists()
  assert_close(scores(tmp_path), plain, rtol=1e-3)
  assert plain["validation/nll"].std() > 1e-3  # or anything would agree


def test_sources_in_one_run_are_those_of_runs_of_their_own(data, plain, tmp_path):
  """Trained and untrained share their programs, and nothing else."""
  short = dict(epochs=4.0)
  both = ("trained", "untrained")
  assert run(config(data, train=short, backbones=both), tmp_path / "both")
  alone = config(data, train=short, backbones=("untrained",))
  assert run(alone, tmp_path / "alone")
  found = {name: scores(tmp_path / "both", name) for name in both}
  own = {"trained": plain, "untrained": scores(tmp_path / "alone", "untrained")}
  for name in both:
    for key in plain:
      np.testing.assert_array_equal(found[name][key], own[name][key])
  nll = [found[name]["validation/nll"] for name in both]
  assert not np.allclose(*nll, rtol=1e-3)
  # Untrained is what such a run starts from, however its program is written.
  of = prepare(alone)
  _, params = backbone.load(of.run, of.model, trained=False, depth=2, layout=of.layout, seed=0)
  first = jax.jit(pretrain.Pretrain(of.model).init)(jax.random.key(0)).params
  same = functools.partial(np.testing.assert_allclose, rtol=1e-6)
  jax.tree.map(same, params["blocks"], first["blocks"])


def test_a_subset_of_the_records_has_every_class(data, finished, tmp_path):
  def used(seed=0, **changed):
    sets = prepare(config(data, data=dict(train_records=60, **changed), seed=seed)).sets
    return np.sort(np.concatenate([sets.train.records, sets.holdout.records]))

  chosen = used()
  assert np.bincount(TRAIN[chosen]).tolist() == [20, 20, 20]
  np.testing.assert_array_equal(chosen, used())
  assert chosen.tolist() != used(seed=1).tolist()
  # The control, of a store in the order of its classes: its first records.
  ordered = probes.write(tmp_path / "o", np.sort(TRAIN), prefix="t", seed=1)
  assert np.bincount(np.sort(TRAIN)[:60], minlength=3).tolist() == [32, 28, 0]
  assert np.bincount(np.sort(TRAIN)[used(train=ordered)]).tolist() == [20, 20, 20]
  c = config(data, data=dict(train_records=60), train=dict(epochs=2.0))
  assert run(c, tmp_path / "run")
  kept = np.load(tmp_path / "run" / "features" / "trained-train.npy")
  assert len(kept) == 60
  whole = finished / "features" / "trained-train.npy"
  np.testing.assert_allclose(kept, np.load(whole)[chosen], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hosts", [1, 2])
def test_features_in_memory_are_read_in_the_order_of_the_stream(data, hosts):
  records = prepare(config(data)).sets.train
  some = np.sort(np.random.default_rng(0).permutation(96)[:70])
  records = dataclasses.replace(records, records=some)
  # A row for each record that is used: its own number.
  read = labelled.ReadFeatures(some[:, None, None].astype(np.float64), some)
  for host in range(hosts):
    which = dict(seed=3, batch=32, host=host, hosts=hosts)
    slow = labelled.stream(records, read, **which)
    for start in (0, 5):
      fast = labelled.stream_in_memory(records, read, start, **which)
      for step, batch in zip(range(start, start + 8), fast):  # three epochs
        for name, values in slow[step].items():
          np.testing.assert_array_equal(batch[name], values)
          assert batch[name].dtype == values.dtype
    other = next(labelled.stream_in_memory(records, read, 0, **{**which, "seed": 4}))
    assert (other["features"] != slow[0]["features"]).any(), "the control"


def test_groups_of_layers_are_the_whole_and_are_told(data, plain, tmp_path, capsys):
  """With memory for the heads of one layer only."""
  c = config(data, train=dict(epochs=4.0), memory_gb=3e-7)
  assert run(c, tmp_path)
  assert "in 3 groups of layers" in capsys.readouterr().out
  parts = [scores(tmp_path, f"trained-{i}") for i in range(3)]
  joined = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
  assert_close(joined, plain, rtol=1e-4)
  assert [r["layer"] for r in table(tmp_path)] == ["0", "1", "2"]
  with pytest.raises(ValueError, match="use fewer settings"):
    probe_plan.plan(prepare(config(data, memory_gb=1e-7)))


def test_a_run_that_was_stopped_is_the_same(data, plain, tmp_path):
  """While features are made, and between two updates of the heads."""
  c = config(data, train=dict(epochs=4.0))
  stops = iter([True])
  assert not run(c, tmp_path, lambda step: next(stops, False))
  assert not (tmp_path / "trained").exists()
  kept = tmp_path / "features" / "trained-train.npy.json"
  assert 0 < json.loads(kept.read_text())["done"] < 96
  assert not run(c, tmp_path, lambda step: step == 3)
  assert run(c, tmp_path)
  found = scores(tmp_path)
  for name in plain:
    np.testing.assert_array_equal(found[name], plain[name], err_msg=name)


def words(data, workdir, *more):
  """The command line of a short attention probe."""
  return runs.command(
    "configs/probe_folder.py",
    workdir,
    f"--config.model_run={data['model']}",
    f"--config.data.train={data['train']}",
    f"--config.data.validation={data['val']}",
    "--config.backbones=('trained',)",
    "--config.head.pool=attention",
    "--config.train.epochs=2.0",
    "--config.train.batch_rows=16",
    *more,
  )


def test_labels_that_mean_nothing_stay_at_chance(data, tmp_path):
  rng = np.random.default_rng(0)
  shuffled = [rng.permutation(np.arange(n) % 3) for n in (240, 240)]
  paths = [
    probes.write(tmp_path / p, y, ids=np.arange(240) % 3, prefix=p, seed=i)
    for i, (p, y) in enumerate(zip("tv", shuffled))
  ]
  c = probes.config(data["model"], *paths, backbones=("histogram",), train=dict(epochs=10.0))
  assert run(c, tmp_path / "run")
  (row,) = table(tmp_path / "run")
  # 240 items: the standard error of a third is 0.03.
  assert abs(float(row["top1"]) - 1 / 3) < 0.1


def logistic(x_MD, y_M, test_x, test_y):
  """(accuracy, loss on training data) by L-BFGS, with a trace of decay."""
  mean, std = x_MD.mean(0), x_MD.std(0)
  x_MD, test_x = (x_MD - mean) / std, (test_x - mean) / std
  classes = int(y_M.max()) + 1

  def loss(flat):
    w, b = flat[:-classes].reshape(-1, classes), flat[-classes:]
    z = x_MD @ w + b
    z -= z.max(1, keepdims=True)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    g = (p - np.eye(classes)[y_M]) / len(y_M)
    value = -np.log(p[np.arange(len(y_M)), y_M]).mean()
    grad = np.concatenate([(x_MD.T @ g).ravel(), g.sum(0)])
    return value, grad

  start = np.zeros((x_MD.shape[1] + 1) * classes)
  found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B")
  w = found.x[:-classes].reshape(-1, classes)
  named = (test_x @ w + found.x[-classes:]).argmax(1)
  return np.mean(named == test_y), found.fun


def test_heads_reach_what_logistic_regression_reaches(data, tmp_path):
  """On the same features; classes overlap, so that neither is perfect."""
  rng = np.random.default_rng(0)
  paths, labels = [], []
  for i, (name, n) in enumerate((("t", 1600), ("v", 1200))):
    truth = np.arange(n) % 3
    labels.append(np.where(rng.random(n) < 0.2, (truth + 1) % 3, truth))
    paths.append(probes.write(tmp_path / name, labels[-1], ids=truth, prefix=name, seed=i))
  c = probes.config(
    data["model"],
    *paths,
    layers=(1,),
    train=dict(epochs=60.0, batch_rows=256, score_rows=256),
    optim=dict(lrs=(0.03,)),
  )
  assert run(c, tmp_path / "run")
  (row,) = table(tmp_path / "run")
  of = prepare(c)
  kept = [
    np.load(tmp_path / "run" / "features" / f"trained-{s}.npy")[:, 0]
    for s in ("train", "validation")
  ]
  inside = of.sets.train.records
  accuracy, loss = logistic(
    kept[0][inside].astype(float), labels[0][inside], kept[1].astype(float), labels[1]
  )
  assert 0.6 < accuracy < 0.9
  assert float(row["top1"]) == pytest.approx(accuracy, abs=0.01)
  assert float(row["train_loss"]) == pytest.approx(loss, rel=0.15)


def test_an_epoch_is_of_items_not_of_their_views(data, tmp_path):
  """Four clips of each video: 20 epochs of these are 5 of the records."""
  names = [f"u/{i // 4}" for i in range(96)]
  labels = np.arange(96) // 4 % 3
  train = probes.write(tmp_path / "t", labels, prefix="", seed=1, names=names)
  short = dict(epochs=20.0, batch_rows=6)
  of = prepare(probes.config(data["model"], train, data["val"], train=short))
  single = prepare(config(data, train=short))  # the control: an item is a record
  held = len(of.sets.holdout.items())
  assert of.sets.train_items == 24 - held and len(of.sets.train.records) == 4 * (24 - held)
  assert of.steps == round(20 * (24 - held) / 6)
  assert single.steps == round(20 * len(single.sets.train.records) / 6)
  assert f"training records of {24 - held} items" in of.sets.sentence
  assert " of " not in single.sets.sentence.split(",")[0]


def test_views_of_one_item_are_one_item(data, tmp_path):
  """Three records of each of ten videos, one of which lacks two."""
  names = [f"v/{i // 3}" for i in range(28)]
  labels = np.array([int(n[2:]) % 3 for n in names])
  val = probes.write(tmp_path / "v", labels, prefix="", seed=1, names=names)
  c = probes.config(data["model"], data["train"], val, backbones=("histogram",))
  assert run(c, tmp_path / "run")
  assert metrics(tmp_path / "run")["n"] == 10
  with open(tmp_path / "run" / "predictions.csv") as file:
    rows = list(csv.DictReader(file))
  assert [r["id"] for r in rows] == [f"v/{i}" for i in range(10)]
  assert [int(r["label"]) for r in rows] == [i % 3 for i in range(10)]


def test_the_holdout_is_of_every_class_and_keeps_views_together(tmp_path):
  labels = np.repeat([0, 1, 2, 2], [40, 20, 6, 2])
  names = [f"t/{i // 2}" for i in range(68)]
  path = probes.write(tmp_path / "s", labels, prefix="", seed=0, names=names)
  store = store_lib.open_store(path, tokenizer=None, vocab=None, grid=None)
  whole = labelled.records(store, "train")
  rest, held = labelled.split(whole, held_frac=0.25, seed=0)
  assert np.bincount(labels[held.records]).tolist() == [10, 4, 2]
  together = np.sort(np.concatenate([rest.records, held.records]))
  np.testing.assert_array_equal(together, np.arange(68))
  assert not {names[r] for r in rest.records} & {names[r] for r in held.records}
  again = labelled.split(whole, held_frac=0.25, seed=0)[1]
  np.testing.assert_array_equal(held.records, again.records)
  other = labelled.split(whole, held_frac=0.25, seed=1)[1]
  assert not np.array_equal(held.records, other.records)


def store_with(tmp_path, labels=TRAIN, **changed):
  return probes.write(tmp_path / "other", labels, prefix="x", seed=5, **changed)


@pytest.mark.parametrize(
  "make, told",
  [
    (
      dict(tokenizer="fedcba9876543210"),
      "'fedcba.*; this run needs '0123.* --config.tokenizer=FILE$",
    ),
    (dict(vocab=61), "has vocab 61; this run needs 60"),
    (dict(labels=TRAIN - 1, ids=TRAIN), "32 of 96 records of train .* have no class"),
    (dict(labels=TRAIN * 0), "2 of 3 classes have no training record in"),
    (dict(labels=TRAIN // 2), "1 of 3 classes .*: 2 .high.. Add some"),
    (dict(classes=("a", "b", "c")), "class 0 is 'a' and 'low'"),
    (dict(classes=()), "different classes .0 and 3 of them"),
    (dict(names=[f"x/{i // 2}" for i in range(96)]), "item 'x/0' .* has class 0 and class 1"),
    (dict(names=[f"v/{i}" for i in range(96)]), "item 'v/.*' is in train"),
  ],
)
def test_training_data_that_does_not_fit_is_refused(data, tmp_path, make, told):
  train = store_with(tmp_path, **make)
  with pytest.raises(ValueError, match=told):
    prepare(probes.config(data["model"], train, data["val"]))


def test_one_class_is_refused(data, tmp_path):
  one = dict(classes=("all",), labels=TRAIN * 0)
  train = store_with(tmp_path, **one)
  val = probes.write(tmp_path / "v", VAL * 0, prefix="v", seed=2, classes=("all",))
  with pytest.raises(ValueError, match="has 1 class; there is nothing to tell"):
    prepare(probes.config(data["model"], train, val))


@pytest.mark.parametrize(
  "sections, told",
  [
    (dict(data=dict(classes=5)), "data.classes is 5; the stores name 3"),
    (dict(data=dict(holdout_frac=0.0)), "holdout_frac is 0.0; it must be"),
    (dict(data=dict(train="")), "data.train is empty"),
    (dict(layers=(3,)), "layer 3 does not exist: the model has 2 blocks"),
    (dict(backbones=("trained", "dino")), "is .*, 'dino'.; use 'trained'"),
    (dict(backbones=("pixels",)), "'?\"?pixels.*needs data.train_pixels"),
    (dict(cache="on", head=dict(pool="attention")), 'Set cache "auto"'),
    (dict(model_run=""), "model_run is empty"),
    (dict(data=dict(lable=1)), "data.lable does not exist"),
  ],
)
def test_a_config_that_does_not_fit_is_refused(data, sections, told):
  c = config(data)
  for name, values in sections.items():
    c[name] = {**c[name], **values} if isinstance(values, dict) else values
  with pytest.raises(ValueError, match=told):
    prepare(c)


def test_several_processes_keep_no_features(monkeypatch):
  """`auto` does without; who asks for it is told."""
  head = types.SimpleNamespace(pool="average")
  for processes, cache, kept in ((1, "on", True), (2, "auto", False)):
    monkeypatch.setattr(build.jax, "process_count", lambda n=processes: n)
    assert build._is_cached(cache, head) == kept
  with pytest.raises(ValueError, match='cache "on" is for one process'):
    build._is_cached("on", head)


def test_pixels_of_other_records_are_refused(data, tmp_path):
  c = config(
    data,
    backbones=("pixels",),
    data=dict(train_pixels=data["val_px"], validation_pixels=data["train_px"]),
  )
  with pytest.raises(ValueError, match="do not hold the same items"):
    run(c, tmp_path)


@pytest.mark.parametrize("changes", [{"step": 4}, {"digest": "0"}])
def test_features_of_another_backbone_are_not_taken(data, plain, tmp_path, changes):
  c = config(data, train=dict(epochs=4.0))
  assert run(c, tmp_path)
  facts = json.loads((tmp_path / "backbone.json").read_text())
  del facts["digest"]  # as of runs from before it was kept
  (tmp_path / "backbone.json").write_text(json.dumps(facts))
  assert run(c, tmp_path)
  facts |= changes
  (tmp_path / "backbone.json").write_text(json.dumps(facts))
  with pytest.raises(ValueError, match="was begun with another "):
    run(c, tmp_path)


def test_pixels_can_be_drawn_from_tokens(data):
  """By a tokenizer whose token is a square of one grey."""
  draw = lambda codes: np.kron(codes[..., None] * 2, np.ones((1, 4, 4, 3))).astype(np.uint8)
  records = prepare(config(data)).sets.train
  found = without_backbone.drawn_pixels(records, draw, factor=4, side=2)
  codes = records.tokens.read(records.records)["codes"].reshape(-1, stores.FRAMES, stores.GRID**2)
  grid, half = stores.GRID, stores.GRID // 2
  for m in (0, len(codes) - 1):
    wanted = [
      2 * codes[m, n].reshape(grid, grid)[y : y + half, x : x + half].mean() / 255
      for n in range(stores.FRAMES)
      for y in (0, half)
      for x in (0, half)
      for _ in range(3)
    ]
    np.testing.assert_allclose(found[m], wanted, rtol=1e-5)
  with pytest.raises(ValueError, match="pixels_side 3 does not divide"):
    without_backbone.drawn_pixels(records, draw, factor=4, side=3)


def test_baselines_are_what_they_say(data):
  store = store_lib.open_store(data["train"], tokenizer=None, vocab=None, grid=None)
  found = without_backbone.histograms(store)
  codes = store.read([7])["codes"][0]
  expected = np.bincount(codes, minlength=stores.VOCAB) / 16 * stores.VOCAB
  np.testing.assert_allclose(found[7], expected)
  np.testing.assert_allclose(found.mean(1), 1.0, rtol=1e-6)
  pixels = store_lib.open_store(data["train_px"], tokenizer=None, vocab=None, grid=None)
  small = without_backbone.small_pixels(pixels, 4)
  frame = pixels.read([3])["frames"][0, 1].astype(float)
  corner = small[3].reshape(stores.FRAMES, 4, 4, 3)[1, 2, 1]
  np.testing.assert_allclose(corner, frame[8:12, 4:8].mean((0, 1)) / 255, rtol=1e-5)
  with pytest.raises(ValueError, match="pixels_side 5 does not divide the 16"):
    without_backbone.small_pixels(pixels, 5)
  # Records that are of no store say their name.
  records = labelled.records(store, "clips")
  without_backbone.same_records(records, pixels)
  others = dataclasses.replace(records, store=None, ids=records.ids[::-1])
  with pytest.raises(ValueError, match="and clips do not hold the same items"):
    without_backbone.same_records(others, pixels)


def of_files(images, *words):
  """configs/probe_imagenet.py on a class folder, as its docstring has it, in small."""
  path = runs.ROOT / "configs" / "probe_imagenet.py"
  given = [w for w in classed.words(images) if "data.grid" not in w and "compute" not in w]
  more = ("holdout_frac=0.2",), ("expected=0",)
  flags = [f"--config.data.{word}" for (word,) in more]
  flags += ["--config.optim.name=adamw", "--config.optim.lr_rows=0", "--config.optim.lrs=(0.03,)"]
  flags += ["--config.every.log_steps=1"]
  flags += ["--config.optim.warmup_epochs=1.0", "--config.head.norm_momentum=0.5"]
  return runs.load(path, *given, *flags, *words).to_dict()


@pytest.mark.slow
def test_a_probe_of_files_sees_new_views_of_each_image(tmp_path):
  """MAE's windows and flips, encoded on the device by the model's tokenizer."""
  images = classed.data()
  c = of_files(images)
  of = prepare(c)
  assert not of.cached and of.model.spec.frames == 1
  reads = of.reads["train"]
  draws = [rows_lib.Row(0, (rows_lib.Draw(0, epoch),)) for epoch in (0, 1, None, None)]
  frames = reads(draws)["frames"]
  assert frames.shape == (4, 1, 16, 16, 3)  # 2 x 2 tokens of 8 pixels
  assert (frames[0] != frames[1]).any()  # another window in each epoch
  np.testing.assert_array_equal(frames[2], frames[3])  # the same at each evaluation
  assert run(c, tmp_path / "run")
  found = metrics(tmp_path / "run")
  assert found["trained/views"] == "new views" and found["n"] == 12
  losses = [row["loss"] for row in runs.metrics(tmp_path / "run" / "trained") if "loss" in row]
  assert losses[-1] < 0.9 * losses[0]
  assert {row["views"] for row in table(tmp_path / "run")} == {"new views"}
  assert "new views</td>" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_heads_on_encoded_frames_are_heads_on_their_tokens():
  """What a head says of an image is what it says of a store's tokens of it."""
  of = prepare(of_files(classed.data()))
  spec, subject = of.model.spec, of.subjects["trained"]
  model, frozen = probe_job._load(of, "trained", subject.layers[-1])
  task = classify.Classify(
    head=subject.head, model=model, layers=subject.layers, width=subject.width, classes=3,
    settings=1, split=True,
  )  # fmt: skip
  rows = [rows_lib.Row(0, (rows_lib.Draw(i, None),)) for i in range(8)]
  batch = {**of.reads["validation"](rows), "label": np.zeros(8, np.int32)}
  cut = dataclasses.replace(spec, context=spec.context - 1)
  encoded = encode.EncodeFrames(task, of.tokenizer, spec=cut)
  codes = api.encode_clips(of.tokenizer, batch["frames"])
  tokens = [sequence.build(one.reshape(1, -1), kind="image", spec=spec)[:-1] for one in codes]
  found = jax.jit(task.init)(jax.random.key(0))._replace(frozen=frozen)
  plain = {"tokens": np.stack(tokens), "label": batch["label"]}
  both = {"inner": frozen, "tokenizer": of.tokenizer.params}
  measure = lambda logits_BC: logits_BC
  theirs = task.outcomes(found, plain, measure=measure)
  ours = encoded.outcomes(found._replace(frozen=both), batch, measure=measure)
  assert float(abs(theirs).max()) > 0
  np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
  "word, told",
  [
    ("--config.backbones=('trained','histogram')", "'histogram', which is of stores of tokens"),
    ("--config.cache=on", "files of images are seen anew"),
    ("--config.data.encode_with=", "data.encode_with, the model.s tokenizer file"),
    ("--config.data.source=tokens", "data.encode_with and data.root are for files"),
  ],
)
def test_what_a_probe_of_files_cannot_be_is_refused(word, told):
  with pytest.raises(ConfigError, match=told):
    prepare(of_files(classed.data(), word))


def test_stores_are_named_as_frozen_views(finished):
  assert {row["views"] for row in table(finished)} == {"frozen views"}
  assert metrics(finished)["untrained/views"] == "frozen views"
