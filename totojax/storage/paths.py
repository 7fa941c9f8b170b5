"""gs:// and s3:// as `epath.Path`s, over TensorStore like all other storage.

etils hands these URLs to gcsfs or s3fs, and where TensorFlow is installed to
it: three clients with retries, credentials and errors of their own, of which
gcsfs keeps listings for ever. Importing this file puts one in their place, for
orbax and jax's compilation cache as well, which know paths of etils alone.
"""

from collections.abc import Iterator
import fnmatch
import io
from typing import Any

from etils import epath

from totojax.storage import objects


@epath.register_path_cls(["gs://", "s3://"])
class ObjectPath(type(epath.Path("gs://bucket"))):
  """A path in an object store, where a folder is there once something is in it."""

  @property
  def _backend(self) -> Any:
    # Of what is not below; etils would ask for gcsfs.
    raise NotImplementedError(f"{self}: this cannot be asked of an object store")

  def exists(self) -> bool:
    return objects.exists(self) or self.is_dir()

  def is_dir(self) -> bool:
    return bool(objects.keys(self))

  def is_file(self) -> bool:
    return objects.exists(self)

  def iterdir(self) -> "Iterator[ObjectPath]":
    yield from sorted({self / name.split("/")[0] for name in objects.keys(self)})

  def glob(self, pattern: str) -> "Iterator[ObjectPath]":
    depth = len(pattern.split("/"))
    found = {"/".join(name.split("/")[:depth]) for name in objects.keys(self)}
    for name in sorted(found):
      parts = name.split("/")
      if len(parts) == depth and all(map(fnmatch.fnmatchcase, parts, pattern.split("/"))):
        yield self / name

  def mkdir(self, mode: int | None = None, parents: bool = False, exist_ok: bool = False) -> None:
    """Makes nothing, since a folder is no object; what is there may be refused."""
    del mode, parents
    if not exist_ok and self.exists():
      raise FileExistsError(f"{self} is there already")

  def rmdir(self) -> None:
    if self.is_dir():
      raise OSError(f"{self} is not empty")

  def rmtree(self, missing_ok: bool = False) -> None:
    if not missing_ok and not self.exists():
      raise FileNotFoundError(f"{self} is not there")
    objects.delete_folder(self)

  def unlink(self, missing_ok: bool = False) -> None:
    if not missing_ok and not self.is_file():
      raise FileNotFoundError(f"{self} is not there")
    objects.delete(self)

  def open(self, mode: str = "r", encoding: str | None = None, errors: Any = None, **_: Any) -> Any:
    """A file in memory, written as one object when it is closed."""
    kind = mode.replace("b", "")
    if kind not in ("r", "w", "a"):
      raise ValueError(f"mode {mode!r} is not known for {self}")
    data = None if kind == "w" else objects.read(self)
    if kind == "r" and data is None:
      raise FileNotFoundError(f"{self} is not there")
    file = io.BytesIO(data or b"") if kind == "r" else _Upload(self, data or b"")
    return file if "b" in mode else io.TextIOWrapper(file, encoding or "utf-8", errors)

  def write_bytes(self, data: bytes) -> int:
    objects.write(self, bytes(data))
    return len(data)

  def rename(self, target: epath.PathLike) -> "ObjectPath":
    target = epath.Path(target)
    if target.exists():
      raise FileExistsError(f"{target} is there already")
    return self.replace(target)

  def replace(self, target: epath.PathLike) -> "ObjectPath":
    """Of one file; neither this nor `rename` is atomic, and a folder has none."""
    target = self.copy(target, overwrite=True)
    self.unlink()
    return target

  def copy(self, dst: epath.PathLike, overwrite: bool = False) -> "ObjectPath":
    target = epath.Path(dst)
    if not overwrite and target.exists():
      raise FileExistsError(f"{target} is there already")
    target.write_bytes(self.read_bytes())
    return target


class _Upload(io.BytesIO):
  """What is written to an object, sent when it is closed."""

  def __init__(self, path: "ObjectPath", begun: bytes):
    super().__init__()
    self._path = path
    self.write(begun)

  def close(self) -> None:
    if not self.closed:
      data = self.getvalue()
      super().close()
      self._path.write_bytes(data)
