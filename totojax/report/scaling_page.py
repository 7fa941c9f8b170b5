"""The page of `run = "scaling"`: how the loss falls as compute grows.

Reads the run directory alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
import numpy as np

from totojax.report import page, plots, reading, scaling
from totojax.rundir import console

PAPER = (
  "The paper prints L(C) = 7.32 C^-0.0378 (Figure 9) without the unit of C:"
  " the law meets its own dashed line where C counts a million of the"
  " figure's unit, the MACs of one token times sequences of 4,096, forward"
  " only. GPT-3's (Brown et al., 2020) is of text, in nats per token of"
  " another vocabulary: its slope can be compared, its height cannot."
)


def write_report(workdir: epath.PathLike) -> epath.Path:
  """Writes `report.html` into the directory of a fit and returns its path."""
  return page.write(workdir, about="scaling", sections=SECTIONS)


def verdict(laws: Mapping[str, Any]) -> list[str]:
  """What the fit says, in sentences."""
  law = laws["law"]
  span = ""
  if "b_interval_95" in laws:
    low, high = laws["b_interval_95"]
    span = f" (95 % interval over runs {low:.4f} to {high:.4f})"
  sentences = [
    f"loss falls as compute^-{law['b']:.4f}{span} over"
    f" {laws['decades']:.1f} decades of compute,"
    f" {laws['points']} points of the frontier ({laws['frontier']})"
  ]
  if "law_with_floor" in laws:
    other = laws["law_with_floor"]
    sentences.append(
      f"with an irreducible loss: {other['floor']:.3f} + a compute^-{other['b']:.4f}"
    )
  return sentences + list(laws.get("notes", ()))


def headline(folder: reading.Folder) -> str:
  """The law, beside the paper's and GPT-3's."""
  laws = folder.json("laws.json")
  claim, *more = verdict(laws)
  return (
    page.paragraph(claim[0].upper() + claim[1:] + ".", "verdict")
    + "".join(page.paragraph(line) for line in more)
    + page.facts(
      [
        ("exponent", f"{laws['law']['b']:.4f}"),
        ("of the paper's law", f"{scaling.PAPER.b:.4f}"),
        ("of GPT-3's", f"{scaling.GPT_3.b:.3f}"),
        ("of the variance explained", f"{laws['law']['r2']:.3f}"),
      ]
    )
  )


def drawing(folder: reading.Folder) -> tuple[plots.Draw, int]:
  """Figure 9 of a finished fit, and the number of its runs."""
  runs: dict[str, tuple[list[float], list[float]]] = {}
  front: tuple[list[float], list[float]] = [], []
  for row in folder.records("scaling.csv"):
    point = float(row["macs"]), float(row["loss"])
    for curve in (
      runs.setdefault(row["run"], ([], [])),
      *([front] if int(row["frontier"]) else []),
    ):
      for axis, value in zip(curve, point):
        axis.append(value)
  laws = folder.json("laws.json")
  shown = {"fit": scaling.Law(**laws["law"])}
  if "law_with_floor" in laws:
    floor = laws["law_with_floor"]
    shown[f"fit with a floor of {floor['floor']:.2f}"] = scaling.Law(**floor)
  shown["GPT-3 (text)"] = scaling.GPT_3
  arrays = {name: (np.array(macs), np.array(loss)) for name, (macs, loss) in runs.items()}
  frontier = np.array(front[0]), np.array(front[1])
  return scaling.by_compute(arrays, shown, frontier), len(runs)


def figure(folder: reading.Folder) -> str:
  """Figure 9."""
  draw, runs = drawing(folder)
  drawn = plots.html(draw, name="scaling", label="Loss against compute, a curve for each run")
  return page.figure(
    drawn,
    f"{runs} runs, evaluated as they train; dots are the frontier, the dashed"
    " line is its power law.",
  ) + page.paragraph(PAPER, "soft")


def runs(folder: reading.Folder) -> str:
  """Where each run ended."""
  rows = [
    (
      row["run"],
      console.short(float(row["parameters"])),
      console.short(float(row["tokens"])),
      f"{float(row['macs']):.3g}",
      f"{float(row['pf_days']):.3g}",
      f"{float(row['loss']):.4f}",
      f"{float(row['loss_sem']):.4f}",
    )
    for row in folder.records("scaling.csv")
    if int(row["last"])
  ]
  head = ("run", "parameters", "tokens", "MACs of training", "PF-days", "loss", "standard error")
  return page.table(head, rows)


SECTIONS: Sequence = (
  ("", headline),
  ("Loss against compute", figure),
  ("Where each run ended", runs),
)
