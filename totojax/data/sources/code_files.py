"""Codes that others made: arrays in files, with labels and ids beside them.

Shapes: R records of a file, N latent frames, G grid side, P tokens of a frame
(G x G), K codes of a place, T tokens of a record.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import glob
import hashlib
import itertools
import json
import math
import os

import numpy as np

from totojax.config.codes import CodeFiles
from totojax.data.sources import files as files_lib, items
from totojax.storage import arrays, objects, paths, reading

RECORD_BYTES = 2**28  # of one record
PIECE_BYTES = 2**26  # read at a time, unless a record has more


@dataclasses.dataclass(frozen=True)
class Layout:
  """How an array's axes are read."""

  records: int
  frames: int
  grid: int
  alone: bool = False  # whether the array is one record, without an axis of records


@dataclasses.dataclass(frozen=True)
class CodeFile:
  """A file of codes."""

  path: str
  name: str  # that ids begin with
  codes: arrays.Array
  layout: Layout
  labels: arrays.Array | None
  ids: arrays.Array | None
  crops: int  # records of one item

  def ids_of(self) -> list[str]:
    """The id of each record's item.

    Raises:
      ValueError: the file is damaged.
    """
    if self.ids is not None:
      values = self.ids.all()
      if self.ids.kind == "S":
        return [text.decode("utf-8", "backslashreplace") for text in values.tolist()]
      return list(map(str, values.tolist()))
    if self.layout.alone:
      return [self.name]
    return [f"{self.name}/{row // self.crops}" for row in range(self.layout.records)]

  def labels_of(self, classes: int) -> np.ndarray | None:
    """int64 [R], the class of each record; None where the file has none.

    Raises:
      ValueError: it is damaged, or a label is no class.
    """
    if self.labels is None:
      return None
    labels_R = self.labels.all().astype(np.int64)
    wrong = np.flatnonzero((labels_R < -1) | (labels_R >= (classes or 2**31)))
    if len(wrong):
      raise ValueError(
        f"{self.labels.where} has {labels_R[wrong[0]]} in row {wrong[0]}; labels run from 0 to"
        f" {(classes or 2**31) - 1}, and -1 for none"
      )
    return labels_R

  def pieces(self, start: int, rows: int, *, vocab: int) -> Iterator[np.ndarray]:
    """Codes [<= rows, T] from record `start` on, in raster order.

    Raises:
      ValueError: the file is damaged, or a code is not below `vocab`.
    """
    array, layout = self.codes, self.layout
    if layout.alone:
      parts = iter([array.all()[None]])
    else:
      parts = array.pieces(start, max(1, min(rows, PIECE_BYTES // array.row_bytes)))
    for part in parts:
      codes_RT = part.reshape(len(part), -1)
      wrong_R = np.flatnonzero(((codes_RT < 0) | (codes_RT >= vocab)).any(axis=1))
      if len(wrong_R):
        row_T = codes_RT[wrong_R[0]]
        code = row_T[(row_T < 0) | (row_T >= vocab)][0]
        raise ValueError(
          f"{array.where} has code {code} in row {start + wrong_R[0]}; codes.vocab is"
          f" {vocab}, so codes are 0 to {vocab - 1}"
        )
      yield codes_RT
      start += len(codes_RT)


def listed(config: CodeFiles, patterns: Sequence[str]) -> list[str]:
  """Paths that files, folders and globs mean, those of each in order.

  Raises:
    ValueError: one means nothing, or a file is meant twice.
  """
  beside = tuple(f".{name}.npy" for name in (config.labels, config.ids))
  all_ = []
  for pattern in patterns:
    if any(letter in pattern for letter in "*?["):
      some = _matching(pattern)
    elif reading.is_folder(pattern):
      some = files_lib.walk(pattern, arrays.SUFFIXES)
    else:
      some = [pattern]
    chosen = [path for path in some if not path.endswith(beside)]
    if not chosen:
      raise ValueError(f"codes.files has {pattern!r}, where there is no .npz, .npy or .safetensors")
    all_ += [path if objects.is_url(path) else os.path.abspath(path) for path in chosen]
  for path in all_:
    if files_lib.suffix(path) not in arrays.SUFFIXES:
      raise ValueError(f"codes.files has {path}; an .npz, .npy or .safetensors is read")
    if not objects.is_url(path) and not os.path.isfile(path):
      raise ValueError(f"codes.files names {path}, and there is no such file")
  if len({*all_}) < len(all_):
    twice = next(path for path in all_ if all_.count(path) > 1)
    raise ValueError(f"codes.files names {twice} twice; name each file once")
  return all_


def _matching(pattern: str) -> list[str]:
  if not objects.is_url(pattern):
    found = glob.glob(pattern, recursive=True)
  else:
    folder, _, last = pattern.rpartition("/")
    found = [os.fspath(path) for path in paths.ObjectPath(folder).glob(last)]
  return sorted(path for path in found if files_lib.suffix(path) in arrays.SUFFIXES)


def root(all_: Sequence[str]) -> str:
  """The folder that all files are in."""
  common = os.path.commonprefix([path.split("/")[:-1] for path in all_])
  return "/".join(common) or "/"


def read(config: CodeFiles, all_: Sequence[str], *, where: str) -> list[CodeFile]:
  """What the files' headers say; nothing else is read.

  Args:
    config: how they are read.
    all_: paths.
    where: the folder that ids begin below.

  Raises:
    ValueError: one is damaged, has no such array, or does not fit the others.
  """
  out = [_read(config, path, where) for path in all_]
  for file in out[1:]:
    first = out[0]
    sizes, others = ((f.layout.frames, f.layout.grid) for f in (first, file))
    if sizes != others:
      raise ValueError(
        f"{first.path} has {sizes[0]} frames of {sizes[1]} x {sizes[1]} places, and {file.path}"
        f" {others[0]} of {others[1]} x {others[1]}; a store has records of one size: make one of"
        " each"
      )
    for what in ("labels", "ids"):
      if (getattr(first, what) is None) != (getattr(file, what) is None):
        having, lacking = (first, file) if getattr(first, what) else (file, first)
        raise ValueError(
          f"{having.path} has {what}, and {lacking.path} has none; give them to all or to none"
        )
  return out


def _read(config: CodeFiles, path: str, where: str) -> CodeFile:
  is_npy = files_lib.suffix(path) == ".npy"
  codes = arrays.find(path, "" if is_npy else config.array)
  if codes is None:
    there = ", ".join(map(items.name, arrays.names(path)))[:400] or "none"
    raise ValueError(
      f"{path} has no array {config.array!r}; it has {there}: set codes.array to the one of codes"
    )
  if codes.kind not in ("i", "u"):
    raise ValueError(
      f"{codes.where} is {codes.dtype}; codes are integers of any size: save them as"
      " codes.astype(np.int32)"
    )
  layout = layout_of(codes, config)
  if math.prod(codes.shape) * np.dtype(codes.dtype).itemsize // layout.records > RECORD_BYTES:
    raise ValueError(
      f"{codes.where} {codes.shape} has records of more than {RECORD_BYTES:,} bytes; cut clips"
    )
  if layout.records % config.crops:
    raise ValueError(
      f"{path} has {layout.records} records, no multiple of codes.crops {config.crops}; the records"
      " of one item stand in one file, one after the other"
    )
  labels = _beside(path, config.labels, "iu", layout.records)
  ids = _beside(path, config.ids, "iuUS", layout.records)
  name = items.name(os.path.relpath(path, where) if not objects.is_url(path) else path)
  name = name.removeprefix(f"{where}/")
  prefix = f"{config.prefix}/" if config.prefix else ""
  return CodeFile(path, prefix + name, codes, layout, labels, ids, config.crops)


def _beside(path: str, name: str, kinds: str, records: int) -> arrays.Array | None:
  """Labels or ids of a file's records, if it has them."""
  array = arrays.find(path, name) if name else None
  if array is not None and (array.shape != (records,) or array.kind not in {*kinds}):
    wanted = "integers" if "U" not in kinds else "texts or integers"
    raise ValueError(
      f"{array.where} is {array.dtype} {array.shape}; {wanted} ({records},) are needed, one for a"
      " record"
    )
  return array


def layout_of(array: arrays.Array, config: CodeFiles) -> Layout:
  """How the axes of an array are read, which its shape and `codes.grid` say.

  Raises:
    ValueError: in no way, or in two.
  """
  ways = {way for way in _ways(array.shape, config) if config.grid in (0, way.grid)}
  ways = {way for way in ways if way.records and way.frames and way.grid}
  if len(ways) == 1:
    return ways.pop()
  last = f", {config.place_codes}" if config.place_codes > 1 else ""
  first = "R, " if config.kind == "image" else "R, N, "
  if ways:
    grids = " or ".join(str(way.grid) for way in sorted(ways, key=lambda way: way.grid))
    raise ValueError(
      f"{array.where} has shape {array.shape}, which may be of a grid of {grids}; set codes.grid"
    )
  raise ValueError(
    f"{array.where} has shape {array.shape}; {config.kind} codes are [{first}G, G{last}],"
    f" [{first}G*G{last}], [{first[3:]}G, G{last}] (one record a file), or with codes.grid set [R,"
    f" tokens]{f', and codes.grid is {config.grid}' if config.grid else ''}. Several codes of a"
    " place are codes.place_codes"
  )


def _ways(shape: tuple[int, ...], config: CodeFiles) -> Iterator[Layout]:
  """All that a shape may be; images may have an axis of one frame."""
  if len(shape) == 2 and config.grid:
    frames, rest = divmod(shape[1], config.grid**2 * config.place_codes)
    if not rest and (config.kind == "video" or frames == 1):
      yield Layout(shape[0], frames, config.grid)
  if config.place_codes > 1:
    if not shape or shape[-1] != config.place_codes:
      return
    shape = shape[:-1]
  if not 2 <= len(shape) <= 4:
    return
  sides = list(shape)
  last, above = sides[-1], sides[-2]
  side = math.isqrt(last)
  squares = []
  if last == above:
    squares.append((shape[:-2], last))
  if side**2 == last:
    squares.append((shape[:-1], side))
  for axes, grid in squares:
    if config.kind == "video" and len(axes) == 2:
      yield Layout(axes[0], axes[1], grid)
    elif config.kind == "video" and len(axes) == 1 and grid == last:
      yield Layout(1, axes[0], grid, alone=True)
    elif config.kind == "image" and axes[1:] in ((), (1,)) and axes:
      yield Layout(axes[0], 1, grid)
    elif config.kind == "image" and not axes:
      yield Layout(1, 1, grid, alone=True)


def records(
  files: Sequence[CodeFile], begin: int, rows: int, *, vocab: int
) -> Iterator[tuple[CodeFile, int, np.ndarray]]:
  """(file, first row, codes [<= rows, T]) of all records from number `begin` on."""
  first = 0
  for file in files:
    stop = first + file.layout.records
    row = max(begin, first) - first
    if begin < stop:
      for codes_RT in file.pieces(row, rows, vocab=vocab):
        yield file, row, codes_RT
        row += len(codes_RT)
    first = stop


def digest(files: Sequence[CodeFile]) -> str:
  """Stands for names, sizes and arrays of the files."""
  facts = [[f.name, f.codes.dtype, f.codes.shape, bool(f.labels), bool(f.ids)] for f in files]
  return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def ranks(files: Sequence[CodeFile], *, seed: int) -> np.ndarray:
  """uint64, of every record: pseudo-random, and one for all records of an item."""
  names = itertools.chain.from_iterable(file.ids_of() for file in files)
  hashes = (items.rank(items.video_id(name), seed=seed)[:8] for name in names)
  return np.frombuffer(b"".join(hashes), "<u8")
