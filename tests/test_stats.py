"""Summaries of codes, PSNR and k-means against arithmetic."""

import json
import math

import numpy as np
import pytest

from totojax.tokenizers import ngrams, stats


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


def test_a_summary_holds_the_counts_of_every_n():
  codes = np.random.default_rng(1).integers(0, 9, (6, 3, 3))
  out = stats.summary(codes, vocab=9, adjacency="row")
  assert out["images"] == 6 and out["adjacency"] == "row"
  for n, row in enumerate(out["ngrams"], 1):
    want = ngrams.table([codes], vocab=9, n=n, adjacency="row").ngrams()
    assert row.items() >= want.facts().items()
    assert row["total"] == 6 * 3 * (4 - n)
    assert (row["rank"], row["count"]) == want.curve()


def test_psnr_by_hand():
  black = np.zeros((2, 4, 4, 3), np.uint8)
  off = black + np.uint8(5)
  np.testing.assert_allclose(stats.psnr_db(black, off), 20 * math.log10(255 / 5))
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


def test_ssim_is_scikit_images():
  """Against `skimage.metrics.structural_similarity` 0.26, channel_axis=-1, data_range=255."""
  y, x = np.mgrid[:16, :20]
  waves = lambda turn, height, lift: np.stack(
    [
      127 + 100 * np.sin(0.7 * y + turn * x),
      127 + height * np.cos(0.2 * y * x / 5),
      (9 * y + 5 * x + lift) % 256,
    ],
    axis=-1,
  ).astype(np.uint8)
  one, other = waves(0.3, 90, 0), waves(0.35, 60, 12)
  near, far = 0.9261335793565101, -0.1208573801812961
  np.testing.assert_allclose(stats.ssim(one[None], other[None]), near, rtol=1e-9)
  both = stats.ssim(np.stack([one, one]), np.stack([other, one[::-1]]))
  np.testing.assert_allclose(both, (near + far) / 2, rtol=1e-9)
  assert stats.ssim(one[None], one[None]) == 1
  with pytest.raises(ValueError, match="7 pixels a side"):
    stats.ssim(one[None, :6], one[None, :6])
  assert stats.likeness(one[None, :6], one[None, :6]) == {"psnr_db": None, "ssim": None}


def test_mean_colour():
  frames = np.zeros((1, 2, 2, 3), np.uint8)
  frames[0, 0] = [200, 100, 0]
  got = stats.mean_colour(frames)
  assert got.shape == frames.shape and got.dtype == np.uint8
  assert (got == np.array([100, 50, 0])).all()


def test_block_means():
  frames = np.zeros((2, 4, 6, 3), np.uint8)
  frames[1, :2, 2:4] = [[[10, 20, 30], [20, 20, 30]], [[10, 20, 30], [20, 20, 31]]]
  got = stats.block_means(frames, 2)
  expected = np.zeros_like(frames)
  expected[1, :2, 2:4] = [15, 20, 30]
  np.testing.assert_array_equal(got, expected)
  assert stats.block_means(frames, 1).tolist() == frames.tolist()


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
  config = dict(codes=12, size=4, most_patches=5000, iterations=20)
  model = stats.fit_kmeans(train, **config, seed=0)
  out = model.decode(model.encode(val))
  assert stats.psnr_db(val, out) > 35
  assert stats.psnr_db(val, out) > stats.psnr_db(val, stats.mean_colour(val))
  found = model.encode(val)
  pairs = set(zip(codes.flat, found.flat, strict=True))
  assert len(pairs) == 12  # one code a tile
  again = stats.fit_kmeans(train, **config, seed=0)
  np.testing.assert_array_equal(model.codebook_CF, again.codebook_CF)


def test_kmeans_with_fewer_patches_than_codes_is_exact():
  frames = np.zeros((2, 8, 8, 3), np.uint8)
  frames[1, :4] = 90
  config = dict(codes=16, size=4, most_patches=100, iterations=3)
  model = stats.fit_kmeans(frames, **config, seed=0)
  np.testing.assert_array_equal(model.decode(model.encode(frames)), frames)
  with pytest.raises(ValueError, match="multiple of 4"):
    model.encode(frames[:, :7])
