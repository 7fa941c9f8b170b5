"""The page of `run = "tokens_report"`: what is in stores of tokens.

Reads the run directory alone. The paper's numbers stand in tables of their own,
marked as the paper's: they are of other images and other tokenizers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from totojax.report import ngram_sections, page, paper, plots, reading
from totojax.rundir import console


def write_report(workdir: epath.PathLike) -> epath.Path:
  """Writes `report.html` into a run directory and returns its path.

  A part whose file is missing says which; the others are not affected.
  """
  return page.write(workdir, about="tokens", sections=SECTIONS)


def write_figures(workdir: epath.PathLike) -> None:
  """Writes `rank_frequency_<n>.png` for n = 1, 2, 3.

  Raises:
    reading.Missing: rank_frequency.csv is missing or damaged.
  """
  folder = reading.Folder(workdir)
  table = folder.table("rank_frequency.csv")
  for n in ngram_sections.FIGURES:
    path = folder.path / f"rank_frequency_{n}.png"
    plots.write(path, ngram_sections.by_rank(table, n))


def headline(folder: reading.Folder) -> str:
  """How much there is, in one sentence and a few numbers."""
  tokens = folder.json("tokens.json")
  stores = tokens["stores"].values()
  hours = [fact["hours"] for fact in stores if fact["hours"] is not None]
  claim = (
    f"{console.short(sum(fact['tokens'] for fact in stores))} tokens in"
    f" {_number(len(stores), 'store')}."
  )
  facts = [
    ("records", f"{sum(fact['records'] for fact in stores):,}"),
    ("frames", console.short(sum(fact["frames"] for fact in stores))),
    ("hours of video", _hours(sum(hours)) if hours else "none"),
    ("tokenizers", str(len(tokens["tokenizers"]))),
  ]
  if len(tokens["tokenizers"]) == 1:
    (fact,) = tokens["tokenizers"].values()
    used = fact["ngrams"][0]["distinct"]
    facts.append(("codes used", f"{used:,} of {fact['vocab']:,}"))
  return page.paragraph(claim, "verdict") + page.facts(facts)


def sources(folder: reading.Folder) -> str:
  """Counts by store, and the paper's Table 2."""
  stores = folder.json("tokens.json")["stores"]
  rows = [
    (
      name,
      fact["kind"],
      f"{fact['records']:,}",
      f"{fact['frames']:,}",
      console.short(fact["tokens"]),
      f"{fact['share']:.1%}",
      "-" if fact["hours"] is None else _hours(fact["hours"]),
      console.short(fact["tokens_30fps"]),
      _step(fact),
    )
    for name, fact in stores.items()
  ]
  head = (
    "store",
    "kind",
    "records",
    "frames",
    "tokens",
    "share",
    "hours",
    "tokens at 30 fps",
    "one frame in",
  )
  note = (
    "Hours are frames x stride / frame rate as the stores' manifests have"
    " them; several crops of a video count several times. “Tokens” are those"
    " in the store, “tokens at 30 fps” what every frame of these hours at 30"
    " frames a second would give: the paper's Table 2 counts in this way."
  )
  return (
    page.table(head, rows, words=2)
    + page.paragraph(note, "soft")
    + "<h3>The paper's Table 2</h3>"
    + _table_2()
  )


def _table_2() -> str:
  total = sum(row.tokens for row in paper.SOURCES)
  rows = []
  for row in paper.SOURCES:
    step = 1 if row.hours is None else paper.STRIDE_FRAMES
    rows.append(
      (
        row.name,
        console.short(row.instances),
        "-" if row.hours is None else _hours(row.hours),
        console.short(row.tokens),
        f"{row.tokens / total:.1%}",
        console.short(row.tokens / step),
        f"{row.mix:.0%}",
      )
    )
  head = (
    "from the paper",
    "instances",
    "hours",
    "tokens at 30 fps",
    "share",
    "tokens at its stride",
    "of a mini-batch",
  )
  note = (
    "Instances, hours and tokens are printed in the paper; its tokens agree"
    " with hours x 3,600 x 30 x 256. Share and tokens at its stride (one"
    f" frame in {paper.STRIDE_FRAMES}) are worked out here from these. The"
    " last column is section 3.3's."
  )
  return page.table(head, rows) + page.paragraph(note, "soft")


def decoded(folder: reading.Folder) -> str:
  """Reconstructions, with originals and PSNR where there are any."""
  tokens = folder.json("tokens.json")
  if not tokens["decoder"]:
    return page.paragraph("Nothing was decoded: no tokenizer was given.", "soft")
  arrays = folder.arrays("samples.npz")
  out = []
  for name in tokens["stores"]:
    if name not in tokens["reconstructions"]:
      out.append(
        page.paragraph(
          f"{name} was not decoded: its codes are of another tokenizer"
          f" ({tokens['stores'][name]['tokenizer']}).",
          "soft",
        )
      )
      continue
    fact = tokens["reconstructions"][name]
    rows, caption = [], f"{name}: decoded from the codes in the store."
    if f"{name}/original" in arrays:
      rows.append(("original", "", arrays[f"{name}/original"]))
      caption += " PSNR is over "
      caption += f"{_number(fact['images'], 'image')}, evenly from the store."
    psnr_db = fact["psnr_db"]
    note = "" if psnr_db is None else f"{psnr_db:.1f} dB"
    rows.append(("from codes", note, arrays[f"{name}/reconstruction"]))
    out.append(page.figure(page.images(rows), caption))
  return "".join(out)


def meaning(folder: reading.Folder) -> str:
  """What each number is."""
  del folder
  return page.table(("", ""), MEANINGS, words=2)


def _hours(hours: float) -> str:
  return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"


def _step(fact: Mapping[str, Any]) -> str:
  if fact["hours"] is None:
    return "-"
  return f"{fact['stride_frames']} at {fact['fps']:g} fps"


def _number(count: int, noun: str) -> str:
  return f"{count:,} {noun}{'s' * (count != 1)}"


MEANINGS = (
  ("n-gram", "n codes side by side; a 1-gram is a code"),
  ("distinct", "different n-grams seen at least once"),
  ("of all possible", "distinct / V^n, of V codes"),
  ("of those seen", "distinct / n-grams seen; 100% if none repeats"),
  ("entropy", "-sum p ln p of their frequencies, as counted"),
  ("at most", "ln V nats: all codes equally frequent"),
  ("perplexity", "exp(entropy): as many equally frequent would do the same"),
  ("held by the top 1 %", "occurrences of the most frequent 1 % distinct"),
  ("a + b", "counted together; 2- and 3-grams from the images of each"),
  ("PSNR", "20 log10(255 / root mean squared error), over all pixels"),
)

SECTIONS: tuple[tuple[str, Callable[[reading.Folder], str]], ...] = (
  ("", headline),
  ("What there is", sources),
  ("How the codes are used", ngram_sections.codes),
  ("Pairs and triples of codes", ngram_sections.pairs),
  ("What the codes keep", decoded),
  ("What the numbers mean", meaning),
)
