"""The first or the last frames of a video file, as many as are wanted and there.

Imports no jax, so that a process can be begun for it quickly.

Shapes: T frames, R pixels of a side.
"""

import dataclasses

import numpy as np

from totojax.data.pixels import containers, media, video
from totojax.data.sources import items
from totojax.storage import objects, outside


def load(
  item: items.Item, spec: video.ClipSpec, *, least: int, place: str
) -> np.ndarray | items.Skipped:
  """Frames [T, R, R, 3] of a file, up to `spec.frames`; or why there are none.

  Args:
    item: the file.
    spec: what is cut out.
    least: frames that there must be.
    place: "start" takes the first ones, "end" the last `least`.
  """
  try:
    shown = round(media.duration_s(item) * spec.fps)
  except (containers.Undecodable, objects.StoreError, OSError) as error:
    return items.Skipped(item.id, outside.shown(error))
  there = (max(shown, 1) - 1) // spec.stride_frames + 1
  wanted = least if place == "end" else spec.frames
  if there < least:
    return items.Skipped(
      item.id,
      f"too short: it has {there} frames at {spec.fps / spec.stride_frames:g} a second, and"
      f" prompt.frames is {least}; give fewer, or a smaller clip.stride_frames",
    )
  spec = dataclasses.replace(spec, frames=min(wanted, there))
  first = shown - spec.span_frames if place == "end" else 0
  ends = None if place == "end" else spec.span_frames / spec.fps
  stretch = dataclasses.replace(item, start_s=first / spec.fps, end_s=ends)
  found = media.load(stretch, spec, seed=0)
  return found if isinstance(found, items.Skipped) else found[0]


def of_stranger(item: items.Item, spec: video.ClipSpec) -> np.ndarray | items.Skipped:
  """`load` of a file of which nothing is known: one that may name other files.

  Lists of pieces and addresses, which FFmpeg would open too, are none here.
  """
  try:
    containers.check_alone(item.path)
    return load(item, spec, least=1, place="start")
  except (containers.Undecodable, media.SourceLost) as error:
    return items.Skipped(item.id, outside.shown(error))
  except MemoryError:
    return items.Skipped(item.id, "it asks for more memory than one video may have")
