"""Items: the videos and images of a source, before anything is decoded.

An item is named by its `id`, the same on every machine; everything random about
it follows from that name. Ids are plain UTF-8 on one line, whatever the files
are called: `name` writes what is not as an escape.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import hashlib
import json
import os
import re

import numpy as np

# Characters that end a line for somebody would break tables of ids.
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), 127, 0x85)}
_ESCAPES |= {0x2028: "\\u2028", 0x2029: "\\u2029"}

KINDS = ("video", "image")
_STRETCH = re.compile(r"(/[0-9.]+-([0-9.]+|end)|_[0-9]{6}_[0-9]{6})$")


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
  """One video or image."""

  id: str  # its name, unique in its source
  path: str  # the file that holds it, or the address of a TFDS set
  label: int = -1  # its class; -1 for none
  # (offset, bytes) of a file inside the file, as in a tar; None: all.
  part: tuple[int, int] | None = None
  record: int | None = None  # index in a TFDS set; None elsewhere. Its label is read with it
  start_s: float | None = None  # where the wanted stretch of a video begins; None: at the start
  end_s: float | None = None  # where it ends; None: at the end

  def __post_init__(self):
    object.__setattr__(self, "path", os.fspath(self.path))


@dataclasses.dataclass(frozen=True)
class Skipped:
  """An item that gives nothing, and why."""

  id: str
  reason: str


Entry = Item | Skipped


@dataclasses.dataclass(frozen=True)
class Listing:
  """What a source holds."""

  kind: str  # "video" or "image"
  items: Sequence[Item]  # sorted by id
  classes: tuple[str, ...]  # names by label; empty where there are no classes
  missing: tuple[Skipped, ...]  # what is in the annotations or archives but cannot be had


def video_id(item: str) -> str:
  """The id of the video that an item is, or is a stretch of.

  Stretches are called <id>/<start>-<end> or <id>_<start>_<end>.
  """
  return _STRETCH.sub("", item)


def name(path: str) -> str:
  """The id of a file: its path with slashes, as one line of UTF-8.

  Bytes of a file name that are no UTF-8 become `\\xff`, ends of lines too.
  """
  text = os.fsencode(path).decode("utf-8", "backslashreplace")
  return text.replace(os.sep, "/").translate(_ESCAPES)


def listing(
  kind: str, entries: Iterable[Entry], *, classes: Sequence[str] = (), where: str
) -> Listing:
  """A checked `Listing`, sorted by id.

  Args:
    kind: "video" or "image".
    entries: the items, and what is missing of the source, in any order.
    classes: names by label; empty where there are none.
    where: the source, for messages.

  Raises:
    ValueError: there is no such kind, nothing was found, two items share an id,
      or a label is out of range.
  """
  if kind not in KINDS:
    raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(KINDS)}")
  entries = sorted(entries, key=lambda entry: entry.id)
  missing = tuple(entry for entry in entries if isinstance(entry, Skipped))
  ordered = [entry for entry in entries if isinstance(entry, Item)]
  if not ordered:
    example = "".join(f"; {entry.id:.200}: {entry.reason:.400}" for entry in missing[:1])
    raise ValueError(
      f"{where} holds no {kind} that is wanted ({len(missing)} are missing"
      f"{example}); check the path and the layout"
    )
  for item, after in zip(ordered, ordered[1:]):
    if item.id == after.id:
      raise ValueError(
        f"two items of {where} are called {item.id!r}: {item.path!r} and"
        f" {after.path!r}; rename one of them"
      )
  for item in ordered:
    if item.label < -1 or (classes and item.label >= len(classes)):
      raise ValueError(
        f"{item.id} of {where} has label {item.label}; labels run from 0 to"
        f" {len(classes) - 1}, and -1 for none"
      )
  return Listing(kind, ordered, tuple(classes), missing)


def digest(items: Iterable[Item]) -> str:
  """sha256 over ids, labels and stretches: what a job's records come from."""
  state = hashlib.sha256()
  for item in items:
    facts = [item.id, item.label, item.start_s, item.end_s, item.record]
    state.update(json.dumps(facts).encode())
  return state.hexdigest()


def generator(item: Item, crop: int, *, stretch: int, seed: int) -> np.random.Generator:
  """What a crop of a stretch of an item is drawn with."""
  words = np.frombuffer(hashlib.sha256(item.id.encode()).digest(), "<u4")
  return np.random.default_rng([seed, crop | stretch << 32, *words.tolist()])


def rank(item: str, *, seed: int) -> bytes:
  """A pseudo-random key of an id: sorting by it shuffles, stably."""
  return hashlib.sha256(f"{seed}/{item}".encode()).digest()


def shuffled(items: Iterable[Item], *, seed: int) -> list[Item]:
  """The items in a random order that follows from ids and seed alone.

  Items that are added or go missing leave the order of the others as it is.
  """
  return sorted(items, key=lambda item: rank(item.id, seed=seed))


def split(items: Sequence[Item], val_frac: float, *, seed: int) -> dict[str, list[Item]]:
  """Training and held-out items: by a hash of the id, so files that are added
  later move no other one while the count of held-out items stays the same.
  Stretches of one video are never divided.

  Raises:
    ValueError: fewer than two items.
  """
  if len(items) < 2:
    raise ValueError(f"{len(items)} item cannot be split into train and val; use at least 2")
  videos = sorted({video_id(item.id) for item in items}, key=lambda video: rank(video, seed=seed))
  if len(videos) < 2:
    raise ValueError(
      f"all {len(items)} items are stretches of one video, which cannot be"
      " split into training and validation; use at least 2 videos"
    )
  count = min(max(1, round(val_frac * len(videos))), len(videos) - 1)
  held_out = set(videos[:count])
  in_order = sorted(items, key=lambda item: item.id)
  return {
    "train": [i for i in in_order if video_id(i.id) not in held_out],
    "val": [i for i in in_order if video_id(i.id) in held_out],
  }
