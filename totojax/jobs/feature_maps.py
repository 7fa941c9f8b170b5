"""`run = "feature_maps"`: what features of frames hold, in pictures.

Of every encoder and layer the first three principal components of the places of
a clip are its colours, and how like each place is to one of the first frame is a
map of its own. A row and a clip are a part, on disk as soon as it is there, so an
interrupted run goes on with the next. Leaves `maps/` and `report.html`.

Shapes: T frames, S pixels of a side, L layers, h and w places, D width.
"""

from collections.abc import Callable
import dataclasses
import functools

from etils import epath
import numpy as np

from totojax import jobs
from totojax.config import feature_maps, track
from totojax.config.schema import ConfigError
from totojax.data.pixels import augment, containers, images, movies, whole
from totojax.evals import feature_views
from totojax.jobs.generate import prompts
from totojax.jobs.surprise import maps as heat
from totojax.report import feature_sections, frame
from totojax.rundir import console, directory, files
from totojax.storage import outside, reading
from totojax.trained import grids

_SIDE_PX = 256  # of frames, where none is named
_MARK = (255, 60, 60)  # of the place that others are compared with


@dataclasses.dataclass(frozen=True)
class _Row:
  """An encoder, or pixels."""

  name: str
  load: Callable[[], grids.Grids]


def run(
  config: feature_maps.FeatureMaps, workdir: epath.Path, interrupted: jobs.Interrupted
) -> bool:
  """Draws what is not drawn yet; False when interrupted.

  Raises:
    ConfigError: a clip or an encoder cannot be read.
  """
  clips = [_frames(path, config) for path in config.clips.paths]
  if not clips:
    raise ConfigError("clips.paths is empty; name videos, or folders of frames")
  directory.begin(workdir, config)
  rows, drawn = _rows(config), []
  files.make_folder(workdir / "maps")
  total = len(rows) * len(clips)
  with console.tracking("features", unit="pictures", total=total) as bar:
    for row in rows:
      made = [workdir / "maps" / f"{row.name}-{n:03d}.json" for n in range(len(clips))]
      if not all(map(files.exists, made)):
        maps = row.load()
        read = functools.partial(_maps, maps)
        shared = None
        if config.basis == "set":
          whole_set = zip(*(read(clip_TSS3) for clip_TSS3 in clips))
          shared = [feature_views.Basis.of([*each]) for each in whole_set]
        for number, (clip_TSS3, path) in enumerate(zip(clips, made)):
          if not files.exists(path):
            _draw(row.name, number, clip_TSS3, read(clip_TSS3), maps, shared, config, workdir)
          bar.advance()
          if interrupted(bar.done) and bar.done < total:
            return False
      drawn += [files.read_json(path) for path in made]
  files.write_json(
    workdir / "feature_maps.json", {"basis": config.basis, "drawn": drawn, "clips": len(clips)}
  )
  path = frame.write(workdir, feature_sections.PAGE)
  console.say(f"report: {path}")
  return True


def _frames(path: str, config: feature_maps.FeatureMaps) -> np.ndarray:
  """uint8 [T, H, W, 3] of a clip, evenly spread.

  Raises:
    ConfigError: there is none; says why.
  """
  if not reading.exists(path):
    raise ConfigError(f"clips.paths has {path!r}, and there is no such file or folder")
  try:
    video = whole.Whole.of(path)
    picked = prompts.spread(video.count, config.clips.frames)
    height, width = config.frames.size(_SIDE_PX)
    prepare = augment.Squash(height, "bicubic", width)
    return video.read(picked, prepare)[0]
  except (containers.Undecodable, images.Unreadable, OSError, ValueError) as error:
    raise ConfigError(f"clips.paths: {path}: {outside.shown(error)}") from error


def _rows(config: feature_maps.FeatureMaps) -> list[_Row]:
  def opened(one: track.Tracker) -> Callable[[], grids.Grids]:
    return functools.partial(grids.of_tracker, one, config.frames, seed=config.seed)

  rows = []
  for name, one in config.encoders.items():
    rows.append(_Row(name, opened(one)))
    if "untrained" in config.baselines and one.model_run and not one.untrained:
      rows.append(_Row(f"{name}-untrained", opened(dataclasses.replace(one, untrained=True))))
  if "pixels" in config.baselines:
    size_px = config.frames.size(_SIDE_PX)
    rows.append(_Row("pixels", lambda: grids.pixels(size_px)))
  return rows


def _maps(maps: grids.Grids, clip_TSS3: np.ndarray) -> list[np.ndarray]:
  """[T, h, w, D] of every layer."""
  return [np.stack(each) for each in zip(*maps.of("", iter(clip_TSS3)))]


def _draw(
  name: str,
  number: int,
  clip_TSS3: np.ndarray,
  layers: list[np.ndarray],
  maps: grids.Grids,
  shared: list[feature_views.Basis] | None,
  config: feature_maps.FeatureMaps,
  workdir: epath.Path,
) -> None:
  """Two pictures of a row and a clip, and a note of them."""
  h, w = layers[0].shape[1:3]
  place = int(config.place[0] * h), int(config.place[1] * w)
  width = config.width_px
  show = lambda frames: [movies.scaled(frame, width) for frame in frames]
  colours, likeness, shares = [show(clip_TSS3)], [show(_marked(clip_TSS3, place, (h, w)))], []
  for at, x_ThwD in enumerate(layers):
    basis = shared[at] if shared else feature_views.Basis.of(x_ThwD)
    shares.append(float(basis.shares_3.sum()))
    colours.append(show(_enlarged(basis.colours(x_ThwD), width)))
    like_Thw = feature_views.cosine(x_ThwD, frame=0, place=place)
    likeness.append(
      show(
        heat.heat(np.clip(like_hw, 0, 1).reshape(-1), frame_SS3, grid=len(like_hw), most=1.0)
        for like_hw, frame_SS3 in zip(like_Thw, clip_TSS3)
      )
    )
  note = {
    "row": name,
    "clip": config.clips.paths[number],
    "layers": list(maps.layers),
    "shares": shares,
    "place": list(place),
    "grid": [h, w],
  }
  for kind, pictures in (("pca", colours), ("cosine", likeness)):
    note[kind] = f"maps/{name}-{number:03d}-{kind}.webp"
    files.write_bytes(workdir / note[kind], movies.still(movies.joined(pictures)))
  files.write_json(workdir / "maps" / f"{name}-{number:03d}.json", note)


def _enlarged(colours_Thw3: np.ndarray, width_px: int) -> np.ndarray:
  return movies.enlarged(colours_Thw3, side_px=width_px)


def _marked(clip_TSS3: np.ndarray, place: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
  """The clip, whose first frame has a frame around the place."""
  out, side = clip_TSS3.copy(), clip_TSS3.shape[1]
  top, left = (p * side // g for p, g in zip(place, grid))
  bottom, right = ((p + 1) * side // g for p, g in zip(place, grid))
  edge = max(side // 128, 1)
  box = out[0, max(top - edge, 0) : bottom + edge, max(left - edge, 0) : right + edge]
  inner = box[edge:-edge, edge:-edge].copy()
  box[:] = _MARK
  box[edge:-edge, edge:-edge] = inner
  return out
