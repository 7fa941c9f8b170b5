"""The stream: from data sets to the global batch of every step.

Which records a batch holds is pure arithmetic on the step: per source
`shuffle(seed).repeat()`, images packed, sources mixed in a fixed cycle, rows
batched per host, and host h of H takes the batches h, h + H, h + 2H, ... So the
global batch at step s is the same for any number of hosts, row for row, and a
run goes on with `ds[s:]`: no state of an iterator is ever saved. Only the last
stage reads, all records of a batch at once.

The cycle gives a host alone a biased subset of the sources: metrics count only
over the global batch.

Shapes: K rows of a cycle.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import fractions
import functools
import math
import sys

from absl import flags
import grain
import numpy as np

from totojax import sequence
from totojax.config.training import Reading
from totojax.data.stream import rows
from totojax.data.stream.rows import Source

MAX_CYCLE = 100_000  # rows after which the mixture repeats


class Cycle(grain.transforms.DatasetSelectionMap):
  """The mixture: a fixed cycle with exactly each source's share.

  Row k comes from the source that is furthest behind its share, so that the
  first n rows hold each source n x share times to within the number of sources.
  (grain's own mix truncates weights such as 3 : 7 to whole per cents of the
  smallest.)
  """

  def __init__(self, weights: Sequence[float]):
    """Raises ValueError for a cycle of more than 100,000 rows."""
    if not weights or not all(0 < w < math.inf for w in weights):
      raise ValueError(f"mixture weights are {list(weights)}; each must be a positive number")
    # As they are written: 0.1 is a tenth, not the binary number next to it.
    exact = [fractions.Fraction(str(weight)) for weight in weights]
    total = sum(exact)
    shares = [weight / total for weight in exact]
    # The shortest cycle in which every source has a whole number of rows. It is
    # fixed, not drawn, so that row k is known without the rows before it.
    length = math.lcm(*(share.denominator for share in shares))
    if length > MAX_CYCLE:
      raise ValueError(
        f"mixture weights {list(weights)} repeat after {length} rows; round"
        f" them so that it is at most {MAX_CYCLE}, for example to per cents"
      )
    self._counts = np.array([int(share * length) for share in shares])
    source_K = np.empty(length, np.int64)
    order_K = np.empty(length, np.int64)  # rows of this source before row k
    visits = np.zeros_like(self._counts)
    for k in range(length):
      # In whole numbers; of equals the first, so the config's order decides.
      source = int(np.argmax((k + 1) * self._counts - visits * length))
      source_K[k], order_K[k] = source, visits[source]
      visits[source] += 1
    self._source_K, self._order_K = source_K, order_K

  def __len__(self) -> int:
    return sys.maxsize  # grain asks; a run ends by its number of steps

  def __getitem__(self, index: int) -> tuple[int, int]:
    """(source, index within the source) of row `index`."""
    cycle, k = divmod(index, len(self._source_K))
    source = int(self._source_K[k])
    return source, cycle * int(self._counts[source]) + int(self._order_K[k])


def stream(
  sources: Sequence[Source],
  *,
  seq: sequence.SequenceSpec,
  seed: int,
  batch: int,
  host: int,
  hosts: int,
) -> grain.MapDataset:
  """Training batches of one host; element s is its part of step s's batch.

  Args:
    sources: token data sets with their weights. A row holds one video, or
      `seq.frames` images.
    seq: the sequence.
    seed: decides order and windows.
    batch: rows of the global batch.
    host, hosts: which host this is, of how many.

  Returns:
    Endless random access to {"tokens": int32 [batch / hosts, context + 1],
    "source": int32 [batch / hosts]}. Concatenated over the hosts in order it is
    the global batch.

  Raises:
    ValueError: for data sets that do not fit the sequence or each other, a bad
      weight, or a batch that the hosts cannot share.
  """
  # Now, in the process that was started: a worker would fail on its first read.
  rows.check_tokens(sources, seq)
  # Mixed, then shared: hosts that each mixed a shard of the records would make
  # another run of another number of hosts. Read last: up to here all is
  # arithmetic, and a resumed run skips its first steps at no cost.
  mixed = mix(sources, per_row=[rows.records_per_row(s, seq) for s in sources], seed=seed)
  read = rows.ReadTokens(tuple(sources), seq, seed)
  return share(mixed, batch=batch, host=host, hosts=hosts).map(read)


@dataclasses.dataclass(frozen=True)
class Finite:
  """The batches of a host, once: by index, or one after the other."""

  batches: grain.MapDataset

  def __len__(self) -> int:
    return len(self.batches)

  def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
    for i in range(len(self)):
      batch = self.batches[i]
      assert batch is not None, "only a filter leaves elements out"
      yield batch


def share(plan: grain.MapDataset, *, batch: int, host: int, hosts: int) -> grain.MapDataset:
  """Batches of rows (lists) of one host; see the top of the file."""
  # Host h has the h-th run of rows of each batch, as its devices do in the
  # batch's sharding: no row goes from host to host.
  rows_here = share_rows(batch, host=host, hosts=hosts)
  parts = plan.batch(rows_here, drop_remainder=True, batch_fn=list)
  return parts[host::hosts]


def share_rows(batch: int, *, host: int, hosts: int) -> int:
  """Rows of a global batch that one host has; raises ValueError if it cannot be cut."""
  if hosts < 1 or not 0 <= host < hosts:
    raise ValueError(f"host {host} of {hosts}; hosts count from 0")
  if batch < 1 or batch % hosts:
    raise ValueError(f"batch {batch} is not divisible by {hosts} hosts; use a multiple of {hosts}")
  return batch // hosts


def host_batches(
  ds: grain.MapDataset, start_step: int, *, reading: Reading
) -> Iterator[dict[str, np.ndarray]]:
  """Batches of `ds` from step `start_step` on; dropping them ends the workers.

  Args:
    ds: from `stream` or `frames_stream`.
    start_step: how many updates have been made: the first batch is for the
      next one.
    reading: how they are made ahead.
  """
  if start_step < 0:
    raise ValueError(f"start_step is {start_step}; it must not be negative")
  batches = ds[start_step:].to_iter_dataset(
    grain.ReadOptions(num_threads=min(reading.prefetch, 2), prefetch_buffer_size=reading.prefetch)
  )
  if reading.workers:
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # grain hands them to its workers
    batches = batches.mp_prefetch(
      grain.MultiprocessingOptions(
        num_workers=reading.workers, per_worker_buffer_size=max(reading.prefetch, 1)
      )
    )
  return _closing(batches)


def _closing(batches: grain.IterDataset) -> Iterator[dict[str, np.ndarray]]:
  """A generator closes what it delegates to, grain's iterator does not."""
  yield from batches


def mix(sources: Sequence[Source], *, per_row: Sequence[int], seed: int) -> grain.MapDataset:
  """The endless rows of all sources, as plans (`rows.Row`): nothing is read."""
  parts = []
  for index, source in enumerate(sources):
    records = len(source.store)
    order = rows.order(source=index, seed=seed)
    # shuffle before repeat: the other way round samples with replacement.
    draws = grain.MapDataset.range(records).shuffle(order).repeat()
    # The epoch comes from the position, since a record's window depends on it.
    draws = draws.map_with_index(functools.partial(_draw, records))
    parts.append(
      # Endless, so the last images of an epoch share a row with the next's.
      draws.batch(per_row[index], drop_remainder=True, batch_fn=functools.partial(_row, index))
    )
  return grain.MapDataset.select_from_datasets(parts, Cycle([source.weight for source in sources]))


def _draw(records: int, position: int, record: int) -> rows.Draw:
  return rows.Draw(int(record), position // records)


def _row(source: int, draws: Sequence[rows.Draw]) -> rows.Row:
  return rows.Row(source, tuple(draws))


def epochs(
  sources: Sequence[Source], seq: sequence.SequenceSpec, *, total_rows: int
) -> dict[str, float]:
  """How often each record of a source is read in so many rows, by the source's name."""
  shares = total_rows / sum(source.weight for source in sources)
  return {
    source.name: shares
    * source.weight
    / max(source.store.manifest.records // rows.records_per_row(source, seq), 1)
    for source in sources
  }


def in_words(
  sources: Sequence[Source], seq: sequence.SequenceSpec, *, steps: int, batch: int, most: float
) -> Iterator[str]:
  """What a run is about to do with its data, and what it leaves of them.

  Args:
    sources: what it is trained on.
    seq: the sequence.
    steps: of the run.
    batch: rows of the global batch.
    most: epochs of a source, above which a line warns.
  """
  passes, parts = epochs(sources, seq, total_rows=steps * batch), []
  for source in sources:
    manifest = source.store.manifest
    tokens = manifest.records * rows.latent_frames(manifest, seq) * seq.frame_tokens
    parts.append(
      f"{source.name}: {manifest.records:,} records of {tokens:,} tokens in all,"
      f" {passes[source.name]:.3g} epochs"
    )
  yield f"{'; '.join(parts)}; {steps:,} updates of {batch:,} sequences of {seq.context:,} tokens"
  for name, count in passes.items():
    if count > most:
      yield (
        f"{name} is read {count:.3g} times over, more than data.warn_epochs {most:g}: make a store"
        " of more of it (clip.sampling=duration, clip.crops, image.crops), or weigh it less"
      )
  for source in sources:
    frames = rows.latent_frames(source.store.manifest, seq)
    if source.store.manifest.kind == "video" and frames > seq.frames:
      others = "the first ones" if seq.latents.has_start else "others in each epoch"
      yield (
        f"{source.name}: a sequence is {seq.frames} of a record's {frames} frames, {others};"
        f" --config.sequence.frames={frames} reads all"
      )
  if seq.context != seq.visual_tokens:
    rest = seq.context - seq.visual_tokens
    several = f" x {seq.codes}" if seq.codes > 1 else ""
    what = f"{rest:,} inputs of each are its end and padding"
    if rest < 0:
      what = f"the last {-rest:,} of each are never read"
    yield (
      f"sequence.context is {seq.context:,}, and a sequence has {seq.visual_tokens:,} visual"
      f" tokens ({seq.frames} frames of {seq.grid} x {seq.grid}{several}): {what};"
      f" --config.sequence.context={seq.visual_tokens} fits"
    )
