"""`run = "probe"`: its backbones, encoders and data opened and checked."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses

import jax
import numpy as np

from totojax import sharding
from totojax.config import labels
from totojax.config.schema import ConfigError
from totojax.data.store import feature_files
from totojax.data.stream import labelled
from totojax.jobs.labels import data as data_lib
from totojax.models import heads, taps, trunk
from totojax.trained import backbone

MODELS, BASELINES = labels.BACKBONES, labels.BASELINES


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


@dataclasses.dataclass(frozen=True)
class Setup(data_lib.Setup):
  """And what is probed.

  Attributes:
    encoders: other people's, by name.
    head: with its number of attention heads.
    layers: of the backbone.
    cached: whether features are made once and kept.
  """

  config: labels.Probe
  encoders: Mapping[str, Encoder]
  head: heads.HeadConfig
  layers: tuple[int, ...]
  cached: bool

  @property
  def trained(self) -> tuple[backbone.Trained, trunk.Trunk]:
    """The run and its model, of a config that asks for a backbone."""
    assert self.run is not None and self.model is not None
    return self.run, self.model

  def width(self, source: str) -> int:
    """Of the features of a backbone, encoder or baseline."""
    if source in self.encoders:
      return self.encoders[source].features["train"].shape[-1]
    if source == "histogram":
      return self.trained[1].spec.vocab
    if source == "pixels":
      frames = self.sets.all_train.tokens.manifest.frames
      return frames * self.config.data.pixels_side**2 * 3
    return self.trained[1].config.width

  @property
  def sources(self) -> tuple[str, ...]:
    """All that is probed, in order."""
    return (*self.config.backbones, *self.encoders)

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
    encoder = self.encoders.get(source)
    return encoder.tokens if encoder else 0


def prepare(config: labels.Probe) -> Setup:
  """Opens what the config names; loads no model.

  Raises:
    ValueError: whatever does not fit, before anything is computed.
  """
  files = _encoder_files(config.encoders)
  _check_sources(config)
  run, model, layers, head = None, None, (), config.head
  if config.backbones:
    run = backbone.find(config.model_run)
    records, path = _records(run, config.data)
    frames = data_lib.clip_frames(run, records["train"].tokens, config.data)
    model = backbone.for_clips(run.model, frames=frames)
    head = heads.filled(head, run.model.config)
    depth = run.model.config.depth
    layers = config.layers or tuple(range(depth + 1))
    taps.check_layers(layers, depth)
  else:
    _check_without_model(config, files)
    records, path = _file_records(files)
  sets = data_lib.sets(
    records["train"],
    records["validation"],
    config=config.data,
    seed=config.seed,
    missing=labelled.missing(path),
  )
  return Setup(
    config=config,
    run=run,
    model=model,
    layout=sharding.layout(config.mesh),
    sets=sets,
    encoders=_encoders(files, records),
    head=head,
    layers=layers,
    cached=_is_cached(config.cache, head),
  )


def _records(
  run: backbone.Trained, config: labels.ProbeData
) -> tuple[dict[str, labelled.Records], str]:
  """The records of both stores, and where those of validation are."""
  stores = data_lib.stores(run, config)
  most = {"train": config.train_records, "validation": 0}
  records = {name: labelled.of_store(s, name, most=most[name]) for name, s in stores.items()}
  return records, stores["validation"].path


Files = Mapping[str, Mapping[str, feature_files.Features]]


def _encoder_files(encoders: Mapping[str, labels.EncoderFiles]) -> Files:
  """The features of every encoder, in memory.

  Raises:
    ValueError: what is on disk is none, or two files have other layers.
  """
  files = {}
  for name, paths in encoders.items():
    files[name] = {split: feature_files.read(path) for split, path in vars(paths).items()}
    kinds = {split: (one.layers, one.features_ML.shape[2:]) for split, one in files[name].items()}
    if len(set(kinds.values())) > 1:
      raise ConfigError(
        f"the features of encoders.{name} have other layers, tokens or"
        f" widths: {kinds}; make both with one encoder"
      )
  return files


def _encoders(files: Files, records: Mapping[str, labelled.Records]) -> dict[str, Encoder]:
  out = {}
  for name, both in files.items():
    ordered = {split: feature_files.in_order(one, records[split]) for split, one in both.items()}
    out[name] = Encoder(both["train"].layers, ordered)
  return out


def _file_records(files: Files) -> tuple[dict[str, labelled.Records], str]:
  """Records as the first encoder has them, and where its validation is.

  Raises:
    ValueError: an item is in both.
  """
  first = next(iter(files.values()))
  records = {split: feature_files.records(one, split) for split, one in first.items()}
  labelled.check_apart(records["train"], records["validation"])
  return records, first["validation"].path


def _check_without_model(config: labels.Probe, files: Files) -> None:
  """Raises ConfigError where only a model of ours would read what is said."""
  for key, value in (
    ("model_run", config.model_run),
    ("layers", config.layers),
    ("data.train", config.data.train),
    ("data.validation", config.data.validation),
  ):
    if value:
      raise ConfigError(
        f"{key} is {value!r} and backbones is empty, so that nothing reads"
        ' it; name some backbones ("trained"), or empty it'
      )
  pooled = all(f["train"].features_ML.ndim == 3 for f in files.values())
  if pooled and config.head.pool != "average":
    raise ConfigError(
      f"head.pool is {config.head.pool!r}, which reads every token, and"
      ' the features on disk are pooled already; use "average", or write them'
      " with features.pool 'token'"
    )


def _check_sources(config: labels.Probe) -> None:
  """Raises ConfigError unless there is something to probe, each once."""
  names, data = config.backbones, config.data
  taken = sorted({*config.encoders} & {*MODELS, *BASELINES})
  if taken:
    raise ConfigError(f"encoders.{taken[0]} has the name of a backbone of ours; use another")
  if not (names or config.encoders):
    raise ConfigError("config key backbones is (); name some, or encoders")
  if "pixels" in names and not (data.train_pixels and data.validation_pixels):
    raise ConfigError(
      'backbones has "pixels", which needs data.train_pixels and'
      " data.validation_pixels: the stores that the tokens were made from"
    )


def _is_cached(cache: str, head: heads.HeadConfig) -> bool:
  """Whether features are made once: for one process and pooled by average."""
  if cache == "off" or head.pool != "average":
    if cache == "on":
      raise ConfigError(
        'cache "on" keeps one mean of each layer; head.pool'
        f' {head.pool!r} reads every token. Set cache "auto"'
      )
    return False
  several = jax.process_count() > 1
  if several and cache == "on":
    raise ConfigError(
      f'cache "on" is for one process, and this is one of {jax.process_count()}; set cache "auto"'
    )
  return not several
