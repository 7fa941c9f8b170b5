"""The train step of a pre-training config, for devices that are not here."""

from __future__ import annotations

import dataclasses
from typing import Any

from totojax import assembly, flops, sharding
from totojax.config.pretrain import Pretrain
from totojax.jobs import pretrain
from totojax.tasks import pretrain as task_lib


@dataclasses.dataclass(frozen=True)
class Step:
  """A train step without its data.

  Attributes:
    task: what is trained; where nothing is to be compiled, with plain
      attention, as what computes it there may not be here.
    attention: what computes it there.
    rows: of a batch.
    microbatches: parts of a batch.
    total_tokens: of the whole run.
    layout: where it is computed; None where nothing is to be compiled.
    program: its train step; None where nothing is to be compiled.
  """

  task: task_lib.Pretrain
  attention: str
  rows: int
  microbatches: int
  total_tokens: float
  layout: sharding.Layout | None
  program: assembly.Program | None


def build(config: Pretrain, *, devices: list[Any] | None, backend: str) -> Step:
  """The step that `pretrain.pretraining` runs, for devices that are not here.

  Args:
    config: of `run = "pretrain"`; its stores of tokens are not opened.
    devices: of a topology; None: describe the run, compile nothing.
    backend: "tpu" or "gpu": what "auto" means there.
  """
  assembly.check_tokens(config, "a plan")
  model = assembly.model(config, backend)
  attention = model.compute.attention
  if devices is None:
    plain = dataclasses.replace(model.compute, attention="xla")
    model = model.clone(compute=plain)
  task = task_lib.Pretrain(model, assembly.parametrisation(config))
  size = config.train
  rows = pretrain.batch_rows(size.batch_tokens, task.spec)
  layout = program = None
  if devices is not None:
    layout = sharding.layout(config.mesh, devices)
    program = assembly.program(
      config,
      task=task,
      steps=flops.steps(size.total_tokens, rows * task.spec.context),
      rows=rows,
      microbatches=size.microbatches,
      layout=layout,
      rules=task.rules,
    )
  return Step(
    task=task,
    attention=attention,
    rows=rows,
    microbatches=size.microbatches,
    total_tokens=size.total_tokens,
    layout=layout,
    program=program,
  )
