"""Row `sweep`: learning rates in one program, against a run for each.

Total time from nothing: building, compiling and all updates, since a short run
is mostly compiled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import copy
import dataclasses
from typing import Any

import jax

from totojax import lanes as lanes_lib
from totojax.jobs.bench import measure
from totojax.jobs.bench import training


@dataclasses.dataclass(frozen=True)
class SweepBench:
  """What is trained.

  Attributes:
    log2_lr: base-2 logarithms of the peak rates, a lane each.
    steps: updates of each run.
    together: ways to compute lanes, a case each: "at_once" (vmap), "in_turn".
    trained: a config of `run = "pretrain"`; its stores are not opened.
  """

  log2_lr: tuple[float, ...]
  steps: int
  together: tuple[str, ...]
  trained: Mapping[str, Any]

  def __post_init__(self):
    if len(self.log2_lr) < 2 or self.steps < 1:
      raise ValueError(
          f"sweep.log2_lr is {self.log2_lr} and sweep.steps {self.steps}; use"
          " at least 2 rates and 1 update"
      )
    if not self.together or not {*self.together} <= {"at_once", "in_turn"}:
      raise ValueError(
          f"sweep.together is {self.together}; use some of 'at_once', 'in_turn'"
      )


def measure_sweep(
    settings: SweepBench, *, how: measure.How
) -> Iterator[measure.Row]:
  """Updates of all runs per second of total time."""
  rates = tuple(2.0**x for x in settings.log2_lr)
  updates = float(len(rates) * settings.steps)
  losses = {}

  def finished(trainer: training.Trainer) -> None:
    for _ in range(settings.steps):
      trainer.dispatch()
    jax.block_until_ready(trainer.state)

  def together(way: str) -> float:
    lanes = lanes_lib.Lanes(rates, way == "in_turn")
    trainer = training.Trainer(settings.trained, lanes=lanes)
    finished(trainer)
    losses[way] = trainer.losses(len(rates))
    return updates

  def apart() -> float:
    found = []
    for rate in rates:
      config = copy.deepcopy(dict(settings.trained))
      config["optim"]["lr"] = rate
      trainer = training.Trainer(config)
      finished(trainer)
      found += trainer.losses(1)
    losses["apart"] = found
    return updates

  theirs = measure.Side(
      "a run for each rate, one after the other", apart, measure.nothing
  )
  for way in settings.together:
    case = "lanes in turn" if way == "in_turn" else "lanes at once (vmap)"
    ours = measure.Side(
        f"{len(rates)} rates in one program, {case}",
        lambda way=way: together(way),
        measure.nothing,
    )
    measured = measure.compare(ours, theirs, how=how)
    yield measure.Row(
        row="sweep",
        case=case,
        compares=(
            "total time of short runs that differ in their learning rate alone:"
            " building, compiling, training"
        ),
        unit="updates",
        ours=ours.what,
        theirs=theirs.what,
        measured=measured,
        goals=(),
        facts={
            "rates": list(rates),
            "steps": settings.steps,
            "last_loss": dict(losses),
        },
    )
