"""Sections of a report about tracking: scores, layers, and what was found, drawn."""

from collections.abc import Mapping
import itertools
from typing import Any

from etils import epath
from matplotlib import ticker
import numpy as np

from totojax.report import frame, page, plots, reading, verdict
from totojax.rundir import wording

_NAMES = {"davis": "DAVIS", "jhmdb": "JHMDB", "vip": "VIP"}
_COLUMNS: Mapping[str, tuple[page.Column, ...]] = {
  "J&F-Mean": (
    ("J&F, %", "{J&F-Mean:percent}"),
    ("95 % from", "{low:percent}"),
    ("to", "{high:percent}"),
    ("J", "{J-Mean:percent}"),
    ("J recall", "{J-Recall:percent}"),
    ("J decay", "{J-Decay:percent}"),
    ("F", "{F-Mean:percent}"),
    ("F recall", "{F-Recall:percent}"),
    ("F decay", "{F-Decay:percent}"),
  ),
  "PCK@0.1": (
    ("PCK at 0.1, %", "{PCK@0.1:percent}"),
    ("95 % from", "{low:percent}"),
    ("to", "{high:percent}"),
    ("PCK at 0.2", "{PCK@0.2:percent}"),
    ("joints found", "{joints:,}"),
  ),
  "mIoU": (("mIoU, %", "{mIoU:percent}"), ("95 % from", "{low:percent}"), ("to", "{high:percent}")),
}


def figure(workdir: epath.Path) -> None:
  """Writes layer_curve.png (Figure 8) beside per_layer.csv.

  Raises:
    reading.Missing: the CSV is missing, empty or damaged.
  """
  folder = reading.RunFolder(workdir)
  score = folder.records("per_layer.csv")
  plots.write(workdir / "layer_curve.png", _by_layer(score, "score"))


def sentence(facts: Mapping[str, Any]) -> str:
  """The best score of each row, and of how much."""
  parts = [
    f"{_name(row)} {100 * row[facts['score']]:.1f} (layer {row['layer']})" for row in facts["rows"]
  ]
  for row in facts.get("seeds", ()):
    parts.append(
      f"{_name(row)}, mean over {wording.counted(len(row['each']), 'seed')}"
      f" {100 * row['score']:.1f}"
    )
  return f"{facts['score']} in % on {_amount(facts)}: {', '.join(parts)}"


def _name(row: Mapping[str, Any]) -> str:
  return row["row"] if row["row"] == row["rule"] else f"{row['row']}, {row['rule']}"


def _amount(facts: Mapping[str, Any]) -> str:
  """ "3 of 30 sequences of DAVIS-2017"."""
  name = _NAMES[facts["set"]] + (f"-{facts['year']}" if facts["set"] == "davis" else "")
  whole = facts["whole"].get("sequences")
  of = f" of {whole}" if whole and whole != facts["sequences"] else ""
  return (
    f"{facts['sequences']}{of} {wording.plural(whole or facts['sequences'], 'sequence')} of {name}"
  )


def found(folder: reading.RunFolder) -> str:
  """Scores of all rows at their best layers, and the curve over layers."""
  facts = folder.json("metrics.json")
  rows = [{"name": _name(row), **row} for row in facts["rows"]]
  columns = (
    ("tracked by", "{name}"),
    ("layer", "{layer}"),
    *_COLUMNS[facts["score"]],
    ("last layer", "{last_score:percent}"),
    ("features, ms a frame", "{features_s_a_frame:ms}"),
    ("propagation, ms a frame", "{propagation_s_a_frame:ms}"),
  )
  out = [page.records(columns, rows)]
  if facts.get("seeds"):
    out.append(_of_seeds(facts))
  if paper := facts.get("paper"):
    out.append(page.paragraph(f"Paper, {paper['name']}: {100 * paper['score']:.1f} %.", "soft"))
  objects = rows[0].get("objects")
  chosen = (
    f"The layer is the one that {facts['select']} further sequences chose, which are not scored"
    if facts.get("select")
    else "The layer is the one that is best on these same sequences, as in the paper, so it has"
    " seen the answers"
  )
  counted = f" with {wording.counted(objects, 'object')}" if objects else ""
  out.append(
    page.paragraph(
      f"{_amount(facts)}{counted}, {wording.counted(facts['records'], 'frame')}; digest of the"
      " annotations"
      f" {facts['digest'][:12]}: sets that were processed otherwise have another, and other"
      f" numbers. {chosen}. Intervals are of a bootstrap over sequences. The time of propagation is"
      " that of all rules and layers, with scoring.",
      "soft",
    )
  )
  caption = (
    f"{facts['score']} by layer; layer 0 is the embeddings, dashed: one layer. Figure 8 of the"
    " paper, of DAVIS."
  )
  rows = folder.records("per_layer.csv")
  if len({row["layer"] for row in rows}) > 1:  # or the table says it all
    drawing = _by_layer(rows, facts["score"])
    out.append(plots.figure(drawing, caption, name="tracking", label="Tracking by layer"))
  return "".join(out)


def _of_seeds(facts: Mapping[str, Any]) -> str:
  """Means over seeds, and how far they are above others."""
  rows, others = [], list(facts["seeds"][0]["above"])
  for row in facts["seeds"]:
    above = dict.fromkeys(others, "-") | {
      other: f"{100 * one['score']:+.1f}"
      + ("" if one["low"] is None else f" ({100 * one['low']:+.1f} to {100 * one['high']:+.1f})")
      for other, one in row["above"].items()
    }
    layers = " ".join(map(str, row["layers"]))
    rows.append({**row, "name": _name(row), "layers": layers, "seeds": len(row["each"]), **above})
  columns = (
    ("mean over seeds", "{name}"),
    ("seeds", "{seeds}"),
    ("layer of each", "{layers}"),
    (f"{facts['score']}, %", "{score:percent}"),
    ("95 % from", "{low:percent}"),
    ("to", "{high:percent}"),
    *((f"above {other}", f"{{{other}}}") for other in others),
  )
  note = (
    "Of encoders that differ in their seed alone. Intervals have the spread over seeds (Student's"
    " t) and the bootstrap over sequences; differences are of the same sequences and seeds."
  )
  return page.records(columns, rows) + page.paragraph(note, "soft")


def claim(folder: reading.RunFolder) -> frame.Claim:
  """The best of what was tried, above or below the best of what learned nothing."""
  facts = folder.json("metrics.json")
  score, rows = facts["score"], facts["rows"]
  simple = [row for row in rows if row["row"] in _SIMPLE or row["row"].endswith("-untrained")]
  mine = [row for row in rows if row not in simple] or rows
  top = max(mine, key=lambda row: row[score])
  others = [row for row in simple if row is not top]
  if top["row"] in _SIMPLE:
    text = f"Of what learned nothing {_SIMPLE[top['row']]} track best, with a"
  else:
    one_rule = len({row["rule"] for row in mine}) == 1
    text = f"{top['row'] if one_rule else _name(top)} tracks with a"
  text, good = f"{text} {_WORDS.get(score, score)} of {_percent(top, score)}", None
  text += "" if top["row"] in _SIMPLE else f" at layer {top['layer']}"
  low, high = top.get("low"), top.get("high")
  sure = verdict.UNKNOWN if low is None else f"95 % from {100 * low:.1f} to {100 * high:.1f} %"
  if others:
    best = max(others, key=lambda row: row[score])
    if low is not None:
      good = True if low > best[score] else False if high < best[score] else None
    word = "above" if top[score] > best[score] else "below"
    word = word if good is not None else f"not surely {word}"
    text += f", {word} {_called(best)} ({_percent(best, score)})"
    if best.get("low") is not None:
      sure += f", of these {100 * best['low']:.1f} to {100 * best['high']:.1f} %"
  return frame.Claim(f"{text}.", f"{sure}, on {_amount(facts)}.", good)


# Rows that track without having learned anything.
_SIMPLE = {"copy": "copies of the first frame's labels", "pixels": "small frames themselves"}


_WORDS = {"J&F-Mean": "J&F"}


def _called(row: Mapping[str, Any]) -> str:
  return _SIMPLE.get(row["row"]) or _name(row)


def _percent(row: Mapping[str, Any], score: str) -> str:
  return f"{100 * row[score]:.1f} %"


def _by_layer(rows: list[dict[str, str]], label: str) -> plots.Draw:
  names = list(dict.fromkeys((row["row"], row["rule"]) for row in rows))

  def draw(axes, palette):
    markers = itertools.cycle("osD^")
    for (row, rule), look, marker in zip(names, palette.looks(), markers):
      mine = [one for one in rows if (one["row"], one["rule"]) == (row, rule)]
      layers = np.array([int(one["layer"]) for one in mine])
      values = 100 * np.array([float(one["score"]) for one in mine])
      look["label"] = _name({"row": row, "rule": rule})
      if len(mine) == 1:
        axes.axhline(values[0], lw=1.2, **(look | {"ls": plots.LEVEL}))
      else:
        axes.plot(layers, values, marker=marker, ms=4, lw=1.4, **look)
    axes.set(xlabel="layer (0: embeddings)", ylabel=f"{label}, %", ylim=(0, None))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(12, integer=True))
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)

  return draw


def drawn(folder: reading.RunFolder) -> str:
  """What was found in some sequences, over their frames (Figure 5)."""
  out = []
  for one in folder.json("metrics.json")["drawn"]:
    caption = (
      f"{one['sequence']}, frames {', '.join(map(str, one['frames']))}. Rows:"
      f" {', '.join(one['rows'])}."
    )
    if "mp4" in one:
      caption += f" All frames: {one['mp4']}."
    alt = f"labels that were found in {one['sequence']}"
    out.append(page.figure(page.picture(folder.bytes(one["png"]), "webp", alt), caption))
  return page.gallery(out)


def sequences(folder: reading.RunFolder) -> str:
  """The score of each sequence, a column a row of the table above."""
  score, rows = folder.json("metrics.json")["score"], folder.records("per_sequence.csv")
  names = list(dict.fromkeys(_name(row) for row in rows))
  by_name: dict[str, dict[str, str]] = {}
  for row in rows:
    by_name.setdefault(row["sequence"], {})[_name(row)] = f"{100 * float(row[score]):.1f}"
  lines = [(name, *(values.get(one, "-") for one in names)) for name, values in by_name.items()]
  return page.fold(f"{score} of every sequence, in %", page.table(("", *names), lines))


PAGE = frame.Kind(
  "tracking",
  claim,
  (("Tracking", found), ("What was found", drawn), ("Sequences", sequences)),
  paper=("Table 10", "Figure 5", "Figure 8"),
)
