"""How heads are scored: every head on every item, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import functools
from typing import Any, Protocol

import jax

from totojax import assembly
from totojax import step as step_lib
from totojax.data.stream import labelled
from totojax.evals import top1
from totojax.jobs.labels import data as data_lib

Score = Callable[[step_lib.TrainState, str], top1.Scores]


class Heads(Protocol):
  """A task whose heads can be scored."""

  def outcomes(
    self, params: Any, frozen: Any, stats: Any, batch: Any, *, of: Callable[[jax.Array], Any]
  ) -> Any:
    """`of(logits [B, C])` of every head, with leading axes [L, S]."""


def finite(
  setup: data_lib.Setup, records: labelled.Records, read: labelled.Read, *, by_item: bool
) -> labelled.ItemBatches:
  """Batches for an evaluation; see `labelled.finite`."""
  return labelled.finite(
    records,
    read,
    batch=setup.config.train.score_rows,
    ways=setup.ways,
    by_item=by_item,
    host=jax.process_index(),
    hosts=jax.process_count(),
  )


def outcomes(setup: data_lib.Setup, task: Heads) -> Callable[..., Any]:
  """(state, this host's rows, views=) -> what all heads say of a batch."""

  def compute(params, frozen, stats, batch, views):
    return task.outcomes(
      params,
      frozen,
      stats,
      batch,
      of=lambda logits_BC: top1.outcome(logits_BC, batch["label"], views=views),
    )

  compute = assembly.everywhere(compute, setup.layout, static=("views",))
  return lambda state, batch, views: compute(
    state.params, state.frozen, state.stats, batch, views=views
  )


def scorer(
  setup: data_lib.Setup, compute: Callable[..., Any], reads: Mapping[str, labelled.Read]
) -> Score:
  """(state, "validation" or "holdout") -> every head on every item of it.

  There is no "holdout" where nothing is held out.

  Args:
    setup: of the job.
    compute: from `outcomes`.
    reads: of "train" and "validation".
  """
  views = functools.partial(finite, setup, by_item=True)
  batches = {"validation": views(setup.sets.validation, reads["validation"])}
  if len(setup.sets.held.records):
    batches["holdout"] = views(setup.sets.held, reads["train"])

  def score(state: step_lib.TrainState, name: str) -> top1.Scores:
    items = batches[name]
    return top1.evaluate(lambda batch: compute(state, batch, items.views), items, items=items.items)

  return score


def training_stream(setup: data_lib.Setup, read: labelled.Read) -> Callable[[int], Any]:
  """First step -> this host's training batches from there on."""
  dataset = labelled.stream(
    setup.sets.train,
    read,
    seed=setup.config.seed,
    batch=setup.config.train.batch_rows,
    host=jax.process_index(),
    hosts=jax.process_count(),
  )
  return assembly.reader(setup.config.data.reading, dataset)
