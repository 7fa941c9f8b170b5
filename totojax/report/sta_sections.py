"""Sections of a report about short-term anticipation: top-5 mAP, and drawn boxes."""

from collections.abc import Iterator, Mapping
from typing import Any

from totojax.report import frame, page, reading, verdict

COLUMNS = {
  "noun": "Noun",
  "noun_verb": "Noun + verb",
  "noun_ttc": "Noun + time",
  "overall": "Overall",
}


def claim(folder: reading.RunFolder) -> frame.Claim:
  """Overall top-5 mAP against the best rule."""
  facts = folder.json("metrics.json")
  if "overall" not in facts:
    line = f"{facts['n']:,} queries of {facts['split']} were foreseen; their objects are not known."
    return frame.Claim(line, "no interval: results.json is for the challenge's server")
  rules = {name: row["overall"] for name, row in facts.get("baselines", {}).items()}
  line, good = f"Top-5 mAP overall {facts['overall']:.1f} %", None
  ends = facts.get("interval", {}).get("overall") or (None, None)
  if rules:
    best = max(rules, key=rules.__getitem__)
    line += f"; the best rule without pixels ({best}) has {rules[best]:.1f} %"
    if None not in ends:
      good = True if ends[0] > rules[best] else False if ends[1] < rules[best] else None
  sure = verdict.UNKNOWN if None in ends else f"95 % from {ends[0]:.1f} to {ends[1]:.1f} %"
  return frame.Claim(f"{line}.", f"{sure}, on {facts['n']:,} queries.", good)


def sentences(facts: Mapping[str, Any]) -> Iterator[str]:
  """What metrics.json says, in a line or two."""
  if "overall" not in facts:
    yield f"{facts['n']} queries of {facts['split']}, whose objects are not known"
    return
  each = ", ".join(f"{name} {facts[key]:.1f}" for key, name in COLUMNS.items())
  yield f"top-5 mAP in % on {facts['n']} queries of {facts['split']}: {each}"
  for name, row in facts.get("baselines", {}).items():
    each = ", ".join(f"{text} {row[key]:.1f}" for key, text in COLUMNS.items())
    yield f"  {name}: {each}"


def found(folder: reading.RunFolder) -> str:
  """The four columns of the model, of rules, and of the paper."""
  facts = folder.json("metrics.json")
  if "overall" not in facts:
    return page.paragraph(
      f"{facts['n']:,} queries of {facts['split']}, whose objects are not known; results.json is"
      " for the challenge's server."
    )

  def cells(row: Mapping[str, Any]) -> list[str]:
    ends = row.get("interval", {})
    out = []
    for key in COLUMNS:
      text = f"{row[key]:.1f}"
      if key in ends and None not in ends[key]:
        text += f" ({ends[key][0]:.1f} to {ends[key][1]:.1f})"
      out.append(text)
    return out

  lines = [("this run", *cells(facts))]
  lines += [(name, *cells(row)) for name, row in facts.get("baselines", {}).items()]
  if "compatible" in facts:
    lines.append(("this run, as the challenge's code counts", *cells(facts["compatible"])))
  if paper := facts.get("paper"):
    lines.append((f"paper, {paper['name']}", *cells(paper)))
  out = [page.table(("top-5 mAP, %", *COLUMNS.values()), lines)]
  expected = facts["n_expected"]
  of = f" of {expected:,}" if expected != facts["n"] else ""
  out.append(
    page.paragraph(
      f"{facts['n']:,}{of} queries of {facts['split']} with {facts['objects']:,} objects of"
      f" {facts['nouns']} nouns and {facts['verbs']} verbs, in {facts['videos']:,} videos;"
      f" {facts['detections']:,} detections. Of each query the first four false positives an object"
      " do not count. Intervals are of a bootstrap over videos. The challenge ranks by Overall:"
      " noun, verb and time to contact are right, the time to a quarter of a second.",
      "soft",
    )
  )
  return "".join(out)


def drawn(folder: reading.RunFolder) -> str:
  """Queries with what is true of them, and what was foreseen."""
  out = []
  for one in folder.json("metrics.json")["drawn"]:
    true = "; ".join(one["true"]) or "not known"
    caption = f"{one['uid']}. True (green): {true}. Foreseen (orange): {'; '.join(one['found'])}."
    alt = f"boxes of what is touched next in {one['uid']}"
    out.append(page.figure(page.picture(folder.bytes(one["picture"]), "webp", alt), caption))
  return page.gallery(out)


PAGE = frame.Kind(
  "short-term anticipation",
  claim,
  (("Short-term anticipation", found), ("What was foreseen", drawn)),
  paper=("Table 9",),
)
