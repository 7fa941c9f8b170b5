"""The page of `run = "scaling"`: how the loss falls as compute grows.

Reads the run directory alone.
"""

from collections.abc import Mapping
from typing import Any

from matplotlib import ticker
import numpy as np

from totojax.report import frame, page, plots, reading, scaling
from totojax.rundir import wording

PAPER = (
  "The paper prints L(C) = 7.32 C^-0.0378 (Figure 9) without the unit of C: the law meets its own"
  " dashed line where C counts a million of the figure's unit, the MACs of one token times"
  " sequences of 4,096, forward only. GPT-3's (Brown et al., 2020) is of text, in nats per token of"
  " another vocabulary: its slope can be compared, its height cannot."
)


def verdict(laws: Mapping[str, Any]) -> list[str]:
  """What the fit says, in sentences."""
  law = laws["law"]
  span = ""
  if "b_interval_95" in laws:
    low, high = laws["b_interval_95"]
    span = f" (95 % interval over runs {low:.4f} to {high:.4f})"
  sentences = [
    f"loss falls as compute^-{law['b']:.4f}{span} over {laws['decades']:.1f} decades of compute,"
    f" {wording.counted(laws['points'], 'point')} of the frontier ({laws['frontier']})"
  ]
  if "law_with_floor" in laws:
    floor_law = laws["law_with_floor"]
    sentences.append(
      f"with an irreducible loss: {floor_law['floor']:.3f} + a compute^-{floor_law['b']:.4f}"
    )
  return sentences + list(laws.get("notes", ()))


def claim(folder: reading.RunFolder) -> frame.Claim:
  """The law."""
  laws = folder.json("laws.json")
  law, ends = laws["law"], laws.get("b_interval_95")
  sure = f"95 % over runs {ends[0]:.4f} to {ends[1]:.4f}" if ends else "interval unknown"
  return frame.Claim(
    f"Loss falls as compute to the power of -{law['b']:.3f}.",
    f"{sure}; {wording.counted(laws['points'], 'point')} of the frontier ({laws['frontier']}) over"
    f" {laws['decades']:.1f} decades of compute. The paper's exponent is -{scaling.PAPER.b}.",
  )


def headline(folder: reading.RunFolder) -> str:
  """The law beside the paper's and GPT-3's, and what is to be said of it."""
  laws = folder.json("laws.json")
  facts = {
    "exponent": f"{laws['law']['b']:.4f}",
    "of the paper's law": f"{scaling.PAPER.b:.4f}",
    "of GPT-3's": f"{scaling.GPT_3.b:.3f}",
    "of the variance explained": f"{laws['law']['r2']:.3f}",
  }
  return page.facts(facts) + "".join(page.paragraph(f"{line}.") for line in verdict(laws)[1:])


def drawing(folder: reading.RunFolder) -> plots.Draw:
  """Figure 9: loss over training MACs, a curve a run; laws are dashed."""
  runs = folder.table("scaling.csv", by="run")
  laws = folder.json("laws.json")
  curves = {"fit": scaling.Law(**laws["law"])}
  if "law_with_floor" in laws:
    floor = laws["law_with_floor"]
    curves[f"fit with a floor of {floor['floor']:.2f}"] = scaling.Law(**floor)
  curves["GPT-3 (text)"] = scaling.GPT_3
  macs, loss, frontier = (
    np.concatenate([t[key] for t in runs.values()]) for key in ("macs", "loss", "frontier")
  )
  ends = np.geomspace(macs.min(), macs.max())

  def draw(axes, palette):
    for (name, t), look in zip(runs.items(), palette.looks()):
      one = {"marker": "o", "ms": 3.5} if len(t["macs"]) == 1 else {}  # of which no line is seen
      axes.plot(t["macs"], t["loss"], lw=1.2, label=name, **look, **one)
    front = frontier == 1
    axes.plot(macs[front], loss[front], ls="", marker="o", ms=3.5, color=palette.ink)
    for (name, law), style in zip(curves.items(), ("--", ":", "-."), strict=False):
      axes.plot(ends, law(ends), color=palette.ink, lw=1.0, ls=style, label=name)
    axes.set(xscale="log", yscale="log")
    axes.set(xlabel="training compute (MACs)", ylabel="nats per visual token")
    axes.yaxis.set_major_locator(ticker.MaxNLocator(5))
    axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    between = (1.0,) if macs.max() > 30 * macs.min() else (1.0, 2.0, 5.0)
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=between, numticks=5))
    for axis in (axes.xaxis, axes.yaxis):  # labels of minor ticks run into each other
      axis.set_minor_formatter(ticker.NullFormatter())
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))

  return draw


def figure(folder: reading.RunFolder) -> str:
  """Figure 9."""
  caption = (
    f"{wording.counted(len(folder.table('scaling.csv', by='run')), 'run')}, evaluated as they"
    " train;"
    " dots are the frontier, the dashed line is its power law."
  )
  label = "Loss against compute, a curve for each run"
  figure_9 = plots.figure(drawing(folder), caption, name="scaling", label=label)
  return figure_9 + page.paragraph(PAPER, "soft")


def ends(folder: reading.RunFolder) -> str:
  """Where each run ended."""
  columns = (
    ("run", "{run}"),
    ("parameters", "{parameters:short}"),
    ("tokens", "{tokens:short}"),
    ("MACs of training", "{macs:.3g}"),
    ("PF-days", "{pf_days:.3g}"),
    ("loss", "{loss:.4f}"),
    ("standard error", "{loss_sem:.4f}"),
  )
  rows = [row for row in folder.records("scaling.csv") if int(row["last"])]
  return page.records(columns, rows)


def recipes(folder: reading.RunFolder) -> str:
  """Schedules and optimisers side by side, where the runs have several."""
  rows = folder.json("laws.json").get("recipes", [])
  if not rows:
    return ""
  columns = (
    ("parameters", "{parameters:short}"),
    ("updates", "{step:,}"),
    ("", "{recipe}"),
    ("seeds", "{seeds}"),
    ("updates made", "{trained:,}"),
    ("loss", "{loss:.4f}"),
    ("standard error", "{loss_sem:.4f}"),
    ("less the first, seed by seed", "{difference:+.4f}"),
    ("its standard error", "{difference_sem:.4f}"),
  )
  note = "Updates made are those of these runs alone: a branch has those of its trunk for nothing."
  return page.records(columns, rows) + page.paragraph(note, "soft")


PAGE = frame.Kind(
  "scaling",
  claim,
  (
    ("", headline),
    ("Loss against compute", figure),
    ("Recipes side by side", recipes),
    ("Where each run ended", ends),
  ),
  paper=("Figure 9", "Table 15"),
)
