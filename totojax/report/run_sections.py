"""Sections of a report about the run itself: size, time, settings."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from totojax.report import page, reading
from totojax.rundir import console

STAGES = ("clips", "tokenizer", "shards", "pretrain", "validate")


def in_short(folder: reading.RunFolder) -> str:
  """What was trained on what, for how long."""
  manifest = reading.optional({}, folder.json, "pretrain/manifest.json")
  size = reading.optional({}, folder.json, "pretrain/config.json").get("train", {})
  rows = reading.optional([], folder.lines, "pretrain/metrics.jsonl")
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
    raise reading.Missing("pretrain/manifest.json is missing")
  return page.facts(out)


def timings(folder: reading.RunFolder) -> str:
  """Seconds of each stage, and how fast training was."""
  seconds = _seconds(folder)
  if not seconds:
    raise reading.Missing("no stage has a done.json; none has finished")
  rows = reading.optional([], folder.lines, "pretrain/metrics.jsonl")
  medians = {}
  for key in ("tokens_per_s", "mfu", "data_frac"):
    values = [row["wall"][key] for row in rows if row.get("wall", {}).get(key)]
    medians[key] = float(np.median(values)) if values else None
  figures = {
    "training tokens per second": page.filled("{tokens_per_s:short}", medians),
    "of the device's peak (MFU)": page.filled("{mfu:.1%}", medians),
    "of the time spent waiting for data": page.filled("{data_frac:.1%}", medians),
  }
  bars = page.bars((stage, s, console.duration(s)) for stage, s in seconds.items())
  return bars + (page.facts(figures) if any(figures.values()) else "")


def _seconds(folder: reading.RunFolder) -> dict[str, float]:
  """What each stage that has finished took."""
  done = {s: reading.optional(None, folder.json, f"{s}/done.json") for s in stages(folder)}
  return {stage: note["seconds"] for stage, note in done.items() if note is not None}


def environment(folder: reading.RunFolder) -> str:
  """Model size, devices, versions."""
  manifest = folder.json("pretrain/manifest.json")
  lines = {
    "parameters": ("parameters", "{:,}".format),
    "flops_per_token": ("training FLOPs per token", console.short),
    "devices": ("devices", lambda devices: f"{devices['count']} x {devices['kind']}"),
    **{key: (key, _plain) for key in ("processes", "mesh", "tokenizer", "python")},
  }
  rows = [(name, form(manifest[key])) for key, (name, form) in lines.items() if key in manifest]
  rows += [("data", page.stores(read))] if (read := manifest.get("data")) else []
  return page.table((), [*rows, *manifest.get("versions", {}).items()], words=2)


def settings(folder: reading.RunFolder) -> str:
  """The resolved config of every stage."""
  out = []
  for stage in stages(folder):
    try:
      config = folder.json(f"{stage}/config.json")
    except reading.Missing as reason:
      out.append(page.missing(reason))
      continue
    rows = [(key, _plain(value)) for key, value in flat(config)]
    out.append(page.fold(stage, page.table((), rows, words=2)))
  return "".join(out)


def stages(folder: reading.RunFolder) -> list[str]:
  """Names of the stages in the order of the chain, but for the report."""
  order = reading.optional({}, folder.json, "config.json").get("order", STAGES)
  return [stage for stage in order if stage != "report"]


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
  """("model.width", 768), ... of nested objects."""
  out = []
  for key, value in values.items():
    if isinstance(value, Mapping) and value:
      out += flat(value, f"{prefix}{key}.")
    else:
      out.append((prefix + key, value))
  return out


def _plain(value: Any) -> str:
  if isinstance(value, Mapping):
    return ", ".join(f"{k} {v}" for k, v in value.items())
  return "" if value is None else str(value)
