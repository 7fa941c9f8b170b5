"""The project itself: packed for machines that have none of it."""

from __future__ import annotations

import gzip
import hashlib
import pathlib
import re
import tarfile

from calls import GiveUp

ROOT = pathlib.Path(__file__).resolve().parents[1]
LARGEST = 200e6  # bytes of the project
# Of the project, what no worker needs.
LEFT_OUT = re.compile(r"^(runs|build|dist)$|^\.|^__pycache__$|\.egg-info$")


def pack(path: str) -> str:
  """Packs the project; the same files give the same digest, which is returned.

  Raises:
    GiveUp: it is so large that data must be in it.
  """

  size = 0

  def kept(item: tarfile.TarInfo) -> tarfile.TarInfo | None:
    nonlocal size
    if item.name != "." and LEFT_OUT.search(pathlib.PurePath(item.name).name):
      return None
    if (ROOT / item.name / "pyvenv.cfg").exists():
      return None
    size += item.size
    if size > LARGEST:
      raise GiveUp(
        f"{ROOT} holds more than {LARGEST / 1e6:g} MB, as {item.name}; keep data elsewhere"
      )
    item.uid = item.gid = 0
    item.uname = item.gname = ""
    return item

  with open(path, "wb") as file, gzip.GzipFile("", "wb", mtime=0, fileobj=file) as packed:
    with tarfile.open(fileobj=packed, mode="w") as archive:
      archive.add(ROOT, ".", filter=kept)
  return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()[:12]
