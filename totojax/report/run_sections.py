"""Sections of a report about the run itself: size, time, settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from totojax.report import page, reading
from totojax.rundir import console

STAGES = ("clips", "tokenizer", "shards", "pretrain", "validate")


def in_short(folder: reading.Folder) -> str:
  """What was trained on what, for how long."""
  out = []
  manifest = reading.optional(lambda: folder.json("pretrain/manifest.json"), {})
  written = reading.optional(lambda: folder.json("pretrain/config.json"), {})
  if "parameters" in manifest:
    out.append(("parameters", console.short(manifest["parameters"])))
  rows = reading.optional(lambda: folder.lines("pretrain/metrics.jsonl"), [])
  if rows:
    steps = max(row["step"] for row in rows)
    out.append(("updates", f"{steps:,}"))
    if batch := written.get("train", {}).get("batch_tokens"):
      out.append(("training tokens", console.short(steps * batch)))
  for split, what in (("train", "training clips"), ("val", "held-out clips")):
    name = f"clips/{split}/manifest.json"
    store = reading.optional(lambda n=name: folder.json(n), {})
    if store:
      out.append((what, f"{sum(s['records'] for s in store['shards']):,}"))
  seconds = [
    reading.optional(lambda s=s: folder.json(f"{s}/done.json")["seconds"], 0.0)
    for s in stages(folder)
  ]
  if any(seconds):
    out.append(("altogether", console.duration(sum(seconds))))
  if not out:
    raise reading.Missing("pretrain/manifest.json is missing")
  return page.facts(out)


def timings(folder: reading.Folder) -> str:
  """Seconds of each stage, and how fast training was."""
  seconds = {}
  for stage in stages(folder):
    done = reading.optional(lambda s=stage: folder.json(f"{s}/done.json"), None)
    if done is not None:
      seconds[stage] = done["seconds"]
  if not seconds:
    raise reading.Missing("no stage has a done.json; none has finished")
  out = [page.bars([(k, v, console.duration(v), False) for k, v in seconds.items()])]
  rows = reading.optional(lambda: folder.lines("pretrain/metrics.jsonl"), [])
  figures = []
  for key, name, form in (
    ("tokens_per_s", "training tokens per second", console.short),
    ("mfu", "of the device's peak (MFU)", "{:.1%}".format),
    ("data_frac", "of the time spent waiting for data", "{:.1%}".format),
  ):
    values = [row["wall"][key] for row in rows if row.get("wall", {}).get(key)]
    if values:
      figures.append((name, form(float(np.median(values)))))
  if figures:
    out.append(page.facts(figures))
  return "".join(out)


def environment(folder: reading.Folder) -> str:
  """Model size, devices, versions."""
  manifest = folder.json("pretrain/manifest.json")
  rows = []
  if "parameters" in manifest:
    rows.append(("parameters", f"{manifest['parameters']:,}"))
  if "flops_per_token" in manifest:
    cost = console.short(manifest["flops_per_token"])
    rows.append(("training FLOPs per token", cost))
  devices = manifest.get("devices", {})
  if devices:
    rows.append(("devices", f"{devices['count']} x {devices['kind']}"))
  for key in ("processes", "mesh", "tokenizer", "python"):
    if key in manifest:
      rows.append((key, _plain(manifest[key])))
  rows += list(manifest.get("versions", {}).items())
  return page.table((), rows, words=2)


def settings(folder: reading.Folder) -> str:
  """The resolved config of every stage."""
  out = []
  for stage in stages(folder):
    try:
      config = folder.json(f"{stage}/config.json")
    except reading.Missing as reason:
      out.append(page.paragraph(f"Not shown: {reason}.", "missing"))
      continue
    rows = [(key, _plain(value)) for key, value in flat(config)]
    out.append(page.fold(stage, page.table((), rows, words=2)))
  return "".join(out)


def stages(folder: reading.Folder) -> list[str]:
  """Names of the stages in the order of the chain, but for the report."""
  written = reading.optional(lambda: folder.json("config.json"), {})
  order = written.get("order", STAGES)
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
