"""Figures of µP: loss against learning rate (Figure 11), and coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
import numpy as np

from totojax.report import optimum, plots, reading


def coordinates_figure(workdir: epath.PathLike) -> None:
  """Writes a PNG for each quantity of coordinates.csv.

  Raises:
    reading.Missing: the CSV is missing or damaged.
  """
  folder = reading.Folder(workdir)
  rows = folder.records("coordinates.csv")
  for quantity in ("residual", "logits", "attention"):
    if quantity not in rows[0]:  # Mamba has no attention
      continue
    path = folder.path / f"coordinates_{quantity}.png"
    plots.write(path, by_width(rows, quantity))


def by_width(rows: Sequence[Mapping[str, Any]], quantity: str) -> plots.Draw:
  """Mean |x| over the width, after the last update, by parametrisation."""
  last = max(int(row["update"]) for row in rows)

  def draw(axes, palette):
    kinds = dict.fromkeys(row["parametrisation"] for row in rows)
    for kind, colour in zip(kinds, palette.series, strict=False):
      points = [
        row for row in rows if row["parametrisation"] == kind and int(row["update"]) == last
      ]
      points.sort(key=lambda row: float(row["width"]))
      x = np.array([float(row["width"]) for row in points])
      y = np.array([float(row[quantity]) for row in points])
      axes.plot(x, y, color=colour, marker="o", ms=3.5, lw=1.4, label=kind)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("width")
    axes.set_ylabel(f"mean |{quantity}|, {last} updates")
    axes.legend(frameon=False, labelcolor=palette.ink)

  return draw


def read(workdir: epath.PathLike) -> list[optimum.Curve]:
  """The curves of sweep.csv.

  Raises:
    reading.Missing: it is missing or damaged.
  """
  groups = {}
  for row in reading.Folder(workdir).records("sweep.csv"):
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


def figure_name(kind: str, tokens: float) -> str:
  return f"sweep_{kind}_{tokens:.4g}"


def sweep_figures(workdir: epath.PathLike) -> None:
  """Writes a PNG for each parametrisation and length of sweep.csv."""
  curves = read(workdir)
  for (kind, tokens), group in optimum.by_parametrisation(curves).items():
    path = epath.Path(workdir) / f"{figure_name(kind, tokens)}.png"
    plots.write(path, by_learning_rate(group, limits(curves)))


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

  def draw(axes, palette):
    colours = len(palette.series)
    for i, curve in enumerate(curves):
      look = dict(color=palette.series[i % colours])
      x_X, mean_X = curve.means()
      axes.plot(
        x_X,
        mean_X,
        lw=1.4,
        label=f"width {curve.width}",
        ls=plots.LINES[i // colours % len(plots.LINES)],
        **look,
      )
      axes.plot(curve.x_P, curve.loss_P, ls="", marker=".", ms=4, alpha=0.5, **look)
      best = optimum.find(curve)
      if best.log2_lr is not None:
        axes.plot(best.log2_lr, best.loss, marker="*", ms=9, **look)
        if best.high is not None and np.isfinite(best.high):
          axes.plot([best.low, best.high], [best.loss] * 2, lw=3, alpha=0.4, **look)
    axes.set_ylim(*span)
    axes.set_xlabel("log2 of the peak learning rate")
    axes.set_ylabel("nats per visual token")
    axes.legend(frameon=False, labelcolor=palette.ink, fontsize=8)

  return draw
