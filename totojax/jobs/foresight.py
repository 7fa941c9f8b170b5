"""What the stages of a chain will make, and whether the stages after them can read it.

Nothing is made, and of what is on disk nothing but manifests and tokenizers is
read. What cannot be foreseen, as what a job of the user's makes, is left to the
stage that reads it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import os
from typing import Any

from etils import epath

from totojax import assembly, flops
from totojax.config import (
  generate as generate_config,
  labels,
  pixels,
  pretrain as pretrain_config,
  schema,
  studies,
  tokens,
  validate as validate_config,
)
from totojax.config.model import EACH_FRAME, LatentSpec, SequenceSpec
from totojax.config.schema import ConfigError
from totojax.data.store import fill, manifests, store as store_lib
from totojax.data.stream import rows
from totojax.jobs import fitting, pretrain, shards, stores
from totojax.jobs.sweep import expand
from totojax.optim import adamw
from totojax.rundir import directory
from totojax.storage import objects
from totojax.tokenizers import weights
from totojax.trained import backbone

SPLITS = ("train", "val")
_FLAG = "--config.STAGE."  # in a reason, of its own stage
_RECORDS = manifests.Shard("", 1, "", "")  # of a store that will have some


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """As `shards.Codes`, of one that may not be there yet."""

  fingerprint: str  # of one that is not trained yet: its file
  vocab: int
  factor: int
  latents: LatentSpec


def check(config: studies.Chain, workdir: epath.Path) -> None:
  """Looks at all stages of a chain before the first is run.

  Raises:
    ConfigError: with all reasons why they do not fit each other, and the flags
      that mend it where they follow from what is made.
  """
  made, reasons = _Made(config, workdir), []
  for number, name in enumerate(config.order):
    folder = workdir / name
    stage = directory.typed(config.stages[name], workdir)
    found = list(_misplaced(config, workdir, number))
    look = _LOOKS.get(stage.run)
    if look is not None:
      found += look(stage, folder, made)
    if not directory.is_done(folder):
      flag = f"--config.stages.{name}."
      reasons += [f"stages.{name}: {reason.replace(_FLAG, flag)}" for reason in found]
  if reasons:
    raise ConfigError("the stages do not fit each other:\n  " + "\n  ".join(reasons))


class _Made:
  """What stages make, by its path."""

  def __init__(self, config: studies.Chain, workdir: epath.Path):
    self._folders = [workdir / name for name in config.stages]
    self.stores: dict[str, manifests.Manifest] = {}
    self.tokenizers: dict[str, Tokenizer] = {}
    self.runs: dict[str, backbone.Trained] = {}

  def store(self, path: str) -> manifests.Manifest | None:
    """The manifest of a store, or None where nobody knows yet.

    Raises:
      objects.StoreError: it is of no stage, and not there.
    """
    name, stage = objects.text(path), self._stage(path)
    if stage is None or directory.is_done(stage):
      return manifests.existing(path)
    return self.stores.get(name)

  def tokenizer(self, path: str) -> Tokenizer | None:
    """The same of a tokenizer; raises as `weights.load`."""
    if self._stage(path) is not None:
      return self.tokenizers.get(path)
    made = weights.load(path)
    return Tokenizer(made.fingerprint, made.vocab, made.factor, made.latents)

  def run(self, path: str) -> backbone.Trained | None:
    """The same of a run of pre-training; raises as `backbone.find`."""
    stage = self._stage(path)
    if stage is None or directory.is_done(stage):
      return backbone.find(path, patches=True)
    return self.runs.get(path)

  def _stage(self, path: str) -> epath.Path | None:
    """The folder of the stage that makes what is at `path`."""
    return next((f for f in self._folders if f"{path}/".startswith(f"{f}/")), None)


def _misplaced(config: studies.Chain, workdir: epath.Path, number: int) -> Iterator[str]:
  """Folders of stages that a stage reads, and that are not there by then."""
  values = directory.flat(schema.to_dict(config.stages[config.order[number]]))
  seen = set()
  for key, value in values.items():
    for text in value if isinstance(value, list) else [value]:
      seen |= {(name, key) for name in studies.STAGE.findall(text if isinstance(text, str) else "")}
  for name, key in sorted(seen):
    if name in config.order[:number] or directory.is_done(workdir / name):
      continue
    if name in config.order[number:]:
      yield f"{key} reads what stage {name!r} makes, which comes later in `order`; move it before"
    elif name in config.stages:
      yield f"{key} reads what stage {name!r} makes, which is not in `order`; add it before"


def _pixels(folder: epath.Path, made: _Made, frames: int, size_px: int) -> Iterator[str]:
  """The stores of a stage that makes pixels."""
  for split in SPLITS:
    manifest = fill.manifest(
      kind="video" if frames > 1 else "image",
      frames=frames,
      size_px=size_px,
      stride_frames=1,
      fps=30.0,
      crops=1,
      records_per_shard=1,
      info={},
    )
    made.stores[f"{folder}/{split}"] = _whole(manifest)
  return iter(())


def _whole(manifest: manifests.Manifest) -> manifests.Manifest:
  return dataclasses.replace(manifest, shards=(_RECORDS,), complete=True)


def _render(stage: pixels.Render, folder: epath.Path, made: _Made) -> Iterator[str]:
  return _pixels(folder, made, stage.scene.frames, stage.scene.size_px)


def _decode(stage: pixels.Decode, folder: epath.Path, made: _Made) -> Iterator[str]:
  return _pixels(folder, made, stage.clip.frames, stage.clip.size_px)


def _photos(stage: pixels.Photos, folder: epath.Path, made: _Made) -> Iterator[str]:
  return _pixels(folder, made, stage.crop.frames, stage.crop.size_px)


def _tokenizer(stage: tokens.Tokenizer, folder: epath.Path, made: _Made) -> Iterator[str]:
  file, size = f"{folder}/tokenizer.safetensors", stage.size
  if stage.weights != "train":
    try:
      ready = made.tokenizer(stage.weights)
    except (OSError, ValueError) as error:
      yield f"weights: {error}"
      return
    if ready is not None:
      made.tokenizers[file] = ready
    return
  latents = getattr(size, "latents", EACH_FRAME)
  made.tokenizers[file] = Tokenizer(file, size.vocab, size.factor, latents)
  shares = {f"data.train.{name}": share.path for name, share in stage.data.train.items()}
  shares |= {f"data.validation.{name}": path for name, path in stage.data.validation.items()}
  sides = {}
  for key, path in shares.items():
    try:
      manifest = made.store(path)
    except objects.StoreError as error:
      yield f"{key}: {error}"
      continue
    if manifest is None:
      continue
    yield from _cuts(key, path, manifest, size.factor)
    sides[key] = manifest.size_px
    if manifest.frames < stage.train.clip_frames:
      yield (
        f"train.clip_frames is {stage.train.clip_frames}, and {key} ({path}) has"
        f" {manifest.frames} frames a record; lower it, or make longer clips"
      )
  if len(set(sides.values())) > 1:
    yield f"sides of frames differ: {sides}; make all of one size"


def _cuts(key: str, path: str, manifest: manifests.Manifest, factor: int) -> Iterator[str]:
  """Where frames are no whole number of tokens wide."""
  if manifest.size_px % factor:
    least = max(manifest.size_px // factor, 1) * factor
    yield (
      f"{key}: {path} has frames of {manifest.size_px} pixels, no multiple of the {factor} of a"
      f" token; make them {least} or {least + factor} wide"
    )


def _shards(stage: tokens.Shards, folder: epath.Path, made: _Made) -> Iterator[str]:
  settings = stage.tokenizing
  try:
    tokenizer = made.tokenizer(settings.tokenizer)
    stores = {split: made.store(f"{settings.pixels}/{split}") for split in SPLITS}
  except (OSError, ValueError) as error:
    yield f"tokenizing: {error}"
    return
  for split, manifest in stores.items():
    if manifest is None or tokenizer is None:
      continue
    wrong = list(_cuts("tokenizing", f"{settings.pixels}/{split}", manifest, tokenizer.factor))
    if split == SPLITS[0]:
      yield from wrong
    if not wrong:
      planned = shards.token_manifest(manifest, tokenizer, settings)
      made.stores[f"{folder}/{split}"] = _whole(planned)


def _pretrain(
  stage: pretrain_config.Pretrain, folder: epath.Path, made: _Made, section: str = ""
) -> Iterator[str]:
  """Of pre-training; `section` is where its keys are in the stage, as "pretrain."."""
  try:
    model = assembly.model(stage)
  except ValueError as error:
    yield str(error)
    return
  encoder = stage.data.encode_with
  unknown = stage.patches.inputs or (encoder and made.tokenizer(encoder) is None)
  sources, reasons = ([], []) if unknown else _sources(stage, made)
  trained = [source for source in sources if source.name.startswith("data.train.")]
  reasons += rows.mismatches(sources, stage.sequence, rows.SIZES)
  reasons += rows.disagreements(sources, ("tokenizer",))
  flags, fitted = _fitted(stage, trained) if trained else ({}, stage.sequence)
  if reasons and flags:
    text = " ".join(f"{_FLAG}{section}{key}={value}" for key, value in flags.items())
    reasons.append(f"of what is made this follows: {text}")
  # What comes after it is compared with what it should be.
  model = model.clone(spec=fitted)
  marks = {mark for source in trained if (mark := source.store.manifest.tokenizer)}
  run = backbone.Trained(folder, stage, model, tokenizer="".join(marks), step=0, digest="")
  made.runs[str(folder)] = run
  for check in (
    lambda: reasons or pretrain.batch_rows(stage.train.batch_tokens, stage.sequence),
    lambda: _check_start(run, made),
    lambda: reasons or section or _check_length(stage),
  ):
    try:
      check()
    except (OSError, ValueError) as error:
      reasons.append(str(error))
  yield from reasons


def _check_length(stage: pretrain_config.Pretrain) -> None:
  """Raises ValueError where the rate's warm-up and decay do not fit the updates."""
  steps = flops.steps(stage.train.total_tokens, stage.train.batch_tokens)
  adamw.schedule_numbers(stage.optim, steps)


def _sources(stage: pretrain_config.Pretrain, made: _Made) -> tuple[list[rows.Source], list[str]]:
  """As `stores.find_stores`, of what will be there."""
  try:
    return stores.find_stores(stage.data, made.store, made.tokenizer)
  except (OSError, ValueError) as error:
    return [], [f"data.encode_with: {error}"]


def _check_start(run: backbone.Trained, made: _Made) -> None:
  """Raises ValueError where a run cannot start from another stage, or from another run."""
  if (start := run.config.init_from) and (source := made.run(start)):
    mark = run.tokenizer if source.tokenizer else ""
    backbone.check_start(source, run.model, tokenizer=mark)


def _fitted(
  stage: pretrain_config.Pretrain, trained: list[rows.Source]
) -> tuple[dict[str, int], SequenceSpec]:
  """Keys that the stores decide, where they have another value; and the sequence with these."""
  spec, sizes = stage.sequence, fitting.sizes(trained)
  if sizes["frames"] >= spec.frames:  # of longer clips a part is read
    del sizes["frames"]
  flags = {f"sequence.{key}": v for key, v in sizes.items() if getattr(spec, key) != v}
  fitted = dataclasses.replace(spec, **sizes)
  if fitted.visual_tokens != spec.visual_tokens and spec.context == spec.visual_tokens:
    fitted = dataclasses.replace(fitted, context=fitted.visual_tokens)
    flags["sequence.context"] = fitted.context
  count, rest = divmod(stage.train.batch_tokens, fitted.context)
  if rest or not count:
    flags["train.batch_tokens"] = max(count, 1) * fitted.context
  return flags, fitted


def _sweep(stage: studies.SweepJob, folder: epath.Path, made: _Made) -> Iterator[str]:
  yield from _pretrain(stage.pretrain, folder, made, "pretrain.")
  for point in expand.points(stage.sweep, stage.pretrain, os.fspath(folder.parent)):
    try:
      assembly.model(point.config)
      _check_length(point.config)
    except ValueError as error:
      yield f"sweep.models.{point.model}: {error}"
      return


def _validate(stage: validate_config.Validate, folder: epath.Path, made: _Made) -> Iterator[str]:
  stores = {f"validation.{name}": path for name, path in (stage.validation or {}).items()}
  yield from _tokens(stage.model_run, stores, made, ("vocab", "grid", *rows.LATENTS))


def _generate(stage: generate_config.Generate, folder: epath.Path, made: _Made) -> Iterator[str]:
  from totojax.jobs.generate import prompts  # few chains have such a stage

  store = stage.prompt.store
  try:
    run = made.run(stage.model_run)
    manifest = made.store(store) if store else None
    amounts = run and prompts.Amounts.of(stage, run)
  except (OSError, ValueError) as error:
    yield str(error)
    return
  if manifest is None or amounts is None:
    return
  if manifest.vocab:
    keys = ("vocab", "grid", *rows.LATENTS)
    yield from _tokens(stage.model_run, {"prompt.store": store}, made, keys)
  if manifest.pixel_frames < amounts.given:
    yield (
      f"prompt.store {store} has clips of {manifest.pixel_frames} frames, and {amounts.given} are"
      f" given: {_FLAG}prompt.frames={manifest.pixel_frames} or fewer"
    )


def _labels(stage: labels.Labels, folder: epath.Path, made: _Made) -> Iterator[str]:
  data, changes = stage.data, {}
  if isinstance(stage, labels.Probe) and not stage.backbones:  # of features on disk
    return
  if isinstance(stage, labels.Tuning):  # which may be on another grid, and on fewer frames
    changes = {"grid": stage.data.grid, "frames": data.frames}
  stores = {"data.train": data.train, "data.validation": data.validation}
  if getattr(data, "source", "tokens") != "tokens":
    stores = {}
  yield from _tokens(stage.model_run, stores, made, rows.SIZES, changes)


def _tokens(
  model_run: str,
  stores: Mapping[str, str],
  made: _Made,
  keys: Sequence[str],
  changes: Mapping[str, int] | None = None,
) -> Iterator[str]:
  """Where stores are not of the tokens that a run is trained on.

  Args:
    model_run: the run.
    stores: config key -> store.
    made: what earlier stages make.
    keys: of a sequence that must agree.
    changes: those that the stage has for itself; 0: as the run.
  """
  try:
    run = made.run(model_run)
  except (OSError, ValueError) as error:
    yield f"model_run: {error}"
    return
  if run is None:
    return
  own = {key: value for key, value in (changes or {}).items() if value}
  spec, sources = dataclasses.replace(run.model.spec, **own), []
  for key, path in stores.items():
    try:
      manifest = made.store(path) if path else None
    except objects.StoreError as error:
      yield f"{key}: {error}"
      continue
    if manifest is not None and manifest.vocab:
      sources.append(rows.Source(key, store_lib.Store(path, manifest), 1.0))
  for reason in rows.mismatches(sources, spec, keys):
    yield f"of {model_run}, {reason}"


_LOOKS: Mapping[str, Callable[[Any, epath.Path, _Made], Iterator[str]]] = {
  "render": _render,
  "decode": _decode,
  "photos": _photos,
  "tokenizer": _tokenizer,
  "shards": _shards,
  "pretrain": _pretrain,
  "sweep": _sweep,
  "validate": _validate,
  "generate": _generate,
  "probe": _labels,
  "joint": _labels,
  "finetune": _labels,
}
