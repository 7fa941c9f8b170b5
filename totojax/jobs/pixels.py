"""Pixel stores: `run = "render"`, `run = "decode"` and `run = "photos"`.

All write `train` and `val` under the run directory: clips of uint8 frames with
the id of the item they come from. An item is in one of the two, never in both.

Shapes: K crops of a video, N frames, H and W pixels.
"""

import collections
from collections.abc import Sequence
import dataclasses
import hashlib
import math
import os

from etils import epath
import numpy as np

from totojax import jobs
from totojax.config import pixels as pixels_config, schema
from totojax.config.schema import ConfigError
from totojax.data.pixels import (
  containers,
  decode as decode_lib,
  media,
  photos as photo_lib,
  slowfast,
  synthetic,
  video,
)
from totojax.data.sources import folder, items as items_lib
from totojax.data.store import fill, manifests
from totojax.jobs.tokenize import short
from totojax.rundir import directory, files, wording
from totojax.storage import objects, outside

_STILL = ("size_px", "least_px", "most_px")  # keys of squares that stand still
_APART_S = 1.0  # between what is trained on and what is held out of a lone video


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
      **({"kind": "image"} if scene.frames == 1 else {}),
      frames=scene.frames,
      size_px=scene.size_px,
      stride_frames=int(scene.frames > 1),
      fps=30.0 * (scene.frames > 1),
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
  short for one in `short.csv`, with what was done. Of files with the same bytes
  the first is taken: another could be held out, and known.

  Raises:
    ValueError: no video at all could be decoded for one of the splits.
    StoreError: the folder holds other videos than when the stores were begun.
  """
  # Small folders: every video gives as many clips, however long it is.
  spec = video.ClipSpec(**vars(config.clip))
  amount = config.decoding
  varied = slowfast.ViewSpec(**vars(config.views), clip=spec) if config.views.mode else spec
  listing, copies, parts = _videos(amount, spec, seed=config.seed)
  media.check_installed(listing[0], spec)
  skipped = _Table(workdir / "skipped.csv", ("path", "reason"))
  ways = _Table(workdir / short.FILE, ("path", "way"))
  total = decode_lib.Tally()

  def split(items: Sequence[items_lib.Item], cuts: media.Spec) -> fill.Split:
    def make(i):
      tally = decode_lib.Tally()
      clips = media.load(items[i], cuts, seed=config.seed, tally=tally)
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
      crops=cuts.crops,
      records_per_shard=amount.records_per_shard,
      # Of the whole folder: which videos are held out follows from it too.
      info={
        "seed": config.seed,
        # As of stores from before there was this key.
        "clip": {k: v for k, v in schema.to_dict(config.clip).items() if k != "short" or v},
        **({"views": schema.to_dict(config.views)} if cuts is not spec else {}),
        "val_frac": amount.val_frac,
        "items": len(listing),
        "listing": items_lib.digest(listing),
        **({"copies": len(copies)} if copies else {}),
        **manifests.Origin.at(amount.root).info(),
        manifests.DECODERS: [media.versions(listing[0], spec)],
      },
    )

    def closing():
      some = [ways.rows[item.id] for item in items if item.id in ways.rows]
      return {manifests.SHORT: short.counts(some)} if some else {}

    return fill.Split(manifest, len(items), make, closing)

  splits = {"train": split(parts["train"], varied), "val": split(parts["val"], spec)}
  directory.begin(workdir, config)
  for copy, first in copies.items():
    skipped.add(copy, f"the same bytes as {first}")
  short.announce(listing, spec, seed=config.seed, name="decoding")
  see = f" of {amount.root}; the reasons are in {skipped.path}"
  names = {"verb": "decoding", "unit": "videos", "see": see}
  finished = fill.stores(workdir, splits, interrupted, **names)
  if finished:
    short.report("decoding", ways.rows, spec, items=len(listing), where=ways.path)
    if total.restarts:
      print(decode_lib.slowed(total.restarts))
    if skipped.rows:
      print(f"skipped: {wording.counted(len(skipped.rows), 'video')}, {skipped.path}")
  return finished


def _videos(
  amount: pixels_config.Decoding, spec: video.ClipSpec, *, seed: int
) -> tuple[Sequence[items_lib.Item], dict[str, str], dict[str, list[items_lib.Item]]]:
  """All videos of the folder, copies as `_copies` has them, and those of each split.

  Raises:
    ConfigError: there is no such folder, or too little video in it.
  """
  try:
    listing = folder.list_items(amount.root, "", kind="video", class_folders=False).items
    copies = _copies(listing)
    items = [item for item in listing if item.id not in copies]
    if len(items) == 1:
      return listing, copies, _ends(items[0], amount.val_frac, spec)
    return listing, copies, items_lib.split(items, amount.val_frac, seed=seed)
  except ValueError as error:
    raise ConfigError(
      f"config key decoding.root is {amount.root!r} (of configs/clips.py:"
      f" --config.data.root=FOLDER): {error}"
    ) from error


def _copies(listing: Sequence[items_lib.Item]) -> dict[str, str]:
  """id -> id of the first file with the same bytes; of files on this machine.

  Only files of one size are read. What was encoded anew is another file.
  """
  by_size = collections.defaultdict(list)
  for item in listing:
    if not objects.is_url(item.path) and os.path.exists(item.path):
      by_size[os.path.getsize(item.path)].append(item)
  out, first = {}, {}
  for size, group in by_size.items():
    for item in group if size and len(group) > 1 else ():
      with outside.open_plain(item.path) as file:
        mark = hashlib.file_digest(file, "sha256").digest()
      if first.setdefault(mark, item.id) != item.id:
        out[item.id] = first[mark]
  return out


def _ends(
  item: items_lib.Item, val_frac: float, spec: video.ClipSpec
) -> dict[str, list[items_lib.Item]]:
  """The splits of a lone video: its end is held out, and the second before is in neither.

  Raises:
    ValueError: a clip does not fit into either, or it is no video.
  """
  try:
    length_s = media.duration_s(item)
  except (containers.Undecodable, OSError) as error:
    raise ValueError(f"its only video {item.id} cannot be read: {error}") from error
  # Rounded up and down: a stretch of a written length holds a clip.
  least_s = math.ceil(100 * spec.span_frames / spec.fps) / 100
  until_s = math.floor(100 * min((1 - val_frac) * length_s, length_s - least_s - _APART_S)) / 100
  if until_s < least_s:
    raise ValueError(
      f"its only video {item.id} has {length_s:.2f} s; {2 * least_s + _APART_S:.2f} s are needed"
      " to train on its beginning and hold its end out. Add another video"
    )
  begin = dataclasses.replace(item, id=f"{item.id}/0-{until_s:.2f}", start_s=0.0, end_s=until_s)
  from_s = round(until_s + _APART_S, 2)
  end = dataclasses.replace(item, id=f"{item.id}/{from_s:.2f}-end", start_s=from_s)
  return {"train": [begin], "val": [end]}


def photos(
  config: pixels_config.Photos, workdir: epath.Path, interrupted: jobs.Interrupted
) -> bool:
  """Cuts squares out of a few photographs; False when interrupted.

  Raises:
    ConfigError: the folder of further ones has none, or lacks one to hold out.
  """
  spec, amount, own = config.crop, config.amount, config.folder
  try:
    further, held_out = photo_lib.own(own)
  except ValueError as error:
    raise ConfigError(f"config key folder.root is {own.root!r}: {error}") from error
  settings = {k: v for k, v in schema.to_dict(spec).items() if spec.frames > 1 or k in _STILL}

  def split(names: Sequence[str], paths: Sequence[str], count: int) -> fill.Split:
    images = [photo_lib.load(name) for name in names] + [photo_lib.read(path) for path in paths]
    ids = [*names, *(os.path.basename(path) for path in paths)]

    def make(i):
      photo = i % len(images)
      rng = np.random.default_rng([config.seed, i])
      clip_NHW3 = photo_lib.crop(images[photo], spec, rng=rng)
      return fill.Clips(id=f"photo/{ids[photo]}", label=None, clips_KNHW3=clip_NHW3[None])

    manifest = fill.manifest(
      **({"kind": "image"} if spec.frames == 1 else {}),
      frames=spec.frames,
      size_px=spec.size_px,
      stride_frames=int(spec.frames > 1),
      fps=30.0 * (spec.frames > 1),
      crops=count,
      records_per_shard=amount.records_per_shard,
      info={"seed": config.seed, "crop": settings, **({"photographs": ids} if paths else {})},
    )
    return fill.Split(manifest, count, make)

  splits = {
    "train": split(photo_lib.TRAIN, further, amount.train),
    "val": split(photo_lib.HELD_OUT, held_out, amount.val),
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
