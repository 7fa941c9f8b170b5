"""N-grams against collections.Counter, PSNR and k-means against arithmetic."""

import collections
import json
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from totojax.tokenizers import stats


def _counter(codes, n, adjacency):
  count = collections.Counter()
  for image in codes:
    rows = [image.reshape(-1)] if adjacency == "raster" else image
    for row in rows:
      row = row.tolist()
      count.update(tuple(row[i : i + n]) for i in range(len(row) - n + 1))
  return count


@pytest.mark.parametrize("adjacency", ["raster", "row"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_ngrams_equal_a_counter(n, adjacency, monkeypatch):
  monkeypatch.setattr(stats, "CHUNK_GRAMS", 50)  # many chunks to merge
  codes = np.random.default_rng(n).zipf(1.6, (20, 5, 5)) % 11
  want = _counter(codes, n, adjacency)
  got = stats.ngrams(codes, vocab=11, n=n, adjacency=adjacency)
  values = sorted(want.values(), reverse=True)
  assert got.counts.tolist() == values
  assert got.distinct == len(want) and got.total == sum(values)
  np.testing.assert_allclose(got.entropy_nats, scipy_stats.entropy(values))
  np.testing.assert_allclose(got.space_coverage, len(want) / 11**n)


def test_adjacency_decides_whether_rows_join():
  codes = np.arange(9).reshape(1, 3, 3)
  assert stats.ngrams(codes, vocab=9, n=2, adjacency="raster").total == 8
  assert stats.ngrams(codes, vocab=9, n=2, adjacency="row").total == 6


def test_large_vocabulary_does_not_overflow():
  high = 16_383
  codes = np.full((1, 2, 2), high, np.uint16)
  codes[0, 0, 0] = 0
  got = stats.ngrams(codes, vocab=high + 1, n=3, adjacency="raster")
  assert got.distinct == 2  # (0, h, h) and (h, h, h): equal in 32 bits wrapped
  with pytest.raises(ValueError, match="63 bits"):
    stats.ngrams(codes, vocab=high + 1, n=5, adjacency="raster")


def test_uniform_codes_have_full_perplexity_and_one_code_has_one():
  rng = np.random.default_rng(0)
  codes = rng.integers(0, 64, (500, 8, 8))
  out = stats.summary(codes, vocab=64, adjacency="raster")
  assert out["codes_used"] == 64
  assert 63 < out["perplexity"] <= 64
  dead = stats.summary(codes * 0, vocab=64, adjacency="raster")
  assert dead["codes_used"] == 1 and dead["perplexity"] == 1
  json.dumps(out)
  assert out["ngrams"][1]["rank"][-1] == out["ngrams"][1]["distinct"]


def test_top_percent_mass():
  codes = np.zeros((1, 20, 20), np.int64)
  codes[0].reshape(-1)[:199] = np.arange(1, 200)  # 200 distinct; 0 is 201 times
  got = stats.ngrams(codes, vocab=200, n=1, adjacency="raster")
  np.testing.assert_allclose(got.top_percent_mass, (201 + 1) / 400)


@pytest.mark.parametrize(
    "codes, message",
    [
        (np.full((1, 2, 2), 300), "without special tokens"),
        (np.full((1, 2, 2), -1), "codes run from -1"),
        (np.zeros((1, 2, 2), np.uint8), "cannot hold 300 codes"),
        (np.zeros((1, 2, 2)), "must be integers"),
        (np.zeros((2, 2), int), r"\[images, rows, columns\]"),
    ],
)
def test_bad_codes(codes, message):
  with pytest.raises(ValueError, match=message):
    stats.ngrams(codes, vocab=300, n=1, adjacency="raster")


def test_unknown_adjacency():
  with pytest.raises(ValueError, match="'raster' or 'row'"):
    stats.ngrams(np.zeros((1, 2, 2), int), vocab=2, n=1, adjacency="column")


def test_psnr_by_hand():
  black = np.zeros((2, 4, 4, 3), np.uint8)
  off = black + np.uint8(5)
  np.testing.assert_allclose(
      stats.psnr_db(black, off), 20 * math.log10(255 / 5)
  )
  half = black.copy()
  half[0] = 5  # one perfect image: the set's error is the mean, not infinite
  np.testing.assert_allclose(
      stats.psnr_db(black, half), 20 * math.log10(255 / 5) + 10 * math.log10(2)
  )
  assert stats.psnr_db(black, black) == math.inf
  with pytest.raises(ValueError, match="uint8 pixels"):
    stats.psnr_db(black / 255, off)
  with pytest.raises(ValueError, match="differ"):
    stats.psnr_db(black[:1], off)


def test_mean_colour():
  frames = np.zeros((1, 2, 2, 3), np.uint8)
  frames[0, 0] = [200, 100, 0]
  got = stats.mean_colour(frames)
  assert got.shape == frames.shape and got.dtype == np.uint8
  assert (got == np.array([100, 50, 0])).all()


def _textured(seed, count):
  """Frames of tiles, each one of 12 random tiles plus noise."""
  rng = np.random.default_rng(7)
  tiles = rng.integers(0, 256, (12, 4, 4, 3))
  rng = np.random.default_rng(seed)
  codes = rng.integers(0, 12, (count, 4, 4))
  frames = tiles[codes].transpose(0, 1, 3, 2, 4, 5).reshape(count, 16, 16, 3)
  noise = rng.integers(-4, 5, frames.shape)
  return np.clip(frames + noise, 0, 255).astype(np.uint8), codes


def test_kmeans_recovers_tiles_and_beats_mean_colour():
  train, _ = _textured(0, 60)
  val, codes = _textured(1, 10)
  config = stats.KMeansConfig(codes=12, size=4, patches=5000, iterations=20)
  model = stats.fit_kmeans(train, config, seed=0)
  out = model.decode(model.encode(val))
  assert stats.psnr_db(val, out) > 35
  assert stats.psnr_db(val, out) > stats.psnr_db(val, stats.mean_colour(val))
  found = model.encode(val)
  pairs = set(zip(codes.flat, found.flat, strict=True))
  assert len(pairs) == 12  # one code a tile
  again = stats.fit_kmeans(train, config, seed=0)
  np.testing.assert_array_equal(model.codebook_CF, again.codebook_CF)


def test_kmeans_with_fewer_patches_than_codes_is_exact():
  frames = np.zeros((2, 8, 8, 3), np.uint8)
  frames[1, :4] = 90
  config = stats.KMeansConfig(codes=16, size=4, patches=100, iterations=3)
  model = stats.fit_kmeans(frames, config, seed=0)
  np.testing.assert_array_equal(model.decode(model.encode(frames)), frames)
  with pytest.raises(ValueError, match="whole patches"):
    model.encode(frames[:, :7])
