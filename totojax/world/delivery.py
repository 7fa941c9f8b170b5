"""What a child does with a clip: writes its files, or hands its arrays back.

Shapes: N frames, H and W pixels, C columns.
"""

import collections
from collections.abc import Collection
import dataclasses
from typing import Any, TYPE_CHECKING

import numpy as np

from totojax.config.world import SceneConfig, World
from totojax.data.pixels import movies
from totojax.rundir import files
from totojax.storage import reading
from totojax.world import cater, davis, ego4d, records, scene as scene_lib

if TYPE_CHECKING:
  from totojax.world import film

SHEETS = "sheets"
_COLUMNS, _GAP_PX = 8, 2
_STYLES = {"tabletop": "", "containers": "container", "hand": "actor"}


def spec(scene: SceneConfig, seed: int, index: int) -> scene_lib.Spec:
  """What scene number `index` of a config follows from."""
  both = scene.camera == "both"
  style = _STYLES[scene.kind]
  return scene_lib.Spec(
    kind=scene.kind,
    seed=seed,
    index=index,
    frames=scene.frames,
    width_px=scene.width_px,
    height_px=scene.height_px,
    fps=scene.fps,
    things=scene.things,
    camera=("still", "moving")[index % 2] if both else scene.camera,
    style=getattr(scene, style) if style else "",
    share=scene.carried_frac,
    move_frames=scene.move_frames,
    nouns=scene.nouns,
    zoom=scene.zoom,
  )


@dataclasses.dataclass(frozen=True)
class Delivery:
  """What comes back of a clip."""

  note: dict[str, Any]  # for the table of clips
  pixels_NHW3: np.ndarray | None = None  # of stores
  truth: dict[str, np.ndarray] | None = None  # of stores
  label: int | None = None  # its class


def deliver(
  clip: "film.Clip", config: World, root: str, split: str, shown: Collection[int]
) -> Delivery:
  """Writes a clip below `root` as the config has it, and a sheet of those that are `shown`."""
  number, output = clip.scene.spec.index, config.output
  note = {"clip": number, "split": split, **told(clip)}
  if number in shown:
    files.make_folder(reading.join(root, SHEETS))
    path = reading.join(reading.join(root, SHEETS), f"{number:06d}.png")
    files.write_bytes(path, movies.png(sheet(clip)))
  if output.format == "davis":
    note["objects"] = davis.write(clip, root, sequence(number), output.jpeg_quality)
    return Delivery(note)
  if output.format == "ego4d":
    return Delivery(note | ego4d.write(clip, root, output))
  if output.format == "cater":
    return Delivery(note | cater.write(clip, root, number, split))
  label = records.label_of(clip, output.label)
  most = records.most_things(config.scene)
  more = {} if label is None else {"label": records.classes(output.label)[label]}
  return Delivery(note | more, clip.rgb_NHW3, records.arrays(clip, most), label)


def sequence(number: int) -> str:
  """The name of a clip in DAVIS's files."""
  return f"world-{number:06d}"


def told(clip: "film.Clip") -> dict[str, Any]:
  """What is in a clip: camera, things, how much of them is seen, events by verb."""
  seen_NT = ~np.isnan(clip.boxes_NT4[..., 0])
  counts = collections.Counter(event.verb for event in clip.events)
  return {
    "camera": clip.scene.spec.camera,
    "things": seen_NT.shape[1],
    "seen_frac": round(float(seen_NT.mean()), 4),
    "events": dict(sorted(counts.items())),
  }


def sheet(clip: "film.Clip") -> np.ndarray:
  """uint8 [H, W, 3]: some frames, below each its masks and its depth."""
  n = len(clip.rgb_NHW3)
  some_C = np.unique(np.linspace(0, n - 1, min(_COLUMNS, n)).round().astype(int))
  colours = np.array(davis.palette(), np.uint8).reshape(256, 3)
  depth_CHW = clip.depth_NHW[some_C]
  near, far = np.quantile(depth_CHW, 0.01), np.quantile(depth_CHW, 0.98)
  grey_CHW = 255 * np.clip(1 - (depth_CHW - near) / max(far - near, 1e-6), 0, 1)
  rows = [
    clip.rgb_NHW3[some_C],
    colours[clip.masks_NHW[some_C]],
    np.repeat(grey_CHW[..., None], 3, -1).astype(np.uint8),
  ]
  gap = ((0, 0), (0, _GAP_PX), (0, _GAP_PX), (0, 0))
  lines = [np.concatenate(list(np.pad(row, gap, constant_values=255)), 1) for row in rows]
  return np.concatenate(lines)
