"""Row `sweep`: learning rates in one program, against a run for each.

Total time from nothing: building, compiling and all updates, since a short run
is mostly compiled.
"""

from collections.abc import Iterator
import dataclasses
import functools

import jax

from totojax import lanes as lanes_lib
from totojax.config.bench import SweepBench
from totojax.config.pretrain import Pretrain
from totojax.jobs.bench import measure, training


def rows(settings: SweepBench, harness: measure.Harness) -> Iterator[measure.Measurement]:
  """Updates of all runs per second of total time."""
  rates = tuple(2.0**x for x in settings.log2_lr)
  updates = len(rates) * settings.steps
  losses = {}

  def trained(config: Pretrain, lanes: lanes_lib.Lanes | None = None) -> list[float]:
    trainer = training.trainer(config, lanes=lanes)
    for _ in range(settings.steps):
      trainer.dispatch()
    jax.block_until_ready(trainer.state)
    return trainer.losses()

  def together(way: str) -> None:
    losses[way] = trained(settings.trained, lanes_lib.Lanes(rates, way == "in_turn"))

  def apart() -> None:
    losses["apart"] = []
    for rate in rates:
      optim = dataclasses.replace(settings.trained.optim, lr=rate)
      losses["apart"] += trained(dataclasses.replace(settings.trained, optim=optim))

  theirs = measure.Side("a run for each rate, one after the other", apart, updates)
  for way in settings.together:
    case = "lanes in turn" if way == "in_turn" else "lanes at once (vmap)"
    what = f"{len(rates)} rates in one program, {case}"
    yield harness.compare(
      measure.Side(what, functools.partial(together, way), updates),
      theirs,
      case=case,
      compares=(
        "total time of short runs that differ in their learning rate alone:"
        " building, compiling, training"
      ),
      unit="updates",
      facts=lambda rounds: {
        "rates": list(rates),
        "steps": settings.steps,
        "last_loss": dict(losses),
      },
    )
