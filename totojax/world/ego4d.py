"""Clips of a hand as Ego4D's short-term anticipation lies on disk (`data/sources/sta.py` reads it).

  v2/full_scale/world-000000.mp4
  v2/annotations/fho_sta_train.json, fho_sta_val.json
  v2/annotations/world_sta_train.json, ...   ours: where the hand and all things are

A clip is asked about some frames before the hand's first touch. It is left out
where that touch is of another thing than it came for. The camera and what lies
about stand still until then, so that a box is that of all pixels in which the
thing was seen before the touch, also where the hand covers some of them.

Shapes: N frames, T things.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TYPE_CHECKING

import numpy as np

from totojax.config.world import SceneConfig, WorldOutput
from totojax.data.pixels import movies
from totojax.rundir import files
from totojax.storage import reading
from totojax.world import hand, truth

if TYPE_CHECKING:
  from totojax.world import film

VIDEOS, LISTS = "v2/full_scale", "v2/annotations"
_CRF = 12  # of the videos
_SEEN_FRAC = 0.25  # of a box, that the frame must show of what is in it


def name(number: int) -> str:
  """The uid of a video."""
  return f"world-{number:06d}"


def nouns(scene: SceneConfig) -> tuple[str, ...]:
  """Of the taxonomy, in the order of their ids."""
  return (*(hand.COLOURS if scene.nouns == "colour" else hand.TAKEN), "drawer")


def write(clip: "film.Clip", root: str, output: WorldOutput) -> dict[str, Any]:
  """Writes a video; what is asked about it, and what is so at each of these frames."""
  spec = clip.scene.spec
  folder = reading.join(root, VIDEOS)
  files.make_folder(folder)
  data = movies.mp4(clip.rgb_NHW3, fps=spec.fps, codec="h264", crf=_CRF)
  files.write_bytes(reading.join(folder, f"{name(spec.index)}.mp4"), data)
  return asked(clip, output)


def asked(clip: "film.Clip", output: WorldOutput) -> dict[str, Any]:
  """The queries of a clip; none where the hand first touches something else."""
  made, spec = clip.scene, clip.scene.spec
  (act,) = made.acts
  actor, target = made.number(act.subject), made.number(act.object)
  touches = [e for e in clip.events if e.verb == "touch" and actor in (e.subject, e.object)]
  noun = made.things[target - 1].noun
  facts = {"verb": act.verb, "noun": noun, "contact": touches[0].begin if touches else -1}
  if not touches or target not in (touches[0].subject, touches[0].object):
    return {**facts, "queries": []}
  touch = touches[0].begin
  boxes_T4 = _boxes(clip.boxes_NT4[:touch])
  tip_N3 = truth.project(made, clip.pos_NT3[:, actor - 1 : actor])[:, 0]
  away_NT = np.linalg.norm(clip.pos_NT3 - clip.pos_NT3[:, actor - 1 : actor], axis=-1)
  least, most = output.before
  queries = []
  # Those before a clip's begin, or in which the thing is hidden, are not asked.
  before = spec.generator(7).permutation(np.arange(least, most + 1))[: output.queries]
  for frame in sorted(touch - before):
    if frame < 0 or not _is_seen(clip.boxes_NT4[frame, target - 1], boxes_T4[target - 1]):
      continue
    things = [
      {
        "noun": thing.noun,
        "box": boxes_T4[t].tolist(),
        "away_m": float(away_NT[frame, t]),
        "is_next": t == target - 1,
      }
      for t, thing in enumerate(made.things)
      if t != actor - 1 and np.isfinite(boxes_T4[t]).all()
    ]
    queries.append(
      {
        "uid": f"{name(spec.index)}_{frame:07d}",
        "frame": int(frame),
        "ttc_s": float((touch - frame) / spec.fps),
        "tip": tip_N3[frame, :2].tolist(),
        "things": things,
      }
    )
  return {**facts, "queries": queries}


def _boxes(boxes_NT4: np.ndarray) -> np.ndarray:
  """About all that was seen of each thing, float64 [T, 4]; NaN: nothing was."""
  if not len(boxes_NT4):
    return np.full(boxes_NT4.shape[1:], np.nan)
  low_T2, high_T2 = (np.fmin.reduce(boxes_NT4[..., :2], 0), np.fmax.reduce(boxes_NT4[..., 2:], 0))
  return np.concatenate([low_T2, high_T2], -1).astype(np.float64)


def _is_seen(shown_4: np.ndarray, box_4: np.ndarray) -> bool:
  area = lambda box: float(np.prod(box[2:] - box[:2]))
  return bool(np.isfinite(shown_4).all()) and area(shown_4) >= _SEEN_FRAC * area(box_4)


def write_lists(
  root: str, split: str, scene: SceneConfig, rows: Sequence[Mapping[str, Any]]
) -> None:
  """The annotations of a split and what is ours beside them, of what `write` said of its clips."""
  folder = reading.join(root, LISTS)
  files.make_folder(folder)
  known = nouns(scene)
  about = {"fps": scene.fps, "num_frames": scene.frames}
  about |= {"frame_width": scene.width_px, "frame_height": scene.height_px}
  annotations, beside, metadata = [], {}, {}
  for row in rows:
    video = name(row["clip"])
    for query in row["queries"]:
      metadata[video] = about
      (target,) = (thing for thing in query["things"] if thing["is_next"])
      annotations.append(
        {
          "uid": query["uid"],
          "video_uid": video,
          "frame": query["frame"],
          "objects": [
            {
              "box": target["box"],
              "noun_category_id": known.index(target["noun"]),
              "verb_category_id": hand.VERBS.index(row["verb"]),
              "time_to_contact": query["ttc_s"],
            }
          ],
        }
      )
      beside[query["uid"]] = {
        "tip": query["tip"],
        "things": [
          {
            "box": thing["box"],
            "noun_category_id": known.index(thing["noun"]),
            "away_m": thing["away_m"],
          }
          for thing in query["things"]
        ],
      }
  value = {
    "info": {"version": "2", "description": "a rendered world", "video_metadata": metadata},
    "noun_categories": [{"id": i, "name": noun} for i, noun in enumerate(known)],
    "verb_categories": [{"id": i, "name": verb} for i, verb in enumerate(hand.VERBS)],
    "annotations": annotations,
  }
  files.write_json(reading.join(folder, f"world_sta_{split}.json"), beside)
  files.write_json(reading.join(folder, f"fho_sta_{split}.json"), value)
