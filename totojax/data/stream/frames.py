"""Frames out of stores of pixels, and batches of them.

Shapes: B rows of a batch, N frames, M frames of several records, H and W pixels,
S pixels of both sides.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import grain
import numpy as np

from totojax import sequence
from totojax.data.store.store import Store
from totojax.data.stream import mixture, rows as row_lib
from totojax.data.stream.rows import Draw, Row, Source


def some_frames(source: Store, frames: int) -> np.ndarray:
  """About `frames` frames, evenly from all records: uint8 [M, H, W, 3]."""
  records = min(len(source), frames)
  per_record = -(-frames // records)
  chosen = np.linspace(0, len(source) - 1, records).astype(int)
  clips = source.read(chosen)["frames"]
  places = np.linspace(0, clips.shape[1] - 1, min(per_record, clips.shape[1]))
  frames_RNHW3 = clips[:, places.astype(int)]
  return frames_RNHW3.reshape(-1, *frames_RNHW3.shape[2:])[:frames]


def clips_stream(
  sources: Sequence[Source],
  *,
  seq: sequence.SequenceSpec,
  factor: int,
  seed: int,
  batch: int,
  host: int,
  hosts: int,
) -> grain.MapDataset:
  """Like `mixture.stream`, for pixels that are encoded on the device.

  The rows are those that `mixture.stream` gives for tokens of the same data sets.

  Returns:
    Endless random access to {"frames": uint8 [batch / hosts, frames, S, S, 3],
    "start": int32 [..], "source": int32 [..]}.

  Raises:
    ValueError: as `mixture.stream`; `factor` is the tokenizer's pixels a token.
  """
  check_clips(sources, seq, factor=factor)
  per_row = [row_lib.records_per_row(source, seq) for source in sources]
  mixed = mixture.mix(sources, per_row=per_row, seed=seed)
  read = ReadClips(tuple(sources), seq, seed)
  return mixture.share(mixed, batch=batch, host=host, hosts=hosts).map(read)


def frames_stream(
  sources: Sequence[Source], *, seed: int, batch: int, host: int, hosts: int
) -> grain.MapDataset:
  """Like `mixture.stream`, for pixels: one random frame of each record drawn.

  Returns:
    Endless random access to {"frames": uint8 [batch / hosts, H, W, 3]}.
  """
  check_frames(sources)
  mixed = mixture.mix(sources, per_row=[1] * len(sources), seed=seed)
  read = ReadFrames(tuple(sources), seed)
  return mixture.share(mixed, batch=batch, host=host, hosts=hosts).map(read)


def check_frames(sources: Sequence[Source]) -> None:
  """Raises ValueError unless all are pixel data sets of one frame size."""
  row_lib.check_names(sources)
  for source in sources:
    row_lib.check_field(source, "frames")
  sizes = {source.name: source.store.manifest.size_px for source in sources}
  if len(set(sizes.values())) != 1:
    raise ValueError(f"frames differ in size (pixels): {sizes}; make them equal")


def check_clips(sources: Sequence[Source], seq: sequence.SequenceSpec, *, factor: int) -> None:
  """Raises ValueError unless clips of pixels become the sequence's tokens."""
  check_frames(sources)
  for source in sources:
    size_px = source.store.manifest.size_px
    if size_px != seq.grid * factor:
      raise ValueError(
        f"{source} has frames of {size_px} pixels; {seq.grid} tokens of {factor} pixels need"
        f" {seq.grid * factor}"
      )
  for reason in row_lib.mismatches(sources, seq, ("frames",)):
    raise ValueError(reason)


@dataclasses.dataclass(frozen=True)
class ReadClips:
  """Rows of draws to whole clips of pixels, for a tokenizer on the device.

  {"frames": uint8 [B, N, S, S, 3], "start": int32 [B], "source": int32 [B]}:
  the windows that `rows.ReadTokens` takes of the same draws. For rows that may be
  short, as those of validation are, "here": int32 [B] says how many of the
  frames are there; the others are black.
  """

  sources: tuple[Source, ...]
  seq: sequence.SequenceSpec
  seed: int
  short: bool = False

  def __call__(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
    picked = row_lib.read_draws(self.sources, rows, self._window)
    here = {}
    if self.short:
      size = self.sources[0].store.manifest.size_px
      none = np.zeros((self.seq.frames, size, size, 3), np.uint8)
      counts = [sum(map(len, frames)) for frames in picked]
      here = {"here": np.array(counts, np.int32)}
      picked = [[*frames, none[count:]] for frames, count in zip(picked, counts)]
    starts = [sequence.START[self.sources[row.source].store.manifest.kind] for row in rows]
    return {
      "frames": np.stack([np.concatenate(frames) for frames in picked]),
      "start": np.array(starts, np.int32),
      **here,
      "source": np.array([row.source for row in rows], np.int32),
    }

  def _window(self, source: int, draw: Draw, record: Mapping[str, np.ndarray]) -> np.ndarray:
    return row_lib.cut(record["frames"], draw, source=source, seq=self.seq, seed=self.seed)


@dataclasses.dataclass(frozen=True)
class ReadFrames:
  """Rows of draws to {"frames": [B, H, W, 3]}."""

  sources: tuple[Source, ...]
  seed: int

  def __call__(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
    picked = row_lib.read_draws(self.sources, rows, self._frame)
    return {"frames": np.stack([frames[0] for frames in picked])}

  def _frame(self, source: int, draw: Draw, record: Mapping[str, np.ndarray]) -> np.ndarray:
    frames = record["frames"]
    return frames[row_lib.window(draw, source=source, seed=self.seed, choices=len(frames))]
