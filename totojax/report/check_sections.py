"""Pages of checks and comparisons: leakage, widths, speed, tokenizers, exports."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from totojax.report import frame, page, plots, provenance, reading
from totojax.rundir import files, wording

# Of the largest over the smallest width, after the last update; attention may shrink, as
# q k is a mean under µP.
STEADY, RANGE = ("residual", "logits"), (0.5, 2.0)
_QUANTITIES = {"residual": "residual stream", "logits": "logits", "attention": "attention logits"}


def _leakage(folder: reading.RunFolder) -> frame.Claim:
  """Whether something of what is held out is in training data."""
  rows = folder.rows("leakage.csv")
  whole = "every record was compared: no interval"
  if not rows:
    return frame.Claim("Nothing that is held out is in training data.", whole, True)
  held = len({(row[1], row[3]) for row in rows})
  line = (
    f"{wording.counted(held, 'held-out item')} {'is' if held == 1 else 'are'} in training data."
  )
  return frame.Claim(line, whole, False)


def _are(count: int) -> str:
  return "is" if count == 1 else "are"


def _leaked(folder: reading.RunFolder) -> str:
  """What was found, and where."""
  rows = folder.rows("leakage.csv")
  counts = collections.Counter((row[1], row[4], row[0]) for row in rows)
  table = [(held, train, same, f"{n:,}") for (held, train, same), n in counts.items()]
  return page.table(("held out", "training", "the same", "pairs"), table, words=3) if rows else ""


def _coordinates(folder: reading.RunFolder) -> list[dict[str, Any]]:
  """Rows of coordinates.csv, as numbers."""
  return [
    {key: cell if key == "parametrisation" else float(cell) for key, cell in row.items() if cell}
    for row in folder.records("coordinates.csv")
  ]


def last(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
  """Those after the last update."""
  update = max(row["update"] for row in rows)
  return [row for row in rows if row["update"] == update]


def ratios(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
  """Parametrisation -> quantity -> largest width's over smallest width's.

  After the last update.
  """
  by_kind: dict[str, list[Mapping[str, Any]]] = {}
  for row in sorted(last(rows), key=lambda row: row["width"]):
    by_kind.setdefault(row["parametrisation"], []).append(row)
  return {
    kind: {q: own[-1][q] / own[0][q] for q in _QUANTITIES if q in own[0]}
    for kind, own in by_kind.items()
  }


def is_steady(growth: Mapping[str, float]) -> bool:
  """Whether `ratios` of a parametrisation are near 1."""
  return all(RANGE[0] <= growth[q] <= RANGE[1] for q in STEADY)


def _steady(folder: reading.RunFolder) -> frame.Claim:
  """Whether activations keep their size as the model is made wider."""
  found = ratios(_coordinates(folder))
  kind = "mup" if "mup" in found else next(iter(found))
  low, high = RANGE
  values = {q: x for q, x in found[kind].items() if q in STEADY}
  good = is_steady(found[kind])
  word = "keep" if good else "do not keep"
  name = "µP" if kind == "mup" else kind
  line = f"Under {name} activations {word} their size over widths."
  said = ", ".join(f"{_QUANTITIES[q]} {x:.2f} times" for q, x in values.items())
  return frame.Claim(
    line, f"Largest over smallest width: {said}; {low:g} to {high:g} is steady. One seed.", good
  )


def _by_width(folder: reading.RunFolder) -> str:
  """A figure of each quantity, and the ratios."""
  rows = _coordinates(folder)
  figures = [
    plots.figure(
      plots.by_width(rows, quantity),
      f"Mean size of the {words} over width, after the last update.",
      name=quantity,
      label=f"{words} over width",
      half=True,
    )
    for quantity, words in _QUANTITIES.items()
    if quantity in rows[0]
  ]
  table = [
    (kind, *(f"{found[q]:.3g}" if q in found else "-" for q in _QUANTITIES))
    for kind, found in ratios(rows).items()
  ]
  head = ("largest over smallest width", *_QUANTITIES.values())
  return page.pair("".join(figures)) + page.table(head, table)


def _goals(folder: reading.RunFolder) -> frame.Claim:
  """How many of the goals are met, and the first ratio with its range."""
  facts = folder.json("bench.json")
  rows = [row for row in facts["rows"] if "skipped" not in row]
  goals = [goal for row in rows for goal in row.get("goals", ())]
  met = sum(bool(goal["met"]) for goal in goals)
  line = f"{met:,} of {wording.counted(len(goals), 'goal')} {_are(met)} met."
  if not goals:
    line = f"{wording.counted(len(rows), 'row')} measured; none has a goal."
  said = [
    f"{row['row']}, {row['case']}: {_range(row['ratio'])}" for row in rows if row.get("ratio")
  ]
  sure = f"{said[0]}: least to most of {wording.counted(facts['rounds'], 'round')}." if said else ""
  return frame.Claim(line, sure, met == len(goals) if goals else None)


def _range(ratio: Mapping[str, float] | None) -> str:
  if not ratio:
    return "-"
  return f"{ratio['median']:.2f} times ({ratio['low']:.2f} to {ratio['high']:.2f})"


def _rows(folder: reading.RunFolder) -> str:
  """What was measured, ours and theirs."""
  out = []
  for row in folder.json("bench.json")["rows"]:
    speeds = [
      (f"{side}: {row[side]['what']}", _speed(row[side]))
      for side in ("ours", "theirs")
      if row.get(side)
    ]
    out.append(f"<h3>{page.text(row['row'])}: {page.text(row['case'])}</h3>")
    if "skipped" in row:
      out.append(page.missing(f"it was not measured: {row['skipped']}"))
      continue
    out.append(page.paragraph(f"{row['compares']}: {_range(row.get('ratio'))}."))
    out.append(page.table(("", f"{row['unit']} a second"), speeds))
    for goal in row.get("goals", ()):
      word = "met" if goal["met"] else "not met"
      told = f"Goal {word}: {goal['value']:.3g} {goal['what']}; at least {goal['least']:g}."
      out.append(page.paragraph(told, "soft"))
  return "".join(out)


def _speed(side: Mapping[str, Any]) -> str:
  speed = side.get("per_s") or {}
  if not speed:
    return "-"
  return f"{speed['median']:,.4g} ({speed['low']:,.4g} to {speed['high']:,.4g})"


def _keeps_most(folder: reading.RunFolder) -> frame.Claim:
  """The tokenizer whose frames come nearest to what they were."""
  rows = folder.records("tokens.csv")
  best = max(rows, key=lambda row: float(row["psnr_db"]))
  count = len({row["name"] for row in rows})
  line = f"{best['name']} keeps most of {wording.counted(count, 'tokenizer')}:"
  line += f" a PSNR of {float(best['psnr_db']):.1f} dB on {best['pixels']}."
  return frame.Claim(line, f"Over all pixels of {wording.counted(int(best['clips']), 'clip')}.")


_TOKENIZERS: tuple[page.Column, ...] = (
  ("tokenizer", "{name}"),
  ("of", "{pixels}"),
  ("PSNR, dB", "{psnr_db:.1f}"),
  ("SSIM", "{ssim:.3f}"),
  ("means of blocks, dB", "{block_means_db:.1f}"),
  ("k-means, dB", "{kmeans_db:.1f}"),
  ("codes", "{vocab}"),
  ("in use", "{codes_used}"),
  ("tokens a second", "{tokens_per_s:,.0f}"),
  ("tokens an image", "{tokens_per_image}"),
  ("bits a second", "{bits_per_s:short}"),
  ("nats a second of the model", "{nats_per_s:.0f}"),
)


def _tokenizers(folder: reading.RunFolder) -> str:
  """All tokenizers on all stores of pixels."""
  rows = folder.records("tokens.csv")
  shown = [one for one in _TOKENIZERS if any(page.filled(one[1], row) for row in rows)]
  return page.records(shown, rows, words=2)


def _exported(folder: reading.RunFolder) -> frame.Claim:
  """What the folder is for."""
  manifest = reading.optional({}, folder.json, "manifest.json")
  others = (
    provenance.job(reading.optional({}, folder.json, "config.json")) == "export"
    and (folder.path / "generation_config.json").exists()
  )
  whom = "as transformers and vLLM read it" if others else "as arrays by name"
  step = manifest.get("step")
  of = f" after {wording.counted(step, 'update')}" if step is not None else ""
  tokens = manifest.get("tokenizer")
  of_tokens = f"Its tokens are of the tokenizer {tokens}. " if tokens else ""
  return frame.Claim(
    f"A model{of}, {whom}.", f"{of_tokens}How good it is stands on the page of its run."
  )


_OWN = ("done.json", "manifest.json", "report.html")  # of a run


def _contents(folder: reading.RunFolder) -> str:
  """Files and their sizes."""
  rows = [
    (path.name, f"{path.stat().length / 1e6:,.3f}")
    for path in files.children(folder.path)
    if not path.is_dir() and path.name not in _OWN and not path.name.startswith(".")
  ]
  return page.table(("file", "MB"), rows)


KINDS = {
  "leakage": frame.Kind("held-out data in training data", _leakage, (("Found", _leaked),)),
  "coord_check": frame.Kind(
    "sizes over widths", _steady, (("Over widths", _by_width),), ("Figure 11",)
  ),
  "bench": frame.Kind("speed", _goals, (("What was measured", _rows),)),
  "token_study": frame.Kind("tokenizers compared", _keeps_most, (("Tokenizers", _tokenizers),)),
  "export": frame.Kind("an exported model", _exported, (("What is in it", _contents),)),
}
