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


def some_frames(source: Store, frames: int, *, clip: int = 0, every: int = 1) -> np.ndarray:
  """About `frames` frames, evenly from all records: uint8 [M, H, W, 3].

  Of every so many frames the first alone counts (`tokenizing.every`). With
  `clip` the first so many of records, [M, clip, H, W, 3], whose last frame is
  held where they are shorter.
  """
  if clip:
    count = min(len(source), -(-frames // clip))
    chosen = np.linspace(0, len(source) - 1, count).astype(int)
    clips = source.read(chosen)["frames"]
    return clips[:, np.minimum(np.arange(clip), clips.shape[1] - 1)]
  records = min(len(source), frames)
  chosen, places = some_places(source, records, -(-frames // records), every=every)
  return np.concatenate(source.read(chosen)["frames"][:, ::every][:, places])[:frames]


def some_places(
  source: Store, records: int, frames: int, *, every: int = 1
) -> tuple[np.ndarray, np.ndarray]:
  """So many records, and so many frames of each or all, evenly: of pixels or their codes."""
  length = -(-source.manifest.pixel_frames // every)
  chosen = np.linspace(0, len(source) - 1, records).astype(int)
  return chosen, np.linspace(0, length - 1, min(frames, length)).astype(int)


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
  sources: Sequence[Source], *, seed: int, batch: int, host: int, hosts: int, clip: int = 0
) -> grain.MapDataset:
  """Like `mixture.stream`, for pixels: one random frame of each record drawn.

  With `clip` so many frames that follow each other, in place of one; the last
  of a record that is shorter is held.

  Returns:
    Endless random access to {"frames": uint8 [batch / hosts, H, W, 3]}, with
    `clip` [batch / hosts, clip, H, W, 3].
  """
  check_frames(sources)
  mixed = mixture.mix(sources, per_row=[1] * len(sources), seed=seed)
  read = ReadFrames(tuple(sources), seed, clip)
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
    if seq.latents.is_temporal and source.store.manifest.kind == "image":
      raise ValueError(
        f"{source} is of images, and a token of data.encode_with stands for"
        f" {seq.frame_factor} frames: make tokens of them first (configs/tokenize.py)"
      )
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
  latent frames are there; the others are black.
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
      none = np.zeros((self.seq.clip_frames, size, size, 3), np.uint8)
      counts = [sum(map(len, frames)) for frames in picked]
      latent = [count and self.seq.latents.latent_frames(count) for count in counts]
      here = {"here": np.array(latent, np.int32)}
      picked = [[*frames, none[count:]] for frames, count in zip(picked, counts)]
    starts = [sequence.START[self.sources[row.source].store.manifest.kind] for row in rows]
    return {
      "frames": np.stack([np.concatenate(frames) for frames in picked]),
      "start": np.array(starts, np.int32),
      **here,
      "source": np.array([row.source for row in rows], np.int32),
    }

  def _window(self, source: int, draw: Draw, record: Mapping[str, np.ndarray]) -> np.ndarray:
    frames = record["frames"]
    if not self.seq.latents.is_temporal:
      return row_lib.cut(frames, draw, source=source, seq=self.seq, seed=self.seed)
    # As a store of its tokens would have it: from the first frame on, and with
    # the last one again where a latent frame is not full.
    places = np.minimum(np.arange(self.seq.clip_frames), len(frames) - 1)
    return frames[places]


@dataclasses.dataclass(frozen=True)
class ReadFrames:
  """Rows of draws to {"frames": [B, H, W, 3]}, or of clips [B, N, H, W, 3]."""

  sources: tuple[Source, ...]
  seed: int
  clip: int = 0  # frames of a clip; 0: single frames

  def __call__(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
    picked = row_lib.read_draws(self.sources, rows, self._frame)
    return {"frames": np.stack([frames[0] for frames in picked])}

  def _frame(self, source: int, draw: Draw, record: Mapping[str, np.ndarray]) -> np.ndarray:
    frames, count = record["frames"], max(self.clip, 1)
    choices = max(1, len(frames) - count + 1)
    start = row_lib.window(draw, source=source, seed=self.seed, choices=choices)
    if not self.clip:
      return frames[start]
    return frames[np.minimum(np.arange(start, start + count), len(frames) - 1)]
