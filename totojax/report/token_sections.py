"""Sections of a report about the data and the tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from totojax.report import page, plots, reading

METHODS = {"reconstruction": "tokenizer", "kmeans": "k-means patches", "mean_colour": "mean colour"}

NGRAM_HEAD = (
  "seen",
  "distinct",
  "of all possible",
  "of those seen",
  "perplexity",
  "held by the top 1 %",
)


def reconstructions(folder: reading.Folder) -> str:
  """Frames, what the tokenizer keeps of them, and two baselines."""
  arrays = folder.arrays("shards/samples.npz")
  tokens = reading.optional(lambda: folder.json("shards/tokens.json"), None)
  psnr_db = (tokens or {}).get("psnr_db", {})
  rows = [("original", "", arrays["original"])]
  for method, name in METHODS.items():
    if method in arrays:
      note = f"{psnr_db[method]:.1f} dB" if method in psnr_db else ""
      rows.append((name, note, arrays[method]))
  caption = (
    "Held-out frames. k-means has as many codes on patches of the same size;"
    " PSNR is over more frames than are shown."
  )
  if tokens is None:
    caption += " PSNR is not shown: shards/tokens.json is missing."
  out = page.figure(page.images(rows), caption)
  if {"reconstruction", "kmeans"} <= psnr_db.keys():
    gain_db = psnr_db["reconstruction"] - psnr_db["kmeans"]
    sentence = (
      f"The tokenizer's reconstructions are {abs(gain_db):.1f} dB"
      f" {'better' if gain_db > 0 else 'worse'} than k-means on patches."
    )
    out = page.paragraph(sentence) + out
  return out


def codes(folder: reading.Folder) -> str:
  """How the codes are used: the paper's Figures 3, 12 and 13."""
  tokens = folder.json("shards/tokens.json")
  vocab, used = tokens["vocab"], tokens["codes_used"]
  sentence = (
    f"{used:,} of {vocab:,} codes are used; their perplexity is"
    f" {tokens['perplexity']:,.1f} ({tokens['entropy_nats']:.2f} nats),"
    f" counted over {tokens['images']:,} training frames."
  )
  rows = [(f"{row['n']}-grams", *ngram_cells(row)) for row in tokens["ngrams"]]
  svg = plots.html(
    plots.rank_frequency(tokens["ngrams"]), name="ngrams", label="Occurrences of n-grams by rank"
  )
  caption = (
    f"Rank and frequency of n-grams in {tokens['adjacency']} order within a"
    " frame, both axes logarithmic."
  )
  return page.paragraph(sentence) + page.table(("", *NGRAM_HEAD), rows) + page.figure(svg, caption)


def ngram_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
  """What a table shows of one n, under NGRAM_HEAD."""
  return (
    f"{row['total']:,}",
    f"{row['distinct']:,}",
    share(row["space_coverage"]),
    share(row["total_coverage"]),
    f"{row['perplexity']:,.1f}",
    f"{row['top_percent_mass']:.1%}",
  )


def share(value: float) -> str:
  """12.34%, or 1.2e-05 where that would be 0.00%."""
  return f"{value:.2%}" if value >= 1e-4 else f"{value:.1e}"


def skipped(folder: reading.Folder) -> str:
  """Videos that could not be used; rendered clips have none."""
  rows = reading.optional(lambda: folder.rows("clips/skipped.csv"), [])
  if not rows:
    return page.paragraph("Every clip could be used.", "soft")
  return page.fold(
    f"{len(rows)} video{'s' * (len(rows) > 1)} could not be used",
    page.table(("video", "reason"), rows, words=2),
  )
