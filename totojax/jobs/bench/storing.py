"""Rows `store_write` and `store_read`: shards against memmap and DataLoader.

Shapes: M records, B records of a batch, T tokens of a record.
"""

from collections.abc import Iterator
import pathlib
import shutil

import numpy as np

from totojax import sequence
from totojax.config.bench import StoreBench
from totojax.data.store import manifests, shards, store as store_lib
from totojax.data.store.store import Store
from totojax.data.stream import mixture, rows as rows_lib
from totojax.jobs.bench import measure, peers

# A host of a v5e-256 pod (32 hosts of 8 chips) at half of the peak reads 24
# sequences of 4,096 tokens a second for the 1b model.
NEEDED_PER_S = 24.0
HEADROOM = 100.0
_GRID = 16
_VOCAB = 8192


def rows_written(settings: StoreBench, harness: measure.Harness) -> Iterator[measure.Measurement]:
  """Records per second onto the disk."""
  codes_MT = _codes(settings, harness.seed)
  store, plain = harness.folder / "written", harness.folder / "written.u16"
  yield _row(
    harness,
    settings,
    measure.Side(
      "shards.Writer: checksums, manifest, read back, ids",
      lambda: write_store(store, codes_MT, settings),
      settings.records,
      after=lambda: shutil.rmtree(store),
    ),
    measure.Side(
      "numpy memmap, flushed to the disk at the end",
      lambda: write_memmap(plain, codes_MT, settings.batch),
      settings.records,
      after=plain.unlink,
    ),
    case="",
    compares="writing records, in batches, until they are on disk",
  )


def rows_read(settings: StoreBench, harness: measure.Harness) -> Iterator[measure.Result]:
  """Records per second in random order, from files in the page cache."""
  codes_MT = _codes(settings, harness.seed)
  write_store(harness.folder / "store", codes_MT, settings)
  write_memmap(harness.folder / "store.u16", codes_MT, settings.batch)
  store = store_lib.open_store(harness.folder / "store", tokenizer=None, vocab=None, grid=None)
  memmap_MT = np.memmap(harness.folder / "store.u16", np.uint16, mode="r", shape=codes_MT.shape)
  rng = np.random.default_rng(harness.seed + 1)
  order = rng.integers(0, len(codes_MT), (settings.reads, settings.batch))
  singles = order.reshape(-1)[: settings.singles].tolist()
  # Each gives how many records it read.
  batches = measure.Side(
    "Store.read, a batch at a time",
    lambda: sum(len(store.read(records)["codes"]) for records in order),
  )
  one_by_one = measure.Side(
    "Store[i], one record at a time", lambda: sum(len(store[i]["codes"][:1]) for i in singles)
  )
  stream = _stream(store, settings, harness.seed)
  plain = measure.Side(
    "numpy memmap, a copied batch at a time",
    lambda: sum(len(memmap_MT[records]) for records in order),
  )
  plain_one_by_one = measure.Side(
    "numpy memmap, one copied record at a time",
    lambda: sum(len(np.array(memmap_MT[i])[:1]) for i in singles),
  )

  def row(ours: measure.Side, theirs: measure.Side, case: str) -> measure.Measurement:
    compares = "reading records in random order"
    return _row(harness, settings, ours, theirs, case=case, compares=compares)

  yield row(batches, plain, "batches, against memmap")
  yield row(one_by_one, plain_one_by_one, "single records, against memmap")
  yield row(stream, plain, "the training stream, against memmap")
  try:
    begin = peers.loader(memmap_MT, order.reshape(-1).tolist(), batch=settings.batch)
  except ImportError as reason:
    yield harness.skipped("against DataLoader", reason)
    return
  loader = measure.Side(
    "torch DataLoader over the memmap, no workers", lambda: sum(len(records) for records in begin())
  )
  yield row(batches, loader, "batches, against DataLoader")
  yield row(stream, loader, "the training stream, against DataLoader")


def _stream(store: Store, settings: StoreBench, seed: int) -> measure.Side:
  """Batches as training gets them: mixed, cut, made into sequences."""
  seq = sequence.SequenceSpec(
    vocab=_VOCAB, grid=_GRID, frames=settings.frames, context=settings.tokens, segments=False
  )
  source = rows_lib.Source(name="all", store=store, weight=1.0)
  dataset = mixture.stream([source], seq=seq, seed=seed, batch=settings.batch, host=0, hosts=1)
  batches = mixture.host_batches(dataset, 0, reading=mixture.Reading(workers=0, prefetch=2))
  return measure.Side(
    "the training stream: mixed, cut, made into int32 sequences, two batches ahead",
    lambda: sum(len(next(batches)["tokens"]) for _ in range(settings.reads)),
  )


def _row(
  harness: measure.Harness,
  settings: StoreBench,
  ours: measure.Side,
  theirs: measure.Side,
  *,
  case: str,
  compares: str,
) -> measure.Measurement:
  def goals(rounds: measure.Rounds) -> list[measure.Goal]:
    rate = measure.spread([reading.per_s for reading in rounds.ours]).median
    what = f"times the {NEEDED_PER_S:g} records/s that a host of a v5e-256 pod needs"
    return [measure.Goal(what, rate / NEEDED_PER_S, HEADROOM)]

  return harness.compare(
    ours,
    theirs,
    case=case,
    compares=compares,
    unit="records",
    goals=goals,
    facts=lambda rounds: {
      "records": settings.records,
      "tokens_per_record": settings.tokens,
      "batch": settings.batch,
      "bytes": 2 * settings.records * settings.tokens,
    },
  )


def _codes(settings: StoreBench, seed: int) -> np.ndarray:
  shape = (settings.records, settings.tokens)
  return np.random.default_rng(seed).integers(0, _VOCAB, shape, dtype=np.uint16)


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
