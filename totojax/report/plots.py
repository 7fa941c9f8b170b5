"""Figures of a run, drawn with Matplotlib.

A drawing is a function (axes, palette). `html` renders it twice as inline SVG,
for wide and for narrow screens, in colours that are CSS variables of the page,
so that a figure follows the page into dark mode; `png` renders it for paper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import io
import re
from typing import Any, TYPE_CHECKING

from etils import epath
import matplotlib
from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import ticker
import numpy as np

from totojax.report import reading
from totojax.rundir import console, files

if TYPE_CHECKING:
  from matplotlib.typing import RcKeyType

Table = Mapping[str, np.ndarray]
DPI = 160
LINES = ("-", (0, (4, 2)), (0, (1, 1.5)))  # when the colours are used up


@dataclasses.dataclass(frozen=True)
class Palette:
  """Colours of one rendering: text, lines of the frame, and four series."""

  ink: str
  faint: str
  series: tuple[str, ...]


PAPER = Palette(ink="#22262a", faint="#d9d6d0", series=("#1f6f8b", "#c26a2d", "#5b7f3a", "#85539b"))
# Colours that stand for CSS variables in the SVG text; nothing is drawn so.
_MARKS = Palette(
  ink="#010101", faint="#020202", series=("#030303", "#040404", "#050505", "#060606")
)
_VARIABLES = dict(
  zip(
    (_MARKS.ink, _MARKS.faint, *_MARKS.series),
    ("--ink", "--line", "--s1", "--s2", "--s3", "--s4"),
    strict=True,
  )
)
WIDE, NARROW = (7.6, 3.1), (3.75, 2.9)  # inches; on a page, the proportions
HALF = (3.75, 2.7)

Draw = Callable[[mpl_axes.Axes, Palette], None]


def html(draw: Draw, *, name: str, label: str, half: bool = False) -> str:
  """Inline SVG of a drawing, with `label` for those who cannot see it.

  Args:
    draw: draws into axes.
    name: unlike that of any other figure of the page.
    label: what the figure shows, in one sentence.
    half: made to stand beside another figure.
  """
  if half:
    return _svg(draw, HALF, name=name, label=label)
  wide = _svg(draw, WIDE, name=f"{name}-wide", label=label)
  narrow = _svg(draw, NARROW, name=f"{name}-narrow", label=label)
  return f'<div class="wide-only">{wide}</div><div class="narrow-only">{narrow}</div>'


def write(path: epath.PathLike, draw: Draw) -> None:
  """Writes a drawing as a PNG."""
  files.write_bytes(path, png(draw))


def png(draw: Draw) -> bytes:
  buffer = io.BytesIO()
  _render(draw, WIDE, PAPER, salt="").savefig(buffer, format="png", dpi=DPI)
  return buffer.getvalue()


def position_figure(source: epath.PathLike, target: epath.PathLike) -> None:
  """Writes Figure 10 (loss by position) as a PNG from position_loss.csv.

  Raises:
    reading.Missing: the CSV is missing, empty or damaged.
  """
  source = epath.Path(source)
  table = reading.Folder(source.parent).table(source.name)
  write(target, by_position(table))


def by_position(table: Mapping[str, Table]) -> Draw:
  """Loss at every position, frames marked, with the mean of each frame."""

  def draw(axes, palette):
    frames = np.concatenate([t["frame"] for t in table.values()])
    for (name, t), colour in zip(table.items(), palette.series, strict=False):
      axes.plot(t["position"], t["mean"], color=colour, lw=0.7, alpha=0.55)
      for frame in np.unique(t["frame"]):
        inside = t["frame"] == frame
        mean = np.average(t["mean"][inside], weights=t["n"][inside])
        ends = t["position"][inside][[0, -1]] + [-0.5, 0.5]
        axes.plot(ends, [mean, mean], color=colour, lw=2, label=name)
        name = None  # one entry in the legend
    first = next(iter(table.values()))
    starts = first["position"][np.flatnonzero(np.diff(first["frame"])) + 1]
    if len(np.unique(frames)) <= 64:
      for start in starts:
        axes.axvline(start - 0.5, color=palette.faint, lw=0.6, zorder=0)
    axes.set_xlabel("position in the sequence (tokens)")
    axes.set_ylabel("nats per token")
    axes.margins(x=0.01)
    axes.set_ylim(bottom=0)
    _legend(axes, table, palette)

  return draw


def by_group(table: Mapping[str, Table], *, group: str, xlabel: str) -> Draw:
  """Mean loss with two standard errors by frame or by row, counted from 1."""

  def draw(axes, palette):
    for (name, t), colour in zip(table.items(), palette.series, strict=False):
      axes.errorbar(
        t[group] + 1,
        t["mean"],
        yerr=2 * t["sem"],
        color=colour,
        lw=1.2,
        marker="o",
        ms=3.5,
        capsize=0,
        label=name,
      )
    axes.set_xlabel(xlabel)
    axes.set_ylabel("nats per token")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(8, integer=True))
    axes.set_ylim(bottom=0)
    _legend(axes, table, palette)

  return draw


def learning(
  *,
  train: tuple[np.ndarray, np.ndarray],
  evals: Mapping[str, tuple[np.ndarray, np.ndarray]],
  levels: Mapping[str, float],
  xlabel: str,
) -> Draw:
  """Training loss, validation loss by source, and levels to beat.

  Args:
    train: (x, loss) of the training rows.
    evals: (x, loss) of each validation source.
    levels: losses drawn as dashed lines, by the name written on them.
    xlabel: what x is.
  """

  def draw(axes, palette):
    axes.plot(*train, color=palette.ink, alpha=0.35, lw=1.0, label="training")
    for (name, (x, y)), colour in zip(evals.items(), palette.series, strict=False):
      axes.plot(x, y, color=colour, marker="o", ms=3.5, lw=1.4, label=f"held-out {name}")
    for name, level in levels.items():
      axes.axhline(level, color=palette.ink, lw=0.9, ls=(0, (4, 3)), alpha=0.6)
      axes.annotate(
        f"{name} {level:.2f}",
        (1, level),
        xycoords=("axes fraction", "data"),
        xytext=(-3, 3),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color=palette.ink,
        fontsize=8,
      )
    axes.set_xlabel(xlabel)
    axes.set_ylabel("nats per visual token")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(short_ticks())
    # Under the axes: nothing in the plot is covered, on a phone neither.
    axes.legend(
      loc="upper left",
      bbox_to_anchor=(-0.02, 1.14),
      ncols=3,
      frameon=False,
      labelcolor=palette.ink,
      handlelength=1.4,
      columnspacing=1.2,
      borderpad=0,
    )

  return draw


def rank_frequency(ngrams: list[Mapping]) -> Draw:
  """Counts of 1-, 2- and 3-grams by rank, both axes logarithmic."""
  curves = {f"{row['n']}-grams": (row["rank"], row["count"]) for row in ngrams}
  return by_rank(curves, ylabel="occurrences")


def by_rank(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], *, ylabel: str) -> Draw:
  """(rank, value) by the name of the curve, both axes logarithmic."""

  def draw(axes, palette):
    colours = len(palette.series)
    for i, (name, (rank, value)) in enumerate(curves.items()):
      axes.loglog(
        rank,
        value,
        color=palette.series[i % colours],
        lw=1.6,
        label=name,
        ls=LINES[i // colours % len(LINES)],
        marker="o" if len(rank) == 1 else None,
      )
    axes.set_xlabel("rank")
    axes.set_ylabel(ylabel)
    for axis in (axes.xaxis, axes.yaxis):
      axis.set_major_formatter(short_ticks())
      axis.set_minor_formatter(ticker.NullFormatter())
    axes.legend(frameon=False, labelcolor=palette.ink)

  return draw


def short_ticks() -> ticker.Formatter:
  """Ticks as "1.5 M"."""
  return ticker.FuncFormatter(lambda value, _: console.short(value))


def _legend(axes, table: Mapping[str, Table], palette: Palette) -> None:
  if len(table) > 1:
    axes.legend(frameon=False, labelcolor=palette.ink)


def _render(
  draw: Draw, size: tuple[float, float], palette: Palette, *, salt: str
) -> mpl_figure.Figure:
  style: dict[RcKeyType, Any] = {
    "font.size": 9.0,
    "svg.fonttype": "none",
    "svg.hashsalt": f"totojax-{salt}",
    "path.simplify_threshold": 0.3,
  }
  with matplotlib.rc_context(style):
    figure = mpl_figure.Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(palette.faint)
    axes.tick_params(colors=palette.ink, length=0, which="both")
    axes.xaxis.label.set_color(palette.ink)
    axes.yaxis.label.set_color(palette.ink)
    axes.grid(axis="y", color=palette.faint, lw=0.6)
    axes.set_axisbelow(True)
    draw(axes, palette)
  return figure


def _svg(draw: Draw, size: tuple[float, float], *, name: str, label: str) -> str:
  """SVG text that can stand in a page with others."""
  buffer = io.StringIO()
  style: dict[RcKeyType, Any] = {"svg.fonttype": "none", "svg.hashsalt": f"totojax-{name}"}
  figure = _render(draw, size, _MARKS, salt=name)
  with matplotlib.rc_context(style):
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
  text = buffer.getvalue()
  text = text[text.index("<svg") :]
  text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
  text = re.sub(r'<g id="[^"]*"', "<g", text)  # the same in every figure
  text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
  for mark, variable in _VARIABLES.items():
    text = text.replace(mark, f"var({variable})")
  safe = label.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
  return text.replace("<svg", f'<svg role="img" aria-label="{safe}"', 1)
