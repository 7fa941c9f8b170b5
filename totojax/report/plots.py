"""Figures of a run, drawn with Matplotlib.

A drawing is a function (axes, palette). `figure` renders it twice as inline
SVG, for wide and for narrow screens, in colours that are CSS variables of the
page, so that a figure follows the page into dark mode; `png` renders it for
paper. On a page the legend is text above the figure, which wraps as text does.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import io
import itertools
import re
from typing import Any, TYPE_CHECKING

from etils import epath
import matplotlib
from matplotlib import axes as mpl_axes, container, figure as mpl_figure, lines as lines_of, ticker
import numpy as np
from numpy import typing as npt

from totojax.report import page, reading
from totojax.rundir import console, files, wording

if TYPE_CHECKING:
  from matplotlib.typing import RcKeyType

Table = Mapping[str, np.ndarray]
Curves = Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]]  # (x, y) by name
DPI = 160
LINES = ("-", (0, (4, 2)), (0, (1, 1.5)))  # when the colours are used up
LEVEL = (0, (4, 3))  # dashes of a horizontal line
# Points: height of a label of 8, its distance from its line; what is above and below the axes.
LABEL, AWAY, ROUND = 10.0, 3.0, 60.0


@dataclasses.dataclass(frozen=True)
class Palette:
  """Colours of one rendering: text, lines of the frame, and four series."""

  ink: str
  faint: str
  series: tuple[str, ...]

  def looks(self) -> Iterator[dict[str, Any]]:
    """Colour and line of one series after the other, without an end."""
    for line, colour in itertools.cycle(itertools.product(LINES, self.series)):
      yield {"color": colour, "ls": line}


PAPER = Palette(ink="#22262a", faint="#d9d6d0", series=("#1f6f8b", "#c26a2d", "#5b7f3a", "#85539b"))
# Colours that stand for CSS variables in the SVG text; nothing is drawn so.
_MARKS = Palette(
  ink="#010101", faint="#020202", series=("#030303", "#040404", "#050505", "#060606")
)
_NAMES = ("--ink", "--line", "--s1", "--s2", "--s3", "--s4")
_VARIABLES = dict(zip((_MARKS.ink, _MARKS.faint, *_MARKS.series), _NAMES, strict=True))
WIDE, NARROW = (7.6, 3.1), (3.75, 2.9)  # inches; on a page, the proportions
HALF = (3.75, 2.7)

Draw = Callable[[mpl_axes.Axes, Palette], None]


def figure(draw: Draw, caption: str, *, name: str, label: str, half: bool = False) -> str:
  """A drawing in a page, as inline SVG, over its caption.

  Args:
    draw: draws into axes.
    caption: what stands below.
    name: unlike that of any other figure of the page.
    label: what it shows, in one sentence, for those who cannot see it.
    half: made to stand beside another figure.
  """
  legend = _legend(draw, name)
  if half:
    return page.figure(legend + _svg(draw, HALF, name=name, label=label), caption)
  wide = _svg(draw, WIDE, name=f"{name}-wide", label=label)
  narrow = _svg(draw, NARROW, name=f"{name}-narrow", label=label)
  both = f'<div class="wide-only">{wide}</div><div class="narrow-only">{narrow}</div>'
  return page.figure(legend + both, caption)


def write(path: epath.PathLike, draw: Draw) -> None:
  """Writes a drawing as a PNG."""
  drawn = _render(draw, WIDE, PAPER)
  files.write_bytes(path, _saved(drawn, PAPER, salt="", format="png", dpi=DPI))


def position_figure(workdir: epath.Path) -> None:
  """Writes Figure 10 (loss by position) as a PNG beside position_loss.csv.

  Raises:
    reading.Missing: the CSV is missing, empty or damaged.
  """
  table = reading.RunFolder(workdir).table("position_loss.csv")
  write(workdir / "position_loss.png", by_position(table))


def by_position(table: Mapping[str, Table]) -> Draw:
  """Loss at every position, frames marked, with the mean of each frame."""

  def draw(axes, palette):
    frames = np.concatenate([t["frame"] for t in table.values()])
    for (name, t), look in zip(table.items(), palette.looks()):
      axes.plot(t["position"], t["mean"], lw=0.7, alpha=0.55, **look)
      for frame in np.unique(t["frame"]):
        inside = t["frame"] == frame
        mean = np.average(t["mean"][inside], weights=t["n"][inside])
        ends = t["position"][inside][[0, -1]] + [-0.5, 0.5]
        axes.plot(ends, [mean, mean], lw=2, label=name, **look)
        name = None  # one entry in the legend
    first = next(iter(table.values()))
    starts = first["position"][np.flatnonzero(np.diff(first["frame"])) + 1]
    if len(np.unique(frames)) <= 64:
      for start in starts:
        axes.axvline(start - 0.5, color=palette.faint, lw=0.6, zorder=0)
    axes.set(xlabel="position in the sequence (tokens)", ylabel="nats per token", ylim=(0, None))
    axes.margins(x=0.01)
    if len(table) > 1:
      axes.legend()

  return draw


def latent_lengths(table: Mapping[str, Table]) -> list[int] | None:
  """How many frames each latent frame of frame_loss.csv holds; None: it is a frame."""
  for t in table.values():
    if "last_frame" in t:
      return (t["last_frame"] - t["first_frame"] + 1).astype(int).tolist()
  return None


def by_group(table: Mapping[str, Table], group: str) -> Draw:
  """Mean loss with two standard errors by frame, row or code, counted from 1."""

  def draw(axes, palette):
    for (name, t), look in zip(table.items(), palette.looks()):
      points(axes, (t[group] + 1, t["mean"]), 2 * t["sem"], lw=1.2, label=name, **look)
    frames = latent_lengths(table) if group == "frame" else None
    what = group if frames is None else f"latent frame, of {frames[0]} and then {frames[-1]} frames"
    axes.set(xlabel=what, ylabel="nats per token", ylim=(0, None))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(8, integer=True))
    if len(table) > 1:
      axes.legend()

  return draw


def points(axes, curve: tuple[np.ndarray, np.ndarray], half: np.ndarray, **look: Any) -> None:
  """A curve whose points have bars of `half` a length up and down, or [down, up]."""
  axes.errorbar(*curve, yerr=half, **({"marker": "o", "ms": 3.5, "capsize": 0} | look))


def learning(*, train: Any, evals: Curves, levels: Mapping[str, float], xlabel: str) -> Draw:
  """Training loss, validation loss by source, and levels to beat.

  Args:
    train: (x, loss) of the training rows.
    evals: (x, loss) of each validation source.
    levels: losses drawn as dashed lines, by the name written on them.
    xlabel: what x is.
  """

  def draw(axes, palette):
    axes.plot(*train, color=palette.ink, alpha=0.35, lw=1.0, label="training")
    for (name, curve), look in zip(evals.items(), palette.looks()):
      axes.plot(*curve, marker="o", ms=3.5, lw=1.4, label=f"held-out {name}", **look)
    for level in levels.values():
      axes.axhline(level, color=palette.ink, lw=0.9, ls=LEVEL, alpha=0.6)
    axes.set(xlabel=xlabel, ylabel="nats per visual token", ylim=(0, None), xlim=(0, None))
    points_high = 72 * axes.get_figure().get_size_inches()[1] - ROUND
    scale = points_high / axes.get_ylim()[1]
    apart = beside([scale * level for level in levels.values()])
    for (name, level), shift in zip(levels.items(), apart):
      axes.annotate(
        f"{name} {level:.2f}",
        (1, level),
        xycoords=("axes fraction", "data"),
        xytext=(-3, shift),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color=palette.ink,
        fontsize=8,
      )
    axes.xaxis.set_major_formatter(short_ticks())
    # Under the axes: nothing in the plot is covered, on a phone neither.
    place = {"loc": "upper left", "bbox_to_anchor": (-0.02, 1.14), "ncols": 3}
    axes.legend(handlelength=1.4, columnspacing=1.2, borderpad=0, **place)

  return draw


def beside(heights: Sequence[float]) -> list[float]:
  """How far above its line each label begins, so that none covers a label or a line near by.

  Labels of lines that are too near each other stand above and below all of these,
  in the order of the lines.

  Args:
    heights: of the lines, in points from the axis.

  Returns:
    Points from each line to the lower end of its label, below 0 under it.
  """
  order = sorted(range(len(heights)), key=heights.__getitem__)
  groups: list[list[int]] = [[i] for i in order]

  def placed(group: list[int]) -> list[float]:
    """Lower ends of the labels of lines that stand together, from the lowest on."""
    low, high = heights[group[0]], heights[group[-1]]
    below = min(len(group) // 2, int(max(low - AWAY, 0) // LABEL))
    under = [low - AWAY - LABEL * (below - i) for i in range(below)]
    return under + [high + AWAY + LABEL * i for i in range(len(group) - below)]

  def ends(group: list[int]) -> tuple[float, float]:
    starts = placed(group)
    return min(starts[0], heights[group[0]]), max(starts[-1] + LABEL, heights[group[-1]])

  i = 1
  while i < len(groups):
    if ends(groups[i - 1])[1] > ends(groups[i])[0]:
      groups[i - 1 : i + 1] = [groups[i - 1] + groups[i]]
      i = max(i - 1, 1)
    else:
      i += 1
  found = {i: at - heights[i] for group in groups for i, at in zip(group, placed(group))}
  return [found[i] for i in range(len(heights))]


def lines(curves: Curves, *, look: Mapping[str, Any], **axes_settings: Any) -> Draw:
  """A line for each curve.

  Args:
    curves: by the name that the legend gives them.
    look: of all lines.
    **axes_settings: as `Axes.set` takes them.
  """

  def draw(axes, palette):
    for (name, curve), own in zip(curves.items(), palette.looks()):
      axes.plot(*curve, label=name, **(own | look))
    axes.set(**axes_settings)
    axes.legend()

  return draw


def by_rank(curves: Curves, *, ylabel: str) -> Draw:
  """(rank, value) by the name of the curve, both axes logarithmic."""
  plain = lines(curves, look={"lw": 1.6}, xscale="log", yscale="log", xlabel="rank", ylabel=ylabel)

  def draw(axes, palette):
    plain(axes, palette)
    for line in axes.lines:
      if len(line.get_xdata()) == 1:
        line.set_marker("o")
    for axis in (axes.xaxis, axes.yaxis):
      axis.set_major_formatter(short_ticks())
      axis.set_minor_formatter(ticker.NullFormatter())

  return draw


def by_width(rows: Sequence[Mapping[str, Any]], quantity: str) -> Draw:
  """Mean |x| over the width, after the last update, by parametrisation."""
  last = max(row["update"] for row in rows)
  ends = sorted((row for row in rows if row["update"] == last), key=lambda row: row["width"])
  curves = {}
  for kind in dict.fromkeys(row["parametrisation"] for row in rows):
    own = [row for row in ends if row["parametrisation"] == kind]
    curves[kind] = [row["width"] for row in own], [row[quantity] for row in own]
  look = {"marker": "o", "ms": 3.5, "lw": 1.4}
  ylabel = f"mean |{quantity}|, {wording.counted(last, 'update')}"
  plain = lines(curves, look=look, yscale="log", xlabel="width", ylabel=ylabel)

  def draw(axes, palette):
    plain(axes, palette)
    axes.set_xscale("log", base=2)

  return draw


def short_ticks() -> ticker.Formatter:
  """Ticks as "1.5 M"."""
  return ticker.FuncFormatter(lambda value, _: console.short(value))


def _saved(drawn: mpl_figure.Figure, palette: Palette, *, salt: str, **options: Any) -> bytes:
  """A file of a figure; `options` are those of `Figure.savefig`."""
  buffer = io.BytesIO()
  with matplotlib.rc_context(_style(palette, salt)):  # some ticks are made only while it is saved
    drawn.savefig(buffer, **options)
  return buffer.getvalue()


def _style(palette: Palette, salt: str) -> dict["RcKeyType", Any]:
  return {
    "font.size": 9.0,
    "legend.frameon": False,
    "legend.labelcolor": palette.ink,
    "svg.fonttype": "none",
    "svg.hashsalt": f"totojax-{salt}",
    "path.simplify_threshold": 0.3,
  }


def _render(draw: Draw, size: tuple[float, float], palette: Palette) -> mpl_figure.Figure:
  with matplotlib.rc_context(_style(palette, "")):
    canvas = mpl_figure.Figure(figsize=size, layout="constrained")
    axes = canvas.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(palette.faint)
    axes.tick_params(colors=palette.ink, length=0, which="both")
    axes.xaxis.label.set_color(palette.ink)
    axes.yaxis.label.set_color(palette.ink)
    axes.grid(axis="y", color=palette.faint, lw=0.6)
    axes.set_axisbelow(True)
    draw(axes, palette)
  return canvas


def _svg(draw: Draw, size: tuple[float, float], *, name: str, label: str) -> str:
  """SVG text that can stand in a page with others, without its legend."""
  drawn = _render(draw, size, _MARKS)
  if (legend := drawn.axes[0].get_legend()) is not None:
    legend.remove()
  svg = _inline(drawn, salt=name)
  return svg.replace("<svg", f'<svg role="img" aria-label="{page.text(label)}"', 1)


def _legend(draw: Draw, name: str) -> str:
  """The legend of a drawing as HTML; "" where it has none."""
  axes = _render(draw, WIDE, _MARKS).axes[0]
  if axes.get_legend() is None:
    return ""
  items = (
    f"<li>{_key(handle, salt=f'{name}-{i}')}{page.text(named)}</li>"
    for i, (handle, named) in enumerate(zip(*axes.get_legend_handles_labels()))
  )
  return f'<ul class="legend">{"".join(items)}</ul>'


def _key(handle: Any, *, salt: str) -> str:
  """The line of a legend's entry, as it is in the figure."""
  if isinstance(handle, container.ErrorbarContainer):
    handle = handle[0]
  key = mpl_figure.Figure(figsize=(0.36, 0.16))
  axes = key.add_axes((0, 0, 1, 1), xlim=(0, 1), ylim=(0, 1))
  axes.set_axis_off()
  line = lines_of.Line2D((0.04, 0.5, 0.96), (0.5, 0.5, 0.5), markevery=[1])
  line.update_from(handle)
  line.set_transform(axes.transData)
  line.set_markevery([1])
  axes.add_line(line)
  return _inline(key, salt=salt).replace("<svg", '<svg aria-hidden="true"', 1)


def _inline(drawn: mpl_figure.Figure, *, salt: str) -> str:
  options = {"format": "svg", "transparent": True, "metadata": {"Date": None}}
  text = _saved(drawn, _MARKS, salt=salt, **options).decode()
  text = text[text.index("<svg") :]
  text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
  text = re.sub(r'<g id="[^"]*"', "<g", text)  # the same in every figure
  text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
  for mark, variable in _VARIABLES.items():
    text = text.replace(mark, f"var({variable})")
  return text
