"""What probes, joint training and fine-tuning share: a run, labelled data, scores.

Data are stores of tokens, files of images (encoded in each step), or features on disk; all become
records with classes, of which some are held out of training by class. Every
head is scored on every item, in one pass.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from totojax import assembly, plugins, sequence, sharding, step as step_lib, tasks
from totojax.config import labels
from totojax.config.schema import ConfigError
from totojax.data.pixels import views
from totojax.data.sources import folder, imagenet, items as items_lib
from totojax.data.stream import heldout, labelled, rows as rows_lib
from totojax.evals import top1
from totojax.models import heads, trunk
from totojax.tokenizers import api
from totojax.trained import backbone

Score = Callable[[step_lib.TrainState, str], top1.Scores]
Reads = Mapping[str, labelled.Read]  # of "train" and "validation"
# Of stores and features the same pixels in every epoch; of files of images MAE's
# random windows and flips, drawn anew.
FROZEN, NEW = "frozen views", "new views"


@dataclasses.dataclass(frozen=True)
class Sets:
  """The records of a job on labels."""

  all_train: labelled.Records  # of training, with the hold-out
  train: labelled.Records  # what is trained on
  holdout: labelled.Records  # what is held out of training, to choose a layer on
  validation: labelled.Records  # what is evaluated
  missing: Sequence[tuple[str, str]]  # (id, reason) of validation items
  classes: int  # how many there are
  # Further held-out lists, by name, on which the same heads are scored.
  lists: Mapping[str, labelled.Records] = dataclasses.field(default_factory=dict)

  @property
  def splits(self) -> dict[str, labelled.Records]:
    """What is read of each, as `Reads`."""
    return {"train": self.all_train, "validation": self.validation, **self.lists}

  @property
  def data(self) -> dict[str, dict[str, Any]]:
    """Config key -> what stands for its records in a run."""
    return {f"data.{name}": records.identity for name, records in self.splits.items()}

  @functools.cached_property
  def train_items(self) -> int:
    """Items that are trained on, of one view or several."""
    return len({self.train.ids[record] for record in self.train.records})

  @property
  def sentence(self) -> str:
    """How much of each there is."""
    records, items = len(self.train.records), self.train_items
    views = "" if records == items else f" of {items} items"
    return (
      f"{records} training records{views}, {len(self.holdout.items())} items held out of"
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

  def views_of(self, source: str) -> str:
    """How tables call what heads of a source see of an item in each epoch."""
    del source  # all are of one kind
    return FROZEN if self.config.data.source == "tokens" else NEW

  def rate_in(self, epochs: float) -> float:
    """Updates in so many epochs, of which each sees as many rows as there are items.

    Of items with several views an epoch sees some: as many epochs as there are
    views see each once.
    """
    return epochs * self.sets.train_items / self.config.train.batch_rows

  @property
  def steps(self) -> int:
    return max(round(self.rate_in(self.config.train.epochs)), 1)

  def stream(self, read: labelled.Read) -> Callable[[int], Any]:
    """First step -> this host's training batches from there on."""
    which = dict(
      seed=self.config.seed,
      batch=self.config.train.batch_rows,
      host=jax.process_index(),
      hosts=jax.process_count(),
    )
    if isinstance(read, labelled.ReadFeatures) and read.in_memory:
      return functools.partial(labelled.stream_in_memory, self.sets.train, read, **which)
    dataset = labelled.stream(self.sets.train, read, **which)
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
    """(state, "validation", "holdout" or a list's name) -> every head on every item of it.

    There is no "holdout" where nothing is held out.

    Args:
      outcomes: of the method.
      reads: how records are read.
    """
    sets = self.sets
    batches = {"validation": self.finite(sets.validation, reads["validation"], by_item=True)}
    for name, records in sets.lists.items():
      batches[name] = self.finite(records, reads[name], by_item=True)
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
  """The records of two stores of tokens, and the (latent) frames of a clip.

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
    labelled.records(stores["train"], "train", most=most, seed=seed),
    labelled.records(stores["validation"], "validation"),
    data=data,
    seed=seed,
    missing=labelled.missing(stores["validation"].path),
  )
  return sets, 1 if kinds["train"] == "image" else data.frames or run.model.spec.frames


def with_lists(sets: Sets, lists: Mapping[str, labelled.Records]) -> Sets:
  """The sets with further held-out lists.

  Raises:
    ValueError: one has another's name, classes that are not those of the heads, or
      items that are trained on.
  """
  for name, records in lists.items():
    if name in ("train", "validation", "holdout") or not name.replace("_", "").isalnum():
      raise ConfigError(f"evaluations.{name} is no name for a further list; use another word")
    labelled.check_apart(sets.all_train, records)
    ours, theirs = sets.all_train.classes, records.classes
    highest = int(records.labels[records.records].max())
    if highest >= sets.classes or (ours and theirs and ours != theirs):
      raise ConfigError(
        f"evaluations.{name} has {len(theirs) or 1 + highest} classes that are not the"
        f" {sets.classes} of the heads; make it with the same list of classes"
      )
  return dataclasses.replace(sets, lists=dict(lists))


def open_files(
  config: labels.Tuning | labels.Probe, *, size_px: int, most: int = 0
) -> tuple[Sets, Reads]:
  """The records of files of images, and how views of them are read (`views`).

  Args:
    config: of the job.
    size_px: side of a view.
    most: training records that are used; 0: all.

  Raises:
    ValueError: a folder does not fit, or an image is in both.
  """
  listings = _listings(config.data, config.seed)
  records = {name: views.records(listing, name) for name, listing in listings.items()}
  sets = hold_out(
    labelled.subset(records["train"], most=most, seed=config.seed),
    records["validation"],
    data=config.data,
    seed=config.seed,
    missing=[(item.id, item.reason) for item in listings["validation"].missing],
  )
  reads = {
    name: views.ReadViews(
      items=listing.items, size_px=size_px, config=config.view, seed=config.seed
    )
    for name, listing in listings.items()
  }
  return sets, reads


def open_encoder(run: backbone.Trained, data: labels.FileData) -> api.Tokenizer:
  """What encodes files of images: the tokenizer of the run, or its patches.

  Raises:
    ConfigError: it is not named, or another one.
  """
  of_patches = run.patches is not None
  if not data.root or bool(data.encode_with) == of_patches:
    wanted = "data.root, the folder of the images, and"
    if of_patches:
      wanted += f" no data.encode_with: {run.path} reads patches of pixels"
    else:
      wanted += " data.encode_with, the model's tokenizer file (or 'shipped')"
    raise ConfigError(f"data.source {data.source!r} needs {wanted}")
  tokenizer = backbone.find_tokenizer(run, data.encode_with)
  backbone.check_kind(tokenizer.latents, "image", data.root)
  return tokenizer


def _listings(data: labels.FileData, seed: int) -> dict[str, items_lib.Listing]:
  """The images of training and validation, in this order."""

  def listing(split):
    if data.source == "imagenet":
      return imagenet.list_items(data.root, split, classes=data.classes, val_labels="")
    return folder.list_items(data.root, split, kind="image", class_folders=True)

  everything = listing(data.train)
  if data.validation:
    held_out = listing(data.validation)
    ids = {item.id for item in everything.items}
    shared = [item.id for item in held_out.items if item.id in ids]
    if shared:
      raise ConfigError(
        f"image {shared[0]!r} is in data.train and in data.validation"
        f" ({len(shared)} such images); name folders that share none"
      )
    return {"train": everything, "validation": held_out}
  split = items_lib.split(everything.items, data.val_frac, seed=seed)
  return {
    "train": dataclasses.replace(everything, items=split["train"]),
    "validation": dataclasses.replace(everything, items=split["val"]),
  }


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
