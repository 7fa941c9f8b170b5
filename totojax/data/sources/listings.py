"""The items of any source, as the section `source` of a config names it."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses

from totojax import plugins
from totojax.config.corpus import Source
from totojax.config.schema import ConfigError
from totojax.data.sources import (
  ego4d,
  folder,
  howto100m,
  imagenet,
  items,
  kinetics,
  ssv2,
  tars,
  tfds_source,
  ucf101,
)

_SPLITS = {
  "imagenet": ("train", "val"),
  "kinetics": ("train", "val"),
  "ssv2": ("train", "validation"),
  "ucf101": ("train", "test"),
}


def by_store(source: Source, *, seed: int) -> dict[str, items.Listing]:
  """What each store of a job is made of, by the store's name.

  Args:
    source: where the items come from.
    seed: of what is held out.

  Raises:
    ValueError: the source cannot be read, or holds nothing.
  """
  splits = {split or "all": _listing(source, split) for split in source.splits}
  splits = _one_numbering(splits)
  if not source.val_frac:
    return splits
  (listing,) = splits.values()
  parts = items.split(listing.items, source.val_frac, seed=seed)
  return {
    name: dataclasses.replace(
      listing, items=part, missing=listing.missing if name == "train" else ()
    )
    for name, part in parts.items()
  }


def _one_numbering(splits: Mapping[str, items.Listing]) -> dict[str, items.Listing]:
  """The listings with labels that mean the same class in all of them.

  Raises:
    ValueError: labels are read with the records, so they cannot be changed.
  """
  named = {k: listing.classes for k, listing in splits.items() if listing.classes}
  if len(set(named.values())) < 2:
    return dict(splits)
  if any(listing.items[0].record is not None for listing in splits.values()):
    raise ValueError(f"splits have different classes: {named}; use one of them")
  classes = tuple(sorted(set().union(*named.values())))
  place = {name: label for label, name in enumerate(classes)}

  def renumbered(listing: items.Listing) -> items.Listing:
    labels = [place[name] for name in listing.classes]
    moved = [
      dataclasses.replace(item, label=labels[item.label]) if item.label >= 0 else item
      for item in listing.items
    ]
    return dataclasses.replace(listing, classes=classes, items=moved)

  return {split: renumbered(listing) for split, listing in splits.items()}


def _listing(source: Source, split: str) -> items.Listing:
  if plugins.is_reference(source.name):
    return plugins.function(source.name, "dataset", items.Listing)(source.root, split)
  kind, root = source.kind, source.root
  if not root and source.name != "tfds":
    raise ConfigError(
      "source.root is empty; say where the data is with --config.source.root=FOLDER"
    )
  needs_split = source.name in ("kinetics", "ssv2", "ucf101") or (
    source.name == "imagenet" and source.imagenet.classes
  )
  if needs_split and not split:
    raise ConfigError(
      f"source.splits is {source.splits}, and {source.name} has splits; say"
      f' which with --config.source.splits="{_SPLITS[source.name]}"'
    )
  more = vars(getattr(source, source.name))
  match source.name:
    case "folder":
      return folder.list_items(root, split, kind=kind, **more)
    case "list":
      if split:
        raise ConfigError(
          f"source.splits names {split!r}, and a list has no splits; use"
          " ('',) and one run for each list"
        )
      return folder.list_lines(root, kind=kind, **more)
    case "tars":
      return tars.list_items(root, split, kind=kind, **more)
    case "tfds":
      return tfds_source.list_items(root, split, **more)
    case "imagenet":
      return imagenet.list_items(root, split, **more)
    case "kinetics":
      return kinetics.list_items(root, split, **more)
    case "ssv2":
      return ssv2.list_items(root, split, **more)
    case "ego4d":
      return ego4d.list_items(root, split, **more)
    case "howto100m":
      return howto100m.list_items(root, split, **more)
    case "ucf101":
      return ucf101.list_items(root, split, **more)
    case _:
      raise AssertionError(source.name)
