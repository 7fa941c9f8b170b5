"""`run = "features"`: features of a model for the user's own images and videos.

For every split of the source the run directory gets a folder of files, one for
`amount.items_per_shard` items: `00000.safetensors` (or .npz) with an array
`layer_8` for each layer, its rows the clips of the items in order, and `label`
(-1 for none); beside it `00000.json`, written last, says which clips they are.
`index.csv` lists all clips, `skipped.csv` and `missing.csv` what gave none.

Shapes: R clips, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import io
import json
from typing import Any

from etils import epath
import numpy as np
import safetensors.numpy

from totojax import logs
from totojax import pretrained
from totojax import progress
from totojax.build import backbone
from totojax.build.typed import ConfigError
from totojax.build.typed import typed
from totojax.corpus import parts as parts_lib
from totojax.corpus import settings
from totojax.corpus import units
from totojax.data import items as items_lib
from totojax.data import media
from totojax.data import storage
from totojax.data import workers
from totojax.models import trunk

FORMATS = ("safetensors", "npz")
DTYPES = ("float32", "float16")
_INDEX = ("store", "file", "row", "id", "clip", "label")


@dataclasses.dataclass(frozen=True)
class Features:
  """Which features are written, and how.

  Attributes:
    tokenizer: its file; "": found by itself (`backbone.tokenizer`).
    layers: increasing, 0 (the embeddings) to the depth; (): all.
    pool: "token", "frame" or "clip".
    format: one of `FORMATS`.
    dtype: of what is stored, one of `DTYPES`.
    rows: clips of a forward pass.
  """

  tokenizer: str
  layers: tuple[int, ...]
  pool: str
  format: str
  dtype: str
  rows: int

  def __post_init__(self):
    for name, known in (
        ("pool", backbone.POOLS), ("format", FORMATS), ("dtype", DTYPES)
    ):  # fmt: skip
      if getattr(self, name) not in known:
        raise ValueError(
            f"features.{name} is {getattr(self, name)!r}; use one of"
            f" {', '.join(known)}"
        )
    if self.rows < 1:
      raise ValueError(f"features.rows is {self.rows}; use 1 or more")


def run(
    config: Mapping[str, Any],
    workdir: epath.Path,
    interrupted: Callable[[int], bool],
) -> bool:
  """Writes the features of every item; False when interrupted.

  Raises:
    ValueError: the run, a layer or the source does not fit, or no item of a
      split gives a clip.
  """
  wanted = typed(Features, config["features"], "features")
  found = backbone.find(config["model_run"])
  depth = found.model.config.depth
  layers = tuple(wanted.layers) or tuple(range(depth + 1))
  trunk.check_layers(layers, depth)
  tokenizer = backbone.tokenizer(found, wanted.tokenizer)
  work = parts_lib.of(_sized(config, found, tokenizer.factor), workdir)
  for part in work.parts:
    media.check_installed(part.listing.items[0], part.spec)
  logs.begin(workdir, config, tokenizer=tokenizer.fingerprint)
  backbone.check_same(
      {"model_run": str(found.path), "step": found.step,
       "listing": {p.name: p.info["listing"] for p in work.parts}},
      workdir,
  )  # fmt: skip
  model = pretrained.load(
      found.path, tokenizer=wanted.tokenizer, depth=layers[-1]
  )
  for part in work.parts:
    if not _make(part, model, layers, wanted, config, interrupted):
      return False
  _finish(work, wanted, workdir)
  return True


def _sized(
    config: Mapping[str, Any], found: backbone.Trained, factor: int
) -> dict[str, Any]:
  """The config with the model's own sizes for 0.

  Raises:
    ConfigError: it asks for others than the model can read.
  """
  spec = found.model.spec
  size = spec.grid * factor
  clip, image = dict(config["clip"]), dict(config["image"])
  clip["frames"] = clip["frames"] or spec.frames
  for name, section in (("clip", clip), ("image", image)):
    section["size_px"] = section["size_px"] or size
    if section["size_px"] != size:
      raise ConfigError(
          f"{name}.size_px is {section['size_px']}; {found.path} was trained on"
          f" frames of {size} pixels: set it to 0"
      )
  if not 1 <= clip["frames"] <= spec.frames:
    raise ConfigError(
        f"clip.frames is {clip['frames']}; {found.path} was trained on"
        f" {spec.frames}: use 1 to {spec.frames}, or 0 for all"
    )
  return {**config, "clip": clip, "image": image}


def _make(
    part: parts_lib.Part,
    model: pretrained.Pretrained,
    layers: tuple[int, ...],
    wanted: Features,
    config: Mapping[str, Any],
    interrupted: Callable[[int], bool],
) -> bool:
  """Makes the files of a split that are not there; False when interrupted."""
  amount = settings.amount(config)
  part.path.mkdir(parents=True, exist_ok=True)
  todo = [u for u in part.units if not _note(part, u).exists()]
  total, left = (
      sum(len(unit.items) for unit in some) for some in (part.units, todo)
  )
  decoded = workers.decode(
      (item for unit in todo for item in unit.items), part.spec,
      seed=config["seed"], workers=min(amount.processes, left),
      ahead=amount.ahead,
  )  # fmt: skip
  with progress.tracking(
      f"features {part.name}", unit="items", total=total, done=total - left
  ) as bar:
    try:
      for unit in todo:
        rows = _Rows(model, part.listing.kind, layers, wanted)
        for _ in unit.items:
          rows.add(next(decoded))
          bar.advance()
          if interrupted(bar.done):
            return False
        rows.write(_note(part, unit))
    finally:
      decoded.close()
  return True


def _note(part: parts_lib.Part, unit: units.Unit) -> epath.Path:
  return part.path / f"{unit.number:05d}.json"


class _Rows:
  """The clips of a unit: features as soon as a forward pass is full."""

  def __init__(
      self, model: pretrained.Pretrained, kind: str, layers: tuple[int, ...],
      wanted: Features,
  ):  # fmt: skip
    self._model, self._kind = model, kind
    self._layers, self._wanted = layers, wanted
    self._pending, self._made = [], []
    self._clips: list[dict[str, Any]] = []
    self._skipped: list[dict[str, str]] = []

  def add(self, found: workers.Decoded) -> None:
    if isinstance(found.clips, items_lib.Skipped):
      self._skipped.append(dataclasses.asdict(found.clips))
      return
    for number, clip_NSS3 in enumerate(found.clips):
      self._pending.append(clip_NSS3)
      self._clips.append(
          {"id": found.item.id, "clip": number, "label": found.label}
      )
    if len(self._pending) >= self._wanted.rows:
      self._compute()

  def write(self, note: epath.Path) -> None:
    """The file of all that was added, then its note."""
    if self._pending:
      self._compute()
    if self._made:
      whole_LR = np.concatenate(self._made, axis=1)
      arrays = {
          f"layer_{layer}": x_R for layer, x_R in zip(self._layers, whole_LR)
      }
      labels = [clip["label"] for clip in self._clips]
      arrays["label"] = np.array(labels, np.int32)
      data = _bytes(arrays, self._wanted.format)
      name = f"{note.stem}.{self._wanted.format}"
      beside = note.parent / f".{name}.part"
      beside.write_bytes(data)
      beside.replace(note.parent / name)
    logs.write_json(note, {"clips": self._clips, "skipped": self._skipped})

  def _compute(self) -> None:
    clips_RNSS3 = np.stack(self._pending)
    if self._kind == "image":
      clips_RNSS3 = clips_RNSS3[:, 0]
    features_LR = self._model.features(
        clips_RNSS3, layer=self._layers, pool=self._wanted.pool,
        kind=self._kind, rows=self._wanted.rows,
    )  # fmt: skip
    self._made.append(features_LR.astype(self._wanted.dtype))
    self._pending.clear()


def _bytes(arrays: Mapping[str, np.ndarray], form: str) -> bytes:
  if form == "safetensors":
    return safetensors.numpy.save(
        {k: np.ascontiguousarray(v) for k, v in arrays.items()}
    )
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)
  return buffer.getvalue()


def _finish(
    work: parts_lib.Work, wanted: Features, workdir: epath.Path
) -> None:
  """The tables, and what a user wants to know of them."""
  index, skipped, empty = [], [], []
  for part in work.parts:
    clips = 0
    for unit in part.units:
      note = json.loads(_note(part, unit).read_text())
      file = f"{part.name}/{unit.number:05d}.{wanted.format}"
      for row, clip in enumerate(note["clips"]):
        where = part.name, file, row
        index.append((*where, clip["id"], clip["clip"], clip["label"]))
      clips += len(note["clips"])
      skipped += [(part.name, s["id"], s["reason"]) for s in note["skipped"]]
    print(
        f"{part.path}: features of {clips} clips from"
        f" {len(part.listing.items)} items"
    )
    if not clips:
      empty.append(part.name)
  storage.write_table(workdir, "index.csv", index, header=_INDEX)
  storage.write_table(
      workdir, "skipped.csv", skipped, header=("store", "id", "reason")
  )
  parts_lib.write_missing(work, workdir)
  if skipped:
    print(f"{len(skipped)} items gave no clip: {workdir / 'skipped.csv'}")
  if empty:
    raise ValueError(
        f"no item of {', '.join(empty)} gave a clip, the first of them because:"
        f" {skipped[0][2]}; see {workdir / 'skipped.csv'}"
    )
