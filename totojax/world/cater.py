"""Clips of containers as CATER lies on disk (`data/sources/cater.py` reads it).

Shapes: N frames, T things.
"""

import math
from typing import Any, TYPE_CHECKING

import numpy as np

from totojax.data.pixels import movies
from totojax.data.sources import cater
from totojax.rundir import files
from totojax.storage import reading
from totojax.world import containers, truth

if TYPE_CHECKING:
  from totojax.world import film

QUALITY = 3  # of the videos' JPEGs
_LISTS = {4: "localize_4x4", 6: "localize", 8: "localize_8x8"}


def name(number: int) -> str:
  return f"CLEVR_new_{number:06d}"


def scene(clip: "film.Clip", number: int, split: str) -> dict[str, Any]:
  """What CATER's scenes/*.json say."""
  made, planned = clip.scene, containers.plan(clip.scene.spec)
  seen_T3 = truth.project(made, clip.pos_NT3)[0]
  axes_33 = truth.rotations(made.camera)[0]
  behind, right = (v / np.linalg.norm(v) for v in (-axes_33[:, 2] * [1, 1, 0], axes_33[:, 0]))
  directions = {"behind": behind, "front": -behind, "left": -right, "right": right}
  directions |= {"above": np.array([0.0, 0, 1]), "below": np.array([0.0, 0, -1])}
  objects = []
  for t, prop in enumerate(planned.props):
    objects.append(
      {
        "shape": prop.shape,
        "size": prop.size_name,
        "sized": prop.size,
        "material": prop.material,
        "3d_coords": clip.pos_NT3[0, t].tolist(),
        "rotation": prop.turn_deg,
        "pixel_coords": seen_T3[t].tolist(),
        "color": prop.colour,
        "instance": prop.name,
        "locations": {str(n): place.tolist() for n, place in enumerate(clip.pos_NT3[:, t])},
      }
    )
  movements: dict[str, list[Any]] = {prop.name: [] for prop in planned.props}
  for act in planned.acts:
    movements[act.subject].append([f"_{act.verb}", act.object or None, act.begin, act.end])
  return {
    "split": split,
    "image_index": number,
    "image_filename": f"{name(number)}.avi",
    "objects": objects,
    "directions": {key: value.tolist() for key, value in directions.items()},
    "relationships": _relationships(clip.pos_NT3[0], directions),
    "movements": movements,
  }


def _relationships(
  pos_T3: np.ndarray, directions: dict[str, np.ndarray]
) -> dict[str, list[list[int]]]:
  """For each level direction and thing, which others lie that way."""
  away_TT3 = pos_T3 - pos_T3[:, None]
  return {
    key: [np.flatnonzero(row).tolist() for row in away_TT3 @ way > 0.2]
    for key, way in directions.items()
    if key not in ("above", "below")
  }


def write(clip: "film.Clip", root: str, number: int, split: str) -> dict[str, Any]:
  """Writes a video and its scene; cells by grid, and whether it is carried while hidden."""
  folders = [reading.join(root, kind) for kind in ("videos", "scenes")]
  for folder in folders:
    files.make_folder(folder)
  data = movies.avi(clip.rgb_NHW3, fps=clip.scene.spec.fps, quality=QUALITY)
  files.write_bytes(reading.join(folders[0], f"{name(number)}.avi"), data)
  path = reading.join(folders[1], f"{name(number)}.json")
  files.write_json(path, scene(clip, number, split))
  fate = cater.read_fate(path)
  return {
    "cells": {str(side): cater.cell(*fate.last, side) for side in _LISTS},
    "hidden": fate.hidden is not None,
    "carried": fate.is_carried(),
  }


def write_lists(root: str, split: str, rows: list[tuple[int, dict[str, Any]]]) -> None:
  """The lists of a split, of (number, what `write` said); of "train" its two subsets too."""
  parts = {split: rows}
  if split == "train":
    cut = math.ceil(0.8 * len(rows))
    parts |= {"train_subsetT": rows[:cut], "train_subsetV": rows[cut:]}
  for side, folder in _LISTS.items():
    top = reading.join(reading.join(root, "lists"), folder)
    files.make_folder(top)
    for part, some in parts.items():
      lines = [f"{name(number)}.avi {facts['cells'][str(side)]}\n" for number, facts in some]
      files.write_text(reading.join(top, f"{part}.txt"), "".join(lines))
