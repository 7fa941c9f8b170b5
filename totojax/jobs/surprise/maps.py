"""The frame that surprises a model most, and where in it: pictures of token losses.

Shapes: F scored frames, G grid, P tokens of a frame, S pixels, H and W of a picture.
"""

from collections.abc import Sequence

import numpy as np

from totojax.data.pixels import movies
from totojax.jobs.surprise import clips, scores

# From nothing to the most: dark, violet, orange, light; told apart in grey too.
RAMP = np.array([(12, 8, 38), (110, 30, 110), (226, 118, 27), (252, 246, 190)], np.float64)
_GAP_PX = 4
_UNDER = 0.35  # of the grey frame below its losses


def heat(nll_P: np.ndarray, frame_SS3: np.ndarray, *, grid: int, most: float) -> np.ndarray:
  """uint8 [S, S, 3]: nats of each place, over the frame in grey.

  Args:
    nll_P: of the tokens of a frame; several codes of a place are averaged.
    frame_SS3: the frame.
    grid: places of a side.
    most: nats of the lightest colour; the darkest are 0.
  """
  side = len(frame_SS3)
  places_GG = nll_P.reshape(grid, grid, -1).mean(-1)
  level_GG = np.clip(places_GG / max(most, 1e-9), 0, 1) * (len(RAMP) - 1)
  stops = np.arange(len(RAMP))
  colours_GG3 = np.stack([np.interp(level_GG, stops, RAMP[:, c]) for c in range(3)], axis=-1)
  index = np.arange(side) * grid // side
  grey_SS1 = frame_SS3.astype(np.float64).mean(-1, keepdims=True)
  mixed = (1 - _UNDER) * colours_GG3[index][:, index] + _UNDER * grey_SS1
  return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def worst(
  videos: Sequence[clips.Clip], scored: Sequence[scores.Scored], *, grid: int, side_px: int
) -> tuple[bytes, dict[str, object]]:
  """(PNG, what it shows) of videos where the last of them surprises most.

  Of each there is the frame and, on its right, its heat map, at the place of the
  worst scored frame of the last video; all by one scale.
  """
  place = int(scored[-1].frames_F.argmax())
  places = [min(place, len(one.frames_F) - 1) for one in scored]
  most = max(float(one.nll_FP[at].max()) for one, at in zip(scored, places))
  tiles = []
  for clip, one, at in zip(videos, scored, places):
    frame_SS3 = clip.frames_TSS3[min(one.last_F[at], len(clip.frames_TSS3) - 1)]
    shown = np.stack([frame_SS3, heat(one.nll_FP[at], frame_SS3, grid=grid, most=most)])
    tiles += list(movies.enlarged(shown, side_px=side_px))
  gap = np.full((len(tiles[0]), _GAP_PX, 3), 255, np.uint8)
  row = [part for tile in tiles for part in (tile, gap)][:-1]
  facts = {
    "videos": [clip.id for clip in videos],
    "frame": int(scored[-1].last_F[place]),
    "nats": [float(one.frames_F[at]) for one, at in zip(scored, places)],
    "most": most,
  }
  return movies.png(np.concatenate(row, axis=1)), facts
