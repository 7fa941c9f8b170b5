"""Validation loss: nats per visual token, and the loss at every position.

The paper's Figure 10 is the second. Sums are taken on the devices over the
global batch and added up in float64 on the host, so that padding, batch size
and the number of hosts change nothing but rounding.

Shapes: B rows, T target positions, G grid side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
import csv
import dataclasses
import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from totojax import sequence

Sums = Mapping[str, jax.Array]


def batch_sums(nll_BT: jax.Array, visual_BT: jax.Array) -> Sums:
  """What one batch adds: per position and per row, of visual targets only."""
  nll_BT = jnp.where(visual_BT, nll_BT, 0.0)
  counted_BT = visual_BT.astype(jnp.float32)
  return {
      "sum_T": nll_BT.sum(0),
      "square_T": jnp.square(nll_BT).sum(0),
      "count_T": counted_BT.sum(0),
      "sum_B": nll_BT.sum(1),
      "count_B": counted_BT.sum(1),
  }


@dataclasses.dataclass
class PositionLoss:
  """Sums over all validation rows of one source, in float64.

  Attributes:
    sum_T: nats at each target position.
    square_T: squared nats.
    count_T: rows that have a visual target there.
    row_means: nats per visual token of each row.
  """

  sum_T: np.ndarray
  square_T: np.ndarray
  count_T: np.ndarray
  row_means: list[float]

  @classmethod
  def of(cls, parts: Iterable[Sums]) -> PositionLoss:
    """Adds up the batches of a source.

    Raises:
      ValueError: there is no visual token in any of them.
    """
    totals, row_means = None, []
    for part in parts:
      part = {k: np.asarray(v, np.float64) for k, v in part.items()}
      real = part["count_B"] > 0  # rows of padding count nothing
      row_means.extend(part["sum_B"][real] / part["count_B"][real])
      sums = np.stack([part["sum_T"], part["square_T"], part["count_T"]])
      totals = sums if totals is None else totals + sums
    if not row_means:
      raise ValueError("no validation row has a visual token; add data")
    return cls(*totals, row_means)

  @property
  def loss(self) -> float:
    """Nats per visual token."""
    return float(self.sum_T.sum() / self.count_T.sum())

  @property
  def loss_sem(self) -> float:
    """Standard error over rows (sequences are the independent units)."""
    n = len(self.row_means)
    return float(np.std(self.row_means, ddof=1) / np.sqrt(n)) if n > 1 else 0.0

  def by(self, group_T: np.ndarray) -> list[tuple[int, float, float, int]]:
    """(group, mean, standard error, tokens) of positions grouped by a number.

    The standard error takes tokens as independent, which neighbours are not: it
    is a lower bound.
    """
    rows = []
    for group in np.unique(group_T):
      at = group_T == group
      n = self.count_T[at].sum()
      if not n:
        continue
      mean = self.sum_T[at].sum() / n
      variance = max(self.square_T[at].sum() / n - mean**2, 0.0)
      sem = np.sqrt(variance / max(n - 1, 1))
      rows.append((int(group), float(mean), float(sem), int(n)))
    return rows


def evaluate(
    sums: Callable[[Any, Mapping[str, np.ndarray]], Sums],
    params: Any,
    sources: Mapping[str, Iterable[Mapping[str, np.ndarray]]],
) -> Iterator[tuple[str, PositionLoss]]:
  """(source, its loss) for every validation source.

  Args:
    sums: (params, this host's rows) -> `batch_sums` of the global batch, the
      same on every host.
    params: of the model.
    sources: finite batches of each source.
  """
  for name, batches in sources.items():
    yield name, PositionLoss.of(sums(params, batch) for batch in batches)


def scalars(
    losses: Iterable[tuple[str, PositionLoss]],
) -> Iterator[tuple[str, float]]:
  """(name, value) pairs for the log: loss, standard error and n a source."""
  for name, loss in losses:
    yield f"{name}/loss", loss.loss
    yield f"{name}/loss_sem", loss.loss_sem
    yield f"{name}/n", len(loss.row_means)


def tables(
    losses: Mapping[str, PositionLoss], spec: sequence.SequenceSpec
) -> dict[str, str]:
  """CSV texts by file name: per position (Figure 10), per frame, per row."""
  kinds = ("position", "frame", "row")
  files = {}
  for kind in kinds:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    places = ["frame", "row", "col"] if kind == "position" else []
    writer.writerow(["source", kind, *places, "mean", "sem", "n"])
    for name, loss in losses.items():
      position_T = np.arange(len(loss.count_T))
      frame_T, row_T, _ = sequence.locate(position_T, spec.grid)
      group = {"position": position_T, "frame": frame_T, "row": row_T}[kind]
      for at, mean, sem, n in loss.by(group):
        where = sequence.locate(np.int64(at), spec.grid) if places else ()
        writer.writerow(
            [name, at, *map(int, where), f"{mean:.6f}", f"{sem:.6f}", n]
        )
    files[f"{kind}_loss.csv"] = text.getvalue()
  return files
