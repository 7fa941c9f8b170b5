"""What is given to a model in Python: of the right kind, or refused in one line.

Each check names what was given, what is needed, and nothing is computed before.
"""

from collections.abc import Sequence
import numbers
import os
from typing import Any, TypeVar

import numpy as np

from totojax import sequence

T = TypeVar("T")
MOST_ROWS = 2**20  # of a program


def count(value: Any, what: str, *, least: int = 1, most: int | None = None) -> int:
  """A whole number, as Python or numpy has them.

  Args:
    value: what was given.
    what: its name.
    least: it may be.
    most: it may be; None: any.

  Raises:
    ValueError: it is none, or out of this range.
  """
  is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool | np.bool_)
  if is_whole and least <= int(value) and (most is None or int(value) <= most):
    return int(value)
  kind = "" if is_whole else f" ({type(value).__name__})"
  upto = f"{least} or more" if most is None else f"{least} to {most:,}"
  raise ValueError(f"{what} is {value!r:.80}{kind}; give a whole number, {upto}")


def rows(value: Any) -> int:
  """How many are computed at a time."""
  return count(value, "rows", most=MOST_ROWS)


def section(value: T | None, kind: type[T], what: str) -> T:
  """Settings that were given, or the usual ones.

  Raises:
    ValueError: they are of another kind.
  """
  if value is None:
    return kind()
  if isinstance(value, kind):
    return value
  name = kind.__name__
  hint = f"{what}={name}(...)"
  if isinstance(value, dict) and all(isinstance(key, str) for key in value):
    hint = f"{what}={name}({', '.join(f'{key}={one!r:.40}' for key, one in value.items())})"
  raise ValueError(
    f"{what} is {value!r:.80} ({type(value).__name__}); it must be a"
    f" totojax.config.generate.{name}: {hint}"
  )


def path(value: Any, what: str) -> str:
  """A path in words.

  Raises:
    ValueError: it is none.
  """
  try:
    value = os.fspath(value)
  except TypeError:
    pass
  if isinstance(value, str):
    return value
  raise ValueError(f"{what} is {value!r:.80} ({type(value).__name__}); give a path as text")


def layers(value: Any) -> int | Sequence[int]:
  """One layer, or some.

  Raises:
    ValueError: it is neither.
  """
  if np.ndim(value) == 0:
    return count(value, "layer", least=0)
  found = [count(one, "layer", least=0) for one in value]
  if not found:
    raise ValueError("layer is empty; name one layer or more")
  return found


def pixels(
  frames: Any, what: str = "frames are", needed: str = "uint8 [frames, height, width, 3]"
) -> np.ndarray:
  """Frames as an array, of whatever kind and rank they are.

  Args:
    frames: what was given.
    what: its name and verb.
    needed: shape and type, for errors.

  Raises:
    ValueError: they make none.
  """
  if isinstance(frames, str | bytes | os.PathLike):
    raise ValueError(
      f"{what} {frames!r:.80}, no pixels; give {needed} (files are what configs/generate.py reads)"
    )
  try:
    found = np.asarray(frames)
  except (TypeError, ValueError):  # parts differ in size
    found = np.array(None)
  if found.dtype == object:
    raise ValueError(f"{what} a {type(frames).__name__} that makes no array; give {needed}")
  return found


def clips(frames: Any, kind: str = "video", *, takes_images: bool = True) -> np.ndarray:
  """uint8 [R, T, H, W, 3] of a video, of videos, or of images.

  Args:
    frames: what was given.
    kind: "video" or "image".
    takes_images: whether the caller could have been told `kind="image"`, for errors.

  Raises:
    ValueError: another shape or type, or nothing.
  """
  if kind not in tuple(sequence.START):
    raise ValueError(f"kind {kind!r:.80} is unknown; use 'video' or 'image'")
  frames = pixels(frames)
  ranks = (3, 4) if kind == "image" else (4, 5)
  shape = frames.shape
  if frames.dtype != np.uint8 or frames.ndim not in ranks or shape[-1] != 3:
    videos = "uint8 [clips, frames, height, width, 3]"
    one = "one video [frames, height, width, 3]"
    images = ', or with kind="image" images [images, height, width, 3]' if takes_images else ""
    mend = _mend(frames, ranks)
    if not takes_images and frames.dtype == np.uint8 and frames.ndim == 3 and shape[-1] == 3:
      mend = "; one picture is a video of one frame: frames[None]"
    raise ValueError(
      f"frames are {frames.dtype} {shape}; give {videos}"
      + (f", {one}{images}" if takes_images else f" or {one}")
      + mend
    )
  if not frames.size:
    raise ValueError(f"frames are {shape}, which holds none; give at least one")
  if kind == "image":
    return frames.reshape(-1, 1, *shape[-3:])
  return frames.reshape(-1, *shape[-4:])


def several(values: Any) -> np.ndarray:
  """uint8 [R, T, H, W, 3], and nothing else.

  Raises:
    ValueError: another shape or type.
  """
  values = pixels(values)
  if values.ndim != 5:
    raise ValueError(
      f"clips are {values.dtype} {values.shape}; give uint8 [clips, frames, height, width, 3]"
    )
  return clips(values)


def _mend(frames: np.ndarray, ranks: tuple[int, ...]) -> str:
  """What makes frames of another kind those that are needed, where that is clear."""
  shape = frames.shape
  if frames.ndim in ranks and shape[-1] == 3:
    if np.issubdtype(frames.dtype, np.floating):
      return "; of values from 0 to 1: (255 * frames).round().astype('uint8')"
    return "; of values from 0 to 255: frames.astype('uint8')"
  if frames.ndim in ranks and shape[-3] == 3:
    return "; colours come last: np.moveaxis(frames, -3, -1)"
  if frames.ndim in ranks and shape[-1] == 4:
    return "; without the opacity: frames[..., :3]"
  if frames.ndim in ranks and shape[-1] == 1:
    return "; grey ones three times: np.repeat(frames, 3, axis=-1)"
  if frames.ndim + 1 in ranks and shape[-1:] != (3,):
    return "; grey ones three times: np.stack([frames] * 3, axis=-1)"
  return ""


def codes(value: Any, frame_tokens: int) -> np.ndarray:
  """Codes [R, N, P] of whole numbers.

  Raises:
    ValueError: another shape, none, or no whole numbers.
  """
  found = np.asarray(value)
  if (
    not np.issubdtype(found.dtype, np.integer)
    or found.ndim != 3
    or found.shape[2] != frame_tokens
    or not found.size
  ):
    raise ValueError(
      f"codes are {found.dtype} {found.shape}; give whole numbers [clips, latent frames,"
      f" {frame_tokens} tokens], one clip and frame or more"
    )
  return found
