"""Memory, traffic and time of a compiled step, as plain numbers.

Estimated time of a step = (compiler's cycles + charge of the kernels) / clock:
exchanges between chips count as hidden behind it, and are shown beside it as
what they would take alone. `mfu_estimate` is the model's FLOPs over what the
peak gives in that time. It is an estimate and no bound, above or below: `PUBLIC`
has what it says where others measured.
"""

import dataclasses
import re
from typing import Any

from totojax.jobs.plan import chips, hlo, kernels

GIB = 2**30
LIMITS = (
  "Cycles are the TPU compiler's estimate of each operation alone: no waits"
  " for memory copies, gathers, scatters or the host.",
  "Exchanges between chips count as hidden; 'exchanges alone' is what they"
  " take one after the other on a ring at the links' nominal rate.",
  "The attention kernel is charged its instruction bundles without stalls, or"
  " its matrix products at 88 % of the peak if that is more.",
  "Nothing of this project was measured on a TPU.",
)


@dataclasses.dataclass(frozen=True)
class Public:
  """A decoder that others trained on one chip, and what this method says of it."""

  measured: float  # tokens/s
  counted: float  # tokens/s, by `tests/public_decoder.py`


# By family of chips. vorushin.github.io, "LLM pretraining on TPU v6e with a $50
# budget": 163.6 million parameters, one program on both.
PUBLIC = {"v5e": Public(148_829, 142_542), "v6e": Public(433_606, 433_109)}


def calibration(topology: str) -> str:
  """How far estimates of its chips are to be trusted, in one sentence."""
  errors = (
    f"{point.counted / point.measured - 1:+.1%} on a {family}" for family, point in PUBLIC.items()
  )
  told = f"Estimate, calibrated on two public points: error {' and '.join(errors)}."
  told += " Fitted is what a v6e's products take alone (docs/tpu.md)."
  family = topology.partition(":")[0]
  return told if family in PUBLIC else f"{told} There is none of a {family}."


def memory(stats: Any) -> dict[str, float]:
  """GiB on each chip by kind, from the compiler's `memory_analysis()`."""
  return {
    "arguments_gib": stats.argument_size_in_bytes / GIB,
    "outputs_gib": stats.output_size_in_bytes / GIB,
    "aliased_gib": stats.alias_size_in_bytes / GIB,
    "temporaries_gib": stats.temp_size_in_bytes / GIB,
    "program_gib": stats.generated_code_size_in_bytes / GIB,
    "peak_gib": stats.peak_memory_in_bytes / GIB,
  }


def traffic(program: hlo.Module, chip: chips.Chip) -> list[dict[str, Any]]:
  """Exchanges of a step by kind: how many, bytes, seconds alone.

  Those that cross from slice to slice have rows of their own, and None for
  seconds where the network's rate is not known.
  """
  rows: dict[tuple[str, str], dict[str, Any]] = {}
  none = {"places": 0, "count": 0, "payload_bytes": 0, "sent_bytes": 0.0}
  for exchange in program.collectives():
    key = exchange.over, exchange.kind
    row = rows.setdefault(key, {"kind": exchange.kind, "over": exchange.over, **none})
    row["places"] += 1
    row["count"] += exchange.times
    row["payload_bytes"] += exchange.times * exchange.payload_bytes
    row["sent_bytes"] += exchange.times * exchange.sent_bytes
  rates = {hlo.LINKS: chip.ici_bytes_per_s, hlo.NETWORK: chip.dcn_bytes_per_s}
  for (over, _), row in rows.items():
    rate = rates[over]
    row["alone_s"] = None if rate is None else row["sent_bytes"] / rate
  return [rows[key] for key in sorted(rows)]


def copied_bytes(program: hlo.Module) -> int:
  """What a step copies from a chip's memory into its cores ahead of being used.

  No cycles are counted for it: it goes on beside other work.
  """
  total = 0
  for operation in program.operations():
    # ((from), to, ..) and (to, from, ..); S(1) is the memory of the cores.
    place = {"slice-start": 1, "copy-start": 0}.get(operation.opcode)
    if place is None:
      continue
    arrays = [match[0] for match in _PLACED.finditer(operation.shape)]
    if "S(1)" in arrays[place] and "S(1)" not in arrays[1 - place]:
      total += operation.times * sum(hlo.array_bytes(arrays[place]))
  return total


def groups(program: hlo.Module, what: str = "train", products: float = 1.0) -> dict[str, float]:
  """Estimated cycles of a step by what is done, most first.

  `products`: what a chip's matrix products take of the compiler's cycles.
  """
  totals: dict[str, float] = {}
  for operation in program.operations():
    if operation.cycles:
      name = group(operation, what)
      cycles = operation.times * operation.cycles
      if products != 1.0 and _PRODUCT.search(f"{operation.rest} {operation.op_name}"):
        cycles *= products
      totals[name] = totals.get(name, 0) + cycles
  return dict(sorted(totals.items(), key=lambda item: -item[1]))


# First match wins; patterns are searched in "opcode kind op_name".
_GROUPS = (
  ("MLP products", r"kOutput.*mlp/.*dot_general"),
  ("attention projections", r"kOutput.*(BTD,DHK|BTHK,HKD).*dot_general"),
  ("attention without a kernel", r"kOutput.*(BNTS|BTNH|BHTS).*dot_general"),
  ("rotary positions", r"BTHK,KJ->BTHJ|apply_rope|split|concatenate"),
  ("head and embedding products", r"kOutput.*dot_general"),
  ("keeping activations", r"dynamic_update"),
  ("reading activations", r"dynamic_index|dynamic_slice"),
  ("norms", r"norm/"),
  ("zero fill", r"^broadcast"),
  ("layout changes", r"^(copy|transpose|reshape) |shard_map|/squeeze"),
  ("attention without a kernel", r"attention/|splash"),
  ("residual sums and MLP activation", r"while/body|^fusion kLoop $"),
  ("loss", r"jvp"),
  ("optimiser", r""),
)
_GROUPS_OF = {
  "train": _GROUPS,
  "decode": (
    ("MLP products", r"mlp/.*dot_general"),
    ("attention projections", r"(BTD,DHK|BTHK,HKD).*dot_general"),
    ("head", r"BTD,VD"),
    ("writing the cache", r"dynamic_update"),
    ("taking layers out of stacks", r"dynamic_index|dynamic_slice"),
    ("rotary positions", r"BTHK,KJ|apply_rope|split|concatenate"),
    ("norms", r"norm/"),
    ("attention to the cache", r"attention/|BNSC"),
    ("the rest", r""),
  ),
  "encode": (
    ("first layer", r"/input"),
    *((f"group {i}", rf"/group_{i}/") for i in range(1, 10)),
    ("last layer and its maximum", r"/output|argmax|reduce"),
    ("the rest", r""),
  ),
}


_PLACED = re.compile(r"\w+\[[\d,]*\](\{[^}]*\})?")  # an array and how it lies
_PRODUCT = re.compile(r"kind=kOutput.*dot_general", re.DOTALL)


def group(operation: hlo.Operation, what: str = "train") -> str:
  """What an operation does, by where in the model it comes from."""
  kind = re.search(r"kind=(\w+)", operation.rest)
  text = f"{operation.opcode} {kind[1] if kind else ''} {operation.op_name}"
  return next(name for name, pattern in _GROUPS_OF[what] if re.search(pattern, text))


def time(
  program: hlo.Module,
  *,
  topology: str,
  chip: chips.Chip,
  model_flops_per_chip: float,
  what: str = "train",
) -> dict[str, Any]:
  """What one step takes, by the compiler, as plain values.

  Returns:
    `cycles` by group, without kernels; `kernels`, the charge of each;
    `uncharged_kernels`, whose cost is not known and counts as nothing; `step_s`
    with exchanges hidden, and `mfu_estimate`, the share of the peak that the
    model's FLOPs are in it.
  """
  cycles = groups(program, what, chip.products)
  charged, uncharged = kernels.charges(program, topology=topology, chip=chip)
  total = sum(cycles.values()) + sum(charge.cycles for charge in charged)
  step_s = total / chip.clock_hz
  mfu = model_flops_per_chip / chip.peak_flops_per_s / step_s
  return {
    "cycles": cycles,
    "kernels": [{**vars(charge), "cycles": charge.cycles} for charge in charged],
    "uncharged_kernels": uncharged,
    "step_s": step_s,
    "mfu_estimate": mfu,
  }
