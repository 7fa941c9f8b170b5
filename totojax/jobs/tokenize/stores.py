"""The stores of a corpus job: what each is made of, and its manifest."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import filecmp
import functools
import json
import math
import os
from typing import Any

from etils import epath

from totojax.config.corpus import SourceJob
from totojax.config.schema import ConfigError
from totojax.data.pixels import images, media, workers
from totojax.data.sources import items as items_lib, listings
from totojax.data.store import manifests, store as store_lib
from totojax.jobs.tokenize import units as units_lib
from totojax.rundir import console, files
from totojax.storage import objects
from totojax.tokenizers import api, weights

PIXELS = "pixels"  # in place of a tokenizer
PIXEL_SHARD_BYTES = 2**28


def tokenizer(name: str) -> api.Tokenizer | None:
  """The tokenizer of a config, or None where pixels are kept."""
  if name.startswith(f"{PIXELS}:"):
    raise ConfigError(f"tokenizer is {name!r}; pixels have no codes to split: use {PIXELS!r}")
  return None if name == PIXELS else weights.load(name)


@dataclasses.dataclass(frozen=True)
class CorpusStore:
  """One store of the job."""

  name: str  # of the store
  path: epath.Path  # where it is
  listing: items_lib.Listing  # what it is made of
  items_per_unit: int  # items of one shard
  spec: media.Spec  # what is cut out of an item
  info: Mapping[str, Any]  # how it is made, for its manifest
  head: manifests.Manifest | None  # its manifest, without shards; None until the tokenizer is known

  @property
  def manifest(self) -> manifests.Manifest:
    """Its `head`, of a part with a tokenizer."""
    assert self.head is not None
    return self.head

  @property
  def units(self) -> list[units_lib.Unit]:
    return list(units_lib.cut(self.listing.items, self.items_per_unit))

  @contextlib.contextmanager
  def decoding(
    self,
    verb: str,
    units_: Sequence[units_lib.Unit],
    todo: Sequence[units_lib.Unit],
    config: SourceJob,
  ) -> Iterator[tuple[Callable[[units_lib.Unit], Iterator[workers.Decoded]], console.Progress]]:
    """Workers that decode units one after the other, and a progress line.

    Args:
      verb: of the progress line.
      units_: that this process makes.
      todo: those of them that are not made yet.
      config: of the job.

    Yields:
      A function that gives the items of the next unit, and the line.
    """
    total, left = (sum(len(unit.items) for unit in some) for some in (units_, todo))
    decoded = workers.decode(
      (item for unit in todo for item in unit.items),
      self.spec,
      seed=config.seed,
      workers=min(workers.processes(config.amount.workers), left),
      ahead=config.amount.ahead,
    )

    def items(unit: units_lib.Unit) -> Iterator[workers.Decoded]:
      for _ in unit.items:
        yield next(decoded)

    done, name = total - left, f"{verb} {self.name}"
    with console.tracking(name, unit="items", total=total, done=done) as bar:
      try:
        yield items, bar
      finally:
        decoded.close()

  def with_tokenizer(self, tokenizer: api.Tokenizer | None) -> "CorpusStore":
    """This part, with its manifest; without a tokenizer it is one of pixels.

    Raises:
      ValueError: the tokenizer has no codes, or frames are no whole tokens.
    """
    if tokenizer is not None and not tokenizer.vocab:
      raise ValueError(f"a {tokenizer.kind} tokenizer has no codes to store; use a dVAE or a VQGAN")
    spec = self.spec
    frames, stride_frames, fps = 1, 0, 0.0
    if not isinstance(spec, images.ImageSpec):
      frames, fps = spec.frames, spec.fps
      stride_frames = spec.stride_frames
    items_per_unit, more = self.items_per_unit, {}
    if tokenizer is None:
      fields = (manifests.frame_field(frames=frames, size_px=spec.size_px),)
      tokens = dict(tokenizer="", vocab=0, grid=0)
      # A shard is made in memory, and pixels take hundreds of times a code's room.
      item_bytes = math.prod(fields[0].shape) * spec.crops
      items_per_unit = max(1, min(items_per_unit, PIXEL_SHARD_BYTES // item_bytes))
    else:
      api.check_sides((spec.size_px, spec.size_px, 3), tokenizer.factor)
      grid = spec.size_px // tokenizer.factor
      more = manifests.latents(tokenizer.latents, clip_frames=frames)
      frames = tokenizer.latents.latent_frames(frames)
      fields = (
        manifests.token_field(
          frames=frames, grid=grid, vocab=tokenizer.vocab, codes=tokenizer.latents.codes
        ),
      )
      tokens = dict(tokenizer=tokenizer.fingerprint, vocab=tokenizer.vocab, grid=grid)
    head = manifests.new(
      kind=self.listing.kind,
      fields=fields,
      **tokens,
      frames=frames,
      size_px=spec.size_px,
      stride_frames=stride_frames,
      fps=fps,
      crops=spec.crops,
      labels=bool(self.listing.classes) or any(item.label >= 0 for item in self.listing.items),
      ids=True,
      classes=self.listing.classes,
      records_per_shard=items_per_unit * spec.crops,
      **more,
      info={**self.info, manifests.DECODERS: [media.versions(self.listing.items[0], spec)]},
    )
    return dataclasses.replace(self, head=head, items_per_unit=items_per_unit)


def parts(config: SourceJob, workdir: epath.Path) -> list[CorpusStore]:
  """The stores that a config asks for.

  All cut the same out of a video; of an image what `ImageSpec.of_split` says.

  Raises:
    ValueError: the source cannot be read or holds nothing, or images of a
      held-out split would be cropped at random.
  """
  with console.phase("listing the source"):
    splits = listings.by_store(config.source, seed=config.seed)
  origin = listings.origin(config.source)
  unwanted = [_unwanted(path) for path in config.source.exclude]
  stores = []
  for name, listing in splits.items():
    listing = _without(listing, unwanted, origin)
    spec = media.spec(listing.kind, config, split=name)
    stores.append(
      CorpusStore(
        name=name,
        path=workdir / name,
        listing=listing,
        items_per_unit=config.amount.items_per_shard,
        spec=spec,
        info={
          "source": config.source.name,
          "split": name,
          **(origin.info() if origin else {}),
          "items": len(listing.items),
          "listing": items_lib.digest(listing.items),
          "seed": config.seed,
          # As it comes back from the manifest's file.
          "spec": _plain(spec),
        },
        head=None,
      )
    )
  return stores


def _plain(spec: media.Spec) -> dict[str, Any]:
  """A spec as it comes back from the manifest's file.

  A `short` that is not set is left out, as by stores from before there was one,
  and so is the `center_frac` that these had.
  """
  values = json.loads(json.dumps(dataclasses.asdict(spec)))
  if values.get("center_frac") == 1.0:
    del values["center_frac"]
  for keys in (values, values.get("clip", {})):
    if not keys.get("short", True):
      del keys["short"]
  return values


def write_missing(stores: Sequence[CorpusStore], workdir: epath.Path) -> None:
  """`missing.csv`: what is listed but cannot be had, or left out on purpose."""
  rows = [(part.name, row.id, row.reason) for part in stores for row in part.listing.missing]
  files.write_table(workdir / "missing.csv", rows, header=("store", "id", "reason"))
  if rows:
    print(f"{len(rows)} listed items are missing or left out: {workdir / 'missing.csv'}")


@dataclasses.dataclass(frozen=True)
class _Unwanted:
  """Items that must not be used."""

  path: str  # the list or store that has them
  ids: frozenset[str]  # of videos
  origin: manifests.Origin | None  # where they lay

  @functools.cached_property
  def _paths(self) -> frozenset[bytes]:
    assert self.origin is not None
    return frozenset(self.origin.path(name.encode()) for name in self.ids)

  def has(self, item: items_lib.Item, origin: manifests.Origin | None) -> bool:
    """Whether an item of a source is one of them.

    Of different roots, files that have one id are compared if both are there.
    """
    name = items_lib.video_id(item.id)
    if not self.origin or not origin or self.origin == origin:
      return name in self.ids
    if self.origin.overlaps(origin) and origin.path(name.encode()) in self._paths:
      return True
    return name in self.ids and not _other_file(self.origin.path(name.encode()), item)


def _other_file(path: bytes, item: items_lib.Item) -> bool:
  """Whether two files are known to differ."""
  try:
    return item.part is None and not filecmp.cmp(os.fsdecode(path), item.path, shallow=False)
  except OSError:  # one is not there, or in a bucket
    return False


def _unwanted(path: str) -> _Unwanted:
  """What a list or a store of `source.exclude` has."""
  ids, origin = None, None
  if manifests.load(path) is not None:
    store = store_lib.open_store(path, tokenizer=None, vocab=None, grid=None)
    ids, origin = store.ids(), store.manifest.origin
  names = _lines(path) if ids is None else ids
  return _Unwanted(path, frozenset(map(items_lib.video_id, names)), origin)


def _lines(path: str) -> list[str]:
  data = objects.read(path)
  if data is None:
    raise ValueError(
      f"source.exclude names {path}, which is neither a store nor a file of ids; check the path"
    )
  return [line.strip() for line in data.decode().splitlines() if line.strip()]


def _without(
  listing: items_lib.Listing, unwanted: Sequence[_Unwanted], origin: manifests.Origin | None
) -> items_lib.Listing:
  """A listing without some ids, which become `missing`."""
  rows, rest = [], []
  for item in listing.items:
    if path := next((one.path for one in reversed(unwanted) if one.has(item, origin)), None):
      rows.append(items_lib.Skipped(item.id, f"left out: it is also in {path}"))
    else:
      rest.append(item)
  if rows and not rest:
    raise ValueError(f"source.exclude leaves none of {len(rows)} items; check the lists")
  return dataclasses.replace(listing, items=rest, missing=(*listing.missing, *rows))
