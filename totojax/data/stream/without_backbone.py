"""What classes can be told from without a backbone: baselines of a probe.

Shapes: M records, P places of a record, K codes of a place, N frames of pixels.
"""

from collections.abc import Callable

import numpy as np

from totojax.data.store import store as store_lib
from totojax.data.stream import labelled
from totojax.rundir import console


def histograms(store: store_lib.Store) -> np.ndarray:
  """float32 [M, K vocab]: how often each code is in a record, 1 the mean.

  The K codes of a place mean different things, and are counted each for itself.
  """
  head = store.manifest
  kinds = head.latents.codes * head.vocab
  out = np.zeros((len(store), kinds), np.float32)
  for start in range(0, len(store), 1024):
    count = min(1024, len(store) - start)
    codes = store.read(range(start, start + count))["codes"].astype(np.int64)
    codes_MPK = codes.reshape(count, -1, head.latents.codes)
    kind_MPK = codes_MPK + np.arange(head.latents.codes) * head.vocab
    place = np.arange(count)[:, None, None] * kinds + kind_MPK
    counts = np.bincount(place.reshape(-1), minlength=count * kinds)
    out[start : start + count] = counts.reshape(count, kinds) / codes_MPK.shape[1] * head.vocab
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
    draw: codes of R records [R, *`Manifest.code_shape`] to uint8 [R, N, S, S, 3].
    factor: pixels of a token's side.
    side: pixels of a frame's side that are left.
  """
  head, count = data.tokens.manifest, len(data.records)
  _block(head.grid * factor, side, data.tokens.path)
  out = np.zeros((count, head.pixel_frames * side * side * 3), np.float32)
  with console.tracking(f"drawing {data.name} from tokens", unit="records", total=count) as bar:
    for start in range(0, count, 32):
      part = data.records[start : start + 32]
      codes = data.tokens.read(part)["codes"].astype(np.int32)
      clips = draw(codes.reshape(len(part), *head.code_shape))[:, : head.pixel_frames]
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
