"""`run = "joint"` and `run = "finetune"`: config typed, data and model opened.

Both start from a pre-trained run, whose grid, frames, base of RoPE and mask may
be others: no parameter depends on them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh

from totojax import assembly as parts
from totojax import flops
from totojax import train
from totojax.config.schema import ConfigError
from totojax.config.typed import typed
from totojax.data.pixels import views
from totojax.data.sources import folder
from totojax.data.sources import imagenet
from totojax.data.sources import items as items_lib
from totojax.data.store import store as store_lib
from totojax.data.stream import heldout
from totojax.data.stream import labelled
from totojax.data.stream import rows as rows_lib
from totojax.evals import top1
from totojax.jobs.probe import runs as probe
from totojax.jobs.probe import setup as probe_setup
from totojax.models import trunk
from totojax.optim import layered
from totojax.tasks import encode
from totojax.tasks import pretrain as pretrain_lib
from totojax.tokenizers import api as tokenizer_api
from totojax.tokenizers import weights
from totojax.trained import backbone

Section = Mapping[str, Any]
SOURCES = ("tokens", "folder", "imagenet")


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """What is trained on.

  Attributes:
    source: "tokens": stores of tokens with classes; or files of images that
      are encoded in each step: "folder" (of class folders) or "imagenet".
    root: of files: what their ids are relative to.
    train: a store, or the folder below `root`; "" is all of it.
    validation: the same, held out; of files "": items of `train`.
    val_frac: share of the items of `train` that this is, where it is one.
    encode_with: tokenizer file, for files of images.
    grid: tokens per side of a frame; 0: as the model was trained.
    classes: 0: as many as the data say.
    expected: items that the whole validation set has; 0: those that are there,
      and those that the job which made a store lists as missing.
    holdout_frac: of the training items of each class, not trained on: a layer
      is chosen on them. 0.0: none.
    frames: of a clip; 0: those that the model was trained on (1 for images).
    reading: how batches are made ahead (`stream.Reading`).
  """

  source: str
  root: str
  train: str
  validation: str
  val_frac: float
  encode_with: str
  grid: int
  classes: int
  expected: int
  holdout_frac: float
  frames: int
  reading: Any

  def __post_init__(self):
    if self.source not in SOURCES:
      raise ValueError(
          f"data.source is {self.source!r}; use one of {', '.join(SOURCES)}"
      )
    for name in ("val_frac", "holdout_frac"):
      if not 0.0 <= getattr(self, name) < 1.0:
        raise ValueError(
            f"data.{name} is {getattr(self, name)}; it is a share from 0 to"
            " below 1"
        )
    if self.source == "tokens":
      if self.encode_with or self.root:
        raise ValueError(
            "data.encode_with and data.root are for files of images; with"
            " data.source 'tokens' leave them empty"
        )
    elif not (self.encode_with and self.root):
      raise ValueError(
          f"data.source {self.source!r} needs data.root, the folder of the"
          " images, and data.encode_with, the file of the tokenizer that the"
          " model was trained with (or 'shipped')"
      )
    elif bool(self.validation) == bool(self.val_frac):
      raise ValueError(
          f"data.validation is {self.validation!r} and data.val_frac"
          f" {self.val_frac}; name a folder that is held out, or a share of"
          " data.train, and not both"
      )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """What is not as the model was trained.

  Attributes:
    rope_base: base of the rotary angles.
    prefix_tokens: 0: causal, -1: full attention, or a prefix of so many tokens.
  """

  rope_base: float
  prefix_tokens: int


@dataclasses.dataclass(frozen=True)
class Data:
  """Records and how they are read, for training and evaluation."""

  whole: labelled.Records  # of training, with the hold-out
  validation: labelled.Records
  read_train: labelled.Read
  read_validation: labelled.Read
  missing: tuple[tuple[str, str], ...]  # (id, reason) of validation items


@dataclasses.dataclass(frozen=True)
class Setup(probe_setup.Counted):
  """The typed config with its data and model opened and checked."""

  config: Section
  run: backbone.Trained
  backbone: pretrain_lib.Pretrain
  model: trunk.Trunk  # as the backbone, with the mask of this run
  tokenizer: tokenizer_api.Tokenizer | None  # None: tokens are read
  on: Mesh
  data: DataConfig
  reads: Data
  amount: probe_setup.Amount
  optim: layered.LayeredConfig
  train: labelled.Records
  held: labelled.Records
  validation: labelled.Records
  missing: tuple[tuple[str, str], ...]  # items of validation, and why
  classes: int

  @property
  def schedule(self) -> layered.Schedule:
    return layered.Schedule(
        steps=self.steps,
        warmup_steps=self.rate_in(self.optim.warmup_epochs),
        end_lr_frac=self.optim.end_lr_frac,
    )


def setup(config: Section) -> Setup:
  """Reads the config and opens what it names; loads no parameters.

  Raises:
    ValueError: whatever does not fit, before anything is computed.
  """
  run = backbone.find(config["model_run"])
  if not run.model.config.fine_tunes:
    raise ConfigError(
        f"{run.path} is of a {type(run.model.config).__name__}; joint training"
        " and fine-tuning are for LLaMA"
    )
  data = typed(DataConfig, config["data"], "data")
  view = typed(views.ViewConfig, config["view"], "view")
  if data.source == "tokens":
    tokenizer, stores = None, _stores(run, data)
    is_video = stores["train"].manifest.kind == "video"
    frames = (data.frames or run.model.spec.frames) if is_video else 1
    model = _model(run, config, data, frames=frames)
    opened = _of_stores(stores, model, config["seed"])
  else:
    tokenizer = encoder(run, data.encode_with)
    model = _model(run, config, data, frames=1)
    opened = _of_files(
        data, view, model, tokenizer=tokenizer, seed=config["seed"]
    )
  rest, held = labelled.split(
      opened.whole, held_frac=data.holdout_frac, seed=config["seed"]
  )
  if data.holdout_frac and not len(held.records):
    raise ConfigError(
        f"data.holdout_frac {data.holdout_frac} of {len(rest.records)} training"
        " records holds none out; raise it, or set it to 0.0"
    )
  return Setup(
      config=config,
      run=run,
      backbone=pretrain_lib.Pretrain(
          backbone.causal(model), parts.parametrisation(run.config)
      ),
      model=model,
      tokenizer=tokenizer,
      on=parts.mesh(config),
      data=data,
      reads=opened,
      amount=typed(probe_setup.Amount, config["train"], "train"),
      optim=typed(layered.LayeredConfig, config["optim"], "optim"),
      train=rest,
      held=held,
      validation=opened.validation,
      missing=opened.missing,
      classes=labelled.check_classes(
          rest, opened.validation, classes=data.classes
      ),
  )


def encoder(run: backbone.Trained, path: str) -> tokenizer_api.Tokenizer:
  """The tokenizer at `path`, which must be the one of the run.

  Raises:
    ConfigError: it has other codes, or another number of them.
  """
  found = weights.load(path)
  backbone.check_codes(
      run, vocab=found.vocab, tokenizer=found.fingerprint, what=path
  )
  return found


def _model(
    run: backbone.Trained, config: Section, data: DataConfig, *, frames: int
) -> trunk.Trunk:
  """The run's model with this run's grid, frames, base, mask and compute."""
  other = typed(ModelConfig, config["model"], "model")
  shape = dataclasses.replace(run.model.config, **dataclasses.asdict(other))
  spec = dataclasses.replace(
      run.model.spec, grid=data.grid or run.model.spec.grid
  )
  model = run.model.clone(config=shape, spec=spec)
  model = backbone.for_clips(model, frames=frames)
  return model.clone(
      compute=parts.compute(
          config["compute"],
          depth=shape.depth,
          context=model.spec.context,
          backend=jax.default_backend(),
      )
  )


def _stores(
    run: backbone.Trained, data: DataConfig
) -> dict[str, store_lib.Store]:
  """The stores of training and validation."""
  spec = run.model.spec
  seq = dataclasses.replace(
      spec, grid=data.grid or spec.grid, frames=data.frames or spec.frames
  )
  found = {
      name: backbone.open_tokens(run, path, f"data.{name}", seq=seq)
      for name, path in (("train", data.train), ("validation", data.validation))
  }
  kinds = {name: store.manifest.kind for name, store in found.items()}
  if len(set(kinds.values())) > 1:
    raise ConfigError(f"the stores are of different kinds: {kinds}")
  heldout.check_disjoint(
      *([rows_lib.Source(name, s, 1.0)] for name, s in found.items())
  )
  return found


def _of_stores(
    stores: Mapping[str, store_lib.Store], model: trunk.Trunk, seed: int
) -> Data:
  records = {name: labelled.of_store(s, name) for name, s in stores.items()}
  reads = {
      name: rows_lib.ReadTokens(
          (rows_lib.Source(name, store, 1.0),), model.spec, seed
      )
      for name, store in stores.items()
  }
  return Data(
      records["train"], records["validation"], reads["train"],
      reads["validation"],
      tuple(labelled.missing(stores["validation"].path)),
  )  # fmt: skip


def _of_files(
    data: DataConfig,
    view: views.ViewConfig,
    model: trunk.Trunk,
    *,
    tokenizer: tokenizer_api.Tokenizer,
    seed: int,
) -> Data:
  found = _listings(data, seed)
  of = lambda name: views.ReadViews(
      items=found[name].items,
      size_px=model.spec.grid * tokenizer.factor,
      config=view,
      seed=seed,
  )
  return Data(
      views.records(found["train"], "train"),
      views.records(found["validation"], "validation"),
      of("train"),
      of("validation"),
      tuple((one.id, one.reason) for one in found["validation"].missing),
  )


def _listings(data: DataConfig, seed: int) -> dict[str, items_lib.Listing]:
  """The images of training and validation."""

  def listing(split):
    if data.source == "imagenet":
      return imagenet.list_items(
          data.root, split, classes=data.classes, val_labels=""
      )
    return folder.list_items(
        data.root, split, kind="image", class_folders=True
    )

  whole = listing(data.train)
  if data.validation:
    held_out = listing(data.validation)
    ids = {item.id for item in whole.items}
    shared = [item.id for item in held_out.items if item.id in ids]
    if shared:
      raise ConfigError(
          f"image {shared[0]!r} is in data.train and in data.validation"
          f" ({len(shared)} such images); name folders that share none"
      )
    return {"train": whole, "validation": held_out}
  split = items_lib.split(whole.items, data.val_frac, seed=seed)
  return {
      "train": dataclasses.replace(whole, items=split["train"]),
      "validation": dataclasses.replace(whole, items=split["val"]),
  }


def training(
    of: Setup,
    task: Any,
    *,
    wrap: Callable[[encode.EncodeFrames], Any] = lambda task: task,
    used: Callable[[Any], Any] = lambda params: params,
    facts: Mapping[str, Any],
) -> tuple[train.Run, probe.Score]:
  """A run for `train.fit`, and how its heads are scored.

  Args:
    of: from `setup`.
    task: on tokens; its parameters are {"backbone": .., "heads": ..}.
    wrap: what is done to the task on frames, where frames are read.
    used: what the task takes of a backbone's parameters.
    facts: for manifest.json.
  """
  frozen = None
  if of.tokenizer is not None:
    task = wrap(
        encode.EncodeFrames(
            task,
            spec=of.model.spec,
            factor=of.tokenizer.factor,
            codes_of=of.tokenizer.codes_of,
            params=of.tokenizer.params,
        )
    )
    frozen = {"inner": {}, "tokenizer": of.tokenizer.params}
  rows, context = of.amount.batch_rows, of.model.spec.context
  dataset = labelled.stream(
      of.train, of.reads.read_train, seed=of.config["seed"], batch=rows,
      host=jax.process_index(), hosts=jax.process_count(),
  )  # fmt: skip
  reads = {
      "train": of.reads.read_train, "validation": of.reads.read_validation
  }
  score = probe.scorer(of, probe.outcomes(of, task), reads)
  axes = task.axes().params
  optimiser = parts.Optimiser(
      layered.make(
          of.optim,
          axes=axes,
          rules=layered.rules(
              of.optim, axes=axes, depth=of.model.config.depth,
              of_backbone=of.backbone.rules,
          ),
          schedule=of.schedule,
          batch_rows=rows,
      ),
      layered.learning_rate(of.schedule),
  )  # fmt: skip
  cost = flops.train_flops_per_token(
      of.model.config, vocab=of.model.spec.vocab, context=context
  )

  def start(params):
    whole = backbone.read(of.run, of.model, on=of.on)
    return {**params, layered.BACKBONE: used(whole)}

  run = parts.run(
      of.config,
      task=task,
      steps=of.steps,
      rows=rows,
      microbatches=of.amount.microbatches,
      batches=parts.reader(of.config, dataset),
      evals={
          "validation": lambda state: top1.summary(
              score(state, "validation")
          )
      },
      facts={
          "backbone": {"run": str(of.run.path), "step": of.run.step},
          "tokenizer": of.run.tokenizer,
          "encoded": "on the device" if of.tokenizer else "before",
          "records": len(of.train.records),
          "flops_per_token": cost,
          **facts,
      },
      tokens_per_step=rows * context,
      flops_per_token=cost,
      on=of.on,
      frozen=frozen,
      optimiser=optimiser,
      start=start,
  )
  return run, score
