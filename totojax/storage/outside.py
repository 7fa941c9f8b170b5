"""The door for files from outside: nothing that one says of itself is believed.

Before memory is taken, a file is found to be a plain one, which a pipe or a
device is not, and no larger than its kind can be. Its JSON has no more values
and no deeper ones than its kind, no key twice, no number that is none, and no
text that is no UTF-8; `config.schema.read` then gives its fields their types.
What an array's header says is compared with the bytes that are there (`arrays`).
"""

import errno
from io import BufferedReader
import json
import math
import os
import re
import stat
from typing import Any, TYPE_CHECKING

from totojax import storage
from totojax.storage import objects

if TYPE_CHECKING:
  from totojax.config.schema import T

FILE_BYTES = 2**31  # of one that is read as a whole
JSON_BYTES, JSON_VALUES = 2**27, 2**22
DEPTH = 32  # of lists and objects in each other
# Characters that are said of a file, and of a word: at its beginning and its end.
_LINE, _WORD = (2000, 500), (500, 100)


class Damaged(storage.Damage, ValueError):
  """A file that is there and is not what it should be.

  Attributes:
    reason: what is wrong with it, without its path.
  """

  def __init__(self, path: objects.Path, reason: object, advice: str = ""):
    self.reason = shown(reason)
    super().__init__(f"{os.fspath(path)} is damaged ({self.reason}){advice}")


def shown(text: object) -> str:
  """Text that may be out of a file, as one line for people: escaped, not long.

  Breaks become spaces; what moves a terminal's cursor, or is half a character,
  is escaped. Of a long word, and of a long line, the middle is left out: the
  path at its beginning and the advice at its end stay.
  """
  line = " ".join(re.split(r"[\r\n]+[ \t]*", _cut(str(text), 20_000, 10_000))).rstrip()
  line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
  line = re.sub(rf"\S{{{sum(_WORD) + 2},}}", lambda word: _cut(word[0], *_WORD), line)
  return _cut(line, *_LINE)


def _cut(text: str, head: int, tail: int) -> str:
  return text if len(text) <= head + tail + 1 else f"{text[:head]}…{text[-tail:]}"


def open_plain(path: objects.Path, *, most_bytes: int = 2**63) -> BufferedReader:
  """A local file, to read and seek in.

  Raises:
    OSError: there is none, or it cannot be read.
    Damaged: it is a pipe or a device, or has more bytes.
  """
  # A pipe that nobody writes to would be waited for.
  flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
  file = open(path, "rb", opener=lambda name, _: os.open(name, flags))
  status = os.fstat(file.fileno())
  reason = "" if stat.S_ISREG(status.st_mode) else "it is a pipe or a device, and no plain file"
  if status.st_size > most_bytes:
    reason = f"it has {status.st_size:,} bytes, and one of its kind up to {most_bytes:,}"
  if reason:
    file.close()
    raise Damaged(path, reason)
  return file


def load(path: objects.Path, *, most_bytes: int = FILE_BYTES) -> bytes:
  """All bytes of a file, local or in a bucket; raises as `open_plain`, and StoreError."""
  if not objects.is_url(path):
    with open_plain(path, most_bytes=most_bytes) as file:
      data = file.read()
  elif (data := objects.read(path)) is None:
    raise FileNotFoundError(errno.ENOENT, "there is no such object", os.fspath(path))
  if len(data) > most_bytes:
    raise Damaged(path, f"it has {len(data):,} bytes, and one of its kind up to {most_bytes:,}")
  return data


def read_json(path: objects.Path, *, most_bytes: int = JSON_BYTES) -> Any:
  """What a JSON file holds; raises as `load` and `parse`."""
  return parse(path, load(path, most_bytes=most_bytes))


def parse(path: objects.Path, data: bytes, *, finite: bool = True, most: int = JSON_VALUES) -> Any:
  """What JSON holds.

  Args:
    path: where it is, for errors.
    data: the JSON.
    finite: whether NaN and Infinity, which are no JSON, are refused.
    most: values that it may have.

  Raises:
    Damaged: it is none, or has too many values, too deep ones, a key twice, a
      number that is none or of over 64 bits, or text that is no UTF-8.
  """
  try:
    if (values := data.count(b",") + data.count(b":")) > most:
      raise ValueError(f"it may have {values:,} values, and up to {most:,} are read")
    value = json.loads(
      data,
      object_pairs_hook=_once,
      parse_constant=_number if finite else float,
      parse_float=_number,
      parse_int=_number,
    )
    _check_depth(value)
    if b"\\u" in data:  # half a character alone is no text
      json.dumps(value, ensure_ascii=False).encode()
    return value
  except RecursionError:
    reason = f"it is over {DEPTH} lists deep"
  except ValueError as error:
    reason = str(error)
  raise Damaged(path, reason)


def fields(cls: "type[T]", path: objects.Path, values: Any) -> "T":
  """What a file holds as a dataclass, by the rules of the config's keys.

  Args:
    cls: its fields, with types; those with a default may be missing. Those that
      are `schema.field` have ranges too.
    path: of the file, for errors.
    values: of `parse`.

  Raises:
    Damaged: a field is missing, unknown, or of another type or range.
  """
  from totojax.config import schema  # which storage needs for nothing else

  try:
    return schema.read(cls, values, fill=True)
  except schema.ConfigError as error:
    raise Damaged(path, str(error).removeprefix("config ")) from error


def check_name(path: objects.Path, name: str) -> str:
  """`name`, where it is that of a file or folder beside others, and leads nowhere else.

  Raises:
    Damaged: it is none, in the file at `path`.
  """
  if name in ("", ".", "..") or len(name) > 255 or not name.isprintable() or {*"/\\"} & {*name}:
    raise Damaged(path, f"it names {name!r:.80}, which is no name of a file beside it")
  return name


def _number(text: str) -> int | float:
  if text.lstrip("-").isdigit():
    if len(text) < 21 and -(2**63) <= (number := int(text)) < 2**64:
      return number
  elif math.isfinite(number := float(text)):
    return number
  raise ValueError(f"{text[:30]} is no number of 64 bits")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  value = dict(pairs)
  if len(value) < len(pairs):
    names = [name for name, _ in pairs]
    raise ValueError(f"the key {max(names, key=names.count)!r:.40} is there twice")
  return value


def _check_depth(value: Any) -> None:
  level = [value]
  for _ in range(DEPTH):
    level = [
      part
      for one in level
      if isinstance(one, dict | list)
      for part in (one.values() if isinstance(one, dict) else one)
    ]
    if not level:
      return
  raise RecursionError
