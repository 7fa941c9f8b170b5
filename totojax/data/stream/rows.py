"""Rows: which records one holds, and how they are read and put together.

Shapes: B rows of a batch, R tokens of a row (context + 1), N frames,
P tokens of a frame.
"""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from totojax import sequence
from totojax.data.store import manifests
from totojax.data.store.store import Store


@dataclasses.dataclass(frozen=True)
class Source:
  """A data set and its share of the rows (any positive number)."""

  name: str
  store: Store
  weight: float

  def __str__(self) -> str:
    return f"source {self.name!r} ({self.store.path})"


def identities(**sections: Sequence[Source]) -> dict[str, dict[str, Any]]:
  """ "data.SECTION.NAME" -> what stands for the source's records in a run."""
  return {
    f"data.{section}.{source.name}": source.store.manifest.identity
    for section, sources in sections.items()
    for source in sources
  }


@dataclasses.dataclass(frozen=True)
class Draw:
  """One record, in one epoch; epoch None is the fixed window of validation."""

  record: int
  epoch: int | None


@dataclasses.dataclass(frozen=True)
class Row:
  """What one row is made of: one video, or the images packed into it."""

  source: int
  draws: tuple[Draw, ...]


def order(*, source: int, seed: int) -> int:
  """Seed of a source's orders, to which grain adds the epoch.

  Hashed, or epoch 1 of one seed would be epoch 0 of the next, and sources of
  equal length would be visited in the same order.
  """
  return int(np.random.SeedSequence([seed, source]).generate_state(1)[0])


# Keys of a sequence that are the tokenizer's, beside vocab and grid.
LATENTS = ("codes", "frame_factor", "first_frames")
# All that stores of tokens decide.
SIZES = ("vocab", "grid", *LATENTS, "frames")


def window(draw: Draw, *, source: int, seed: int, choices: int) -> int:
  """The first frame of the window, in 0..choices-1, for one draw."""
  if choices == 1 or draw.epoch is None:
    return 0
  # A generator of its own: no matter which host or worker reads it, or when.
  key = [seed, source, draw.record, draw.epoch]
  return int(np.random.default_rng(key).integers(choices))


def check_tokens(sources: Sequence[Source], seq: sequence.SequenceSpec) -> None:
  """Raises ValueError unless the data sets fit the sequence and each other."""
  check_names(sources)
  for source in sources:
    check_field(source, "codes")
  for reason in mismatches(sources, seq, SIZES):
    raise ValueError(reason)
  prints = {source.name: source.store.manifest.tokenizer for source in sources}
  if len(set(prints.values())) != 1:
    raise ValueError(
      f"sources come from different tokenizers: {prints}; their codes mean"
      " different things. Make them with one tokenizer"
    )


def check_names(sources: Sequence[Source]) -> None:
  names = [source.name for source in sources]
  if not names or len(set(names)) != len(names):
    raise ValueError(f"sources are named {names}; name at least one, each once")


def check_field(source: Source, name: str) -> None:
  fields = [field.name for field in source.store.manifest.fields]
  if fields != [name]:
    raise ValueError(f"{source} holds {fields}; this stream reads {name!r}")


def mismatches(
  sources: Sequence[Source], seq: sequence.SequenceSpec, keys: Sequence[str]
) -> Iterator[str]:
  """Where some keys of the sequence are others than those of a data set, in words."""
  for source in sources:
    manifest = source.store.manifest
    for key in ("vocab", "grid"):
      if key in keys and getattr(manifest, key) != getattr(seq, key):
        has = f"{key} {getattr(manifest, key)}"
        if key == "grid" and not manifest.tokenizer:  # of pixels
          factor = manifest.size_px // manifest.grid
          has += f": frames of {manifest.size_px} pixels; {seq.grid} tokens of {factor} pixels need"
          has += f" {seq.grid * factor}"
        yield f"sequence.{key} is {getattr(seq, key)}, and {source} has {has}"
    for key in LATENTS if manifest.grid else ():
      if key in keys and (has := getattr(manifest.latents, key)) != getattr(seq, key):
        yield f"sequence.{key} is {getattr(seq, key)}, and {source} has tokens of {has}"
    frames = latent_frames(manifest, seq)
    if "frames" in keys and manifest.kind == "video" and frames < seq.frames:
      kind = "latent frames" if seq.latents.is_temporal else "frames"
      yield (
        f"sequence.frames is {seq.frames}, and {source} has {frames} {kind} a record;"
        " lower it, or make longer clips"
      )


def latent_frames(manifest: manifests.Manifest, seq: sequence.SequenceSpec) -> int:
  """Latent frames of a record, also where it holds pixels."""
  if manifest.grid:
    return manifest.frames
  return seq.latents.latent_frames(manifest.frames)


def disagreements(sources: Sequence[Source], keys: Sequence[str]) -> Iterator[str]:
  """The first two data sets that differ in each of some facts, in words."""
  for key in keys:
    facts = [
      (source, getattr(source.store.manifest, key))
      for source in sources
      if key != "frames" or source.store.manifest.kind == "video"
    ]
    facts = [(source, fact) for source, fact in facts if fact]  # pixels have no tokenizer
    for source, fact in facts[1:]:
      first, expected = facts[0]
      if fact != expected:
        yield (
          f"{first} has {key} {expected}, and {source} has {fact}; make all stores of a run with"
          " one tokenizer, from clips of one size and length"
        )
        break


def records_per_row(source: Source, seq: sequence.SequenceSpec) -> int:
  """A video fills a row alone; images fill it together (section 3.4)."""
  return seq.frames if source.store.manifest.kind == "image" else 1


def read_draws(
  sources: Sequence[Source],
  rows: Sequence[Row],
  pick: Callable[[int, Draw, Mapping[str, np.ndarray]], np.ndarray],
) -> list[list[np.ndarray]]:
  """What `pick` takes from the records of each row, one read per source."""
  # A read has its requests in flight together: one a source, not one a record.
  wanted = collections.defaultdict(list)
  for r, row in enumerate(rows):
    wanted[row.source].extend((r, draw) for draw in row.draws)
  picked = [[] for _ in rows]
  for s, places in wanted.items():
    values = sources[s].store.read([draw.record for _, draw in places])
    for i, (r, draw) in enumerate(places):
      record = {name: x[i] for name, x in values.items()}
      picked[r].append(pick(s, draw, record))
  return picked


@dataclasses.dataclass(frozen=True)
class ReadTokens:
  """Rows of draws to {"tokens": [B, R], "source": [B]}."""

  sources: tuple[Source, ...]
  seq: sequence.SequenceSpec
  seed: int

  def __call__(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
    picked = read_draws(self.sources, rows, self._window)
    tokens_BR = np.full((len(rows), self.seq.row_tokens), sequence.PAD, np.int32)
    for b, (row, frames) in enumerate(zip(rows, picked)):
      if frames:  # a row without is padding of validation, and stays PAD
        tokens_BR[b] = self._tokens(row.source, np.concatenate(frames))
    source_B = np.array([row.source for row in rows], np.int32)
    return {"tokens": tokens_BR, "source": source_B}

  def _window(self, source: int, draw: Draw, record: Mapping[str, np.ndarray]) -> np.ndarray:
    """Codes [N, P] of the record's window; one frame of an image."""
    codes_NP = record["codes"].reshape(-1, self.seq.frame_tokens)
    return cut(codes_NP, draw, source=source, seq=self.seq, seed=self.seed)

  def _tokens(self, source: int, codes_NP: np.ndarray) -> np.ndarray:
    """One row; images that are missing at the end of a data set are padding."""
    kind = self.sources[source].store.manifest.kind
    missing = self.seq.frames - len(codes_NP)
    # `build` takes whole sequences: any codes do, since PAD goes over them.
    if missing:
      codes_NP = np.pad(codes_NP, ((0, missing), (0, 0)))
    row_R = sequence.build(codes_NP, kind=kind, spec=self.seq)
    if missing:
      row_R[1 + (self.seq.frames - missing) * self.seq.frame_tokens :] = sequence.PAD
    return row_R


def cut(
  frames: np.ndarray, draw: Draw, *, source: int, seq: sequence.SequenceSpec, seed: int
) -> np.ndarray:
  """The drawn window of a record's latent frames; one frame of an image.

  It begins with the record where the first latent frame is of another kind than
  the others: nothing could be decoded from the middle on.
  """
  # Neighbours in the store, whose stride is the clip's (section 3.4) already.
  length = min(seq.frames, len(frames))
  choices = 1 if seq.latents.has_start else len(frames) - length + 1
  start = window(draw, source=source, seed=seed, choices=choices)
  return frames[start : start + length]
