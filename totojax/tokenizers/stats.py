"""How a tokenizer uses its codes, and what its reconstructions must beat.

Figures 3, 12 and 13 of the paper count 1-, 2- and 3-grams of codes over images;
the baselines (k-means on patches with as many codes, and each image's mean
colour) say how much of a reconstruction a few lines of arithmetic give.

Shapes: M images, H and W height and width, G grid side, C codes of k-means,
F features of a patch (size x size x 3).
"""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
from scipy.cluster import vq

CHUNK_GRAMS = 1 << 22  # n-grams sorted at a time: bounds memory at 32 MB
CURVE_POINTS = 160  # of a rank-frequency curve, evenly spaced in log rank


@dataclasses.dataclass(frozen=True)
class Ngrams:
  """Counts of the n-grams of one set of images.

  Attributes:
    n: codes of one n-gram.
    vocab: codes of the tokenizer.
    counts: occurrences of each distinct n-gram, most frequent first, int64.
  """

  n: int
  vocab: int
  counts: np.ndarray

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
  def perplexity(self) -> float:
    """exp(entropy): how many equally frequent n-grams would do the same."""
    return float(np.exp(self.entropy_nats))

  @property
  def top_percent_mass(self) -> float:
    """Share of occurrences held by the most frequent 1 % (at least one)."""
    top = max(1, self.distinct // 100)
    return float(self.counts[:top].sum() / self.total)

  def curve(self) -> tuple[list[int], list[int]]:
    """(rank from 1, count) at up to CURVE_POINTS ranks: the log-log plot."""
    ranks = np.geomspace(1, self.distinct, CURVE_POINTS)
    ranks = np.unique(np.rint(ranks).astype(np.int64))
    return ranks.tolist(), self.counts[ranks - 1].tolist()


def ngrams(
    codes_MGG: np.ndarray, *, vocab: int, n: int, adjacency: str
) -> Ngrams:
  """Counts horizontal n-grams; none crosses from one image into the next.

  Args:
    codes_MGG: raw codes 0..V-1 of images (or of video frames), one image each.
    vocab: number of codes V.
    n: codes of one n-gram.
    adjacency: "raster" flattens an image, so that n-grams wrap from the end of
      a row into the next, as the model reads them; "row" stays within a row.

  Raises:
    ValueError: on another shape, an unknown adjacency, codes outside 0..V-1, a
      dtype too small for V, or V^n beyond 63 bits.
  """
  _check_codes(codes_MGG, vocab)
  if vocab**n >= 1 << 63:
    raise ValueError(
        f"{vocab}^{n} n-grams do not fit 63 bits; use a smaller n"
    )
  match adjacency:
    case "raster":
      rows = codes_MGG.reshape(len(codes_MGG), -1)
    case "row":
      rows = codes_MGG.reshape(-1, codes_MGG.shape[-1])
    case _:
      raise ValueError(
          f"adjacency {adjacency!r} is unknown; use 'raster' or 'row'"
      )
  if rows.shape[1] < n:
    raise ValueError(f"rows of {rows.shape[1]} codes hold no {n}-gram")
  keys, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
  step = max(1, CHUNK_GRAMS // rows.shape[1])
  for start in range(0, len(rows), step):
    part = rows[start : start + step].astype(np.int64)
    width = part.shape[1] - n + 1
    key = np.zeros((len(part), width), np.int64)
    for k in range(n):
      key = key * vocab + part[:, k : k + width]
    new_keys, new_counts = np.unique(key, return_counts=True)
    merged = np.concatenate([keys, new_keys])
    weights = np.concatenate([counts, new_counts])
    keys, place = np.unique(merged, return_inverse=True)
    counts = np.zeros(len(keys), np.int64)
    np.add.at(counts, place, weights)
  return Ngrams(n=n, vocab=vocab, counts=np.sort(counts)[::-1])


def summary(codes_MGG: np.ndarray, *, vocab: int, adjacency: str) -> dict:
  """1-, 2- and 3-gram statistics as plain json.

  Returns:
    {"vocab", "images", "adjacency", "codes_used", "entropy_nats", "perplexity",
    "ngrams": [one dict for n = 1, 2, 3]}; each n-gram dict has n, total,
    distinct, space_coverage, total_coverage, entropy_nats, perplexity,
    top_percent_mass and the curve as rank and count lists.
  """
  rows = []
  for n in (1, 2, 3):
    grams = ngrams(codes_MGG, vocab=vocab, n=n, adjacency=adjacency)
    rank, count = grams.curve()
    rows.append({
        "n": n,
        "total": grams.total,
        "distinct": grams.distinct,
        "space_coverage": grams.space_coverage,
        "total_coverage": grams.total_coverage,
        "entropy_nats": grams.entropy_nats,
        "perplexity": grams.perplexity,
        "top_percent_mass": grams.top_percent_mass,
        "rank": rank,
        "count": count,
    })
  return {
      "vocab": vocab,
      "images": len(codes_MGG),
      "adjacency": adjacency,
      "codes_used": rows[0]["distinct"],
      "entropy_nats": rows[0]["entropy_nats"],
      "perplexity": rows[0]["perplexity"],
      "ngrams": rows,
  }


def psnr_db(original: np.ndarray, other: np.ndarray) -> float:
  """Peak signal-to-noise ratio of uint8 pixels in dB.

  From the squared error over all pixels given, so that one perfect image does
  not make the set's value infinite; give one image for the value of that image.
  Equal arrays give infinity.
  """
  for name, array in (("original", original), ("other", other)):
    if array.dtype != np.uint8:
      raise ValueError(
          f"{name} is {array.dtype}; PSNR is of uint8 pixels, 0 to 255"
      )
  if original.shape != other.shape:
    raise ValueError(
        f"shapes {original.shape} and {other.shape} differ; PSNR compares pixel"
        " by pixel"
    )
  error = original.astype(np.float64) - other
  mse = np.mean(error**2)
  return float(10 * np.log10(255.0**2 / mse)) if mse else float("inf")


def mean_colour(frames_MHW3: np.ndarray) -> np.ndarray:
  """Each image painted in its own mean colour, uint8, same shape."""
  mean_M113 = frames_MHW3.mean(axis=(1, 2), keepdims=True)
  colour = np.rint(mean_M113).astype(np.uint8)
  return np.broadcast_to(colour, frames_MHW3.shape).copy()


@dataclasses.dataclass(frozen=True)
class KMeans:
  """Codebook of patches of `size` x `size` pixels, float32 [C, F] in 0..255."""

  size: int
  codebook_CF: np.ndarray

  def encode(self, frames_MHW3: np.ndarray) -> np.ndarray:
    """Nearest code of each patch, int32 [M, H / size, W / size]."""
    patches = _patches(frames_MHW3, self.size)
    grid = patches.shape[:3]
    codes, _ = vq.vq(patches.reshape(-1, patches.shape[-1]), self.codebook_CF)
    return codes.reshape(grid)

  def decode(self, codes_MGG: np.ndarray) -> np.ndarray:
    """uint8 frames of codes."""
    images, high, wide = codes_MGG.shape
    patches = self.codebook_CF[codes_MGG].reshape(
        images, high, wide, self.size, self.size, 3
    )
    pixels = patches.transpose(0, 1, 3, 2, 4, 5).reshape(
        images, high * self.size, wide * self.size, 3
    )
    return np.rint(pixels).clip(0, 255).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class KMeansConfig:
  """How the patch codebook is fitted.

  Attributes:
    codes: as many as the tokenizer has, for a fair comparison.
    size: pixels of a patch side: the tokenizer's factor.
    patches: at most this many training patches, drawn without replacement.
    iterations: rounds of Lloyd's algorithm.
  """

  codes: int
  size: int
  patches: int
  iterations: int


def fit_kmeans(
    frames_MHW3: np.ndarray, config: KMeansConfig, *, seed: int
) -> KMeans:
  """Fits a codebook to training patches: k-means++, then Lloyd's algorithm.

  A training set with no more distinct patches than codes is its own codebook.
  """
  rng = np.random.default_rng(seed)
  patches_NF = _patches(frames_MHW3, config.size)
  patches_NF = patches_NF.reshape(-1, patches_NF.shape[-1])
  if len(patches_NF) > config.patches:
    chosen = rng.choice(len(patches_NF), config.patches, replace=False)
    patches_NF = patches_NF[np.sort(chosen)]
  distinct = np.unique(patches_NF, axis=0)
  if len(distinct) <= config.codes:
    return KMeans(size=config.size, codebook_CF=distinct)
  with warnings.catch_warnings():
    # A code that loses all its patches keeps its place: not worth a warning.
    warnings.filterwarnings("ignore", message="One of the clusters is empty")
    codebook_CF, _ = vq.kmeans2(
        patches_NF,
        _spread(patches_NF, config.codes, rng=rng),
        iter=config.iterations,
        minit="matrix",
    )
  return KMeans(size=config.size, codebook_CF=codebook_CF.astype(np.float32))


def _spread(
    patches_NF: np.ndarray, codes: int, *, rng: np.random.Generator
) -> np.ndarray:
  """k-means++ seeds [C, F]: each drawn by its squared distance to the others.

  scipy's own recomputes all distances for every seed: minutes for 256 codes.
  """
  seeds_CF = np.empty((codes, patches_NF.shape[1]), np.float32)
  nearest_N = np.ones(len(patches_NF))
  for c in range(codes):
    drawn = rng.choice(len(patches_NF), p=nearest_N / nearest_N.sum())
    seeds_CF[c] = patches_NF[drawn]
    distance_N = ((patches_NF - seeds_CF[c]) ** 2).sum(axis=1, dtype=np.float64)
    nearest_N = distance_N if c == 0 else np.minimum(nearest_N, distance_N)
  return seeds_CF


def _patches(frames_MHW3: np.ndarray, size: int) -> np.ndarray:
  """float32 [M, H / size, W / size, size * size * 3]."""
  images, height, width, channels = frames_MHW3.shape
  if height % size or width % size:
    raise ValueError(
        f"frames of {height}x{width} pixels are not whole patches of {size};"
        " use a size that divides both sides"
    )
  high, wide = height // size, width // size
  split = frames_MHW3.reshape(images, high, size, wide, size, channels)
  split = split.transpose(0, 1, 3, 2, 4, 5)
  return split.reshape(images, high, wide, -1).astype(np.float32)


def _check_codes(codes_MGG: np.ndarray, vocab: int) -> None:
  if codes_MGG.ndim != 3 or not codes_MGG.size:
    raise ValueError(
        f"codes have shape {codes_MGG.shape}; give [images, rows, columns],"
        " none of them empty"
    )
  if not np.issubdtype(codes_MGG.dtype, np.integer):
    raise ValueError(f"codes are {codes_MGG.dtype}; they must be integers")
  if np.iinfo(codes_MGG.dtype).max < vocab - 1:
    raise ValueError(
        f"codes are {codes_MGG.dtype}, which cannot hold {vocab} codes: they"
        " were cut somewhere. Use uint16 or int32"
    )
  low, high = int(codes_MGG.min()), int(codes_MGG.max())
  if low < 0 or high >= vocab:
    raise ValueError(
        f"codes run from {low} to {high}; with vocab {vocab} they must be 0 to"
        f" {vocab - 1}. Give raw codes without special tokens"
    )
