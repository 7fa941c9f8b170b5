"""Clips as records of stores: pixels in one, what is true of them in another.

Shapes: N frames, H and W pixels, T things, E events.
"""

from typing import TYPE_CHECKING

import numpy as np

from totojax.config.world import SceneConfig
from totojax.data.sources import cater
from totojax.data.store import manifests
from totojax.world import hand, truth

if TYPE_CHECKING:
  from totojax.world import film

MOST_EVENTS = 128
NOUNS = (*hand.TAKEN, "drawer")


def most_things(scene: SceneConfig) -> int:
  """Things of the largest scene of a config."""
  return max(scene.things[1], 3) + (scene.kind == "hand")


def fields(scene: SceneConfig) -> tuple[manifests.Field, ...]:
  """Of the store of what is true.

  masks: numbers of things, 0 for everything else. depth: along the camera's axis.
  boxes: x1 y1 x2 y2 in pixels, ends left out, NaN where nothing is seen. pos, quat
  (w x y z): of the things. eye, turn: the camera's place, and its right, up and
  backwards as columns. contacts: which things touched since the frame before; 0
  is the table. events: begin, end, number of the verb in `truth.VERBS`, subject,
  object; rows of -1 fill up.
  """
  n, t, size = scene.frames, most_things(scene), (scene.height_px, scene.width_px)
  return (
    manifests.Field("masks", (n, *size), "uint8"),
    manifests.Field("depth", (n, *size), "float32"),
    manifests.Field("boxes", (n, t, 4), "float32"),
    manifests.Field("pos", (n, t, 3), "float64"),
    manifests.Field("quat", (n, t, 4), "float64"),
    manifests.Field("eye", (n, 3), "float64"),
    manifests.Field("turn", (n, 3, 3), "float64"),
    manifests.Field("contacts", (n, t + 1, t + 1), "uint8"),
    manifests.Field("events", (MOST_EVENTS, 5), "int32"),
  )


def arrays(clip: "film.Clip", most: int) -> dict[str, np.ndarray]:
  """The record of `fields`, filled up to `most` things.

  Raises:
    ValueError: more happens than a record holds.
  """
  if len(clip.events) > MOST_EVENTS:
    raise ValueError(
      f"{len(clip.events)} events in clip {clip.scene.spec.index}, and a record holds"
      f" {MOST_EVENTS}; use fewer frames or things"
    )
  n = len(clip.rgb_NHW3)
  contacts = np.zeros((n, most + 1, most + 1), np.uint8)
  for frame, a, b in clip.contacts:
    contacts[frame, a, b] = contacts[frame, b, a] = 1
  events = np.full((MOST_EVENTS, 5), -1, np.int32)
  for row, event in zip(events, clip.events):
    verb = truth.VERBS.index(event.verb)
    row[:] = event.begin, event.end, verb, event.subject, event.object
  more = most - clip.pos_NT3.shape[1]
  filled = lambda x: np.pad(x, ((0, 0), (0, more), (0, 0)), constant_values=np.nan)
  return {
    "masks": clip.masks_NHW,
    "depth": clip.depth_NHW,
    "boxes": filled(clip.boxes_NT4),
    "pos": filled(clip.pos_NT3),
    "quat": filled(clip.quat_NT4),
    "eye": clip.scene.camera.eye_N3,
    "turn": truth.rotations(clip.scene.camera),
    "contacts": contacts,
    "events": events,
  }


def classes(label: str) -> tuple[str, ...]:
  """Names of the classes of a label of `config.world`."""
  cells = tuple(f"row {c // cater.SIDE}, column {c % cater.SIDE}" for c in range(cater.SIDE**2))
  return {"": (), "cell": cells, "verb": hand.VERBS, "noun": NOUNS}[label]


def label_of(clip: "film.Clip", label: str) -> int | None:
  """The class of a clip; None where nothing is labelled."""
  if not label:
    return None
  if label == "cell":
    x, y, _ = clip.pos_NT3[-1, 0]
    return cater.cell(float(x), float(y))
  act = clip.scene.acts[0]
  if label == "verb":
    return hand.VERBS.index(act.verb)
  thing = clip.scene.things[clip.scene.number(act.object) - 1]
  return NOUNS.index(thing.noun)
