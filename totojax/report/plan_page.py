"""The page of `run = "plan"`: what a pre-training run needs and costs.

Reads `plan.json` alone. No number on it was measured.
"""

import collections
from collections.abc import Mapping
from typing import Any

from totojax.report import frame, page, reading
from totojax.rundir import console, wording

_MESH = ("mesh (data, fsdp, tensor, sequence)", "{mesh}")
_FITS, _PEAK = ("fits", "{fits}"), ("peak GiB", "{hbm_peak_gib:gib}")
_MILLION = (
  ("chip-hours of a million", "{chip_hours_of_a_million:.3g}"),
  ("money of a million", "{money_of_a_million:.3g}"),
)
# By what the step is for.
_COLUMNS: Mapping[str, tuple[page.Column, ...]] = {
  "train": (
    _MESH,
    ("remat", "{remat}"),
    ("microbatches", "{microbatches}"),
    _FITS,
    _PEAK,
    ("step, ms", "{step_ms:.1f}"),
    ("of the peak, estimate", "{mfu_estimate:.1%}"),
    ("tokens/s", "{tokens_per_s:,.0f}"),
    ("days", "{days:hours}"),
    ("chip-hours", "{chip_hours:hours}"),
    ("money", "{money:,.0f}"),
  ),
  "decode": (
    _MESH,
    _FITS,
    ("rows", "{batch:,}"),
    ("places of the cache", "{cache_tokens:,}"),
    _PEAK,
    ("step, ms", "{step_s:ms}"),
    ("floor of the memory, ms", "{floor_s:ms}"),
    ("copies alone, ms", "{copies_alone_s:ms}"),
    ("tokens/s, estimate", "{tokens_per_s:,.0f}"),
    ("tokens/s of a chip", "{tokens_per_s_of_a_chip:,.0f}"),
    *_MILLION,
  ),
  "encode": (
    _MESH,
    _FITS,
    ("frames", "{batch:,}"),
    ("side, px", "{size_px:,}"),
    _PEAK,
    ("step, ms", "{step_s:ms}"),
    ("passes of a product", "{passes:,}"),
    ("frames/s, estimate", "{frames_per_s:,.0f}"),
    ("frames/s of a chip", "{frames_per_s_of_a_chip:,.0f}"),
    *_MILLION,
  ),
}
# Left out where many rows stand in a terminal's 80 columns.
LONG = {"days", "chip-hours", "money", "floor of the memory, ms", "passes of a product"}
LONG |= {head for head, _ in _MILLION}


def columns(row: Mapping[str, Any]) -> list[str]:
  """Heads of the comparison, for what the row is about."""
  heads = [head for head, _ in _COLUMNS[row.get("what", "train")]]
  if row.get("source") == "arithmetic":  # `plan.busy` is assumed
    heads = [head.replace("estimate", "assumed") for head in heads]
  return heads


def cells(row: Mapping[str, Any]) -> list[str]:
  """A row of the comparison, as `columns`."""
  values = facts(row)
  values["mesh"] = "x".join(map(str, row["mesh"].values()))
  values["fits"] = {True: "yes", False: "no", None: "?"}[row.get("fits")]
  values["step_ms"] = 1e3 * row["step_s"] if row.get("step_s") else None
  return page.cells(_COLUMNS[row.get("what", "train")], values)


def facts(plan: Mapping[str, Any]) -> dict[str, Any]:
  """A plan in which what is not known is None."""
  return collections.defaultdict(lambda: None, plan)


def claim(folder: reading.RunFolder) -> frame.Claim:
  """Whether it fits and how long it takes."""
  plan = facts(folder.json("plan.json"))
  chips = plan["chips"]
  place = wording.counted(chips, "chip") if chips else "? chips"
  place += f" of {plan['topology'] or '?'}"
  if plan["fits"] is False:
    return frame.Claim(f"Does not fit {place}.", f"{plan['error']}", False)
  compiler = f" ({plan['compiler']})" if plan["compiler"] else ""
  source = f"Source: {plan['source']}{compiler}. Nothing was measured. {plan['calibration'] or ''}"
  return frame.Claim(f"{_claim(plan, place)}.", source)


def headline(folder: reading.RunFolder) -> str:
  """The numbers, or what to change."""
  plan = facts(folder.json("plan.json"))
  if plan["fits"] is False:
    return page.table(("what to change",), [(line,) for line in plan["advice"] or ()])
  templates = {
    "parameters": "{parameters:short}",
    "GiB of HBM at the peak": "{hbm_peak_gib:gib}",
    "a step": "{step_s:ms} ms",
    "tokens/s": "{tokens_per_s:short}",
    "frames/s": "{frames_per_s:short}",
    "chip-hours": "{chip_hours:hours}",
    "of the peak, estimate": "{mfu_estimate:.1%}",
    "money": "{money:,.0f}",
  }
  return page.facts({name: page.filled(template, plan) for name, template in templates.items()})


def _claim(plan: Mapping[str, Any], place: str) -> str:
  match plan["what"]:
    case "decode":
      floor = page.filled(": weights and cache alone take {floor_s:ms} ms to read", plan)
      return (
        f"A token of each of {wording.counted(plan['batch'], 'sequence')} on {place}{floor or ''}"
      )
    case "encode":
      return f"{wording.counted(plan['batch'], 'frame')} to codes on {place}"
  days = plan["days"]
  long = f": about {console.duration(86400 * days)}" if days is not None else ""
  fits = "It fits: " if plan["fits"] else ""
  return f"{fits}{console.short(plan['total_tokens'])} tokens on {place}{long}"


def compared(folder: reading.RunFolder) -> str:
  """Every variant that was compiled."""
  plan = folder.json("plan.json")
  rows = [["best" if i == plan["best"] else "", *cells(r)] for i, r in enumerate(plan["rows"])]
  return page.table(("", *columns(plan)), rows, words=3)


def data(folder: reading.RunFolder) -> str:
  """How often each store is read."""
  plan = folder.json("plan.json")
  if plan.get("what", "train") != "train":
    return ""
  passes = plan.get("epochs") or {}
  if not passes:
    return page.paragraph("How often stores are read is not known: some were not there.", "soft")
  return page.table(("store", "epochs"), [(name, f"{n:.3g}") for name, n in passes.items()])


def memory(folder: reading.RunFolder) -> str:
  """HBM of one chip by kind, and the state."""
  plan = folder.json("plan.json")
  if "hbm" not in plan:
    return page.paragraph("The compiler gave no memory for this plan.", "soft")
  in_gib = {
    "arguments_gib": "arguments: state and batch",
    "outputs_gib": "outputs",
    "aliased_gib": "of these in the place of arguments",
    "temporaries_gib": "temporaries: activations, gradients, buffers",
    "program_gib": "the program",
    "peak_gib": "peak, as the compiler places it",
  }
  in_bytes = {
    "parameter_bytes": "float32 parameters, all chips",
    "optimiser_bytes": "optimiser, all chips",
    "weight_bytes": "weights",
    "cache_bytes": "cache",
  }
  gib = page.FORMATS["gib"]
  rows = [(name, gib(plan["hbm"][key])) for key, name in in_gib.items()]
  rows += [(name, gib(plan[key] / 2**30)) for key, name in in_bytes.items() if key in plan]
  return page.table(("on each chip", "GiB"), rows)


def cycles(folder: reading.RunFolder) -> str:
  """Where the estimated time goes."""
  plan = folder.json("plan.json")
  if "cycles" not in plan:
    return page.paragraph(plan.get("no_text", "Not known for this plan."))
  parts, kernels = dict(plan["cycles"]), set()
  for kernel in plan["kernels"]:
    name = f"attention kernel, {kernel['kernel']}"  # one a layer, in line
    parts[name] = parts.get(name, 0) + kernel["cycles"]
    kernels.add(name)
  total = sum(parts.values())
  bars = (
    (name, value, f"{console.short(value)}, {value / total:.1%}")
    for name, value in sorted(parts.items(), key=lambda item: -item[1])
  )
  sentence = f"{console.short(total)} cycles of one chip in a step."
  return page.bars(bars, highlighted=kernels) + page.paragraph(sentence, "soft")


def raising(folder: reading.RunFolder) -> str:
  """What would make the step faster."""
  found = folder.json("plan.json").get("raising", ())
  if not found:
    return page.paragraph("Nothing that the planner knows of.", "soft")
  return "".join(map(page.paragraph, found))


def traffic(folder: reading.RunFolder) -> str:
  """Exchanges between chips."""
  columns = (
    ("in a step", "{kind}"),
    ("over", "{over}"),
    ("count", "{count:,}"),
    ("GB of arrays", "{payload_gb:gib}"),
    ("GB sent by a chip", "{sent_gb:gib}"),
    ("ms alone", "{alone_ms:.1f}"),
  )
  rows = []
  for row in folder.json("plan.json").get("collectives", ()):
    row |= {f"{key}_gb": row[f"{key}_bytes"] / 1e9 for key in ("payload", "sent")}
    rows.append({**row, "alone_ms": None if row["alone_s"] is None else 1e3 * row["alone_s"]})
  return page.records(columns, rows)


def limits(folder: reading.RunFolder) -> str:
  """What the numbers leave out."""
  return "".join(map(page.paragraph, folder.json("plan.json").get("limits", ())))


PAGE = frame.Kind(
  "plan",
  claim,
  (
    ("", headline),
    ("Compared", compared),
    ("Data", data),
    ("Memory", memory),
    ("Where the time goes", cycles),
    ("What would raise it", raising),
    ("Between chips", traffic),
    ("Limits", limits),
  ),
)
