"""Row `growth`: how the train step's rate grows with models, tokens, devices.

Each case is a train step beside that of the smallest case, in turns, and both
are rated by the FLOPs that their models need: a ratio of 1 is a cost that
grows as the arithmetic does. The compile time of each stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import copy
import dataclasses
import time
from typing import Any

import jax

from totojax import assembly as parts
from totojax import flops
from totojax import sequence
from totojax.jobs.bench import hardware
from totojax.jobs.bench import measure
from totojax.jobs.bench import training

# Bytes of a parameter while it is trained in float32: itself, two moments, its
# gradient, and room for copies and activations. With 1.13e9 parameters the
# system ended a run on a CPU at 23.3 GiB, which is 22 of them.
_BYTES_OF_PARAMETER = 26


@dataclasses.dataclass(frozen=True)
class GrowthBench:
  """What is trained.

  Attributes:
    trained: a config of `run = "pretrain"`: the smallest case; its stores are
      not opened.
    models: name -> sizes, in place of the smallest's.
    frames: of a sequence, in place of the smallest's.
    devices: numbers of devices that share the parameters (fsdp), with as many
      sequences; those that are not here are skipped. On a CPU,
      XLA_FLAGS=--xla_force_host_platform_device_count=8 makes 8 of it.
  """

  trained: Mapping[str, Any]
  models: Mapping[str, Mapping[str, int]]
  frames: tuple[int, ...]
  devices: tuple[int, ...]


class _Case:
  """A train step and the FLOPs that it needs."""

  def __init__(self, config: Mapping[str, Any], devices: int):
    self._trainer = training.Trainer(config, devices=devices)
    shape, spec = self._trainer.shape, self._trainer.spec
    rows = len(self._trainer.tokens_BR)
    per_token = flops.train_flops_per_token(
        shape, vocab=spec.vocab, context=spec.context
    )
    self.parameters = flops.parameters(shape, spec.vocab + sequence.SPECIALS)
    self.context = spec.context
    self.gigaflops = per_token * rows * spec.context / 1e9
    begin = time.perf_counter()
    self._trainer.step()
    self.first_step_s = time.perf_counter() - begin

  def step(self) -> float:
    self._trainer.step()
    return self.gigaflops


def measure_growth(
    settings: GrowthBench, *, how: measure.How
) -> Iterator[measure.Row | measure.Skipped]:
  """Model FLOPs per second of larger steps, against those of the smallest."""
  smallest = _Case(settings.trained, 1)
  for name, changed, devices in _cases(settings):
    missing = _missing(changed, devices)
    if missing:
      yield measure.Skipped("growth", name, missing)
      continue
    try:
      larger = _Case(changed, devices)
    except jax.errors.JaxRuntimeError as error:
      if "RESOURCE_EXHAUSTED" not in str(error):
        raise
      told = str(error).splitlines()[0]
      yield measure.Skipped("growth", name, told)
      continue
    ours = measure.Side(f"train step, {name}", larger.step, measure.nothing)
    theirs = measure.Side(
        "train step of the smallest case", smallest.step, measure.nothing
    )
    yield measure.Row(
        row="growth",
        case=name,
        compares="model FLOPs per second of the larger and the smallest step",
        unit="GFLOP",
        ours=ours.what,
        theirs=theirs.what,
        measured=measure.compare(ours, theirs, how=how),
        goals=(),
        facts={
            "parameters": larger.parameters,
            "context": larger.context,
            "devices": devices,
            "first_step_s": larger.first_step_s,
            "smallest": {
                "parameters": smallest.parameters,
                "context": smallest.context,
                "first_step_s": smallest.first_step_s,
            },
        },
    )


def _cases(
    settings: GrowthBench,
) -> Iterator[tuple[str, dict[str, Any], int]]:
  """(name, config, devices) of every larger case."""
  for name, sizes in settings.models.items():
    yield f"model {name}", _with(settings.trained, model=sizes), 1
  for frames in settings.frames:
    grid = settings.trained["sequence"]["grid"]
    context = frames * grid**2
    yield (
        f"{context:,} tokens",
        _with(
            settings.trained,
            sequence={"frames": frames, "context": context},
            train={"batch_tokens": context},
        ),
        1,
    )
  for devices in settings.devices:
    tokens = settings.trained["train"]["batch_tokens"] * devices
    yield (
        f"{devices} devices",
        _with(settings.trained, train={"batch_tokens": tokens}),
        devices,
    )


def _with(
    config: Mapping[str, Any], **sections: Mapping[str, Any]
) -> dict[str, Any]:
  changed = copy.deepcopy(dict(config))
  for name, values in sections.items():
    changed[name] = {**changed[name], **values}
  return changed


def _missing(config: Mapping[str, Any], devices: int) -> str:
  """Why a case cannot be measured here; "" if it can."""
  here = len(jax.devices())
  if devices > here:
    return f"needs {devices} devices; there are {here}"
  shape = parts.shape(config)
  count = flops.parameters(shape, config["sequence"]["vocab"])
  need = count * _BYTES_OF_PARAMETER / 2**30
  have = hardware.device_memory_gib()
  if need > have:
    return f"needs about {need:.0f} GiB of memory; there are {have:.0f}"
  return ""
