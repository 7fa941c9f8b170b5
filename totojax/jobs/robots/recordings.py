"""Recorded trajectories as tables that policies learn from; features are made once.

Shapes: N steps of a trajectory, D width of features, P numbers felt, S of a state, A
of an action.
"""

from collections.abc import Sequence
import dataclasses
import os

from etils import epath
import numpy as np

from totojax.config.policies import Recorded
from totojax.config.schema import ConfigError
from totojax.data.pixels import augment
from totojax.data.sources import items
from totojax.data.trajectories import episodes, lerobot, robomimic
from totojax.jobs.robots import rows as rows_lib, training
from totojax.rundir import console, files

_CHUNK = 64  # frames that are read at a time


@dataclasses.dataclass(frozen=True)
class Trajectory:
  """An episode, whose frames are not read yet."""

  name: str
  felt_NP: np.ndarray
  state_NS: np.ndarray  # S may be 0
  action_NA: np.ndarray
  kept_N: np.ndarray  # its steps' numbers among those recorded
  frames: episodes.Frames

  def __len__(self) -> int:
    return len(self.action_NA)


@dataclasses.dataclass(frozen=True)
class Recordings:
  """What was recorded."""

  camera: str
  fps: float  # 0: not said
  action_names: tuple[str, ...]
  has_state: bool
  train: tuple[Trajectory, ...]
  heldout: tuple[Trajectory, ...]
  missing: tuple[items.Skipped, ...]


def opened(config: Recorded, *, seed: int, pictures: bool = True) -> Recordings:
  """Reads tables, and no frames.

  Args:
    config: which.
    seed: of which trajectories are held out.
    pictures: whether a camera is needed.

  Raises:
    ConfigError: it is no such data, or has no such columns, or too few trajectories.
  """
  try:
    felt, more = _read(config, config.felt), _read(config, config.state) if config.state else None
  except (ValueError, OSError) as error:
    raise ConfigError(f"data: {error}") from error
  camera = _camera(felt, config.camera) if pictures else ""
  states = {} if more is None else {one.name: one.state_NS for one in more.episodes}
  found, skipped = [], list(felt.missing)
  for one in felt.episodes[: config.episodes or None]:
    state_NS = states.get(one.name, np.zeros((one.steps, 0), np.float32))
    if more is not None and (one.name not in states or len(state_NS) != one.steps):
      skipped.append(items.Skipped(one.name, f"it has no {' '.join(config.state)} of every step"))
      continue
    try:
      found.append(_trajectory(one, state_NS, config))
    except ValueError as error:
      skipped.append(items.Skipped(one.name, str(error)))
  if len(found) < 2:
    told = f"; {skipped[0].id}: {skipped[0].reason}" if skipped else ""
    raise ConfigError(
      f"data.root {config.root} gives {len(found)} trajectories, and one is held out: two or more"
      f" are needed{told}"
    )
  held = max(round(config.heldout_frac * len(found)), 1)
  order = np.random.default_rng(seed).permutation(len(found))
  heldout = {int(n) for n in order[: min(held, len(found) - 1)]}
  return Recordings(
    camera,
    felt.fps,
    _action_names(felt, config),
    more is not None,
    train=tuple(one for n, one in enumerate(found) if n not in heldout),
    heldout=tuple(one for n, one in enumerate(found) if n in heldout),
    missing=tuple(skipped),
  )


def _read(config: Recorded, columns: Sequence[str]) -> episodes.Recording:
  """All episodes with these columns as their state."""
  if not config.root:
    raise ConfigError("data.root is empty; name a LeRobot folder, or a file of robomimic")
  kind = config.format
  if kind == "auto":
    kind = "robomimic" if config.root.endswith((".hdf5", ".h5")) else "lerobot"
  if kind == "robomimic":
    return robomimic.read(config.root, state=columns, mask=config.mask)
  parts = [lerobot.read(config.root, state=name, action=config.action) for name in columns]
  first, *rest = parts
  if not rest:
    return first
  by_name = [{one.name: one.state_NS for one in part.episodes} for part in rest]
  joined = tuple(
    dataclasses.replace(
      one, state_NS=np.concatenate([one.state_NS, *(b[one.name] for b in by_name)], 1)
    )
    for one in first.episodes
    if all(one.name in b for b in by_name)
  )
  return dataclasses.replace(first, episodes=joined, state_names=())


def _camera(recording: episodes.Recording, name: str) -> str:
  there = ", ".join(recording.cameras) or "none"
  if not name and len(recording.cameras) == 1:
    return recording.cameras[0]
  if name not in recording.cameras:
    raise ConfigError(f"data.camera is {name!r}, and cameras are: {there}; name one")
  return name


def _action_names(recording: episodes.Recording, config: Recorded) -> tuple[str, ...]:
  return recording.action_names if config.actions == "recorded" else ()


def _trajectory(one: episodes.Episode, state_NS: np.ndarray, config: Recorded) -> Trajectory:
  """An episode as it is learned from; raises ValueError where that cannot be."""
  if config.actions == "recorded":
    kept = np.arange(one.steps)
    return Trajectory(one.name, one.state_NS, state_NS, one.action_NA, kept, one.frames)
  joints = config.joints
  if one.state_NS.shape[1] < joints + 1:
    raise ValueError(
      f"it feels {one.state_NS.shape[1]} numbers; data.joints {joints} and a gripper are asked for"
    )
  joints_NJ, gripper_N = one.state_NS[:, :joints], one.state_NS[:, joints]
  kept = episodes.moving(joints_NJ, gripper_N, least_rad=config.least_rad)
  if len(kept) < 2:
    raise ValueError(f"nothing moves in it by more than data.least_rad {config.least_rad:g}")
  action = episodes.deltas(joints_NJ, gripper_N, kept, gripper_scale=config.gripper_scale)
  kept = kept[:-1]  # nothing follows the last
  return Trajectory(one.name, one.state_NS[kept], state_NS[kept], action, kept, one.frames)


@dataclasses.dataclass(frozen=True)
class _Whole(augment.Resize):
  """Frames as they were recorded."""

  size_px: int = 0
  resample: str = "bicubic"  # of which nothing is made

  def size(self, height: int, width: int) -> tuple[int, int]:
    return height, width

  def __call__(self, image_HW3: np.ndarray) -> np.ndarray:
    return image_HW3


def tables(
  recordings: Recordings, sight: rows_lib.Sight, folder: epath.Path, *, name: str
) -> tuple[list[training.Steps], list[training.Steps]]:
  """Steps of each trajectory, (learned from, held out), with the features of a row.

  Features are in `folder`, a file for each trajectory, as soon as they are made.

  Raises:
    ConfigError: the frames of a trajectory cannot be read.
  """
  both = [*recordings.train, *recordings.heldout]
  found = []
  if sight.drawn:
    files.make_folder(folder)
    with console.tracking(f"features, {name}", unit="trajectories", total=len(both)) as bar:
      for one in both:
        found.append(_features(one, recordings.camera, sight, folder))
        bar.advance()
  else:
    found = [sight.of(None, one.state_NS) for one in both]
  steps = [
    training.Steps(features, one.felt_NP, one.action_NA) for one, features in zip(both, found)
  ]
  return steps[: len(recordings.train)], steps[len(recordings.train) :]


def _features(
  one: Trajectory, camera: str, sight: rows_lib.Sight, folder: epath.Path
) -> np.ndarray:
  path = folder / f"{one.name}.npz"
  if files.exists(path):
    return files.read_npz(path)["features"]
  parts = []
  try:
    for first in range(0, len(one), _CHUNK):
      some = one.kept_N[first : first + _CHUNK]
      frames = one.frames(camera, [int(n) for n in some], _Whole())
      parts.append(sight.of(np.asarray(frames), np.zeros((len(some), 0))))
  except (ValueError, OSError) as error:
    raise ConfigError(
      f"data: the frames of {os.path.basename(one.name)} cannot be read ({error}); leave it out"
      " with data.episodes or a data.mask, or mend it"
    ) from error
  features = np.concatenate(parts)
  files.write_npz(path, {"features": features})
  return features
