"""The manifest of a data set: what its records are and which shards hold them.

A data set is a directory with `manifest.json` and one directory per shard. The
manifest names a shard only once the shard is whole, and is replaced as a whole,
so whatever it says is true at any moment of a job.
"""

import dataclasses
import hashlib
import json
import math
import os
import typing
from typing import Any

from totojax.config.model import MAX_VOCAB
from totojax.storage import objects

FILE = "manifest.json"
VERSION = 1
KINDS = ("image", "video")
DECODERS = "decoders"  # of `info`: versions of what decoded the items, all there were
SHORT = "short"  # of `info`: how many items were too short for a clip, by what was done
ROOT, PREFIX = "root", "prefix"  # of `info`: the `Origin`
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


@dataclasses.dataclass(frozen=True)
class Manifest:
  """A data set of fixed-length records."""

  kind: str  # "image" (one frame a record) or "video"
  fields: tuple[Field, ...]  # the arrays of a record
  tokenizer: str  # fingerprint of the tokenizer; empty for pixels
  vocab: int  # codes of the tokenizer; 0 for pixels
  grid: int  # tokens per side of a frame; 0 for pixels
  frames: int  # frames of a record, at least as many as a sequence draws from it
  size_px: int  # side of the frames in pixels
  stride_frames: int  # source frames from one frame to the next; 0 for images
  fps: float  # frame rate that the stride counts in; 0.0 for images
  # Records made from one item, or from each stretch of one that is sampled by
  # its duration (they share its id).
  crops: int
  labels: bool  # whether each record has a class; -1 is a record without
  ids: bool  # whether each record has the id of the item that it comes from
  classes: tuple[str, ...]  # names of the classes, by label; may be empty
  records_per_shard: int  # a shard is closed at the first item that fills it
  info: dict[str, Any]  # how the data set was made; a job with other values cannot go on
  shards: tuple[Shard, ...]  # the whole shards, in order
  cursor: Any  # where the job goes on after the last of them (any JSON value)
  complete: bool  # whether the job has ended

  def __post_init__(self):
    if self.kind not in KINDS:
      raise ValueError(f"kind {self.kind!r} is unknown; use 'image' or 'video'")
    if self.kind == "image" and self.frames != 1:
      raise ValueError(
        f"an image record has {self.frames} frames; it must have 1 (several frames are a video)"
      )
    for name in ("frames", "size_px", "crops", "records_per_shard"):
      if getattr(self, name) < 1:
        raise ValueError(f"manifest {name} is {getattr(self, name)}; it must be at least 1")
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
      expected := token_field(frames=self.frames, grid=self.grid, vocab=self.vocab)
    ):
      raise ValueError(
        f"codes are {codes[0].dtype} {codes[0].shape}; {self.frames} frames of a"
        f" {self.grid}x{self.grid} grid and {self.vocab} codes need {expected.dtype}"
        f" {expected.shape}"
      )

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


def code_dtype(vocab: int) -> str:
  """The dtype in which so many codes are stored: "uint16" or "uint32"."""
  return "uint16" if vocab <= 2**16 else "uint32"


def token_field(*, frames: int, grid: int, vocab: int = 0) -> Field:
  """The field of token records: codes in raster order, frame after frame.

  Args:
    frames: of a record.
    grid: tokens a side of a frame.
    vocab: of the tokenizer; may be left out up to 65,536 codes.
  """
  return Field("codes", (frames * grid * grid,), code_dtype(vocab))


def frame_field(*, frames: int, size_px: int) -> Field:
  """The field of pixel records: frames as uint8 RGB."""
  return Field("frames", (frames, size_px, size_px, 3), "uint8")


def new(**values: Any) -> Manifest:
  """A manifest without shards, for `shards.Writer`: all values to `info`."""
  return Manifest(**values, shards=(), cursor=None, complete=False)


def head(manifest: Manifest) -> dict[str, Any]:
  """The values that a job decides before its first record, as JSON."""
  progress = ("shards", "cursor", "complete")
  return {name: value for name, value in to_json(manifest).items() if name not in progress}


def to_json(manifest: Manifest) -> dict[str, Any]:
  values = {"version": VERSION, **dataclasses.asdict(manifest)}
  return json.loads(json.dumps(values))  # tuples become lists


def save(path: objects.Path, manifest: Manifest) -> None:
  """Replaces the manifest of the data set at `path` as a whole."""
  value = json.dumps(to_json(manifest), indent=1, sort_keys=True) + "\n"
  objects.write(f"{objects.text(path)}/{FILE}", value.encode())


def existing(path: objects.Path) -> Manifest:
  """The manifest of the data set at `path`.

  Raises:
    StoreError: as `load`, or there is none.
  """
  manifest = load(path)
  if manifest is None:
    objects.check_bucket(path)
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
  value = objects.read(f"{objects.text(path)}/{FILE}")
  if value is None:
    return None
  try:
    return _parse(json.loads(value))
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    raise objects.StoreError(
      f"{objects.text(path)}/{FILE} is damaged or no manifest ({len(value)} bytes): {error}."
      " Restore it from a copy, or make the data set again"
    ) from error


def _parse(values: dict[str, Any]) -> Manifest:
  """A manifest from its JSON; a missing, unknown or mistyped key raises."""
  values = dict(values)
  if "devices" in values and "version" not in values:
    raise ValueError(
      "it is the manifest of a run; the run's stores are folders in it, such"
      " as train, val or all: name one of these"
    )
  version = values.pop("version")
  if version != VERSION:
    raise ValueError(f"version {version}; this code reads version {VERSION}")
  fields = tuple(
    Field(**{**field, "shape": tuple(int(side) for side in field["shape"])})
    for field in values.pop("fields")
  )
  shards = tuple(Shard(**shard) for shard in values.pop("shards"))
  for shard in shards:
    if not isinstance(shard.records, int) or shard.records < 1:
      raise ValueError(f"shard {shard.name} has {shard.records!r} records")
  for name, hint in typing.get_type_hints(Manifest).items():
    expected = typing.get_origin(hint) or hint
    if expected not in (tuple, Any) and type(values[name]) is not expected:
      raise ValueError(f"{name} is {values[name]!r}; it must be of type {expected.__name__}")
  if not math.isfinite(values["fps"]):
    raise ValueError(f"fps is {values['fps']}")
  classes = tuple(str(name) for name in values.pop("classes"))
  return Manifest(fields=fields, shards=shards, classes=classes, **values)
