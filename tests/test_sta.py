"""Short-term anticipation as jobs: records, errors, and a model that is trained through."""

import json

from etils import epath
import numpy as np
from PIL import Image
import probes
import pytest

from totojax import jobs
from totojax.config import roots, sta_recipes
from totojax.config.schema import ConfigError
from totojax.data.sources import sta as source
from totojax.jobs.sta import inputs
from totojax.tokenizers import weights

SIZE, GRID = (96, 64), 8
NOUNS, VERBS = ("cup", "drawer"), ("take", "open")


def ego(root, *, train=32, val=16):
  """Queries with one object each, whose place, noun and verb are drawn; features that show them."""
  (root / "annotations").mkdir(parents=True)
  for name in ("object_frames", "oracle", "noise"):
    (root / name).mkdir()
  for split, count, seed in (("train", train, 0), ("val", val, 1)):
    rng, rows = np.random.default_rng(seed), []
    for number in range(count):
      video, noun, verb = f"{split}{number}", rng.integers(2), rng.integers(2)
      low = rng.uniform(0, 0.5, 2)
      box = np.concatenate([low, low + rng.uniform(0.3, 0.45, 2)]) * np.tile(SIZE, 2)
      for frame in (0, 3, 6):
        grey = Image.new("RGB", SIZE, (90, 90, 90))
        grey.save(root / "object_frames" / f"{video}_{frame:07d}.jpg")
      at = (np.arange(GRID) + 0.5) / GRID
      x, y = (at * side for side in SIZE)
      inside = ((y > box[1]) & (y < box[3]))[:, None] & ((x > box[0]) & (x < box[2]))
      shown = rng.normal(0, 0.1, (2, GRID, GRID, 8)).astype(np.float32)
      np.savez(root / "noise" / f"{video}.npz", clip=shown)
      shown[..., noun] += 2.0 * inside
      shown[..., 4 + verb] += 2.0 * inside
      np.savez(root / "oracle" / f"{video}.npz", clip=shown)
      thing = dict(noun_category_id=int(noun) + 3, verb_category_id=int(verb) + 5)
      thing |= dict(box=box.tolist(), time_to_contact=0.5)
      rows.append(dict(uid=video, video_uid=video, frame=6, objects=[thing]))
    about = dict(fps=30.0, frame_width=SIZE[0], frame_height=SIZE[1], num_frames=7)
    value = {
      "info": {"video_metadata": {row["uid"]: about for row in rows}},
      "noun_categories": [{"id": 3 + i, "name": name} for i, name in enumerate(NOUNS)],
      "verb_categories": [{"id": 5 + i, "name": name} for i, name in enumerate(VERBS)],
      "annotations": rows,
    }
    (root / f"annotations/fho_sta_{split}.json").write_text(json.dumps(value))
  return root


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return ego(tmp_path_factory.mktemp("ego"))


def shrunk(config, data, **keys):
  config.data.update(root=str(data), frames=3, stride=3, clip_px=32, still_px=0, most_objects=2)
  config.detector.update(
    width=16,
    scales=(1.0, 0.5),
    anchor_cells=3.0,
    anchors=32,
    candidates=32,
    proposals=24,
    eval_candidates=32,
    eval_proposals=16,
    regions=16,
    region_bins=3,
    hidden=48,
    scored=24,
    detections=6,
  )
  config.train.update(batch_rows=16, score_rows=16)
  config.output.pictures = 2
  for path, value in keys.items():
    config.update_from_flattened_dict({path: value})
  return roots.read(config.to_dict())


def do(config, workdir, leave=lambda step: False):
  return jobs.run(config, epath.Path(workdir), leave)


@pytest.mark.slow
def test_a_model_is_trained_through_and_goes_on_where_it_stopped(data, tmp_path):
  shipped = weights.load("shipped")
  model = probes.bare_backbone(tmp_path, tokenizer=shipped.fingerprint, vocab=shipped.vocab)
  keys = {"model_run": str(model), "data.still_px": 48, "train.epochs": 1.0}
  keys |= {
    "optim.warmup_epochs": 0.0,
    "data.train_queries": 16,
    "data.validation_queries": 4,
    "train.batch_rows": 8,
  }
  config = shrunk(sta_recipes.tuned("small"), data, **keys)
  assert do(config, tmp_path / "whole")
  assert not do(config, tmp_path / "cut", leave=lambda step: step == 1)
  assert do(config, tmp_path / "cut")
  results = [(tmp_path / name / "results.json").read_text() for name in ("whole", "cut")]
  assert results[0] == results[1]
  rows = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
  last = [row for row in rows if row.get("kind", "train") == "train" or "loss" in row][-1]
  text = json.dumps(last)
  for term in ("nll", "anchor", "noun", "verb", "ttc", "proposal_recall"):
    assert term in text
  # Another seed reads what the first made, and of other data it is refused.
  again = {**keys, "inputs_from": str(tmp_path / "whole"), "seed": 1}
  assert do(shrunk(sta_recipes.tuned("small"), data, **again), tmp_path / "second")
  assert not (tmp_path / "second/inputs").exists()
  assert (tmp_path / "second/results.json").read_text() != results[0]
  with pytest.raises(ConfigError, match="of other data"):
    do(shrunk(sta_recipes.tuned("small"), data, **again, **{"data.frames": 2}), tmp_path / "x")
  next((tmp_path / "whole/inputs/train").iterdir()).unlink()
  with pytest.raises(ConfigError, match="has not made all inputs"):
    do(shrunk(sta_recipes.tuned("small"), data, **again), tmp_path / "y")


def test_what_does_not_fit_is_told(data, tmp_path):
  with pytest.raises(ConfigError, match="root is empty"):
    do(shrunk(sta_recipes.frozen("small"), "", features="F"), tmp_path / "a")
  with pytest.raises(ConfigError, match="give one of them"):
    shrunk(sta_recipes.frozen("small"), data, features="F", encoder="dinov2:F")
  with pytest.raises(ConfigError, match="neither train0.npz"):
    do(shrunk(sta_recipes.frozen("small"), data, features=str(data)), tmp_path / "b")


def test_records_are_queries_and_their_mirror_images(data):
  annotations = source.read(str(data), "train")
  read = lambda records: {"seen": np.array(records)}
  both = inputs.Inputs(annotations, annotations.queries, 2, read, 64.0, 2)
  plain, mirrored = (both.truth["boxes"][n, 0] for n in (0, 1))
  np.testing.assert_allclose(plain[[0, 2]], 64 - mirrored[[2, 0]], rtol=1e-4)
  np.testing.assert_allclose(plain[[1, 3]], mirrored[[1, 3]])
  query = annotations.queries[0]
  assert both.truth["noun"][0].tolist() == [query.nouns[0] + 1, 0]
  assert both.truth["real"].sum(1).tolist() == [1] * both.records
  seen = [some for some, _ in both.once(5)]
  assert [n for some in seen for n in some] == [*range(32)]
  batches = both.stream(seed=0, rows=16)
  epoch = np.concatenate([batches[n]["seen"] for n in range(4)])
  assert sorted(epoch.tolist()) == [*range(64)] and epoch.tolist() != [*range(64)]
