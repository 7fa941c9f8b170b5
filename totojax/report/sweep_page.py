"""The page of `run = "sweep"`: does the best learning rate stay over widths?

Reads the run directory alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from etils import epath

from totojax.report import optimum, page, plots, reading, sweep_plots
from totojax.rundir import console

PAPER = (
  "The paper's Figure 11 has one best rate, 2^-7, for widths 64 to 1,536 with"
  " µP; its base width is not printed, so the number itself need not be ours."
)


def write_report(workdir: epath.PathLike) -> epath.Path:
  """Writes `report.html` into a sweep's directory and returns its path."""
  return page.write(workdir, about="learning rates", sections=SECTIONS)


def headline(folder: reading.Folder) -> str:
  """What became of the optimum, and how much was trained."""
  curves = sweep_plots.read(folder.path)
  claims = optimum.verdict(curves)
  runs = sum(len(curve.x_P) for curve in curves)
  facts = [
    ("runs", f"{runs:,}"),
    ("tokens in all", console.short(sum(curve.tokens * len(curve.x_P) for curve in curves))),
    ("diverged", str(sum(int(row["diverged_at"]) > 0 for row in folder.records("sweep.csv")))),
  ]
  return "".join(page.paragraph(claim, "verdict") for claim in claims) + page.facts(facts)


def figures(folder: reading.Folder) -> str:
  """Figure 11 for each parametrisation."""
  curves = sweep_plots.read(folder.path)
  span = sweep_plots.limits(curves)
  out = []
  for (kind, tokens), group in optimum.by_parametrisation(curves).items():
    name = optimum.NAMES.get(kind, kind)
    drawn = plots.html(
      sweep_plots.by_learning_rate(group, span),
      name=sweep_plots.figure_name(kind, tokens),
      label=f"Loss against learning rate, a curve for each width: {name}",
    )
    out.append(
      page.figure(
        drawn,
        f"{name}, {tokens:.3g} tokens a run. Dots are runs, lines means over"
        " seeds, stars the lowest points of quadratics with their 95 %"
        " intervals. Losses far above the best are off the figure and in"
        " sweep.csv.",
      )
    )
  return "".join(out) + page.paragraph(PAPER, "soft")


def optima(folder: reading.Folder) -> str:
  """The optimum of each width."""
  rows = []
  for group in optimum.by_parametrisation(sweep_plots.read(folder.path)).values():
    for curve in group:
      best = optimum.find(curve)
      fitted = best.why or f"{best.log2_lr:.2f}"
      span = "-" if best.why else f"{best.low:.2f} to {best.high:.2f}"
      loss = "-" if best.loss is None else f"{best.loss:.4f}"
      rows.append(
        (
          optimum.NAMES.get(curve.parametrisation, curve.parametrisation),
          curve.model,
          f"{curve.width:,}",
          console.short(curve.tokens),
          f"{best.grid:g}",
          fitted,
          span,
          loss,
        )
      )
  head = (
    "",
    "model",
    "width",
    "tokens",
    "best tried",
    "optimum (log2)",
    "95 % interval",
    "loss there",
  )
  return page.table(head, rows, words=2)


def everything(folder: reading.Folder) -> str:
  """Every run of sweep.csv."""
  records = folder.records("sweep.csv")
  table = page.table(tuple(records[0]), [tuple(row.values()) for row in records], words=2)
  return page.fold(f"All {len(records):,} runs", table)


SECTIONS: Sequence = (
  ("", headline),
  ("Loss against learning rate", figures),
  ("The best learning rate of each width", optima),
  ("Every run", everything),
)
