"""What classes can be told from without a backbone: baselines of a probe.

Shapes: M records, T tokens of a record, N frames.
"""

from collections.abc import Callable

import numpy as np

from totojax.data.store import store as store_lib
from totojax.data.stream import labelled
from totojax.rundir import console


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
  _block(head.size_px, side, store.path)
  out = np.zeros((len(store), head.frames * side * side * 3), np.float32)
  for start in range(0, len(store), 128):
    stop = min(start + 128, len(store))
    out[start:stop] = _averages(store.read(range(start, stop))["frames"], side)
  return out


def drawn_pixels(
  data: labelled.Records, draw: Callable[[np.ndarray], np.ndarray], *, factor: int, side: int
) -> np.ndarray:
  """float32 [M, N side side 3] of the records, from pixels that a tokenizer draws.

  Args:
    data: records of a store of tokens.
    draw: the tokenizer's `decode`.
    factor: pixels of a token's side.
    side: pixels of a frame's side that are left.
  """
  head, count = data.tokens.manifest, len(data.records)
  _block(head.grid * factor, side, data.tokens.path)
  out = np.zeros((count, head.frames * side * side * 3), np.float32)
  with console.tracking(f"drawing {data.name} from tokens", unit="records", total=count) as bar:
    for start in range(0, count, 32):
      part = data.records[start : start + 32]
      codes = data.tokens.read(part)["codes"].astype(np.int32)
      frames = draw(codes.reshape(-1, head.grid, head.grid))
      clips = np.asarray(frames).reshape(len(part), head.frames, *frames.shape[1:])
      out[start : start + len(part)] = _averages(clips, side)
      bar.advance(len(part))
  return out


def _averages(frames_MNHW3: np.ndarray, side: int) -> np.ndarray:
  """[M, N side side 3] in 0..1: means of squares."""
  clips, count, size, *_ = frames_MNHW3.shape
  block = size // side
  blocks = frames_MNHW3.astype(np.float32).reshape(clips, count, side, block, side, block, 3)
  return blocks.mean((3, 5)).reshape(clips, -1) / 255.0


def _block(size_px: int, side: int, path: str) -> None:
  """Raises ValueError where the squares of an average are not whole."""
  if size_px % side:
    raise ValueError(
      f"pixels_side {side} does not divide the {size_px} pixels of {path}; use a divisor"
    )


def same_records(tokens: labelled.Records, pixels: store_lib.Store) -> None:
  """Raises ValueError unless a pixel store holds the records of the tokens."""
  if tuple(pixels.ids()) != tokens.ids:
    where = tokens.store.path if tokens.store else tokens.name
    raise ValueError(
      f"{pixels.path} and {where} do not hold the same items in"
      " the same order; give the pixels that the tokens were made from"
    )
