"""`run = "probe"`: runs that train heads, and how the heads are scored.

Every backbone, and where memory asks for it every group of layers, is a unit: a
run of its own in a folder of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import functools
from typing import Any, Protocol

import jax
import numpy as np

from totojax import assembly as parts
from totojax import flops
from totojax import sharding
from totojax import step as step_lib
from totojax import train
from totojax.data.stream import labelled
from totojax.data.stream import rows as rows_lib
from totojax.evals import top1
from totojax.jobs.probe import setup as probe_setup
from totojax.models import heads
from totojax.models import trunk
from totojax.optim import lars
from totojax.tasks import classify
from totojax.trained import backbone


def read_tokens(
    of: probe_setup.Setup, data: labelled.Records
) -> labelled.ReadInputs:
  """Reads the inputs of the backbone."""
  source = rows_lib.Source(data.name, data.store, 1.0)
  seed = of.config["seed"]
  return labelled.ReadInputs(
      rows_lib.ReadTokens((source,), of.model.spec, seed=seed)
  )


class Scored(Protocol):
  """What a `Setup` needs for heads to be scored."""

  layout: sharding.Layout
  amount: probe_setup.Amount
  ways: int
  held: labelled.Records
  validation: labelled.Records


class Heads(Protocol):
  """A task whose heads can be scored."""

  def outcomes(
      self, params: Any, frozen: Any, stats: Any, batch: Any, *,
      of: Callable[[jax.Array], Any],
  ) -> Any:  # fmt: skip
    """`of(logits [B, C])` of every head, with leading axes [L, S]."""


def finite(
    of: Scored,
    data: labelled.Records,
    read: labelled.Read,
    *,
    by_item: bool,
) -> labelled.Finite:
  """Batches for an evaluation; see `labelled.finite`."""
  return labelled.finite(
      data, read, batch=of.amount.score_rows, ways=of.ways, by_item=by_item,
      host=jax.process_index(), hosts=jax.process_count(),
  )  # fmt: skip


Score = Callable[[step_lib.TrainState, str], top1.Scores]


@dataclasses.dataclass(frozen=True)
class Programs:
  """What is compiled for heads on features of one shape."""

  run: train.Run
  outcomes: Callable[..., Any]


def training(
    of: probe_setup.Setup,
    unit: probe_setup.Unit,
    features: Mapping[str, np.ndarray] | None,
    programs: dict[Any, Programs],
) -> tuple[train.Run, Score]:
  """A run for `train.fit`, and how its heads are scored afterwards.

  Args:
    of: from `probe_setup.setup`.
    unit: what is trained.
    features: "train" and "validation" -> [M, L, D], or of tokens [M, L, T, D],
      of every record; None: the backbone runs in every step.
    programs: of units before this one, which it uses and adds to: on features
      of one shape all sources have the same.
  """
  model, frozen = None, None
  if features is None:
    model, frozen = backbone.load(
        of.run, of.model, trained=unit.source == "trained",
        depth=unit.layers[-1], layout=of.layout, seed=of.config["seed"],
    )  # fmt: skip
    reads = {
        "train": read_tokens(of, of.whole),
        "validation": read_tokens(of, of.validation),
    }
  else:
    reads = {k: labelled.ReadFeatures(v) for k, v in features.items()}
  task = classify.Classify(
      head=of.head_of(unit.source), model=model, layers=unit.layers,
      width=of.width(unit.source), classes=of.classes,
      settings=len(of.optim.settings), tokens=of.tokens(unit.source),
      split=unit.source in probe_setup.MODELS,
  )  # fmt: skip
  rows = of.amount.batch_rows
  dataset = labelled.stream(
      of.train, reads["train"], seed=of.config["seed"], batch=rows,
      host=jax.process_index(), hosts=jax.process_count(),
  )  # fmt: skip
  # Heads start as the numbers of their layers say.
  shape = (unit.layers, of.width(unit.source), task.tokens, task.split)
  known = programs.get(shape) if features is not None else None
  outcomes_fn = known.outcomes if known else outcomes(of, task)
  score = scorer(of, outcomes_fn, reads)

  def evaluate(state: step_lib.TrainState) -> Iterator[tuple[str, float]]:
    yield from top1.summary(score(state, "validation"))

  warmup = of.rate_in(of.optim.warmup_epochs)
  tokens = rows * (model.spec.context if model else 1)
  own = {
      "config": {**of.config, "unit": dataclasses.asdict(unit)},
      "batches": parts.reader(of.config, dataset),
      "evals": {"validation": evaluate},
  }
  if known:
    return dataclasses.replace(known.run, **own), score
  run = parts.run(
      task=task,
      steps=of.steps,
      rows=rows,
      microbatches=of.amount.microbatches,
      facts={
          "backbone": of.run
          and {"run": str(of.run.path), "step": of.run.step},
          "heads": len(unit.layers) * len(of.optim.settings),
          "parameters_of_a_head": head_parameters(of, unit),
      },
      tokens_per_step=tokens,
      flops_per_token=_flops_per_token(model),
      layout=of.layout,
      frozen=frozen,
      optimiser=parts.Optimiser(
          lars.grid(
              of.optim, batch_rows=rows, steps=of.steps, warmup_steps=warmup
          ),
          lars.highest_rate(of.optim, steps=of.steps, warmup_steps=warmup),
      ),
      **own,
  )
  if features is not None:
    programs[shape] = Programs(run, outcomes_fn)
  return run, score


def _flops_per_token(model: trunk.Trunk | None) -> float:
  """Of the forward pass; heads are not counted."""
  if model is None:
    return 0.0
  return 2.0 * flops.forward_macs_per_token(
      model.config, vocab=0, context=model.spec.context
  )


def outcomes(of: Scored, task: Heads) -> Callable[..., Any]:
  """(params, frozen, stats, batch, views) -> what all heads say of a batch."""

  def compute(params, frozen, stats, batch, views):
    return task.outcomes(
        params, frozen, stats, batch,
        of=lambda logits_BC: top1.outcome(
            logits_BC, batch["label"], views=views
        ),
    )  # fmt: skip

  return of.layout.jit(compute, static_argnames="views")


def scorer(
    of: Scored, compute: Callable[..., Any], reads: Mapping[str, labelled.Read]
) -> Score:
  """(state, "validation" or "holdout") -> every head on every item of it.

  There is no "holdout" where nothing is held out.

  Args:
    of: a setup.
    compute: from `outcomes`.
    reads: of "train" and "validation".
  """
  views = functools.partial(finite, of, by_item=True)
  sets = {"validation": views(of.validation, reads["validation"])}
  if len(of.held.records):
    sets["holdout"] = views(of.held, reads["train"])

  def score(state: step_lib.TrainState, name: str) -> top1.Scores:
    data = sets[name]

    def of_batch(batch):
      placed = of.layout.place(batch)
      return compute(
          state.params, state.frozen, state.stats, placed, data.views
      )

    return top1.evaluate(of_batch, data, items=data.items)

  return score


def head_parameters(of: probe_setup.Setup, unit: probe_setup.Unit) -> int:
  shapes = heads.shapes(
      of.head_of(unit.source), width=of.width(unit.source), classes=of.classes
  )
  return sum(int(np.prod(shape)) for shape, _ in shapes.values())
