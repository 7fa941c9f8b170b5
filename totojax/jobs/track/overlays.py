"""What tracking found, laid over frames: a strip and a video of some sequences.

Each frame is read once, and brought to the width that is drawn before anything is
laid over it. A sequence's strip comes last and says that it is drawn, so an
interrupted run goes on with the next one.

Shapes: T frames, H and W pixels as drawn, J joints.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath
import numpy as np
from PIL import Image

from totojax import jobs
from totojax.config import track
from totojax.data.pixels import label_images, movies
from totojax.data.sources import tracks
from totojax.evals import masks
from totojax.jobs.generate import prompts
from totojax.jobs.track import kinds
from totojax.rundir import console, files

_DOT = 0.012  # of a frame's width, the radius of a joint
_FOLDER = "overlays"
Tiles = list[
  np.ndarray
]  # of a frame: uint8 [H, W, 3] with what is annotated, and with what each found


def write(
  kind: kinds.Kind,
  sequences: Sequence[tracks.Track],
  rows: Mapping[str, Callable[[int], list[bytes]]],
  config: track.Output,
  workdir: epath.Path,
  interrupted: jobs.Interrupted,
) -> list[dict[str, Any]] | None:
  """Draws what is not drawn yet into overlays/.

  Args:
    kind: of the data set.
    sequences: all of it, some of which are drawn.
    rows: name -> what it found in the frames of a sequence, by its number, packed.
    config: what is drawn.
    workdir: the run directory.
    interrupted: whether to leave, by the number of sequences that are drawn.

  Returns:
    What there is of each sequence; None when interrupted.
  """
  if not config.sequences:
    return []
  files.make_folder(workdir / _FOLDER)
  chosen, out, codec = prompts.spread(len(sequences), config.sequences), [], config.codec
  total = len(chosen)
  with console.tracking("overlays", unit="sequences", total=total) as bar:
    for number in chosen:
      strip, movie = (f"{_FOLDER}/{number:03d}.{ending}" for ending in ("webp", "mp4"))
      video = kinds.opened(kind, sequences[number])
      times = prompts.spread(video.frames, config.frames)
      if not files.exists(workdir / strip):
        drawn = _Drawn(kind, video, [of(number) for of in rows.values()], config, times)
        if codec:
          try:
            data = movies.mp4(drawn.wide(), fps=config.fps, codec=codec, crf=config.crf)
            files.write_bytes(workdir / movie, data)
          except (ImportError, movies.NoEncoder) as reason:
            console.say(f"no videos are written: {reason}")
            codec = ""
        files.write_bytes(workdir / strip, drawn.strip())
      out.append({"png": strip, "sequence": video.track.name, "frames": times})
      out[-1]["rows"] = ["annotated", *rows]
      if files.exists(workdir / movie):
        out[-1]["mp4"] = movie
      bar.advance(note=video.track.name)
      if interrupted(bar.done) and bar.done < total:
        return None
  return out


class _Drawn:
  """The pictures of a sequence, each frame of which is drawn once."""

  def __init__(
    self,
    kind: kinds.Kind,
    video: kinds.Video,
    packed: Sequence[Sequence[bytes]],
    config: track.Output,
    times: Sequence[int],
  ):
    self._kind, self._video, self._packed, self._times = kind, video, packed, times
    self._width_px = config.width_px
    self._times_as_wide = 2 if config.codec else 1
    self._tiles: dict[int, Tiles] = {}  # of the strip

  def wide(self) -> Iterator[np.ndarray]:
    """Every frame with its tiles beside each other, as the video has it."""
    for t in range(self._video.frames):
      tiles = self._frame(t)
      if t in self._times:
        self._keep(t, tiles)
      yield movies.joined([tiles])

  def strip(self) -> bytes:
    """Some frames, a row for each that found something; a WebP."""
    for t in self._times:
      if t not in self._tiles:
        self._keep(t, self._frame(t))
    columns = [self._tiles[t] for t in self._times]
    return movies.still(movies.joined([*map(list, zip(*columns))]))

  def _keep(self, t: int, tiles: Tiles) -> None:
    self._tiles[t] = [movies.scaled(tile, self._width_px) for tile in tiles]

  def _frame(self, t: int) -> Tiles:
    video, kind = self._video, self._kind
    frame_HW3 = movies.scaled(
      tracks.frame(video.track.frames[t]), self._times_as_wide * self._width_px
    )
    found = [kind.unpacked(each[t]) for each in self._packed]
    if isinstance(kind, kinds.Jhmdb):
      size = np.array(frame_HW3.shape[1::-1]) / video.size[::-1]
      return [_dotted(frame_HW3, at_2J, size) for at_2J in (video.truth[..., t], *found)]
    return [_laid(frame_HW3, labels) for labels in (video.truth[t], *found)]


def _laid(frame_HW3: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """A frame with labels of any size in their colours."""
  height, width = frame_HW3.shape[:2]
  nearest = Image.Resampling.NEAREST
  labels_HW = np.asarray(Image.fromarray(labels.astype(np.uint8)).resize((width, height), nearest))
  labels_HW = np.where(labels_HW == tracks.VOID, 0, labels_HW)
  contours_HW = np.logical_or.reduce(
    [masks.contour(labels_HW == label) for label in np.unique(labels_HW)]
  )
  return label_images.overlay(frame_HW3, labels_HW, contours_HW)


def _dotted(frame_HW3: np.ndarray, place_2J: np.ndarray, scale_2: np.ndarray) -> np.ndarray:
  """A frame with a dot of its own colour at each joint that was found.

  Args:
    frame_HW3: the frame, as drawn.
    place_2J: pixels of the video's own frame, x first; -1 of a joint that was lost.
    scale_2: pixels as drawn of one of its own.
  """
  out = frame_HW3.copy()
  radius = max(_DOT * out.shape[1], 1.5)
  rows, columns = np.ogrid[: out.shape[0], : out.shape[1]]
  for joint, (x, y) in enumerate(place_2J.T, 1):
    if x >= 0:
      inside = (rows - y * scale_2[1]) ** 2 + (columns - x * scale_2[0]) ** 2 <= radius**2
      out[inside] = label_images.palette()[joint]
  return out
