"""`run = "joint"` and `run = "finetune"`: data and model opened, the run built.

Both start from a pre-trained run, whose grid, frames, base of RoPE and mask may
be others: no parameter depends on them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax

from totojax import assembly, flops, sharding, train
from totojax.config import labels
from totojax.config.schema import ConfigError
from totojax.data.pixels import views
from totojax.data.sources import folder, imagenet
from totojax.data.sources import items as items_lib
from totojax.data.stream import labelled
from totojax.evals import top1
from totojax.jobs.labels import data as data_lib
from totojax.jobs.labels import scoring
from totojax.models import trunk
from totojax.optim import lars, layered
from totojax.tasks import encode
from totojax.tasks import pretrain as pretrain_lib
from totojax.tokenizers import api as tokenizer_api
from totojax.tokenizers import weights
from totojax.trained import backbone

Reads = Mapping[str, labelled.Read]  # of "train" and "validation"


@dataclasses.dataclass(frozen=True)
class Setup(data_lib.Setup):
  """And what trains a backbone on.

  Attributes:
    backbone: its parameters, as pre-training has them.
    tokenizer: of files of images; None: tokens are read.
    reads: how records are read.
  """

  config: labels.Joint | labels.Finetune
  run: backbone.Trained
  model: trunk.Trunk  # as the backbone, with the mask of this run
  backbone: pretrain_lib.Pretrain
  tokenizer: tokenizer_api.Tokenizer | None
  reads: Reads

  @property
  def schedule(self) -> lars.Schedule:
    optim = self.config.optim
    return lars.Schedule(
      steps=self.steps,
      warmup_steps=self.rate_in(optim.warmup_epochs),
      end_lr_frac=optim.end_lr_frac,
    )


def prepare(config: labels.Joint | labels.Finetune) -> Setup:
  """Opens what the config names; loads no parameters.

  Raises:
    ValueError: whatever does not fit, before anything is computed.
  """
  run = backbone.find(config.model_run)
  if not run.model.config.fine_tunes:
    raise ConfigError(
      f"{run.path} is of a {type(run.model.config).__name__}; joint training"
      " and fine-tuning are for LLaMA"
    )
  tokenizer = None
  if config.data.source == "tokens":
    model, sets, reads = _tokens(run, config)
  else:
    _check_files(config.data)
    tokenizer = encoder(run, config.data.encode_with)
    model = _model(run, config, frames=1)
    sets, reads = _files(config, model, tokenizer)
  return Setup(
    config=config,
    run=run,
    model=model,
    layout=sharding.layout(config.mesh),
    sets=sets,
    backbone=pretrain_lib.Pretrain(backbone.causal(model), assembly.parametrisation(run.config)),
    tokenizer=tokenizer,
    reads=reads,
  )


def encoder(run: backbone.Trained, path: str) -> tokenizer_api.Tokenizer:
  """The tokenizer at `path`, which must be the one of the run.

  Raises:
    ConfigError: it has other codes, or another number of them.
  """
  tokenizer = weights.load(path)
  backbone.check_codes(run, vocab=tokenizer.vocab, tokenizer=tokenizer.fingerprint, what=path)
  return tokenizer


def _model(run: backbone.Trained, config: labels.Tuning, *, frames: int) -> trunk.Trunk:
  """The run's model with this run's grid, frames, base, mask and compute."""
  shape = dataclasses.replace(run.model.config, **dataclasses.asdict(config.model))
  spec = dataclasses.replace(run.model.spec, grid=config.data.grid or run.model.spec.grid)
  model = run.model.clone(config=shape, spec=spec)
  model = backbone.for_clips(model, frames=frames)
  return model.clone(
    compute=assembly.compute(
      config.compute, depth=shape.depth, context=model.spec.context, backend=jax.default_backend()
    )
  )


def _tokens(
  run: backbone.Trained, config: labels.Tuning
) -> tuple[trunk.Trunk, data_lib.Sets, Reads]:
  """From stores of tokens."""
  data, spec = config.data, run.model.spec
  spec = dataclasses.replace(spec, grid=data.grid or spec.grid, frames=data.frames or spec.frames)
  stores = data_lib.stores(run, data, spec=spec)
  frames = data_lib.clip_frames(run, stores["train"], data)
  model = _model(run, config, frames=frames)
  records = {name: labelled.records(s, name) for name, s in stores.items()}
  sets = data_lib.sets(
    records["train"],
    records["validation"],
    config=data,
    seed=config.seed,
    missing=labelled.missing(stores["validation"].path),
  )
  reads = {
    name: data_lib.token_reader(one, model.spec, config.seed) for name, one in records.items()
  }
  return model, sets, reads


def _check_files(data: labels.TrainData) -> None:
  if not (data.encode_with and data.root):
    raise ConfigError(
      f"data.source {data.source!r} needs data.root, the folder of the"
      " images, and data.encode_with, the file of the tokenizer that the"
      " model was trained with (or 'shipped')"
    )


def _files(
  config: labels.Tuning, model: trunk.Trunk, tokenizer: tokenizer_api.Tokenizer
) -> tuple[data_lib.Sets, Reads]:
  """From files of images, which are encoded in each step."""
  listings = _listings(config.data, config.seed)
  records = {name: views.records(one, name) for name, one in listings.items()}
  sets = data_lib.sets(
    records["train"],
    records["validation"],
    config=config.data,
    seed=config.seed,
    missing=[(one.id, one.reason) for one in listings["validation"].missing],
  )
  reads = {
    name: views.ReadViews(
      items=one.items,
      size_px=model.spec.grid * tokenizer.factor,
      config=config.view,
      seed=config.seed,
    )
    for name, one in listings.items()
  }
  return sets, reads


def _listings(data: labels.TrainData, seed: int) -> dict[str, items_lib.Listing]:
  """The images of training and validation."""

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


def training(
  setup: Setup,
  task: Any,
  *,
  wrap: Callable[[encode.EncodeFrames], Any] = lambda task: task,
  used: Callable[[Any], Any] = lambda params: params,
  facts: Mapping[str, Any],
) -> tuple[train.Run, scoring.Score]:
  """A run for `train.fit`, and how its heads are scored.

  Args:
    setup: from `prepare`.
    task: on tokens; its parameters are {"backbone": .., "heads": ..}.
    wrap: what is done to the task on frames, where frames are read.
    used: what the task takes of a backbone's parameters.
    facts: for manifest.json.
  """
  config, run, spec = setup.config, setup.run, setup.model.spec
  frozen = None
  if setup.tokenizer is not None:
    task = wrap(
      encode.EncodeFrames(
        task,
        spec=spec,
        factor=setup.tokenizer.factor,
        codes_of=setup.tokenizer.codes_of,
        params=setup.tokenizer.params,
      )
    )
    frozen = {"inner": {}, "tokenizer": setup.tokenizer.params}
  score = scoring.scorer(setup, scoring.outcomes(setup, task), setup.reads)
  cost = flops.train_flops_per_token(setup.model.config, vocab=spec.vocab, context=spec.context)

  def start(params):
    trained = backbone.read(run, setup.model, layout=setup.layout)
    return {**params, layered.BACKBONE: used(trained)}

  rows = config.train.batch_rows
  built = assembly.run(
    config,
    task=task,
    steps=setup.steps,
    rows=rows,
    microbatches=config.train.microbatches,
    batches=scoring.training_stream(setup, setup.reads["train"]),
    evals={"validation": lambda state: top1.summary(score(state, "validation"))},
    facts={
      "backbone": {"run": str(run.path), "step": run.step},
      "tokenizer": run.tokenizer,
      "encoded": "on the device" if setup.tokenizer else "before",
      "records": len(setup.sets.train.records),
      "flops_per_token": cost,
      **facts,
    },
    tokens_per_step=rows * spec.context,
    flops_per_token=cost,
    layout=setup.layout,
    frozen=frozen,
    optimiser=_optimiser(setup, task),
    start=start,
  )
  return built, score


def _optimiser(setup: Setup, task: Any) -> assembly.Optimiser:
  optim, axes = setup.config.optim, task.axes().params
  rules = layered.rules(
    optim, axes=axes, depth=setup.model.config.depth, backbone_rules=setup.backbone.rules
  )
  tx = layered.make(
    optim, axes=axes, rules=rules, schedule=setup.schedule, batch_rows=setup.config.train.batch_rows
  )
  return assembly.Optimiser(tx, layered.learning_rate(setup.schedule))
