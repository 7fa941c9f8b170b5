"""Sections of a report about the run itself: size and time."""

import numpy as np

from totojax.report import page, provenance, reading
from totojax.rundir import console


def in_short(folder: reading.RunFolder, *, pretrain: str = "pretrain/") -> str:
  """What was trained on what, for how long; `pretrain` is the prefix of the training's files."""
  manifest = reading.optional({}, folder.json, f"{pretrain}manifest.json")
  size = reading.optional({}, folder.json, f"{pretrain}config.json").get("train", {})
  rows = reading.optional([], folder.lines, f"{pretrain}metrics.jsonl")
  steps = max((row["step"] for row in rows), default=0)
  tokens = steps * size.get("batch_tokens", 0)
  out = {
    "parameters": page.filled("{parameters:short}", {"parameters": None} | manifest),
    "updates": f"{steps:,}" if rows else None,
    "training tokens": console.short(tokens) if tokens else None,
  }
  for split, what in (("train", "training clips"), ("val", "held-out clips")):
    store = reading.optional({}, folder.json, f"clips/{split}/manifest.json")
    out[what] = f"{sum(s['records'] for s in store['shards']):,}" if store else None
  if seconds := _seconds(folder):
    out["altogether"] = console.duration(sum(seconds.values()))
  if not any(out.values()):
    raise reading.Absent(f"{pretrain}manifest.json")
  return page.facts(out)


def timings(folder: reading.RunFolder, *, pretrain: str = "pretrain/") -> str:
  """Seconds of each stage, and how fast training was."""
  seconds = _seconds(folder)
  if pretrain and not seconds:
    raise reading.Missing("no stage has a done.json; none has finished")
  rows = reading.optional([], folder.lines, f"{pretrain}metrics.jsonl")
  medians = {}
  for key in ("tokens_per_s", "mfu", "data_frac"):
    values = [row["wall"][key] for row in rows if row.get("wall", {}).get(key)]
    medians[key] = float(np.median(values)) if values else None
  figures = {
    "training tokens per second": page.filled("{tokens_per_s:short}", medians),
    "of the device's peak (MFU)": page.filled("{mfu:.1%}", medians),
    "of the time spent waiting for data": page.filled("{data_frac:.1%}", medians),
  }
  stages = [(stage, s, console.duration(s)) for stage, s in seconds.items()]
  bars = page.bars(stages) if stages else ""
  return bars + (page.facts(figures) if any(figures.values()) else "")


def _seconds(folder: reading.RunFolder) -> dict[str, float]:
  """What each stage that has finished took."""
  names = provenance.stages(folder)
  done = {name: reading.optional(None, folder.json, f"{name}/done.json") for name in names}
  return {stage: note["seconds"] for stage, note in done.items() if note is not None}
