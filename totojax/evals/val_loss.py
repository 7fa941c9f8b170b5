"""Validation loss: nats per visual token, and the loss at every position.

The paper's Figure 10 is the second. Sums are taken on the devices over the
global batch and added up in float64 on the host, so that padding, batch size
and the number of hosts change nothing but rounding.

Shapes: B rows of a batch, M rows in all, T target positions, N frames (latent
ones), G grid side.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
from typing import Any, Self

import chex
import jax
import jax.numpy as jnp
import numpy as np

Sums = Mapping[str, jax.Array]


def batch_sums(nll_BT: jax.Array, visual_BT: jax.Array, *, frame_tokens: int) -> Sums:
  """What one batch adds, of visual targets only.

  Sums over its rows at every position, and sums over each frame of every row,
  from which means over any frames and their errors over rows follow.
  """
  chex.assert_rank(nll_BT, 2)
  chex.assert_equal_shape([nll_BT, visual_BT])
  nll_BT = jnp.where(visual_BT, nll_BT, 0.0)
  counted_BT = visual_BT.astype(jnp.float32)
  rest = -nll_BT.shape[1] % frame_tokens

  def frames(x_BT):
    padded_BT = jnp.pad(x_BT, ((0, 0), (0, rest)))
    return padded_BT.reshape(len(x_BT), -1, frame_tokens).sum(-1)

  return {
    "sum_T": nll_BT.sum(0),
    "square_T": jnp.square(nll_BT).sum(0),
    "count_T": counted_BT.sum(0),
    "sum_BN": frames(nll_BT),
    "count_BN": frames(counted_BT),
  }


@dataclasses.dataclass(frozen=True)
class PositionLoss:
  """Sums over all validation rows of one source, in float64."""

  sum_T: np.ndarray  # nats at each target position
  square_T: np.ndarray  # squared nats
  count_T: np.ndarray  # rows that have a visual target there
  sum_MN: np.ndarray  # nats of each frame of each row
  count_MN: np.ndarray  # visual targets of each frame of each row

  @classmethod
  def total(cls, parts: Iterable[Sums]) -> Self:
    """Adds up the batches of a source; rows of padding count nothing.

    Raises:
      ValueError: there is no visual token in any of them.
    """
    totals, frames = np.zeros(()), []
    for part in parts:
      part = {k: np.asarray(v, np.float64) for k, v in part.items()}
      totals = totals + np.stack([part["sum_T"], part["square_T"], part["count_T"]])
      real = part["count_BN"].sum(1) > 0
      frames.append((part["sum_BN"][real], part["count_BN"][real]))
    if not any(len(count) for _, count in frames):
      raise ValueError("no validation row has a visual token; add data")
    return cls(*totals, *map(np.concatenate, zip(*frames)))

  @property
  def rows(self) -> int:
    """Sequences that hold a visual target."""
    return len(self.sum_MN)

  def mean(self, first_frame: int = 0) -> tuple[float, float]:
    """Nats per visual token from `first_frame` (0 is the first) on.

    Returns:
      The mean over tokens and its standard error over rows, which are the
      independent units (0 for a single row).

    Raises:
      ValueError: no row has a target there.
    """
    sum_M = self.sum_MN[:, first_frame:].sum(1)
    count_M = self.count_MN[:, first_frame:].sum(1)
    real = count_M > 0
    n = int(real.sum())
    if not n:
      raise ValueError(f"no visual target in frame {first_frame} or later")
    row_M = sum_M[real] / count_M[real]
    sem = float(np.std(row_M, ddof=1) / np.sqrt(n)) if n > 1 else 0.0
    return float(sum_M.sum() / count_M.sum()), sem

  def groups(self, group_T: np.ndarray) -> list[tuple[int, float, float, int]]:
    """(group, mean, standard error, tokens) of positions grouped by a number.

    The standard error takes tokens as independent, which neighbours are not: it
    is a lower bound.
    """
    rows = []
    for group in np.unique(group_T):
      inside_T = group_T == group
      n = self.count_T[inside_T].sum()
      if not n:
        continue
      mean = self.sum_T[inside_T].sum() / n
      variance = max(self.square_T[inside_T].sum() / n - mean**2, 0.0)
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
    yield name, PositionLoss.total(sums(params, batch) for batch in batches)


def scalars(losses: Iterable[tuple[str, PositionLoss]]) -> Iterator[tuple[str, float]]:
  """(name, value) pairs for the log: loss, standard error and n a source."""
  for name, loss in losses:
    mean, sem = loss.mean()
    yield f"{name}/loss", mean
    yield f"{name}/loss_sem", sem
    yield f"{name}/n", loss.rows
