"""The page of `run = "curves"`: how runs learn, over tokens (Figure 2).

Reads the run directory alone.
"""

import functools

import numpy as np

from totojax.report import page, plots, reading


def drawing(folder: reading.RunFolder) -> plots.Draw:
  """Loss over tokens, a curve a run; the paper's ends are dashed."""
  table = folder.table("curves.csv", by="run")
  plain = plots.lines(
    {name: (t["tokens"], t["loss"]) for name, t in table.items()},
    look={"lw": 1.3},
    xlabel="training tokens",
    ylabel="training loss (nats per token)",
    xlim=(0, None),
  )

  def draw(axes, palette):
    plain(axes, palette)
    for t, line in zip(table.values(), list(axes.lines)):
      if np.isfinite(t["printed"][0]):
        level = {"color": line.get_color(), "ls": plots.LEVEL}
        axes.axhline(t["printed"][0], lw=0.9, alpha=0.7, **level)
    axes.xaxis.set_major_formatter(plots.short_ticks())

  return draw


def figure(folder: reading.RunFolder) -> str:
  """Figure 2."""
  caption = (
    "Training loss as it was logged. Dashed: where the paper's curve of the"
    " same name ends, read off its Figure 2."
  )
  label = "Training loss over tokens"
  return plots.figure(drawing(folder), caption, name="curves", label=label)


def ends(folder: reading.RunFolder) -> str:
  """Where each run is."""
  last = {row["run"]: row for row in folder.records("curves.csv")}
  columns = (
    ("run", "{run}"),
    ("parameters", "{parameters:short}"),
    ("tokens", "{tokens:short}"),
    ("loss", "{loss:.3f}"),
    ("the paper's, at its end", "{printed}"),
  )
  return page.records(columns, last.values())


SECTIONS: tuple[page.Section, ...] = (("Training curves", figure), ("Where each run is", ends))
write_report = functools.partial(page.write, about="training curves", sections=SECTIONS)
