"""Ego4D, as its own command line downloads it.

Layout, in <root> or <root>/v1, <root>/v2
  ego4d.json                  {"videos": [{"video_uid": ...}], "clips": ...}
  full_scale/<video_uid>.mp4  or clips/<clip_uid>.mp4, or another folder such
                              as video_540ss/

Without ego4d.json, and without a file of ids, all videos of the folder are
taken. There are no classes, and no splits but those that files of ids make.
"""

import os

from totojax.data.sources import files, items, spans
from totojax.storage import objects, reading


def list_items(root: objects.Path, split: str, *, folder: str, ids: str = "") -> items.Listing:
  """All videos of Ego4D that are on disk; the others are `missing`.

  Args:
    root: the folder that was given to the downloader, or a version in it.
    split: takes the place of "{split}" in `ids`; "" without one.
    folder: "full_scale", "clips", or another folder of videos by uid.
    ids: a file with an id per line, or a CSV of video_uid (clip_uid) and, if
      only stretches are wanted, start_s and end_s; "" for all of ego4d.json.

  Raises:
    ValueError: no folder of videos, damaged annotations, or a split without a
      file of its own.
  """
  if split and "{split}" not in ids:
    raise ValueError(
      f"split is {split!r}, and ids is {ids!r}: Ego4D's splits are files of"
      ' ids; give them as "folder/{split}.txt", or take the split ""'
    )
  root = os.fspath(root)
  key = "clip" if folder == "clips" else "video"
  bases = [os.path.join(root, version) for version in ("", "v2", "v1")]
  top = files.first_of([os.path.join(base, folder) for base in bases], what="folder of videos")
  disk = files.by_stem(top, "video")
  if ids:
    wanted = spans.read(ids.replace("{split}", split), f"{key}_uid")
    return spans.listing(wanted, disk, where=top)
  # The annotations beside the folder are those of its version.
  sibling = os.path.join(os.path.dirname(top), "ego4d.json")
  tables = filter(reading.exists, (sibling, os.path.join(root, "ego4d.json")))
  annotations = next(tables, None)
  uids = _uids(annotations, key) if annotations else disk
  return spans.listing(map(spans.Span, uids), disk, where=top)


def _uids(path: str, key: str) -> list[str]:
  values = files.read_json(path)
  try:
    uids = [row[f"{key}_uid"] for row in values[f"{key}s"]]
    if not all(isinstance(uid, str) and uid for uid in uids):
      raise TypeError("a uid is no text")
    return uids
  except (KeyError, TypeError, IndexError) as error:
    raise ValueError(
      f"{path} is not Ego4D's: it should hold a list {key}s of entries with {key}_uid"
    ) from error
