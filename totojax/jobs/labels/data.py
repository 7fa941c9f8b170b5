"""What probes, joint training and fine-tuning share: a run, labelled data.

Data are stores of tokens, files of images, or features on disk; all become
records with classes, of which some are held out of training by class.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

from totojax import sequence, sharding
from totojax.config import labels
from totojax.config.schema import ConfigError
from totojax.data.store import store as store_lib
from totojax.data.stream import heldout, labelled
from totojax.data.stream import rows as rows_lib
from totojax.models import trunk
from totojax.trained import backbone

SPLITS = ("train", "validation")


@dataclasses.dataclass(frozen=True)
class Sets:
  """The records of a job on labels.

  Attributes:
    all_train: of training, with the hold-out.
    train: what is trained on.
    held: what is held out of training, to choose a layer on.
    validation: what is evaluated.
    missing: (id, reason) of validation items.
    classes: how many there are.
  """

  all_train: labelled.Records
  train: labelled.Records
  held: labelled.Records
  validation: labelled.Records
  missing: tuple[tuple[str, str], ...]
  classes: int

  @property
  def sentence(self) -> str:
    """How much of each there is."""
    return (
      f"{len(self.train.records)} training records,"
      f" {len(self.held.items())} items held out of training,"
      f" {len(self.validation.items())} for validation, {self.classes}"
      " classes"
    )


@dataclasses.dataclass(frozen=True)
class Setup:
  """A job on labels with its run and data opened and checked.

  Attributes:
    config: of the job.
    run: the backbone's; None: features on disk alone are probed.
    model: the backbone with this job's inputs.
    layout: where it is computed.
    sets: the records.
  """

  config: labels.Probe | labels.Joint | labels.Finetune
  run: backbone.Trained | None
  model: trunk.Trunk | None
  layout: sharding.Layout
  sets: Sets

  def rate_in(self, epochs: float) -> float:
    """Updates in so many epochs."""
    records = len(self.sets.train.records)
    return epochs * records / self.config.train.batch_rows

  @property
  def steps(self) -> int:
    return max(round(self.rate_in(self.config.train.epochs)), 1)

  @property
  def ways(self) -> int:
    """Parts that a batch is split into over devices."""
    return self.layout.ways


def stores(
  run: backbone.Trained, config: labels.Data, *, spec: sequence.SequenceSpec | None = None
) -> dict[str, store_lib.Store]:
  """The stores of training and validation, by `SPLITS`.

  Args:
    run: the backbone, whose tokens they must hold.
    config: which stores.
    spec: the sequence, where it is not the one of the run.

  Raises:
    ValueError: one does not fit, they are of different kinds, or an item is in
      both.
  """
  opened = {
    name: backbone.open_tokens(run, path, f"data.{name}", seq=spec)
    for name, path in zip(SPLITS, (config.train, config.validation))
  }
  kinds = {name: store.manifest.kind for name, store in opened.items()}
  if len(set(kinds.values())) > 1:
    raise ConfigError(f"the stores are of different kinds: {kinds}")
  heldout.check_disjoint(*([rows_lib.Source(name, s, 1.0)] for name, s in opened.items()))
  return opened


def clip_frames(run: backbone.Trained, store: store_lib.Store, config: labels.Data) -> int:
  """Frames of a clip of a store: 1 for images."""
  if store.manifest.kind == "image":
    return 1
  return config.frames or run.model.spec.frames


def token_reader(
  records: labelled.Records, spec: sequence.SequenceSpec, seed: int
) -> rows_lib.ReadTokens:
  """Reads the rows of records of a store."""
  source = rows_lib.Source(records.name, records.tokens, 1.0)
  return rows_lib.ReadTokens((source,), spec, seed)


def sets(
  train: labelled.Records,
  validation: labelled.Records,
  *,
  config: labels.Data,
  seed: int,
  missing: Sequence[tuple[str, str]],
) -> Sets:
  """Holds out what a layer is chosen on, and counts classes.

  Raises:
    ValueError: nothing is held out where something should be, or the classes
      do not fit.
  """
  rest, held = labelled.split(train, held_frac=config.holdout_frac, seed=seed)
  if config.holdout_frac and not len(held.records):
    or_none = "" if isinstance(config, labels.ProbeData) else ", or set it to 0"
    raise ConfigError(
      f"data.holdout_frac {config.holdout_frac} of {len(rest.records)}"
      f" training records holds none out; raise it{or_none}"
    )
  classes = labelled.check_classes(rest, validation, classes=config.classes)
  return Sets(
    all_train=train,
    train=rest,
    held=held,
    validation=validation,
    missing=tuple(missing),
    classes=classes,
  )
