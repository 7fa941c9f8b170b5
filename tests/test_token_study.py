"""`run = "token_study"`: what a second of video costs with each tokenizer."""

import csv
import json
import math

from etils import epath
import numpy as np
import pytest
import temporal

from totojax import jobs
from totojax.config import roots
from totojax.tokenizers import stats, weights


def study(path, tmp_path, **rows):
  c = roots.config("token_study")
  c.token_study.update(pixels={"clips": str(path)}, clips=8)
  c.token_study.rows = rows
  c.token_study.kmeans = {"clips": str(path)}
  return jobs.typed(c.to_dict(), tmp_path)


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
  path = tmp_path_factory.mktemp("study") / "pixels"
  temporal.store(path, temporal.brightness(temporal.CAUSAL), temporal.clips(4, 9), pixels=True)
  return path


def test_a_second_of_video_worked_out_by_hand(pixels, tmp_path):
  """Clips of 9 frames, each 1/15 s: 0.6 s; a token is a frame of 8 pixels."""
  losses = tmp_path / "loss"
  losses.mkdir()
  (losses / "metrics.json").write_text(json.dumps({"clips/loss": 2.0, "clips/training/loss": 9.0}))
  rows = {
    "all": dict(tokenizer="shipped", every=1, validation=""),
    "some": dict(tokenizer="shipped", every=4, validation=str(losses)),
    "split": dict(tokenizer="shipped:split=16,32", every=1, validation=""),
  }
  workdir = epath.Path(tmp_path / "run")
  assert jobs.run(study(pixels, tmp_path, **rows), workdir, lambda step: False)
  with open(workdir / "tokens.csv") as file:
    found = {row["name"]: row for row in csv.DictReader(file)}
  assert float(found["all"]["tokens_per_s"]) == pytest.approx(9 / 0.6)
  assert float(found["all"]["bits_per_s"]) == pytest.approx(9 / 0.6 * 9)
  assert float(found["some"]["tokens_per_s"]) == pytest.approx(3 / 0.6)
  assert float(found["some"]["nats_per_s"]) == pytest.approx(2.0 * 3 / 0.6)
  # Each code of two parts has the bits of all ids.
  assert float(found["split"]["tokens_per_s"]) == pytest.approx(2 * 9 / 0.6)
  assert float(found["split"]["bits_per_s"]) == pytest.approx(2 * 9 / 0.6 * math.log2(48))
  assert found["split"]["psnr_db"] == found["all"]["psnr_db"]

  clips = temporal.clips(4, 9)
  tokenizer = weights.load("shipped")
  drawn = tokenizer.decode(tokenizer.encode(clips.reshape(-1, 8, 8, 3))).reshape(clips.shape)
  assert float(found["all"]["psnr_db"]) == pytest.approx(stats.psnr_db(clips, drawn), rel=1e-6)
  held = drawn[:, [0, 0, 0, 0, 4, 4, 4, 4, 8]]
  assert float(found["some"]["psnr_db"]) == pytest.approx(stats.psnr_db(clips, held), rel=1e-6)
  assert float(found["all"]["kmeans_db"]) > float(found["all"]["block_means_db"])
  assert "| all | 1 | 512 |" in (workdir / "tokens.md").read_text()


@pytest.mark.parametrize(
  "broken, words",
  [
    (dict(validation="nowhere"), "validate a model on these tokens"),
    (dict(tokenizer="nothing.safetensors"), "no tokenizer file"),
  ],
)
def test_what_is_missing_is_named(pixels, tmp_path, broken, words):
  row = {"tokenizer": "shipped", "every": 1, "validation": "", **broken}
  with pytest.raises((ValueError, FileNotFoundError), match=words):
    jobs.run(study(pixels, tmp_path, one=row), epath.Path(tmp_path / "run"), lambda step: False)


def test_tokens_are_no_pixels(tmp_path):
  path = tmp_path / "tokens"
  temporal.store(path, temporal.brightness(temporal.CAUSAL), temporal.clips(4, 9))
  row = dict(tokenizer="shipped", every=1, validation="")
  with pytest.raises(ValueError, match="holds tokens"):
    jobs.run(study(path, tmp_path, one=row), epath.Path(tmp_path / "run"), lambda step: False)


def test_every_other_frame_of_pixels_becomes_tokens(tmp_path):
  """`tokenizing.every`: the store is that of clips which were cut so."""
  clips = temporal.clips(4, 9)
  fake = temporal.brightness(temporal.CAUSAL)
  for split in ("train", "val"):
    temporal.store(tmp_path / "pixels" / split, fake, clips, pixels=True)
  c = roots.config("shards")
  c.tokenizing.update(pixels=str(tmp_path / "pixels"), tokenizer="shipped", every=4)
  c.tokenizing.update(report_frames=6, kmeans_frames=8)
  workdir = epath.Path(tmp_path / "tokens")
  assert jobs.run(jobs.typed(c.to_dict(), tmp_path), workdir, lambda step: False)
  from totojax.data.store import store as store_lib

  store = store_lib.open_store(workdir / "val", tokenizer=None, vocab=None, grid=None)
  head = store.manifest
  assert (head.frames, head.stride_frames, head.pixel_frames) == (3, 8, 3)
  tokenizer = weights.load("shipped")
  expected = tokenizer.encode(clips[:, ::4].reshape(-1, 8, 8, 3)).reshape(4, -1)
  np.testing.assert_array_equal(store.read(range(4))["codes"], expected)
