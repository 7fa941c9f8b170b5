"""`run = "probe"`: runs that train heads.

Every backbone, and where memory asks for it every group of layers, is a unit: a
run of its own in a folder of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import numpy as np

from totojax import assembly, flops, train
from totojax.config import schema
from totojax.data.stream import labelled
from totojax.evals import top1
from totojax.jobs.labels import setup as setup_lib
from totojax.jobs.probe import setup as probe_setup
from totojax.models import heads, trunk
from totojax.optim import lars
from totojax.tasks import classify
from totojax.trained import backbone


def read_tokens(setup: probe_setup.Setup, records: labelled.Records) -> labelled.ReadInputs:
  """Reads the inputs of the backbone."""
  return labelled.ReadInputs(
    setup_lib.token_reader(records, setup.trained[1].spec, setup.config.seed)
  )


@dataclasses.dataclass(frozen=True)
class Programs:
  """What is compiled for heads on features of one shape."""

  run: train.Run
  outcomes: Callable[..., Any]


def training(
  setup: probe_setup.Setup,
  unit: probe_setup.Unit,
  features: Mapping[str, np.ndarray] | None,
  programs: dict[Any, Programs],
) -> tuple[train.Run, setup_lib.Score]:
  """A run for `train.fit`, and how its heads are scored afterwards.

  Args:
    setup: from `probe_setup.prepare`.
    unit: what is trained.
    features: "train" and "validation" -> [M, L, D], or of tokens [M, L, T, D],
      of every record; None: the backbone runs in every step.
    programs: of units before this one, which it uses and adds to: on features
      of one shape all sources have the same.
  """
  config, source, model, frozen = setup.config, setup.sources[unit.source], None, None
  if features is None:
    model, frozen = backbone.load(
      *setup.trained,
      trained=unit.source == "trained",
      depth=unit.layers[-1],
      layout=setup.layout,
      seed=config.seed,
    )
    sets = {"train": setup.sets.all_train, "validation": setup.sets.validation}
    reads = {name: read_tokens(setup, records) for name, records in sets.items()}
  else:
    reads = {name: labelled.ReadFeatures(x_ML) for name, x_ML in features.items()}
  task = classify.Classify(
    head=source.head,
    model=model,
    layers=unit.layers,
    width=source.width,
    classes=setup.sets.classes,
    settings=len(config.optim.settings),
    tokens=source.tokens,
    split=source.model,
  )
  # Heads start as the numbers of their layers say.
  shape = (unit.layers, source.width, source.tokens, source.model)
  known = programs.get(shape) if features is not None else None
  if known is None:
    known = Programs(_run(setup, unit, task, frozen), setup.outcomes(task))
  if features is not None:
    programs[shape] = known
  score = setup.scorer(known.outcomes, reads)
  run = dataclasses.replace(
    known.run,
    config={**schema.to_dict(config), "unit": dataclasses.asdict(unit)},
    batches=setup.stream(reads["train"]),
    evals={"validation": lambda state: top1.summary(score(state, "validation"))},
  )
  return run, score


def _run(
  setup: probe_setup.Setup, unit: probe_setup.Unit, task: classify.Classify, frozen: Any
) -> train.Run:
  """A run without batches and evaluations."""
  config, model = setup.config, task.model
  rows = config.train.batch_rows
  warmup = setup.rate_in(config.optim.warmup_epochs)
  program = assembly.program(
    config,
    task=task,
    steps=setup.steps,
    rows=rows,
    microbatches=config.train.microbatches,
    layout=setup.layout,
    optimiser=assembly.Optimiser(
      lars.grid(config.optim, batch_rows=rows, steps=setup.steps, warmup_steps=warmup),
      lars.highest_rate(config.optim, steps=setup.steps, warmup_steps=warmup),
    ),
  )
  return assembly.run(
    program,
    batches=lambda first_step: (),
    evals={},
    facts={
      "backbone": setup.run and {"run": str(setup.run.path), "step": setup.run.step},
      "heads": len(unit.layers) * len(config.optim.settings),
      "parameters_of_a_head": head_parameters(setup.sources[unit.source], task.classes),
    },
    tokens_per_step=rows * (model.spec.context if model else 1),
    flops_per_token=_flops_per_token(model),
    frozen=frozen,
  )


def _flops_per_token(model: trunk.Trunk | None) -> float:
  """Of the forward pass; heads are not counted."""
  if model is None:
    return 0.0
  return 2.0 * flops.forward_macs_per_token(model.config, vocab=0, context=model.spec.context)


def head_parameters(source: probe_setup.Source, classes: int) -> int:
  shapes = heads.shapes(source.head, width=source.width, classes=classes)
  return sum(int(np.prod(shape)) for shape, _ in shapes.values())
