"""Row `sweep`: learning rates in one program, against a run for each.

Total time from nothing: building, compiling and all updates, since a short run
is mostly compiled.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses

import jax

from totojax import lanes as lanes_lib
from totojax.config.bench import SweepBench
from totojax.jobs.bench import measure, training


def measure_sweep(settings: SweepBench, *, how: measure.How) -> Iterator[measure.Row]:
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
      optim = dataclasses.replace(settings.trained.optim, lr=rate)
      config = dataclasses.replace(settings.trained, optim=optim)
      trainer = training.Trainer(config)
      finished(trainer)
      found += trainer.losses(1)
    losses["apart"] = found
    return updates

  theirs = measure.Side("a run for each rate, one after the other", apart, measure.nothing)
  for way in settings.together:
    case = "lanes in turn" if way == "in_turn" else "lanes at once (vmap)"
    ours = measure.Side(
      f"{len(rates)} rates in one program, {case}", lambda way=way: together(way), measure.nothing
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
      facts={"rates": list(rates), "steps": settings.steps, "last_loss": dict(losses)},
    )
