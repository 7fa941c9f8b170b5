"""N-grams against collections.Counter and scipy."""

import collections
import json

import numpy as np
import pytest
from scipy import stats as scipy_stats

from totojax.tokenizers import ngrams


def _counter(codes, n, adjacency):
  count = collections.Counter()
  for image in codes:
    rows = [image.reshape(-1)] if adjacency == "raster" else image
    for row in rows:
      row = row.tolist()
      count.update(tuple(row[i : i + n]) for i in range(len(row) - n + 1))
  return count


def _count(codes, *, vocab, n, adjacency="raster"):
  table = ngrams.table([codes], vocab=vocab, n=n, adjacency=adjacency)
  return table.ngrams()


@pytest.mark.parametrize("adjacency", ["raster", "row"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_ngrams_equal_a_counter(n, adjacency, monkeypatch):
  monkeypatch.setattr(ngrams, "CHUNK_GRAMS", 50)  # many chunks to merge
  codes = np.random.default_rng(n).zipf(1.6, (60, 5, 5)) % 11
  want = _counter(codes, n, adjacency)
  pieces = np.split(codes, [1, 8, 40])
  table = ngrams.table(pieces, vocab=11, n=n, adjacency=adjacency)
  keys = {int(np.polyval(gram, 11)): count for gram, count in want.items()}
  assert dict(zip(table.keys.tolist(), table.counts.tolist())) == keys
  got = table.ngrams()
  values = sorted(want.values(), reverse=True)
  assert got.counts.tolist() == values
  assert got.distinct == len(want) and got.total == sum(values)
  np.testing.assert_allclose(got.entropy_nats, scipy_stats.entropy(values))
  np.testing.assert_allclose(got.entropy_bits, scipy_stats.entropy(values, base=2))
  np.testing.assert_allclose(got.space_coverage, len(want) / 11**n)
  np.testing.assert_allclose(got.total_coverage, len(want) / sum(values))


def test_no_ngram_crosses_from_one_image_into_the_next():
  """Whatever the pieces are, and whether images lie side by side in memory."""
  codes = np.repeat(np.arange(4), 4).reshape(4, 2, 2)  # image i is all i
  for pieces in ([codes], list(codes[:, None])):
    table = ngrams.table(pieces, vocab=4, n=2, adjacency="raster")
    assert table.keys.tolist() == [0, 5, 10, 15]  # (i, i) alone
  # Control: the same codes as one image hold the pairs (i, i + 1) as well.
  joined = ngrams.table([codes.reshape(1, 4, 4)], vocab=4, n=2, adjacency="raster")
  assert joined.keys.tolist() == [0, 1, 5, 6, 10, 11, 15]


def test_unigrams_are_bincounts():
  rng = np.random.default_rng(0)
  pieces = [rng.integers(0, 30, (m, 4, 4)).astype(np.uint16) for m in (3, 9)]
  counts_V = sum(ngrams.code_counts(piece, vocab=40) for piece in pieces)
  assert len(counts_V) == 40 and counts_V[30:].sum() == 0
  got = ngrams.unigrams(counts_V)
  want = ngrams.table(pieces, vocab=40, n=1, adjacency="raster")
  np.testing.assert_array_equal(got.keys, want.keys)
  np.testing.assert_array_equal(got.counts, want.counts)


def test_merging_adds_up():
  rng = np.random.default_rng(3)
  parts = [rng.integers(0, 20, (m, 3, 3)) for m in (5, 2, 7)]
  tables = [ngrams.table([part], vocab=20, n=2, adjacency="raster") for part in parts]
  want = ngrams.table([np.concatenate(parts)], vocab=20, n=2, adjacency="raster")
  got = ngrams.merged(tables)
  np.testing.assert_array_equal(got.keys, want.keys)
  np.testing.assert_array_equal(got.counts, want.counts)
  other = ngrams.table(parts[:1], vocab=21, n=2, adjacency="raster")
  with pytest.raises(ValueError, match=r"\(2, 20\), \(2, 21\).* one tokenizer"):
    ngrams.merged([tables[0], other])


def test_pieces_cost_no_pass_over_all_before(monkeypatch):
  """2,000 pieces of new n-grams: each is moved about log2(2000) times."""
  moved = 0
  merge = ngrams.merged

  def counting(tables):
    nonlocal moved
    moved += sum(len(t.keys) for t in tables) if len(tables) > 1 else 0
    return merge(tables)

  monkeypatch.setattr(ngrams, "merged", counting)
  codes = np.arange(8000).reshape(2000, 1, 2, 2)
  table = ngrams.table(codes, vocab=8000, n=2, adjacency="raster")
  assert len(table.keys) == 6000
  assert moved < 6000 * 13  # one merge after the other: 6,000,000


def test_adjacency_decides_whether_rows_join():
  codes = np.arange(9).reshape(1, 3, 3)
  assert _count(codes, vocab=9, n=2, adjacency="raster").total == 8
  assert _count(codes, vocab=9, n=2, adjacency="row").total == 6


def test_large_vocabulary_does_not_overflow():
  high = 16_383
  codes = np.full((1, 2, 2), high, np.uint16)
  codes[0, 0, 0] = 0
  got = _count(codes, vocab=high + 1, n=3)
  assert got.distinct == 2  # (0, h, h) and (h, h, h): equal in 32 bits wrapped
  with pytest.raises(ValueError, match="63 bits"):
    _count(codes, vocab=high + 1, n=5)


def test_uniform_codes_have_the_entropy_of_their_number():
  codes = np.random.default_rng(0).integers(0, 32, (4000, 8, 8))
  for n in (1, 2):
    np.testing.assert_allclose(_count(codes, vocab=32, n=n).entropy_nats, n * np.log(32), rtol=1e-3)
  skewed = np.minimum(codes, 4)  # control
  assert _count(skewed, vocab=32, n=1).entropy_nats < 0.5 * np.log(32)


def test_top_percent_mass():
  codes = np.zeros((1, 20, 20), np.int64)
  codes[0].reshape(-1)[:199] = np.arange(1, 200)  # 200 distinct; 0 is 201 times
  got = _count(codes, vocab=200, n=1)
  np.testing.assert_allclose(got.top_percent_mass, (201 + 1) / 400)


def test_steps_are_the_whole_curve():
  counts = np.array([9, 9, 5, 1, 1, 1])
  grams = ngrams.Ngrams(n=1, vocab=8, counts=counts)
  count, last = grams.steps()
  assert count.tolist() == [9, 5, 1] and last.tolist() == [2, 3, 6]
  np.testing.assert_array_equal(np.repeat(count, np.diff(last, prepend=0)), counts)
  json.dumps(grams.facts())


def test_nothing_counted_is_said():
  table = ngrams.table([], vocab=8, n=2, adjacency="raster")
  with pytest.raises(ValueError, match="no 2-grams"):
    table.ngrams()


@pytest.mark.parametrize(
  "codes, message",
  [
    (np.full((1, 2, 2), 300), "without special tokens"),
    (np.full((1, 2, 2), -1), "codes run from -1"),
    (np.zeros((1, 2, 2), np.uint8), "cannot hold 300 codes"),
    (np.zeros((1, 2, 2)), "must be integers"),
    (np.zeros((2, 2), int), r"\[images, rows, columns\]"),
    (np.zeros((0, 2, 2), int), "none of them empty"),
  ],
)
def test_bad_codes(codes, message):
  with pytest.raises(ValueError, match=message):
    _count(codes, vocab=300, n=1)
  with pytest.raises(ValueError, match=message):
    ngrams.code_counts(codes, vocab=300)


def test_unknown_adjacency():
  with pytest.raises(ValueError, match="'raster' or 'row'"):
    _count(np.zeros((1, 2, 2), int), vocab=2, n=1, adjacency="column")
