"""`run = "probe"`: its backbones, encoders and data opened and checked."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import numpy as np

from totojax import sharding
from totojax.config import labels
from totojax.config.schema import ConfigError
from totojax.data.store import feature_files, manifests
from totojax.data.stream import labelled
from totojax.jobs.labels import setup as setup_lib
from totojax.models import heads, taps, trunk
from totojax.rundir import console
from totojax.tokenizers import api
from totojax.trained import backbone

MODELS, BASELINES = labels.BACKBONES, labels.BASELINES
# Encoder -> "train", "validation" and further lists -> its features.
Files = Mapping[str, Mapping[str, feature_files.Features]]


@dataclasses.dataclass(frozen=True)
class Subject:
  """What is probed: a backbone, a baseline, or somebody else's encoder."""

  layers: tuple[int, ...]  # of the backbone or encoder, increasing; (0,) for a baseline
  depth: int  # the last layer that there is
  width: int  # of its features
  head: heads.HeadConfig  # of each layer; a linear layer alone for what is pooled already
  tokens: int = 0  # of a clip in an encoder's features; 0 where they are pooled already
  # An encoder's, in the order of the records: "train" and "validation" -> [M,
  # L, D], or of tokens [M, L, T, D].
  features: Mapping[str, np.ndarray] | None = None
  model: bool = False  # whether a model of ours makes them

  def parameters(self, classes: int) -> int:
    """Of one head."""
    shapes = heads.shapes(self.head, width=self.width, classes=classes)
    return sum(int(np.prod(shape)) for shape, _ in shapes.values())


@dataclasses.dataclass(frozen=True)
class HeadGroup:
  """Heads that are trained together."""

  name: str  # of its folder
  source: str  # "trained", "untrained", "pixels", "histogram" or an encoder's name
  layers: tuple[int, ...]  # of the backbone or encoder; (0,) for a baseline
  first: int  # where these layers begin among all that are asked for

  @property
  def part(self) -> slice:
    """Its layers among all."""
    return slice(self.first, self.first + len(self.layers))


@dataclasses.dataclass(frozen=True)
class ProbeSetup(setup_lib.Setup):
  """And what is probed."""

  config: labels.Probe
  subjects: Mapping[str, Subject]  # by name, in order
  cached: bool  # whether features are made once and kept
  tokenizer: api.Tokenizer | None = None  # of files of images; None: tokens are read
  reads: setup_lib.Reads | None = None  # of files of images

  def views_of(self, source: str) -> str:
    """As `Setup`; features on disk were made before."""
    return super().views_of(source) if self.subjects[source].model else setup_lib.FROZEN

  @property
  def data(self) -> dict[str, Any]:
    """Config key -> what stands for its records in a run."""
    stores = self.config.data.train_pixels, self.config.data.validation_pixels
    pixels = zip(("data.train_pixels", "data.validation_pixels"), stores)
    return self.sets.data | {
      key: manifests.existing(path).identity
      for key, path in pixels
      if path and "pixels" in self.subjects
    }

  @property
  def trained(self) -> tuple[backbone.Trained, trunk.Trunk]:
    """The run and its model, of a config that asks for a backbone."""
    assert self.run is not None and self.model is not None
    return self.run, self.model


@console.phase("opening the data")
def prepare(config: labels.Probe) -> ProbeSetup:
  """Opens what the config names; loads no model.

  Raises:
    ValueError: whatever does not fit, before anything is computed.
  """
  files = encoder_files(config.encoders)
  _check_subjects(config)
  run, model, subjects, head, tokenizer, reads = None, None, {}, config.head, None, None
  from_files, most = config.data.source != "tokens", config.data.train_records
  if config.backbones:
    run = backbone.find(config.model_run, patches=from_files)
    if from_files:
      tokenizer, frames = setup_lib.open_encoder(run, config.data), 1
      size_px = run.model.spec.grid * tokenizer.factor
      sets, reads = setup_lib.open_files(config, size_px=size_px, most=most)
    else:
      sets, frames = setup_lib.open_sets(run, config.data, seed=config.seed, most=most)
    model = backbone.for_clips(run.model, frames=frames)
    head = heads.filled(head, run.model.config)
    subjects = _backbones(config, run, model, head, sets)
  else:
    _check_without_model(config, files)
    sets = sets_of_features(files, data=config.data, seed=config.seed)
  sets = setup_lib.with_lists(sets, _lists(config, run, files))
  subjects |= {name: _encoder(splits, head, sets) for name, splits in files.items()}
  for subject in subjects.values():
    setup_lib.check_head(subject.head, width=subject.width, classes=sets.classes)
  return ProbeSetup(
    config=config,
    run=run,
    model=model,
    layout=sharding.layout(config.mesh),
    sets=sets,
    subjects=subjects,
    cached=_is_cached(config.cache, head, from_files=from_files),
    tokenizer=tokenizer,
    reads=reads,
  )


def _lists(
  config: labels.Probe, run: backbone.Trained | None, files: Files
) -> dict[str, labelled.Records]:
  """The records of further held-out lists: of stores of tokens, or of the first encoder.

  Raises:
    ValueError: a backbone or encoder lacks one that another has.
  """
  named = {
    f"encoders.{name}": set(splits) - {"train", "validation"} for name, splits in files.items()
  }
  if config.backbones:
    named["data"] = {*config.data.evaluations}
  elif config.data.evaluations:
    raise ConfigError("data.evaluations is of backbones of ours, and backbones is empty; empty it")
  for key, names in named.items():
    if names != next(iter(named.values())):
      raise ConfigError(
        f"{key}.evaluations names {sorted(names)}, and {next(iter(named))}.evaluations"
        f" {sorted(next(iter(named.values())))}; all are scored on the same lists"
      )
  if config.data.evaluations:
    if run is None or config.data.source != "tokens" or "pixels" in config.backbones:
      raise ConfigError(
        "data.evaluations are stores of tokens; set data.source to 'tokens', and leave 'pixels' out"
        " of backbones"
      )
    return {
      name: labelled.records(backbone.open_tokens(run, path, f"data.evaluations.{name}"), name)
      for name, path in config.data.evaluations.items()
    }
  first = next(iter(files.values()), {})
  return {
    name: feature_files.records(one, name)
    for name, one in first.items()
    if name not in ("train", "validation")
  }


def _backbones(
  config: labels.Probe,
  run: backbone.Trained,
  model: trunk.Trunk,
  head: heads.HeadConfig,
  sets: setup_lib.Sets,
) -> dict[str, Subject]:
  """Models and baselines by name; baselines are pooled."""
  depth, side = model.config.depth, config.data.pixels_side
  layers = config.layers or tuple(range(depth + 1))
  taps.check_layers(layers, depth)
  plain = dataclasses.replace(head, pool="average")
  # Of files nothing but models is probed.
  stored = sets.all_train.store
  frames = 1 if stored is None else stored.manifest.pixel_frames
  if "pixels" in config.backbones and not config.data.train_pixels:
    drawing_tokenizer(run)
  ours = Subject(layers, depth, model.config.width, head, model=True)
  subjects = {
    **dict.fromkeys(MODELS, ours),
    "pixels": Subject((0,), depth, frames * side**2 * 3, plain),
    "histogram": Subject((0,), depth, model.spec.codes * model.spec.vocab, plain),
  }
  return {name: subjects[name] for name in config.backbones}


def drawing_tokenizer(run: backbone.Trained) -> api.Tokenizer:
  """What draws pixels from tokens, where no store has those that they were made from.

  Raises:
    ConfigError: the tokenizer of the run is nowhere.
  """
  try:
    return backbone.find_tokenizer(run, "")
  except ConfigError as error:
    raise ConfigError(
      'backbones has "pixels", which needs data.train_pixels and data.validation_pixels, the'
      f" stores that the tokens were made from, or their tokenizer: {error}"
    ) from error


def encoder_files(encoders: Mapping[str, labels.EncoderFiles]) -> Files:
  """The features of every encoder, in memory.

  Raises:
    ValueError: what is on disk is none, or two files have other layers.
  """
  files = {}
  for name, paths in encoders.items():
    splits = {"train": paths.train, "validation": paths.validation, **(paths.evaluations or {})}
    files[name] = {split: feature_files.read(path) for split, path in splits.items()}
    kinds = {split: (one.layers, one.features_ML.shape[2:]) for split, one in files[name].items()}
    if len(set(kinds.values())) > 1:
      raise ConfigError(
        f"the features of encoders.{name} have other layers, tokens or"
        f" widths: {kinds}; make both with one encoder"
      )
  return files


def _encoder(
  splits: Mapping[str, feature_files.Features], head: heads.HeadConfig, sets: setup_lib.Sets
) -> Subject:
  """The features of an encoder in the order of the records."""
  features = {s: feature_files.in_order(splits[s], records) for s, records in sets.splits.items()}
  shape, layers = features["train"].shape, splits["train"].layers
  tokens = shape[2] if len(shape) == 4 else 0
  if not tokens:
    head = dataclasses.replace(head, pool="average")
  return Subject(layers, max(layers[-1], 1), shape[-1], head, tokens, features)


def sets_of_features(files: Files, *, data: labels.Data, seed: int) -> setup_lib.Sets:
  """Records as the first encoder has them.

  Raises:
    ValueError: an item is in both.
  """
  first = next(iter(files.values()))
  train, validation = (feature_files.records(first[s], s) for s in ("train", "validation"))
  labelled.check_apart(train, validation)
  missing = labelled.missing(first["validation"].path)
  return setup_lib.hold_out(train, validation, data=data, seed=seed, missing=missing)


def _check_without_model(config: labels.Probe, files: Files) -> None:
  """Raises ConfigError where only a model of ours would read what is said."""
  for key, value in (
    ("model_run", config.model_run),
    ("layers", config.layers),
    ("data.train", config.data.train),
    ("data.validation", config.data.validation),
    ("data.root", config.data.root),
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


def _check_subjects(config: labels.Probe) -> None:
  """Raises ConfigError unless there is something to probe, each once."""
  names, data = config.backbones, config.data
  clashes = sorted({*config.encoders} & {*MODELS, *BASELINES})
  if clashes:
    raise ConfigError(f"encoders.{clashes[0]} has the name of a backbone of ours; use another")
  if not (names or config.encoders):
    raise ConfigError("config key backbones is (); name some, or encoders")
  of_tokens = [name for name in names if name in BASELINES]
  if of_tokens and data.source != "tokens":
    raise ConfigError(
      f"backbones has {of_tokens[0]!r}, which is of stores of tokens, and data.source is"
      f" {data.source!r}; leave it out, or probe on stores"
    )
  if bool(data.train_pixels) != bool(data.validation_pixels):
    raise ConfigError(
      "of data.train_pixels and data.validation_pixels, the stores that the tokens were made"
      " from, one is empty; give both, or none: the tokenizer then draws pixels from tokens"
    )


def _is_cached(cache: str, head: heads.HeadConfig, *, from_files: bool = False) -> bool:
  """Whether features are made once: of stores, for one process and pooled by average."""
  if from_files:
    if cache == "on":
      raise ConfigError(
        'cache "on" keeps the features of one view of each item, and files of images are seen anew'
        ' in each epoch; set cache "auto", or probe on stores'
      )
    return False
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
