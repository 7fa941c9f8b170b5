"""Sections of a report about short-term anticipation: top-5 mAP, and drawn boxes."""

from collections.abc import Iterator, Mapping
from typing import Any

from totojax.report import page, reading

COLUMNS = {
  "noun": "Noun",
  "noun_verb": "Noun + verb",
  "noun_ttc": "Noun + time",
  "overall": "Overall",
}


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
  return "".join(out) or page.missing("output.pictures is 0")


SECTIONS: tuple[page.Section, ...] = (
  ("Short-term anticipation", found),
  ("What was foreseen", drawn),
)
