"""What a hostile world does to a file, and a process in which that is tried.

`mutate` changes one file of a folder, by a seed. `Child` reads the folder in a
process with limits, so that whatever takes all memory, hangs or dies is seen
and named; one process serves many cases.
"""

import dataclasses
import io
import json
import multiprocessing
import os
import pathlib
import random
import resource
import shutil
import struct
import tarfile
import traceback
import warnings
import zipfile

from totojax import failures, rundir
from totojax.config import schema

MEMORY_BYTES = 3 * 2**29  # that a case may add to what the process has
CASE_S = 30.0  # of a machine that does other things too
_CTX = multiprocessing.get_context("forkserver")

# As they stand in JSON; some are none.
_RAW = (
  "0 -1 1 2 3 -0.0 0.5 1e999 -1e999 NaN Infinity 2147483647 2147483648 4294967296 1000000"
  " 200000000 9223372036854775807 9223372036854775808 18446744073709551616 1000000000000000000"
  " 1e18 true false null [] {} [[]] [null] [1,2] 1e-320 007 0x10"
).split() + [
  '""',
  '"abc"',
  '"0"',
  '"-1"',
  '".."',
  '"../../../etc/passwd"',
  '"/etc/passwd"',
  '"/dev/zero"',
  '"a/../../b"',
  '"\\u0000"',
  '"\\ud800"',
  '"NaN"',
  '"1e999"',
  '{"a": 1}',
  "1" + "0" * 400,
  "1" * 5000,
  '"' + "x" * 100_000 + '"',
  "[" * 40 + "]" * 40,
  "[" * 100_000 + "]" * 100_000,
  '{"a":' * 2_000 + "1" + "}" * 2_000,
  "[" + "0," * 100_000 + "0]",
]
_WORDS = (
  "0 -1 -2 1 7 99999999999999999999 1e999 nan inf 1_0 0x1 ٣ ² , ,, ; \t \0 \r \" ' .. ../.. / //"
  " /etc/passwd /dev/zero . ~ $HOME a/../../b * % true null"
).split(" ") + ["", "x" * 5000, "x" * 200_000, "\ud800", "\u2028", "\x85", '"a\nb"']
_NUMBERS = [
  struct.pack(form, value)
  for form in ("<B", "<H", "<I", "<Q")
  for value in (0, 1, 2, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
  if value < 256 ** struct.calcsize(form)
]


class _Raw:
  """A place in JSON that is written as it stands."""

  def __init__(self, text):
    self.text = text


def mutate(folder: pathlib.Path, names: list[str], rng: random.Random) -> str:
  """Changes one of the files; returns what was done, in words."""
  name = rng.choice(names)
  path = folder / name
  data = path.read_bytes()
  ways = [_bits, _bits, _cut, _sections, _numbers, _junk]
  if _is_json(data):
    ways += [_json] * 12
  elif data[:2] == b"PK":
    ways += [_zip] * 8
  elif data[8:9] == b"{":
    ways += [_safetensors] * 12
  elif path.suffix == ".tar":
    ways += [_tar] * 12
  elif _is_text(data):
    ways += [_text] * 12
  if rng.random() < 0.04:
    return f"{name}: {_kind(path, rng)}"
  way = rng.choice(ways)
  path.write_bytes(way(data, rng))
  return f"{name}: {way.__name__.strip('_')}"


def _kind(path, rng):
  """Anything but a plain file."""
  way = rng.choice("fifo folder device loop nothing gone null huge".split())
  path.unlink()
  match way:
    case "fifo":
      os.mkfifo(path)
    case "folder":
      path.mkdir()
    case "device":
      path.symlink_to("/dev/zero")
    case "null":
      path.symlink_to("/dev/null")
    case "loop":
      path.symlink_to(path)
    case "nothing":
      path.symlink_to(path.parent / "nowhere")
    case "huge":
      with open(path, "wb") as file:
        file.truncate(2**36)
  return way


def _is_json(data):
  try:
    json.loads(data)
  except (ValueError, RecursionError):
    return False
  return data.lstrip()[:1] in (b"{", b"[")


def _is_text(data):
  try:
    return "\0" not in data.decode()
  except UnicodeDecodeError:
    return False


def _bits(data, rng):
  out = bytearray(data)
  for _ in range(rng.choice((1, 1, 1, 2, 8))):
    if out:
      out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
  return bytes(out)


def _cut(data, rng):
  return data[: rng.randrange(len(data) + 1)] if rng.random() < 0.7 else b""


def _sections(data, rng):
  a, b, c, d = sorted(rng.randrange(len(data) + 1) for _ in range(4))
  return rng.choice(
    (
      data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:],
      data[:a] + data[b:],
      data[:b] + data[a:],
      data[:a] + bytes(b - a) + data[b:],
    )
  )


def _numbers(data, rng):
  at, number = rng.randrange(len(data) + 1), rng.choice(_NUMBERS)
  return data[:at] + number + data[at + len(number) :]


def _junk(data, rng):
  junk = rng.choice((rng.randbytes(64), b"\0" * 4096, b"{}", b"[" * 5000, data))
  at = rng.choice((0, len(data), rng.randrange(len(data) + 1)))
  return data[:at] + junk + data[at:]


def _json(data, rng):
  value = json.loads(data)
  for _ in range(rng.choice((1, 1, 1, 2))):
    value = _changed(value, rng)
  return _dumped(value).encode("utf-8", "surrogatepass")


def _places(value, path=()):
  yield path
  pairs = value.items() if isinstance(value, dict) else ()
  for key, part in enumerate(value) if isinstance(value, list) else pairs:
    yield from _places(part, (*path, key))


def _changed(value, rng):
  if not isinstance(value, dict | list):
    return _Raw(rng.choice(_RAW))
  places = [path for path in _places(value) if path]
  if not places:
    return _Raw(rng.choice(_RAW))
  # Near the root more often than a list of many would give.
  path = rng.choice([p for p in places if len(p) <= rng.choice((1, 2, 9))] or places)
  *above, last = path
  node = value
  for key in above:
    node = node[key]
  old = node[last]
  match rng.randrange(10):
    case 0 if isinstance(node, dict):
      del node[last]
    case 1 if isinstance(node, dict):
      node[_word(rng)] = node.pop(last)
    case 2 if isinstance(node, dict):  # twice, the second counts for most readers
      node[last] = _Raw(f"{_dumped(old)}, {json.dumps(last)}: {rng.choice(_RAW)}")
    case 3 if isinstance(node, dict):
      node[_word(rng)] = old
    case 4 if isinstance(node, list):
      node.append(old)
    case 5 if isinstance(node, list):
      node.pop(last)
    case 6 if isinstance(old, str):
      # JSON in a text, as the metadata of tensors have it.
      node[last] = _json(old.encode(), rng).decode() if _is_json(old.encode()) else _word(rng)
    case 7 if type(old) in (int, float):
      node[last] = rng.choice((old + 1, -old, old * 1000, float(old), str(old), old // 2))
    case _:
      node[last] = _Raw(rng.choice(_RAW))
  return value


def _word(rng):
  return rng.choice(_WORDS)


def _dumped(value):
  """JSON in which each `_Raw` is its text."""
  if isinstance(value, _Raw):
    return value.text
  if isinstance(value, dict):
    return "{" + ", ".join(f"{json.dumps(k)}: {_dumped(v)}" for k, v in value.items()) + "}"
  if isinstance(value, list):
    return "[" + ", ".join(map(_dumped, value)) + "]"
  return json.dumps(value)


def _safetensors(data, rng):
  length = int.from_bytes(data[:8], "little")
  header, body = data[8 : 8 + length], data[8 + length :]
  if rng.random() < 0.2:
    return struct.pack("<Q", rng.choice((0, 1, length - 1, 10**8, 2**40, 2**63))) + data[8:]
  header = _json(header, rng)
  return struct.pack("<Q", len(header)) + header + body


def _zip(data, rng):
  """Another content behind checksums that are right."""
  with zipfile.ZipFile(io.BytesIO(data)) as archive:
    members = [(info.filename, archive.read(info)) for info in archive.infolist()]
  at = rng.randrange(len(members))
  name, content = members[at]
  match rng.randrange(8):
    case 0:
      members.append((name, content))
    case 1:
      members.pop(at)
    case 2:
      word = _word(rng)[:60000].encode("ascii", "replace").decode().replace("\0", "_")
      members[at] = (f"{word}.npy", content)
    case 3:
      members[at] = (name, bytes(2**24))
    case 4 if b"'shape'" in content[:200]:
      shape = rng.choice(("(-1,)", "(1000000000000,)", "()", "(0,)", "(2, -3)", "((", "10**9"))
      begin, end = content.index(b"'shape'"), content.index(b"}")
      line = content[:begin] + f"'shape': {shape}, ".encode() + content[end:]
      members[at] = (name, line)
    case 5 if b"'descr'" in content[:200]:
      kind = rng.choice((b"'|O'", b"'<f8'", b"'<U9'", b"'<i1'", b"[('a','<i4')]", b"'<M8[s]'"))
      begin, end = content.index(b"'descr'"), content.index(b"'fortran")
      members[at] = (name, content[:begin] + b"'descr': " + kind + b", " + content[end:])
    case _:
      members[at] = (name, rng.choice((_bits, _cut, _sections, _numbers))(content, rng))
  packed = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w", packed) as archive, warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of a name that is there twice
    for name, content in members:
      archive.writestr(zipfile.ZipInfo(name or "_"), content, packed)
  return file.getvalue()


def _tar(data, rng):
  """A header with another field and a right checksum, or another label."""
  with tarfile.open(fileobj=io.BytesIO(data)) as archive:
    members = archive.getmembers()
  member = rng.choice(members)
  out, at = bytearray(data), member.offset
  labels = [m for m in members if m.name.endswith((".json", ".cls"))]
  if labels and rng.random() < 0.6:
    return _relabelled(data, members, rng.choice(labels), rng)
  begin, size = rng.choice(((0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100)))
  texts = [b"%011o\0" % n for n in (0, 1, 8**11 - 1)]
  texts += [
    b"\x80" + b"\xff" * 11,
    b"../../x.png\0",
    b"/etc/a.png\0",
    b"a" * 100,
    b"\xff\xfe\0",
    b"-1\0",
  ]
  text = rng.choice(texts)
  if begin == 156:
    text = rng.choice((b"0", b"1", b"2", b"3", b"5", b"6", b"x", b"g", b"L", b"K", b"S", b"\xff"))
  out[at + begin : at + begin + size] = text[:size].ljust(size, b"\0")
  out[at + 148 : at + 156] = b" " * 8
  out[at + 148 : at + 156] = b"%06o\0 " % sum(out[at : at + 512])
  return bytes(out)


def _relabelled(data, members, label, rng):
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode="w") as archive:
    for member in members:
      content = data[member.offset_data : member.offset_data + member.size]
      if member is label:
        way = _json if _is_json(content) else _text
        content = way(content, rng)
      info = tarfile.TarInfo(member.name)
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
  return file.getvalue()


def _text(data, rng):
  lines = data.decode("utf-8", "replace").split("\n")
  at = rng.randrange(len(lines))
  match rng.randrange(7):
    case 0:
      lines.insert(at, lines[rng.randrange(len(lines))])
    case 1:
      lines.pop(at)
    case 2:
      other = rng.randrange(len(lines))
      lines[at], lines[other] = lines[other], lines[at]
    case 3:
      lines[at] += _word(rng)
    case _:
      for mark in (",", " ", "="):
        if mark in lines[at]:
          cells = lines[at].split(mark)
          cells[rng.randrange(len(cells))] = _word(rng)
          lines[at] = mark.join(cells)
          break
      else:
        lines[at] = _word(rng)
  return "\n".join(lines).encode("utf-8", "surrogatepass")


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a case ended: "refused", "same", "legal", or anything else."""

  end: str
  words: str  # what was done, and what was said

  @property
  def is_allowed(self) -> bool:
    return self.end in ("refused", "same", "legal")


def run(reader, sample: pathlib.Path, sound, scratch: pathlib.Path, seed: str) -> Outcome:
  """One case, in this process."""
  shutil.rmtree(scratch, ignore_errors=True)
  shutil.copytree(sample, scratch)
  names = sorted(name for pattern in reader.files for name in _below(sample, pattern))
  did = mutate(scratch, names, random.Random(seed))
  try:
    value = reader.read(scratch)
  except reader.refusals as error:
    text = failures.line(error).removesuffix(f"\n{failures._HINT}")  # as a process ends with it
    if failures.status(error) == rundir.BUG:
      return Outcome("traceback", f"{did}: {text[:300]}")
    # (Keys of a config that differ have a line each.)
    if len(text) > 3000 or ("\n" in text and not isinstance(error, schema.ConfigError)):
      return Outcome("not one line", f"{did}: {text[:300]!r}")
    if str(scratch) not in text and did.split(":")[0].rpartition("/")[2] not in text:
      return Outcome("without a name", f"{did}: {type(error).__name__}: {text[:300]}")
    return Outcome("refused", did)
  except MemoryError:
    return Outcome("out of memory", did)
  except BaseException as error:
    last = "".join(traceback.format_exception(error)[-3:])
    return Outcome("traceback", f"{did}: {type(error).__name__}: {str(error)[:200]}\n{last}")
  if value == sound:
    return Outcome("same", did)
  try:
    why = reader.legal(scratch, value, sound)
  except Exception as error:  # another library refuses it
    why = f"{type(error).__name__}: {error}"
  if why in ("legal", "refused"):
    return Outcome(why, did)
  return Outcome("silent", f"{did}: {why or 'another value'}: {str(value)[:300]}")


def _below(sample, pattern):
  return [str(path.relative_to(sample)) for path in sample.glob(pattern) if path.is_file()]


def _serve(connection, folder, memory_bytes):
  """Of the child: answers (reader, seed or None) with outcomes until the pipe ends."""
  import test_fuzz  # the readers; the fork server has imported it

  for stream in (1, 2):
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
  os.chdir(folder)
  samples, scratch = pathlib.Path(folder) / "samples", pathlib.Path(folder) / f"at-{os.getpid()}"
  sound = {}
  while True:
    try:
      name, seed = connection.recv()
    except EOFError:
      return
    reader = test_fuzz.READERS[name]
    if name not in sound:  # without a limit: what is compiled stays
      resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
      shutil.rmtree(scratch, ignore_errors=True)
      shutil.copytree(samples / name, scratch)
      sound[name] = reader.read(scratch)
      assert reader.read(scratch) == sound[name], f"{name} reads no twice the same"
      pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
      size = pages * resource.getpagesize() + memory_bytes
      resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
    if seed is None:
      connection.send(Outcome("ready", ""))
    else:
      connection.send(run(reader, samples / name, sound[name], scratch, f"{name}/{seed}"))


class Child:
  """A process that reads mutated files, made anew where it dies."""

  def __init__(self, folder: pathlib.Path, *, memory_bytes: int = MEMORY_BYTES):
    self._folder, self._memory_bytes, self._process = str(folder), memory_bytes, None

  def outcome(self, name: str, seed: int | None) -> Outcome:
    """How a case ends; without a seed "ready", once the sound sample was read."""
    if self._process is None:
      self._pipe, theirs = _CTX.Pipe()
      args = (theirs, self._folder, self._memory_bytes)
      self._process = _CTX.Process(target=_serve, args=args, daemon=True)
      self._process.start()
      theirs.close()
      self._fresh = True
    self._pipe.send((name, seed))
    # The first case waits for imports and compilers too.
    if not self._pipe.poll(CASE_S + 90 * self._fresh):
      self.close()
      return Outcome("hang", f"over {CASE_S} s")
    self._fresh = False
    try:
      return self._pipe.recv()
    except EOFError:
      self._process.join()
      code, self._process = self._process.exitcode, None
      return Outcome("death", f"exit code {code}")

  def close(self):
    if self._process is not None:
      self._process.kill()
      self._process.join()
      self._process = None
