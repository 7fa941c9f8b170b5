"""Pixel stores: `run = "render"`, `run = "decode"` and `run = "photos"`.

All write `train` and `val` under the run directory: clips of uint8 frames with
the id of the item they come from. An item is in one of the two, never in both.

Shapes: K crops of a video, N frames, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import csv
import dataclasses
from typing import Any

from etils import epath
import numpy as np

from totojax import logs
from totojax import progress
from totojax.build.typed import typed
from totojax.data import items as items_lib
from totojax.data import manifests
from totojax.data import media
from totojax.data import photos as photo_lib
from totojax.data import shards
from totojax.data import synthetic
from totojax.data import video
from totojax.data.sources import folder

Interrupted = Callable[[int], bool]


@dataclasses.dataclass(frozen=True)
class Rendering:
  """How many clips are rendered.

  Attributes:
    train: clips for training.
    val: clips held out.
    label: what is labelled: one of `synthetic.LABELS`.
    records_per_shard: clips of a shard.
  """

  train: int
  val: int
  label: str
  records_per_shard: int


@dataclasses.dataclass(frozen=True)
class Photos:
  """How many squares are cut out.

  Attributes:
    train: of the training photographs.
    val: of the held-out one.
    records_per_shard: squares of a shard.
  """

  train: int
  val: int
  records_per_shard: int


@dataclasses.dataclass(frozen=True)
class Decoding:
  """Which videos are decoded.

  Attributes:
    root: folder that holds them, at any depth.
    val_frac: share of the videos that is held out (at least one).
    records_per_shard: clips of a shard.
  """

  root: str
  val_frac: float
  records_per_shard: int

  def __post_init__(self):
    if not 0.0 < self.val_frac < 1.0:
      raise ValueError(
          f"decoding.val_frac is {self.val_frac}; it is a share between 0 and 1"
      )


def render(
    config: Mapping[str, Any], workdir: epath.Path, interrupted: Interrupted
) -> bool:
  """Renders labelled clips; False when interrupted."""
  scene = typed(
      synthetic.SyntheticConfig, config["scene"], "scene", seed=config["seed"]
  )
  amount = typed(Rendering, config["amount"], "amount")
  logs.begin(workdir, config)
  first = {"train": 0, "val": amount.train}
  for split, count in (("train", amount.train), ("val", amount.val)):
    writer = shards.Writer(
        workdir / split,
        manifests.new(
            **_pixel_head(scene.frames, scene.size_px),
            stride_frames=1,
            fps=30.0,
            crops=1,
            labels=True,
            classes=synthetic.classes(amount.label),
            records_per_shard=amount.records_per_shard,
            info={"scene": dataclasses.asdict(scene), "first": first[split]},
        ),
    )
    if writer.complete:
      continue
    begin = writer.cursor or 0
    with progress.tracking(
        f"rendering {split}", unit="clips", total=count, done=begin
    ) as bar:
      for i in range(begin, count):
        if interrupted(i):
          return False
        clip = synthetic.render(scene, first[split] + i)
        writer.append(
            {"frames": clip.frames_NHW3[None]},
            labels=[synthetic.label(clip, amount.label)],
            ids=[f"rendered/{scene.seed}/{first[split] + i}"],
            cursor=i + 1,
        )
        bar.advance()
    writer.close()
  return True


def decode(
    config: Mapping[str, Any], workdir: epath.Path, interrupted: Interrupted
) -> bool:
  """Decodes a folder of videos; False when interrupted.

  Videos that give no clip are listed in `skipped.csv`, with the reason.

  Raises:
    ValueError: no video at all could be decoded for one of the splits.
  """
  # Small folders: every video gives as many clips, however long it is.
  spec = typed(
      video.ClipSpec, config["clip"], "clip",
      sampling="uniform", every_s=1.0, most_stretches=1,
  )  # fmt: skip
  amount = typed(Decoding, config["decoding"], "decoding")
  found = folder.list_items(
      amount.root, "", kind="video", class_folders=False
  )
  parts = items_lib.split(found.items, amount.val_frac, seed=config["seed"])
  logs.begin(workdir, config)
  skipped = _Skipped(workdir / "skipped.csv")
  for split, items in parts.items():
    writer = shards.Writer(
        workdir / split,
        manifests.new(
            **_pixel_head(spec.frames, spec.size_px),
            stride_frames=spec.stride_frames,
            fps=spec.fps,
            crops=spec.crops,
            labels=False,
            classes=(),
            records_per_shard=amount.records_per_shard,
            info={"seed": config["seed"], "clip": dict(config["clip"])},
        ),
    )
    if writer.complete:
      continue
    begin = writer.cursor or 0
    found = writer.manifest.records
    with progress.tracking(
        f"decoding {split}", unit="videos", total=len(items), done=begin
    ) as bar:
      for i in range(begin, len(items)):
        if interrupted(i):
          return False
        clips = media.load(items[i], spec, seed=config["seed"])
        if isinstance(clips, items_lib.Skipped):
          skipped.add(clips)
        else:
          _append(writer, items[i].id, clips, cursor=i + 1)
          found += len(clips)
        bar.advance()
    if not found:
      raise ValueError(
          f"none of the {len(items)} {split} videos under {amount.root} could"
          f" be used; the reasons are in {skipped.path}"
      )
    writer.close()
  skipped.report()
  return True


def photos(
    config: Mapping[str, Any], workdir: epath.Path, interrupted: Interrupted
) -> bool:
  """Cuts squares out of a few photographs; False when interrupted."""
  spec = typed(photo_lib.CropSpec, config["crop"], "crop")
  amount = typed(Photos, config["amount"], "amount")
  logs.begin(workdir, config)
  parts = {
      "train": (photo_lib.TRAIN, amount.train),
      "val": (photo_lib.HELD_OUT, amount.val),
  }
  for split, (names, count) in parts.items():
    images = [photo_lib.load(name) for name in names]
    writer = shards.Writer(
        workdir / split,
        manifests.new(
            **_pixel_head(1, spec.size_px) | {"kind": "image"},
            stride_frames=0,
            fps=0.0,
            crops=count,
            labels=False,
            classes=(),
            records_per_shard=amount.records_per_shard,
            info={"seed": config["seed"], "crop": dataclasses.asdict(spec)},
        ),
    )
    if writer.complete:
      continue
    for i in range(writer.cursor or 0, count):
      if interrupted(i):
        return False
      which = i % len(names)
      square_HW3 = photo_lib.crop(
          images[which], spec, rng=np.random.default_rng([config["seed"], i])
      )
      _append(
          writer, f"photo/{names[which]}", square_HW3[None, None], cursor=i + 1
      )
    writer.close()
  return True


def _append(
    writer: shards.Writer, item: str, clips_KNHW3: np.ndarray, *, cursor: int
) -> None:
  writer.append(
      {"frames": clips_KNHW3},
      labels=None,
      ids=[item] * len(clips_KNHW3),
      cursor=cursor,
  )


def _pixel_head(frames: int, size_px: int) -> dict[str, Any]:
  """What the manifests of pixel stores have in common."""
  return {
      "kind": "video",
      "fields": (manifests.frame_field(frames=frames, size_px=size_px),),
      "tokenizer": "",
      "vocab": 0,
      "grid": 0,
      "frames": frames,
      "size_px": size_px,
      "ids": True,
  }


class _Skipped:
  """`skipped.csv`: a row per unusable video, each once."""

  def __init__(self, path: epath.Path):
    self.path = path
    self._reasons = {}
    if path.exists():
      rows = list(csv.reader(path.read_text().splitlines()))
      self._reasons = dict(rows[1:])

  def add(self, row: items_lib.Skipped) -> None:
    self._reasons[row.id] = " ".join(row.reason.split())
    lines = [("path", "reason"), *sorted(self._reasons.items())]
    with self.path.open("w") as file:
      csv.writer(file, lineterminator="\n").writerows(lines)

  def report(self) -> None:
    if self._reasons:
      print(f"{len(self._reasons)} videos were skipped; see {self.path}")
