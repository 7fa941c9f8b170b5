"""The page of `run = "curves"`: how runs learn, over tokens (Figure 2).

Reads the run directory alone.
"""

from collections.abc import Iterable, Mapping
import math
from typing import Any

import numpy as np

from totojax.report import frame, page, plots, reading, verdict

FILE = "validation.csv"  # run, source, step, tokens, loss, loss_sem; earlier versions left none


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
  printed = any(row["printed"] for row in folder.records("curves.csv"))
  caption = "Training loss as it was logged."
  if printed:
    caption += " Dashed: where the paper's curve of the same name ends, read off its Figure 2."
  label = "Training loss over tokens"
  out = plots.figure(drawing(folder), caption, name="curves", label=label)
  held = reading.optional({}, folder.records, FILE)
  return out + (held_out(held) if held else "")


def held_out(rows: Iterable[Mapping[str, Any]]) -> str:
  """Held-out losses over tokens, a curve a run and source."""
  curves: dict[str, tuple[list[float], list[float]]] = {}
  rows = list(rows)
  several = len({row["source"] for row in rows}) > 1
  for row in rows:
    name = f"{row['run']}, {row['source']}" if several else row["run"]
    x, y = curves.setdefault(name, ([], []))
    x.append(float(row["tokens"]))
    y.append(float(row["loss"]))
  plain = plots.lines(
    curves,
    look={"lw": 1.3, "marker": "o", "ms": 3},
    xlabel="training tokens",
    ylabel="held-out loss (nats per token)",
    xlim=(0, None),
  )

  def draw(axes, palette):
    plain(axes, palette)
    axes.xaxis.set_major_formatter(plots.short_ticks())

  caption = "Loss on held-out sequences, of each evaluation."
  return plots.figure(draw, caption, name="held-out", label="Held-out loss over tokens")


def claim(folder: reading.RunFolder) -> frame.Claim:
  """The run that ends lowest: held out, or where nothing was, in training."""
  held = reading.optional([], folder.records, FILE)
  if not held:
    last = list({row["run"]: row for row in folder.records("curves.csv")}.values())
    best = min(last, key=lambda row: float(row["loss"]))
    line = (
      f"{best['run']} ends with the lowest training loss, {float(best['loss']):.3f} nats a token."
    )
    return frame.Claim(line, "nothing was held out: no interval")
  return lowest(held)


def lowest(rows: Iterable[Mapping[str, Any]]) -> frame.Claim:
  """The run that ends lowest on the first source, and how far the next is."""
  rows = list(rows)
  source = rows[0]["source"]
  last = list({row["run"]: row for row in rows if row["source"] == source}.values())
  ranked = sorted(last, key=lambda row: float(row["loss"]))
  best = ranked[0]
  loss = float(best["loss"])
  line = f"{best['run']} ends lowest on held-out {source}, at {loss:.3f} nats per token."
  sem = float(best["loss_sem"] or "nan") if best["loss_sem"] is not None else math.nan
  sure = (
    f"95 % from {loss - verdict.Z * sem:.3f} to {loss + verdict.Z * sem:.3f} over sequences"
    if math.isfinite(sem)
    else verdict.UNKNOWN
  )
  if len(ranked) > 1:
    sure += f"; next {ranked[1]['run']}, {float(ranked[1]['loss']) - loss:.3f} above"
  return frame.Claim(line, f"{sure}. One seed unless names say otherwise.")


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


PAGE = frame.Kind(
  "training curves",
  claim,
  (("Training curves", figure), ("Where each run is", ends)),
  paper=("Figure 2",),
)
