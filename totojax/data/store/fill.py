"""Fills stores of pixels item by item; goes on where an earlier job stopped.

Shapes: K records of an item, N frames, H and W pixels.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from etils import epath
import numpy as np

from totojax.data.store import certificates, manifests, shards
from totojax.data.store.store import Store
from totojax.rundir import console


@dataclasses.dataclass(frozen=True)
class Clips:
  """What one item gives: K records of one id, and of one label or none."""

  id: str
  label: int | None
  clips_KNHW3: np.ndarray


@dataclasses.dataclass(frozen=True)
class Split:
  """A store, and what it is filled with."""

  manifest: manifests.Manifest  # of the store
  items: int  # how many items it is made of
  make: Callable[[int], Clips | None]  # number of an item -> what it gives; None for nothing
  closing: Callable[[], Mapping[str, Any]] = dict  # what the end knows, for the manifest's info


def stores(
  workdir: epath.Path,
  splits: Mapping[str, Split],
  interrupted: Callable[[int], bool],
  *,
  verb: str,
  unit: str,
  see: str = "",
) -> bool:
  """Makes the stores, going on where they stopped; False when interrupted.

  Args:
    workdir: where they are.
    splits: what each is made of, by name.
    interrupted: whether to stop before an item.
    verb: what is done, for the progress line ("rendering").
    unit: what it is done to ("clips").
    see: where to look when a store stays empty.

  Raises:
    ValueError: no item of a split gave anything.
    StoreError: a store was begun with other values.
  """
  # All are begun before the first is filled: what the second is made of is
  # settled too, however long the first takes.
  writers = {name: shards.Writer(workdir / name, split.manifest) for name, split in splits.items()}
  for name, split in splits.items():
    writer = writers[name]
    if writer.complete:
      continue
    begin, records = writer.cursor or 0, writer.manifest.records
    with console.tracking(f"{verb} {name}", unit=unit, total=split.items, done=begin) as bar:
      for i in range(begin, split.items):
        if interrupted(i):
          return False
        item = split.make(i)
        if item is not None:
          count = len(item.clips_KNHW3)
          writer.append(
            {"frames": item.clips_KNHW3},
            labels=None if item.label is None else [item.label] * count,
            ids=[item.id] * count,
            cursor=i + 1,
          )
          records += count
        bar.advance()
    if not records:
      raise ValueError(f"none of the {split.items} {name} {unit} could be used{see}")
    writer.close(**split.closing())
  certificates.certify([Store(writer.path, writer.manifest) for writer in writers.values()])
  return True


def manifest(*, frames: int, size_px: int, **more: Any) -> manifests.Manifest:
  """The manifest of a store of pixels: of unlabelled videos, without `more`."""
  values = dict(kind="video", labels=False, classes=(), tokenizer="", vocab=0, grid=0, ids=True)
  return manifests.new(
    fields=(manifests.frame_field(frames=frames, size_px=size_px),),
    frames=frames,
    size_px=size_px,
    **(values | more),
  )
