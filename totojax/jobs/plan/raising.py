"""What would make a planned train step faster, as lines for whoever plans it."""

from collections.abc import Iterator, Mapping
from typing import Any

from totojax.config.pretrain import Pretrain
from totojax.jobs.plan import chips

LEAST = 0.03  # of the step: what takes less is not told
_STACKS = ("keeping activations", "reading activations")


def lines(config: Pretrain, facts: Mapping[str, Any]) -> Iterator[str]:
  """Of a train step that was compiled: key, and what it is about, most first.

  Args:
    config: that was planned.
    facts: of its plan, with `cycles` and `kernels`.
  """
  cycles, side = facts["cycles"], chips.chip(config.plan.topology).side
  attention = sum(kernel["cycles"] for kernel in facts["kernels"])
  total = sum(cycles.values()) + attention
  heads, width = getattr(config.model, "heads", 0), config.model.width
  if heads and width // heads < side and not width % side and attention > LEAST * total:
    dim = width // heads
    yield (
      f"model.heads={width // side}: heads of {dim} fill {dim / side:.0%} of a matrix unit {side}"
      f" wide, and attention's kernel takes {attention / total:.0%} of the cycles. Parameters stay"
      " the same; the model is another (configs/base_tpu.py, large_tpu.py)"
    )
  if facts["remat"] != "none":
    yield (
      f"compute.remat='none' computes nothing twice ({facts['remat']!r} does), if the activations"
      f" fit beside the peak of {facts['hbm_peak_gib']:.2f} GiB: more train.microbatches hold fewer"
    )
  stacks = sum(cycles.get(name, 0) for name in _STACKS)
  if facts["unroll"] == 1 and stacks > LEAST * total:
    yield (
      f"compute.unroll={config.model.depth}: layers in line keep no stacks of activations, whose"
      f" reading and writing takes {stacks / total:.0%} of the cycles; it compiles longer"
    )
  if cycles.get("optimiser", 0) > LEAST * total:
    yield (
      "a larger train.batch_tokens in as many more train.microbatches: the optimiser takes"
      f" {cycles['optimiser'] / total:.0%} of the cycles, once an update"
    )
  if facts["collectives_alone_s"] > 0.5 * facts["step_s"]:
    yield (
      f"more tokens a chip: exchanges take {1e3 * facts['collectives_alone_s']:.0f} ms alone beside"
      f" {1e3 * facts['step_s']:.0f} ms of cycles, behind which they count as hidden"
    )
