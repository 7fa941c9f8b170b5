"""Further held-out lists of one probe: ImageNet-V2, ReaL, and any other."""

import csv
import json

from etils import epath
import numpy as np
import probes
import pytest
import runs
import test_configs
from test_sources import touch, write

from totojax import jobs
from totojax.data.sources import imagenet, real

GOLDEN = runs.ROOT / "tests" / "golden" / "label_formats.npz"


def test_real_s_labels_are_found_by_name_and_images_without_any_are_left_out(tmp_path):
  golden = np.load(GOLDEN)
  path = write(tmp_path / "real.json", str(golden["real/json"]))
  found = real.read(path, classes=20)
  labels = found.of([f"val/n01440764/{name}" for name in golden["real/files"]])
  hits = real.hits(golden["real/pred"], labels)
  assert (hits.sum(), len(hits)) == (int(golden["real/correct"]), int(golden["real/counted"]))
  assert hits.mean() == pytest.approx(float(golden["real/top1"]))
  as_wrong = hits.sum() / len(labels)
  assert as_wrong == pytest.approx(float(golden["real/top1_if_empty_counts_as_wrong"]))
  several = real.hits(np.stack([golden["real/pred"]] * 6).reshape(2, 3, -1), labels)
  assert several.shape == (2, 3, len(hits)) and (several == hits).all()
  for name in ("other.JPEG", "ILSVRC2012_val_00000000.JPEG", "ILSVRC2012_val_00000061.JPEG"):
    with pytest.raises(ValueError, match="is none of the 60 images"):
      found.of([name])
  for text, told in (("{}", "no list of labels"), ("[[20]]", "entry 0"), ("[[true]]", "entry 0")):
    with pytest.raises(ValueError, match=told):
      real.read(write(tmp_path / "bad.json", text), classes=20)


def test_folders_of_imagenet_v2_are_classes_as_numbers(tmp_path):
  """Sorted as words they are in another order: "2" would be class 4 of these."""
  names = [f"{c}/{i}.jpeg" for c in range(12) for i in range(10)]
  touch(tmp_path / "v2", *names)
  listing = imagenet.list_items(tmp_path, "v2", classes=12, val_labels="")
  assert len(listing.items) == 120 and not listing.classes
  for item in listing.items:
    assert item.label == int(item.id.split("/")[1])
  ranks = {name: rank for rank, name in enumerate(sorted(map(str, range(12))))}
  golden = np.load(GOLDEN)["v2/class_of_lexicographic_rank"]
  assert ranks["2"] == 4 and [*golden[:3]] == [0, 1, 10]
  (tmp_path / "v2" / "7" / "3.jpeg").unlink()
  with pytest.raises(ValueError, match="v2/7 has 9 images; ImageNet-V2 has 10"):
    imagenet.list_items(tmp_path, "v2", classes=12, val_labels="")
  with pytest.raises(ValueError, match="has 12 classes; 1000 are wanted"):
    imagenet.list_items(tmp_path, "v2", classes=1000, val_labels="")
  (tmp_path / "v2" / "3").rename(tmp_path / "v2" / "30")
  with pytest.raises(ValueError, match="are not 0 to 11"):
    imagenet.list_items(tmp_path, "v2", classes=12, val_labels="")


def save(root, name, count, seed, *, shift=0, ids=None):
  """Features that tell three classes; `shift` changes what they tell."""
  rng = np.random.default_rng(seed)
  y = np.arange(count) % 3
  x = 4 * np.eye(3)[(y + shift) % 3] + rng.normal(size=(count, 3))
  ids = ids or [f"{name}/{i}" for i in range(count)]
  np.savez(root / f"{name}.npz", layer_0=x.astype(np.float32), label=y, id=np.array(ids))
  return str(root / f"{name}.npz")


def probe(encoders, **data):
  c = test_configs.load("configs/probe_encoders.py")
  c.data.holdout_frac = 0.25
  c.train.update(epochs=30.0, batch_rows=16, score_rows=32)
  c.optim.update(lrs=(0.03,), weight_decays=(0.0,))
  with c.unlocked():
    c.encoders = encoders
    c.data.update(data)
  return c.to_dict()


def test_the_heads_of_one_training_are_scored_on_every_list(tmp_path):
  names = [f"val/ILSVRC2012_val_{i + 1:08d}.JPEG" for i in range(30)]
  files = dict(
    train=save(tmp_path, "train", 60, 0),
    validation=save(tmp_path, "val", 30, 1, ids=names),
    evaluations={
      "same": save(tmp_path, "same", 24, 2),
      "other": save(tmp_path, "other", 24, 3, shift=1),
    },
  )
  # The class, and the next one too, of every second image; none of every fifth.
  rows = [[] if i % 5 == 0 else [i % 3, (i + 1) % 3] if i % 2 else [i % 3] for i in range(30)]
  path = write(tmp_path / "real.json", json.dumps(rows))
  out = epath.Path(tmp_path / "run")
  assert jobs.run(probe({"theirs": files}, real_labels=path), out, lambda step: False)
  metrics = json.loads((out / "metrics.json").read_text())
  assert {*metrics["lists"]} == {"same", "other", "real"}
  top = lambda name: metrics[f"theirs/{name}/chosen_on_holdout/top1"]  # noqa: E731
  assert top("same") > 0.9 and top("other") < 0.1
  with open(out / "predictions.csv") as file:
    named = [int(r["predicted"]) for r in csv.DictReader(file)]
  counted = [(guess in row) for guess, row in zip(named, rows) if row]
  assert top("real") == pytest.approx(np.mean(counted))
  assert metrics["theirs/real/chosen_on_holdout/n"] == len(counted) == 24
  with open(out / "lists.csv") as file:
    assert {r["list"] for r in csv.DictReader(file)} == {"same", "other", "real"}
  assert "same" in (out / "report.html").read_text()


def test_lists_of_stores_are_scored_by_a_backbone_of_ours(tmp_path):
  stores = {
    name: probes.write(tmp_path / name, np.arange(n) % 3, prefix=name, seed=i)
    for i, (name, n) in enumerate((("train", 48), ("val", 24), ("more", 12)))
  }
  c = probes.config(
    probes.bare_backbone(tmp_path),
    stores["train"],
    stores["val"],
    backbones=("histogram",),
    data=dict(evaluations={"more": stores["more"]}),
  )
  out = epath.Path(tmp_path / "run")
  assert jobs.run(c, out, lambda step: False)
  metrics = json.loads((out / "metrics.json").read_text())
  assert metrics["histogram/more/chosen_on_holdout/top1"] > 0.9
  assert metrics["histogram/more/chosen_on_holdout/n"] == 12


def test_lists_that_do_not_fit_are_refused(tmp_path):
  train, val = save(tmp_path, "train", 60, 0), save(tmp_path, "val", 30, 1)
  more = save(tmp_path, "more", 9, 2)
  one = dict(train=train, validation=val, evaluations={"more": more})
  for encoders, data, told in (
    ({"a": one, "b": {**one, "evaluations": {}}}, {}, "encoders.b.evaluations names .., and"),
    ({"a": {**one, "evaluations": {"holdout": more}}}, {}, "is no name for a further list"),
    ({"a": {**one, "evaluations": {"more": train}}}, {}, "is in train and in more"),
    ({"a": one}, dict(evaluations={"x": "store"}), "data.evaluations is of backbones of ours"),
    ({"a": one}, dict(real_labels=str(tmp_path / "none.json")), "none.json"),
  ):
    with pytest.raises((ValueError, OSError), match=told):
      jobs.run(probe(encoders, **data), epath.Path(tmp_path / "run"), lambda step: False)
