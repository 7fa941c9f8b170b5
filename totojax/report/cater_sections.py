"""Sections of a report about CATER's snitch: models beside rules, and the paper's Table 12."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from totojax.report import frame, page, paper, plots, reading
from totojax.rundir import wording

_NAMES = {
  "last seen": "rule: the last visible place",
  "frequent": "rule: the most frequent cell of training",
  "middle": "rule: the cell that is least far off in training",
  "chance": "rule: any cell",
}
_GROUPS = {
  "all": "All clips",
  "carried": "The snitch is carried while it is hidden",
  "hidden, not carried": "The snitch ends hidden, in the cell in which it was covered",
  "seen": "Nothing covers the snitch at the end",
}

_WHERE = {"all": "Over all clips", "carried": "Where the snitch is carried while it is hidden"}


def claim(folder: reading.RunFolder) -> frame.Claim:
  """Whether a model is better than the last visible place, where the snitch is carried."""
  facts = folder.json("metrics.json")
  groups = ("carried", "all")
  told = [one for group in groups for one in facts["verdicts"] if one["group"] == group]
  rows = [row for group in groups for row in facts["rows"] if row["group"] == group and row["n"]]
  mine = [row for row in rows if row["name"] in facts["models"]]
  if not mine:
    raise reading.Missing("metrics.json has no model")
  if not told:
    row = max(mine, key=lambda one: one["top1"] or 0.0)
    said = f"top-1 {_percent(row, 'top1')}, 95 %, on {wording.counted(row['n'], 'clip')}"
    return frame.Claim(f"{row['name']}: top-1 {100 * (row['top1'] or 0):.1f} %.", said)
  best = next((one for one in told if one["top1"] or one["l1"]), told[0])
  row = next(r for r in mine if (r["name"], r["group"]) == (best["name"], best["group"]))
  said = (
    f"top-1 {_percent(row, 'top1')}, L1 {_cells(row)}, 95 %, on {wording.counted(row['n'], 'clip')}"
  )
  line = _verdict(best).partition(" (")[0]
  said = f"{said}; surely: intervals do not meet"
  return frame.Claim(f"{line}.", said, bool(best["top1"] or best["l1"]) or None)


def sentences(facts: Mapping[str, Any]) -> Iterator[str]:
  """Top-1, top-5 and L1 of every model and group, and what they are worth."""
  for row in facts["rows"]:
    if row["n"] and row["name"] in facts["models"]:
      yield (
        f"{row['name']}, {row['group']} ({wording.counted(row['n'], 'clip')},"
        f" {wording.counted(row['runs'], 'run')}): top-1"
        f" {_percent(row, 'top1')}, top-5 {_percent(row, 'top5')}, L1 {_cells(row)}"
      )
  for one in facts["verdicts"]:
    if one["group"] in ("all", "carried"):
      yield _verdict(one)


def _percent(row: Mapping[str, Any], key: str) -> str:
  if row[key] is None:
    return "-"
  value, low, high = (100 * row[k] for k in (key, f"{key}_low", f"{key}_high"))
  return f"{value:.1f} % ({max(low, 0):.1f} to {min(high, 100):.1f})"


def _cells(row: Mapping[str, Any]) -> str:
  if row["l1"] is None:
    return "-"
  return f"{row['l1']:.2f} cells ({max(row['l1_low'], 0):.2f} to {row['l1_high']:.2f})"


def _verdict(one: Mapping[str, Any]) -> str:
  surely = [name for key, name in (("top1", "top-1"), ("l1", "L1")) if one[key]]
  said = f"surely better in {' and in '.join(surely)}" if surely else "not surely better"
  where = _WHERE.get(one["group"], one["group"])
  return (
    f"{where}, {one['name']} is {said} than the last visible place"
    f" ({wording.counted(one['n'], 'clip')}; surely: intervals that do not meet)"
  )


def found(folder: reading.RunFolder) -> str:
  """A table for each group of clips."""
  facts, out = folder.json("metrics.json"), []
  out += [
    page.paragraph(f"{_verdict(one)}.") for one in facts["verdicts"] if one["group"] == "carried"
  ]
  for group in dict.fromkeys(row["group"] for row in facts["rows"]):
    rows = [row for row in facts["rows"] if row["group"] == group]
    if not rows[0]["n"]:
      continue
    lines = [
      (
        _NAMES.get(row["name"], f"{row['name']}, {wording.counted(row['runs'], 'run')}"),
        _percent(row, "top1"),
        _percent(row, "top5"),
        _cells(row),
      )
      for row in rows
    ]
    head = (f"{_GROUPS[group]}: {wording.counted(rows[0]['n'], 'clip')}", "top-1", "top-5", "L1")
    out.append(page.table(head, lines))
  if facts["n"] != facts["n_expected"]:
    absent = (
      f"{facts['n_expected'] - facts['n']} of"
      f" {wording.counted(facts['n_expected'], 'clip')} are missing."
    )
    out.append(page.paragraph(absent, "missing"))
  side = facts["side"]
  out.append(
    page.paragraph(
      f"The cell of {side} x {side} in which the snitch is in the last frame. L1 is the mean"
      " Manhattan distance of the named cell, in cells. 95 % intervals: Wilson's of shares, a"
      " bootstrap over clips of distances, and of several runs the spread over these. The last"
      " visible place is where the snitch was when something covered it for good: it needs a"
      " perfect tracker of what is seen, and is wrong by what they are in clips in which the"
      " snitch is carried into another cell.",
      "soft",
    )
  )
  return "".join(out)


def distances(folder: reading.RunFolder) -> str:
  """How far off models and the last visible place are, where the snitch is carried."""
  facts, rows = folder.json("metrics.json"), folder.records("per_item.csv")
  group = "carried" if any(row.get("carried") == "1" for row in rows) else "all"
  mine = [row for row in rows if group == "all" or row["carried"] == "1"]
  side, columns = facts["side"], {}
  for name in facts["models"]:
    columns[name] = [key for key in mine[0] if key.rpartition("/")[0] == name]
  if "last_seen" in mine[0]:
    columns["the last visible place"] = ["last_seen"]
  label_M = np.array([int(row["label"]) for row in mine])

  def draw(axes, palette):
    for (name, keys), look in zip(columns.items(), palette.looks()):
      named_SM = np.array([[int(row[key]) for row in mine] for key in keys])
      off_SM = abs(named_SM // side - label_M // side) + abs(named_SM % side - label_M % side)
      shares = np.bincount(off_SM.ravel(), minlength=2 * side - 1) / off_SM.size
      axes.plot(100 * np.cumsum(shares), marker="o", ms=4, lw=1.4, label=name, **look)
    axes.set(xlabel="cells off, at most", ylabel="clips, %", ylim=(0, 103))
    axes.legend(fontsize=8, loc="lower right")

  caption = (
    f"{_GROUPS[group]}: {wording.counted(len(mine), 'clip')}, and how far off the named cell is."
  )
  return plots.figure(draw, caption, name="cells", label="How far off the named cell is")


def published(folder: reading.RunFolder) -> str:
  """Table 12: of CATER itself, and of models that no report has."""
  if not folder.json("metrics.json")["paper"]:
    return ""
  lines = [(name, model, *scores) for name, model, *scores in paper.TABLE_12_ROWS]
  told = ", ".join(
    f"{text} at {wording.counted(n, 'frame')}" for n, (text, _) in paper.TABLE_12.items()
  )
  return page.table(("the paper's", "model", "16 frames", "32 frames"), lines, words=2) + (
    page.paragraph(
      "Top-1 on CATER itself, as printed in the paper's Table 12: the first two rows are other"
      f" people's, which the paper cites. Its text has {told}. A rendered stand-in is another"
      " data set, and its numbers are not to be compared with these.",
      "soft",
    )
  )


PAGE = frame.Kind(
  "CATER",
  claim,
  (("Where is the snitch?", found), ("How far off", distances), ("The paper's numbers", published)),
  paper=("Table 12",),
)
