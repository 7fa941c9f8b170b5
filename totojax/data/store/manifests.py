"""The manifest of a data set: what its records are and which shards hold them.

A data set is a directory with `manifest.json` and one directory per shard. The
manifest names a shard only once the shard is whole, and is replaced as a whole,
so whatever it says is true at any moment of a job.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import math
import os
import re
from typing import Any

import numpy as np

from totojax.config import schema
from totojax.config.model import EACH_FRAME, LatentSpec, MAX_VOCAB
from totojax.config.schema import field, REQUIRED
from totojax.storage import objects, outside

FILE = "manifest.json"
VERSION = 1
KINDS = ("image", "video")
# What a run that reads a data set depends on, beside the shards' contents.
_READ = ("kind", "fields", "tokenizer", "vocab", "grid", "frames", "classes")
# Left out where they are as in stores from before there were they.
_NEWER = ("latents", "clip_frames")
DECODERS = "decoders"  # of `info`: versions of what decoded the items, all there were
SHORT = "short"  # of `info`: how many items were too short for a clip, by what was done
ROOT, PREFIX = "root", "prefix"  # of `info`: the `Origin`
_DIGEST = "digest"  # of manifest.json: sha256 of all its other values
_SUM, _IDS = re.compile("[0-9a-f]{64}"), re.compile("[0-9a-f]{32}")
_MOST = 2**31  # of whatever is counted
MOST_RECORD_BYTES = 2**31
_ALONE = (b"/", b"gs://", b"s3://")  # ids of lists that are paths by themselves


@dataclasses.dataclass(frozen=True)
class Origin:
  """Where the items of a store lay, so that their ids can be told apart.

  Ids of folders, lists and archives are paths below a root: `a/1.mp4` below
  `X/train` and below `X/test` are two files, and `train/a/1.mp4` below `X` is
  the first of them. Ids of named data sets (Kinetics, ...) mean the same
  wherever the files are: their stores have no origin.
  """

  root: str  # folder or URL that ids are relative to
  prefix: str = ""  # `source.prefix`, before every id

  @classmethod
  def at(cls, root: objects.Path, prefix: str = "") -> "Origin":
    """Of items below a root; links are followed."""
    text = objects.text(root).rstrip("/")
    return cls(text if objects.is_url(text) else os.path.realpath(text), prefix)

  def info(self) -> dict[str, str]:
    """For a manifest's `info`."""
    return {ROOT: self.root, **({PREFIX: self.prefix} if self.prefix else {})}

  def path(self, item: bytes) -> bytes:
    """Where an item lies, by its id."""
    name = item.removeprefix(f"{self.prefix}/".encode()) if self.prefix else item
    return name if name.startswith(_ALONE) else f"{self.root}/".encode() + name

  def overlaps(self, other: "Origin") -> bool:
    """Whether one root is the other, or lies in it."""
    one, two = (f"{origin.root.rstrip('/')}/" for origin in (self, other))
    return one.startswith(two) or two.startswith(one)

  @property
  def digest(self) -> str:
    """Stands for it, in certificates."""
    return hashlib.sha256(f"{self.root}\0{self.prefix}".encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Field:
  """One array of a record: name, shape of one record, numpy dtype name."""

  name: str
  shape: tuple[int, ...]
  dtype: str

  def __post_init__(self):
    outside.check_name("fields", self.name)
    try:
      size = np.dtype(self.dtype).itemsize * math.prod(self.shape)
    except TypeError as error:
      raise ValueError(f"{self.name} has dtype {self.dtype!r:.40}; give numpy's name") from error
    if min(self.shape, default=1) < 1 or not 0 < size <= MOST_RECORD_BYTES:
      raise ValueError(
        f"a record of {self.name} is {self.shape!s:.80}; sides are 1 or more, and it has up to"
        f" {MOST_RECORD_BYTES:,} bytes"
      )


@dataclasses.dataclass(frozen=True)
class Shard:
  """One whole shard."""

  name: str  # its directory
  records: int  # how many it holds
  checksum: str  # sha256 of all its arrays, `Store.verify` compares it
  # sha256 of first and last record, labels and ids: `Store.check` compares it
  # on opening, and so tells this shard from any other.
  probe: str
  # Sum of the hashes of its ids (`columns.ids_sum`); empty where there are
  # none, or of shards that were written before there was this sum.
  ids: str = ""


@schema.section("manifest")
class Manifest(schema.Section):
  """A data set of fixed-length records."""

  kind: str = field(REQUIRED, "an image is one frame", choices=KINDS)
  fields: tuple[Field, ...] = field(REQUIRED, "the arrays of a record")
  tokenizer: str = field(REQUIRED, "its fingerprint; empty for pixels")
  vocab: int = field(REQUIRED, "codes of the tokenizer; 0: pixels", at_least=0, at_most=MAX_VOCAB)
  grid: int = field(REQUIRED, "tokens a side; 0: pixels", at_least=0, at_most=2**15)
  # At least as many as a sequence draws.
  frames: int = field(REQUIRED, "of a record, latent ones of codes", at_least=1, at_most=_MOST)
  size_px: int = field(REQUIRED, "side of the frames", at_least=1, at_most=2**20)
  stride_frames: int = field(
    REQUIRED, "source frames from frame to frame; 0 for images", at_least=0, at_most=_MOST
  )
  fps: float = field(REQUIRED, "that the stride counts in; 0: images", at_least=0, at_most=1e6)
  # They share the item's id.
  crops: int = field(
    REQUIRED, "records of an item, or of each stretch of one", at_least=1, at_most=_MOST
  )
  labels: bool = field(REQUIRED, "whether each record has a class; -1 is a record without")
  ids: bool = field(REQUIRED, "whether each record has the id of its item")
  classes: tuple[str, ...] = field(REQUIRED, "names by label; may be empty", once=True)
  records_per_shard: int = field(
    REQUIRED, "a shard is closed at the first item that fills it", at_least=1, at_most=2**40
  )
  # A job with other values cannot go on.
  info: dict[str, Any] = field(REQUIRED, "how the data set was made")
  shards: tuple[Shard, ...] = field(REQUIRED, "the whole shards, in order")
  cursor: Any = field(REQUIRED, "where the job goes on after the last of them: any JSON value")
  complete: bool = field(REQUIRED, "whether the job has ended")
  latents: LatentSpec = field(EACH_FRAME, "how codes lie over frames and places")
  clip_frames: int = field(
    0, "of pixels that codes were made from; 0: all they stand for", at_least=0, at_most=_MOST
  )

  def __post_init__(self):
    if self.kind == "image" and self.frames != 1:
      raise ValueError(
        f"an image record has {self.frames} frames; it must have 1 (several frames are a video)"
      )
    if self.kind == "video" and self.frames > 1 and not (self.fps and self.stride_frames):
      raise ValueError(
        f"videos of {self.frames} frames have fps {self.fps} and stride_frames"
        f" {self.stride_frames}; both are above 0"
      )
    names = [field.name for field in self.fields]
    if not names or len(set(names) | {"label", "id"}) != len(names) + 2:
      raise ValueError(f"fields are named {names}; they must differ, 'label' and 'id' are taken")
    codes = [field for field in self.fields if field.name == "codes"]
    if codes and not (1 <= self.vocab <= MAX_VOCAB and self.tokenizer):
      raise ValueError(
        f"codes have vocab {self.vocab} and tokenizer {self.tokenizer!r};"
        f" they need 1 to {MAX_VOCAB} codes and the tokenizer's fingerprint"
      )
    if codes and codes[0] != (
      expected := token_field(
        frames=self.frames, grid=self.grid, vocab=self.vocab, codes=self.latents.codes
      )
    ):
      raise ValueError(
        f"codes are {codes[0].dtype} {codes[0].shape}; {self.frames} frames of a"
        f" {self.grid}x{self.grid} grid{_each(self.latents.codes)} and {self.vocab} codes need"
        f" {expected.dtype} {expected.shape}"
      )
    most = self.latents.whole_frames(self.frames)
    if self.clip_frames and self.latents.latent_frames(self.clip_frames) != self.frames:
      raise ValueError(
        f"clip_frames is {self.clip_frames}; {self.frames} latent frames stand for up to {most}"
      )

  @property
  def code_shape(self) -> tuple[int, ...]:
    """Of a record's codes: frames, grid, grid, and codes of a place if several."""
    several = (self.latents.codes,) if self.latents.codes > 1 else ()
    return (self.frames, self.grid, self.grid, *several)

  @property
  def pixel_frames(self) -> int:
    """Frames of pixels that a record was made from, without padding."""
    return self.clip_frames or self.latents.whole_frames(self.frames)

  @property
  def records(self) -> int:
    return sum(shard.records for shard in self.shards)

  @property
  def origin(self) -> Origin | None:
    """Of the items; None where nobody can say."""
    root = self.info.get(ROOT)
    return Origin(root, self.info.get(PREFIX, "")) if root else None

  @property
  def ids_digest(self) -> str:
    """Stands for the ids of all records: other ids have another one.

    The sum of the hashes of all ids, so that two data sets with the same items
    have one digest, whatever their order, shards and fields. Where a shard has
    no sum it is a digest of the shards' probes, which hold their ids too.
    """
    if all(shard.ids for shard in self.shards):
      total = sum(int(shard.ids, 16) for shard in self.shards) % 2**128
      return f"sum {self.records} {total:032x}"
    probes = sorted(shard.probe for shard in self.shards)
    return f"probes {hashlib.sha256(' '.join(probes).encode()).hexdigest()}"

  @property
  def identity(self) -> dict[str, Any]:
    """What stands for the records in a run that reads them (`rundir.provenance`).

    Its `digest` is of what records are and of the shards' checksums in order,
    so nothing but the manifest is read. Where the store lies, and when and how
    it was made (`info`), are no part of it: a copy is the same data, and so is
    one that was made again and came out the same.
    """
    values = to_json(self)
    content = [
      {name: values[name] for name in (*_READ, *_NEWER) if name in values},
      [[shard.records, shard.checksum] for shard in self.shards],
    ]
    return {
      "digest": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32],
      "records": self.records,
      "items": self.ids_digest,
      "tokenizer": self.tokenizer,
    }


@dataclasses.dataclass(frozen=True)
class _Info:
  """What is read of `info`, where it is there."""

  root: str = ""
  prefix: str = ""
  decoders: tuple[dict[str, Any], ...] = ()
  spec: dict[str, Any] | None = None
  clip: dict[str, Any] | None = None
  seed: int | None = None


_INFO = {field.name for field in dataclasses.fields(_Info)}


def code_dtype(vocab: int) -> str:
  """The dtype in which so many codes are stored: "uint16" or "uint32"."""
  return "uint16" if vocab <= 2**16 else "uint32"


def _each(codes: int) -> str:
  return f" of {codes} codes each" if codes > 1 else ""


def token_field(*, frames: int, grid: int, vocab: int = 0, codes: int = 1) -> Field:
  """The field of token records: codes in raster order, frame after frame.

  Args:
    frames: of a record.
    grid: tokens a side of a frame.
    vocab: of the tokenizer; may be left out up to 65,536 codes.
    codes: of a place.
  """
  return Field("codes", (frames * grid * grid * codes,), code_dtype(vocab))


def frame_field(*, frames: int, size_px: int) -> Field:
  """The field of pixel records: frames as uint8 RGB."""
  return Field("frames", (frames, size_px, size_px, 3), "uint8")


def new(**values: Any) -> Manifest:
  """A manifest without shards, for `shards.Writer`: all values to `info`."""
  return Manifest(**values, shards=(), cursor=None, complete=False)


def latents(latents: LatentSpec, *, clip_frames: int) -> dict[str, Any]:
  """Values of a manifest of codes that were made from clips of so many frames."""
  whole = latents.whole_frames(latents.latent_frames(clip_frames))
  return {"latents": latents, "clip_frames": 0 if whole == clip_frames else clip_frames}


def head(manifest: Manifest) -> dict[str, Any]:
  """The values that a job decides before its first record, as JSON."""
  progress = ("shards", "cursor", "complete")
  return {name: value for name, value in to_json(manifest).items() if name not in progress}


def to_json(manifest: Manifest) -> dict[str, Any]:
  values = {"version": VERSION, **dataclasses.asdict(manifest)}
  for name in _NEWER:
    if getattr(manifest, name) == getattr(Manifest, name):
      del values[name]
  return json.loads(json.dumps(values))  # tuples become lists


def save(path: objects.Path, manifest: Manifest) -> None:
  """Replaces the manifest of the data set at `path` as a whole."""
  values = to_json(manifest)
  value = json.dumps({**values, _DIGEST: _digest(values)}, indent=1, sort_keys=True) + "\n"
  objects.write(f"{objects.text(path)}/{FILE}", value.encode())


def _digest(values: Mapping[str, Any]) -> str:
  return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def existing(path: objects.Path) -> Manifest:
  """The manifest of the data set at `path`.

  Raises:
    StoreError: as `load`, or there is none.
  """
  manifest = load(path)
  if manifest is None:
    from totojax.storage import buckets

    buckets.check_bucket(path)
    raise objects.StoreError(
      f"{objects.text(path)}/{FILE} does not exist: no data set there. Check the path, or make"
      " the data set first"
    )
  return manifest


def load(path: objects.Path) -> Manifest | None:
  """The manifest of the data set at `path`, or None where there is none.

  Raises:
    StoreError: when it is damaged or of another version, with its path.
  """
  file = f"{objects.text(path)}/{FILE}"
  try:
    values = outside.read_json(file)
    return _parse(file, values)
  except (FileNotFoundError, NotADirectoryError):
    return None
  except (ValueError, OSError) as error:
    if isinstance(error, objects.StoreError):
      raise
    raise objects.Damaged(
      f"{file} is damaged or no manifest: {getattr(error, 'reason', error)}. Restore it from a"
      " copy, or make the data set again"
    ) from error


def _parse(file: str, values: Any) -> Manifest:
  """A manifest from its JSON; a missing, unknown or mistyped key raises."""
  if not isinstance(values, dict):
    raise ValueError("it holds no JSON object")
  if "devices" in values and "version" not in values:
    raise ValueError(
      "it is the manifest of a run; the run's stores are folders in it, such"
      " as train, val or all: name one of these"
    )
  digest, version = values.pop(_DIGEST, None), values.get("version")
  if type(version) is not int or version != VERSION:
    raise ValueError(f"version {version!r:.40}; this code reads version {VERSION}")
  whole = _digest(values)
  manifest = outside.fields(Manifest, file, {k: v for k, v in values.items() if k != "version"})
  for shard in manifest.shards:
    outside.check_name(file, shard.name)
    if not 1 <= shard.records <= _MOST:
      raise ValueError(f"shard {shard.name} has {shard.records} records")
    if not (_SUM.fullmatch(shard.checksum) and _SUM.fullmatch(shard.probe)):
      raise ValueError(f"shard {shard.name} has a checksum or probe that is no sha256")
    if shard.ids and not _IDS.fullmatch(shard.ids):
      raise ValueError(f"shard {shard.name} has ids {shard.ids!r:.40}, which are no sum")
  if len({shard.name for shard in manifest.shards}) < len(manifest.shards):
    raise ValueError("two of its shards have one name")
  if manifest.complete and not manifest.shards:
    raise ValueError("it is complete, and has no record")
  known = {name: manifest.info[name] for name in _INFO & manifest.info.keys()}
  outside.fields(_Info, f"{file}: info", known)
  if digest not in (None, whole):  # older ones have none
    raise ValueError("a value of it is not as it was written: its digest is another")
  return manifest
