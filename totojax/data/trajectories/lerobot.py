"""LeRobot's data sets, versions 2.1 and 3.0, read as its own loader does.

Layout, in <root>
  meta/info.json                   what there is; paths of the others as templates
  meta/episodes.jsonl, tasks.jsonl (2.1)
  meta/episodes/*/*.parquet, meta/tasks.parquet (3.0)
  data/...parquet                  a row for each step: state, action, times
  videos/...mp4                    of each camera: an episode a file (2.1), or several (3.0)

A step's frame is the one shown at its time, within 1e-4 s as in LeRobot; pictures may
also lie in the rows (dtype "image"). Parquet is read by pyarrow.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import os
import re
from typing import Any

import numpy as np

from totojax.data.pixels import augment, containers, decode, images, timelines
from totojax.data.sources import items
from totojax.data.trajectories import episodes
from totojax.storage import outside

VERSIONS = ("v2.1", "v3.0")
TOLERANCE_S = 1e-4  # of a time, strictly, as LeRobot's own
TABLE_BYTES = 2**31  # of a table, unpacked
_FIELD = re.compile(r"\{(\w+)(?::0(\d)d)?\}")
_PLAIN = ("timestamp", "frame_index", "episode_index", "index", "task_index")


@dataclasses.dataclass(frozen=True)
class Feature:
  """A column, or a camera."""

  dtype: str
  shape: tuple[int, ...]
  names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Info:
  """meta/info.json."""

  path: str
  version: str
  fps: float
  episodes: int
  frames: int
  chunks_size: int
  data_path: str
  video_path: str
  features: Mapping[str, Feature]
  splits: Mapping[str, tuple[int, int]]  # episodes, the end left out

  @property
  def cameras(self) -> tuple[str, ...]:
    return tuple(k for k, v in self.features.items() if v.dtype in ("video", "image"))


@dataclasses.dataclass(frozen=True)
class Place:
  """Where an episode is."""

  number: int
  length: int
  tasks: tuple[str, ...]
  first: int | None  # of all rows of the set; None: not said
  data: str  # its table
  videos: Mapping[str, tuple[str, float]]  # camera -> (file, seconds before the episode)


def read(
  root: str | os.PathLike[str], *, state: str = "observation.state", action: str = "action"
) -> episodes.Recording:
  """All episodes; those that are damaged or not there are `missing`.

  Args:
    root: the folder with meta/.
    state: the column of what the robot feels.
    action: the column of what it does.

  Raises:
    ValueError: it is no such data set, has no such column, or nothing is left.
    OSError: it cannot be read.
  """
  root = os.fspath(root)
  info = read_info(root)
  for name in (state, action):
    _check_column(info, name)
  words = tasks(root, info)
  found, missing = [], []
  for place in places(root, info):
    name = f"episode_{place.number:06d}"
    try:
      found.append(_episode(name, place, info, words, state=state, action=action))
    except (ValueError, OSError) as error:
      missing.append(items.Skipped(name, outside.shown(error)))
  felt, done = (info.features[key].names for key in (state, action))
  return episodes.Recording(info.fps, info.cameras, felt, done, tuple(found), tuple(missing))


def read_info(root: str) -> Info:
  """Raises as `read`."""
  path = os.path.join(root, "meta", "info.json")
  if not os.path.exists(path):
    raise ValueError(f"{root} is no LeRobot data set: it has no meta/info.json")
  told = outside.read_json(path)
  try:
    version = told["codebase_version"]
    if version not in VERSIONS:
      raise outside.Damaged(
        path,
        f"codebase_version is {version!r}, and {' and '.join(VERSIONS)} are read",
        "; convert it with LeRobot's own scripts",
      )
    info = Info(
      path=path,
      version=version,
      fps=_number(told["fps"]),
      episodes=_whole(told["total_episodes"]),
      frames=_whole(told["total_frames"]),
      chunks_size=_whole(told["chunks_size"]),
      data_path=_text(told["data_path"]),
      video_path=_text(told.get("video_path") or ""),
      features={_text(k): _feature(v) for k, v in told["features"].items()},
      splits={k: _stretch(v) for k, v in told.get("splits", {}).items()},
    )
    if min(info.fps, info.episodes, info.chunks_size) <= 0:
      raise ValueError("fps, total_episodes and chunks_size must be above 0")
    return info
  except outside.Damaged:
    raise
  except (KeyError, TypeError, AttributeError, ValueError) as error:
    raise outside.Damaged(path, f"{type(error).__name__}: {error}") from error


def _number(value: Any) -> float:
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise TypeError(f"{value!r:.80} is no number")
  return float(value)


def _whole(value: Any) -> int:
  if isinstance(value, bool) or not isinstance(value, int):
    raise TypeError(f"{value!r:.80} is no whole number")
  return value


def _text(value: Any) -> str:
  if not isinstance(value, str):
    raise TypeError(f"{value!r:.80} is no text")
  return value


def _stretch(value: Any) -> tuple[int, int]:
  found = re.fullmatch(r"(\d{1,12}):(\d{1,12})", _text(value))
  if found is None:
    raise ValueError(f"a split is {value!r:.80}; it must be FIRST:END")
  return int(found[1]), int(found[2])


def _feature(told: Mapping[str, Any]) -> Feature:
  names = told.get("names")
  if isinstance(names, dict):  # {"motors": [...]}, as some write it
    names = next(iter(names.values()), None)
  known = isinstance(names, list) and all(isinstance(name, str) for name in names)
  shape = tuple(map(_whole, told["shape"]))
  return Feature(_text(told["dtype"]), shape, tuple(names) if known and names else ())


def _check_column(info: Info, name: str) -> None:
  feature = info.features.get(name)
  if feature is None or feature.dtype in ("video", "image", "string"):
    numbers = [k for k, v in info.features.items() if v.dtype.startswith(("float", "int"))]
    there = ", ".join(k for k in numbers if k not in _PLAIN) or "none"
    raise ValueError(f"{info.path} has no column {name!r} of numbers; there are: {there}")
  if len(feature.shape) != 1:
    raise ValueError(f"{name} of {info.path} has shape {feature.shape}; it must be a list")


def _file(root: str, template: str, **values: int | str) -> str:
  """A path that a template of info.json gives, below the root."""

  def filled(found: re.Match[str]) -> str:
    value = values[found[1]]
    return f"{value:0{found[2]}d}" if found[2] and isinstance(value, int) else str(value)

  path = _FIELD.sub(filled, template)
  parts = path.split("/")
  if os.path.isabs(path) or {"", ".", ".."} & {*parts} or not path.isprintable():
    raise ValueError(f"the path {path!r:.200} leads out of the data set")
  return os.path.join(root, *parts)


def _table(path: str, columns: Sequence[str] | None = None) -> Any:
  """A table of a Parquet file, whose size unpacked is known before."""
  import pyarrow  # slow to import
  from pyarrow import parquet

  try:
    with outside.open_plain(path, most_bytes=outside.FILE_BYTES) as file:
      opened = parquet.ParquetFile(file)
      facts = opened.metadata
      size = sum(facts.row_group(n).total_byte_size for n in range(facts.num_row_groups))
      if size > TABLE_BYTES:
        raise outside.Damaged(path, f"it has {size:,} bytes unpacked, and up to {TABLE_BYTES:,}")
      if columns is not None:
        there = set(opened.schema_arrow.names)
        if lacking := [name for name in columns if name not in there]:
          raise outside.Damaged(path, f"it has no column {lacking[0]!r}")
      return opened.read(columns=None if columns is None else [*columns], use_threads=False)
  except (outside.Damaged, FileNotFoundError):
    raise
  except (pyarrow.ArrowException, OverflowError, OSError, ValueError) as error:
    raise outside.Damaged(path, f"{type(error).__name__}: {error}") from error


def _column(path: str, table: Any, name: str, width: int) -> np.ndarray:
  """A column of numbers as [rows, width]; Damaged where it is none."""
  column = table.column(name).combine_chunks()
  try:
    if column.null_count:
      raise ValueError(f"{name} is not there in {column.null_count} rows")
    if hasattr(column, "flatten") and str(column.type).find("list") >= 0:
      values = np.asarray(column.flatten())
    else:
      values = np.asarray(column)
    if values.dtype.kind not in "fiu":
      raise ValueError(f"{name} is of {column.type}")
    out = values.reshape(-1, width)
  except (ValueError, TypeError) as error:
    raise outside.Damaged(path, str(error)) from error
  if len(out) != len(column):
    raise outside.Damaged(path, f"{name} has {len(values)} numbers in {len(column)} rows")
  return out


def _listed(path: str, table: Any, name: str | None = None) -> Any:
  """A column, or all by their names, as Python's values; Damaged where a text is none."""
  try:
    return table.to_pydict() if name is None else table.column(name).to_pylist()
  except ValueError as error:  # UnicodeDecodeError
    raise outside.Damaged(path, f"a text in it is none ({error})") from error


def tasks(root: str, info: Info) -> dict[int, str]:
  """Their words by task_index."""
  if info.version == "v2.1":
    path = os.path.join(root, "meta", "tasks.jsonl")
    return {
      _field(path, row, "task_index", int): _field(path, row, "task", str) for row in _lines(path)
    }
  path = os.path.join(root, "meta", "tasks.parquet")
  rows = _listed(path, _table(path))
  words = next((v for v in rows.values() if v and all(isinstance(x, str) for x in v)), [])
  # LeRobot's reader goes by the row, whatever the column says.
  return dict(enumerate(words))


def _lines(path: str) -> Iterator[Mapping[str, Any]]:
  """The objects of a file with one JSON a line."""
  for number, line in enumerate(outside.load(path).splitlines(), 1):
    if line.strip():
      row = outside.parse(f"{path}:{number}", line)
      if not isinstance(row, dict):
        raise outside.Damaged(path, f"line {number} is no object")
      yield row


def _field(path: str, row: Mapping[str, Any], name: str, kind: type) -> Any:
  value = row.get(name)
  if not isinstance(value, kind) or isinstance(value, bool):
    raise outside.Damaged(path, f"{name} is {value!r:.80}, and no {kind.__name__}")
  return value


def places(root: str, info: Info) -> Iterator[Place]:
  """Where each episode is, in the order of their numbers."""
  found = sorted(
    _places_21(root, info) if info.version == "v2.1" else _places_30(root, info),
    key=lambda place: place.number,
  )
  numbers = [place.number for place in found]
  if numbers != list(range(info.episodes)):
    raise outside.Damaged(
      info.path,
      f"total_episodes is {info.episodes}, and meta/ has the episodes {str(numbers)[:80]}",
    )
  if (total := sum(place.length for place in found)) != info.frames:
    raise outside.Damaged(info.path, f"total_frames is {info.frames}, and episodes have {total}")
  yield from found


def _videos_of(info: Info) -> list[str]:
  return [key for key, one in info.features.items() if one.dtype == "video"]


def _places_21(root: str, info: Info) -> Iterator[Place]:
  path, first = os.path.join(root, "meta", "episodes.jsonl"), 0
  for row in _lines(path):
    number, length = (_field(path, row, name, int) for name in ("episode_index", "length"))
    tasks = tuple(map(str, _field(path, row, "tasks", list)))
    at = {"episode_chunk": number // info.chunks_size, "episode_index": number}
    try:
      videos = {
        key: (_file(root, info.video_path, video_key=key, **at), 0.0) for key in _videos_of(info)
      }
      data = _file(root, info.data_path, **at)
    except (KeyError, ValueError) as error:
      raise outside.Damaged(info.path, f"its paths: {error}") from error
    yield Place(number, length, tasks, first, data, videos)
    first += length


def _places_30(root: str, info: Info) -> Iterator[Place]:
  top = os.path.join(root, "meta", "episodes")
  paths = sorted(
    os.path.join(folder, name)
    for folder, _, names in os.walk(top)
    for name in names
    if name.endswith(".parquet")
  )
  if not paths:
    raise outside.Damaged(info.path, f"{top} holds no table of episodes")
  keys = _videos_of(info)
  columns = ["episode_index", "length", "dataset_from_index", "data/chunk_index", "data/file_index"]
  for key in keys:
    columns += [f"videos/{key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
  for path in paths:
    rows = _table(path, [*columns, "tasks"])
    number = {name: _column(path, rows, name, 1)[:, 0] for name in columns}
    for n, words in enumerate(_listed(path, rows, "tasks")):

      def at(name: str, n: int = n, number: Mapping[str, np.ndarray] = number) -> int:
        return int(number[name][n])

      def where(what: str, of: Any = at) -> dict[str, int]:
        return {name: of(f"{what}/{name}") for name in ("chunk_index", "file_index")}

      try:
        videos = {
          key: (
            _file(root, info.video_path, video_key=key, **where(f"videos/{key}")),
            float(number[f"videos/{key}/from_timestamp"][n]),
          )
          for key in keys
        }
        data = _file(root, info.data_path, **where("data"))
      except (KeyError, ValueError) as error:
        raise outside.Damaged(info.path, f"its paths: {error}") from error
      first = at("dataset_from_index")
      named = tuple(map(str, words or ()))
      yield Place(at("episode_index"), at("length"), named, first, data, videos)


@functools.lru_cache(maxsize=4)  # a file of 3.0 has many episodes, which come in its order
def _rows(path: str, columns: tuple[str, ...], stamp: tuple[int, int]) -> Any:
  del stamp  # of the file: another one is read anew
  return _table(path, columns)


def _episode(
  name: str, place: Place, info: Info, words: Mapping[int, str], *, state: str, action: str
) -> episodes.Episode:
  """Raises ValueError, OSError: it is not what info.json says."""
  status = os.stat(place.data)
  stored = tuple(key for key in info.cameras if info.features[key].dtype == "image")
  table = _rows(place.data, (*_PLAIN, state, action, *stored), (status.st_mtime_ns, status.st_size))
  number_N = _column(place.data, table, "episode_index", 1)[:, 0]
  rows = np.flatnonzero(number_N == place.number)
  if len(rows) != place.length or np.any(np.diff(rows) != 1):
    raise outside.Damaged(
      place.data,
      f"it has {len(rows)} rows of episode {place.number}, and meta/ says {place.length}",
    )
  begin, end = int(rows[0]), int(rows[-1]) + 1
  mine = table.slice(begin, end - begin)
  column = functools.partial(_column, place.data, mine)
  frame_N, index_N, task_N = (
    column(key, 1)[:, 0] for key in ("frame_index", "index", "task_index")
  )
  time_N = column("timestamp", 1)[:, 0].astype(np.float64)
  if not np.array_equal(frame_N, np.arange(place.length)):
    raise outside.Damaged(place.data, f"frame_index of episode {place.number} has gaps")
  if place.first is not None and index_N[0] != place.first:
    raise outside.Damaged(
      place.data, f"index of episode {place.number} begins at {index_N[0]}, not {place.first}"
    )
  # Single precision has steps of 1.2e-4 s beyond 1,024 s.
  slack_s = TOLERANCE_S + 2 * np.spacing(np.float32(np.abs(time_N).max(initial=0.0)))
  if np.any(np.abs(np.diff(time_N) - 1 / info.fps) > slack_s):
    raise outside.Damaged(
      place.data, f"times of episode {place.number} are not 1/{info.fps:g} s apart"
    )
  sides = {key: info.features[key].shape[0] for key in (state, action)}
  state_NS, action_NA = (column(key, sides[key]).astype(np.float32) for key in (state, action))
  episodes.checked(name, state_NS, action_NA)
  task = words.get(int(task_N[0]), place.tasks[0] if place.tasks else "")

  def frames(camera: str, steps: Sequence[int], prepare: augment.Resize) -> np.ndarray:
    if camera not in info.cameras:
      raise ValueError(f"camera {camera!r} is unknown; there are: {', '.join(info.cameras)}")
    _check_steps(name, steps, place.length)
    if camera in stored:
      return _pictures(place.data, mine, camera, steps, prepare)
    path, before_s = place.videos[camera]
    return _shown(path, before_s + np.asarray(steps) / info.fps, prepare)

  return episodes.Episode(name, task, state_NS, action_NA, frames)


def _check_steps(name: str, steps: Sequence[int], length: int) -> None:
  ascending = all(a < b for a, b in zip(steps, steps[1:]))
  if not len(steps) or not ascending or steps[0] < 0 or steps[-1] >= length:
    raise ValueError(
      f"steps {str(list(steps))[:60]} of {name}; they ascend, from 0 to {length - 1}"
    )


@functools.lru_cache(maxsize=8)
def _timeline(path: str, stamp: tuple[int, int]) -> timelines.Timeline:
  del stamp
  return timelines.read(path)


def _shown(path: str, times_s: np.ndarray, prepare: augment.Resize) -> np.ndarray:
  """Frames of a video at these times, uint8 [times, H, W, 3].

  Raises:
    outside.Damaged: there is none within the tolerance, or it does not decode.
  """
  status = os.stat(path)
  try:
    timeline = _timeline(path, (status.st_mtime_ns, status.st_size))
    nearest = decode.nearest(timeline.times_s)
    wanted = [nearest(time_s) for time_s in times_s.tolist()]
    off_s = np.abs(timeline.times_s[wanted] - times_s)
    if (worst := int(off_s.argmax())) is not None and off_s[worst] >= TOLERANCE_S:
      raise outside.Damaged(
        path,
        f"no frame is within {TOLERANCE_S:g} s of {times_s[worst]:.4f} s; the nearest is"
        f" {off_s[worst]:.4f} s away",
      )
    found = decode.read_images(path, wanted, timeline=timeline, prepare=prepare)
  except containers.Undecodable as error:
    raise outside.Damaged(path, str(error)) from error
  return np.stack([found[number] for number in wanted])


def _pictures(
  path: str, table: Any, camera: str, steps: Sequence[int], prepare: augment.Resize
) -> np.ndarray:
  """Pictures that lie in the rows, as files."""
  rows = _listed(path, table.take(np.asarray(steps)), camera)
  out = []
  for step, row in zip(steps, rows):
    data = row.get("bytes") if isinstance(row, dict) else None
    try:
      if not isinstance(data, bytes):
        raise images.Unreadable("it holds no bytes of a picture")
      out.append(prepare(images.read(data, animated="refuse")))
    except images.Unreadable as error:
      raise outside.Damaged(path, f"{camera} of step {step}: {error}") from error
  if len({one.shape for one in out}) > 1:
    raise outside.Damaged(path, f"pictures of {camera} are of several sizes")
  return np.stack(out)
