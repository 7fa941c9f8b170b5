"""One process at a time in a run directory.

The lock is the kernel's, on a file in the directory: it is held until the
process ends, however it ends, and a file that is left behind locks nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket

FILE = ".lock"

# (device, inode) of each lock of this process -> its open descriptor.
_held: dict[tuple[int, int], int] = {}


class InUse(ValueError):
  """A run directory in which another process is at work."""


def take(folder: str | os.PathLike[str]) -> None:
  """Keeps other processes out of an existing folder until this one ends.

  A process may take a lock again. Object stores, and file systems without
  locks, are not guarded.

  Raises:
    InUse: another process holds it; names the process where it is known.
    OSError: the folder cannot be written.
  """
  name = os.fspath(folder)
  if "://" in name:
    return
  descriptor = os.open(os.path.join(name, FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
  status = os.fstat(descriptor)
  file = (status.st_dev, status.st_ino)
  if file in _held:
    os.close(descriptor)
    return
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    owner = _owner(descriptor)
    os.close(descriptor)
    raise InUse(
      f"{name} is in use by {owner}; wait until it ends, stop it, or use another --workdir"
    ) from None
  except OSError:  # a file system without locks
    os.close(descriptor)
    return
  words = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
  os.ftruncate(descriptor, 0)
  os.pwrite(descriptor, words.encode(), 0)
  if not _held:
    os.register_at_fork(after_in_child=_leave_to_parent)
  _held[file] = descriptor


def _owner(descriptor: int) -> str:
  try:
    owner = json.loads(os.pread(descriptor, 4096, 0))
    return f"process {owner['pid']} on {owner['host']}"
  except (ValueError, TypeError, KeyError):  # it has not written its name yet
    return "another process"


def _leave_to_parent() -> None:
  """A worker process that outlives its parent must not hold the lock on."""
  while _held:
    _, descriptor = _held.popitem()
    os.close(descriptor)
