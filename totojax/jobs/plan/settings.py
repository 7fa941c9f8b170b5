"""What a plan is for: the section `plan` of a pre-training config."""

from __future__ import annotations

import dataclasses

from totojax import flops
from totojax.config.pretrain import Plan, Pretrain
from totojax.config.schema import ConfigError
from totojax.config.training import MeshConfig
from totojax.jobs.plan import chips


def check(plan: Plan) -> None:
  """Raises ConfigError where `plan.topology` is no hardware that is known."""
  if not plan.topology:
    raise ConfigError(
      "plan.topology is empty; name the hardware, as --config.plan.topology=v5e:16x16"
    )
  if not gpu(plan.topology):
    chips.chip(plan.topology)
  elif plan.search or plan.slices > 1:
    raise ConfigError(
      f"plan.topology is {plan.topology!r}, with plan.search {plan.search}"
      f" and plan.slices {plan.slices}; GPUs are planned by arithmetic, which"
      " tells no variants apart and knows no slices: leave both as they are"
    )


def gpu(topology: str) -> tuple[str, int] | None:
  """(kind, number) of "gpu:NVIDIA H100:8", or None for a TPU.

  Raises:
    ConfigError: an unknown kind, or no number.
  """
  if not topology.startswith("gpu:"):
    return None
  _, kind, count = (topology.split(":") + ["", ""])[:3]
  valid = count.isdigit() and int(count) > 0
  if flops.peak_flops_per_s(kind) is None or not valid:
    known = [name for name in flops.PEAK_FLOPS_PER_S if "NVIDIA" in name]
    raise ConfigError(
      f"plan.topology is {topology!r}; for GPUs it is gpu:KIND:NUMBER with"
      f" one of {', '.join(known)}"
    )
  return kind, int(count)


def gpus(topology: str) -> tuple[str, int]:
  """`gpu` of a topology that is one of GPUs."""
  kind_and_count = gpu(topology)
  assert kind_and_count is not None
  return kind_and_count


def variants(config: Pretrain) -> list[Pretrain]:
  """The config itself, or each combination of its plan's lists.

  Only a train step has remat policies and microbatches.
  """
  plan = config.plan
  if not plan.search:
    return [config]
  meshes = plan.meshes or (dataclasses.astuple(config.mesh),)
  remats, counts = plan.remats, plan.microbatches
  if plan.what != "train":
    remats = counts = ()
  return [
    dataclasses.replace(
      config,
      mesh=MeshConfig(*sizes),
      compute=dataclasses.replace(config.compute, remat=remat),
      train=dataclasses.replace(config.train, microbatches=count),
    )
    for sizes in meshes
    for remat in remats or (config.compute.remat,)
    for count in counts or (config.train.microbatches,)
  ]
