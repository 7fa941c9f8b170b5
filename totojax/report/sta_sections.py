"""Sections of a report about short-term anticipation: top-5 mAP, and drawn boxes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from totojax.report import frame, page, reading, verdict
from totojax.rundir import wording

COLUMNS = {
  "noun": "Noun",
  "noun_verb": "Noun + verb",
  "noun_ttc": "Noun + time",
  "overall": "Overall",
}

_HOW = {"sta": "trained through", "sta_frozen": "on a frozen backbone"}


def claim(folder: reading.RunFolder) -> frame.Claim:
  """Overall top-5 mAP against the best rule."""
  facts = folder.json("metrics.json")
  if "overall" not in facts:
    line = (
      f"{wording.counted(facts['n'], 'query', 'queries')} of {facts['split']} were"
      " foreseen; their objects are not known."
    )
    return frame.Claim(line, "no interval: results.json is for the challenge's server")
  ends = facts.get("interval", {}).get("overall") or (None, None)
  return _against_rules(facts, f"Top-5 mAP overall {facts['overall']:.1f} %", "95 %", ends)


def claim_of_seeds(folder: reading.RunFolder) -> frame.Claim:
  """The mean of overall top-5 mAP over seeds, against the best rule."""
  facts = folder.json("metrics.json")
  mean, count = facts["overall"], wording.counted(len(facts["seeds"]), "seed")
  line = f"Top-5 mAP overall {mean['mean']:.1f} %, mean of {count}, {_HOW[facts['protocol']]}"
  ends = (mean["low"], mean["high"])
  return _against_rules(facts, line, f"95 % over {count} (Student's t)", ends)


def _against_rules(
  facts: Mapping[str, Any], line: str, how: str, ends: Sequence[float | None]
) -> frame.Claim:
  """A claim about top-5 mAP and its interval, beside the best rule's."""
  rules, good = {name: row["overall"] for name, row in facts.get("baselines", {}).items()}, None
  low, high = ends
  if rules:
    best = max(rules, key=rules.__getitem__)
    line += f"; the best rule without pixels ({best}) has {rules[best]:.1f} %"
    if low is not None and high is not None:
      good = True if low > rules[best] else False if high < rules[best] else None
  sure = verdict.UNKNOWN if low is None else f"{how} from {low:.1f} to {high:.1f} %"
  return frame.Claim(
    f"{line}.", f"{sure}, on {wording.counted(facts['n'], 'query', 'queries')}.", good
  )


def of_seeds(folder: reading.RunFolder) -> str:
  """The four columns: mean over seeds, each seed, and rules."""
  facts = folder.json("metrics.json")
  mean = [
    f"{facts[key]['mean']:.1f} ({facts[key]['low']:.1f} to {facts[key]['high']:.1f})"
    for key in COLUMNS
  ]
  lines = [(f"mean of {wording.counted(len(facts['seeds']), 'seed')}", *mean)]
  for number, seed in enumerate(facts["seeds"]):
    lines.append((f"seed {seed}", *(f"{facts[key]['each'][number]:.1f}" for key in COLUMNS)))
  for name, row in facts["baselines"].items():
    lines.append((name, *(f"{row[key]:.1f}" for key in COLUMNS)))
  note = (
    f"{wording.counted(facts['n'], 'query', 'queries')} of {facts['split']} with"
    f" {wording.counted(facts['objects'], 'object')}, the same of all"
    " seeds. Intervals of the mean are of what seeds differ by alone (Student's t)."
  )
  head = ("top-5 mAP, %", *COLUMNS.values())
  return page.table(head, lines) + page.paragraph(note, "soft")


def sentences(facts: Mapping[str, Any]) -> Iterator[str]:
  """What metrics.json says, in a line or two."""
  if "overall" not in facts:
    count = wording.counted(facts["n"], "query", "queries")
    yield f"{count} of {facts['split']}, whose objects are not known"
    return
  each = ", ".join(f"{name} {facts[key]:.1f}" for key, name in COLUMNS.items())
  yield (
    f"top-5 mAP in % on {wording.counted(facts['n'], 'query', 'queries')} of"
    f" {facts['split']}: {each}"
  )
  for name, row in facts.get("baselines", {}).items():
    each = ", ".join(f"{text} {row[key]:.1f}" for key, text in COLUMNS.items())
    yield f"  {name}: {each}"


def found(folder: reading.RunFolder) -> str:
  """The four columns of the model, of rules, and of the paper."""
  facts = folder.json("metrics.json")
  if "overall" not in facts:
    return page.paragraph(
      f"{wording.counted(facts['n'], 'query', 'queries')} of {facts['split']}, whose objects"
      " are not known; results.json is"
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
      f"{facts['n']:,}{of} {wording.plural(expected, 'query', 'queries')} of {facts['split']} with"
      f" {wording.counted(facts['objects'], 'object')} of"
      f" {wording.counted(facts['nouns'], 'noun')} and"
      f" {wording.counted(facts['verbs'], 'verb')}, in {wording.counted(facts['videos'], 'video')};"
      f" {wording.counted(facts['detections'], 'detection')}. Of each query the first four"
      " false positives an object"
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
SEEDS = frame.Kind(
  "short-term anticipation over seeds",
  claim_of_seeds,
  (("Over seeds", of_seeds),),
  paper=("Table 9",),
)
