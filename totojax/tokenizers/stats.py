"""How a tokenizer uses its codes, and what its reconstructions must beat.

The baselines (k-means on patches with as many codes, and each image's mean
colour) say how much of a reconstruction a few lines of arithmetic give.

Shapes: M images, H and W height and width, G grid side, C codes of k-means,
F features of a patch (size x size x 3).
"""

import dataclasses
import warnings

import numpy as np

from totojax.tokenizers import ngrams, patches


def summary(codes_MGG: np.ndarray, *, vocab: int, adjacency: str) -> dict:
  """1-, 2- and 3-gram statistics as plain json.

  Returns:
    {"vocab", "images", "adjacency", "codes_used", "entropy_nats", "perplexity",
    "ngrams": [one dict for n = 1, 2, 3]}; each n-gram dict has
    `Ngrams.facts` and the curve as rank and count lists.
  """
  tables = [ngrams.unigrams(ngrams.code_counts(codes_MGG, vocab=vocab))]
  for n in (2, 3):
    tables.append(ngrams.table([codes_MGG], vocab=vocab, n=n, adjacency=adjacency))
  rows = []
  for table in tables:
    grams = table.ngrams()
    rank, count = grams.curve()
    rows.append({**grams.facts(), "rank": rank, "count": count})
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
      raise ValueError(f"{name} is {array.dtype}; PSNR is of uint8 pixels, 0 to 255")
  if original.shape != other.shape:
    raise ValueError(
      f"shapes {original.shape} and {other.shape} differ; PSNR compares pixel by pixel"
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
    from scipy.cluster import vq  # slow to import

    patches_MGGF = _patches(frames_MHW3, self.size)
    codes, _ = vq.vq(patches_MGGF.reshape(-1, patches_MGGF.shape[-1]), self.codebook_CF)
    return codes.reshape(patches_MGGF.shape[:3])

  def decode(self, codes_MGG: np.ndarray) -> np.ndarray:
    """uint8 frames of codes."""
    pixels = patches.join(self.codebook_CF[codes_MGG], self.size)
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


def fit_kmeans(frames_MHW3: np.ndarray, config: KMeansConfig, *, seed: int) -> KMeans:
  """Fits a codebook to training patches: k-means++, then Lloyd's algorithm.

  A training set with no more distinct patches than codes is its own codebook.
  """
  from scipy.cluster import vq  # slow to import

  rng = np.random.default_rng(seed)
  patches_NF = _patches(frames_MHW3, config.size).reshape(-1, 3 * config.size**2)
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
      patches_NF, _spread(patches_NF, config.codes, rng=rng), iter=config.iterations, minit="matrix"
    )
  return KMeans(size=config.size, codebook_CF=codebook_CF.astype(np.float32))


def _spread(patches_NF: np.ndarray, codes: int, *, rng: np.random.Generator) -> np.ndarray:
  """k-means++ seeds [C, F]: each drawn by its squared distance to the others.

  scipy's own recomputes all distances for every seed: minutes for 256 codes.
  """
  seeds_CF = np.empty((codes, patches_NF.shape[1]), np.float32)
  nearest_N = np.ones(len(patches_NF))
  for c in range(codes):
    seeds_CF[c] = patches_NF[rng.choice(len(patches_NF), p=nearest_N / nearest_N.sum())]
    distance_N = ((patches_NF - seeds_CF[c]) ** 2).sum(axis=1, dtype=np.float64)
    nearest_N = distance_N if c == 0 else np.minimum(nearest_N, distance_N)
  return seeds_CF


def _patches(frames_MHW3: np.ndarray, size: int) -> np.ndarray:
  """float32 [M, H / size, W / size, size * size * 3]."""
  return np.asarray(patches.cut(frames_MHW3, size), np.float32)
