"""What probes, joint training and fine-tuning share: a run, labelled data, scores.

Data are stores of tokens, files of images, or features on disk; all become
records with classes, of which some are held out of training by class. Every
head is scored on every item, in one pass.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from totojax import assembly, plugins, sequence, sharding, step as step_lib, tasks
from totojax.config import labels
from totojax.config.schema import ConfigError
from totojax.data.stream import heldout, labelled, rows as rows_lib
from totojax.evals import top1
from totojax.models import heads, trunk
from totojax.trained import backbone

Score = Callable[[step_lib.TrainState, str], top1.Scores]
Reads = Mapping[str, labelled.Read]  # of "train" and "validation"


@dataclasses.dataclass(frozen=True)
class Sets:
  """The records of a job on labels."""

  all_train: labelled.Records  # of training, with the hold-out
  train: labelled.Records  # what is trained on
  holdout: labelled.Records  # what is held out of training, to choose a layer on
  validation: labelled.Records  # what is evaluated
  missing: Sequence[tuple[str, str]]  # (id, reason) of validation items
  classes: int  # how many there are

  @property
  def splits(self) -> dict[str, labelled.Records]:
    """What is read of each, as `Reads`."""
    return {"train": self.all_train, "validation": self.validation}

  @property
  def sentence(self) -> str:
    """How much of each there is."""
    return (
      f"{len(self.train.records)} training records, {len(self.holdout.items())} items held out of"
      f" training, {len(self.validation.items())} for validation, {self.classes} classes"
    )


@dataclasses.dataclass(frozen=True)
class Setup:
  """A job on labels with its run and data opened and checked."""

  config: labels.Probe | labels.Joint | labels.Finetune  # of the job
  run: backbone.Trained | None  # the backbone's; None: features on disk alone are probed
  model: trunk.Trunk | None  # the backbone with this job's inputs
  layout: sharding.Layout  # where it is computed
  sets: Sets  # the records

  def rate_in(self, epochs: float) -> float:
    """Updates in so many epochs."""
    return epochs * len(self.sets.train.records) / self.config.train.batch_rows

  @property
  def steps(self) -> int:
    return max(round(self.rate_in(self.config.train.epochs)), 1)

  def stream(self, read: labelled.Read) -> Callable[[int], Any]:
    """First step -> this host's training batches from there on."""
    dataset = labelled.stream(
      self.sets.train,
      read,
      seed=self.config.seed,
      batch=self.config.train.batch_rows,
      host=jax.process_index(),
      hosts=jax.process_count(),
    )
    return assembly.reader(self.config.data.reading, dataset)

  def program(self, task: tasks.Task, optimiser: assembly.Optimiser) -> assembly.Program:
    """The train step of this job."""
    return assembly.program(
      self.config,
      task=task,
      steps=self.steps,
      rows=self.config.train.batch_rows,
      microbatches=self.config.train.microbatches,
      layout=self.layout,
      optimiser=optimiser,
    )

  def finite(
    self, records: labelled.Records, read: labelled.Read, *, by_item: bool
  ) -> labelled.ItemBatches:
    """Batches for an evaluation; see `labelled.finite`."""
    return labelled.finite(
      records,
      read,
      batch=self.config.train.score_rows,
      ways=self.layout.ways,
      by_item=by_item,
      host=jax.process_index(),
      hosts=jax.process_count(),
    )

  def outcomes(self, task: tasks.Scored) -> Callable[..., Any]:
    """(state, this host's rows, views=) -> what all heads say of a batch."""

    def compute(params, frozen, stats, batch, views):
      measure = lambda logits_BC: top1.outcome(logits_BC, batch["label"], views=views)
      return task.outcomes(tasks.Variables(params, frozen, stats), batch, measure=measure)

    compute = assembly.everywhere(compute, self.layout, static=("views",))
    return lambda state, batch, views: compute(
      state.params, state.frozen, state.stats, batch, views=views
    )

  def scorer(self, outcomes: Callable[..., Any], reads: Reads) -> Score:
    """(state, "validation" or "holdout") -> every head on every item of it.

    There is no "holdout" where nothing is held out.

    Args:
      outcomes: of the method.
      reads: how records are read.
    """
    sets = self.sets
    batches = {"validation": self.finite(sets.validation, reads["validation"], by_item=True)}
    if len(sets.holdout.records):
      batches["holdout"] = self.finite(sets.holdout, reads["train"], by_item=True)

    def score(state: step_lib.TrainState, name: str) -> top1.Scores:
      items = batches[name]
      return top1.evaluate(
        lambda batch: outcomes(state, batch, items.views), items, items=items.items
      )

    return score


def open_sets(
  run: backbone.Trained,
  data: labels.Data,
  *,
  seed: int,
  spec: sequence.SequenceSpec | None = None,
  most: int = 0,
) -> tuple[Sets, int]:
  """The records of two stores of tokens, and the frames of a clip.

  Args:
    run: the backbone, whose tokens they must hold.
    data: which stores.
    seed: of what is held out.
    spec: the sequence, where it is not the one of the run.
    most: training records that are used; 0: all.

  Raises:
    ValueError: a store does not fit, they are of different kinds, or an item is
      in both.
  """
  stores = {
    name: backbone.open_tokens(run, path, f"data.{name}", seq=spec)
    for name, path in (("train", data.train), ("validation", data.validation))
  }
  kinds = {name: store.manifest.kind for name, store in stores.items()}
  if len(set(kinds.values())) > 1:
    raise ConfigError(f"the stores are of different kinds: {kinds}")
  heldout.check_disjoint(*([rows_lib.Source(name, s, 1.0)] for name, s in stores.items()))
  sets = hold_out(
    labelled.records(stores["train"], "train", most=most),
    labelled.records(stores["validation"], "validation"),
    data=data,
    seed=seed,
    missing=labelled.missing(stores["validation"].path),
  )
  return sets, 1 if kinds["train"] == "image" else data.frames or run.model.spec.frames


def hold_out(
  train: labelled.Records,
  validation: labelled.Records,
  *,
  data: labels.Data,
  seed: int,
  missing: Sequence[tuple[str, str]],
) -> Sets:
  """Holds out what a layer is chosen on, and counts classes.

  Raises:
    ValueError: nothing is held out where something should be, or the classes
      do not fit.
  """
  rest, holdout = labelled.split(train, held_frac=data.holdout_frac, seed=seed)
  if data.holdout_frac and not len(holdout.records):
    or_none = "" if isinstance(data, labels.ProbeData) else ", or set it to 0"
    raise ConfigError(
      f"data.holdout_frac {data.holdout_frac} of {len(rest.records)}"
      f" training records holds none out; raise it{or_none}"
    )
  classes = labelled.check_classes(rest, validation, classes=data.classes)
  return Sets(train, rest, holdout, validation, missing, classes)


def token_reader(
  records: labelled.Records, spec: sequence.SequenceSpec, seed: int
) -> rows_lib.ReadTokens:
  """Reads the rows of records of a store."""
  return rows_lib.ReadTokens((rows_lib.Source(records.name, records.tokens, 1.0),), spec, seed)


def check_head(head: heads.HeadConfig, *, width: int, classes: int) -> None:
  """Raises PluginError where a user's head does not pool to [B, D]."""
  if not plugins.is_reference(head.pool):
    return

  def logits(x_BTD, visual_BT):
    for name, logical in heads.axes(head, width=width, classes=classes).items():
      sharding.ShardingRules().spec(logical, name=name)
    params = heads.init(head, jax.random.key(0), width=width, classes=classes)
    return heads.logits(head, params, x_BTD, visual_BT)

  shapes = jnp.zeros((2, 3, width)), jnp.ones((2, 3), bool)
  with plugins.users(head.pool, f"the head fails at features {[2, 3, width]}"):
    logits_BC = jax.eval_shape(logits, *shapes)
  if logits_BC.shape != (2, classes):
    pooled = [*logits_BC.shape[:-1], width]
    raise plugins.PluginError(
      f"{head.pool}: pool() gives {pooled} of features {[2, 3, width]}; it must give [2, {width}]"
    )
