"""The page of `run = "sweep"`: does the best learning rate stay over widths?

Reads the run directory alone.
"""

from collections.abc import Sequence
import math

from etils import epath
import numpy as np

from totojax.report import frame, optimum, page, plots, reading
from totojax.rundir import console, wording

PAPER = (
  "The paper's Figure 11 has one best rate, 2^-7, for widths 64 to 1,536 with"
  " µP; its base width is not printed, so the number itself need not be ours."
)


def read(folder: reading.RunFolder) -> list[optimum.Curve]:
  """The curves of sweep.csv.

  Raises:
    reading.Missing: it is missing or damaged.
  """
  groups = {}
  for row in folder.records("sweep.csv"):
    key = (row["parametrisation"], row["model"], int(row["width"]), float(row["tokens"]))
    groups.setdefault(key, []).append(row)
  return [
    optimum.Curve(
      *key,
      x_P=np.array([float(row["log2_lr"]) for row in rows]),
      loss_P=np.array([float(row["val_loss"] or "nan") for row in rows]),
      seed_P=np.array([int(row["seed"]) for row in rows]),
    )
    for key, rows in groups.items()
  ]


def claim(folder: reading.RunFolder) -> frame.Claim:
  """What became of the optimum with the first parametrisation."""
  line, interval, kept = optimum.claim(read(folder))
  return frame.Claim(line, interval, kept)


def headline(folder: reading.RunFolder) -> str:
  """How much was trained, and what became of the optimum of each parametrisation."""
  curves, rows = read(folder), folder.records("sweep.csv")
  facts = {
    "runs": f"{len(rows):,}",
    "tokens in all": console.short(sum(float(row["tokens"]) for row in rows)),
    "diverged": str(sum(int(row["diverged_at"]) > 0 for row in rows)),
  }
  return page.facts(facts) + "".join(map(page.paragraph, optimum.verdict(curves)))


def drawings(folder: reading.RunFolder) -> dict[tuple[str, float], plots.Draw]:
  """Figure 11 of each parametrisation and length."""
  curves = read(folder)
  span = limits(curves)
  groups = optimum.by_parametrisation(curves)
  return {key: by_learning_rate(group, span) for key, group in groups.items()}


def write_figures(workdir: epath.Path) -> None:
  """Writes a PNG for each parametrisation and length of sweep.csv."""
  for (kind, tokens), draw in drawings(reading.RunFolder(workdir)).items():
    plots.write(workdir / f"sweep_{kind}_{tokens:.4g}.png", draw)


def figures(folder: reading.RunFolder) -> str:
  """Figure 11 for each parametrisation."""
  out = []
  for (kind, tokens), draw in drawings(folder).items():
    name = optimum.NAMES.get(kind, kind)
    caption = (
      f"{name}, {tokens:.3g} tokens a run. Dots are runs, lines means over seeds, stars the lowest"
      " points of quadratics with their 95 % intervals. Losses far above the best are off the"
      " figure and in sweep.csv."
    )
    label = f"Loss against learning rate, a curve for each width: {name}"
    out.append(plots.figure(draw, caption, name=f"sweep_{kind}_{tokens:.4g}", label=label))
  return "".join(out) + page.paragraph(PAPER, "soft")


def limits(curves: Sequence[optimum.Curve]) -> tuple[float, float]:
  """Losses worth seeing: the best four rates of each curve, and some more."""
  means = [curve.means()[1] for curve in curves]
  means = [mean_X[np.isfinite(mean_X)] for mean_X in means]
  low = min(mean_X.min() for mean_X in means)
  high = max(np.sort(mean_X)[:4].max() for mean_X in means)
  return low - 0.1 * (high - low), high + 0.6 * (high - low)


def by_learning_rate(curves: Sequence[optimum.Curve], span: tuple[float, float]) -> plots.Draw:
  """Figure 11: loss over log2 of the learning rate, a curve a width.

  Every run is a dot, lines join means over seeds, a star with a bar is the
  optimum with its interval. Losses above `span` are off the figure.
  """

  shared = len({curve.width for curve in curves}) < len(curves)  # widths do not tell them apart

  def draw(axes, palette):
    for curve, look in zip(curves, palette.looks()):
      axes.plot(
        *curve.means(), lw=1.4, label=curve.model if shared else f"width {curve.width}", **look
      )
      colour = {"color": look["color"]}
      axes.plot(curve.x_P, curve.loss_P, ls="", marker=".", ms=4, alpha=0.5, **colour)
      best = optimum.find(curve)
      if best.log2_lr is not None:
        axes.plot(best.log2_lr, best.loss, marker="*", ms=9, **colour)
        if best.high is not None and math.isfinite(best.high):
          axes.plot([best.low, best.high], [best.loss] * 2, lw=3, alpha=0.4, **colour)
    axes.set(xlabel="log2 of the peak learning rate", ylabel="nats per visual token", ylim=span)
    axes.legend(fontsize=8)

  return draw


def optima(folder: reading.RunFolder) -> str:
  """The optimum of each width."""
  rows = []
  for group in optimum.by_parametrisation(read(folder)).values():
    for row in optimum.table(group):
      kind = row["parametrisation"]
      rows.append({**row, "name": optimum.NAMES.get(kind, kind)})
      rows[-1]["best"] = row["why"] or f"{row['log2_lr']:.2f}"
  columns = (
    ("", "{name}"),
    ("model", "{model}"),
    ("width", "{width:,}"),
    ("tokens", "{tokens:short}"),
    ("best tried", "{grid:g}"),
    ("optimum (log2)", "{best}"),
    ("95 % interval", "{low:.2f} to {high:.2f}"),
    ("loss there", "{loss:.4f}"),
  )
  return page.records(columns, rows, words=2)


def everything(folder: reading.RunFolder) -> str:
  """Every run of sweep.csv."""
  records = folder.records("sweep.csv")
  table = page.table(tuple(records[0]), [tuple(row.values()) for row in records], words=2)
  return page.fold(f"All {wording.counted(len(records), 'run')}", table)


PAGE = frame.Kind(
  "learning rates",
  claim,
  (
    ("", headline),
    ("Loss against learning rate", figures),
    ("The best learning rate of each width", optima),
    ("Every run", everything),
  ),
  paper=("Figure 11",),
)
