"""Folders of a run that are on this machine, wherever the run is."""

import hashlib
import os
import pathlib
import shutil

from etils import epath
import numpy as np

from totojax.rundir import files
from totojax.storage import objects


def folder(workdir: epath.PathLike, name: str) -> epath.Path:
  """A folder of a run that is read at random, or appended to: a local one.

  Of a run in a bucket it is in the user's cache on this machine, and on another
  made again.
  """
  if not objects.is_url(workdir):
    return epath.Path(workdir) / name
  return cache(name) / hashlib.sha256(objects.text(workdir).encode()).hexdigest()[:16]


def cache(name: str) -> epath.Path:
  """A folder of the user's cache on this machine."""
  root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return epath.Path(root) / "totojax" / name


def remove(workdir: epath.PathLike, name: str) -> None:
  """Clears this machine of what a run in a bucket had here: nobody else would."""
  if objects.is_url(workdir):
    shutil.rmtree(folder(workdir, name), ignore_errors=True)


def mapped(path: epath.PathLike, *, shape: tuple[int, ...] | None) -> np.memmap:
  """The float32 array of a .npy file, to be written in place.

  Where a page of a mapped file finds no room, the kernel ends the process; so
  there is room for all of it before anything is written.

  Args:
    path: a local one.
    shape: of a new file; None: it is there.

  Raises:
    OSError: the disk has no room for it, say; names the file.
  """
  with files.naming(path):
    array = np.lib.format.open_memmap(
      os.fspath(path), mode="w+" if shape else "r+", dtype=np.float32, shape=shape
    )
    with open(path, "rb+") as file:
      os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
  return array
