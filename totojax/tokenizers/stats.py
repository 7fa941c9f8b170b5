"""How a tokenizer uses its codes, and what its reconstructions must beat.

The baselines (k-means on patches with as many codes, the mean colours of
patches, and each image's) say how much of a reconstruction a few lines of arithmetic give.

Shapes: M images, H and W height and width, G grid side, C codes of k-means,
F features of a patch (size x size x 3).
"""

import dataclasses
import math
import warnings

import numpy as np

from totojax.tokenizers import ngrams, patches

WINDOW_PX = 7  # of SSIM
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # its constants


def summary(codes_MGG: np.ndarray, *, vocab: int, adjacency: str) -> dict:
  """1-, 2- and 3-gram statistics as plain json.

  Returns:
    {"vocab", "images", "adjacency", "codes_used", "entropy_nats", "perplexity",
    "ngrams": [one dict for n = 1, 2, 3, up to the tokens of an image]}; each n-gram dict has
    `Ngrams.facts` and the curve as rank and count lists.
  """
  tables = [ngrams.unigrams(ngrams.code_counts(codes_MGG, vocab=vocab))]
  tokens = math.prod(codes_MGG.shape[1:])
  for n in range(2, min(3, tokens) + 1):  # an image of one token has no pairs
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
  _check_pair(original, other, "PSNR")
  error = original.astype(np.float64) - other
  mse = np.mean(error**2)
  return float(10 * np.log10(255.0**2 / mse)) if mse else float("inf")


def ssim(original_MHW3: np.ndarray, other_MHW3: np.ndarray) -> float:
  """Mean structural similarity of uint8 images; 1 where nothing differs.

  Wang et al. 2004 as scikit-image has it by default: windows of 7 x 7 pixels
  that lie within the image, all weighted alike, sample covariances, and the
  mean over the three channels.

  Raises:
    ValueError: as `psnr_db`, or a side is below 7 pixels.
  """
  return float(np.mean(ssims(original_MHW3, other_MHW3)))


def ssims(original_MHW3: np.ndarray, other_MHW3: np.ndarray) -> np.ndarray:
  """float64 [M]: `ssim` of each image."""
  from scipy import ndimage  # slow to import

  _check_pair(original_MHW3, other_MHW3, "SSIM")
  if min(original_MHW3.shape[1:3]) < WINDOW_PX:
    raise ValueError(f"images are {original_MHW3.shape}; SSIM needs {WINDOW_PX} pixels a side")
  local = lambda x_HW3: ndimage.uniform_filter(x_HW3, (WINDOW_PX, WINDOW_PX, 1))
  edge, pixels = WINDOW_PX // 2, WINDOW_PX**2
  inside = slice(edge, -edge)
  values = []
  for a_HW3, b_HW3 in zip(original_MHW3.astype(np.float64), other_MHW3.astype(np.float64)):
    mean_a, mean_b = local(a_HW3), local(b_HW3)
    products = (
      (a_HW3, a_HW3, mean_a**2),
      (b_HW3, b_HW3, mean_b**2),
      (a_HW3, b_HW3, mean_a * mean_b),
    )
    var_a, var_b, both = ((local(x * y) - m) * pixels / (pixels - 1) for x, y, m in products)
    light = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    shape = (2 * both + _C2) / (var_a + var_b + _C2)
    values.append((light * shape)[inside, inside].mean())
  return np.array(values)


def likeness(original_MHW3: np.ndarray, other_MHW3: np.ndarray) -> dict[str, float | None]:
  """{"psnr_db": None where nothing differs, "ssim": None of smaller images than it needs}."""
  psnr = psnr_db(original_MHW3, other_MHW3)
  whole = min(original_MHW3.shape[1:3]) >= WINDOW_PX
  return {
    "psnr_db": psnr if np.isfinite(psnr) else None,
    "ssim": ssim(original_MHW3, other_MHW3) if whole else None,
  }


def _check_pair(original: np.ndarray, other: np.ndarray, measure: str) -> None:
  for name, array in (("original", original), ("other", other)):
    if array.dtype != np.uint8:
      raise ValueError(f"{name} is {array.dtype}; {measure} is of uint8 pixels, 0 to 255")
  if original.shape != other.shape:
    raise ValueError(f"shapes {original.shape} and {other.shape} differ; {measure} compares pixels")


def mean_colour(frames_MHW3: np.ndarray) -> np.ndarray:
  """Each image painted in its own mean colour, uint8, same shape."""
  mean_M113 = frames_MHW3.mean(axis=(1, 2), keepdims=True)
  colour = np.rint(mean_M113).astype(np.uint8)
  return np.broadcast_to(colour, frames_MHW3.shape).copy()


def block_means(frames_MHW3: np.ndarray, size: int) -> np.ndarray:
  """Each block of `size` x `size` pixels in its mean colour, uint8, same shape.

  It spends 24 bits on a block, where 4,096 codes spend 12.
  """
  means_MGGF = _patches(frames_MHW3, size)
  shape = means_MGGF.shape
  colours = means_MGGF.reshape(*shape[:3], size**2, 3).mean(axis=3, keepdims=True)
  filled = np.broadcast_to(np.rint(colours), (*shape[:3], size**2, 3))
  return patches.join(filled.reshape(shape), size).astype(np.uint8)


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


def fit_kmeans(
  frames_MHW3: np.ndarray, *, codes: int, size: int, most_patches: int, iterations: int, seed: int
) -> KMeans:
  """Fits a codebook to training patches: k-means++, then Lloyd's algorithm.

  A training set with no more distinct patches than codes is its own codebook.

  Args:
    frames_MHW3: uint8 pixels to train on.
    codes: as many as the tokenizer has, for a fair comparison.
    size: pixels of a patch side: the tokenizer's factor.
    most_patches: of the training set, drawn without replacement.
    iterations: rounds of Lloyd's algorithm.
    seed: of all that is drawn.
  """
  rng = np.random.default_rng(seed)
  patches_NF = _patches(frames_MHW3, size).reshape(-1, 3 * size**2)
  if len(patches_NF) > most_patches:
    chosen = rng.choice(len(patches_NF), most_patches, replace=False)
    patches_NF = patches_NF[np.sort(chosen)]
  book_CF = codebook(patches_NF, codes=codes, iterations=iterations, rng=rng)
  return KMeans(size=size, codebook_CF=book_CF)


def codebook(
  rows_NF: np.ndarray, *, codes: int, iterations: int, rng: np.random.Generator
) -> np.ndarray:
  """float32 [C, F]: k-means++, then Lloyd's algorithm; see `fit_kmeans`."""
  from scipy.cluster import vq  # slow to import

  distinct = np.unique(rows_NF, axis=0)
  if len(distinct) <= codes:
    return distinct
  with warnings.catch_warnings():
    # A code that loses all its patches keeps its place: not worth a warning.
    warnings.filterwarnings("ignore", message="One of the clusters is empty")
    start_CF = _spread(rows_NF, codes, rng=rng)
    codebook_CF, _ = vq.kmeans2(rows_NF, start_CF, iter=iterations, minit="matrix")
  return codebook_CF.astype(np.float32)


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
