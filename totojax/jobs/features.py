"""`run = "features"`: features of a model for the user's own images and videos.

The model is a run of ours, or another encoder (`encoders`), so that a probe
reads both alike. For every split of the source the run directory gets a folder
of files, one for `amount.items_per_shard` items: `00000.safetensors` (or .npz)
with an array `layer_8` for each layer, its rows the clips of the items in
order, and `label` (-1 for none); beside it a note, `00000.json`, says which
clips they are (`rundir.pieces`). `features.json` stands in a folder that is
whole. `index.csv` lists all clips, `skipped.csv` and `missing.csv` what gave
none, `short.csv` what is too short for one.

Shapes: R clips, N frames, S pixels of a side, L layers, D width. What features
of a frame are where the tokenizer makes one of several is in `trained.model`.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

from etils import epath
import numpy as np

from totojax import jobs
from totojax.config.corpus import FeatureFiles, Features
from totojax.config.model import EACH_FRAME, LatentSpec
from totojax.config.schema import ConfigError
from totojax.data.pixels import media, workers
from totojax.data.sources import items as items_lib
from totojax.data.store import feature_files
from totojax.jobs.tokenize import short, stores
from totojax.models import taps
from totojax.rundir import files, pieces, provenance, wording
from totojax.trained import backbone, encoders, model as pretrained, ready, shipped

Compute = Callable[[np.ndarray], np.ndarray]  # clips [R, N, S, S, 3] -> [L, R, ...]
_CLIP = ("id", "clip", "label")


@dataclasses.dataclass(frozen=True)
class _Model:
  """What features are of."""

  name: str  # for errors
  layers: tuple[int, ...]  # that are written
  frames: int  # of a clip of pixels, at most
  size_px: int  # side of the frames
  facts: Mapping[str, Any]  # what other features would differ in
  ready: Callable[[str], Compute]  # kind of the items -> what computes features of their clips
  latents: LatentSpec = EACH_FRAME  # of its tokenizer
  multiple: int = 1  # what the frames of a clip are a multiple of


def _from_run(config: Features) -> _Model:
  settings = config.features
  source = backbone.find(config.model_run, patches=True)
  spec, depth = source.model.spec, source.model.config.depth
  layers = tuple(settings.layers) or tuple(range(depth + 1))
  taps.check_layers(layers, depth)
  tokenizer = backbone.find_tokenizer(source, settings.tokenizer)

  def ready(kind: str) -> Compute:
    model = pretrained.load(source.path, tokenizer=settings.tokenizer, depth=layers[-1])
    options = {"layer": layers, "pool": settings.pool, "kind": kind, "rows": settings.rows}
    if kind == "image":
      return lambda clips_RNSS3: model.features(clips_RNSS3[:, 0], **options)
    return lambda clips_RNSS3: model.features(clips_RNSS3, **options)

  return _Model(
    name=str(source.path),
    layers=layers,
    frames=spec.clip_frames,
    size_px=spec.grid * tokenizer.factor,
    facts={"model_run": str(source.path), "step": source.step},
    ready=ready,
    latents=spec.latents,
  )


def _from_encoder(config: Features) -> _Model:
  settings, path = config.features, config.features.encoder
  if config.model_run not in ("", shipped.NAME):  # which configs/features.py begins with
    raise ConfigError(
      f"model_run is {config.model_run} and features.encoder {path};"
      " features are of one of them: empty the other"
    )
  encoder = ready.load(path, pool=settings.pool, norm=settings.norm)
  layers = tuple(settings.layers) or encoder.layers
  unknown = sorted(set(layers) - set(encoder.layers))
  if unknown or list(layers) != sorted(set(layers)):
    raise ConfigError(
      f"features.layers is {layers}; {path} has layers"
      f" {encoder.layers}: name some, in increasing order"
    )
  places = [encoder.layers.index(layer) for layer in layers]

  def features(clips_RNSS3: np.ndarray) -> np.ndarray:
    x_LR = encoders.checked(
      encoder.features(clips_RNSS3),
      encoder,
      name=path,
      clips=len(clips_RNSS3),
      tokens=settings.pool == "token",
    )
    return x_LR[places]

  return _Model(
    name=path,
    layers=layers,
    frames=encoder.frames,
    size_px=encoder.size_px,
    facts={"encoder": path, "digest": encoder.digest, "normed": encoder.normed},
    ready=lambda kind: features,
    multiple=encoder.multiple,
  )


def run(config: Features, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Writes the features of every item; False when interrupted.

  Raises:
    ValueError: the run, a layer or the source does not fit, or no item of a
      split gives a clip.
  """
  model = _from_encoder(config) if config.features.encoder else _from_run(config)
  parts = stores.parts(_sized(config, model), workdir)
  for part in parts:
    backbone.check_kind(model.latents, part.listing.kind, f"split {part.name!r}")
    media.check_installed(part.listing.items[0], part.spec)
    short.announce(part.listing.items, part.spec, seed=config.seed, name=part.name)
  listing = {part.name: part.info["listing"] for part in parts}
  backbone.begin(workdir, config, model.facts, listing=listing)
  _check_versions(workdir, [media.versions(part.listing.items[0], part.spec) for part in parts[:1]])
  compute = model.ready(parts[0].listing.kind)
  for part in parts:
    if not _make(part, compute, model.layers, config, interrupted):
      return False
  _finish(parts, config.features, workdir)
  return True


def _check_versions(workdir: epath.Path, here: list[dict[str, str]]) -> None:
  """Raises ValueError where files would be decoded otherwise than before."""
  path = workdir / "decoders.json"
  before = files.read_json(path)["versions"] if files.exists(path) else here
  provenance.check_versions(str(workdir), before, here)
  files.write_json(path, {"versions": before + [each for each in here if each not in before]})


def _sized(config: Features, model: _Model) -> Features:
  """The config with the model's own sizes for 0.

  Raises:
    ConfigError: it asks for others than the model can read.
  """
  for name in ("clip", "image"):
    size_px = getattr(config, name).size_px or model.size_px
    if size_px != model.size_px:
      raise ConfigError(
        f"{name}.size_px is {size_px}; {model.name} reads frames of"
        f" {model.size_px} pixels: set it to 0"
      )
  frames = config.clip.frames or model.frames
  if frames > model.frames:
    raise ConfigError(
      f"clip.frames is {frames}; clips of {model.name} have {model.frames}:"
      f" use 1 to {model.frames}, or 0 for all"
    )
  if frames % model.multiple:
    raise ConfigError(
      f"clip.frames is {frames}; clips of {model.name} have a multiple of {model.multiple}: use"
      f" {model.frames}, or 0"
    )
  px = model.size_px
  return dataclasses.replace(
    config,
    clip=dataclasses.replace(config.clip, frames=frames, size_px=px),
    image=dataclasses.replace(config.image, size_px=px),
  )


def _make(
  part: stores.CorpusStore,
  compute: Compute,
  layers: tuple[int, ...],
  config: Features,
  interrupted: jobs.Interrupted,
) -> bool:
  """Makes the files of a split that are not there; False when interrupted."""
  files.make_folder(part.path)
  notes = pieces.Pieces(part.path)
  todo = [u for u in part.units if notes.read(u.number) is None]
  with part.decoding("features", part.units, todo, config) as (items, bar):
    for unit in todo:
      rows = _Rows(compute, layers, config.features)
      for item in items(unit):
        rows.add(item)
        bar.advance()
        if interrupted(bar.done):
          return False
      rows.write(part.path, unit.number)
  return True


class _Rows:
  """The clips of a unit: features as soon as a forward pass is full."""

  def __init__(self, compute: Compute, layers: tuple[int, ...], settings: FeatureFiles):
    self._features, self._layers, self._settings = compute, layers, settings
    self._pending, self._computed = [], []
    self._clips: list[dict[str, Any]] = []
    self._skipped: list[dict[str, str]] = []
    self._short: dict[str, str] = {}

  def add(self, item: workers.Decoded) -> None:
    if item.tally.short:
      self._short[item.item.id] = item.tally.short
    if isinstance(item.clips, items_lib.Skipped):
      self._skipped.append(dataclasses.asdict(item.clips))
      return
    for number, clip_NSS3 in enumerate(item.clips):
      self._pending.append(clip_NSS3)
      self._clips.append({"id": item.item.id, "clip": number, "label": item.label})
    if len(self._pending) >= self._settings.rows:
      self._compute()

  def write(self, folder: epath.Path, unit: int) -> None:
    """The file of all that was added, then its note."""
    if self._pending:
      self._compute()
    if self._computed:
      whole_LR = np.concatenate(self._computed, axis=1)
      arrays = dict(zip(map(feature_files.layer_name, self._layers), whole_LR))
      arrays["label"] = np.array([clip["label"] for clip in self._clips], np.int32)
      data = feature_files.to_bytes(arrays, self._settings.format)
      name = f"{unit:05d}.{self._settings.format}"
      files.write_bytes(folder / name, data)
    note = {"clips": self._clips, "skipped": self._skipped, "short": self._short}
    pieces.Pieces(folder).write(unit, note)

  def _compute(self) -> None:
    features_LR = self._features(np.stack(self._pending))
    self._computed.append(features_LR.astype(self._settings.dtype))
    self._pending.clear()


def _finish(
  parts: Sequence[stores.CorpusStore], settings: FeatureFiles, workdir: epath.Path
) -> None:
  """The tables, and what a user wants to know of them."""
  index, skipped, empty, ways = [], [], [], {}
  for part in parts:
    ids, names = [], []
    ways[part.name] = {}
    for unit in part.units:
      note = pieces.Pieces(part.path).require(unit.number)
      name = f"{unit.number:05d}.{settings.format}"
      if note["clips"]:
        names.append(name)
      for row, clip in enumerate(note["clips"]):
        index.append((part.name, f"{part.name}/{name}", row, *(clip[key] for key in _CLIP)))
        ids.append(clip["id"])
      skipped += [(part.name, s["id"], s["reason"]) for s in note["skipped"]]
      ways[part.name] |= note.get("short", {})
    items, table = len(part.listing.items), workdir / short.FILE
    print(
      f"{part.path}: features of {wording.counted(len(ids), 'clip')} from"
      f" {wording.counted(items, 'item')}"
    )
    short.report(part.name, ways[part.name], part.spec, items=items, where=table)
    if not ids:
      empty.append(part.name)
      continue
    contents = {"classes": part.listing.classes, "files": names, "ids": ids}
    if ways[part.name]:
      contents["short"] = short.counts(ways[part.name].values())
    files.write_json(part.path / feature_files.WHOLE, contents)
  files.write_table(workdir / "index.csv", index, header=("store", "file", "row", *_CLIP))
  files.write_table(workdir / "skipped.csv", skipped, header=("store", "id", "reason"))
  short.write(workdir, ways)
  stores.write_missing(parts, workdir)
  if skipped:
    print(f"{wording.counted(len(skipped), 'item')} gave no clip: {workdir / 'skipped.csv'}")
  if empty:
    raise ValueError(
      f"no item of {', '.join(empty)} gave a clip, the first of them because:"
      f" {skipped[0][2]}; see {workdir / 'skipped.csv'}"
    )
