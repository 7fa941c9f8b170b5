"""Small data sets of random codes for the tests of data/."""

import json
import pathlib

import numpy as np

from totojax import sequence
from totojax.data.store import certificates, manifests, shards, store as store_lib
from totojax.data.store.store import Store
from totojax.data.stream import rows

VOCAB, GRID, FRAMES = 64, 2, 4
SEQ = sequence.SequenceSpec(vocab=VOCAB, grid=GRID, frames=FRAMES, context=16, segments=False)


def manifest(**changes):
  values = dict(
    kind="video",
    tokenizer="0123456789abcdef",
    vocab=VOCAB,
    grid=GRID,
    frames=FRAMES,
    size_px=16,
    stride_frames=4,
    fps=30.0,
    crops=1,
    labels=True,
    ids=True,
    classes=("left", "right"),
    records_per_shard=8,
    info={"job": "test"},
  )
  values.update(changes)
  if "fields" not in values:
    field = manifests.token_field(
      frames=values["frames"], grid=values["grid"], vocab=values["vocab"]
    )
    values["fields"] = (field,)
  return manifests.new(**values)


def codes(first, count, *, frames=FRAMES, salt=0):
  """Codes [count, frames * 4] that tell their record and frame.

  Each record starts with the two digits of its number in base 64, and each
  frame ends with its own number.
  """
  records = np.arange(first, first + count)
  codes_RNP = np.zeros((count, frames, GRID * GRID), np.int64)
  codes_RNP[:, :, 0] = (records // VOCAB)[:, None]
  codes_RNP[:, :, 1] = (records % VOCAB)[:, None]
  codes_RNP[:, :, 2] = salt
  codes_RNP[:, :, 3] = np.arange(frames)
  return codes_RNP.reshape(count, -1)


def fill(writer, records, *, salt=0, step=3, prefix="item", stop=None):
  """Appends from the writer's cursor on, `step` records at a time.

  Raises RuntimeError before the append of record `stop`.
  """
  frames = writer.manifest.frames
  for first in range(writer.cursor or 0, records, step):
    if stop is not None and first >= stop:
      raise RuntimeError("the job stops here")
    count = min(step, records - first)
    numbers = range(first, first + count)
    writer.append(
      {"codes": codes(first, count, frames=frames, salt=salt)},
      labels=[i % 3 - 1 for i in numbers],
      ids=[f"{prefix}/{i}" for i in numbers],
      cursor=first + count,
    )


def write(path, records, *, salt=0, prefix="item", **changes):
  """A whole data set of `records` records, opened."""
  writer = shards.Writer(path, manifest(**changes))
  fill(writer, records, salt=salt, prefix=prefix)
  writer.close()
  return store_lib.open_store(path, tokenizer=None, vocab=None, grid=None)


def source(path, records, *, weight=1.0, **changes):
  name = path.name
  return rows.Source(name, write(path, records, prefix=name, **changes), weight)


def proven(train, held_out):
  """Whether the held-out folder has the proof that it shares no id."""
  file = pathlib.Path(held_out) / certificates.FILE
  if not file.exists():
    return False
  value = json.loads(file.read_text())
  digest = lambda path: certificates.digest(Store(path, manifests.load(path)))
  assert value["ids"] == digest(held_out)
  return digest(train) in value["shares_nothing_with"]


def record_of(codes_P):
  """The record number that the codes of a frame tell."""
  return int(codes_P[0]) * VOCAB + int(codes_P[1])
