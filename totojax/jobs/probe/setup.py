"""`run = "probe"`: its config, and its data opened and checked."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from totojax import assembly as parts
from totojax.config.schema import ConfigError
from totojax.config.typed import typed
from totojax.data.store import feature_files
from totojax.data.stream import heldout
from totojax.data.stream import labelled
from totojax.data.stream import rows as rows_lib
from totojax.models import heads
from totojax.models import taps
from totojax.models import trunk
from totojax.optim import lars
from totojax.trained import backbone

Section = Mapping[str, Any]
MODELS = ("trained", "untrained")
BASELINES = ("pixels", "histogram")


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """What is probed on.

  Attributes:
    train: store of tokens with classes.
    validation: the same, held out.
    train_pixels: the pixels that `train` was made from, for the baseline
      "pixels"; "": none.
    validation_pixels: the same of `validation`.
    pixels_side: side that frames are averaged to for that baseline.
    classes: 0: as many as the stores say.
    train_records: of `train`, the first so many; 0: all.
    expected: items that the whole validation set has; 0: those in the store,
      and those that the job which made it lists as missing.
    holdout_frac: of the training items of each class, not trained on: a layer
      is chosen on them without a look at the validation set.
    frames: of a clip; 0: those that the model was trained on (1 for images).
    reading: how batches are made ahead (`stream.Reading`).
  """

  train: str
  validation: str
  train_pixels: str
  validation_pixels: str
  pixels_side: int
  classes: int
  train_records: int
  expected: int
  holdout_frac: float
  frames: int
  reading: Any

  def __post_init__(self):
    if not 0.0 < self.holdout_frac < 1.0:
      raise ValueError(
          f"data.holdout_frac is {self.holdout_frac}; it must lie between 0 and"
          " 1, so that a layer can be chosen without the validation set"
      )


@dataclasses.dataclass(frozen=True)
class EncoderFiles:
  """Features of somebody else's encoder (`data/feature_files.py`).

  Attributes:
    train: folder or file of the training items.
    validation: the same of the held-out ones.
  """

  train: str
  validation: str


@dataclasses.dataclass(frozen=True)
class Encoder:
  """An encoder's features in the order of the records.

  Attributes:
    layers: increasing.
    features: "train" and "validation" -> [M, L, D], or of tokens [M, L, T, D].
  """

  layers: tuple[int, ...]
  features: Mapping[str, np.ndarray]

  @property
  def tokens(self) -> int:
    """Of a clip; 0 where they are pooled already."""
    shape = self.features["train"].shape
    return shape[2] if len(shape) == 4 else 0


@dataclasses.dataclass(frozen=True)
class Amount:
  """How long heads are trained.

  Attributes:
    epochs: over the training records.
    batch_rows: rows of an update.
    microbatches: parts of a batch; BatchNorm sees one of them at a time.
    score_rows: rows of a batch of the evaluation.
  """

  epochs: float
  batch_rows: int
  microbatches: int
  score_rows: int


@dataclasses.dataclass(frozen=True)
class Unit:
  """Heads that are trained together.

  Attributes:
    name: of its folder.
    source: "trained", "untrained", "pixels", "histogram" or an encoder's name.
    layers: of the backbone or encoder; (0,) for a baseline.
    first: where these layers begin among all that are asked for.
  """

  name: str
  source: str
  layers: tuple[int, ...]
  first: int


class Counted:
  """Updates of epochs; of a dataclass with `train`, `amount` and `on`."""

  def rate_in(self, epochs: float) -> float:
    """Updates in so many epochs."""
    return epochs * len(self.train.records) / self.amount.batch_rows

  @property
  def steps(self) -> int:
    return max(round(self.rate_in(self.amount.epochs)), 1)

  @property
  def ways(self) -> int:
    """Parts that a batch is split into over devices."""
    return self.on.shape["data"] * self.on.shape["fsdp"]


@dataclasses.dataclass(frozen=True)
class Setup(Counted):
  """The typed config with its data opened and checked."""

  config: Section
  run: backbone.Trained | None  # without one, encoders alone are probed
  model: trunk.Trunk | None
  encoders: Mapping[str, Encoder]
  on: Mesh
  data: DataConfig
  amount: Amount
  head: heads.HeadConfig
  optim: lars.GridConfig
  layers: tuple[int, ...]
  cached: bool
  whole: labelled.Records  # of training, with the hold-out
  train: labelled.Records
  held: labelled.Records
  validation: labelled.Records
  missing: tuple[tuple[str, str], ...]  # items of validation, and why
  classes: int

  def width(self, source: str) -> int:
    """Of the features of a backbone, encoder or baseline."""
    if source in self.encoders:
      return self.encoders[source].features["train"].shape[-1]
    if source == "histogram":
      return self.model.spec.vocab
    if source == "pixels":
      return self.whole_pixels * self.data.pixels_side**2 * 3
    return self.model.config.width

  @property
  def whole_pixels(self) -> int:
    return self.whole.store.manifest.frames

  @property
  def sources(self) -> tuple[str, ...]:
    """All that is probed, in order."""
    return (*self.config["backbones"], *self.encoders)

  def layers_of(self, source: str) -> tuple[int, ...]:
    if source in self.encoders:
      return self.encoders[source].layers
    return self.layers if source in MODELS else (0,)

  def head_of(self, source: str) -> heads.HeadConfig:
    """What is pooled already takes a linear layer alone."""
    if source in MODELS or self.tokens(source):
      return self.head
    return dataclasses.replace(self.head, pool="average")

  def tokens(self, source: str) -> int:
    """Of a clip in an encoder's features; 0 where they are pooled already."""
    of = self.encoders.get(source)
    return of.tokens if of else 0


def setup(config: Section) -> Setup:
  """Reads the config and opens what it names; loads no model.

  Raises:
    ValueError: whatever does not fit, before anything is computed.
  """
  files = _encoder_files(config)
  run = model = None
  data = typed(DataConfig, config["data"], "data")
  head = typed(heads.HeadConfig, config["head"], "head")
  _check_backbones(config["backbones"], files, data)
  if config["backbones"]:
    run = backbone.find(config["model_run"])
    records = _of_stores(run, data)
    made_at = {name: of.store.path for name, of in records.items()}
    model = _model(run, records["train"], data.frames)
    head = _headed(head, run.model.config)
    layers = tuple(config["layers"]) or tuple(
        range(run.model.config.depth + 1)
    )
    taps.check_layers(layers, run.model.config.depth)
  else:
    records, made_at, layers = *_of_files(files, config), ()
  rest, held = labelled.split(
      records["train"], held_frac=data.holdout_frac, seed=config["seed"]
  )
  if not len(held.records):
    raise ConfigError(
        f"data.holdout_frac {data.holdout_frac} of {len(rest.records)} training"
        " records holds none out; raise it"
    )
  return Setup(
      config=config,
      run=run,
      model=model,
      encoders=_encoders(files, records),
      on=parts.mesh(config),
      data=data,
      amount=typed(Amount, config["train"], "train"),
      head=head,
      optim=typed(lars.GridConfig, config["optim"], "optim"),
      layers=layers,
      cached=_is_cached(config, head),
      whole=records["train"],
      train=rest,
      held=held,
      validation=records["validation"],
      missing=tuple(labelled.missing(made_at["validation"])),
      classes=labelled.check_classes(
          rest, records["validation"], classes=data.classes
      ),
  )


def _headed(head: heads.HeadConfig, model: Any) -> heads.HeadConfig:
  """With as many attention heads as the model, where none are said."""
  if head.heads or head.pool == "average":
    return head
  own = getattr(model, "heads", 0)
  if not own:
    raise ConfigError(
        f"head.heads is 0, the model's number, and a {model.kind} has none; set"
        f" head.heads to a divisor of its width of {model.width}"
    )
  return dataclasses.replace(head, heads=own)


def _of_stores(
    run: backbone.Trained, data: DataConfig
) -> dict[str, labelled.Records]:
  """The records of both stores, of which no item is in both."""
  stores = {
      name: backbone.open_tokens(run, path, f"data.{name}")
      for name, path in (("train", data.train), ("validation", data.validation))
  }
  kinds = {name: store.manifest.kind for name, store in stores.items()}
  if len(set(kinds.values())) > 1:
    raise ConfigError(f"the stores are of different kinds: {kinds}")
  heldout.check_disjoint(
      *([rows_lib.Source(name, s, 1.0)] for name, s in stores.items())
  )
  most = {"train": data.train_records, "validation": 0}
  return {
      name: labelled.of_store(s, name, most=most[name])
      for name, s in stores.items()
  }


def _model(
    run: backbone.Trained, data: labelled.Records, frames: int
) -> trunk.Trunk:
  image = data.store.manifest.kind == "image"
  frames = 1 if image else frames or run.model.spec.frames
  return backbone.for_clips(run.model, frames=frames)


Files = Mapping[str, Mapping[str, feature_files.Features]]


def _encoder_files(config: Section) -> Files:
  """The features of every encoder, read whole.

  Raises:
    ValueError: what is on disk is none, or two files have other layers.
  """
  found = {}
  for name, section in config["encoders"].items():
    paths = typed(EncoderFiles, section, f"encoders.{name}")
    found[name] = {k: feature_files.read(p) for k, p in vars(paths).items()}
    kinds = {
        k: (f.layers, f.features_ML.shape[2:]) for k, f in found[name].items()
    }
    if len(set(kinds.values())) > 1:
      raise ConfigError(
          f"the features of encoders.{name} have other layers, tokens or"
          f" widths: {kinds}; make both with one encoder"
      )
  return found


def _encoders(
    files: Files, records: Mapping[str, labelled.Records]
) -> dict[str, Encoder]:
  out = {}
  for name, found in files.items():
    ordered = {
        k: feature_files.in_order(f, records[k]) for k, f in found.items()
    }
    out[name] = Encoder(found["train"].layers, ordered)
  return out


def _of_files(
    files: Files, config: Section
) -> tuple[dict[str, labelled.Records], dict[str, str]]:
  """Records, and where they are, as the first encoder has them.

  Raises:
    ValueError: the config says what only a model of ours would read, or an
      item is in both.
  """
  for key, value in (
      ("model_run", config["model_run"]),
      ("layers", config["layers"]),
      ("data.train", config["data"]["train"]),
      ("data.validation", config["data"]["validation"]),
  ):
    if value:
      raise ConfigError(
          f"{key} is {value!r} and backbones is empty, so that nothing reads"
          ' it; name some backbones ("trained"), or empty it'
      )
  pooled = all(f["train"].features_ML.ndim == 3 for f in files.values())
  if pooled and config["head"]["pool"] != "average":
    raise ConfigError(
        f"head.pool is {config['head']['pool']!r}, which reads every token, and"
        ' the features on disk are pooled already; use "average", or write them'
        " with features.pool 'token'"
    )
  first = next(iter(files.values()))
  records = {k: feature_files.records(f, k) for k, f in first.items()}
  labelled.check_apart(records["train"], records["validation"])
  return records, {k: f.path for k, f in first.items()}


def _check_backbones(names: Any, files: Files, data: DataConfig) -> None:
  known = (*MODELS, *BASELINES)
  taken = sorted(set(files) & set(known))
  if taken:
    raise ConfigError(
        f"encoders.{taken[0]} has the name of a backbone of ours; use another"
    )
  for name in names:
    if name not in known:
      raise ConfigError(
          f"config key backbones has {name!r}; use some of {', '.join(known)}"
      )
  if not (names or files) or len(set(names)) != len(names):
    raise ConfigError(f"config key backbones is {names}; name some, each once")
  if "pixels" in names and not (data.train_pixels and data.validation_pixels):
    raise ConfigError(
        'backbones has "pixels", which needs data.train_pixels and'
        " data.validation_pixels: the stores that the tokens were made from"
    )


def _is_cached(config: Section, head: heads.HeadConfig) -> bool:
  """Whether features are made once: for one process and pooled by average."""
  if config["cache"] == "off" or head.pool != "average":
    if config["cache"] == "on":
      raise ConfigError(
          'cache "on" keeps one mean of each layer; head.pool'
          f' {head.pool!r} reads every token. Set cache "auto"'
      )
    return False
  if config["cache"] not in ("auto", "on"):
    raise ConfigError(
        f'config key cache is {config["cache"]!r}; use "auto", "on" or "off"'
    )
  several = jax.process_count() > 1
  if several and config["cache"] == "on":
    raise ConfigError(
        'cache "on" is for one process, and this is one of'
        f' {jax.process_count()}; set cache "auto"'
    )
  return not several
