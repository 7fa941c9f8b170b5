"""`run = "track"`: labels of a first frame go on by the likeness of features.

A row is an encoder, or a baseline; of each there are its layers and the rules of
propagation. One forward pass gives all layers of a frame, and labels of all go on
with it, so that a video of any length needs the features of a context of frames.
What is found in a sequence is on disk as soon as it is there, in `parts/`, until
all is: an interrupted run goes on with the next sequence, and so do its drawings.

The run directory gets `metrics.json`, `per_layer.csv`, `per_sequence.csv`,
`layer_curve.png`, `results/` (the data set's own tables and predictions),
`overlays/` and `report.html`.
"""

from collections.abc import Iterator
import dataclasses
import functools
import time
from typing import Any

from etils import epath
import numpy as np

from totojax import jobs
from totojax.config import track
from totojax.config.propagation import Propagation
from totojax.config.schema import ConfigError
from totojax.data.sources import tracks
from totojax.evals import propagation
from totojax.jobs.track import kinds, tables
from totojax.report import frame, track_sections
from totojax.rundir import console, files
from totojax.trained import backbone, grids

COPY, PIXELS = "copy", "pixels"
_PLACES = 32  # of a side, of pixels where no encoder says


@dataclasses.dataclass(frozen=True)
class Row:
  """An encoder, or a baseline."""

  name: str
  rules: tuple[str, ...]
  load: Any  # () -> grids.Grids; None: the first frame's labels are copied


def run(config: track.Track, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Tracks through all sequences with all rows; False when interrupted.

  Raises:
    ConfigError: the data or an encoder do not fit.
  """
  kind, found = kinds.of(config.data), _listed(config.data, config.select)
  state, facts = _digested(kind, found), {"set": config.data.set, "year": config.data.year}
  sequences = [one.name for one in found]
  backbone.begin(workdir, config, facts, data={"data": state}, sequences=sequences)
  for number, row in enumerate(rows := rows_of(config), 1):
    console.say(f"[{number}/{len(rows)}] {row.name}")
    if not _tracked(row, found, kind, config, workdir, interrupted):
      return False
  layout = tables.Layout(workdir, found, {row.name: row.rules for row in rows})
  if not tables.write(kind, layout, config, {**facts, **state}, interrupted):
    return False
  report = frame.write(workdir, track_sections.PAGE)
  files.remove(workdir / "parts")
  console.say(track_sections.sentence(files.read_json(workdir / "metrics.json")))
  console.say(f"report: {report}")
  return True


def _listed(config: track.Tracks, select: int) -> list[tracks.Track]:
  """The sequences that a config names."""
  if not config.root:
    raise ConfigError(f"data.root is empty; set it to the folder of {config.set}")
  try:
    found = tracks.listed(
      config.set,
      config.root,
      split=config.split,
      year=config.year,
      resolution=config.resolution,
      names=config.list,
    )
  except (ValueError, OSError) as error:
    raise ConfigError(f"data: {error}") from error
  by_name = {one.name: one for one in found}
  if unknown := [name for name in config.sequences if name not in by_name]:
    raise ConfigError(f"data.sequences has {unknown[0]!r}, which no list of {config.root} names")
  chosen = [by_name[name] for name in config.sequences or by_name]
  if len(chosen) <= select:
    raise ConfigError(
      f"select is {select}, and there are {len(chosen)} sequences: none is left to be scored"
    )
  return chosen


def _digested(kind: kinds.Kind, found: list[tracks.Track]) -> dict[str, Any]:
  """What the annotations are known by; all are read, and so checked."""
  frames = 0

  def read() -> Iterator[tuple[str, np.ndarray]]:
    nonlocal frames
    with console.tracking("checking annotations", unit="sequences", total=len(found)) as bar:
      for one in found:
        video = kinds.opened(kind, one)
        frames += video.frames
        bar.advance()
        yield one.name, video.truth

  digest = tracks.digest(read())
  return {"digest": digest, "records": frames, "tokenizer": ""}


def rows_of(config: track.Track) -> list[Row]:
  """Encoders, each beside itself before training where it is asked for, and baselines."""
  rules, rows = tuple(config.propagation), []
  # Seeds of one name have untrained models of their own too.
  places = {name: i for members in config.seeds.values() for i, name in enumerate(members)}

  def opened(one: track.Tracker, later: int = 0) -> Any:
    return functools.partial(grids.of_tracker, one, config.frames, seed=config.seed + later)

  for name, one in config.encoders.items():
    rows.append(Row(name, rules, opened(one)))
    if "untrained" in config.baselines and one.model_run and not one.untrained:
      before = dataclasses.replace(one, untrained=True)
      rows.append(Row(f"{name}-untrained", rules, opened(before, places.get(name, 0))))
  if PIXELS in config.baselines:
    size_px = config.frames.size(_PLACES * grids.PATCH_PX)
    rows.append(Row(PIXELS, rules, lambda: grids.pixels(size_px)))
  if COPY in config.baselines:
    rows.append(Row(COPY, (COPY,), None))
  return rows


def _tracked(
  row: Row,
  found: list[tracks.Track],
  kind: kinds.Kind,
  config: track.Track,
  workdir: epath.Path,
  interrupted: jobs.Interrupted,
) -> bool:
  """Makes the parts of a row that are not there; False when interrupted."""
  folder = tables.folder_of(workdir, row.name)
  files.make_folder(folder)
  there = {path.name for path in files.children(folder)}
  missing = [n for n in range(len(found)) if f"{n:06d}.npz" not in there]
  if not missing:
    return True
  maps = row.load() if row.load else None
  if maps is not None:
    backbone.check_same({**maps.facts, "layers": list(maps.layers)}, folder)
  total = len(found)
  with console.tracking(row.name, unit="sequences", total=total, done=total - len(missing)) as bar:
    for number in missing:
      video = kinds.opened(kind, found[number])
      part = _copied(video, kind) if maps is None else _one(video, maps, kind, config)
      files.write_npz(folder / f"{number:06d}.npz", part, compressed=False)
      bar.advance(note=video.track.name)
      if interrupted(bar.done) and bar.done < total:
        return False
  return True


def _copied(video: kinds.Video, kind: kinds.Kind) -> dict[str, np.ndarray]:
  """The part of labels that stay where they are."""
  found = tables.Found(video, kind)
  for _ in range(video.frames):
    found.add(kind.given(video))
  return found.arrays(COPY, 0) | tables.seconds(0.0, 0.0, video.frames)


def _one(
  video: kinds.Video, maps: grids.Grids, kind: kinds.Kind, config: track.Track
) -> dict[str, np.ndarray]:
  """The part of a sequence: what is found by every rule in every layer.

  Raises:
    ConfigError: maps change their size, are not as many as frames, or are not finite.
  """
  lanes = {
    (rule, layer): _Lane(config.propagation[rule], tables.Found(video, kind))
    for rule in config.propagation
    for layer in maps.layers
  }
  paths, grid, count = video.track.frames[: video.frames], None, 0
  features_s, begin = 0.0, time.perf_counter()
  before = begin
  for count, maps_L in enumerate(maps.of(video.track.name, map(tracks.frame, paths)), 1):
    features_s += time.perf_counter() - before
    grid = maps_L[0].shape[:2] if grid is None else grid
    if any(x_hwD.shape[:2] != grid or not np.isfinite(x_hwD).all() for x_hwD in maps_L):
      raise ConfigError(
        f"features of frame {count} of {video.track.name} are {[x.shape for x in maps_L]} after"
        f" maps of {grid}, or not finite; those of all frames must be alike"
      )
    for (_, layer), lane in lanes.items():
      lane.go_on(maps_L[maps.layers.index(layer)], kind, maps.input_size(grid), config.chunk)
    before = time.perf_counter()
  if count != video.frames:
    raise ConfigError(f"{video.track.name} has {video.frames} frames, and maps of {count} came")
  whole_s = time.perf_counter() - begin
  out = tables.seconds(features_s, whole_s - features_s, count)
  for (rule, layer), lane in lanes.items():
    out |= lane.found.arrays(rule, layer)
  return out


@dataclasses.dataclass
class _Lane:
  """One rule on one layer, on its way through a video."""

  rule: Propagation
  found: tables.Found
  ids: tuple[int, ...] = ()
  state: propagation.State | None = None

  def go_on(self, x_hwD: np.ndarray, kind: kinds.Kind, input_px: kinds.Size, chunk: int) -> None:
    """Takes the next frame."""
    video, args = self.found.video, {"input_px": input_px, "rule": self.rule}
    if self.state is None:
      soft, self.ids = kind.first(video, grid=x_hwD.shape[:2], **args)
      self.state = propagation.start(x_hwD, soft, self.rule)
    else:
      self.state, soft = propagation.step(self.state, x_hwD, self.rule, chunk=chunk)
    first = not self.found.count and kind.keeps_first
    self.found.add(kind.given(video) if first else kind.found(video, soft, self.ids, **args))
