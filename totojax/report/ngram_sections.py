"""Sections of a report about how often codes, and runs of codes, occur.

What the paper's Figures 3, 12 and 13 show; its own numbers stand in tables of
their own, since they are of other images and other tokenizers.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from totojax.report import page, paper, plots, reading, token_sections

FIGURES = {1: "Figure 3", 2: "Figure 12", 3: "Figure 13"}  # the paper's
CURVE_POINTS = 160


def by_rank(table: Mapping[str, plots.Table], n: int) -> plots.Draw:
  """Rank and frequency of the n-grams of every store."""
  return plots.by_rank(curves(table, n), ylabel=f"share of all {n}-grams")


def curves(table: Mapping[str, plots.Table], n: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """(rank, share of all occurrences) by store, evenly in log rank."""
  out = {}
  for name, columns in table.items():
    rows = columns["n"] == n
    first, last, count = (columns[key][rows] for key in ("first_rank", "last_rank", "count"))
    rank = np.unique(np.rint(np.geomspace(1, last[-1], CURVE_POINTS)))
    total = (count * (last - first + 1)).sum()
    out[name] = (rank, count[np.searchsorted(last, rank)] / total)
  return out


def codes(folder: reading.RunFolder) -> str:
  """1-grams: which codes are used, and how evenly."""
  tokens = folder.json("tokens.json")
  rows = [
    {
      "name": name,
      "most_nats": np.log(fact["vocab"]),
      **fact,
      **fact["ngrams"][0],
      **{name: fact.get("use", {}).get(name) for name in ("commonest", "single")},
    }
    for name, _, fact in sets(tokens)
  ]
  columns = (
    ("", "{name}"),
    ("tokens", "{total:,}"),
    ("codes used", "{distinct:,} of {vocab:,}"),
    ("share", "{space_coverage:share}"),
    ("entropy (nats)", "{entropy_nats:.3f}"),
    ("at most", "{most_nats:.3f}"),
    ("(bits)", "{entropy_bits:.3f}"),
    ("perplexity", "{perplexity:,.1f}"),
    ("held by the top 1 %", "{top_percent_mass:.1%}"),
    ("by the commonest", "{commonest:.1%}"),
    ("records of a single code", "{single:.1%}"),
  )
  read_off = [{**vars(row), "share": row.used / row.vocab} for row in paper.CODES]
  columns_read_off = (
    ("read off the figure", "{name}"),
    ("codes", "{vocab:,}"),
    ("codes used", "about {used:,}"),
    ("share", "about {share:.0%}"),
  )
  return (
    page.records(columns, rows)
    + _figure(folder, 1)
    + _rare(tokens)
    + "<h3>The paper's Figure 3</h3>"
    + page.records(columns_read_off, read_off)
    + page.paragraph("On the ImageNet validation set; not printed in the paper.", "soft")
  )


def _rare(tokens: Mapping[str, Any]) -> str:
  """Never used codes, and the least used of the others."""
  out = []
  for mark, fact in tokens["tokenizers"].items():
    rare = fact["rare"]
    line = f"{rare['never']:,} of {fact['vocab']:,} codes are never used"
    if rare["never"]:
      shown = ", ".join(map(str, rare["never_first"]))
      more = rare["never"] > len(rare["never_first"])
      line += f" ({'the first: ' if more else ''}{shown})"
    least = ", ".join(f"{code} ({count:,})" for code, count in rare["rarest"])
    content = page.paragraph(f"Tokenizer {mark}: {line}.")
    content += page.paragraph(f"Least used otherwise: {least} (times).")
    out.append(page.fold(f"Rarely used codes of {' + '.join(fact['stores'])}", content))
  return "".join(out)


def pairs(folder: reading.RunFolder) -> str:
  """2- and 3-grams, and the paper's Figure 12."""
  tokens = folder.json("tokens.json")
  rows = [{"name": name, **row} for name, _, fact in sets(tokens) for row in fact["ngrams"][1:]]
  columns = (
    ("", "{name}, {n}-grams"),
    ("images", "{images:,}"),
    *token_sections.NGRAM_COLUMNS,
    ("entropy (nats)", "{entropy_nats:.3f}"),
  )
  order = {"raster": "in raster order, from the end of a row into the next", "row": "within a row"}[
    tokens["adjacency"]
  ]
  note = (
    f"Neighbouring codes {order}, never from one image into another; a frame of a video is one"
    " image. How many are distinct grows with the images counted, and frames of one video repeat"
    " each other: compare only sets of equally many images."
  )
  columns_read_off = (
    ("read off the figure", "{name}"),
    ("codes", "{vocab:,}"),
    ("distinct 2-grams", "{bigrams:short}"),
  )
  return (
    page.records(columns, rows)
    + page.paragraph(note, "soft")
    + page.pair(_figure(folder, 2, half=True) + _figure(folder, 3, half=True))
    + "<h3>The paper's Figure 12</h3>"
    + page.records(columns_read_off, map(vars, paper.CODES))
    + page.paragraph(
      f"On {paper.BIGRAM_IMAGES:,} ImageNet validation images; not printed in the paper. Of 3-grams"
      " (Figure 13) it says that all three tokenizers have a similar, almost flat distribution.",
      "soft",
    )
  )


def sets(tokens: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
  """(name, tokenizer, facts) of each store, then of stores together."""
  stores = [(name, fact["tokenizer"], fact) for name, fact in tokens["stores"].items()]
  together = [
    (" + ".join(fact["stores"]), mark, fact)
    for mark, fact in tokens["tokenizers"].items()
    if len(fact["stores"]) > 1
  ]
  return stores + together


def _figure(folder: reading.RunFolder, n: int, *, half: bool = False) -> str:
  draw = by_rank(folder.table("rank_frequency.csv"), n)
  label = f"Share of occurrences of {n}-grams by rank, for each store"
  caption = (
    f"Rank and frequency of {n}-grams, both axes logarithmic. The paper's"
    f" {FIGURES[n]} shows this for its tokenizers."
  )
  return plots.figure(draw, caption, name=f"rank-{n}", label=label, half=half)
