"""The page of `run = "curves"`: how runs learn, over tokens (Figure 2).

Reads the run directory alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from etils import epath
import numpy as np

from totojax.report import page, plots, reading
from totojax.rundir import console


def write_report(workdir: epath.PathLike) -> epath.Path:
  """Writes `report.html` beside the curves and returns its path."""
  return page.write(workdir, about="training curves", sections=SECTIONS)


def drawing(folder: reading.Folder) -> plots.Draw:
  """Loss over tokens, a curve a run; the paper's ends are dashed."""
  rows = folder.records("curves.csv")
  names = list(dict.fromkeys(row["run"] for row in rows))

  def draw(axes, palette):
    colours = len(palette.series)
    for i, name in enumerate(names):
      run_rows = [row for row in rows if row["run"] == name]
      colour = palette.series[i % colours]
      axes.plot(
        np.array([float(row["tokens"]) for row in run_rows]),
        np.array([float(row["loss"]) for row in run_rows]),
        color=colour,
        lw=1.3,
        label=name,
        ls=plots.LINES[i // colours % len(plots.LINES)],
      )
      if run_rows[0]["printed"]:
        axes.axhline(float(run_rows[0]["printed"]), color=colour, lw=0.9, ls=(0, (4, 3)), alpha=0.7)
    axes.set_xlabel("training tokens")
    axes.set_ylabel("training loss (nats per token)")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(plots.short_ticks())
    axes.legend(frameon=False, labelcolor=palette.ink)

  return draw


def figure(folder: reading.Folder) -> str:
  """Figure 2."""
  drawn = plots.html(drawing(folder), name="curves", label="Training loss over tokens")
  return page.figure(
    drawn,
    "Training loss as it was logged. Dashed: where the paper's curve of the"
    " same name ends, read off its Figure 2.",
  )


def ends(folder: reading.Folder) -> str:
  """Where each run is."""
  last = {row["run"]: row for row in folder.records("curves.csv")}
  rows = [
    (
      name,
      console.short(float(row["parameters"])),
      console.short(float(row["tokens"])),
      f"{float(row['loss']):.3f}",
      row["printed"] or "-",
    )
    for name, row in last.items()
  ]
  head = ("run", "parameters", "tokens", "loss", "the paper's, at its end")
  return page.table(head, rows)


SECTIONS: Sequence = (("Training curves", figure), ("Where each run is", ends))
