"""The page of `run = "plan"`: what a pre-training run needs and costs.

Reads `plan.json` alone. No number on it was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from totojax.report import page, reading
from totojax.rundir import console

COLUMNS = (
  "mesh (data, fsdp, tensor, sequence)",
  "remat",
  "microbatches",
  "fits",
  "peak GiB",
  "step, ms",
  "bound",
  "tokens/s",
  "days",
  "chip-hours",
  "money",
)
# Left out where many rows stand in a terminal's 80 columns.
LONG = (
  "days",
  "chip-hours",
  "money",
  "chip-hours of a million",
  "money of a million",
  "floor of the memory, ms",
  "passes of a product",
)
_MILLION = (
  ("chip-hours of a million", "chip_hours_of_a_million", ".3g", 1.0),
  ("money of a million", "money_of_a_million", ".3g", 1.0),
)
# Of a step that trains nothing: head, key, format, factor.
_SERVED = {
  "decode": (
    ("rows", "batch", ",", 1),
    ("places of the cache", "cache_tokens", ",", 1),
    ("peak GiB", "hbm_peak_gib", ".2f", 1.0),
    ("step, ms", "step_s", ".3g", 1e3),
    ("floor of the memory, ms", "floor_s", ".3g", 1e3),
    ("tokens/s, at most", "tokens_per_s", ",.0f", 1.0),
    ("tokens/s of a chip", "tokens_per_s_of_a_chip", ",.0f", 1.0),
    *_MILLION,
  ),
  "encode": (
    ("frames", "batch", ",", 1),
    ("side, px", "size_px", ",", 1),
    ("peak GiB", "hbm_peak_gib", ".2f", 1.0),
    ("step, ms", "step_s", ".3g", 1e3),
    ("passes of a product", "passes", ",", 1),
    ("frames/s, at most", "frames_per_s", ",.0f", 1.0),
    ("frames/s of a chip", "frames_per_s_of_a_chip", ",.0f", 1.0),
    *_MILLION,
  ),
}


def write_report(workdir: epath.PathLike) -> epath.Path:
  """Writes `report.html` into a run directory and returns its path."""
  return page.write(workdir, about="plan", sections=SECTIONS)


def columns(row: Mapping[str, Any]) -> tuple[str, ...]:
  """Heads of the comparison, for what the row is about."""
  if (served := _SERVED.get(row.get("what", ""))) is None:
    return COLUMNS
  heads = [head for head, *_ in served]
  if row.get("source") == "arithmetic":  # `plan.busy` is assumed: no bound
    heads = [head.replace("at most", "assumed") for head in heads]
  return (COLUMNS[0], "fits", *heads)


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
  """A row of the comparison, as `columns`."""

  def number(key, form, scale=1.0):
    return "-" if row.get(key) is None else format(scale * row[key], form)

  if (served := _SERVED.get(row.get("what", ""))) is not None:
    return (
      "x".join(str(size) for size in row["mesh"].values()),
      {True: "yes", False: "no", None: "?"}[row.get("fits")],
      *(number(key, form, scale) for _, key, form, scale in served),
    )
  return (
    "x".join(str(size) for size in row["mesh"].values()),
    row["remat"],
    str(row["microbatches"]),
    {True: "yes", False: "no", None: "?"}[row.get("fits")],
    number("hbm_peak_gib", ".2f"),
    number("step_s", ".1f", 1e3),
    number("mfu_bound", ".1%"),
    number("tokens_per_s", ",.0f"),
    number("days", ",.2f"),
    number("chip_hours", ",.0f"),
    number("money", ",.0f"),
  )


def headline(folder: reading.Folder) -> str:
  """Whether it fits and how long it takes, in one sentence."""
  plan = folder.json("plan.json")
  where = f"{plan.get('chips', '?')} chips of {plan.get('topology', '?')}"
  if not plan.get("fits", True):
    return page.paragraph(f"Does not fit {where}: {plan['error']}.", "verdict") + page.table(
      ("what to change",), [(a,) for a in plan.get("advice", ())]
    )
  claim = _claim(plan, where)
  pairs = [("parameters", console.short(plan["parameters"]))]
  if "hbm_peak_gib" in plan:
    pairs.append(("GiB of HBM at the peak", f"{plan['hbm_peak_gib']:.2f}"))
  if plan.get("step_s"):
    pairs.append(("a step", f"{1e3 * plan['step_s']:.3g} ms"))
  for unit in ("tokens", "frames"):
    if plan.get(f"{unit}_per_s"):
      pairs.append((f"{unit}/s", console.short(plan[f"{unit}_per_s"])))
  if plan.get("chip_hours"):
    pairs.append(("chip-hours", f"{plan['chip_hours']:,.0f}"))
  if plan.get("mfu_bound"):
    pairs.append(("of the peak, at most", f"{plan['mfu_bound']:.1%}"))
  if plan.get("money"):
    pairs.append(("money", f"{plan['money']:,.0f}"))
  compiler = f" ({plan['compiler']})" if "compiler" in plan else ""
  source = f"Source: {plan['source']}{compiler}. Nothing was measured."
  return page.paragraph(claim + ".", "verdict") + page.facts(pairs) + page.paragraph(source, "soft")


def _claim(plan: Mapping[str, Any], where: str) -> str:
  match plan.get("what", "train"):
    case "decode":
      claim = f"A token of each of {plan['batch']:,} sequences on {where}"
      if plan.get("floor_s"):
        floor = f"{1e3 * plan['floor_s']:.3g} ms"
        claim += f": weights and cache alone take {floor} to read"
      return claim
    case "encode":
      return f"{plan['batch']:,} frames to codes on {where}"
  claim = f"{console.short(plan['total_tokens'])} tokens on {where}"
  if plan.get("days"):
    claim += f": at least {plan['days']:,.1f} days"
  return claim


def compared(folder: reading.Folder) -> str:
  """Every variant that was compiled."""
  plan = folder.json("plan.json")
  rows = [
    (("best" if i == plan["best"] else ""), *cells(row)) for i, row in enumerate(plan["rows"])
  ]
  return page.table(("", *columns(plan)), rows, words=3)


def memory(folder: reading.Folder) -> str:
  """HBM of one chip by kind, and the state."""
  plan = folder.json("plan.json")
  if "hbm" not in plan:
    return page.paragraph("The compiler gave no memory for this plan.", "soft")
  names = (
    ("arguments_gib", "arguments: state and batch"),
    ("outputs_gib", "outputs"),
    ("aliased_gib", "of these in the place of arguments"),
    ("temporaries_gib", "temporaries: activations, gradients, buffers"),
    ("program_gib", "the program"),
    ("peak_gib", "peak, as the compiler places it"),
  )
  rows = [(name, f"{plan['hbm'][key]:.3f}") for key, name in names]
  rows += [
    (name, f"{plan[key] / 2**30:.3f}")
    for key, name in (
      ("parameter_bytes", "float32 parameters, all chips"),
      ("optimiser_bytes", "optimiser, all chips"),
      ("weight_bytes", "weights"),
      ("cache_bytes", "cache"),
    )
    if key in plan
  ]
  return page.table(("on each chip", "GiB"), rows)


def cycles(folder: reading.Folder) -> str:
  """Where the estimated time goes."""
  plan = folder.json("plan.json")
  if "cycles" not in plan:
    return page.paragraph(plan.get("no_text", "Not known for this plan."))
  parts = dict(plan["cycles"])
  for kernel in plan["kernels"]:
    name = f"attention kernel, {kernel['kernel']}"  # one a layer, in line
    parts[name] = parts.get(name, 0) + kernel["cycles"]
  total = sum(parts.values())
  rows = []
  for name, value in sorted(parts.items(), key=lambda item: -item[1]):
    written = f"{value / 1e6:.1f} M, {value / total:.1%}"
    rows.append((name, value, written, "kernel," in name))
  return page.bars(rows) + page.paragraph(
    f"{total / 1e6:.1f} million cycles of one chip in a step.", "soft"
  )


def traffic(folder: reading.Folder) -> str:
  """Exchanges between chips."""
  plan = folder.json("plan.json")
  rows = [
    (
      row["kind"],
      row["over"],
      f"{row['count']:,}",
      f"{row['payload_bytes'] / 1e9:.3f}",
      f"{row['sent_bytes'] / 1e9:.3f}",
      "-" if row["alone_s"] is None else f"{1e3 * row['alone_s']:.1f}",
    )
    for row in plan.get("collectives", ())
  ]
  head = ("in a step", "over", "count", "GB of arrays", "GB sent by a chip", "ms alone")
  return page.table(head, rows)


def limits(folder: reading.Folder) -> str:
  """What the numbers leave out."""
  plan = folder.json("plan.json")
  return "".join(page.paragraph(line) for line in plan.get("limits", ()))


SECTIONS: tuple[tuple[str, Callable[[reading.Folder], str]], ...] = (
  ("", headline),
  ("Compared", compared),
  ("Memory", memory),
  ("Where the time goes", cycles),
  ("Between chips", traffic),
  ("Limits", limits),
)
