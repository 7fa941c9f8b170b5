"""What models of short-term anticipation read of queries: made once, kept, and drawn from.

A record is a query, or its mirror image. What stands for its pixels (codes, or
features) is on disk as soon as it is made, `inputs/<split>/`, so that an
interrupted run goes on with the next; boxes are in pixels of a square picture.

Shapes: R records, O objects, T frames, H and W pixels, S pixels of a side.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
import json
from typing import Any

from etils import epath
import numpy as np

from totojax import jobs
from totojax.config import schema, sta as config_lib
from totojax.config.schema import ConfigError
from totojax.data.pixels import augment
from totojax.data.sources import sta as source
from totojax.data.stream import labelled, rows as rows_lib
from totojax.rundir import console, directory, files

_RESAMPLE = "bicubic"  # as clips are made for training
Arrays = dict[str, np.ndarray]
# (uint8 clips [R, T, S, S, 3], stills [R, S, S, 3] or None) -> arrays of R rows.
Encode = Callable[[np.ndarray, np.ndarray | None], Arrays]


@dataclasses.dataclass(frozen=True)
class Placement:
  """Where a frame lies in the square that is read: squashed, perhaps mirrored."""

  width_px: int
  height_px: int
  size_px: float
  mirrored: bool = False

  def to_picture(self, boxes_O4: np.ndarray) -> np.ndarray:
    """float32 boxes in pixels of the square, of boxes in those of the frame."""
    boxes_O4 = self._flipped(np.asarray(boxes_O4, np.float32), self.width_px)
    return boxes_O4 * np.tile(self._scale, 2)

  def to_frame(self, boxes_O4: np.ndarray) -> np.ndarray:
    """The inverse."""
    boxes_O4 = np.asarray(boxes_O4, np.float32) / np.tile(self._scale, 2)
    return self._flipped(boxes_O4, self.width_px)

  @property
  def _scale(self) -> np.ndarray:
    return np.array([self.size_px / self.width_px, self.size_px / self.height_px], np.float32)

  def _flipped(self, boxes_O4: np.ndarray, width_px: float) -> np.ndarray:
    if not self.mirrored:
      return boxes_O4
    x1, y1, x2, y2 = np.moveaxis(boxes_O4, -1, 0)
    return np.stack([width_px - x2, y1, width_px - x1, y2], -1)


@dataclasses.dataclass(frozen=True)
class Inputs:
  """The records of a split.

  Attributes:
    annotations: of the split.
    queries: those that are used.
    views: records of a query: 1, or 2 with its mirror image.
    read: numbers of records -> their arrays.
    size_px: side of the picture that boxes are in.
    objects: of a record, at most.
  """

  annotations: source.Annotations
  queries: tuple[source.Query, ...]
  views: int
  read: Callable[[Sequence[int]], Arrays]
  size_px: float
  objects: int

  @property
  def records(self) -> int:
    return len(self.queries) * self.views

  def placement(self, record: int) -> Placement:
    query = self.queries[record // self.views]
    mirrored = bool(record % self.views)
    return Placement(query.width_px, query.height_px, self.size_px, mirrored)

  @functools.cached_property
  def truth(self) -> Arrays:
    """Objects of all records, filled up to `objects`; classes from 1 on."""
    shape = self.records, self.objects
    out = {
      "boxes": np.zeros((*shape, 4), np.float32),
      "noun": np.zeros(shape, np.int32),
      "verb": np.zeros(shape, np.int32),
      "ttc": np.zeros(shape, np.float32),
      "real": np.zeros(shape, bool),
    }
    for record in range(self.records):
      query = self.queries[record // self.views]
      boxes_O4 = self.placement(record).to_picture(query.boxes)
      boxes_O4 = np.clip(boxes_O4, 0.0, self.size_px)
      some = np.flatnonzero((boxes_O4[:, 2:] - boxes_O4[:, :2]).min(-1, initial=np.inf) > 0)
      some = some[: self.objects]
      count = len(some)
      out["boxes"][record, :count] = boxes_O4[some]
      out["noun"][record, :count] = query.nouns[some] + 1
      out["verb"][record, :count] = query.verbs[some] + 1
      out["ttc"][record, :count] = query.ttc_s[some]
      out["real"][record, :count] = True
    return out

  def batch(self, records: Sequence[int]) -> Arrays:
    """A batch of the task."""
    at = list(records)
    return {**self.read(at), **{name: values[at] for name, values in self.truth.items()}}

  def stream(self, *, seed: int, rows: int) -> Any:
    """Endless batches: every record once an epoch, in an order of its own."""
    names = tuple(query.uid for query in self.queries for _ in range(self.views))
    of = labelled.Records(
      None, "queries", np.arange(self.records), np.zeros(self.records, np.int32), names, ()
    )
    drawn = labelled.stream(of, self._rows, seed=seed, batch=rows, host=0, hosts=1)
    return drawn.map(_unlabelled)

  def _rows(self, rows: Sequence[rows_lib.Row]) -> Arrays:
    return self.batch([row.draws[0].record for row in rows])

  def once(self, rows: int) -> Iterator[tuple[list[int], Arrays]]:
    """(queries, batch) of every query once, not mirrored; the last batch is filled up."""
    for first in range(0, len(self.queries), rows):
      some = list(range(first, min(first + rows, len(self.queries))))
      filled = some + some[-1:] * (rows - len(some))
      yield some, self.batch([query * self.views for query in filled])


def _unlabelled(batch: Arrays) -> Arrays:
  return {name: values for name, values in batch.items() if name != "label"}


def opened(config: config_lib.Data) -> dict[str, source.Annotations]:
  """Annotations of training and validation.

  Raises:
    ValueError: they are missing, damaged, or of other classes than each other.
  """
  if not config.root:
    raise ValueError("data.root is empty; set it to the folder of Ego4D (docs/anticipation.md)")
  named = {"train": config.train_annotations, "validation": config.validation_annotations}
  found = {
    name: source.read(config.root, getattr(config, name), annotations=path or None)
    for name, path in named.items()
  }
  train, validation = found["train"], found["validation"]
  for what in ("nouns", "verbs", "noun_ids", "verb_ids"):
    if getattr(train, what) != getattr(validation, what):
      raise ValueError(
        f"{train.path} and {validation.path} have different {what}, as v1 and v2 of Ego4D have;"
        " give two files of one version"
      )
  return found


def chosen(queries: Sequence[source.Query], most: int) -> tuple[source.Query, ...]:
  """At most so many, evenly spread; 0: all."""
  if not most or most >= len(queries):
    return tuple(queries)
  return tuple(queries[i] for i in np.linspace(0, len(queries) - 1, most).astype(int))


def pixels(
  query: source.Query, config: config_lib.Data, *, clip_px: int, still_px: int, mirrored: bool
) -> tuple[np.ndarray, np.ndarray | None]:
  """uint8 clip [T, S, S, 3], and its last frame [S, S, 3] of another size."""
  clip_THW3 = source.clip(query, config.frames, config.stride)
  if mirrored:
    clip_THW3 = clip_THW3[:, :, ::-1]
  squash = lambda side, frame: augment.Squash(side, _RESAMPLE)(np.ascontiguousarray(frame))  # noqa: E731
  clip_TSS3 = np.stack([squash(clip_px, frame) for frame in clip_THW3])
  return clip_TSS3, squash(still_px, clip_THW3[-1]) if still_px else None


@dataclasses.dataclass(frozen=True)
class Made:
  """Arrays of records in files of so many records each."""

  folder: epath.Path
  each: int
  records: int

  def path(self, part: int) -> epath.Path:
    return self.folder / f"{part:06d}.npz"

  @property
  def parts(self) -> int:
    return -(-self.records // self.each)

  def missing(self) -> list[int]:
    """Files that are not made yet."""
    there = {path.name for path in files.children(self.folder)}
    return [part for part in range(self.parts) if self.path(part).name not in there]

  @functools.cached_property
  def _all(self) -> Arrays:
    parts = [files.read_npz(self.path(part)) for part in range(self.parts)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

  def in_memory(self, records: Sequence[int]) -> Arrays:
    """Of all files, which are read once."""
    return {name: values[list(records)] for name, values in self._all.items()}

  def from_disk(self, records: Sequence[int]) -> Arrays:
    """Of one file a record, as float32."""
    rows = [files.read_npz(self.path(record)) for record in records]
    return {
      name: np.concatenate([row[name] for row in rows]).astype(np.float32) for name in rows[0]
    }


def make(
  made: Made,
  queries: Sequence[source.Query],
  views: int,
  encode: Callable[[], Encode],
  look: Callable[[source.Query, bool], tuple[np.ndarray, np.ndarray | None]],
  *,
  rows: int,
  what: str,
  interrupted: jobs.Interrupted,
) -> bool:
  """Makes the files that are not there; False when interrupted.

  Args:
    made: which files.
    queries: of the records.
    views: records of a query.
    encode: gives what makes arrays of pixels; asked where something is to do.
    look: (query, whether mirrored) -> its pixels, as `pixels`.
    rows: clips of a call.
    what: for the progress.
    interrupted: whether to leave, by the number of files.
  """
  files.make_folder(made.folder)
  missing = made.missing()
  if not missing:
    return True
  with console.phase("loading what encodes"):
    of = encode()
  done = made.parts - len(missing)
  with console.tracking(what, unit="files", total=made.parts, done=done) as bar:
    for part in missing:
      records = range(part * made.each, min((part + 1) * made.each, made.records))
      arrays = []
      for first in range(0, len(records), rows):
        some = records[first : first + rows]
        seen = [look(queries[record // views], bool(record % views)) for record in some]
        clips, stills = zip(*seen)
        still = np.stack(stills) if stills[0] is not None else None
        arrays.append(of(np.stack(clips), still))
      joined = {name: np.concatenate([one[name] for one in arrays]) for name in arrays[0]}
      files.write_npz(made.path(part), joined, compressed=False)
      bar.advance()
      if interrupted(bar.done) and bar.done < made.parts:
        return False
  return True


def check_same(run: epath.Path, data: config_lib.Data, facts: Mapping[str, Any]) -> None:
  """Raises ConfigError unless `run` reads what a run of `data` and `facts` would make."""
  kept = run / "backbone.json"
  if not files.exists(kept):
    raise ConfigError(f"inputs_from is {run}, which is no run of this job; name one, or none")
  theirs = [directory.read_config(run)["data"], files.read_json(kept)]
  if theirs != json.loads(json.dumps([schema.to_dict(data), facts])):
    raise ConfigError(
      f"inputs_from is {run}, which is of other data, or of another model; name one that differs in"
      " its seed and training alone, or leave it ''"
    )


def identity(annotations: source.Annotations, queries: Sequence[Any]) -> Mapping[str, Any]:
  """What stands for them in a run."""
  return {"digest": annotations.digest(), "records": len(queries), "tokenizer": ""}
