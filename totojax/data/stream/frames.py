"""Frames out of a pixel store.

Shapes: M frames, H and W pixels.
"""

import numpy as np

from totojax.data.store.store import Store


def some_frames(source: Store, frames: int) -> np.ndarray:
  """About `frames` frames, evenly from all records: uint8 [M, H, W, 3]."""
  records = min(len(source), frames)
  per_record = -(-frames // records)
  chosen = np.linspace(0, len(source) - 1, records).astype(int)
  clips = source.read(chosen)["frames"]
  places = np.linspace(0, clips.shape[1] - 1, min(per_record, clips.shape[1]))
  frames_RNHW3 = clips[:, places.astype(int)]
  return frames_RNHW3.reshape(-1, *frames_RNHW3.shape[2:])[:frames]
