"""Held-out data: finite, padded, exact batches, and proof that it is held out.

Shapes: B rows of a host, R tokens of a row (context + 1).
"""

from collections.abc import Sequence
import dataclasses
import itertools

import grain

from totojax import sequence
from totojax.data.store import certificates
from totojax.data.stream import mixture, rows as row_lib
from totojax.data.stream.rows import Source


@dataclasses.dataclass(frozen=True)
class HeldOut(mixture.Finite):
  """The batches of one source on one host; iterates over them.

  Attributes:
    batches: {"tokens": int32 [B, R], "source": int32 [B]} by index, or of
      `rows.ReadClips`; every host has the same number of them.
    rows: real rows in all, over all hosts; any others are padding at the end.
    targets: visual targets in all: what the weights must add up to.
  """

  rows: int
  targets: int


def validation(
  source: Source,
  *,
  seq: sequence.SequenceSpec,
  rows: int,
  batch: int,
  host: int,
  hosts: int,
  factor: int = 0,
) -> HeldOut:
  """A source once, in order: the first frames of every record.

  Images fill rows in order; the last row may hold fewer. Rows beyond the end
  are all PAD, which is no visual token and so has no weight. The rows are the
  same for any number of hosts.

  Args:
    source: a token data set; its weight counts nothing.
    seq: the sequence.
    rows: how many rows, spread evenly over the data set; 0 for all.
    batch: rows of the global batch.
    host, hosts: which host this is, of how many.
    factor: pixels of a side of a token, where the source is of pixels.

  Raises:
    ValueError: as `mixture.stream` does.
  """
  if factor:
    row_lib.check_clips([source], seq, factor=factor)
  else:
    row_lib.check_tokens([source], seq)
  records, per_row = len(source.store), row_lib.records_per_row(source, seq)
  # Every record once, in order; the last row may hold fewer.
  plans = [
    row_lib.Row(0, tuple(row_lib.Draw(i, None) for i in range(n, min(n + per_row, records))))
    for n in range(0, records, per_row)
  ]
  if 0 < rows < len(plans):
    plans = [plans[i * len(plans) // rows] for i in range(rows)]
  targets = [seq.frame_tokens * seq.frames * len(plan.draws) // per_row for plan in plans]
  padding = [row_lib.Row(0, ())] * (-len(plans) % batch)
  ds = grain.MapDataset.source([*plans, *padding])
  # No window is drawn here, so the seed decides nothing.
  read = row_lib.ReadTokens((source,), seq, seed=0)
  if factor:
    read = row_lib.ReadClips((source,), seq, seed=0, short=True)
  return HeldOut(
    rows=len(plans),
    targets=sum(min(n, seq.context) for n in targets),
    batches=mixture.share(ds, batch=batch, host=host, hosts=hosts).map(read),
  )


def check_disjoint(train: Sequence[Source], held_out: Sequence[Source]) -> None:
  """Raises ValueError if a held-out item is in a training source, or may be.

  Items are compared by id over all sources, so ids must be unique over data
  sets ("k400/abc"), and each source must have them. Two sources are compared
  once: the held-out one then has a certificate (`certificates`), and a start
  reads no id. Every host looks by itself, so that none waits for one that has
  found an item.
  """
  for source in (*train, *held_out):
    if not source.store.manifest.ids:
      raise ValueError(
        f"{source} has no ids, so nobody can say whether validation and training share records;"
        " make it with ids"
      )
  for source, other in itertools.product(train, held_out):
    overlap = certificates.check(source.store, other.store)
    if overlap is not None:
      item, count = overlap
      raise ValueError(
        f"item {item!r} is in training source {source.name!r} and in validation source"
        f" {other.name!r} ({count} such items); make one of them without these"
        " (--config.source.exclude)"
        " or, where other files below two folders have the same names, one of them again with"
        " ids of its own (--config.source.prefix=test), or both out of the folder"
        """ above (--config.source.root=ABOVE --config.source.splits="('train','test')")"""
      )
