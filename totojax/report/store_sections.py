"""Pages of jobs that leave data: clips, tokens, features, roll-outs; and of tokenizers.

Nothing is estimated in most of them, so that their verdict is what there is.
"""

import collections
import math
from typing import Any

from totojax.report import frame, page, reading, shares
from totojax.rundir import files, wording

_SPLITS = {"train": "of training", "val": "held out", "all": "in all"}
_SHOWN = 8  # reasons of what was left out


def _stores(folder: reading.RunFolder) -> dict[str, dict[str, Any]]:
  """Name -> manifest of every store of a run."""
  found = {}
  for path in files.children(folder.path):
    manifest = reading.optional(None, folder.json, f"{path.name}/manifest.json")
    if manifest and "shards" in manifest:
      found[path.name] = manifest
  if not found:
    raise reading.Absent("train/manifest.json")
  return dict(sorted(found.items(), key=lambda one: [*_SPLITS, one[0]].index(one[0])))


def _records(manifest: dict[str, Any]) -> int:
  return sum(shard["records"] for shard in manifest["shards"])


def _clips(folder: reading.RunFolder) -> frame.Claim:
  """How much there is, of what."""
  stores = _stores(folder)
  first = next(iter(stores.values()))
  noun = "image" if first.get("kind") == "image" else "clip"
  parts = []
  for name, manifest in stores.items():
    what = wording.counted(_records(manifest), noun)
    parts.append(f"{what} {_SPLITS.get(name, f'in {name}')}")
  of = f"{wording.counted(first['frames'], 'frame')} of " if noun == "clip" else ""
  size = f"{of}{first['size_px']} pixels a side" if first.get("size_px") else ""
  if first.get("vocab"):
    size += f", as tokens of {first['tokenizer']} with {first['vocab']:,} codes"
  complete = all(manifest.get("complete", True) for manifest in stores.values())
  line = " and ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)
  line += "." if complete else ", and the job is not finished."
  return frame.Claim(line, f"{size[:1].upper()}{size[1:]}." if size else "", complete and None)


def _table(folder: reading.RunFolder) -> str:
  """Each store in numbers."""
  rows = []
  for name, manifest in _stores(folder).items():
    fields = {one["name"]: one["shape"] for one in manifest["fields"]}
    rows.append(
      {
        "name": name,
        "records": _records(manifest),
        "frames": manifest["frames"],
        "fps": manifest.get("fps"),
        "size_px": manifest.get("size_px"),
        "tokens": math.prod(fields["codes"]) if "codes" in fields else None,
        "classes": len(manifest.get("classes", ())) or None,
        "digest": manifest["digest"][:12],
      }
    )
  columns = (
    ("store", "{name}"),
    ("records", "{records:,}"),
    ("frames of each", "{frames}"),
    ("frames a second", "{fps:g}"),
    ("pixels a side", "{size_px}"),
    ("tokens of each", "{tokens:,}"),
    ("classes", "{classes}"),
    ("digest", "{digest}"),
  )
  kept = [one for one in columns if any(page.filled(one[1], row) for row in rows)]
  return page.records(kept, rows)


def _left_out(folder: reading.RunFolder) -> str:
  """How many items gave nothing, and why."""
  out = []
  for name, what in (
    ("skipped.csv", "could not be used"),
    ("quarantine.csv", "could not be read"),
    ("missing.csv", "of the last start are not there now"),
  ):
    rows = reading.optional([], folder.rows, name)
    if not rows:
      continue
    reasons = collections.Counter(row[-1] for row in rows).most_common(_SHOWN)
    title = f"{wording.counted(len(rows), 'item')} {what}"
    table = page.table(("reason", "items"), [(why, f"{n:,}") for why, n in reasons])
    out.append(page.fold(title, table))
  return "".join(out)


def _features(folder: reading.RunFolder) -> frame.Claim:
  """Of how many items there are features, of which layers."""
  rows = folder.records("index.csv")
  counts = collections.Counter(row["store"] for row in rows)
  parts = [
    f"{wording.counted(n, 'item')} {_SPLITS.get(name, f'in {name}')}" for name, n in counts.items()
  ]
  asked = folder.json("config.json").get("features", {})
  layers = ", ".join(map(str, asked.get("layers") or ())) or "all"
  what = f"Layers: {layers}; one vector of each {_POOLS.get(asked.get('pool'), 'item')}."
  return frame.Claim(f"Features of {' and '.join(parts)}.", what)


_POOLS = {"frame": "frame", "token": "token"}


def _files(folder: reading.RunFolder) -> str:
  """Files of features by store."""
  counts = collections.Counter((row["store"], row["file"]) for row in folder.records("index.csv"))
  rows = [(store, name, f"{n:,}") for (store, name), n in counts.items()]
  return page.table(("store", "file", "items"), rows, words=2)


def _recorded(folder: reading.RunFolder) -> frame.Claim:
  """How often the expert succeeds."""
  facts = folder.json("metrics.json")
  n, won = facts["episodes"], facts["successes"]
  line = (
    f"The expert succeeds in {won:,} of {wording.counted(n, 'episode')}; {facts['kept']:,} kept."
  )
  return frame.Claim(
    line, f"{shares.percent(won / n, n)}, 95 %; {wording.counted(facts['steps'], 'step')}."
  )


def _tokenizer(folder: reading.RunFolder) -> frame.Claim:
  """How near frames come to what they were, through a trained tokenizer."""
  rows = reading.optional([], folder.lines, "metrics.jsonl")
  held = [row for row in rows if row.get("kind") == "eval"]
  name = reading.optional({}, folder.json, "manifest.json").get("tokenizer", "")
  known = f"known as {name}" if name else ""
  if not held:
    kept = folder.json("config.json")
    made = kept.get("weights") or kept.get("official", {}).get("kind")
    line = f"A tokenizer that was not trained here: {made}." if made else "A tokenizer."
    more = "A report of tokens (configs/tokens_report.py) shows what it keeps."
    return frame.Claim(line, f"{known[:1].upper()}{known[1:]}. {more}" if known else more)
  last = held[-1]
  psnr = {key.removesuffix("/psnr_db"): x for key, x in last.items() if key.endswith("/psnr_db")}
  said = ", ".join(f"{value:.1f} dB on {source}" for source, value in psnr.items())
  line = f"Held-out frames come back with a PSNR of {said}"
  used = f", {last['codes_used']:,.0f} codes in use" if "codes_used" in last else ""
  more = (
    f"Over all pixels of the held-out frames{used}; after {wording.counted(last['step'], 'update')}"
  )
  return frame.Claim(f"{line}.", f"{more}; {known}." if known else f"{more}.")


def _trained(folder: reading.RunFolder) -> str:
  """The evaluations of a tokenizer's training."""
  rows = [
    row for row in reading.optional([], folder.lines, "metrics.jsonl") if row.get("kind") == "eval"
  ]
  keys = [k for k in (rows or [{}])[-1] if k not in ("kind", "wall", "step")]
  table = [(f"{r['step']:,}", *(f"{r[k]:.4g}" if k in r else "-" for k in keys)) for r in rows]
  return page.table(("updates", *keys), table) if rows else ""


def _kind(about: str, *paper: str) -> frame.Kind:
  return frame.Kind(about, _clips, (("What there is", _table), ("Left out", _left_out)), paper)


KINDS = {
  "render": _kind("rendered clips"),
  "decode": _kind("clips of videos"),
  "photos": _kind("clips of photographs"),
  "shards": _kind("tokens of clips", "Table 2"),
  "tokenize": _kind("tokens of videos or images", "Table 2"),
  "codes": _kind("tokens that others made"),
  "features": frame.Kind(
    "features on disk", _features, (("Files", _files), ("Left out", _left_out))
  ),
  "record": frame.Kind("recorded roll-outs", _recorded, ()),
  "tokenizer": frame.Kind("a tokenizer", _tokenizer, (("While it was trained", _trained),)),
  "official": frame.Kind("a released tokenizer", _tokenizer, ()),
}
