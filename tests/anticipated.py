"""A small Ego4D of short-term anticipation as it lies on disk."""

import json

import little_videos

from totojax.evals import sta_results

NOUNS = [{"id": 4, "name": "cup"}, {"id": 2, "name": "drawer"}, {"id": 9, "name": "(knife, blade)"}]
VERBS = [{"id": 7, "name": "take"}, {"id": 0, "name": "open"}]
FPS, SIZE = 30.0, (480, 320)  # ten times the videos'
FILE = "v2/annotations/fho_sta_train.json"


def thing(box=(10.0, 20.0, 110.5, 90.0), noun=2, verb=7, ttc_s=0.5):
  ids = {"noun_category_id": noun, "verb_category_id": verb}
  return {"box": list(box), **ids, "time_to_contact": ttc_s}


def annotations():
  """Two videos, three queries; of one two objects."""
  about = {"fps": FPS, "frame_width": SIZE[0], "frame_height": SIZE[1], "num_frames": 20}
  rows = [
    ("a_0000005", "a", 5, [thing()]),
    ("a_0000019", "a", 19, [thing(), thing((0, 0, 480, 320), 4, 0, 1.25)]),
    ("b_0000012", "b", 12, [thing((200.0, 100.0, 300.0, 200.0), 9, 0, 0.0)]),
  ]
  return {
    "info": {"version": "2", "video_metadata": {"a": about, "b": about}},
    "noun_categories": NOUNS,
    "verb_categories": VERBS,
    "annotations": [
      {
        "uid": uid,
        "video_uid": video,
        "frame": frame,
        "clip_uid": f"clip-{video}",
        "clip_frame": frame,
        "objects": things,
      }
      for uid, video, frame, things in rows
    ],
  }


def results():
  """What a model might say of them."""
  keys = ("box", "noun_category_id", "verb_category_id", "time_to_contact", "score")
  first = dict(zip(keys, ([11.0, 21.0, 110.0, 88.0], 2, 7, 0.375, 0.75)))
  second = dict(zip(keys, ([0.0, 3.0, 470.5, 310.0], 4, 0, 1.25, 0.5)))
  return {
    "version": sta_results.VERSION,
    "challenge": sta_results.CHALLENGE,
    "results": {"a_0000005": [first], "a_0000019": [first, second], "b_0000012": [second]},
  }


def write(path, value=None, *, file=FILE):
  """Annotations below a folder; ours, or others."""
  (path / file).parent.mkdir(parents=True, exist_ok=True)
  (path / file).write_text(json.dumps(annotations() if value is None else value))


def make(path):
  """Annotations and videos."""
  write(path)
  (path / "v2/full_scale").mkdir(parents=True, exist_ok=True)
  for name in ("a", "b"):
    little_videos.write(path / f"v2/full_scale/{name}.mp4", 20, codec="libx264")
