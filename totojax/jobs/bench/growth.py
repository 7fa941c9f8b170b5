"""Row `growth`: how the train step's rate grows with models, tokens, devices.

Each case is a train step beside that of the smallest case, in turns, and both
are rated by the FLOPs that their models need: a ratio of 1 is a cost that
grows as the arithmetic does. The compile time of each stands beside it.
"""

from collections.abc import Iterator
import dataclasses
import time

import jax

from totojax import assembly, flops, sequence
from totojax.config import studies
from totojax.config.bench import GrowthBench
from totojax.config.pretrain import Pretrain
from totojax.jobs.bench import hardware, measure, training

# Bytes of a parameter while it is trained in float32: itself, two moments, its
# gradient, and room for copies and activations. With 1.13e9 parameters the
# system ended a run on a CPU at 23.3 GiB, which is 22 of them.
_BYTES_OF_PARAMETER = 26


class _Case:
  """A train step and the FLOPs that it needs."""

  def __init__(self, config: Pretrain, devices: int):
    self._trainer = training.trainer(config, devices=devices)
    shape, spec = assembly.shape(config.model), config.sequence
    per_token = flops.train_flops_per_token(shape, vocab=spec.vocab, context=spec.context)
    self.parameters = flops.parameters(shape, spec.vocab + sequence.SPECIALS)
    self.context = spec.context
    self.gigaflops = per_token * config.train.batch_tokens / 1e9
    begin = time.perf_counter()
    self._trainer.step()
    self.first_step_s = time.perf_counter() - begin

  def step(self) -> float:
    self._trainer.step()
    return self.gigaflops


def rows(settings: GrowthBench, harness: measure.Harness) -> Iterator[measure.Result]:
  """Model FLOPs per second of larger steps, against those of the smallest."""
  smallest = _Case(settings.trained, 1)
  theirs = measure.Side("train step of the smallest case", smallest.step)
  for name, config, devices in _cases(settings):
    if reason := _missing(config, devices):
      yield harness.skipped(name, reason)
      continue
    try:
      larger = _Case(config, devices)
    except jax.errors.JaxRuntimeError as error:
      if "RESOURCE_EXHAUSTED" not in str(error):
        raise
      yield harness.skipped(name, str(error).splitlines()[0])
      continue
    facts = {**_facts(larger), "devices": devices, "smallest": _facts(smallest)}
    yield harness.compare(
      measure.Side(f"train step, {name}", larger.step),
      theirs,
      case=name,
      compares="model FLOPs per second of the larger and the smallest step",
      unit="GFLOP",
      facts=lambda rounds, facts=facts: facts,
    )


def _facts(case: _Case) -> dict[str, float]:
  return {key: getattr(case, key) for key in ("parameters", "context", "first_step_s")}


def _cases(settings: GrowthBench) -> Iterator[tuple[str, Pretrain, int]]:
  """(name, config, devices) of every larger case."""
  small = settings.trained
  for name, sizes in settings.models.items():
    yield f"model {name}", dataclasses.replace(small, model=studies.sized(small.model, sizes)), 1
  for frames in settings.frames:
    context = frames * small.sequence.frame_tokens
    longer = dataclasses.replace(small.sequence, frames=frames, context=context)
    larger = dataclasses.replace(small, sequence=longer)
    yield f"{context:,} tokens", _with_batch(larger, context), 1
  for devices in settings.devices:
    tokens = small.train.batch_tokens * devices
    yield f"{devices} devices", _with_batch(small, tokens), devices


def _with_batch(config: Pretrain, batch_tokens: int) -> Pretrain:
  train = dataclasses.replace(config.train, batch_tokens=batch_tokens)
  return dataclasses.replace(config, train=train)


def _missing(config: Pretrain, devices: int) -> str:
  """Why a case cannot be measured here; "" if it can."""
  available = len(jax.devices())
  if devices > available:
    return f"needs {devices} devices; there are {available}"
  shape = assembly.shape(config.model)
  count = flops.parameters(shape, config.sequence.vocab)
  need = count * _BYTES_OF_PARAMETER / 2**30
  have = hardware.device_memory_gib()
  if need > have:
    return f"needs about {need:.0f} GiB of memory; there are {have:.0f}"
  return ""
