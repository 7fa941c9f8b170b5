"""A whole video: a file, or a folder whose images are its frames.

Shapes: T frames, S pixels of a side.
"""

from collections.abc import Sequence
import dataclasses
import hashlib

import numpy as np

from totojax.data.pixels import augment, containers, decode, images, media, timelines
from totojax.data.sources import items, physics
from totojax.storage import reading


@dataclasses.dataclass(frozen=True)
class Whole:
  """A video whose frames were counted."""

  path: str
  count: int
  files: Sequence[str]  # of a folder of frames; (): a video file
  timeline: timelines.Timeline | None

  @classmethod
  def of(cls, path: str) -> "Whole":
    """Raises containers.Undecodable, OSError, ValueError: there is none."""
    if reading.is_folder(path):
      found = physics.frames_of(path)
      return cls(path, len(found), found, None)
    timeline = timelines.read(path)
    return cls(path, len(timeline.times_s), (), timeline)

  def read(self, picked: list[int], prepare: augment.Resize) -> tuple[np.ndarray, list[bytes]]:
    """(frames [T, S, S, 3], a mark of each that equal frames have)."""
    out, marks = [], []
    if self.timeline is None:
      for place in picked:
        data = media.stored(items.Item(self.path, self.files[place]))
        image_HW3 = images.read(data, animated="first")
        marks.append(hashlib.sha256(image_HW3.tobytes()).digest())
        out.append(prepare(image_HW3))
    else:
      try:
        found = decode.read_images(self.path, picked, timeline=self.timeline, prepare=prepare)
      except decode.Disordered:
        counted = timelines.read(self.path, counted=True)
        found = decode.read_images(self.path, picked, timeline=counted, prepare=prepare)
      out = [found[place] for place in picked]
      marks = [hashlib.sha256(image.tobytes()).digest() for image in out]
    if len({image.shape for image in out}) > 1:
      raise containers.Undecodable(f"frames of {self.path} change shape")
    return augment.center_crop(np.stack(out), prepare.size_px), marks
