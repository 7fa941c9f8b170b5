"""Loss by position, frame, row and code of a place, as CSV: what Figure 10 is drawn of."""

from collections.abc import Mapping

from etils import epath
import numpy as np

from totojax import sequence
from totojax.evals import val_loss
from totojax.rundir import files


def write(
  workdir: epath.Path, losses: Mapping[str, val_loss.PositionLoss], spec: sequence.SequenceSpec
) -> None:
  """Writes a CSV per position (Figure 10), one per frame and one per row.

  Of several codes of a place the first says which, and there is one per code.
  Frames are latent ones; where these hold several frames, the second says which:
  the first and the last, from 0.
  """
  several = ["code"] if spec.codes > 1 else []
  for kind in ("position", "frame", "row", *several):
    rows = []
    more = []
    if kind == "position":
      more = ["frame", "row", "col", *several]
    elif kind == "frame" and spec.latents.is_temporal:
      more = ["first_frame", "last_frame"]
    for name, loss in losses.items():
      position_T = np.arange(len(loss.count_T))
      frame_T, row_T, _, code_T = locate(position_T, spec.grid, spec.codes)
      groups = {"position": position_T, "frame": frame_T, "row": row_T, "code": code_T}
      for place, mean, sem, n in loss.groups(groups[kind]):
        where = ()
        if kind == "position":
          where = locate(np.int64(place), spec.grid, spec.codes)
        elif more:
          first, stop = spec.latents.span(place)
          where = (first, stop - 1)
        where = [int(value) for value in where[: len(more)]]
        rows.append([name, place, *where, f"{mean:.6f}", f"{sem:.6f}", n])
    files.write_table(
      workdir / f"{kind}_loss.csv", rows, header=["source", kind, *more, "mean", "sem", "n"]
    )


def locate(
  position: np.ndarray | np.integer, grid: int, codes: int = 1
) -> tuple[np.ndarray | np.integer, ...]:
  """(frame, row, column, code) of target position p, which predicts x_{p+1}.

  All from 0; the frame is a latent one, the code one of `codes` of its place.
  """
  place, code = np.divmod(position, codes)
  frame, place = np.divmod(place, grid * grid)
  row, column = np.divmod(place, grid)
  return frame, row, column, code
