"""Sections of a report about the data and the tokenizer."""

import collections
import math

from totojax.report import page, plots, reading
from totojax.rundir import wording

METHODS = {
  "reconstruction": "tokenizer",
  "kmeans": "k-means patches",
  "block_means": "mean of each patch",
  "mean_colour": "mean colour",
}

COARSE = (
  "The losses above are comparable all the same: every predictor sees the same codes. What the"
  " codes leave out no model can learn: for detail take a tokenizer that was trained on more"
  " pictures (configs/official.py has DALL-E's), and make the tokens again."
)

NGRAM_COLUMNS = (
  ("seen", "{total:,}"),
  ("distinct", "{distinct:,}"),
  ("of all possible", "{space_coverage:share}"),
  ("of those seen", "{total_coverage:share}"),
  ("perplexity", "{perplexity:,.1f}"),
  ("held by the top 1 %", "{top_percent_mass:.1%}"),
)


def reconstructions(folder: reading.RunFolder) -> str:
  """Frames, what the tokenizer keeps of them, and three baselines."""
  arrays = folder.arrays("shards/samples.npz")
  tokens = reading.optional(None, folder.json, "shards/tokens.json")
  psnr_db, ssim = ((tokens or {}).get(key, {}) for key in ("psnr_db", "ssim"))
  rows = [("original", "", arrays["original"])]
  for method, name in METHODS.items():
    if method in arrays:
      note = _decibels(psnr_db[method]) if method in psnr_db else ""
      note += f", SSIM {ssim[method]:.3f}" if method in ssim else ""
      rows.append((name, note, arrays[method]))
  caption = (
    "Held-out frames. k-means has as many codes on patches of the same size;"
    " PSNR is over more frames than are shown."
  )
  if tokens is None:
    caption += " PSNR is not shown: shards/tokens.json is missing."
  out = page.figure(page.images(rows), caption)
  if {"reconstruction", "kmeans"} <= psnr_db.keys():
    ours, kmeans = psnr_db["reconstruction"], psnr_db["kmeans"]
    far = f" {_decibels(abs(ours - kmeans))}" if math.isfinite(ours - kmeans) else ""
    sentence = (
      f"The tokenizer's reconstructions are{far} {'better' if ours > kmeans else 'worse'} than"
      " k-means on patches"
    )
    if ours == kmeans:
      sentence = "The tokenizer's reconstructions are as good as those of k-means on patches"
    sentence += "." if ours >= kmeans else f", which is fitted to these videos. {COARSE}"
    out = page.paragraph(sentence) + out
  return out


def _decibels(value: float) -> str:
  """Of a PSNR: a copy without any error has none."""
  return f"{value:.1f} dB" if math.isfinite(value) else "exact"


def codes(folder: reading.RunFolder) -> str:
  """How the codes are used: the paper's Figures 3, 12 and 13."""
  tokens = folder.json("shards/tokens.json")
  sentence = (
    "{codes_used:,} of {vocab:,} codes are used; their perplexity is {perplexity:,.1f}"
    " ({entropy_nats:.2f} nats), counted over {images:,} training frames."
  ).format_map(tokens)
  if tokens.get("frame_factor", 1) > 1:
    sentence += (
      " They are latent frames, which hold"
      f" {wording.counted(tokens['frame_factor'], 'frame')} each."
    )
  curves = {f"{row['n']}-grams": (row["rank"], row["count"]) for row in tokens["ngrams"]}
  caption = (
    f"Rank and frequency of n-grams in {tokens['adjacency']} order within a"
    " frame, both axes logarithmic."
  )
  return (
    page.paragraph(sentence)
    + page.records((("", "{n}-grams"), *NGRAM_COLUMNS), tokens["ngrams"])
    + plots.figure(
      plots.by_rank(curves, ylabel="occurrences"),
      caption,
      name="ngrams",
      label="Occurrences of n-grams by rank",
    )
  )


def skipped(folder: reading.RunFolder) -> str:
  """Videos that could not be used, or not as asked; rendered clips have none."""
  short = reading.optional([], folder.rows, "clips/short.csv")
  note = page.too_short({"The folder": collections.Counter(way for _, way in short)})
  rows = reading.optional([], folder.rows, "clips/skipped.csv")
  if not rows:
    return note
  title = f"{len(rows)} video{'s' * (len(rows) > 1)} could not be used"
  return note + page.fold(title, page.table(("video", "reason"), rows, words=2))
