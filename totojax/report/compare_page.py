"""The page of a comparison of encoders (`run = "compare"`): one table, one figure."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from totojax.report import frame, page, plots, reading
from totojax.rundir import wording

COLUMNS: tuple[page.Column, ...] = (
  ("encoder", "{encoder}"),
  ("probe", "{probe}"),
  ("measure", "{measure}"),
  ("%", "{score:percent}"),
  ("95 % from", "{low:percent}"),
  ("to", "{high:percent}"),
  ("seeds", "{seeds}"),
  ("layer of each seed", "{layers}"),
  ("normed", "{normed}"),
  ("frames", "{frames}"),
  ("pixels", "{size_px}"),
  ("ms a clip", "{seconds_a_clip:ms}"),
  ("memory, bytes", "{memory_bytes:short}"),
)


def cells(row: Mapping[str, Any]) -> list[str]:
  """What the table shows of a row."""
  return page.cells(COLUMNS, row)


_PROBES = {
  "knn": "nearest neighbours",
  "linear": "a linear probe",
  "attentive": "an attentive probe",
  "blocks": "a probe of blocks",
  "track": "tracking",
}


def _rows(folder: reading.RunFolder) -> list[dict[str, str]]:
  """The table; earlier versions had one measure, and did not name it."""
  return [{"measure": "top-1", "normed": ""} | row for row in folder.records("compare.csv")]


def claim(folder: reading.RunFolder) -> frame.Claim:
  """The best encoder of the first measure."""
  rows = _rows(folder)
  measure = rows[0]["measure"]
  best = max((r for r in rows if r["measure"] == measure), key=lambda row: float(row["score"]))
  probe = _PROBES.get(best["probe"], best["probe"])
  line = f"{best['encoder']} is best, by {probe}: {100 * float(best['score']):.1f} % {measure}"
  if best["majority_top1"]:
    line += f"; always the largest class: {100 * float(best['majority_top1']):.1f} %"
  line += "."
  if not best["low"]:
    return frame.Claim(line, "Interval unknown.")
  ends = f"95 % from {100 * float(best['low']):.1f} to {100 * float(best['high']):.1f} %"
  return frame.Claim(line, f"{ends}, on {wording.counted(int(best['n']), 'item')}.")


def _section(folder: reading.RunFolder) -> str:
  rows = _rows(folder)
  probes = list(dict.fromkeys(row["probe"] for row in rows))
  names = list(dict.fromkeys(row["encoder"] for row in rows))
  measures = list(dict.fromkeys(row["measure"] for row in rows))

  def draw(axes, palette):
    for place, (probe, look) in enumerate(zip(probes, palette.looks())):
      mine = {row["encoder"]: row for row in rows if row["probe"] == probe}
      at = [names.index(name) + 0.12 * (place - (len(probes) - 1) / 2) for name in mine]
      top, low, high = (
        100 * np.array([float(row[key] or row["score"]) for row in mine.values()])
        for key in ("score", "low", "high")
      )
      bars = np.stack([top - low, high - top])
      style = {**look, "ls": "none", "marker": "o", "label": probe}
      plots.points(axes, (np.array(at), top), bars, **style)
    for majority in {row["majority_top1"] for row in rows if row["majority_top1"]}:
      axes.axhline(100 * float(majority), lw=1.0, ls=plots.LEVEL, color=palette.ink, alpha=0.5)
    axes.set(ylabel=f"{' or '.join(measures)}, %", ylim=(0, None))
    axes.set_xticks(range(len(names)), names, rotation=20, ha="right")
    axes.legend(fontsize=8)

  told = []
  for measure in measures:
    n = next(row["n"] for row in rows if row["measure"] == measure)
    told.append(
      f"Top-1 on {n} held-out items of the layer that a hold-out chose, mean over seeds"
      if measure == "top-1"
      else f"{measure} of {wording.counted(int(n), 'sequence')} at the best layer"
    )
  caption = f"{'; '.join(told)}; bars are 95 % intervals; dashed: always the largest class."
  figure = plots.figure(draw, caption, name="compare", label="Encoders by probe")
  note = (
    "Neighbours train nothing and have one seed; nor does tracking, whose time is of a frame, and"
    " whose whole table is in probes/. Time is the median of a forward pass over its"
    " clips; memory is what the process, or the device, held at most while encoding above what it"
    " held before, with the encoder itself."
  )
  table = page.records(COLUMNS, rows, words=3)
  return figure + table + page.paragraph(note, "soft")


PAGE = frame.Kind("encoders compared", claim, (("Encoders compared", _section),), ("Table 7",))
