"""Disks that are full, read-only, over their quota or gone: what is said of each.

Imported where such an error was met, and by nothing that goes well.
"""

import errno
import os
import re
import resource

from totojax.storage import outages

# As TensorStore says it, older ones, and Python in a text of another library's.
_NUMBER = re.compile(r"\[(?:os_error_code='|OS error |Errno )(\d+)")
_QUOTED = re.compile(r'"(/[^"]+)"')
_FIRST = re.compile(r"(/.*?)(?:: | cannot | could | is )")  # as messages of ours begin
# What orbax writes into until a checkpoint is whole.
_UNFINISHED = ".orbax-checkpoint-tmp"
_GONE = errno.EIO, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN
_WRITTEN = errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG
# errno -> why, and what mends it.
_LINES = {
  errno.EROFS: "{mount} is mounted read-only; mount it for writing or use another --workdir",
  errno.EDQUOT: "your quota there is used up; remove files of yours on {mount}",
  errno.EFBIG: "a file of this process is at most {size} long; raise that (ulimit -f)",
  errno.EMFILE: "this process has at most {files} files open; raise that (ulimit -n 65536)",
  errno.ENFILE: "this machine has too many files open; end what keeps them",
  **dict.fromkeys(
    _GONE, "its disk or share does not answer or is gone, or it was moved or removed; bring it back"
  ),
}
_AGAIN = ", then run the same command again: it goes on from what is saved"


def number(error: BaseException) -> int | None:
  """The errno of a disk's error that an exception is, or comes of; else None."""
  for cause in outages.causes(error):
    code = cause.errno if isinstance(cause, OSError) else None
    if match := None if code else _NUMBER.search(str(cause)):
      code = int(match[1])
    if code == errno.ENOSPC or code in _LINES:
      return code
  return None


def line(error: BaseException) -> str:
  """What is said of a disk's error: the path, what is wrong, what mends it."""
  code, path = number(error) or errno.EIO, _path(error)
  mount = _mount(path or os.getcwd())
  verb = "could not be written" if code in _WRITTEN else "cannot be used"
  return f"{path or mount} {verb} ({os.strerror(code)}): {_why(code, mount)}{_AGAIN}"


def _why(code: int, mount: str) -> str:
  if code != errno.ENOSPC:
    size, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _LINES[code].format(mount=mount, size=_bytes(size), files=files)
  try:
    room = os.statvfs(mount)
  except OSError:
    return f"free space on {mount}"
  if room.f_files and not room.f_favail:
    return f"{mount} can hold no more files ({room.f_files} are there); remove some"
  left, size = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
  return f"{mount} has {_bytes(left)} of {_bytes(size)} left; free space there"


def _path(error: BaseException) -> str | None:
  """The file or folder that an error is about, as far as it says so."""
  found = None
  for cause in outages.causes(error):
    if isinstance(cause, OSError) and cause.filename is not None:
      found = os.fsdecode(cause.filename)
    elif names := _QUOTED.findall(str(cause)):
      found = names[-1]
    elif match := None if found else _FIRST.match(str(cause)):
      found = match[1]
  return found.partition(_UNFINISHED)[0] if found else None


def _mount(path: str) -> str:
  """The mount point that a path is below, whether or not it exists."""
  path = os.path.abspath(path)
  while not os.path.ismount(path):
    path = os.path.dirname(path)
  return path


def _bytes(count: float) -> str:
  """1,536 -> "1.5 KiB"."""
  for unit in ("B", "KiB", "MiB", "GiB"):
    if count < 1024:
      return f"{count:.3g} {unit}"
    count /= 1024
  return f"{count:.3g} TiB"
