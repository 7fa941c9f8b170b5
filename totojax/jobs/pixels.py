"""Pixel stores: `run = "render"`, `run = "decode"` and `run = "photos"`.

All write `train` and `val` under the run directory: clips of uint8 frames with
the id of the item they come from. An item is in one of the two, never in both.

Shapes: K crops of a video, N frames, H and W pixels.
"""

from collections.abc import Sequence

from etils import epath
import numpy as np

from totojax import jobs
from totojax.config import pixels as pixels_config, schema
from totojax.config.schema import ConfigError
from totojax.data.pixels import media, photos as photo_lib, synthetic, video
from totojax.data.sources import folder, items as items_lib
from totojax.data.store import fill, manifests
from totojax.rundir import directory, files


def render(
  config: pixels_config.Render, workdir: epath.Path, interrupted: jobs.Interrupted
) -> bool:
  """Renders labelled clips; False when interrupted."""
  scene = synthetic.SyntheticConfig(**vars(config.scene), seed=config.seed)
  amount = config.amount

  def split(first: int, count: int) -> fill.Split:
    def make(i):
      clip = synthetic.render(scene, first + i)
      return fill.Clips(
        id=f"rendered/{scene.seed}/{first + i}",
        label=synthetic.label(clip, amount.label, scene.moves),
        clips_KNHW3=clip.frames_NHW3[None],
      )

    manifest = fill.manifest(
      frames=scene.frames,
      size_px=scene.size_px,
      stride_frames=1,
      fps=30.0,
      crops=1,
      labels=True,
      classes=synthetic.classes(amount.label, scene.moves),
      records_per_shard=amount.records_per_shard,
      info={"scene": {"seed": config.seed, **schema.to_dict(config.scene)}, "first": first},
    )
    return fill.Split(manifest, count, make)

  splits = {"train": split(0, amount.train), "val": split(amount.train, amount.val)}
  directory.begin(workdir, config)
  return fill.stores(workdir, splits, interrupted, verb="rendering", unit="clips")


def decode(
  config: pixels_config.Decode, workdir: epath.Path, interrupted: jobs.Interrupted
) -> bool:
  """Decodes a folder of videos; False when interrupted.

  Videos that give no clip are listed in `skipped.csv`, with the reason.

  Raises:
    ValueError: no video at all could be decoded for one of the splits.
    StoreError: the folder holds other videos than when the stores were begun.
  """
  # Small folders: every video gives as many clips, however long it is.
  spec = video.ClipSpec(**vars(config.clip))
  amount = config.decoding
  listing, parts = _videos(amount, seed=config.seed)
  media.check_installed(listing[0], spec)
  skipped = _Skipped(workdir)

  def split(items: Sequence[items_lib.Item]) -> fill.Split:
    def make(i):
      clips = media.load(items[i], spec, seed=config.seed)
      if isinstance(clips, items_lib.Skipped):
        skipped.add(clips)
        return None
      return fill.Clips(id=items[i].id, label=None, clips_KNHW3=clips)

    manifest = fill.manifest(
      frames=spec.frames,
      size_px=spec.size_px,
      stride_frames=spec.stride_frames,
      fps=spec.fps,
      crops=spec.crops,
      records_per_shard=amount.records_per_shard,
      # Of the whole folder: which videos are held out follows from it too.
      info={
        "seed": config.seed,
        "clip": schema.to_dict(config.clip),
        "val_frac": amount.val_frac,
        "items": len(listing),
        "listing": items_lib.digest(listing),
        manifests.DECODERS: [media.versions(listing[0], spec)],
      },
    )
    return fill.Split(manifest, len(items), make)

  splits = {name: split(items) for name, items in parts.items()}
  directory.begin(workdir, config)
  see = f" of {amount.root}; the reasons are in {skipped.path}"
  names = {"verb": "decoding", "unit": "videos", "see": see}
  finished = fill.stores(workdir, splits, interrupted, **names)
  if finished:
    skipped.report()
  return finished


def _videos(
  amount: pixels_config.Decoding, *, seed: int
) -> tuple[Sequence[items_lib.Item], dict[str, list[items_lib.Item]]]:
  """All videos of the folder, and those of each split.

  Raises:
    ConfigError: there is no such folder, or too few videos in it.
  """
  try:
    listing = folder.list_items(amount.root, "", kind="video", class_folders=False).items
    return listing, items_lib.split(listing, amount.val_frac, seed=seed)
  except ValueError as error:
    raise ConfigError(
      f"config key decoding.root is {amount.root!r} (of configs/clips.py:"
      f" --config.data.root=FOLDER): {error}"
    ) from error


def photos(
  config: pixels_config.Photos, workdir: epath.Path, interrupted: jobs.Interrupted
) -> bool:
  """Cuts squares out of a few photographs; False when interrupted."""
  spec, amount = config.crop, config.amount

  def split(names: Sequence[str], count: int) -> fill.Split:
    images = [photo_lib.load(name) for name in names]

    def make(i):
      photo = i % len(names)
      rng = np.random.default_rng([config.seed, i])
      square_HW3 = photo_lib.crop(images[photo], spec, rng=rng)
      return fill.Clips(id=f"photo/{names[photo]}", label=None, clips_KNHW3=square_HW3[None, None])

    manifest = fill.manifest(
      kind="image",
      frames=1,
      size_px=spec.size_px,
      stride_frames=0,
      fps=0.0,
      crops=count,
      records_per_shard=amount.records_per_shard,
      info={"seed": config.seed, "crop": schema.to_dict(spec)},
    )
    return fill.Split(manifest, count, make)

  splits = {
    "train": split(photo_lib.TRAIN, amount.train),
    "val": split(photo_lib.HELD_OUT, amount.val),
  }
  directory.begin(workdir, config)
  return fill.stores(workdir, splits, interrupted, verb="cutting", unit="squares")


class _Skipped:
  """`skipped.csv`: a row per unusable video, each once."""

  _FILE = "skipped.csv"

  def __init__(self, workdir: epath.Path):
    self.path = workdir / self._FILE
    exists = files.exists(self.path)
    self._reasons = dict(files.read_table(self.path) if exists else ())

  def add(self, row: items_lib.Skipped) -> None:
    self._reasons[row.id] = " ".join(row.reason.split())
    files.write_table(self.path, sorted(self._reasons.items()), header=("path", "reason"))

  def report(self) -> None:
    if self._reasons:
      print(f"{len(self._reasons)} videos were skipped; see {self.path}")
