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
from totojax.data.pixels import decode as decode_lib, media, photos as photo_lib, synthetic, video
from totojax.data.sources import folder, items as items_lib
from totojax.data.store import fill, manifests
from totojax.jobs.tokenize import short
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

  Videos that give no clip are listed in `skipped.csv`, with the reason; those too
  short for one in `short.csv`, with what was done.

  Raises:
    ValueError: no video at all could be decoded for one of the splits.
    StoreError: the folder holds other videos than when the stores were begun.
  """
  # Small folders: every video gives as many clips, however long it is.
  spec = video.ClipSpec(**vars(config.clip))
  amount = config.decoding
  listing, parts = _videos(amount, seed=config.seed)
  media.check_installed(listing[0], spec)
  skipped = _Table(workdir / "skipped.csv", ("path", "reason"))
  ways = _Table(workdir / short.FILE, ("path", "way"))
  total = decode_lib.Tally()

  def split(items: Sequence[items_lib.Item]) -> fill.Split:
    def make(i):
      tally = decode_lib.Tally()
      clips = media.load(items[i], spec, seed=config.seed, tally=tally)
      total.restarts += tally.restarts
      if tally.short:
        ways.add(items[i].id, tally.short)
      if isinstance(clips, items_lib.Skipped):
        skipped.add(clips.id, clips.reason)
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
        # As of stores from before there was this key.
        "clip": {k: v for k, v in schema.to_dict(config.clip).items() if k != "short" or v},
        "val_frac": amount.val_frac,
        "items": len(listing),
        "listing": items_lib.digest(listing),
        **manifests.Origin.at(amount.root).info(),
        manifests.DECODERS: [media.versions(listing[0], spec)],
      },
    )

    def closing():
      some = [ways.rows[item.id] for item in items if item.id in ways.rows]
      return {manifests.SHORT: short.counts(some)} if some else {}

    return fill.Split(manifest, len(items), make, closing)

  splits = {name: split(items) for name, items in parts.items()}
  directory.begin(workdir, config)
  short.announce(listing, spec, seed=config.seed, name="decoding")
  see = f" of {amount.root}; the reasons are in {skipped.path}"
  names = {"verb": "decoding", "unit": "videos", "see": see}
  finished = fill.stores(workdir, splits, interrupted, **names)
  if finished:
    short.report("decoding", ways.rows, spec, items=len(listing), where=ways.path)
    if total.restarts:
      print(decode_lib.slowed(total.restarts))
    if skipped.rows:
      print(f"{len(skipped.rows)} videos were skipped; see {skipped.path}")
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


class _Table:
  """A row per video of which there is something to say, each once."""

  def __init__(self, path: epath.Path, header: tuple[str, str]):
    self.path, self._header = path, header
    self.rows = dict(files.read_table(path) if files.exists(path) else ())

  def add(self, item: str, text: str) -> None:
    self.rows[item] = " ".join(text.split())
    files.write_table(self.path, sorted(self.rows.items()), header=self._header)
