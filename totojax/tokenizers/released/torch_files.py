"""The two layouts of `torch.save`: a pickle, and storages as raw bytes.

Since 1.6 a zip archive holds them; before (the legacy format) a file holds
several pickles and then one storage after the other. What a file says of itself
is compared with its size before memory is taken.
"""

from collections.abc import Mapping
import dataclasses
import io
import math
from typing import Any, BinaryIO
import zipfile

import ml_dtypes
import numpy as np

from totojax.tokenizers.released import unpickler
from totojax.tokenizers.released.unpickler import AGAIN, Inert, PUBLISHER, shown, UnsafeOrDamaged

PICKLE_BYTES = 2**26  # without the storages

_MAGIC = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER
_PROTOCOL = 1001  # torch.serialization.PROTOCOL_VERSION
_NATIVE = b"little" if np.little_endian else b"big"
_DTYPES: Mapping[str, np.dtype] = {
  "FloatStorage": np.dtype(np.float32),
  "HalfStorage": np.dtype(np.float16),
  "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
  "DoubleStorage": np.dtype(np.float64),
  "LongStorage": np.dtype(np.int64),
  "IntStorage": np.dtype(np.int32),
  "ByteStorage": np.dtype(np.uint8),
  "BoolStorage": np.dtype(np.bool_),
}


@dataclasses.dataclass(frozen=True)
class Storage:
  """`count` values of a storage from `first` on; the whole has `total`."""

  key: str
  dtype: np.dtype
  total: int
  first: int
  count: int

  @property
  def nbytes(self) -> int:
    """Of the whole storage."""
    return self.total * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A view of a storage, as the file declares it: to be checked."""

  storage: Any
  first: Any
  shape: Any
  strides: Any
  marks: bool  # whether it has a conjugate or negative bit

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self.storage.dtype.itemsize


def _rebuild(arguments: tuple) -> Tensor:
  """torch._utils._rebuild_tensor and _rebuild_tensor_v2."""
  if not 4 <= len(arguments) <= 7:
    raise UnsafeOrDamaged(f"a tensor is made from {len(arguments)} values; {PUBLISHER}")
  return Tensor(*arguments[:4], marks=len(arguments) == 7 and bool(arguments[6]))


def _parameter(arguments: tuple) -> Any:
  """torch._utils._rebuild_parameter, with and without state: the tensor."""
  if not arguments:
    raise UnsafeOrDamaged(f"a parameter is made from no tensor; {PUBLISHER}")
  return arguments[0]


_MAKERS: Mapping[str, unpickler.Maker] = {
  "torch._utils._rebuild_tensor": _rebuild,
  "torch._utils._rebuild_tensor_v2": _rebuild,
  "torch._utils._rebuild_parameter": _parameter,
  "torch._utils._rebuild_parameter_with_state": _parameter,
}


def check_type(storage: Any, whose: str) -> None:
  """Raises UnsafeOrDamaged for a storage of a type that is not read."""
  if isinstance(storage, Inert):
    raise UnsafeOrDamaged(
      f"{whose} is of type {shown(storage.name)}; supported are {', '.join(_DTYPES)}: save it as"
      " float32"
    )


class _Layout:
  """Either layout."""

  root: Any  # the object that was saved, with a `Tensor` for each tensor

  def __init__(self, file: BinaryIO):
    self._file = file
    self._size = file.seek(0, io.SEEK_END)
    self._declared: dict[str, Storage | Inert] = {}

  def _load(self, pickled: BinaryIO) -> Any:
    return unpickler.load(pickled, makers=_MAKERS, storage=self._resolve)

  def _resolve(self, pid: Any) -> Any:
    """The storage of ("storage", type, key, device, count[, view]).

    One of a type that is not read is `Inert` and has the type's name.
    """
    match pid:
      case ("module", container, _, _):  # legacy: a class with its source code
        return container
      case ("storage", Inert(name=kind), str(key), _, int(total), *rest) if 0 <= total < 2**63:
        pass
      case _:
        raise UnsafeOrDamaged(f"a tensor's storage is declared in an unknown way; {PUBLISHER}")
    dtype = _DTYPES.get(kind.removeprefix("torch.").removeprefix("cuda."))
    if dtype is None:
      return self._declared.setdefault(key, Inert(kind))
    storage = Storage(key, dtype, total, 0, total)
    if self._declared.setdefault(key, storage) != storage:
      raise UnsafeOrDamaged(f"storage {shown(key)} is declared in two ways; {PUBLISHER}")
    match rest:
      case [] | [None]:
        return storage
      case [(_, int(first), int(count))] if 0 <= first and 0 <= count and first + count <= total:
        return dataclasses.replace(storage, first=first, count=count)
    raise UnsafeOrDamaged(f"a view of storage {shown(key)} leaves it; {PUBLISHER}")


class Zip(_Layout):
  """An archive of data.pkl and data/N, under one folder of any name."""

  def __init__(self, file: BinaryIO):
    super().__init__(file)
    try:
      self._archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError) as error:
      raise UnsafeOrDamaged(f"it is cut short or no zip archive ({error}); {AGAIN}") from None
    self._entries: dict[str, zipfile.ZipInfo] = {}
    for entry in self._archive.infolist():
      if entry.filename in self._entries:
        raise UnsafeOrDamaged(f"the archive has {shown(entry.filename)} twice; {PUBLISHER}")
      self._entries[entry.filename] = entry
    roots = [n for n in self._entries if n.count("/") == 1 and n.endswith("/data.pkl")]
    if len(roots) != 1:
      raise UnsafeOrDamaged(
        f"the archive has {len(roots)} entries named data.pkl; a torch file has one: give a file"
        " that torch.save wrote"
      )
    self._folder = roots[0].removesuffix("data.pkl")
    order = b"little"
    if self._folder + "byteorder" in self._entries:
      order = self._entry("byteorder", limit_bytes=16)
    if order not in (b"little", b"big"):
      raise UnsafeOrDamaged(f"its byteorder is {order!r}; {PUBLISHER}")
    self._swapped = order != _NATIVE
    self.root = self._load(io.BytesIO(self._entry("data.pkl", limit_bytes=PICKLE_BYTES)))

  def _entry(self, name: str, *, limit_bytes: int) -> bytes:
    entry, limit_bytes = self._entries.get(self._folder + name), min(limit_bytes, self._size)
    if entry is None:
      raise UnsafeOrDamaged(f"the archive lacks {shown(name)}, which its pickle needs; {AGAIN}")
    if entry.compress_type != zipfile.ZIP_STORED:
      raise UnsafeOrDamaged(
        f"{shown(name)} is compressed; torch stores everything as it is, so it could be a zip bomb:"
        f" {PUBLISHER}"
      )
    # The sizes are the archive's own words: believed up to the file's.
    if max(entry.file_size, entry.compress_size) > limit_bytes:
      raise UnsafeOrDamaged(
        f"{shown(name)} has {entry.file_size} bytes; {limit_bytes} are the most that it can have:"
        f" {PUBLISHER}"
      )
    try:
      return self._archive.read(entry)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError) as error:
      raise UnsafeOrDamaged(f"{shown(name)} cannot be read ({error}); {AGAIN}") from None

  def storage(self, storage: Storage) -> np.ndarray:
    data = self._entry(f"data/{storage.key}", limit_bytes=storage.nbytes)
    return _values(data, storage, swapped=self._swapped)


class Legacy(_Layout):
  """Pickles of magic number, version, system, object and keys; then storages.

  Storages are little-endian on every machine, each behind its count.
  """

  def __init__(self, file: BinaryIO):
    super().__init__(file)
    file.seek(0)
    head = io.BytesIO(file.read(PICKLE_BYTES))
    try:
      magic = self._load(head)
    except UnsafeOrDamaged:
      magic = None
    if magic != _MAGIC or type(magic) is not int:
      raise UnsafeOrDamaged(
        "it is no torch file (neither the zip nor the legacy format, or cut off near its start);"
        f" give a file that torch.save wrote, or {AGAIN}"
      )
    version = self._load(head)
    if version != _PROTOCOL or type(version) is not int:
      raise UnsafeOrDamaged(
        f"its legacy format is not of version {_PROTOCOL}; save it again with torch.save"
      )
    self._load(head)  # the system's sizes: the storages do not depend on them
    self.root = self._load(head)
    self._places = self._find(self._load(head), head.tell())

  def _find(self, keys: Any, place: int) -> dict[str, int]:
    """The byte at which each storage's values begin."""
    if (
      not isinstance(keys, list)
      or not all(isinstance(key, str) for key in keys)
      or sorted(keys) != sorted(self._declared)
    ):
      raise UnsafeOrDamaged(f"the storages at its end are not those its pickle declares; {AGAIN}")
    places = {}
    for key in keys:
      storage: Any = self._declared[key]
      check_type(storage, f"storage {shown(key)}")
      self._file.seek(place)
      count = int.from_bytes(self._file.read(8), "little", signed=True)
      places[key] = place + 8
      if count != storage.total or places[key] + storage.nbytes > self._size:
        raise UnsafeOrDamaged(
          f"storage {shown(key)} should have {storage.total} values; the file says {count} and ends"
          f" {self._size - places[key]} bytes later; {AGAIN}"
        )
      place = places[key] + storage.nbytes
    return places

  def storage(self, storage: Storage) -> np.ndarray:
    if storage.key not in self._places:
      raise UnsafeOrDamaged(f"storage {shown(storage.key)} is not in the file; {AGAIN}")
    self._file.seek(self._places[storage.key])
    return _values(self._file.read(storage.nbytes), storage, swapped=_NATIVE != b"little")


def _values(data: bytes, storage: Storage, *, swapped: bool) -> np.ndarray:
  if len(data) != storage.nbytes:
    raise UnsafeOrDamaged(
      f"storage {shown(storage.key)} has {len(data)} bytes; {storage.total} values of"
      f" {storage.dtype} have {storage.nbytes}: {AGAIN}"
    )
  raw = np.frombuffer(data, f"u{storage.dtype.itemsize}")
  if storage.dtype == np.bool_ and raw.size and raw.max() > 1:
    raise UnsafeOrDamaged(
      f"storage {shown(storage.key)} is of bools and has the value {raw.max()}; {AGAIN}"
    )
  return (raw.byteswap() if swapped else raw).view(storage.dtype)
