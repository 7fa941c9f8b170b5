"""What a step costs: compiled for TPUs that are not here, or by arithmetic."""

from collections.abc import Mapping, Sequence
import re
import time
from typing import Any

import jax
import jax.numpy as jnp

from totojax import flops
from totojax.config.pretrain import Pretrain
from totojax.jobs.plan import chips, estimate, hlo, raising, steps
from totojax.rundir import console, provenance

# "Used 16.58G of 15.75G hbm. Exceeded hbm capacity by 848.05M." or "the total
# memory required for HLO temporaries (68.92G) exceeds available HBM (15.75G)".
_NEED = re.compile(
  r"(?:Used|temporaries \() ?([\d.]+[KMGT])"
  r"\)? (?:of|exceeds available HBM \() ?([\d.]+[KMGT])"
)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def plan(config: Pretrain) -> dict[str, Any]:
  """What the compiler says of one config, as JSON.

  Raises:
    ValueError: the config cannot be built on this topology.
    ImportError: the TPU compiler is not installed.
  """
  planning = config.plan
  chip = chips.chip(planning.topology)
  devices = chips.devices(planning.topology, slices=planning.slices)
  trains = planning.what == "train"
  begin = time.monotonic()
  step = steps.build(config, devices=devices)
  assert step.lower is not None  # which it is for devices
  with console.phase("tracing the step"):
    lowered = step.lower()
  facts = {
    "source": "TPU compiler",
    "compiler": f"libtpu {provenance.versions(('libtpu',))['libtpu']}",
    **step.facts,
    "device_kind": devices[0].device_kind,
    "trace_s": time.monotonic() - begin,
    "limits": [*estimate.LIMITS, *(() if trains else steps.SERVING_LIMITS)],
    "calibration": estimate.calibration(planning.topology),
  }
  begin = time.monotonic()
  try:
    with console.phase(f"compiling it for {planning.topology}"):
      compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    return {**facts, **_does_not_fit(error, steps.ADVICE if trains else steps.SERVING_ADVICE)}
  hbm = estimate.memory(compiled.memory_analysis())
  facts |= {"compile_s": time.monotonic() - begin, "fits": True}
  facts |= {"hbm": hbm, "hbm_peak_gib": hbm["peak_gib"]}
  try:
    program = hlo.Module(compiled.as_text())
  except jax.errors.JaxRuntimeError as error:
    facts["no_text"] = (
      "the compiler does not write this program out, so traffic and time"
      f" are not known: {str(error).splitlines()[0]}"
    )
    return facts | rates(facts, hbm_bytes_per_s=chip.hbm_bytes_per_s)
  traffic = estimate.traffic(program, chip)
  alone_s = sum(row["alone_s"] or 0.0 for row in traffic)
  facts |= {"collectives": traffic, "collectives_alone_s": alone_s}
  if trains and facts["mesh"]["sequence"] > 1:
    facts["limits"].append(
      "With tokens split over devices the attention kernel has no charge, so no time is known."
    )
    return facts | {"cycles": estimate.groups(program)}
  facts |= estimate.time(
    program,
    topology=planning.topology,
    chip=chip,
    model_flops_per_chip=facts["model_flops_per_step"] / len(devices),
    what=planning.what,
  )
  if facts["what"] == "decode":
    facts["copies_alone_s"] = estimate.copied_bytes(program) / chip.hbm_bytes_per_s
  if trains:
    facts["raising"] = list(raising.lines(config, facts))
  return facts | rates(facts, hbm_bytes_per_s=chip.hbm_bytes_per_s)


def arithmetic(config: Pretrain, kind: str, count: int, gpu: chips.Gpu) -> dict[str, Any]:
  """The same for GPUs, for which there is no compiler: FLOPs and bytes only."""
  planning, peak = config.plan, flops.peak_flops_per_s(kind)
  facts = {"source": "arithmetic", **steps.build(config, devices=None).facts}
  facts |= {"device_kind": kind, "assumed_mfu": planning.busy}
  if facts["what"] == "encode":
    # float32 on the vector units; passes are a TPU's.
    facts["model_flops_per_step"] //= facts["passes"]
    facts["passes"], peak = 1, gpu.float32_flops_per_s
  products_s = facts["model_flops_per_step"] / count / peak / planning.busy
  limit = f"Arithmetic only: plan.busy={planning.busy:g} of the peak is an assumption, and "
  if facts["what"] == "train":
    facts |= {"step_s": products_s, **_state(config, facts, gpu)}
    return facts | {"limits": [limit + "activations are not counted in the memory."]}
  read_s = facts.get("read_bytes", 0) / gpu.hbm_bytes_per_s
  limit += "no memory but weights and cache is counted."
  facts |= {"products_s": products_s, "step_s": max(products_s, read_s)}
  facts["limits"] = [limit, *steps.SERVING_LIMITS]
  return facts | rates(facts, hbm_bytes_per_s=gpu.hbm_bytes_per_s)


def _state(config: Pretrain, facts: Mapping[str, Any], gpu: chips.Gpu) -> dict[str, Any]:
  """Whether parameters, moments and gradients fit a GPU."""
  # float32 parameters, two moments and a gradient, whole on every replica.
  per_parameter = 12 + jnp.dtype(config.optim.mu_dtype).itemsize
  split = facts["mesh"]["fsdp"] * facts["mesh"]["tensor"]
  state_gib = per_parameter * facts["parameters"] / split / estimate.GIB
  state = {"state_and_gradients_gib": state_gib}
  if state_gib <= gpu.hbm_gib:
    return state
  return state | {
    "fits": False,
    "error": (
      f"parameters, moments and gradients alone need {state_gib:.1f} GiB of a"
      f" {facts['device_kind']}'s {gpu.hbm_gib:.1f}"
    ),
    "advice": ["a larger mesh.fsdp or mesh.tensor splits them further"],
  }


def rates(facts: Mapping[str, Any], *, hbm_bytes_per_s: float) -> dict[str, float]:
  """The bandwidth floor of a decode step, and tokens/s or frames/s.

  Nothing of a step that trains.
  """
  row, floor_s = {}, 0.0
  if facts["what"] == "train":
    return row
  if "read_bytes" in facts:
    floor_s = facts["read_bytes"] / hbm_bytes_per_s
    row = {"hbm_bytes_per_s": hbm_bytes_per_s, "floor_s": floor_s}
  slower_s = max(facts.get("step_s") or 0.0, floor_s)
  if slower_s:
    unit = {"decode": "tokens", "encode": "frames"}[facts["what"]]
    per_s = facts["batch"] / slower_s
    row |= {f"{unit}_per_s": per_s, f"{unit}_per_s_of_a_chip": per_s / facts["chips"]}
  return row


def cost(facts: Mapping[str, Any], *, price_per_chip_hour: float) -> dict[str, Any]:
  """Chip-hours and money at the estimated step time.

  Of the whole run where it trains, with tokens/s and days; of a million tokens
  or frames where it decodes or encodes.
  """
  step_s = facts.get("step_s")
  for unit in ("tokens", "frames"):
    per_s = facts.get(f"{unit}_per_s_of_a_chip")
    if per_s:
      hours = 1e6 / per_s / 3600
      return {
        "price_per_chip_hour": price_per_chip_hour,
        "chip_hours_of_a_million": hours,
        "money_of_a_million": hours * price_per_chip_hour or None,
      }
  if not step_s or facts.get("what", "train") != "train":
    return {}
  count = flops.steps(facts["total_tokens"], facts["tokens_per_step"])
  hours = count * step_s / 3600
  return {
    "tokens_per_s": facts["tokens_per_step"] / step_s,
    "steps": count,
    "days": hours / 24,
    "chip_hours": hours * facts["chips"],
    "price_per_chip_hour": price_per_chip_hour,
    "money": hours * facts["chips"] * price_per_chip_hour or None,
  }


def _does_not_fit(error: Exception, advice: Sequence[str]) -> dict[str, Any]:
  """The compiler's out-of-memory error; any other is raised again."""
  text = str(error)
  match = _NEED.search(text)
  if "RESOURCE_EXHAUSTED" not in text and match is None:
    raise error
  facts: dict[str, Any] = {"fits": False, "advice": list(advice)}
  if match:
    need, limit = (float(size[:-1]) * _UNITS[size[-1]] / estimate.GIB for size in match.groups())
    facts |= {"hbm_peak_gib": need, "hbm_limit_gib": limit}
    facts["error"] = f"needs {need:.2f} GiB of a chip's {limit:.2f} GiB of HBM"
  else:
    facts["error"] = text.splitlines()[0]
  return facts
