"""Where the items of a store lay, so that their ids can be told apart.

Ids of folders, lists and archives are paths below a root: `a/1.mp4` below
`X/train` and below `X/test` are two files, and `train/a/1.mp4` below `X` is the
first of them. A manifest says the root and what was put before the ids
(`source.prefix`). Ids of named data sets (Kinetics, ...) are names of their own
and mean the same wherever the files are; their stores have no origin, and
neither have stores from before there was one.

Shapes: R records, U bytes of an id.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import os
from typing import Any

from totojax.data.store import manifests
from totojax.storage import objects

ROOT, PREFIX = "root", "prefix"  # of `info`
_ALONE = (b"/", b"gs://", b"s3://")  # ids of lists that are paths by themselves


@dataclasses.dataclass(frozen=True)
class Origin:
  """Where items lay."""

  root: str  # folder or URL that ids are relative to
  prefix: str = ""  # before every id

  def info(self) -> dict[str, str]:
    """For a manifest's `info`."""
    return {ROOT: self.root, **({PREFIX: self.prefix} if self.prefix else {})}

  def path(self, item: bytes) -> bytes:
    """Where an item lies, by its id."""
    name = item.removeprefix(f"{self.prefix}/".encode()) if self.prefix else item
    return name if name.startswith(_ALONE) else f"{self.root}/".encode() + name

  def overlaps(self, other: "Origin") -> bool:
    """Whether one root is the other, or lies in it."""
    one, two = (f"{origin.root.rstrip('/')}/" for origin in (self, other))
    return one.startswith(two) or two.startswith(one)

  @property
  def digest(self) -> str:
    """Stands for it, in certificates."""
    return hashlib.sha256(f"{self.root}\0{self.prefix}".encode()).hexdigest()[:16]


def at(root: objects.Path, prefix: str = "") -> Origin:
  """The origin of items below a root; links are followed."""
  text = objects.text(root).rstrip("/")
  return Origin(text if objects.is_url(text) else os.path.realpath(text), prefix)


def of(manifest: manifests.Manifest) -> Origin | None:
  """The origin of a store's items; None where nobody can say."""
  info: Mapping[str, Any] = manifest.info
  return Origin(info[ROOT], info.get(PREFIX, "")) if info.get(ROOT) else None
