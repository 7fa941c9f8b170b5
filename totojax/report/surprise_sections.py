"""Sections of a report about videos that cannot be, and whether a model finds them unlikely."""

from collections.abc import Mapping
from typing import Any

from totojax.report import frame, page, reading, shares
from totojax.rundir import wording

# Metric -> what it is, and whose.
_METRICS = {
  "pairs": "pairs whose impossible video surprises more (V-JEPA, IntPhys 2; ties lose)",
  "pairs_half": "the same, ties half",
  "sums": "groups whose impossible videos sum up to more (IntPhys)",
  "crossed": "each impossible video against each possible one of its group (InfLevel)",
  "auroc": "area below the ROC curve, over all videos",
  "auprc": "area below precision over recall, by trapezia (V-JEPA)",
  "absolute": "right by the threshold that 90 % of possible videos are below (V-JEPA)",
  "halves": "right if the more surprising half is called impossible (IntPhys, IntPhys 2)",
  "best_absolute": "right by the best threshold, which has seen the answers",
}


def found(folder: reading.RunFolder) -> str:
  """The verdict, all metrics, and what they are by kind and by context."""
  facts = folder.json("surprise.json")
  if "all" not in facts:
    return page.paragraph(
      f"{wording.counted(facts['videos'], 'video')} whose labels are not known: maximum.txt"
      " and average.txt hold"
      " their plausibility."
    )
  return (
    page.paragraph(_how(facts), "soft")
    + _metrics(facts)
    + _kinds(facts)
    + page.fold("by every context", _settings(facts))
  )


def claim(folder: reading.RunFolder) -> frame.Claim:
  """Whether impossible videos surprise more."""
  facts = folder.json("surprise.json")
  if "all" not in facts:
    return frame.Claim(
      f"{wording.counted(facts['videos'], 'video')} were scored; their labels are not known."
    )
  low, high = facts["all"]["sums_interval"]
  good = True if low > 0.5 else False if high < 0.5 else None
  word: dict[bool | None, str] = {True: "surprise the model more"}
  word |= {False: "surprise the model less", None: "do not surely surprise the model more"}
  line = f"Impossible videos {word[good]} than possible ones."
  said = sentence(facts)
  return frame.Claim(line, f"{said[0].upper()}{said[1:]}.", good)


def sentence(facts: Mapping[str, Any]) -> str:
  """Whether the model is right more often than chance, of scenes and of pairs."""
  whole = facts["all"]
  low, high = whole["sums_interval"]
  word = "above chance" if low > 0.5 else "below chance" if high < 0.5 else "not told from chance"
  scenes, pairs = (
    shares.percent(whole[name], whole[n])
    for name, n in (("sums", "n_groups"), ("pairs", "n_pairs"))
  )
  of = whole["difference"]
  text = (
    f"impossible videos surprise more in {scenes} of"
    f" {wording.counted(whole['n_groups'], 'group')}: {word} (50 %);"
    f" in {pairs} of {wording.counted(whole['n_pairs'], 'pair')} alone; by {of['mean']:+.4f}"
    " nats per token"
  )
  return text if of["low"] is None else f"{text} ({of['low']:+.4f} to {of['high']:+.4f})"


def _how(facts: Mapping[str, Any]) -> str:
  amounts = facts["amounts"]
  skipped = (
    f" {wording.counted(facts['skipped'], 'group')} were left out (skipped.csv)."
    if facts["skipped"]
    else ""
  )
  return (
    f"Windows of {wording.counted(amounts['window'], 'frame')}, {amounts['stride']} from one"
    " to the next; contexts of"
    f" {', '.join(map(str, amounts['contexts']))} frames. Surprise is nats per token of what"
    f" follows the context ({facts['context']}: {facts['how']}), and the {facts['aggregate']} over"
    f" windows. Intervals are of 95 %: Wilson's of groups and pairs, a bootstrap over groups"
    f" of the area, Student's t over groups of the difference.{skipped}"
  )


def _metrics(facts: Mapping[str, Any]) -> str:
  whole, rows = facts["all"], []
  for name, words in _METRICS.items():
    value = whole[name]
    ends = whole.get(f"{name}_interval")
    interval = f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}" if ends else ""
    rows.append((words, "-" if value is None else f"{100 * value:.1f}", interval))
  rows.append(
    ("p of a permutation of the videos of groups (InfLevel)", f"{whole['crossed_p']:.3g}", "")
  )
  return page.table(("", "%", "95 %"), rows)


def _kinds(facts: Mapping[str, Any]) -> str:
  rows = []
  for kind, one in facts["kinds"].items():
    scenes = shares.percent(one["sums"], one["n_groups"])
    pairs = shares.percent(one["pairs"], one["n_pairs"])
    n = f"{one['n_groups']:,} / {one['n_pairs']:,}"
    rows.append((kind, scenes, pairs, n, f"{100 * one['auroc']:.1f}"))
  head = ("kind", "groups right", "pairs right", "groups / pairs", "ROC area, %")
  return page.table(head, rows) if rows else ""


def _settings(facts: Mapping[str, Any]) -> str:
  rows = [
    (
      f"{one['context']}, {one['aggregate']}",
      *(f"{100 * one[name]:.1f}" for name in ("sums", "pairs", "auroc")),
    )
    for one in facts["settings"]
  ]
  return page.table(
    ("context, aggregate", "groups right, %", "pairs right, %", "ROC area, %"), rows
  )


def worst(folder: reading.RunFolder) -> str:
  """Frames where impossible videos surprise most, and where in them."""
  facts = folder.json("surprise.json")
  figures = []
  for one in facts["drawn"]:
    nats = ", ".join(f"{value:.3f}" for value in one["nats"])
    figures.append(
      page.figure(
        page.picture(
          folder.bytes(one["png"]), "png", f"heat maps of {' and '.join(one['videos'])}"
        ),
        f"Frame {one['frame']} of {' and '.join(one['videos'])}, each beside the loss of its"
        f" tokens, from 0 (dark) to {one['most']:.2f} nats (light); mean {nats}.",
      )
    )
  return page.gallery(figures)


PAGE = frame.Kind("surprise", claim, (("Surprise", found), ("Where it surprises most", worst)))
