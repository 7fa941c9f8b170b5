"""`run = "tokens_report"`: what is in stores of tokens.

Counts codes (over every frame of a store) and 2- and 3-grams (over some images,
as Figures 12 and 13 of the paper do), adds up records, frames, tokens and hours
beside the paper's Table 2, and decodes a few images. Leaves `tokens.json`,
`ngrams.csv`, `sources.csv`, `rank_frequency.csv`, `samples.npz`, a figure for
each n, and `report.html`. Stores of several tokenizers may stand in one report;
what is counted together are the stores of one tokenizer.

Shapes: V codes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
from typing import Any

from etils import epath
import numpy as np

from totojax.config import tokens as tokens_config
from totojax.data.store import store as store_lib
from totojax.evals import reconstructions, token_counts
from totojax.report import frame, ngram_sections, paper, tokens_page
from totojax.rundir import console, directory, files
from totojax.tokenizers import ngrams

Tables = Mapping[str, Sequence[ngrams.Table]]  # for n = 1, 2, 3, by store
SOURCE_COLUMNS = (
  "kind",
  "records",
  "crops",
  "frames",
  "latent_frames",
  "tokens",
  "tokens_30fps",
  "hours",
  "share",
  "tokenizer",
)


def run(
  config: tokens_config.TokensReport, workdir: epath.Path, interrupted: Callable[[int], bool]
) -> bool:
  """Counts, decodes and writes the report; False when interrupted.

  Counting codes goes on where it stopped; all else begins anew.

  Raises:
    ValueError: a store is missing, incomplete, damaged or of pixels; or what
      is to be decoded does not belong together.
  """
  settings = config.tokens_report
  if not settings.stores:
    raise ValueError("tokens_report.stores is empty; give name -> path of a token store")
  stores = {name: _open(name, path) for name, path in settings.stores.items()}
  pictures = reconstructions.plan(stores, settings.tokenizer, settings.pixels)
  directory.begin(workdir, config)
  counts = token_counts.count_codes(stores, workdir / "counted.npz", interrupted)
  if counts is None:
    return False
  by_n = [{k: ngrams.unigrams(counts_V) for k, counts_V in counts.items()}]
  for n in (2, 3):
    grams = token_counts.count_ngrams(
      stores, n=n, images=settings.images, adjacency=settings.adjacency, interrupted=interrupted
    )
    if grams is None:
      return False
    by_n.append(grams)
  tables = {name: [grams[name] for grams in by_n] for name in stores}

  facts = {
    "adjacency": settings.adjacency,
    "stores": _by_store(stores, tables, settings.images),
    "tokenizers": _by_tokenizer(stores, tables, settings.images, counts),
  }
  facts["decoder"] = pictures.tokenizer.fingerprint if pictures.tokenizer else ""
  facts["reconstructions"], arrays = reconstructions.decode(pictures)
  for name, fact in facts["reconstructions"].items():
    if fact["rivals"]:
      console.say(f"{name}: {tokens_page.likeness(fact)}")
  files.write_npz(workdir / "samples.npz", arrays, compressed=True)
  files.write_csv(workdir / "sources.csv", source_rows(facts))
  files.write_csv(workdir / "ngrams.csv", ngram_rows(facts))
  files.write_csv(workdir / "rank_frequency.csv", rank_rows(tables))
  files.write_json(workdir / "tokens.json", facts)
  tokens_page.write_figures(workdir)
  console.say(f"report: {frame.write(workdir, tokens_page.PAGE)}")
  return True


def _open(name: str, path: str) -> store_lib.Store:
  """The token store at `path`, whichever tokenizer made it."""
  store = store_lib.open_store(path, tokenizer=None, vocab=None, grid=None)
  if not store.manifest.tokenizer:
    raise ValueError(
      f"tokens_report.stores.{name}: {path} is a pixel store and holds no codes; name the token"
      f" store that was made from it (and this one as tokens_report.pixels.{name})"
    )
  return store


def _by_store(stores: token_counts.Stores, tables: Tables, images: int) -> dict[str, Any]:
  facts = {name: token_counts.describe(s) for name, s in stores.items()}
  tokens = sum(fact["tokens"] for fact in facts.values())
  for name, fact in facts.items():
    fact["share"] = fact["tokens"] / tokens
    counted = token_counts.images_counted(stores[name], images)
    fact["ngrams"] = _ngrams(tables[name], fact["latent_frames"], counted)
    fact["use"] = dataclasses.asdict(token_counts.tell_use(name, stores[name]))
  return facts


def _by_tokenizer(
  stores: token_counts.Stores, tables: Tables, images: int, counts: Mapping[str, np.ndarray]
) -> dict[str, Any]:
  """The stores of each tokenizer together."""
  out = {}
  for mark, names in token_counts.by_tokenizer(stores).items():
    group = [stores[name] for name in names]
    together = [ngrams.merged([tables[k][i] for k in names]) for i in range(3)]
    frames = sum(len(store) * store.manifest.frames for store in group)
    counted = sum(token_counts.images_counted(store, images) for store in group)
    out[mark] = {
      "vocab": group[0].manifest.vocab,
      "stores": names,
      "ngrams": _ngrams(together, frames, counted),
      "rare": token_counts.rare(np.sum([counts[name] for name in names], axis=0)),
    }
  return out


def _ngrams(tables: Sequence[ngrams.Table], frames: int, counted: int) -> list[dict[str, Any]]:
  """Facts for n = 1 (all latent frames), 2 and 3 (the images counted)."""
  return [
    {"images": images, **table.ngrams().facts()}
    for images, table in zip((frames, counted, counted), tables, strict=True)
  ]


def source_rows(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
  """A row for each store, and the rows of the paper's Table 2 below.

  Table 2's tokens are under `tokens_30fps`, the way that they were counted.
  """
  rows = [
    {"origin": "counted", "source": name, **{column: fact[column] for column in SOURCE_COLUMNS}}
    for name, fact in facts["stores"].items()
  ]
  for row in paper.SOURCES:
    names = {"origin": "paper, Table 2", "source": row.name}
    counts = {"records": row.instances, "tokens_30fps": row.tokens, "hours": row.hours}
    rows.append({**names, **counts})
  return rows


def ngram_rows(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
  """A row for each n and store, then for each tokenizer of several stores."""
  return [
    {"source": name, "tokenizer": mark, "vocab": fact["vocab"], "n": row["n"], **row}
    for name, mark, fact in ngram_sections.sets(facts)
    for row in fact["ngrams"]
  ]


def rank_rows(tables: Tables) -> Iterable[dict[str, Any]]:
  """The whole rank-frequency curves: ranks with the same count are one row."""
  for name, by_n in tables.items():
    for table in by_n:
      count_S, last_S = table.ngrams().steps()
      first = 1
      for count, last in zip(count_S.tolist(), last_S.tolist(), strict=True):
        yield {"source": name, "n": table.n, "first_rank": first, "last_rank": last, "count": count}
        first = last + 1
