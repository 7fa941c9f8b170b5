"""k nearest neighbours against DINO's, and as a job on features."""

import csv
import json

from etils import epath
import numpy as np
import pytest
import runs
import test_configs

from totojax import jobs
from totojax.config import compare
from totojax.evals import knn
from totojax.jobs import knn as job

GOLDEN = runs.ROOT / "tests" / "golden" / "knn.npz"


@pytest.fixture(scope="module")
def golden():
  return np.load(GOLDEN)


def test_neighbours_and_votes_are_dino_s(golden, monkeypatch):
  train, test = golden["train"], golden["test"]
  train_y, test_y = golden["train_labels"], golden["test_labels"]
  for rows in (65_536, 97):  # whole, and in parts
    monkeypatch.setattr(knn, "_TRAIN_ROWS", rows)
    parts = list(knn.nearest(train, test, k=200))
    similar, place = (np.concatenate(x) for x in zip(*parts))
    np.testing.assert_array_equal(place[:, :20], golden["neighbours/k20"])
    np.testing.assert_allclose(similar[:, :20], golden["sims/k20"], rtol=1e-4, atol=1e-6)
    for k in (1, 5, 10, 20, 100, 200):
      votes = knn.votes(similar[:, :k], train_y[place[:, :k]], classes=12, temperature=0.07)
      np.testing.assert_array_equal(votes.argmax(1), golden[f"pred/k{k}"])
      assert 100 * (votes.argmax(1) == test_y).mean() == pytest.approx(float(golden[f"top1/k{k}"]))
      if k == 20:
        whole = votes * np.exp(similar[:, :1].astype(float) / 0.07)
        np.testing.assert_allclose(whole, golden["votes/k20"], rtol=1e-4)


def test_a_loop_says_the_same_and_small_temperatures_do_not_overflow():
  rng = np.random.default_rng(0)
  train, test, y = rng.normal(size=(50, 6)), rng.normal(size=(7, 6)), rng.integers(0, 3, 50)
  for temperature in (0.07, 0.001):
    found = [
      x for _, x in knn.shares(train, y, test, classes=3, neighbours=(5,), temperature=temperature)
    ]
    for q, share in zip(test, np.concatenate(found)):
      s = train @ q / np.linalg.norm(train, axis=1) / np.linalg.norm(q)
      best = np.argsort(-s)[:5]
      w = np.exp((s[best] - s[best[0]]) / temperature)
      expected = np.array([w[y[best] == c].sum() for c in range(3)]) / w.sum()
      np.testing.assert_allclose(share, expected, rtol=1e-4, atol=1e-6)
      assert np.isfinite(share).all()


def test_ties_are_the_golden_s(golden):
  for k in (2, 4, 6):
    ((similar, place),) = knn.nearest(golden["tie/train"], golden["tie/test"], k=k)
    np.testing.assert_array_equal(place, golden[f"tie/neighbours_k{k}"])
    votes = knn.votes(similar, golden["tie/labels"][place], classes=4, temperature=0.07)
    np.testing.assert_array_equal(votes.argmax(1), golden[f"tie/pred_k{k}"])


def test_ties_go_to_the_smaller_row_and_more_neighbours_than_rows_are_all():
  train = np.array([[1.0, 0], [0, 1], [1, 0], [1, 0]])
  ((similar, place),) = knn.nearest(train, np.array([[2.0, 0]]), k=9)
  assert place.tolist() == [[0, 2, 3, 1]] and similar.shape == (1, 4)
  votes = knn.votes(similar[:, :2], np.array([[1, 0]]), classes=2, temperature=0.07)
  assert votes.argmax() == 0  # equal scores: the smaller class


def save(root, name, width, seed, *, tokens=0, strength=4.0):
  """Layer 0 is noise, layer 1 tells three classes."""
  for split, count in (("train", 90), ("val", 45)):
    rng = np.random.default_rng([seed, count])
    y = np.arange(count) % 3
    x = rng.normal(size=(count, *([tokens] if tokens else []), width))
    told = x + strength * np.eye(width)[y].reshape(count, *([1] if tokens else []), width)
    folder = root / name
    folder.mkdir(exist_ok=True)
    np.savez(
      folder / f"{split}.npz",
      layer_0=x.astype(np.float32),
      layer_1=told.astype(np.float32),
      label=y,
      id=np.array([f"{split}/{i}" for i in range(count)]),
    )
  return dict(train=str(root / name / "train.npz"), validation=str(root / name / "val.npz"))


def config(encoders, **settings):
  c = test_configs.load("configs/knn.py:x=x").to_dict()
  return {**c, "encoders": encoders, "knn": {**c["knn"], **settings}}


def test_a_job_makes_a_table_of_layers_and_encoders_and_goes_on(tmp_path, monkeypatch):
  encoders = {
    "one": save(tmp_path, "one", 8, 0),
    "two": save(tmp_path, "two", 4, 1, tokens=5, strength=2.0),
  }
  c = config(encoders, neighbours=(5, 20))
  stops = iter([False, False, True])
  out = epath.Path(tmp_path / "run")
  assert not jobs.run(c, out, lambda done: next(stops))
  made = []
  real = job._layer
  monkeypatch.setattr(job, "_layer", lambda *a: made.append(1) or real(*a))
  assert jobs.run(c, out, lambda done: False)
  assert len(made) == 2  # of four layers two were there
  with open(out / "per_layer.csv") as file:
    rows = list(csv.DictReader(file))
  assert [(r["encoder"], r["layer"], r["k"]) for r in rows[:3]] == [
    ("one", "0", "5"), ("one", "0", "20"), ("one", "1", "5"),
  ]  # fmt: skip
  noise, told = (float(r["top1"]) for r in rows if (r["encoder"], r["k"]) == ("one", "20"))
  assert told > 0.9 > 0.7 > noise
  metrics = json.loads((out / "metrics.json").read_text())
  assert metrics["one/k20/chosen_on_holdout/layer"] == 1
  assert metrics["one/k20/last/top1"] == told and metrics["n"] == 45
  page = (out / "report.html").read_text()
  assert "nearest neighbours" in page and "two" in page
  with open(out / "predictions.csv") as file:
    named = [r for r in csv.DictReader(file) if r["encoder"] == "one"]
  assert np.mean([r["label"] == r["named"] for r in named]) >= 0.9


def test_views_of_an_item_have_one_vote_together():
  import dataclasses

  from totojax.data.stream import labelled

  train, y = np.eye(3), np.arange(3)
  queries = np.array([[1, 0.1, 0], [0.9, 0, 0], [0, 1, 0.0], [0, 0, 1.0]])
  data = labelled.Records(None, "v", np.arange(4), np.array([0, 1, 1, 0]), ("a", "b", "b", "a"), ())
  found = job.named_classes(
    train_MD=train, label_M=y, queries_MD=queries, queries=data, classes=3,
    settings=dataclasses.replace(compare.Knn(), neighbours=(1,)),
  )  # fmt: skip
  # Of each item one view says class 0; of equal scores the smaller class.
  assert found[1][:, 0].tolist() == [0, 0]


def test_features_that_are_none_are_refused(tmp_path):
  with pytest.raises(ValueError, match="encoders is empty"):
    compare.KnnJob()
  good = save(tmp_path, "one", 4, 0)
  with pytest.raises(ValueError, match="item .* is in train and in validation"):
    jobs.run(
      config({"one": dict(train=good["train"], validation=good["train"])}),
      epath.Path(tmp_path / "run"),
      lambda done: False,
    )
