"""LeRobot's data sets (2.1, 3.0): an item is what a camera saw in an episode; classes are tasks.

`totojax/data/trajectories/lerobot.py` has the layout on disk. States and actions are
not read, nor are pictures that lie in tables.
"""

import os

from totojax.data.sources import items
from totojax.data.trajectories import lerobot
from totojax.storage import objects, outside


def list_items(root: objects.Path, split: str, *, camera: str = "") -> items.Listing:
  """A stretch of a video for each episode and camera.

  Args:
    root: the folder with meta/; a local one.
    split: one of info.json's, as "train"; "" for all episodes.
    camera: its key, as "observation.images.front"; "" for all.

  Raises:
    ValueError: it is no such data set, or has no such camera or split.
  """
  root = os.fspath(root)
  if objects.is_url(root):
    raise ValueError(f"{root} is in a bucket; LeRobot's data sets are read from local folders")
  info = lerobot.read_info(root)
  cameras = [key for key in info.cameras if info.features[key].dtype == "video"]
  if camera and camera not in cameras:
    raise ValueError(f"{root} has no videos of camera {camera!r}; there are: {', '.join(cameras)}")
  if split and split not in info.splits:
    raise ValueError(f"{root} has no split {split!r}; there are: {', '.join(info.splits)}")
  first, end = info.splits[split] if split else (0, info.episodes)
  words = lerobot.tasks(root, info)
  labels = {word: label for label, word in enumerate(dict.fromkeys(words.values()))}
  found: list[items.Entry] = []
  for place in lerobot.places(root, info):
    if not first <= place.number < end:
      continue
    for key in [camera] if camera else cameras:
      path, begin_s = place.videos[key]
      name = items.name(f"{key}/episode_{place.number:06d}")
      if not os.path.isfile(path):
        found.append(items.Skipped(name, f"{outside.shown(path)} is not there"))
        continue
      label = labels.get(place.tasks[0], -1) if place.tasks else -1
      several = info.version != "v2.1"  # episodes in a file
      end_s = begin_s + place.length / info.fps
      times = (begin_s, end_s) if several else (None, None)
      found.append(items.Item(name, path, label, start_s=times[0], end_s=times[1]))
  return items.listing("video", found, classes=tuple(labels), where=root)
