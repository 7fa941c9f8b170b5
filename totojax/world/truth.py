"""What is true of frames: boxes, places in the image, events.

Shapes: N frames, H and W pixels, T things, P points.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from totojax.world.scene import Camera, DRIVEN, Scene, TABLE

_FALLEN = -0.02  # of a thing's origin: it has left the table


@dataclasses.dataclass(frozen=True, order=True)
class Event:
  """Something that happens, from one frame to another, both included."""

  begin: int
  end: int
  verb: str
  subject: int  # number of a thing; 0 is the table
  object: int  # -1: nothing


VERBS = (
  *("touch", "land", "fall"),  # by physics
  *("slide", "pick_place", "rotate", "contain"),
  *("take", "push", "open"),
)


def rotations(camera: Camera) -> np.ndarray:
  """[N, 3, 3]: the camera's right, up and backwards as columns, as OpenGL has them."""
  back_N3 = camera.eye_N3 - camera.target_N3
  back_N3 = back_N3 / np.linalg.norm(back_N3, axis=1, keepdims=True)
  right_N3 = np.cross([0.0, 0.0, 1.0], back_N3)
  right_N3 /= np.linalg.norm(right_N3, axis=1, keepdims=True)
  return np.stack([right_N3, np.cross(back_N3, right_N3), back_N3], -1)


def project(scene: Scene, points_NP3: np.ndarray) -> np.ndarray:
  """Where points of each frame are seen, [N, P, 3]: x and y in pixels, and depth.

  (0, 0) is the upper left corner of the image, and depth is along the camera's axis.
  """
  spec, camera = scene.spec, scene.camera
  own_NP3 = (points_NP3 - camera.eye_N3[:, None]) @ rotations(camera)
  depth_NP = -own_NP3[..., 2]
  scale = spec.height_px / 2 / np.tan(np.deg2rad(camera.fovy_deg) / 2)
  x_NP = spec.width_px / 2 + scale * own_NP3[..., 0] / depth_NP
  y_NP = spec.height_px / 2 - scale * own_NP3[..., 1] / depth_NP
  return np.stack([x_NP, y_NP, depth_NP], -1)


def on_table(scene: Scene, frame: int, turn_33: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """float32 x and y [H, W] of where each pixel looks at the table's plane.

  turn_33 is the camera's of this frame, as `rotations` has it.
  """
  spec, camera = scene.spec, scene.camera
  scale = float(spec.height_px / 2 / np.tan(np.deg2rad(camera.fovy_deg) / 2))
  right, up, back = turn_33.T.tolist()
  x_1W = ((np.arange(spec.width_px, dtype=np.float32) + 0.5) - spec.width_px / 2)[None] / scale
  y_H1 = (spec.height_px / 2 - (np.arange(spec.height_px, dtype=np.float32) + 0.5))[:, None] / scale
  ways = ((x_1W * right[i] - back[i], y_H1 * up[i]) for i in range(3))
  x_HW, y_HW, far_HW = (across_1W + down_H1 for across_1W, down_H1 in ways)
  eye = camera.eye_N3[frame].tolist()
  np.minimum(far_HW, -1e-3, out=far_HW)  # what looks up sees no table
  np.divide(-eye[2], far_HW, out=far_HW)
  for way_HW, begin in ((x_HW, eye[0]), (y_HW, eye[1])):
    way_HW *= far_HW
    way_HW += begin
  return x_HW, y_HW


def boxes(masks_NHW: np.ndarray, things: int) -> np.ndarray:
  """float32 [N, T, 4]: x1, y1, x2, y2 about each thing's pixels; NaN where it has none."""
  out_NT4 = np.full((len(masks_NHW), things, 4), np.nan, np.float32)
  number_T11 = np.arange(1, things + 1, dtype=masks_NHW.dtype)[:, None, None]
  for n, mask_HW in enumerate(masks_NHW):
    is_thing_THW = mask_HW == number_T11
    for at, is_seen in ((0, is_thing_THW.any(1)), (1, is_thing_THW.any(2))):
      t = np.flatnonzero(is_seen.any(1))
      out_NT4[n, t, at] = is_seen[t].argmax(1)
      out_NT4[n, t, at + 2] = is_seen.shape[1] - is_seen[t, ::-1].argmax(1)
  return out_NT4


def events(
  scene: Scene, contacts: Sequence[tuple[int, int, int]], pos_NT3: np.ndarray
) -> tuple[Event, ...]:
  """What physics made happen, and what the script says, in order.

  touch: two things that were apart, or a driven one and what it comes to; land:
  a thing comes down on the table after a frame without it; fall: it is below it.
  """
  found = []
  last: dict[tuple[int, int], int] = {}
  for frame, a, b in contacts:
    before = last.get((a, b), -2 if frame else -1)
    if frame > before + 1 and frame > 0:
      apart = frame - before > 2
      if a != TABLE:
        subject, other = (b, a) if scene.things[b - 1].motion == DRIVEN else (a, b)
        if (a, b) not in last or apart:
          found.append(Event(frame, frame, "touch", subject, other))
      elif apart:
        found.append(Event(frame, frame, "land", b, TABLE))
    last[a, b] = frame
  for number in range(1, len(scene.things) + 1):
    below = np.flatnonzero(pos_NT3[:, number - 1, 2] < _FALLEN)
    if len(below):
      found.append(Event(int(below[0]), int(below[0]), "fall", number, TABLE))
  for act in scene.acts:
    other = scene.number(act.object) if act.object else -1
    found.append(Event(act.begin, act.end, act.verb, scene.number(act.subject), other))
  return tuple(sorted(found))
