"""What `configs/tokenize.py` says, as typed parts."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import os
from typing import Any

from totojax.config.schema import ConfigError
from totojax.config.typed import typed
from totojax.data.pixels import images
from totojax.data.pixels import media
from totojax.data.pixels import slowfast
from totojax.data.pixels import video
from totojax.data.sources import ego4d
from totojax.data.sources import folder
from totojax.data.sources import howto100m
from totojax.data.sources import imagenet
from totojax.data.sources import items
from totojax.data.sources import kinetics
from totojax.data.sources import ssv2
from totojax.data.sources import tars
from totojax.data.sources import tfds_source
from totojax.data.sources import ucf101

SOURCES = (
    "folder", "list", "tars", "tfds", "imagenet", "kinetics", "ssv2", "ego4d",
    "howto100m", "ucf101",
)  # fmt: skip

_SPLITS = {
    "imagenet": ("train", "val"),
    "kinetics": ("train", "val"),
    "ssv2": ("train", "validation"),
    "ucf101": ("train", "test"),
}


@dataclasses.dataclass(frozen=True)
class Source:
  """Where items come from.

  Attributes:
    name: one of `SOURCES`; the section of that name has its other settings.
    kind: "video" or "image", where a source can be either.
    root: folder of the data.
    splits: the source's splits; each becomes a store of its name ("all" for
      the split "").
    val_frac: with one split: the share of its items that is held out, which
      makes two stores, train and val. 0.0 for none.
    exclude: files of ids (one a line) or stores whose items are left out.
  """

  name: str
  kind: str
  root: str
  splits: tuple[str, ...]
  val_frac: float
  exclude: tuple[str, ...]

  def __post_init__(self):
    if self.name not in SOURCES:
      raise ValueError(f"source.name is {self.name!r}; use one of {SOURCES}")
    if self.kind not in ("video", "image"):
      raise ValueError(f"source.kind is {self.kind!r}; use 'video' or 'image'")
    if not 0.0 <= self.val_frac < 1.0:
      raise ValueError(
          f"source.val_frac is {self.val_frac}; it is a share from 0.0 to 1.0"
      )
    if not self.splits or len(set(self.splits)) != len(self.splits):
      raise ValueError(
          f"source.splits is {self.splits}; name each wanted split once"
      )
    if self.val_frac and len(self.splits) != 1:
      raise ValueError(
          f"source.val_frac is {self.val_frac} with splits {self.splits};"
          " hold items out of one split, or set it to 0.0"
      )


@dataclasses.dataclass(frozen=True)
class Amount:
  """How the work is cut.

  Attributes:
    items_per_shard: items whose clips make one shard. An interruption costs at
      most the shard that was being made.
    workers: processes that decode; -1: one for each core.
    ahead: items per worker that are decoded before they are needed.
  """

  items_per_shard: int
  workers: int
  ahead: int

  def __post_init__(self):
    for name, least in (("items_per_shard", 1), ("workers", -1), ("ahead", 1)):
      if getattr(self, name) < least:
        raise ValueError(
            f"amount.{name} is {getattr(self, name)}; it must be at least"
            f" {least}"
        )

  @property
  def processes(self) -> int:
    return (os.cpu_count() or 1) if self.workers < 0 else self.workers


def source(config: Mapping[str, Any]) -> Source:
  section = {
      key: value
      for key, value in config["source"].items()
      if key not in SOURCES
  }
  return typed(Source, section, "source")


def amount(config: Mapping[str, Any]) -> Amount:
  return typed(Amount, config["amount"], "amount")


def spec(config: Mapping[str, Any], kind: str) -> media.Spec:
  """What is cut out of each item of a kind."""
  if kind == "image":
    return typed(images.ImageSpec, config["image"], "image")
  clip = typed(video.ClipSpec, config["clip"], "clip")
  found = typed(slowfast.ViewSpec, config["views"], "views", clip=clip)
  return found if found.mode else clip


def listings(config: Mapping[str, Any]) -> dict[str, items.Listing]:
  """What each store of the job is made of, by the store's name.

  Raises:
    ValueError: the source cannot be read, or holds nothing.
  """
  wanted = source(config)
  found = {
      split or "all": _listing(wanted, split, config["source"])
      for split in wanted.splits
  }
  found = _one_numbering(found)
  if not wanted.val_frac:
    return found
  (whole,) = found.values()
  parts = items.split(whole.items, wanted.val_frac, seed=config["seed"])
  return {
      name: dataclasses.replace(
          whole, items=part, missing=whole.missing if name == "train" else ()
      )
      for name, part in parts.items()
  }


def _one_numbering(
    found: Mapping[str, items.Listing],
) -> dict[str, items.Listing]:
  """The listings with labels that mean the same class in all of them.

  Raises:
    ValueError: labels are read with the records, so they cannot be changed.
  """
  named = {k: one.classes for k, one in found.items() if one.classes}
  if len(set(named.values())) < 2:
    return dict(found)
  if any(one.items[0].record is not None for one in found.values()):
    raise ValueError(f"splits have different classes: {named}; use one of them")
  classes = tuple(sorted(set().union(*named.values())))
  place = {name: label for label, name in enumerate(classes)}

  def renumbered(one: items.Listing) -> items.Listing:
    labels = [place[name] for name in one.classes]
    moved = [
        dataclasses.replace(item, label=labels[item.label])
        if item.label >= 0
        else item
        for item in one.items
    ]
    return dataclasses.replace(one, classes=classes, items=moved)

  return {split: renumbered(one) for split, one in found.items()}


def _listing(
    wanted: Source, split: str, section: Mapping[str, Any]
) -> items.Listing:
  more, kind, root = section[wanted.name], wanted.kind, wanted.root
  if not root and wanted.name != "tfds":
    raise ConfigError(
        "source.root is empty; say where the data is with"
        " --config.source.root=FOLDER"
    )
  needs_split = wanted.name in ("kinetics", "ssv2", "ucf101") or (
      wanted.name == "imagenet" and more["classes"]
  )
  if needs_split and not split:
    raise ConfigError(
        f"source.splits is {wanted.splits}, and {wanted.name} has splits; say"
        f" which with --config.source.splits=\"{_SPLITS[wanted.name]}\""
    )
  match wanted.name:
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
      raise AssertionError(wanted.name)
