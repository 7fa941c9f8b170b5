"""Compiles a step of a config for hardware that is not here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh
import numpy as np

from totojax import flops, sequence, sharding
from totojax.config import schema
from totojax.config.pretrain import Pretrain
from totojax.jobs.plan import chips, estimate, hlo, serving, settings, train_step
from totojax.rundir import provenance

# "Used 16.58G of 15.75G hbm. Exceeded hbm capacity by 848.05M." or "the total
# memory required for HLO temporaries (68.92G) exceeds available HBM (15.75G)".
_USED = re.compile(
  r"(?:Used|temporaries \() ?([\d.]+[KMGT])"
  r"\)? (?:of|exceeds available HBM \() ?([\d.]+[KMGT])"
)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
ADVICE = (
  "compute.remat='full' keeps least, then 'projections', then 'products'",
  "a larger train.microbatches computes fewer rows at a time",
  "a larger mesh.fsdp splits parameters and moments further",
  "compute.attention='auto' keeps no tokens x tokens array on a TPU",
)


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
  if trains:
    step = train_step.build(config, devices=devices, backend="tpu")
    assert step.program is not None  # which it is for devices
    lowered = step.program.step_fn.lower(step.program.shapes, step.task.batch_spec(step.rows))
    known = describe(config, step, chips_used=len(devices))
  else:
    served = serving.step_of(config, devices=devices)
    assert served.lower is not None  # as above
    lowered, known = served.lower(), served.facts
  traced_s = time.monotonic() - begin
  facts = {
    "source": "TPU compiler",
    "compiler": f"libtpu {provenance.versions(('libtpu',))['libtpu']}",
    **known,
    "device_kind": devices[0].device_kind,
    "trace_s": traced_s,
    "limits": [*estimate.LIMITS, *(() if trains else serving.LIMITS)],
  }
  begin = time.monotonic()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    advice = ADVICE if trains else serving.ADVICE
    return {**facts, **_does_not_fit(error, advice)}
  facts |= {"compile_s": time.monotonic() - begin, "fits": True}
  hbm = estimate.memory(compiled.memory_analysis())
  facts |= {"hbm": hbm, "hbm_peak_gib": hbm["peak_gib"]}
  if chip.clock_hz is None:
    facts["limits"].append(f"The clock of a {chip.kind} is not published, so cycles give no time.")
  try:
    program = hlo.Program(compiled.as_text())
  except jax.errors.JaxRuntimeError as error:
    return (
      facts
      | _rates(facts, chip)
      | {
        "no_text": (
          "the compiler does not write this program out, so traffic and time"
          f" are not known: {str(error).splitlines()[0]}"
        )
      }
    )
  traffic = estimate.traffic(program, chip)
  exchanges = {
    "collectives": traffic,
    "collectives_alone_s": sum(row["alone_s"] or 0.0 for row in traffic),
  }
  if trains and known["mesh"]["sequence"] > 1:
    facts["limits"].append(
      "With tokens split over devices the attention kernel has no charge, so no time is known."
    )
    return facts | exchanges | {"cycles": estimate.groups(program)}
  per_chip = facts["model_flops_per_step"] / len(devices)
  timing = estimate.time(
    program,
    topology=planning.topology,
    chip=chip,
    model_flops_per_chip=per_chip,
    what=planning.what,
  )
  facts |= exchanges | {
    "cycles": dict(timing.cycles),
    "kernels": [
      {**dataclasses.asdict(charge), "cycles": charge.cycles} for charge in timing.kernels
    ],
    "uncharged_kernels": list(timing.uncharged),
    "step_s": timing.step_s,
    "mfu_bound": timing.mfu_bound,
  }
  return facts | _rates(facts, chip)


def _rates(facts: Mapping[str, Any], chip: chips.Chip) -> dict[str, float]:
  """What a step that trains nothing makes in a second."""
  if facts["what"] == "train":
    return {}
  return serving.rates(facts, hbm_bytes_per_s=chip.hbm_bytes_per_s)


def arithmetic(config: Pretrain) -> dict[str, Any]:
  """The same for GPUs, for which there is no compiler: state and FLOPs only."""
  planning = config.plan
  if planning.what != "train":
    served = serving.step_of(config, devices=None)
    return serving.arithmetic(served, planning)
  kind, count = settings.gpus(planning.topology)
  step = train_step.build(config, devices=None, backend="gpu")
  facts = describe(config, step, chips_used=count)
  sizes = sharding.filled(config.mesh, count)
  mesh = AbstractMesh(tuple(sizes), sharding.AXES)
  sharding.check_batch(step.rows, microbatches=step.microbatches, mesh=mesh)
  facts["mesh"] = dict(mesh.shape)
  peak = flops.peak_flops_per_s(kind)
  step_s = facts["model_flops_per_step"] / count / peak / planning.busy
  # float32 parameters, two moments and a gradient, whole on every replica.
  per_parameter = 12 + jnp.dtype(config.optim.mu_dtype).itemsize
  split = mesh.shape["fsdp"] * mesh.shape["tensor"]
  state = per_parameter * facts["parameters"] / split / estimate.GIB
  room = chips.gpu(kind).hbm_gib
  if state > room:
    facts |= {
      "fits": False,
      "error": (
        f"parameters, moments and gradients alone need {state:.1f} GiB of a {kind}'s {room:.1f}"
      ),
      "advice": ["a larger mesh.fsdp or mesh.tensor splits them further"],
    }
  return facts | {
    "source": "arithmetic",
    "device_kind": kind,
    "state_and_gradients_gib": state,
    "step_s": step_s,
    "assumed_mfu": planning.busy,
    "limits": [
      f"Arithmetic only: plan.busy={planning.busy:g} of the peak is an"
      " assumption, and activations are not counted in the memory."
    ],
  }


def describe(config: Pretrain, step: train_step.Step, *, chips_used: int) -> dict[str, Any]:
  """What is known before anything is compiled."""
  model = step.task.model
  shape, spec = model.config, model.spec
  tokens = step.rows * spec.context
  per_token = flops.train_flops_per_token(shape, vocab=spec.vocab, context=spec.context)
  facts = {
    "what": "train",
    "topology": config.plan.topology,
    "slices": config.plan.slices,
    "chips": chips_used,
    "mesh": schema.to_dict(config.mesh),
    "remat": model.compute.remat,
    "attention": step.attention,
    "dtype": model.compute.dtype,
    "rows": step.rows,
    "context": spec.context,
    "microbatches": step.microbatches,
    "tokens_per_step": tokens,
    "total_tokens": step.total_tokens,
    "parameters": flops.parameters(shape, spec.vocab + sequence.SPECIALS),
    "model_flops_per_step": per_token * tokens,
  }
  if step.program is not None and step.layout is not None:
    facts["mesh"] = dict(step.layout.mesh.shape)
    facts["optimiser_bytes"] = _bytes(step.program.shapes.opt_state)
    facts["parameter_bytes"] = _bytes(step.program.shapes.params)
  return facts


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
  steps = flops.steps(facts["total_tokens"], facts["tokens_per_step"])
  hours = steps * step_s / 3600
  return {
    "tokens_per_s": facts["tokens_per_step"] / step_s,
    "steps": steps,
    "days": hours / 24,
    "chip_hours": hours * facts["chips"],
    "price_per_chip_hour": price_per_chip_hour,
    "money": hours * facts["chips"] * price_per_chip_hour or None,
  }


def _does_not_fit(error: Exception, advice: Sequence[str] = ADVICE) -> dict[str, Any]:
  """The compiler's out-of-memory error; any other is raised again."""
  text = str(error)
  used = _USED.search(text)
  if "RESOURCE_EXHAUSTED" not in text and used is None:
    raise error
  facts: dict[str, Any] = {"fits": False, "advice": list(advice)}
  if used:
    need, limit = (float(size[:-1]) * _UNITS[size[-1]] / estimate.GIB for size in used.groups())
    facts |= {"hbm_peak_gib": need, "hbm_limit_gib": limit}
    facts["error"] = f"needs {need:.2f} GiB of a chip's {limit:.2f} GiB of HBM"
  else:
    facts["error"] = text.splitlines()[0]
  return facts


def _bytes(tree: Any) -> int:
  return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
