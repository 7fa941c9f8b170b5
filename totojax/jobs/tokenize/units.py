"""Units: the pieces that a corpus job is cut into, each one shard.

A unit is a fixed run of items, so its shard depends on nothing but them: any
number of machines can make units in any order, again after a failure, and the
data set comes out the same, byte for byte. What a unit gave is noted last
(`rundir.pieces`); the manifest of the whole is put together from these notes.

  <workdir>/<store>/manifest.json, shard-00000/ ...
  <workdir>/<store>.units/00000.json ...

Shapes: K clips of an item, T frames, R pixels of a side, G grid side.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from totojax.data.pixels import workers
from totojax.data.sources import items as items_lib
from totojax.data.store import manifests, shards
from totojax.data.store.store import Store
from totojax.jobs.tokenize import short
from totojax.rundir import pieces
from totojax.storage import objects
from totojax.tokenizers import api, stats

FRAMES_AT_A_TIME = 128  # of pixels, before they are encoded
MEASURED = 16  # clips of a store whose PSNR is measured


@dataclasses.dataclass(frozen=True)
class Unit:
  """Items `start` and following of a listing, which make shard `number`."""

  number: int
  items: tuple[items_lib.Item, ...]


@dataclasses.dataclass(frozen=True)
class Note:
  """What a unit gave."""

  shard: manifests.Shard | None  # the shard, or None where no item gave anything
  skipped: tuple[items_lib.Skipped, ...]  # items that gave nothing, and why
  decoders: tuple[Mapping[str, str], ...] = ()  # versions of what decoded them
  restarts: int = 0  # seeks that had to start over
  # id -> what was done, of items that are too short for a clip.
  short: Mapping[str, str] = dataclasses.field(default_factory=dict)
  psnr_db: float | None = None  # of some frames of the first unit; None: not measured


def cut(items: Sequence[items_lib.Item], items_per_unit: int) -> Iterator[Unit]:
  """The units of a listing; the last one may be smaller."""
  for number, start in enumerate(range(0, len(items), items_per_unit)):
    yield Unit(number, tuple(items[start : start + items_per_unit]))


def make(
  unit: Unit,
  decoded: Iterable[workers.Decoded],
  tokenizer: api.Tokenizer | None,
  *,
  path: objects.Path,
  head: manifests.Manifest,
  progress: Callable[[workers.Decoded], None],
) -> Note:
  """Encodes the items of a unit, writes its shard, then its note.

  Args:
    unit: which.
    decoded: its items, in order.
    tokenizer: what makes codes of frames; None: they are kept as they are.
    path: of the store.
    head: the store's manifest, without shards.
    progress: called when an item is encoded or skipped. May raise to
      stop; the unit is then not made.
  """
  rows, skipped, restarts, ways, psnr_db = [], [], 0, {}, None
  pending: list[tuple[workers.Decoded, np.ndarray]] = []

  def encode() -> None:
    nonlocal psnr_db
    if pending:
      rows.append(_columns(pending, tokenizer, head))
      if tokenizer is not None and unit.number == 0 and len(rows) == 1:
        psnr_db = _psnr_db(pending, rows[0]["codes"], tokenizer, head)
    for item, _ in pending:
      progress(item)
    pending.clear()

  for item in decoded:
    clips = item.clips
    restarts += item.tally.restarts
    if item.tally.short:
      ways[item.item.id] = item.tally.short
    if isinstance(clips, items_lib.Skipped):
      skipped.append(clips)
      progress(item)
    else:
      pending.append((item, clips))
      frames = sum(clips.shape[0] * clips.shape[1] for _, clips in pending)
      if frames >= FRAMES_AT_A_TIME:
        encode()
  encode()
  shard = None
  if rows:
    shard = shards.write_shard(path, head, number=unit.number, arrays=shards.concatenate(rows))
  decoders = tuple(head.info.get(manifests.DECODERS, ()))
  note = Note(shard, tuple(skipped), decoders, restarts, ways, psnr_db)
  _notes(path).write(unit.number, dataclasses.asdict(note))
  return note


def _columns(
  decoded: Sequence[tuple[workers.Decoded, np.ndarray]],
  tokenizer: api.Tokenizer | None,
  head: manifests.Manifest,
) -> dict[str, np.ndarray]:
  """Arrays of a shard from some decoded items and their clips."""
  clips_KTRR3 = np.concatenate([clips for _, clips in decoded])
  counts = [len(clips) for _, clips in decoded]
  if tokenizer is None:
    values = {"frames": clips_KTRR3}
  else:
    values = {"codes": api.encode_clips(tokenizer, clips_KTRR3)}
  return shards.checked(
    head,
    values,
    np.repeat([item.label for item, _ in decoded], counts) if head.labels else None,
    [item.item.id for item, clips in decoded for _ in clips],
  )


def _psnr_db(
  decoded: Sequence[tuple[workers.Decoded, np.ndarray]],
  codes_KP: np.ndarray,
  tokenizer: api.Tokenizer,
  head: manifests.Manifest,
) -> float | None:
  """Of the middle frames of some clips; None where nothing differs."""
  clips_KTRR3 = np.concatenate([clips for _, clips in decoded])[:MEASURED]
  middle = np.array([clips_KTRR3.shape[1] // 2])
  codes_KLGG = codes_KP[:MEASURED].reshape(-1, *head.code_shape)
  drawn_K1RR3 = api.draw_frames(tokenizer, codes_KLGG, middle)
  value = stats.psnr_db(clips_KTRR3[:, middle][:, 0], drawn_K1RR3[:, 0])
  return round(value, 2) if math.isfinite(value) else None


def _notes(path: objects.Path) -> pieces.Pieces:
  """The notes of a store's units."""
  return pieces.Pieces(objects.text(path) + ".units")


def _note(path: objects.Path, number: int, values: Mapping[str, Any]) -> Note:
  """What the note of a unit says.

  Raises:
    Damaged: it says something else.
  """
  try:
    shard = values["shard"]
    return Note(
      manifests.Shard(**shard) if shard else None,
      tuple(items_lib.Skipped(**row) for row in values["skipped"]),
      tuple(values.get("decoders", ())),
      values.get("restarts", 0),
      values.get("short", {}),
      values.get("psnr_db"),
    )
  except (TypeError, KeyError) as error:
    raise _notes(path).damaged(number, error) from error


def is_made(path: objects.Path, head: manifests.Manifest, number: int) -> bool:
  """Whether a unit's note is there, and every byte of its shard as it says.

  A shard that was damaged since is to be made again, and this says so.

  Raises:
    Damaged: the note is damaged.
  """
  values = _notes(path).read(number)
  if values is None:
    return False
  shard = _note(path, number, values).shard
  try:
    if shard is not None:
      Store(path, dataclasses.replace(head, shards=(shard,))).verify()
  except objects.StoreError as error:
    print(f"shard {number} is made again: {error}")
    return False
  return True


@dataclasses.dataclass(frozen=True)
class Result:
  """What the units of a store gave in all; as `Note`."""

  skipped: tuple[items_lib.Skipped, ...]
  restarts: int
  short: Mapping[str, str]
  psnr_db: float | None


def finish(path: objects.Path, head: manifests.Manifest, units: int) -> Result:
  """Writes the manifest of the whole store.

  Raises:
    ValueError: a unit was not made, or no item gave anything.
  """
  notes = [_note(path, number, _notes(path).require(number)) for number in range(units)]
  written = tuple(note.shard for note in notes if note.shard is not None)
  info = dict(head.info)
  versions = [each for note in notes for each in note.decoders]
  if versions:
    info[manifests.DECODERS] = [v for i, v in enumerate(versions) if v not in versions[:i]]
  ways = {item: way for note in notes for item, way in note.short.items()}
  if ways:
    info[manifests.SHORT] = short.counts(ways.values())
  complete = dataclasses.replace(head, shards=written, cursor=units, complete=True, info=info)
  if written:
    Store(path, complete).check()
    manifests.save(path, complete)
  skipped = tuple(row for note in notes for row in note.skipped)
  return Result(skipped, sum(note.restarts for note in notes), ways, notes[0].psnr_db)


def begin(path: objects.Path, head: manifests.Manifest) -> None:
  """Starts a store, or goes on with it.

  Raises:
    StoreError: what is there was made of other items or with other settings.
  """
  existing = manifests.load(path)
  if existing is None:
    manifests.save(path, head)
  else:
    shards.check_same_head(objects.text(path), existing, head)


def join(path: objects.Path, head: manifests.Manifest) -> None:
  """Takes part in a store that was begun, by this process or another.

  Raises:
    StoreError: as `begin`; also where this process would decode otherwise.
  """
  shards.check_same_head(objects.text(path), manifests.existing(path), head)
