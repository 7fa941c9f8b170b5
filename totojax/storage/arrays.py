"""Arrays in .npz, .npy and .safetensors files: ours, and those of others.

They are read in pieces, from disk or a bucket, or as a whole; of an .npz,
compressed or not, the pieces come in order out of one stream. What a header
says is compared with the bytes that are there before anything is read, and
nothing is ever unpickled.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import errno
import functools
import hashlib
import io
import math
import os
import struct
from typing import Any, IO
import zipfile
import zlib

import ml_dtypes
import numpy as np

from totojax.storage import objects, outside, reading
from totojax.storage.outside import Damaged

SUFFIXES = frozenset([".npz", ".npy", ".safetensors"])
WHOLE_BYTES = 2**30  # of an array that is read as a whole
MOST_HEADER_BYTES = 10**8  # as safetensors' own reader
# What an archive may unpack to: so many bytes, or times its own size. Deflate
# makes a thousand times as much of nothing, and hardly three times of numbers.
_UNPACKED_BYTES, _UNPACKED_TIMES = 2**26, 100
_END = struct.Struct("<4s6xH10x")  # of an archive: its mark, and how many files it names
_NAMES = 100_000  # of arrays of a file
DIGEST = "totojax.digest"
# Of safetensors -> of numpy; there are others, of which an array has none of these.
_DTYPES = {
  f"{kind}{8 * size}": f"<{kind.lower()}{size}"
  for kind, sizes in (("I", (1, 2, 4, 8)), ("U", (1, 2, 4, 8)), ("F", (2, 4, 8)))
  for size in sizes
} | {"BOOL": "|b1", "BF16": np.dtype(ml_dtypes.bfloat16).name}
_PLAIN = "biufSU"  # numpy's letters of what is read
_DAMAGE = (
  zipfile.BadZipFile,
  zlib.error,
  struct.error,
  EOFError,
  NotImplementedError,
  OverflowError,
  RuntimeError,
  UnicodeError,
)
_Open = Callable[[], contextlib.AbstractContextManager[IO[bytes]]]


@dataclasses.dataclass(frozen=True)
class Array:
  """An array in a file."""

  where: str  # "a.npz: codes", for errors
  dtype: str  # of numpy; or what another library calls it
  shape: tuple[int, ...]
  begin: int  # its first byte in what `open` gives
  open: _Open
  fortran: bool = False  # whether its first axis is the fastest

  @property
  def is_plain(self) -> bool:
    """Whether it is of numbers or texts."""
    return self.kind in {*_PLAIN} or self.dtype == _DTYPES["BF16"]

  @property
  def kind(self) -> str:
    """numpy's letter of its dtype, "i" and "u" of integers; "" where numpy has none."""
    return np.dtype(self.dtype).kind if self.dtype[:1] in {*"<>|="} else ""

  @property
  def row_bytes(self) -> int:
    return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

  def pieces(self, start: int, rows: int) -> Iterator[np.ndarray]:
    """Rows from `start` on, so many at a time.

    Raises:
      ValueError: the file is damaged.
    """
    with _undamaged(self.where), self.open() as file:
      file.seek(self.begin + start * self.row_bytes)
      while start < self.shape[0]:
        count = min(rows, self.shape[0] - start)
        data = file.read(count * self.row_bytes)
        if len(data) != count * self.row_bytes:
          raise Damaged(self.where, "it is cut off", "; copy the file again")
        yield np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])
        start += count

  def all(self, *, most_bytes: int | None = None) -> np.ndarray:
    """The whole array, not writeable.

    Args:
      most_bytes: that it may have; None: `WHOLE_BYTES`.

    Raises:
      ValueError: it has more bytes, or as `pieces` raises.
    """
    most_bytes = WHOLE_BYTES if most_bytes is None else most_bytes
    size = math.prod(self.shape) * np.dtype(self.dtype).itemsize
    if size > most_bytes:
      raise ValueError(
        f"{self.where} has {size:,} bytes, and up to {most_bytes:,} are read; divide the file"
      )
    with _undamaged(self.where), self.open() as file:
      file.seek(self.begin)
      data = file.read(size)
    if len(data) != size:
      raise Damaged(self.where, "it is cut off", "; copy the file again")
    array = np.frombuffer(data, self.dtype)
    if self.kind == "U" and ((array.view("u4") > 0x10FFFF) | (array.view("u4") >> 11 == 27)).any():
      raise Damaged(self.where, "its texts have characters that there are not")
    return array.reshape(self.shape[::-1]).T if self.fortran else array.reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class Stored:
  """An array that is read when numpy asks for it, and each time anew.

  What nobody asks for takes no memory, whatever a file says of it.
  """

  shape: tuple[int, ...]
  read: Callable[[], np.ndarray]

  @property
  def ndim(self) -> int:
    return len(self.shape)

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    return self.read() if dtype is None else self.read().astype(dtype)

  def __getitem__(self, key: Any) -> np.ndarray:
    return self.read()[key]


@dataclasses.dataclass(frozen=True)
class _Tensor:
  """What the header of a safetensors file says of an array."""

  dtype: str
  shape: tuple[int, ...]
  data_offsets: tuple[int, int]


def find(path: str, name: str) -> Array | None:
  """The array of this name.

  An .npy file is an array without one (""); "labels" of "a.npy" is the file
  "a.labels.npy" beside it.

  Returns:
    None where there is none.

  Raises:
    ValueError: the file cannot be read, or the array is no plain one.
  """
  ending = os.path.splitext(path)[1].lower()
  if ending == ".npy":
    file = f"{path[:-4]}.{name}.npy" if name else path
    array = _npy(file) if not name or reading.exists(file) else None
  else:
    opened = functools.partial(_open, path)
    is_npz = ending == ".npz"
    array = _npz(path, name, opened) if is_npz else _safetensors(path, opened)[0].get(name)
  if array is not None and array.fortran:
    raise ValueError(f"{array.where} is in Fortran's order; save np.ascontiguousarray of it")
  return array


def names(path: str) -> list[str]:
  """Names of the arrays of an .npz or .safetensors file; raises as `find`."""
  opened = functools.partial(_open, path)
  if path.lower().endswith(".npz"):
    return [*_members(path, opened)]
  return [*_safetensors(path, opened)[0]]


def load(path: objects.Path, data: bytes) -> dict[str, np.ndarray]:
  """All arrays of an .npz or .safetensors file, which is told by its content.

  Args:
    path: where it is, for errors.
    data: what is in it.

  Raises:
    Damaged: it is none of these, or not whole.
  """
  where, opened = os.fspath(path), functools.partial(io.BytesIO, data)
  about: Mapping[str, str] = {}
  if data[:2] == b"PK":  # whose members have checksums
    found = {name: _npz(where, name, opened) for name in _members(where, opened)}
  else:
    found, about = _safetensors(where, opened)
  arrays = {}
  for name, array in found.items():
    if array is None or not array.is_plain:
      kind = f"{array.dtype}" if array else "none"
      raise Damaged(where, f"{name!r:.80} is {kind}, which is not read: save it as float32")
    arrays[name] = array.all(most_bytes=outside.FILE_BYTES)
  if DIGEST in about and about[DIGEST] != digest(arrays):
    raise Damaged(where, "its arrays are not those that were written", "; copy or make it again")
  return arrays


def digest(arrays: Mapping[str, np.ndarray]) -> str:
  """64 hex digits of names, types, shapes and values, whatever their order.

  A safetensors file of ours has it as `DIGEST` in its metadata, and `load`
  compares it: the format itself has no checksum.
  """
  mark = hashlib.sha256()
  for name, array in sorted(arrays.items()):
    mark.update(f"{name!r} {array.dtype.str} {array.shape}\n".encode())
    mark.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
  return mark.hexdigest()


def stored(path: str) -> dict[str, Stored]:
  """The arrays of a safetensors file, none of which is read yet; raises as `load`."""
  found, _ = _safetensors(path, functools.partial(_open, path))
  if odd := sorted({array.dtype for array in found.values() if not array.is_plain}):
    raise ValueError(
      f"{path}: it has tensors of type {', '.join(odd)}; supported are"
      f" {', '.join(_DTYPES)}: save it as float32"
    )
  return {name: Stored(array.shape, array.all) for name, array in found.items()}


def metadata(path: objects.Path, data: bytes) -> Mapping[str, str]:
  """What a safetensors file says of itself; raises as `load`."""
  return _safetensors(os.fspath(path), functools.partial(io.BytesIO, data))[1]


def _npy(path: str) -> Array:
  opened = functools.partial(_open, path)
  with _undamaged(path), opened() as file:
    dtype, shape, fortran = _header(file, path)
    begin = file.tell()
    size = file.seek(0, os.SEEK_END)
  array = Array(path, dtype, shape, begin, opened, fortran)
  _check_bytes(array, size - begin)
  return array


def _members(path: str, opened: _Open) -> dict[str, zipfile.ZipInfo]:
  """Entries of an .npz by the names of their arrays."""
  with _undamaged(path), opened() as file, zipfile.ZipFile(file) as archive:
    entries, size = archive.infolist(), file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END.size))
    mark, count = _END.unpack(file.read(_END.size))
    if mark == b"PK\5\6" and count not in (len(entries), 2**16 - 1):
      raise zipfile.BadZipFile(f"of {count} files that it names there are {len(entries)}")
    most = max(_UNPACKED_BYTES, _UNPACKED_TIMES * size)
    for entry in () if isinstance(file, reading.ObjectFile) else entries:
      archive.open(entry).close()  # that each is where, and what, the directory says
  members = {entry.filename.removesuffix(".npy"): entry for entry in entries}
  if len(members) < len(entries) or len(entries) > _NAMES:
    raise Damaged(path, f"it has {len(entries)} arrays, and {len(members)} names of these")
  if (total := sum(entry.file_size for entry in entries)) > most:
    raise Damaged(path, f"its arrays say that they have {total:,} bytes, over {most:,}")
  return members


def _npz(path: str, name: str, opened: _Open) -> Array | None:
  where = f"{path}: {name}"
  entry = _members(path, opened).get(name)
  if entry is None:
    return None

  @contextlib.contextmanager
  def member() -> Iterator[IO[bytes]]:
    with opened() as file, zipfile.ZipFile(file) as archive, archive.open(entry) as stream:
      yield stream

  with _undamaged(where), member() as stream:
    dtype, shape, fortran = _header(stream, where)
    begin = stream.tell()
  array = Array(where, dtype, shape, begin, member, fortran)
  _check_bytes(array, entry.file_size - begin)
  return array


def _header(file: IO[bytes], where: str) -> tuple[str, tuple[int, ...], bool]:
  """dtype, shape, and whether Fortran's order, of an .npy stream, then at its data.

  Raises:
    ValueError: it is none, or no plain array.
  """
  versions: Any = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
  try:
    major, _ = np.lib.format.read_magic(file)
    shape, fortran, dtype = versions[major](file)
  except MemoryError:
    raise
  except Exception as error:  # numpy reads the header as Python, with whatever that raises
    reason = str(error).partition("\n")[0]
    raise Damaged(where, f"it is no array of np.save: {reason:.200}", "; save it again") from error
  if dtype.hasobject or dtype.names:
    raise ValueError(
      f"{where} is an array of Python objects or records, which are not read: a pickle can run"
      " anything. Save plain numbers, and texts as np.array(texts, dtype=str)"
    )
  return dtype.str, shape, fortran and len(shape) > 1


def _safetensors(path: str, opened: _Open) -> tuple[dict[str, Array], Mapping[str, str]]:
  """The arrays of a safetensors file, and what it says of itself.

  Eight bytes say how long the JSON after them is; the arrays follow, each where
  the one before ends.
  """
  advice = "; copy or save it again"
  with _undamaged(path), opened() as file:
    length = int.from_bytes(file.read(8), "little")
    text = file.read(length) if length <= MOST_HEADER_BYTES else b""
    # Nobody says how long a file in a bucket is without being asked for its end.
    size = None if isinstance(file, reading.ObjectFile) else file.seek(0, os.SEEK_END)
  if not text.startswith(b"{") or len(text) != length:
    named = os.path.splitext(path)[1] in SUFFIXES
    other = "" if named else ", and no .npz or .npy by its name"
    raise Damaged(path, f"it is no whole safetensors file{other}", advice)
  header = outside.parse(path, text)
  about = header.pop("__metadata__", {})
  if not isinstance(about, dict) or not all(isinstance(word, str) for word in about.values()):
    raise Damaged(path, "its metadata are no texts", advice)
  arrays, end = {}, 0
  tensors = {name: outside.fields(_Tensor, f"{path}: {name:.80}", header[name]) for name in header}
  for name, tensor in sorted(tensors.items(), key=lambda pair: pair[1].data_offsets):
    where, (first, stop) = f"{path}: {name:.80}", tensor.data_offsets
    if first != end or stop < first:
      raise Damaged(where, f"it begins at byte {first}, and {end} have passed", advice)
    dtype = _DTYPES.get(tensor.dtype, tensor.dtype[:20])
    arrays[name] = Array(where, dtype, tensor.shape, 8 + length + first, opened)
    if arrays[name].is_plain:
      _check_bytes(arrays[name], stop - first)
    end = stop
  if size is not None and 8 + length + end != size:
    raise Damaged(
      path,
      f"it is no whole safetensors file: of {8 + length + end:,} bytes there are {size:,}",
      advice,
    )
  return arrays, about


def _check_bytes(array: Array, size: int) -> None:
  """Raises ValueError unless the header agrees with the bytes that are there."""
  wanted = math.prod(array.shape) * np.dtype(array.dtype).itemsize
  if any(side < 0 for side in array.shape) or wanted != size:
    raise Damaged(
      array.where,
      f"it has {size:,} bytes, and {array.dtype} {array.shape!s:.80} would have {wanted:,}",
      "; copy or save it again",
    )


def _open(path: str) -> Any:
  """A file to read and seek in: libraries and type checkers ask for different ones."""
  return reading.open_file(path)


@contextlib.contextmanager
def _undamaged(where: str) -> Iterator[None]:
  """Makes one line of what libraries say of a damaged file."""
  try:
    yield
  except Damaged:
    raise
  except (*_DAMAGE, ValueError, OSError) as error:
    missing = isinstance(error, OSError) and error.errno != errno.EINVAL
    if missing or where in str(error):
      raise
    raise Damaged(where, f"it cannot be read: {error}", "; copy or save it again") from error
