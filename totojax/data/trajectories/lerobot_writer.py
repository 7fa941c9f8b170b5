"""Episodes as a LeRobot data set of version 3.0.

All is written beside the target and renamed, so a data set is whole or not there. A
table and a video of each camera hold many episodes, up to STEPS_A_FILE steps.

Shapes: N steps of an episode, S numbers of a state, A of an action, H and W pixels.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import itertools
import json
import os
from typing import Any

from etils import epath
import numpy as np

from totojax.data.pixels import movies
from totojax.data.trajectories import episodes
from totojax.rundir import files

STEPS_A_FILE = 20_000
STATE, ACTION = "observation.state", "action"
ENVIRONMENT = "observation.environment_state"  # as LeRobot calls where everything is
_VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_CRF = 18
_COUNTS = ("frame_index", "episode_index", "index", "task_index")
_CHUNK = 1000  # files of a folder


@dataclasses.dataclass(frozen=True)
class Recorded:
  """An episode that is to be written."""

  task: str
  state_NS: np.ndarray
  action_NA: np.ndarray
  frames: Mapping[str, np.ndarray]  # camera -> uint8 [N, H, W, 3]
  environment_NE: np.ndarray | None = None  # where everything is


def write(
  root: str | os.PathLike[str],
  recorded: Iterable[Recorded],
  *,
  fps: int,
  robot: str,
  state_names: Sequence[str],
  action_names: Sequence[str],
  environment_names: Sequence[str] = (),
) -> None:
  """Writes a data set; episodes are taken one at a time.

  Args:
    root: the folder, which is not there yet.
    recorded: the episodes, whose cameras and sizes are alike.
    fps: steps a second.
    robot: its type, in a word.
    state_names: of the state's numbers.
    action_names: of the action's.
    environment_names: of the numbers of `environment_NE`; (): there are none.

  Raises:
    ValueError: there is no episode, or one is not like the first.
    FileExistsError: something is there.
    ImportError: PyAV is missing.
  """
  target = epath.Path(os.fspath(root))
  if target.exists():
    raise FileExistsError(f"{target} is there already; name another folder, or remove it")
  part = target.parent / f"{target.name}.part"
  files.remove(part)
  files.make_folder(part)
  writer = _Writer(
    part, fps, robot, tuple(state_names), tuple(action_names), tuple(environment_names)
  )
  writer.write(recorded)
  part.rename(target)


@dataclasses.dataclass
class _Writer:
  """A data set on its way."""

  root: epath.Path
  fps: int
  robot: str
  state_names: tuple[str, ...]
  action_names: tuple[str, ...]
  environment_names: tuple[str, ...] = ()
  tasks: dict[str, int] = dataclasses.field(default_factory=dict)
  places: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  shapes: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)  # of cameras
  steps: int = 0

  def write(self, recorded: Iterable[Recorded]) -> None:
    coming, file = iter(recorded), 0
    for first in coming:
      # What a file holds is in memory: its videos are written one after the other.
      group = [first, *self._more(coming, len(first.action_NA))]
      self._file(file, group)
      file += 1
    if not file:
      raise ValueError("there is no episode to write")
    self._meta()

  def _more(self, coming: Iterator[Recorded], steps: int) -> Iterator[Recorded]:
    while steps < STEPS_A_FILE and (one := next(coming, None)) is not None:
      steps += len(one.action_NA)
      yield one

  def _check(self, number: int, one: Recorded) -> None:
    name = f"episode {number}"
    episodes.checked(name, one.state_NS, one.action_NA)
    if self.environment_names:
      if one.environment_NE is None:
        raise ValueError(f"{name} has no environment_NE, and its numbers have names")
      episodes.checked(f"{name}, environment", one.environment_NE, one.action_NA)
    for what, table, names in (
      ("state", one.state_NS, self.state_names),
      ("action", one.action_NA, self.action_names),
      *self._environment(one),
    ):
      if table.shape[1] != len(names):
        raise ValueError(f"{name} has {what}s of {table.shape[1]} numbers, and names are {names}")
    for camera, frames in one.frames.items():
      if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        raise ValueError(
          f"{name}: {camera} is {frames.dtype} {frames.shape}, not uint8 [N, H, W, 3]"
        )
      if len(frames) != len(one.action_NA) or frames.shape[1] % 2 or frames.shape[2] % 2:
        raise ValueError(
          f"{name}: {camera} is {frames.shape}; it needs {len(one.action_NA)} frames of even sides"
        )
    shapes = {camera: frames.shape[1:] for camera, frames in one.frames.items()}
    self.shapes = self.shapes or shapes
    if shapes != self.shapes:
      raise ValueError(f"{name} has cameras {shapes}, and those before {self.shapes}")

  def _environment(self, one: Recorded) -> list[tuple[str, np.ndarray, tuple[str, ...]]]:
    """The further state of an episode, where one is written."""
    if one.environment_NE is None or not self.environment_names:
      return []
    return [("environment", one.environment_NE, self.environment_names)]

  def _file(self, file: int, group: Sequence[Recorded]) -> None:
    """Writes a table and a video of each camera."""
    columns: dict[str, list[np.ndarray]] = {}
    at, begin_s = {"chunk_index": file // _CHUNK, "file_index": file % _CHUNK}, 0.0
    for one in group:
      number, steps = len(self.places), len(one.action_NA)
      self._check(number, one)
      task = self.tasks.setdefault(one.task, len(self.tasks))
      mine = {
        STATE: one.state_NS.astype(np.float32),
        ACTION: one.action_NA.astype(np.float32),
        "timestamp": (np.arange(steps) / self.fps).astype(np.float32),
        "frame_index": np.arange(steps),
        "episode_index": np.full(steps, number),
        "index": self.steps + np.arange(steps),
        "task_index": np.full(steps, task),
      }
      for _, values, _ in self._environment(one):
        mine[ENVIRONMENT] = values.astype(np.float32)
      for name, values in mine.items():
        columns.setdefault(name, []).append(values)
      place: dict[str, Any] = {
        "episode_index": number,
        **{f"data/{key}": value for key, value in at.items()},
        "dataset_from_index": self.steps,
        "dataset_to_index": self.steps + steps,
      }
      for camera in one.frames:
        place |= {f"videos/{camera}/{key}": value for key, value in at.items()}
        place[f"videos/{camera}/from_timestamp"] = begin_s
        place[f"videos/{camera}/to_timestamp"] = begin_s + steps / self.fps
      place |= {"tasks": [one.task], "length": steps}
      for name, stats in {**_pixel_stats(one.frames), **_stats(mine)}.items():
        place |= {f"stats/{name}/{key}": value for key, value in stats.items()}
      place |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
      self.places.append(place)
      self.steps += steps
      begin_s += steps / self.fps
    _parquet(
      self.root / _DATA.format(**at), _table({k: np.concatenate(v) for k, v in columns.items()})
    )
    for camera in self.shapes:
      stream = itertools.chain.from_iterable(one.frames[camera] for one in group)
      path = self.root / _VIDEO.format(video_key=camera, **at)
      files.make_folder(path.parent)
      files.write_bytes(path, movies.mp4(stream, fps=self.fps, codec="h264", crf=_CRF))

  def _meta(self) -> None:
    import pyarrow

    _parquet(
      self.root / "meta" / "episodes" / "chunk-000" / "file-000.parquet",
      pyarrow.Table.from_pylist(self.places),
    )
    words = pyarrow.array([*self.tasks], pyarrow.large_string())
    index = "__index_level_0__"
    described = {
      "index_columns": [index],
      "column_indexes": [],
      "columns": [_pandas("task_index", "int64"), _pandas(index, "object")],
      "attributes": {},
    }
    tasks = pyarrow.table({"task_index": np.arange(len(self.tasks)), index: words})
    tasks = tasks.replace_schema_metadata({"pandas": json.dumps(described)})
    _parquet(self.root / "meta" / "tasks.parquet", tasks)
    names = sorted(
      {
        key.split("/", 1)[1].rpartition("/")[0]
        for key in self.places[0]
        if key.startswith("stats/")
      }
    )
    files.write_json(
      self.root / "meta" / "stats.json", {name: self._joined(name) for name in names}
    )
    files.write_json(self.root / "meta" / "info.json", self._info())

  def _joined(self, name: str) -> dict[str, Any]:
    """Statistics of all episodes, of those of each: population standard deviations."""
    of = {
      key: np.array([place[f"stats/{name}/{key}"] for place in self.places], np.float64)
      for key in ("min", "max", "mean", "std", "count")
    }
    weight = of["count"].reshape(-1, *[1] * (of["mean"].ndim - 1)) / of["count"].sum()
    mean = (weight * of["mean"]).sum(0)
    variance = (weight * (of["std"] ** 2 + (of["mean"] - mean) ** 2)).sum(0)
    return {
      "min": of["min"].min(0).tolist(),
      "max": of["max"].max(0).tolist(),
      "mean": mean.tolist(),
      "std": np.sqrt(variance).tolist(),
      "count": [int(of["count"].sum())],
    }

  def _info(self) -> dict[str, Any]:
    features: dict[str, Any] = {}
    for camera, (height, width, _) in self.shapes.items():
      told = {"fps": self.fps, "height": height, "width": width, "channels": 3, "codec": "h264"}
      told |= {"pix_fmt": "yuv420p", "is_depth_map": False}
      features[camera] = {
        "dtype": "video",
        "shape": [height, width, 3],
        "names": ["height", "width", "channels"],
        "info": {**{f"video.{key}": value for key, value in told.items()}, "has_audio": False},
      }
    numbers = {STATE: self.state_names, ENVIRONMENT: self.environment_names}
    for name, names in {**numbers, ACTION: self.action_names}.items():
      if not names:
        continue
      features[name] = _feature("float32", len(names), [*names], self.fps)
    features["timestamp"] = _feature("float32", 1, None, self.fps)
    features |= {name: _feature("int64", 1, None, self.fps) for name in _COUNTS}
    return {
      "codebase_version": "v3.0",
      "robot_type": self.robot,
      "total_episodes": len(self.places),
      "total_frames": self.steps,
      "total_tasks": len(self.tasks),
      "chunks_size": _CHUNK,
      "data_files_size_in_mb": 100,
      "video_files_size_in_mb": 200,
      "fps": self.fps,
      "splits": {"train": f"0:{len(self.places)}"},
      "data_path": _DATA,
      "video_path": _VIDEO,
      "features": features,
    }


def _feature(dtype: str, size: int, names: list[str] | None, fps: int) -> dict[str, Any]:
  return {"dtype": dtype, "shape": [size], "names": names, "fps": fps}


def _pandas(name: str, kind: str) -> dict[str, Any]:
  """What pandas wants to know of a column, so that words are its index."""
  named = None if name.startswith("__") else name
  numpy_type = "str" if kind == "object" else kind
  return {
    "name": named,
    "field_name": name,
    "pandas_type": kind,
    "numpy_type": numpy_type,
    "metadata": None,
  }


def _table(columns: Mapping[str, np.ndarray]) -> Any:
  """An Arrow table, with what Hugging Face's reader wants to know of its columns."""
  import pyarrow

  arrays, features = {}, {}
  for name, values in columns.items():
    told = {"dtype": str(values.dtype), "_type": "Value"}
    arrays[name], features[name] = pyarrow.array(values.reshape(-1)), told
    if values.ndim == 2:
      width = values.shape[1]
      arrays[name] = pyarrow.FixedSizeListArray.from_arrays(arrays[name], width)
      features[name] = {"feature": told, "length": width, "_type": "Sequence"}
  metadata = {"huggingface": json.dumps({"info": {"features": features}})}
  return pyarrow.table(arrays).replace_schema_metadata(metadata)


def _parquet(path: epath.Path, table: Any) -> None:
  import pyarrow
  from pyarrow import parquet

  sink = pyarrow.BufferOutputStream()
  parquet.write_table(table, sink)
  files.make_folder(path.parent)
  files.write_bytes(path, sink.getvalue().to_pybytes())


def _stats(columns: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
  """Of each number of a column, over the steps; population standard deviations."""
  out = {}
  for name, values in columns.items():
    table = values.reshape(len(values), -1)
    wide = table.astype(np.float64)
    out[name] = {
      "min": table.min(0).tolist(),
      "max": table.max(0).tolist(),
      "mean": wide.mean(0).tolist(),
      "std": wide.std(0).tolist(),
      "count": [len(table)],
    }
  return out


def _pixel_stats(frames: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
  """Of each colour of a camera, from 0 to 1, as [[[red]], [[green]], [[blue]]]."""
  out = {}
  for camera, pixels_NHW3 in frames.items():
    flat = pixels_NHW3.reshape(-1, 3)
    mean, square = (np.mean(flat.astype(np.float64) ** power, 0) for power in (1, 2))
    of = {
      "min": flat.min(0) / 255,
      "max": flat.max(0) / 255,
      "mean": mean / 255,
      "std": np.sqrt(np.maximum(square - mean**2, 0.0)) / 255,
    }
    out[camera] = {key: value.reshape(3, 1, 1).tolist() for key, value in of.items()}
    out[camera]["count"] = [len(pixels_NHW3)]
  return out
