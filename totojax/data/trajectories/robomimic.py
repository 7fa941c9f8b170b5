"""robomimic's data sets: an HDF5 file with a group for each demonstration (extra `robots`).

Layout
  data                      attributes total, env_args (JSON)
  data/demo_<i>             attribute num_samples
  data/demo_<i>/actions     float [N, A]
  data/demo_<i>/obs/<key>   float [N, D], or pictures uint8 [N, H, W, 3]
  mask/<filter>             names of demonstrations

Demonstrations come in the order of their numbers, not of their names. Nothing but
these is read, and what leads to another file is refused.
"""

from collections.abc import Iterator, Sequence
import contextlib
import os
import re
from typing import Any

import numpy as np

from totojax.data.pixels import augment
from totojax.data.sources import items
from totojax.data.trajectories import episodes
from totojax.storage import outside

_BYTES = 2**31  # of an array
_NAME = re.compile(r"demo_(\d{1,9})")


def read(
  path: str | os.PathLike[str], *, state: Sequence[str], mask: str = ""
) -> episodes.Recording:
  """All demonstrations, or those of a mask; those that are damaged are `missing`.

  Args:
    path: the file.
    state: keys below obs/ that make the state, one after the other.
    mask: a filter's key, as "train"; "" for all.

  Raises:
    ValueError: it is no such file, has no such key, or nothing is left.
    OSError: it cannot be read.
    ImportError: h5py is missing.
  """
  path = os.fspath(path)
  found, missing = [], []
  with _opened(path) as file:
    demos = _group(path, file, "data")
    for name in _named(path, file, mask):
      try:
        found.append(_demo(path, name, _group(path, demos, name), state))
      except (ValueError, OSError, RuntimeError, KeyError) as error:  # h5py's as well
        named = error if isinstance(error, outside.Damaged) else outside.Damaged(path, error)
        missing.append(items.Skipped(name, outside.shown(named)))
    cameras = _cameras(path, demos, found[0].name) if found else ()
  names = (), ()
  return episodes.Recording(0.0, cameras, *names, tuple(found), tuple(missing))


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Any]:
  try:
    import h5py
  except ImportError as error:
    raise ImportError("robomimic's files need h5py: pip install 'totojax[robots]'") from error
  with outside.open_plain(path) as plain:
    try:
      file = h5py.File(plain, "r")
    except (OSError, ValueError, RuntimeError) as error:
      raise outside.Damaged(path, f"it is no HDF5 file ({error})") from error
    with file:
      try:
        yield file
      except (RuntimeError, KeyError, TypeError, OSError) as error:  # h5py's, of a damaged file
        raise outside.Damaged(path, f"{type(error).__name__}: {error}") from error


def _member(path: str, group: Any, name: str) -> Any:
  """What a group has by this name, in this file."""
  import h5py

  link = group.get(name, getlink=True)
  if isinstance(link, h5py.ExternalLink):
    raise outside.Damaged(path, f"{name} is a link to another file")
  if link is None or (member := group.get(name)) is None:
    there = ", ".join(sorted(group)[:8]) or "nothing"
    raise outside.Damaged(path, f"{group.name} has no {name!r}; there are: {there}")
  return member


def _group(path: str, group: Any, name: str) -> Any:
  import h5py

  if not isinstance(member := _member(path, group, name), h5py.Group):
    raise outside.Damaged(path, f"{member.name} is no group")
  return member


def _array(path: str, group: Any, name: str) -> Any:
  """A dataset that lies in this file, and is no larger than can be."""
  import h5py

  member = _member(path, group, name)
  if not isinstance(member, h5py.Dataset) or member.dtype.kind not in "fiub" or member.external:
    raise outside.Damaged(path, f"{group.name}/{name} is no array of numbers in this file")
  if member.size * member.dtype.itemsize > _BYTES:
    raise outside.Damaged(path, f"{member.name} has {member.shape} numbers, more than can be")
  return member


def _named(path: str, file: Any, mask: str) -> list[str]:
  """Names of demonstrations, by their numbers."""
  there = [name for name in _group(path, file, "data") if _NAME.fullmatch(name)]
  if mask:
    listed = _member(path, _group(path, file, "mask"), mask)
    words = [x.decode("utf-8", "replace") if isinstance(x, bytes) else str(x) for x in listed[()]]
    if lacking := sorted({*words} - {*there}):
      raise outside.Damaged(path, f"mask/{mask} names {lacking[0]!r:.80}, which is not there")
    there = [*dict.fromkeys(words)]
  return sorted(there, key=lambda name: int(name.partition("_")[2]))


def _cameras(path: str, demos: Any, name: str) -> tuple[str, ...]:
  """Keys below obs/ that are pictures."""
  obs = _group(path, _group(path, demos, name), "obs")
  return tuple(key for key in sorted(obs) if _is_picture(_member(path, obs, key)))


def _is_picture(member: Any) -> bool:
  shape = getattr(member, "shape", ())
  return len(shape) == 4 and shape[3] == 3 and member.dtype == np.uint8


def _demo(path: str, name: str, demo: Any, state: Sequence[str]) -> episodes.Episode:
  """Raises ValueError: it is not as it should be."""
  obs = _group(path, demo, "obs")
  action_NA = np.asarray(_array(path, demo, "actions")[()], np.float32)
  parts = [np.asarray(_array(path, obs, key)[()], np.float32) for key in state]
  if not parts:
    raise ValueError(f"state names no key; obs/ has {', '.join(sorted(obs))}")
  parts = [one.reshape(len(one), -1) for one in parts]
  if any(len(one) != len(action_NA) for one in parts):
    lengths = {key: len(one) for key, one in zip(state, parts)}
    raise outside.Damaged(path, f"{name} has {len(action_NA)} actions, and {lengths} states")
  told = demo.attrs.get("num_samples", len(action_NA))
  if told != len(action_NA):
    raise outside.Damaged(path, f"{name} says num_samples {told!s:.20}, and has {len(action_NA)}")
  state_NS = np.concatenate(parts, axis=1)
  episodes.checked(name, state_NS, action_NA)

  def frames(camera: str, steps: Sequence[int], prepare: augment.Resize) -> np.ndarray:
    with _opened(path) as file:
      mine = _group(path, _group(path, _group(path, file, "data"), name), "obs")
      pictures = _array(path, mine, camera)
      if not _is_picture(pictures) or len(pictures) != len(action_NA):
        raise outside.Damaged(
          path, f"{camera} of {name} is {pictures.shape}; no pictures of its steps"
        )
      return np.stack([prepare(image_HW3) for image_HW3 in pictures[[*steps]]])

  return episodes.Episode(name, "", state_NS, action_NA, frames)
