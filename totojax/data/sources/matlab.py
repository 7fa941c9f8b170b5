"""Numbers and texts of a struct array in a MATLAB file (level 5), and no more.

scipy's reader ends the process where a file is damaged. This one is of the
format's own description (MAT-File Format, MathWorks), for meta.mat of
ImageNet's development kit.
"""

from collections.abc import Iterator
import struct
import zlib

_COMPRESSED, _MATRIX = 15, 14  # types of elements
_STRUCT, _CHAR = 2, 4  # classes of matrices
_NUMBERS = dict(zip((1, 2, 3, 4, 5, 6, 7, 9, 12, 13), "bBhHiIfdqQ"))
_TEXTS = {1: "utf-8", 2: "utf-8", 16: "utf-8", 4: "utf-16-le", 17: "utf-16-le", 18: "utf-32-le"}
_HEADER_BYTES = 128
_UNPACKED_BYTES = 2**24
Value = float | str | None


def structs(data: bytes, name: str) -> list[dict[str, Value]]:
  """The elements of a struct array: the first number, or the text, of each field.

  Args:
    data: the file.
    name: of the array.

  Raises:
    ValueError: it is no such file, has no such array, or is damaged.
  """
  try:
    if data[124:128] != b"\x00\x01IM":
      raise ValueError("it is no MATLAB file of level 5 from a little-endian machine")
    for kind, body in _elements(data[_HEADER_BYTES:]):
      if kind == _COMPRESSED:
        body = zlib.decompressobj().decompress(body, _UNPACKED_BYTES)
        kind, body = next(_elements(body))
      if kind == _MATRIX:
        (_, flags), (_, _), (_, called), *rest = _elements(body)
        if called.decode() == name and flags[0] == _STRUCT:
          return _rows(rest)
  except (zlib.error, struct.error, StopIteration, IndexError) as error:
    raise ValueError(f"it is cut or damaged ({type(error).__name__}: {error})") from error
  raise ValueError(f"it has no struct {name}")


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
  """(type, bytes) of each element."""
  at = 0
  while at < len(data):
    kind, size = struct.unpack_from("<II", data, at)
    begin = at + 8
    if kind >> 16:  # a small one, within its tag
      kind, size, begin = kind & 0xFFFF, kind >> 16, at + 4
    if begin + size > len(data) or (begin == at + 4 and size > 4):
      raise ValueError(f"an element at byte {at} ends beyond the file")
    yield kind, data[begin : begin + size]
    end = begin + size
    at = end if kind == _COMPRESSED else -(-end // 8) * 8


def _rows(parts: list[tuple[int, bytes]]) -> list[dict[str, Value]]:
  (_, length), (_, joined), *values = parts
  (width,) = struct.unpack("<i", length)
  if width < 1 or not joined or len(joined) % width:
    raise ValueError("its fields have no names")
  names = [
    joined[i : i + width].split(b"\0")[0].decode("utf-8") for i in range(0, len(joined), width)
  ]
  if len(values) % len(names) or len({*names}) < len(names):
    raise ValueError(f"it has {len(values)} values of {len(names)} fields")
  read = [_value(body) if kind == _MATRIX else None for kind, body in values]
  return [dict(zip(names, read[i : i + len(names)])) for i in range(0, len(read), len(names))]


def _value(body: bytes) -> Value:
  """What a matrix holds, where it is a number or a text."""
  (_, flags), (_, _), (_, _), *parts = _elements(body)
  if not parts or flags[0] in (1, _STRUCT):
    return None
  kind, data = parts[0]
  if flags[0] == _CHAR:
    return data.decode(_TEXTS[kind]) if kind in _TEXTS else None
  if kind not in _NUMBERS or not data:
    return None
  return float(struct.unpack_from(f"<{_NUMBERS[kind]}", data)[0])
