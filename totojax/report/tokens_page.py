"""The page of `run = "tokens_report"`: what is in stores of tokens.

Reads the run directory alone. The paper's numbers stand in tables of their own,
marked as the paper's: they are of other images and other tokenizers.
"""

from collections.abc import Mapping
from typing import Any

from etils import epath

from totojax.report import frame, ngram_sections, page, paper, plots, reading
from totojax.rundir import wording


def write_figures(workdir: epath.PathLike) -> None:
  """Writes `rank_frequency_<n>.png` for n = 1, 2, 3.

  Raises:
    reading.Missing: rank_frequency.csv is missing or damaged.
  """
  folder = reading.RunFolder(workdir)
  table = folder.table("rank_frequency.csv")
  for n in ngram_sections.FIGURES:
    path = folder.path / f"rank_frequency_{n}.png"
    plots.write(path, ngram_sections.by_rank(table, n))


def claim(folder: reading.RunFolder) -> frame.Claim:
  """How much there is."""
  stores = list(folder.json("tokens.json")["stores"].values())
  tokens = page.filled("{tokens:short}", {"tokens": sum(fact["tokens"] for fact in stores)})
  line = f"{tokens} tokens in {wording.counted(len(stores), 'store')}."
  said = [
    f"{fact['ngrams'][0]['distinct']:,} of {fact['vocab']:,} codes are used"
    for fact in folder.json("tokens.json")["tokenizers"].values()
  ]
  return frame.Claim(line, f"{'; '.join(said)}. Counted whole: no interval.")


def headline(folder: reading.RunFolder) -> str:
  """How much there is, in a few numbers."""
  tokens = folder.json("tokens.json")
  stores = list(tokens["stores"].values())
  total: dict[str, float | None] = {
    key: sum(fact[key] for fact in stores) for key in ("tokens", "records", "frames")
  }
  hours = [fact["hours"] for fact in stores if fact["hours"] is not None]
  total |= {"hours": sum(hours) if hours else None, "tokenizers": len(tokens["tokenizers"])}
  facts = {
    "records": page.filled("{records:,}", total),
    "frames": page.filled("{frames:short}", total),
    "hours of video": page.filled("{hours:hours}", total) or "none",
    "tokenizers": page.filled("{tokenizers}", total),
  }
  if len(tokens["tokenizers"]) == 1:
    (fact,) = tokens["tokenizers"].values()
    facts["codes used"] = f"{fact['ngrams'][0]['distinct']:,} of {fact['vocab']:,}"
  return page.facts(facts)


def sources(folder: reading.RunFolder) -> str:
  """Counts by store, and the paper's Table 2."""
  stores = folder.json("tokens.json")["stores"]
  rows = [
    {"name": name, **fact, "step": None if fact["hours"] is None else fact["stride_frames"]}
    for name, fact in stores.items()
  ]
  temporal = any(fact.get("frame_factor", 1) > 1 for fact in stores.values())
  columns = (
    ("store", "{name}"),
    ("kind", "{kind}"),
    ("records", "{records:,}"),
    ("frames", "{frames:,}"),
    *((("latent frames", "{latent_frames:,}"),) if temporal else ()),
    ("tokens", "{tokens:short}"),
    ("share", "{share:.1%}"),
    ("hours", "{hours:hours}"),
    ("tokens at 30 fps", "{tokens_30fps:short}"),
    ("one frame in", "{step} at {fps:g} fps"),
  )
  note = (
    "Hours are frames x stride / frame rate as the stores' manifests have"
    " them; several crops of a video count several times. “Tokens” are those"
    " in the store, “tokens at 30 fps” what every frame of these hours at 30"
    " frames a second would give: the paper's Table 2 counts in this way."
  )
  if temporal:
    note += (
      " Codes are of latent frames, which hold several frames each: an image of the n-grams below"
      " is a latent frame."
    )
  return (
    page.records(columns, rows, words=2)
    + page.paragraph(note, "soft")
    + page.too_short({name: fact.get("short") for name, fact in stores.items()})
    + "<h3>The paper's Table 2</h3>"
    + _table_2()
  )


def _table_2() -> str:
  total = sum(row.tokens for row in paper.SOURCES)
  rows = []
  for row in paper.SOURCES:
    step = 1 if row.hours is None else paper.STRIDE_FRAMES
    rows.append({**vars(row), "share": row.tokens / total, "strided": row.tokens / step})
  columns = (
    ("from the paper", "{name}"),
    ("instances", "{instances:short}"),
    ("hours", "{hours:hours}"),
    ("tokens at 30 fps", "{tokens:short}"),
    ("share", "{share:.1%}"),
    ("tokens at its stride", "{strided:short}"),
    ("of a mini-batch", "{mix:.0%}"),
  )
  note = (
    "Instances, hours and tokens are printed in the paper; its tokens agree with hours x 3,600 x 30"
    f" x 256. Share and tokens at its stride (one frame in {paper.STRIDE_FRAMES}) are worked out"
    " here from these. The last column is section 3.3's."
  )
  return page.records(columns, rows) + page.paragraph(note, "soft")


def decoded(folder: reading.RunFolder) -> str:
  """Reconstructions, with originals and PSNR where there are any."""
  tokens = folder.json("tokens.json")
  if not tokens["decoder"]:
    return ""
  arrays = folder.arrays("samples.npz")
  out = []
  for name, store in tokens["stores"].items():
    if name not in tokens["reconstructions"]:
      why = f"its codes are of another tokenizer ({store['tokenizer']})"
      out.append(page.paragraph(f"{name} was not decoded: {why}.", "soft"))
      continue
    fact = tokens["reconstructions"][name]
    rows, caption = [], f"{name}: decoded from the codes in the store."
    if f"{name}/original" in arrays:
      rows.append(("original", "", arrays[f"{name}/original"]))
      caption += f" {likeness(fact)}, evenly from the store."
    note = page.filled("{psnr_db:.1f} dB", fact) or ""
    rows.append(("from codes", note, arrays[f"{name}/reconstruction"]))
    out.append(page.figure(page.images(rows), caption))
  return "".join(out)


RIVALS = {"block_means": "means of blocks", "kmeans": "k-means on patches"}


def likeness(fact: Mapping[str, Any]) -> str:
  """PSNR and SSIM of reconstructions, with those of `RIVALS` behind."""
  rivals = fact.get("rivals", {})

  def each(key: str, template: str) -> str:
    shown = lambda values: page.filled(template, {"value": values.get(key)}) or "exact"
    others = ", ".join(f"{RIVALS[name]} {shown(values)}" for name, values in rivals.items())
    return shown(fact) + (f" ({others})" if others else "")

  text = f"PSNR {each('psnr_db', '{value:.1f} dB')} of {wording.counted(fact['images'], 'image')}"
  if fact.get("ssim") is not None:
    text += f"; SSIM {each('ssim', '{value:.3f}')}"
  return text


def meaning(folder: reading.RunFolder) -> str:
  """What each number is."""
  del folder
  return page.table(("", ""), MEANINGS, words=2)


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
  ("SSIM", "structural similarity in windows of 7 x 7 pixels; 1 is a copy"),
  ("means of blocks", "each block as wide as a token in its mean colour"),
  ("k-means on patches", "as many codes as the tokenizer has, a code for each block of a frame"),
)

PAGE = frame.Kind(
  "tokens",
  claim,
  (
    ("", headline),
    ("What there is", sources),
    ("How the codes are used", ngram_sections.codes),
    ("Pairs and triples of codes", ngram_sections.pairs),
    ("What the codes keep", decoded),
    ("What the numbers mean", meaning),
  ),
  paper=("Table 2", "Figure 3", "Figure 12", "Figure 13"),
)
