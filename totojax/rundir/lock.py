"""One process at a time in a run directory.

In a local folder the lock is the kernel's, on a file: it is held until the
process ends, however it ends, and a file that is left behind locks nothing. In
an object store it is a `lease`, which is given back at the end.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import json
import os
import socket
from typing import TYPE_CHECKING

from totojax import rundir
from totojax.storage import objects

if TYPE_CHECKING:
  from totojax.rundir import lease

FILE = ".lock"
InUse = rundir.InUse

# (device, inode) of each lock of this process -> its open descriptor and folder.
_held: dict[tuple[int, int], tuple[int, str]] = {}
# URL -> the lease of this process on it.
_leases: dict[str, lease.Lease] = {}


def take(folder: str | os.PathLike[str]) -> None:
  """Keeps other processes out of a folder until this one ends.

  That of a URL may be given back before, by `release`. A process may take a
  lock again. File systems without locks are not guarded.

  Args:
    folder: a URL, or a local folder that exists.

  Raises:
    InUse: another process holds it; names the process where it is known.
    OSError: the folder cannot be written.
    objects.StoreError, outages.StorageAway: the store refuses or is away.
  """
  name = objects.text(folder)
  if objects.is_url(name):
    if name not in _leases:
      from totojax.rundir import lease  # a local run needs none

      new = lease.Lease(name)
      new.take()
      _leases[name] = new
    return
  descriptor = os.open(os.path.join(name, FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
  file = _file(descriptor)
  assert file is not None
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
  _held[file] = descriptor, os.path.abspath(name)


def check(path: str | os.PathLike[str] = "") -> None:
  """Costs next to nothing, before `path` is written.

  Raises:
    rundir.Lost: another process has taken a lease.
    OSError: the locked folder of `path` is gone; it would be made anew below.
  """
  for one in list(_leases.values()):
    one.check()
  name = os.path.abspath(path) + os.sep
  for file, (_, folder) in list(_held.items()):
    if name.startswith(folder + os.sep) and file != _file(os.path.join(folder, FILE)):
      raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), folder)


def confirm(path: str | os.PathLike[str] = "") -> None:
  """As `check`; may ask the store, as `lease.Lease.confirm` does."""
  check(path)
  for one in list(_leases.values()):
    one.confirm()


def _file(path: str | int) -> tuple[int, int] | None:
  """What tells a file from all others; None where there is none."""
  try:
    status = os.stat(path)
  except FileNotFoundError:
    return None
  return status.st_dev, status.st_ino


def release(folder: str | os.PathLike[str]) -> None:
  """Gives the lease of a URL back, whose work is done, if there is one."""
  if one := _leases.pop(objects.text(folder), None):
    one.release()


def release_all() -> None:
  """Gives all leases back, at the end of the process."""
  while _leases:
    _leases.popitem()[1].release()


def _owner(descriptor: int) -> str:
  try:
    owner = json.loads(os.pread(descriptor, 4096, 0))
    return f"process {owner['pid']} on {owner['host']}"
  except (ValueError, TypeError, KeyError):  # it has not written its name yet
    return "another process"


def _leave_to_parent() -> None:
  """A worker process that outlives its parent must not hold the lock on."""
  _leases.clear()  # their threads are the parent's
  while _held:
    _, (descriptor, _) = _held.popitem()
    os.close(descriptor)


atexit.register(release_all)
os.register_at_fork(after_in_child=_leave_to_parent)
