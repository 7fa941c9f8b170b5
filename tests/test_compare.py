"""Any encoders by any probes in one table: rows, seeds, and going on."""

import csv
import json

from etils import epath
import numpy as np
import probes
import pytest
import test_configs
import tracked

from totojax import jobs
from totojax.config import roots
from totojax.jobs import compare as job
from totojax.trained import encoders

FILE = """
import numpy as np
from totojax.trained import encoders

def encoder():
  def features(clips):
    noise = np.random.default_rng(0).normal(size=(len(clips), 2))
    bright = clips.mean((1, 2, 3, 4)) / 99
    return np.stack([noise, np.stack([bright, np.ones(len(clips))], 1)])
  return encoders.Encoder(size_px=8, frames=2, layers=(0, 1), features=features)
"""


def config(root, encoders, probes=("knn", "linear")):
  c = test_configs.load("configs/compare.py:x=pixels:2").to_dict()
  c["compare"] |= {
    "train": root["train"],
    "validation": root["validation"],
    "encoders": encoders,
    "probes": probes,
    "seeds": (0, 1),
    "heads": 2,
  }
  c["probe"]["train"] |= {"epochs": 30.0, "batch_rows": 16, "score_rows": 32}
  c["probe"]["optim"] |= {"lrs": (0.1,), "weight_decays": (0.0,)}
  return c


def row(**values):
  empty = {"encoder": "", "model_run": "", "untrained": False, "norm": False, "layers": ()}
  return {**empty, **values}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
  root = tmp_path_factory.mktemp("clips")
  return {
    "root": root,
    "train": probes.pixels(root / "train", np.arange(48) % 3, prefix="t", seed=0),
    "validation": probes.pixels(root / "val", np.arange(24) % 3, prefix="v", seed=1),
  }


def test_a_table_of_encoders_and_probes_goes_on_row_by_row(clips, tmp_path, monkeypatch):
  (tmp_path / "mine.py").write_text(FILE)
  both = {"pixels": row(encoder="pixels:2"), "mine": row(encoder=str(tmp_path / "mine.py"))}
  c, out = config(clips, both), epath.Path(tmp_path / "run")
  made, real = [], jobs.run

  def counted(config, where, interrupted):
    made.append(where.name)
    return real(config, where, interrupted)

  monkeypatch.setattr(jobs, "run", counted)
  # It leaves while the last row's second seed is trained, and goes on there.
  stop = lambda done: "mine-linear-1" in made  # noqa: E731
  assert not real(c, out, stop)
  assert real(c, out, lambda done: False)
  assert made.count("pixels-linear-0") == 1 and made.count("mine-linear-1") == 2
  with open(out / "compare.csv") as file:
    rows = list(csv.DictReader(file))
  assert [(r["encoder"], r["probe"], r["seeds"]) for r in rows] == [
    ("pixels", "knn", "1"),
    ("pixels", "linear", "2"),
    ("mine", "knn", "1"),
    ("mine", "linear", "2"),
  ]
  for r in rows:  # each class has its brightness; layer 0 of "mine" is noise
    assert float(r["low"]) <= float(r["score"]) <= float(r["high"])
    assert float(r["seconds_a_clip"]) > 0 and r["n"] == "24"
  assert float(rows[1]["score"]) == 1.0 and float(rows[2]["score"]) > 0.9
  assert float(rows[0]["score"]) < 0.8  # cosines do not see how bright a whole clip is
  assert {*rows[3]["layers"].split()} == {"1"}
  metrics = json.loads((out / "metrics.json").read_text())
  tops = [
    json.loads((out / "probes" / f"mine-linear-{s}" / "metrics.json").read_text()) for s in (0, 1)
  ]
  expected = np.mean([one["encoder/chosen_on_holdout/top1"] for one in tops])
  assert metrics["mine/linear/score"] == pytest.approx(expected)
  assert "Encoders compared" in (out / "report.html").read_text()
  assert (out / "compare.md").read_text().count("\n") == 2 + 4
  changed = {**c, "compare": {**c["compare"], "encoders": {"pixels": row(encoder="pixels:4")}}}
  with pytest.raises(ValueError, match="encoder"):  # other features under one name
    real(changed, out, lambda done: False)


TRACKER = """
from totojax.trained import encoders

def encoder():
  def features(clips):  # means of 8 x 8 pixels
    cut = clips.reshape(len(clips), 8, 8, 8, 8, 3).mean((2, 4)) - 127.0
    return cut.reshape(1, len(clips), 64, 3)
  return encoders.Encoder(size_px=64, frames=1, layers=(5,), features=features)
"""


def test_trackers_stand_in_the_same_table(tmp_path):
  tracked.davis(tmp_path / "davis")
  (tmp_path / "mine.py").write_text(TRACKER)
  c = config({"train": "", "validation": ""}, {"mine": row(encoder=str(tmp_path / "mine.py"))})
  c["compare"]["probes"] = ("track",)
  with pytest.raises(ValueError, match="'track', and track.data.root is empty; set it"):
    roots.read(c)
  c["track"]["data"]["root"] = str(tmp_path / "davis")
  c["track"]["output"] |= {"codec": "", "sequences": 0, "masks": False}
  out = epath.Path(tmp_path / "run")
  assert jobs.run(roots.read(c), out, lambda done: False)
  (found,) = json.loads((out / "probes/mine-track/metrics.json").read_text())["rows"]
  with open(out / "compare.csv") as file:
    (one,) = csv.DictReader(file)
  assert [one[k] for k in ("probe", "measure", "n", "layers")] == [
    "track", "J&F-Mean", "2", "5 (dino)"
  ]  # fmt: skip
  assert float(one["score"]) == pytest.approx(found["J&F-Mean"]) and found["J&F-Mean"] > 0.4
  assert "J&amp;F-Mean of 2 sequences" in (out / "report.html").read_text()


def test_frames_are_spread_over_a_clip_as_the_encoder_takes_them():
  assert encoders.places(9, most=3).tolist() == [0, 4, 8]
  assert encoders.places(7, most=16, multiple=2).tolist() == [0, 1, 2, 4, 5, 6]
  assert encoders.places(2, most=4, multiple=4).tolist() == [0, 0, 1, 1]
  assert encoders.places(8, most=1).tolist() == [0]


def test_what_does_not_fit_is_one_line(clips, tmp_path):
  out = epath.Path(tmp_path / "run")
  for encoders_, told in (
    ({}, "compare.encoders is empty"),
    ({"a": row()}, "give one of the first two"),
    ({"a": row(encoder="pixels:2", model_run="x")}, "give one of the first two"),
    ({"a/b": row(encoder="pixels:2")}, "compare.encoders.a/b is no name"),
    ({"a": row(encoder="pixels:2", layers=(3,))}, "and none 3"),
    ({"a": row(encoder="pixel:2")}, "name a Python file, or one of"),
  ):
    with pytest.raises(ValueError, match=told):
      jobs.run(config(clips, encoders_), out, lambda done: False)
  with pytest.raises(Exception, match="has no name; write NAME=dinov2:X"):
    test_configs.load("configs/compare.py:dinov2:X")
  c = config({**clips, "train": ""}, {"a": row(encoder="pixels:2")})
  with pytest.raises(ValueError, match="compare.train is empty; give a store of pixels"):
    jobs.run(c, out, lambda done: False)
  c = config({**clips, "validation": clips["train"]}, {"a": row(encoder="pixels:2")})
  with pytest.raises(ValueError, match="is in train and in validation"):
    jobs.run(c, out, lambda done: False)


def test_memory_is_what_was_held_above_before():
  before = job._memory_bytes(reset=True)
  if before is None:
    pytest.skip("this system does not say")
  held = np.ones(50_000_000, np.uint8)
  del held
  assert job._memory_bytes() - before > 40_000_000
  again = job._memory_bytes(reset=True)
  assert job._memory_bytes() - again < 20_000_000  # control
