"""The section `plan` of a pre-training config."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from totojax import flops
from totojax import sharding
from totojax.jobs.plan import chips

WHAT = ("train", "decode", "encode")


@dataclasses.dataclass(frozen=True)
class Planning:
  """What is planned for.

  Attributes:
    what: the step: "train"; "decode", one token of each row with a cache; or
      "encode", frames to codes by a dVAE of DALL-E's kind.
    rows: sequences decoded, or frames encoded, by each data-parallel device.
    cache_tokens: room of the cache; 0: the context.
    dvae: what encodes: fields of `dvae.DvaeConfig` without the vocabulary,
      which is the sequence's.
    topology: "v5e:16x16", or "gpu:NVIDIA H100:8" (arithmetic, no compiler).
    slices: of this topology each, joined by the slower network.
    price_per_chip_hour: in any currency; 0.0: no cost is said.
    busy: share of the peak that GPUs are taken to reach: an assumption.
    search: whether to compile every combination of the three lists below.
    meshes: (data, fsdp, tensor, sequence) each, the last 1 if left out; ():
      the config's.
    remats: policies; (): the config's.
    microbatches: (): the config's.
  """

  what: str
  rows: int
  cache_tokens: int
  dvae: Mapping[str, Any]
  topology: str
  slices: int
  price_per_chip_hour: float
  busy: float
  search: bool
  meshes: tuple
  remats: tuple
  microbatches: tuple

  def __post_init__(self):
    if not self.topology:
      raise ValueError(
          "plan.topology is empty; name the hardware, as"
          " --config.plan.topology=v5e:16x16"
      )
    if self.what not in WHAT:
      raise ValueError(
          f"plan.what is {self.what!r}; use one of {', '.join(WHAT)}"
      )
    if self.rows < 1:
      raise ValueError(f"plan.rows is {self.rows}; use 1 or more")
    if self.cache_tokens < 0:
      raise ValueError(
          f"plan.cache_tokens is {self.cache_tokens}; use 0 for the context, or"
          " fewer"
      )
    if self.slices < 1:
      raise ValueError(f"plan.slices is {self.slices}; use 1 or more")
    if not 0.0 < self.busy <= 1.0:
      raise ValueError(f"plan.busy is {self.busy}; it is a share of the peak")
    if self.price_per_chip_hour < 0.0:
      raise ValueError(
          f"plan.price_per_chip_hour is {self.price_per_chip_hour}; use 0.0 for"
          " none"
      )
    for mesh in self.meshes:
      if len(mesh) not in (3, 4):
        raise ValueError(
            f"plan.meshes has {mesh!r}; each is (data, fsdp, tensor) or (data,"
            " fsdp, tensor, sequence)"
        )
    if not self.gpu:
      chips.chip(self.topology)
    elif self.search or self.slices > 1:
      raise ValueError(
          f"plan.topology is {self.topology!r}, with plan.search {self.search}"
          f" and plan.slices {self.slices}; GPUs are planned by arithmetic,"
          " which tells no variants apart and knows no slices: leave both as"
          " they are"
      )

  @property
  def gpu(self) -> tuple[str, int] | None:
    """(kind, number) of "gpu:NVIDIA H100:8", or None for a TPU."""
    if not self.topology.startswith("gpu:"):
      return None
    _, kind, count = (self.topology.split(":") + ["", ""])[:3]
    whole = count.isdigit() and int(count) > 0
    if flops.peak_flops_per_s(kind) is None or not whole:
      known = [name for name in flops.PEAK_FLOPS_PER_S if "NVIDIA" in name]
      raise ValueError(
          f"plan.topology is {self.topology!r}; for GPUs it is gpu:KIND:NUMBER"
          f" with one of {', '.join(known)}"
      )
    return kind, int(count)


def variants(
    config: Mapping[str, Any], planning: Planning
) -> list[dict[str, Any]]:
  """The config itself, or each combination of the search's lists.

  Only a train step has remat policies and microbatches.
  """
  if not planning.search:
    return [dict(config)]
  mesh = config["mesh"]
  meshes = planning.meshes or (tuple(mesh.values()),)
  remats, counts = planning.remats, planning.microbatches
  if planning.what != "train":
    remats = counts = ()
  remats = remats or (config["compute"]["remat"],)
  counts = counts or (config["train"]["microbatches"],)
  return [
      {
          **config,
          "mesh": dict(zip(sharding.AXES, (*sizes, 1))),
          "compute": {**config["compute"], "remat": remat},
          "train": {**config["train"], "microbatches": count},
      }
      for sizes in meshes
      for remat in remats
      for count in counts
  ]
