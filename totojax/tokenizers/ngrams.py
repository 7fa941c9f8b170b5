"""How often codes, and runs of codes, occur: the paper's Figures 3, 12 and 13.

A 1-gram is a code, a 2-gram two codes side by side, and so on. Codes may come
in pieces; what is kept grows with the distinct n-grams, not with the images.

Shapes: M images (or frames of videos), G grid side, V codes, K distinct
n-grams. Of several codes of a place, the last axis is a row of them all.
"""

from collections.abc import Iterable
import dataclasses
from typing import Any

import numpy as np

CHUNK_GRAMS = 1 << 22  # n-grams sorted at a time: 32 MB of keys
CURVE_POINTS = 160  # of a rank-frequency curve, evenly spaced in log rank
_EMPTY = np.zeros(0, np.int64)


@dataclasses.dataclass(frozen=True)
class Ngrams:
  """Occurrences of the n-grams of one set of images."""

  n: int  # codes of one n-gram
  vocab: int  # codes of the tokenizer
  counts: np.ndarray  # occurrences of each distinct n-gram, most frequent first, int64 [K]

  @property
  def distinct(self) -> int:
    return len(self.counts)

  @property
  def total(self) -> int:
    return int(self.counts.sum())

  @property
  def space_coverage(self) -> float:
    """Distinct n-grams as a fraction of all V^n."""
    return self.distinct / self.vocab**self.n

  @property
  def total_coverage(self) -> float:
    """Distinct n-grams as a fraction of the n-grams seen: 1 is no repeat."""
    return self.distinct / self.total

  @property
  def entropy_nats(self) -> float:
    p = self.counts / self.total
    return float(-(p * np.log(p)).sum())

  @property
  def entropy_bits(self) -> float:
    return self.entropy_nats / float(np.log(2.0))

  @property
  def perplexity(self) -> float:
    """exp(entropy): how many equally frequent n-grams would do the same."""
    return float(np.exp(self.entropy_nats))

  @property
  def top_percent_mass(self) -> float:
    """Share of occurrences held by the most frequent 1 % (at least one)."""
    top = max(1, self.distinct // 100)
    return float(self.counts[:top].sum() / self.total)

  def facts(self) -> dict[str, Any]:
    """All of the above as plain json."""
    names = "n total distinct space_coverage total_coverage entropy_nats entropy_bits perplexity"
    return {name: getattr(self, name) for name in (*names.split(), "top_percent_mass")}

  def curve(self) -> tuple[list[int], list[int]]:
    """(rank from 1, count) at up to CURVE_POINTS ranks: the log-log plot."""
    ranks = np.geomspace(1, self.distinct, CURVE_POINTS)
    ranks = np.unique(np.rint(ranks).astype(np.int64))
    return ranks.tolist(), self.counts[ranks - 1].tolist()

  def steps(self) -> tuple[np.ndarray, np.ndarray]:
    """(count, last rank with it): the whole curve, as it is flat in between."""
    last = np.append(np.flatnonzero(np.diff(self.counts)), self.distinct - 1)
    return self.counts[last], last + 1


@dataclasses.dataclass(frozen=True)
class Table:
  """Distinct n-grams and their occurrences."""

  n: int  # codes of one n-gram
  vocab: int  # codes of the tokenizer
  keys: np.ndarray  # sum of code_k V^(n - 1 - k) of each, ascending, int64 [K]
  counts: np.ndarray  # occurrences of each, int64 [K]

  def ngrams(self) -> Ngrams:
    """Without the keys.

    Raises:
      ValueError: nothing was counted.
    """
    if not len(self.counts):
      raise ValueError(f"no {self.n}-grams were counted; give some images")
    return Ngrams(n=self.n, vocab=self.vocab, counts=np.sort(self.counts)[::-1])


def table(parts: Iterable[np.ndarray], *, vocab: int, n: int, adjacency: str) -> Table:
  """Counts horizontal n-grams; none crosses from one image into the next.

  Tables of the pieces are merged when they are about equally long, as runs of
  a merge sort are, so that no piece costs a pass over all that came before.

  Args:
    parts: raw codes 0..V-1 of images (or of video frames), [M, G, G] a piece.
    vocab: number of codes V.
    n: codes of one n-gram.
    adjacency: "raster" flattens an image, so that n-grams wrap from the end of
      a row into the next, as the model reads them; "row" stays within a row.

  Raises:
    ValueError: on another shape, an unknown adjacency, codes outside 0..V-1, a
      dtype too small for V, or V^n beyond 63 bits.
  """
  if vocab**n >= 1 << 63:
    raise ValueError(f"{vocab}^{n} n-grams do not fit 63 bits; use a smaller n")
  runs: list[Table] = []
  for codes_MGG in parts:
    rows = _rows(codes_MGG, vocab=vocab, n=n, adjacency=adjacency)
    step = max(1, CHUNK_GRAMS // rows.shape[1])
    for start in range(0, len(rows), step):
      keys = _keys(rows[start : start + step], vocab=vocab, n=n)
      distinct, counts = np.unique(keys, return_counts=True)
      runs.append(Table(n, vocab, distinct, counts.astype(np.int64)))
      while len(runs) > 1 and len(runs[-2].keys) < 2 * len(runs[-1].keys):
        runs[-2:] = [merged(runs[-2:])]
  return merged(runs) if runs else Table(n, vocab, _EMPTY, _EMPTY)


def merged(tables: list[Table]) -> Table:
  """One table of the occurrences in all; of one vocabulary and one n."""
  kinds = {(t.n, t.vocab) for t in tables}
  if len(kinds) != 1:
    raise ValueError(
      f"tables of (n, vocab) {sorted(kinds)} cannot be merged; merge those of"
      " one n and one tokenizer"
    )
  ((n, vocab),) = kinds
  if len(tables) == 1:
    return tables[0]
  keys = np.concatenate([t.keys for t in tables])
  if not len(keys):
    return tables[0]
  # The stable sort finds the runs that are sorted already, and merges them.
  order = np.argsort(keys, kind="stable")
  keys = keys[order]
  counts = np.concatenate([t.counts for t in tables])[order]
  first = np.flatnonzero(np.diff(keys, prepend=-1))
  return Table(n, vocab, keys[first], np.add.reduceat(counts, first))


def code_counts(codes_MGG: np.ndarray, *, vocab: int) -> np.ndarray:
  """Occurrences of every code, int64 [V]; those of pieces add up."""
  check_codes(codes_MGG, vocab, axes="images, rows, columns")
  return np.bincount(codes_MGG.reshape(-1), minlength=vocab)


def unigrams(counts_V: np.ndarray) -> Table:
  """The 1-grams that `code_counts` counted."""
  keys = np.flatnonzero(counts_V)
  return Table(1, len(counts_V), keys, counts_V[keys])


def check_codes(codes: np.ndarray, vocab: int, *, axes: str) -> None:
  """Raises ValueError unless `codes` are raw codes below `vocab` on 3 axes.

  Args:
    codes: integers, at least one.
    vocab: number of codes.
    axes: what the axes are, for the error.
  """
  if codes.ndim != 3 or not codes.size:
    raise ValueError(f"codes have shape {codes.shape}; give [{axes}], none of them empty")
  if not np.issubdtype(codes.dtype, np.integer):
    raise ValueError(f"codes are {codes.dtype}; they must be integers")
  if np.iinfo(codes.dtype).max < vocab - 1:
    raise ValueError(
      f"codes are {codes.dtype}, which cannot hold {vocab} codes: they"
      " were cut somewhere. Use int32"
    )
  low, high = int(codes.min()), int(codes.max())
  if low < 0 or high >= vocab:
    raise ValueError(
      f"codes run from {low} to {high}; with vocab {vocab} they must be 0 to"
      f" {vocab - 1}. Give raw codes without special tokens"
    )


def _rows(codes_MGG: np.ndarray, *, vocab: int, n: int, adjacency: str) -> np.ndarray:
  """Codes in rows that n-grams do not leave."""
  check_codes(codes_MGG, vocab, axes="images, rows, columns")
  match adjacency:
    case "raster":
      rows = codes_MGG.reshape(len(codes_MGG), -1)
    case "row":
      rows = codes_MGG.reshape(-1, codes_MGG.shape[-1])
    case _:
      raise ValueError(f"adjacency {adjacency!r} is unknown; use 'raster' or 'row'")
  if rows.shape[1] < n:
    raise ValueError(f"rows of {rows.shape[1]} codes hold no {n}-gram")
  return rows


def _keys(rows: np.ndarray, *, vocab: int, n: int) -> np.ndarray:
  """int64 key of every n-gram of every row."""
  rows = rows.astype(np.int64)
  width = rows.shape[1] - n + 1
  keys = np.zeros((len(rows), width), np.int64)
  for k in range(n):
    keys = keys * vocab + rows[:, k : k + width]
  return keys
