"""The items of any source, as the section `source` of a config names it."""

from collections.abc import Mapping
import dataclasses

from totojax import plugins
from totojax.config.corpus import SourceConfig
from totojax.config.schema import ConfigError
from totojax.data.sources import (
  cater,
  diving48,
  ego4d,
  folder,
  howto100m,
  imagenet,
  items,
  kinetics,
  lerobot,
  ssv2,
  tars,
  tfds_source,
  ucf101,
)
from totojax.data.store import manifests
from totojax.rundir import console

_MODULES = {
  "cater": cater,
  "diving48": diving48,
  "ego4d": ego4d,
  "folder": folder,
  "howto100m": howto100m,
  "imagenet": imagenet,
  "kinetics": kinetics,
  "lerobot": lerobot,
  "ssv2": ssv2,
  "tars": tars,
  "tfds": tfds_source,
  "ucf101": ucf101,
}
NAMED = 5  # classes of a longer list
_OF_ANY_KIND = frozenset({"folder", "list", "tars"})  # which say what they hold
_SPLITS = {
  "cater": ("train", "val"),
  "diving48": ("train", "test"),
  "imagenet": ("train", "val"),
  "kinetics": ("train", "val"),
  "ssv2": ("train", "validation"),
  "ucf101": ("train", "test"),
}


def by_store(source: SourceConfig, *, seed: int) -> dict[str, items.Listing]:
  """What each store of a job is made of, by the store's name.

  Args:
    source: where the items come from.
    seed: of what is held out.

  Raises:
    ValueError: the source cannot be read, or holds nothing.
  """
  splits = {
    split or "all": _prefixed(_listing(source, split), source.prefix) for split in source.splits
  }
  splits = _one_numbering(splits)
  for split, listing in splits.items():
    _tell_empty_classes(split, listing)
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


def _prefixed(listing: items.Listing, prefix: str) -> items.Listing:
  """The listing with `source.prefix` before all ids."""
  if not prefix:
    return listing
  ours, gone = (
    tuple(dataclasses.replace(row, id=f"{items.name(prefix)}/{row.id}") for row in rows)
    for rows in (listing.items, listing.missing)
  )
  return dataclasses.replace(listing, items=ours, missing=gone)


def origin(source: SourceConfig) -> manifests.Origin | None:
  """Where the items of a source lie, if their ids are paths below it."""
  if source.name not in _OF_ANY_KIND:
    return None
  return manifests.Origin.at(source.root, items.name(source.prefix))


def _tell_empty_classes(split: str, listing: items.Listing) -> None:
  """Names the classes that no item is left of."""
  if not listing.classes or listing.items[0].record is not None:
    return
  used = {item.label for item in listing.items}
  empty = [name for label, name in enumerate(listing.classes) if label not in used]
  if empty and used != {-1}:
    more = ", ..." if len(empty) > NAMED else ""
    console.say(
      f"{split}: {len(empty)} of {len(listing.classes)} classes have no item that is there:"
      f" {', '.join(empty[:NAMED])}{more}"
    )


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


def _listing(source: SourceConfig, split: str) -> items.Listing:
  if plugins.is_reference(source.name):
    given = plugins.function(source.name, "dataset", items.Listing)(source.root, split)
    with plugins.users(source.name, "what dataset() lists cannot be used"):
      entries = [*given.items, *given.missing]
      return items.listing(given.kind, entries, classes=given.classes, where="it")
  if not source.root and source.name != "tfds":
    raise ConfigError("source.root is empty; say where the data is: --config.source.root=FOLDER")
  needs_split = source.name in ("cater", "diving48", "kinetics", "ssv2", "ucf101") or (
    source.name == "imagenet" and source.imagenet.classes
  )
  if needs_split and not split:
    raise ConfigError(
      f"source.splits is {source.splits}, and {source.name} has splits; say"
      f' which with --config.source.splits="{_SPLITS[source.name]}"'
    )
  more = dict(vars(getattr(source, source.name)))
  if source.name in _OF_ANY_KIND:
    more["kind"] = source.kind
  if source.name == "list":
    if split:
      raise ConfigError(
        f"source.splits names {split!r}, and a list has no splits; use ('',) and one run for each"
        " list"
      )
    return folder.list_lines(source.root, **more)
  return _MODULES[source.name].list_items(source.root, split, **more)
