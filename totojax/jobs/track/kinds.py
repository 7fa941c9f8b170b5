"""What sets DAVIS, JHMDB and VIP apart: first labels, what is found, and its score.

Shapes: T frames, H and W pixels, h and w places, C labels, O objects, J joints, V
videos.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, Protocol

import numpy as np

from totojax.config.propagation import Propagation
from totojax.config.schema import ConfigError
from totojax.config.track import Tracks
from totojax.data.pixels import label_images
from totojax.data.sources import tracks
from totojax.evals import joints, label_maps, masks, parts, resampled

Arrays = dict[str, np.ndarray]
Size = tuple[int, int]
_PCK = (0.1, 0.2)  # what papers print


@dataclasses.dataclass(frozen=True)
class Video:
  """A sequence whose annotations were read."""

  track: tracks.Track
  truth: np.ndarray  # uint8 [T, H, W], or of joints float64 [2, J, T]
  size: Size  # of its frames

  @property
  def frames(self) -> int:
    """Those that are annotated."""
    return self.truth.shape[-1 if self.truth.dtype.kind == "f" else 0]


class Kind(Protocol):
  """A data set."""

  score: str  # the number that layers are chosen by
  keeps_first: bool  # whether what is found in the first frame is what is given
  whole: Mapping[str, int]  # what the published set has, of things that are counted

  def truth(self, track: tracks.Track) -> np.ndarray:
    """The annotations of a sequence; raises ValueError where they are not as they should be."""
    ...

  def first(
    self, video: Video, *, grid: Size, input_px: Size, rule: Propagation
  ) -> tuple[np.ndarray, tuple[int, ...]]:
    """(maps [h, w, C] of the first frame, the label of each)."""
    ...

  def found(
    self, video: Video, soft_hwC: Any, ids: tuple[int, ...], *, input_px: Size, rule: Propagation
  ) -> np.ndarray:
    """What maps say of a frame, in its own pixels."""
    ...

  def given(self, video: Video) -> np.ndarray:
    """What is known of the first frame, as `found` has it."""
    ...

  def scored(self, video: Video, number: int, found: np.ndarray) -> np.ndarray | None:
    """Scores of what was found in a frame; None of one that is not scored."""
    ...

  def joined(self, scored: Sequence[np.ndarray]) -> np.ndarray:
    """Scores of the frames of a sequence, to be totalled."""
    ...

  def packed(self, found: np.ndarray) -> bytes:
    """What was found in a frame, as it is kept."""
    ...

  def unpacked(self, data: bytes) -> np.ndarray:
    """The same, read."""
    ...

  def weighed(self, scored: Sequence[np.ndarray]) -> resampled.Value:
    """How often each sequence counts, int [V] -> `score` of all."""
    ...

  def total(self, scored: Sequence[np.ndarray], *, seed: int) -> dict[str, Any]:
    """The numbers of all sequences, `score` with "low" and "high"."""
    ...


def of(config: Tracks) -> Kind:
  """The kind of a data set."""
  return {"davis": Davis(config.year), "jhmdb": Jhmdb(), "vip": Vip()}[config.set]


def _ends(value: resampled.Value, groups: int, seed: int) -> dict[str, float | None]:
  low, high = resampled.interval(value, groups, seed=seed)
  return {"low": low, "high": high}


class _Labels:
  """Those whose labels are of pixels."""

  def packed(self, found: np.ndarray) -> bytes:
    return label_images.png(found)

  def unpacked(self, data: bytes) -> np.ndarray:
    return label_images.read(data)


@dataclasses.dataclass(frozen=True)
class Davis(_Labels):
  """Objects by J and F."""

  year: int
  score: str = "J&F-Mean"
  keeps_first: bool = True

  @property
  def whole(self) -> Mapping[str, int]:
    return {"sequences": 30, "objects": 61} if self.year == 2017 else {"sequences": 20}

  def truth(self, track: tracks.Track) -> np.ndarray:
    masks_THW = tracks.objects(track, year=self.year)
    if len(masks_THW) < 3:
      raise ValueError(
        f"{track.name} has {len(masks_THW)} frames; the first and last score nothing"
      )
    return masks_THW

  def first(
    self, video: Video, *, grid: Size, input_px: Size, rule: Propagation
  ) -> tuple[np.ndarray, tuple[int, ...]]:
    ids = tuple(range(_objects(video) + 1))
    how = rule.first_labels
    return label_maps.first(video.truth[0], ids, grid=grid, input_px=input_px, how=how), ids

  def found(
    self, video: Video, soft_hwC: Any, ids: tuple[int, ...], *, input_px: Size, rule: Propagation
  ) -> np.ndarray:
    return label_maps.decided(soft_hwC, ids, size=video.size, input_px=input_px, rule=rule)

  def given(self, video: Video) -> np.ndarray:
    return np.where(video.truth[0] > _objects(video), 0, video.truth[0])

  def scored(self, video: Video, number: int, found: np.ndarray) -> np.ndarray | None:
    """J and F, [2, O]."""
    if not 0 < number < video.frames - 1:
      return None
    return masks.scores(video.truth[number], found, _objects(video))

  def joined(self, scored: Sequence[np.ndarray]) -> np.ndarray:
    """[2, O, T - 2]."""
    return np.stack(scored, axis=-1)

  def weighed(self, scored: Sequence[np.ndarray]) -> resampled.Value:
    sums = np.array([each.mean((0, 2)).sum() for each in scored])
    counts = np.array([each.shape[1] for each in scored])
    return lambda times_V: float(times_V @ sums / (times_V @ counts))

  def total(self, scored: Sequence[np.ndarray], *, seed: int) -> dict[str, Any]:
    objects = [both for each in scored for both in each.swapaxes(0, 1)]
    ends = _ends(self.weighed(scored), len(scored), seed)
    return {**masks.summary(objects), **ends, "objects": len(objects)}


def _objects(video: Video) -> int:
  """Of the first frame: what comes later cannot be tracked."""
  return int(video.truth[0].max())


@dataclasses.dataclass(frozen=True)
class Jhmdb:
  """Joints by PCK."""

  score: str = "PCK@0.1"
  keeps_first: bool = True
  whole: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"sequences": 268})

  def truth(self, track: tracks.Track) -> np.ndarray:
    return tracks.joints(track)

  def first(
    self, video: Video, *, grid: Size, input_px: Size, rule: Propagation
  ) -> tuple[np.ndarray, tuple[int, ...]]:
    del input_px, rule
    maps = joints.heat_maps(video.truth[..., 0], size_px=video.size, grid=grid)
    return maps, tuple(range(maps.shape[-1]))

  def found(
    self, video: Video, soft_hwC: Any, ids: tuple[int, ...], *, input_px: Size, rule: Propagation
  ) -> np.ndarray:
    """[2, J] pixels from 0; -1 of a joint that was lost."""
    del ids, input_px, rule
    soft_hwC = np.asarray(soft_hwC)
    place_2J = joints.coordinates(soft_hwC)
    scale = np.array(video.size[::-1]) / soft_hwC.shape[1::-1]
    return np.where(place_2J[0] >= 0, place_2J * scale[:, None], -1.0)

  def given(self, video: Video) -> np.ndarray:
    return video.truth[..., 0]

  def scored(self, video: Video, number: int, found: np.ndarray) -> np.ndarray | None:
    """[1 + thresholds, J]: joints that were found, and those of them that are right."""
    if not number:
      return None
    twice = np.stack([found, found], axis=-1)  # of which the first frame is left out
    return joints.counted(joints.distances(twice, video.truth[..., [number, number]]))

  def joined(self, scored: Sequence[np.ndarray]) -> np.ndarray:
    return np.sum(scored, axis=0)

  def packed(self, found: np.ndarray) -> bytes:
    return np.ascontiguousarray(found, "<f8").tobytes()

  def unpacked(self, data: bytes) -> np.ndarray:
    return np.frombuffer(data, "<f8").reshape(2, -1)

  def weighed(self, scored: Sequence[np.ndarray]) -> resampled.Value:
    whole = np.stack(scored)
    return lambda times_V: float(_shares(np.tensordot(times_V, whole, 1))[0])

  def total(self, scored: Sequence[np.ndarray], *, seed: int) -> dict[str, Any]:
    whole = np.sum(scored, axis=0)
    found = zip(joints.THRESHOLDS, _shares(whole))
    named = {f"PCK@{a}": float(v) for a, v in found if a in _PCK}
    ends = _ends(self.weighed(scored), len(scored), seed)
    return {**named, **ends, "joints": int(whole[0].sum())}


def _shares(counted: np.ndarray) -> np.ndarray:
  """PCK at each threshold, of what was counted [1 + thresholds, J]."""
  return np.nanmean(joints.pck(counted), axis=1)


@dataclasses.dataclass(frozen=True)
class Vip(_Labels):
  """Parts of people by mIoU."""

  score: str = "mIoU"
  keeps_first: bool = False  # published numbers count it as it comes back from the grid
  whole: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"sequences": 50})

  def truth(self, track: tracks.Track) -> np.ndarray:
    return tracks.classes(track)

  def first(
    self, video: Video, *, grid: Size, input_px: Size, rule: Propagation
  ) -> tuple[np.ndarray, tuple[int, ...]]:
    ids = tuple(np.unique(video.truth[0]).tolist())
    how = rule.first_labels
    return label_maps.first(video.truth[0], ids, grid=grid, input_px=input_px, how=how), ids

  def found(
    self, video: Video, soft_hwC: Any, ids: tuple[int, ...], *, input_px: Size, rule: Propagation
  ) -> np.ndarray:
    """Classes; what follows pixels that are of none is background."""
    found = label_maps.decided(soft_hwC, ids, size=video.size, input_px=input_px, rule=rule)
    return np.where(found == tracks.VOID, 0, found)

  def given(self, video: Video) -> np.ndarray:
    return np.where(video.truth[0] == tracks.VOID, 0, video.truth[0])

  def scored(self, video: Video, number: int, found: np.ndarray) -> np.ndarray | None:
    return parts.histogram(video.truth[number], found)

  def joined(self, scored: Sequence[np.ndarray]) -> np.ndarray:
    return np.sum(scored, axis=0)

  def weighed(self, scored: Sequence[np.ndarray]) -> resampled.Value:
    whole = np.stack(scored)
    return lambda times_V: float(parts.miou(np.tensordot(times_V, whole, 1)))

  def total(self, scored: Sequence[np.ndarray], *, seed: int) -> dict[str, Any]:
    whole = np.sum(scored, axis=0)
    ends = _ends(self.weighed(scored), len(scored), seed)
    named = {f"IoU/{name}": float(v) for name, v in zip(tracks.PARTS, parts.ious(whole))}
    return {"mIoU": parts.miou(whole), **ends, **named}


def opened(kind: Kind, track: tracks.Track) -> Video:
  """A sequence with its annotations; raises ValueError where sizes differ."""
  truth = kind.truth(track)
  size = tracks.frame(track.frames[0]).shape[:2]
  if truth.dtype.kind != "f" and truth.shape[1:] != size:
    raise ConfigError(
      f"{track.truth[0]} has {truth.shape[1:]} pixels and {track.frames[0]} {size}; they must agree"
    )
  return Video(track, truth, size)
