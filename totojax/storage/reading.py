"""Files that others wrote, local or in a bucket, for libraries that read files.

Archives and videos are not loaded as a whole: `ObjectFile` reads the parts that
are asked for.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
import errno
import io
import os
from typing import TypeVar

from totojax.storage import buckets, objects, outside

A = TypeVar("A")
B = TypeVar("B")
_AT_ONCE = 32  # requests
_LEAST_BYTES = 2**16  # of a read
_MOST_BYTES = 2**23  # of one that goes on where those before ended
_BLOCKS = 8  # that are kept


def exists(path: str) -> bool:
  """Whether there is such a file or folder; a link to nothing is none."""
  return is_folder(path) or objects.exists(path) if objects.is_url(path) else os.path.exists(path)


def is_folder(path: str) -> bool:
  """Whether `path` is a folder; in a bucket, one with something in it."""
  if not objects.is_url(path):
    return os.path.isdir(path)
  if is_there := bool(objects.keys(path)):
    return is_there
  buckets.check_bucket(path)
  return False


def join(folder: str, name: str) -> str:
  """As `os.path.join`, where a name may be a URL of its own."""
  return name if objects.is_url(name) else os.path.join(folder, name)


def load(path: str) -> bytes:
  """All bytes of a file.

  Raises:
    OSError: there is none, or it cannot be read.
    Damaged: it is no plain file, or too large to be read as a whole.
  """
  try:
    return outside.load(path)
  except FileNotFoundError as error:
    buckets.check_bucket(path)
    raise error


def open_text(
  path: str, encoding: str, *, errors: str = "strict", newline: str | None = None
) -> io.TextIOWrapper:
  """A text file, to read; raises as `load`."""
  return io.TextIOWrapper(io.BytesIO(load(path)), encoding, errors, newline)


def open_file(path: str) -> "io.BufferedReader | ObjectFile":
  """A file, to read and seek in; OSError where there is none, Damaged: no plain one."""
  return ObjectFile(path) if objects.is_url(path) else outside.open_plain(path)


def each(function: Callable[[A], B], values: Iterable[A]) -> Iterator[B]:
  """What a function that waits for storage gives for each value, in order."""
  pool = futures.ThreadPoolExecutor(_AT_ONCE)
  try:
    yield from pool.map(function, values)
  finally:
    pool.shutdown(cancel_futures=True)


def _absent(path: str) -> FileNotFoundError:
  buckets.check_bucket(path)
  return FileNotFoundError(errno.ENOENT, "there is no such object", path)


class ObjectFile(io.RawIOBase):
  """A file in a bucket, read by ranges of bytes.

  A read that goes on where others ended takes more at a time; one elsewhere
  takes little, so that neither the headers of large files nor small files one
  after the other cost a request each.
  """

  def __init__(self, path: str):
    super().__init__()
    self.name = path
    self._at, self._ahead, self._size = 0, _LEAST_BYTES, None
    self._blocks: collections.OrderedDict[int, bytes] = collections.OrderedDict()
    self._block()  # it is there

  def readable(self) -> bool:
    return True

  def seekable(self) -> bool:
    return True

  def tell(self) -> int:
    return self._at

  def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
    begin = {io.SEEK_SET: lambda: 0, io.SEEK_CUR: self.tell, io.SEEK_END: self.size}[whence]()
    if begin + offset < 0:
      raise OSError(errno.EINVAL, f"seek to {begin + offset}", self.name)
    self._at = begin + offset
    return self._at

  def size(self) -> int:
    """Bytes of the file; no request asks for them, so its end is looked for."""
    if self._size is None:
      low, high = 0, _MOST_BYTES  # it has `low` bytes, at least
      while objects.read_part(self.name, high, high + 1):
        low, high = high, 2 * high
      while high - low > _MOST_BYTES:
        middle = (low + high) // 2
        longer = objects.read_part(self.name, middle, middle + 1)
        low, high = (middle, high) if longer else (low, middle)
      self._size = low + len(objects.read_part(self.name, low, high) or b"")
    return self._size

  def readinto(self, buffer) -> int:
    view, count = memoryview(buffer).cast("B"), 0
    while count < len(view):
      part = self._block()[: len(view) - count]
      if not part:
        break
      view[count : count + len(part)] = part
      count += len(part)
      self._at += len(part)
    return count

  def _block(self) -> memoryview:
    """Bytes from here on; none at the end."""
    at = self._at
    for begin, data in self._blocks.items():
      if begin <= at < begin + len(data):
        self._blocks.move_to_end(begin)
        return memoryview(data)[at - begin :]
    ends = [begin + len(data) for begin, data in self._blocks.items()]
    near = any(end <= at <= end + self._ahead for end in ends)
    self._ahead = min(2 * self._ahead, _MOST_BYTES) if near else _LEAST_BYTES
    data = objects.read_part(self.name, at, at + self._ahead)
    if data is None:
      raise _absent(self.name)
    if data:
      self._blocks[at] = data
      while len(self._blocks) > _BLOCKS:
        self._blocks.popitem(last=False)
    return memoryview(data)
