"""What classes can be told from without a backbone: baselines of a probe.

Shapes: M records, T tokens of a record, N frames.
"""

import numpy as np

from totojax.data.store import store as store_lib
from totojax.data.stream import labelled


def histograms(store: store_lib.Store, vocab: int) -> np.ndarray:
  """float32 [M, vocab]: how often each code is in a record, 1 the mean."""
  out = np.zeros((len(store), vocab), np.float32)
  for start in range(0, len(store), 1024):
    stop = min(start + 1024, len(store))
    codes_MT = store.read(range(start, stop))["codes"].astype(np.int64)
    place = np.arange(stop - start)[:, None] * vocab + codes_MT
    counts = np.bincount(place.reshape(-1), minlength=(stop - start) * vocab)
    share = counts.reshape(stop - start, vocab) / codes_MT.shape[1]
    out[start:stop] = share * vocab
  return out


def small_pixels(store: store_lib.Store, side: int) -> np.ndarray:
  """float32 [M, N side side 3] in 0..1: every frame, averaged to `side`."""
  head = store.manifest
  if head.size_px % side:
    raise ValueError(
      f"pixels_side {side} does not divide the {head.size_px} pixels of {store.path}; use a divisor"
    )
  block = head.size_px // side
  out = np.zeros((len(store), head.frames * side * side * 3), np.float32)
  for start in range(0, len(store), 128):
    stop = min(start + 128, len(store))
    frames = store.read(range(start, stop))["frames"].astype(np.float32)
    blocks = frames.reshape(stop - start, head.frames, side, block, side, block, 3)
    out[start:stop] = blocks.mean((3, 5)).reshape(stop - start, -1) / 255.0
  return out


def same_records(tokens: labelled.Records, pixels: store_lib.Store) -> None:
  """Raises ValueError unless a pixel store holds the records of the tokens."""
  if tuple(pixels.ids()) != tokens.ids:
    where = tokens.store.path if tokens.store else tokens.name
    raise ValueError(
      f"{pixels.path} and {where} do not hold the same items in"
      " the same order; give the pixels that the tokens were made from"
    )
