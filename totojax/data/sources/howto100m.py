"""HowTo100M: videos of YouTube by their ids.

Layout: <root>/[<split>/]**/<youtube id>.mp4, .webm or .mkv, at any depth.
`ids` is HowTo100M_v1.csv (video_id,category_1,category_2,rank,task_id), or a
text file with an id per line; a CSV may have start_s and end_s for stretches.
Its categories are not labels: a video has several.
"""

import os

from totojax.data.sources import files, items, spans


def list_items(root: str | os.PathLike[str], split: str, *, ids: str) -> items.Listing:
  """All wanted videos that are on disk; the others are `missing`.

  Args:
    root: folder of the videos.
    split: folder below it; "" for all of it.
    ids: file with the wanted ids; "" takes every video that is there.

  Raises:
    ValueError: no such folder, no wanted video, or a damaged file of ids.
  """
  top = os.path.join(os.fspath(root), split)
  disk = files.by_stem(top, "video")
  wanted = spans.read(ids, "video_id") if ids else map(spans.Span, disk)
  return spans.listing(wanted, disk, where=top)
