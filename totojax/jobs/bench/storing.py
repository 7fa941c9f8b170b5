"""Rows `store_write` and `store_read`: shards against memmap and DataLoader.

Shapes: M records, B records of a batch, T tokens of a record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import pathlib
import shutil

import numpy as np

from totojax import sequence
from totojax.config.bench import StoreBench
from totojax.data.store import manifests, shards
from totojax.data.stream import mixture
from totojax.data.stream import rows as rows_lib
from totojax.jobs.bench import measure, peers

# A host of a v5e-256 pod (32 hosts of 8 chips) at half of the peak reads 24
# sequences of 4,096 tokens a second for the 1b model.
NEEDED_PER_S = 24.0
HEADROOM = 100.0
_GRID = 16
_VOCAB = 8192


def measure_store_write(
  settings: StoreBench, *, how: measure.How, folder: pathlib.Path, seed: int
) -> Iterator[measure.Row]:
  """Records per second onto the disk."""
  codes_MT = _codes(settings, seed)
  store, plain = folder / "written", folder / "written.u16"

  def to_store() -> float:
    write_store(store, codes_MT, settings)
    return float(len(codes_MT))

  def to_memmap() -> float:
    write_memmap(plain, codes_MT, settings.batch)
    return float(len(codes_MT))

  ours = measure.Side(
    "shards.Writer: checksums, manifest, read back, ids", to_store, lambda: shutil.rmtree(store)
  )
  theirs = measure.Side("numpy memmap, flushed to the disk at the end", to_memmap, plain.unlink)
  measured = measure.compare(ours, theirs, how=how)
  yield _row(
    "store_write",
    "",
    "writing records, in batches, until they are on disk",
    ours,
    theirs,
    measured,
    settings,
  )


def measure_store_read(
  settings: StoreBench, *, how: measure.How, folder: pathlib.Path, seed: int
) -> Iterator[measure.Row | measure.Skipped]:
  """Records per second in random order, from files in the page cache."""
  codes_MT = _codes(settings, seed)
  write_store(folder / "store", codes_MT, settings)
  write_memmap(folder / "store.u16", codes_MT, settings.batch)
  store = shards.open_store(folder / "store", tokenizer=None, vocab=None, grid=None)
  memmap_MT = np.memmap(folder / "store.u16", np.uint16, mode="r", shape=codes_MT.shape)
  order = np.random.default_rng(seed + 1).integers(
    0, len(codes_MT), (settings.reads, settings.batch)
  )
  singles = order.reshape(-1)[: settings.singles].tolist()

  batches = _side(
    "Store.read, a batch at a time",
    [lambda some=some: len(store.read(some)["codes"]) for some in order],
  )
  one_by_one = _side(
    "Store[i], one record at a time", [lambda i=i: len(store[i]["codes"][:1]) for i in singles]
  )
  plain = _side(
    "numpy memmap, a copied batch at a time",
    [lambda some=some: len(memmap_MT[some]) for some in order],
  )
  plain_one_by_one = _side(
    "numpy memmap, one copied record at a time",
    [lambda i=i: len(np.array(memmap_MT[i])[:1]) for i in singles],
  )
  pairs = [
    ("batches", batches, plain),
    ("single records", one_by_one, plain_one_by_one),
    ("the training stream", _stream(store, settings, seed), plain),
  ]
  for case, ours, theirs in pairs:
    yield _row(
      "store_read",
      f"{case}, against memmap",
      "reading records in random order",
      ours,
      theirs,
      measure.compare(ours, theirs, how=how),
      settings,
    )
  try:
    begin = peers.loader(memmap_MT, order.reshape(-1).tolist(), batch=settings.batch)
  except ImportError as reason:
    yield measure.Skipped("store_read", "against DataLoader", str(reason))
    return
  loader = measure.Side(
    "torch DataLoader over the memmap, no workers",
    lambda: float(sum(len(rows) for rows in begin())),
    measure.nothing,
  )
  for case, ours, _ in (pairs[0], pairs[2]):
    yield _row(
      "store_read",
      f"{case}, against DataLoader",
      "reading records in random order",
      ours,
      loader,
      measure.compare(ours, loader, how=how),
      settings,
    )


def _stream(store, settings: StoreBench, seed: int) -> measure.Side:
  """Batches as training gets them: mixed, cut, made into sequences."""
  seq = sequence.SequenceSpec(
    vocab=_VOCAB, grid=_GRID, frames=settings.frames, context=settings.tokens, segments=False
  )
  dataset = mixture.stream(
    [rows_lib.Source(name="all", store=store, weight=1.0)],
    seq=seq,
    seed=seed,
    batch=settings.batch,
    host=0,
    hosts=1,
  )
  batches = mixture.host_batches(dataset, 0, reading=mixture.Reading(workers=0, prefetch=2))

  def run() -> float:
    return float(sum(len(next(batches)["tokens"]) for _ in range(settings.reads)))

  return measure.Side(
    "the training stream: mixed, cut, made into int32 sequences, two batches ahead",
    run,
    measure.nothing,
  )


def _side(what: str, reads: list[Callable[[], int]]) -> measure.Side:
  return measure.Side(what, lambda: float(sum(read() for read in reads)), measure.nothing)


def _row(
  row: str,
  case: str,
  compares: str,
  ours: measure.Side,
  theirs: measure.Side,
  measured: measure.Comparison,
  settings: StoreBench,
) -> measure.Row:
  rate = measure.spread([reading.per_s for reading in measured.ours]).median
  return measure.Row(
    row=row,
    case=case,
    compares=compares,
    unit="records",
    ours=ours.what,
    theirs=theirs.what,
    measured=measured,
    goals=(
      measure.Goal(
        f"times the {NEEDED_PER_S:g} records/s that a host of a v5e-256 pod needs",
        rate / NEEDED_PER_S,
        HEADROOM,
      ),
    ),
    facts={
      "records": settings.records,
      "tokens_per_record": settings.tokens,
      "batch": settings.batch,
      "bytes": 2 * settings.records * settings.tokens,
    },
  )


def _codes(settings: StoreBench, seed: int) -> np.ndarray:
  return np.random.default_rng(seed).integers(
    0, _VOCAB, (settings.records, settings.tokens), dtype=np.uint16
  )


def write_store(path: pathlib.Path, codes_MT: np.ndarray, settings: StoreBench) -> None:
  """A complete store of these records."""
  writer = shards.Writer(
    path,
    manifests.new(
      kind="video",
      fields=(manifests.token_field(frames=settings.frames, grid=_GRID),),
      tokenizer="0123456789abcdef",
      vocab=_VOCAB,
      grid=_GRID,
      frames=settings.frames,
      size_px=8 * _GRID,
      stride_frames=4,
      fps=30.0,
      crops=1,
      labels=False,
      ids=True,
      classes=(),
      records_per_shard=settings.records_per_shard,
      info={},
    ),
  )
  for start in range(0, len(codes_MT), settings.batch):
    part_BT = codes_MT[start : start + settings.batch]
    ids = [f"record/{start + i}" for i in range(len(part_BT))]
    writer.append({"codes": part_BT}, labels=None, ids=ids, cursor=start + len(part_BT))
  writer.close()


def write_memmap(path: pathlib.Path, codes_MT: np.ndarray, batch: int) -> None:
  """The same records as one plain file."""
  plain_MT = np.memmap(path, np.uint16, mode="w+", shape=codes_MT.shape)
  for start in range(0, len(codes_MT), batch):
    plain_MT[start : start + batch] = codes_MT[start : start + batch]
  plain_MT.flush()
