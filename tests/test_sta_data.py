"""Ego4D's short-term anticipation as it lies on disk: what is read, and what is wrong is named."""

import copy
import json
import re
import shutil

import anticipated
import little_videos
import numpy as np
from PIL import Image
import pytest

from totojax.data.pixels import numbered
from totojax.data.sources import sta


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  path = tmp_path_factory.mktemp("ego4d")
  anticipated.make(path)
  return path


@pytest.fixture
def value():
  return copy.deepcopy(anticipated.annotations())


def read(made, tmp_path, value, split="train"):
  """Of other annotations with the same videos."""
  file = f"fho_sta_{split}.json"
  anticipated.write(tmp_path, value, file=file)
  return sta.read(str(made), split, annotations=str(tmp_path / file))


def numbers(clip_THW3):
  return little_videos.numbers(clip_THW3[None])[0].tolist()


def test_queries_are_what_the_file_says(made):
  found = sta.read(str(made), "train")
  assert found.nouns == ("cup", "drawer", "(knife, blade)") and found.verbs == ("take", "open")
  assert found.noun_ids == (4, 2, 9) and found.verb_ids == (7, 0)
  assert found.uids == tuple(query.uid for query in found.queries) and not found.missing
  one, two, _ = found.queries
  assert (two.video, two.frame, two.width_px, two.height_px, two.fps) == ("a", 19, 480, 320, 30.0)
  assert two.boxes.dtype == np.float32 and two.boxes[0].tolist() == [10, 20, 110.5, 90]
  assert two.nouns.tolist() == [1, 0] and two.verbs.tolist() == [0, 1]  # places, not ids
  assert two.ttc_s.tolist() == [0.5, 1.25] and found.told == ()
  again = sta.read(str(made), "train", media=None)  # of the same, wherever its videos are
  assert again.digest() == found.digest() and again.queries[0].path == ""
  with pytest.raises(ValueError, match="a_0000005: its video was not looked for"):
    sta.clip(again.queries[0], 2, 1)


def test_clips_end_with_the_query_s_frame(made):
  one, two, other = sta.read(str(made), "train").queries
  assert numbers(sta.clip(two, 4, 3)) == [10, 13, 16, 19]
  assert numbers(sta.clip(one, 8, 1)) == [0, 0, 0, 1, 2, 3, 4, 5]  # before the begin, the first
  assert numbers(sta.clip(other, 1, 1)) == [12]
  assert sta.clip(two, 2, 1).shape == (2, 32, 48, 3)
  assert sta.clip(two, 2, 1, height_px=16).shape == (2, 16, 24, 3)


def test_of_a_large_file_packets_about_the_clip_are_read(tmp_path, monkeypatch):
  little_videos.write(tmp_path / "long.mp4", 108, codec="libx264", b_frames=2)
  path, prepare = str(tmp_path / "long.mp4"), numbered.Height(0, "bicubic")
  monkeypatch.setattr(numbered, "WHOLE_BYTES", 0)
  wanted = [100, 103, 107]
  timeline, before = numbered._timeline(path, wanted, 30.0)
  assert 0 < before <= 100 and len(timeline.times_s) < 108
  found = numbered.of_video(path, wanted, fps=30.0, prepare=prepare)
  assert numbers(np.stack(list(found.values()))) == wanted
  # Times that are not so regular do not number frames: all are read, and counted.
  times = [*range(50), *range(52, 110)]
  little_videos.write(tmp_path / "gap.mp4", 108, codec="libx264", times=times)
  gap = str(tmp_path / "gap.mp4")
  assert numbered._timeline(gap, [48, 52], 30.0)[1] == 0
  found = numbered.of_video(gap, [48, 52], fps=30.0, prepare=prepare)
  assert numbers(np.stack(list(found.values()))) == [48, 52]
  with pytest.raises(ValueError, match="frame 108 is beyond its end: it has 108 frames"):
    numbered.of_video(path, [108], fps=30.0, prepare=prepare)


def test_frames_in_place_of_videos_and_clips_in_place_of_both(made, tmp_path, value):
  folder = tmp_path / "object_frames"
  folder.mkdir()
  for row in value["annotations"]:
    for back in range(3):
      frame = row["frame"] - back
      picture = Image.fromarray(little_videos.picture(frame))
      picture.save(folder / f"{row['video_uid']}_{frame:07d}.jpg", quality=95)
  anticipated.write(tmp_path)
  found = sta.read(str(tmp_path), "train")
  assert numbers(sta.clip(found.queries[1], 2, 2)) == [17, 19]
  with pytest.raises(ValueError, match="a_0000019: .*a_0000016.jpg does not exist"):
    sta.clip(found.queries[1], 2, 3)
  (folder / "b_0000012.jpg").unlink()
  (left_out,) = sta.read(str(tmp_path), "train").missing
  assert left_out.id == "b_0000012" and "b_0000012.jpg does not exist" in left_out.reason
  # Clips go by their own uid and frame.
  for name in ("a", "b"):
    (tmp_path / "clips").mkdir(exist_ok=True)
    shutil.copy(made / f"v2/full_scale/{name}.mp4", tmp_path / f"clips/clip-{name}.mp4")
  value["annotations"][1]["clip_frame"] = 7
  del value["annotations"][2]["clip_uid"]
  anticipated.write(tmp_path, value)
  found = sta.read(str(tmp_path), "train", media="clips")
  assert numbers(sta.clip(found.queries[1], 2, 1)) == [6, 7]
  assert "clip_uid None" in found.missing[0].reason


def test_either_key_of_videos_v1_s_metadata_and_the_test_split(made, tmp_path, value):
  for row in value["annotations"]:
    row["video_id"] = row.pop("video_uid")
  value["videos"] = value.pop("info")["video_metadata"]
  assert [query.video for query in read(made, tmp_path, value).queries] == ["a", "a", "b"]
  for row in value["annotations"]:
    del row["objects"]
  found = read(made, tmp_path, value, "test_unannotated")
  assert [query.boxes.shape for query in found.queries] == [(0, 4)] * 3
  assert numbers(sta.clip(found.queries[0], 1, 1)) == [5]
  with pytest.raises(ValueError, match=r"no query that can be used \(3 are left out; .*no objects"):
    read(made, tmp_path, value, "val")


WRONG = {
  "a box": ({"box": [1, 2, 3]}, r"box \[1, 2, 3\] is not four numbers"),
  "no number": ({"box": [1, 2, float("nan"), 9]}, "is not four numbers"),
  "empty": ({"box": [50, 20, 50, 90]}, "boxes are empty"),
  "inside out": ({"box": [50, 20, 40, 90]}, "boxes are empty"),
  "outside": ({"box": [480, 20, 490, 90]}, "in a frame of 480 x 320: boxes are outside"),
  "no time": ({"time_to_contact": float("nan")}, "time_to_contact nan is no time"),
  "past": ({"time_to_contact": -0.5}, "time_to_contact -0.5 is no time"),
  "text": ({"time_to_contact": "1"}, "time_to_contact '1' is no time"),
  "noun": ({"noun_category_id": 3}, "noun_category_id 3 is none of noun_categories"),
  "verb": ({"verb_category_id": True}, "verb_category_id True is none of verb_categories"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_object_that_is_wrong_is_named_and_left_out(made, tmp_path, value, case):
  change, words = WRONG[case]
  value["annotations"][1]["objects"][1].update(change)
  found = read(made, tmp_path, value)
  (left_out,) = found.missing
  assert left_out.id == "a_0000019/object 1" and len(found.queries[1].nouns) == 1
  assert re.search(words, left_out.reason), left_out
  # Of a split that is scored, what the challenge counts stays, and is told.
  found = read(made, tmp_path, value, "val")
  stays = case in ("empty", "inside out", "outside")
  assert len(found.queries[1].nouns) == 1 + stays
  assert len(found.told) == stays and len(found.missing) == (not stays)


def test_boxes_that_reach_beyond_stay_and_are_told(made, tmp_path, value):
  value["annotations"][0]["objects"][0]["box"] = [-1.5, 20, 100, 90]
  found = read(made, tmp_path, value)
  assert found.queries[0].boxes[0].tolist() == [-1.5, 20, 100, 90]
  assert found.told == (
    "1 boxes reach beyond their frame, as [-1.5, 20.0, 100.0, 90.0] of 480 x 320 in a_0000005",
  )


def test_a_query_that_is_wrong_is_named_and_left_out(made, tmp_path, value):
  rows = value["annotations"]
  changes = (
    ({"frame": 20}, "its frame 20 is beyond the 20 frames of a"),
    ({"frame": 20, "video_uid": "c"}, "its frame 20 is beyond the end of .*c.mp4"),
    ({"frame": -1}, "its frame is -1"),
    ({"video_uid": "d"}, "its video d is not among the file's"),
    ({"video_uid": "../a"}, "no name of a file"),
    ({"video_uid": "gone"}, "no video 'gone' below"),
    ({"video_uid": "empty"}, "empty.mp4: .*"),
    ({"uid": "b_0000012"}, "annotation 10 has the uid of one before"),
    ({"uid": None}, "its uid is None"),
    ({"objects": []}, "it has no objects"),
  )
  for number, (change, _) in enumerate(changes):
    rows.append({**rows[0], "uid": f"bad {number}", **change})
  about = value["info"]["video_metadata"]
  about |= {name: {**about["a"], "num_frames": 99} for name in ("c", "gone", "empty")}
  about["c"]["fps"] = 10.0  # the file has 0.67 s
  del about["gone"]["num_frames"]
  shutil.copytree(made / "v2/full_scale", tmp_path / "videos")
  shutil.copy(tmp_path / "videos/a.mp4", tmp_path / "videos/c.mp4")
  (tmp_path / "videos/empty.mp4").touch()
  anticipated.write(tmp_path, value, file="fho_sta_train.json")
  found = sta.read(str(tmp_path), "train", media="videos")
  assert [query.uid for query in found.queries] == ["a_0000005", "a_0000019", "b_0000012"]
  assert len(found.missing) == len(changes)
  for left_out, (_, words) in zip(found.missing, changes):
    assert re.search(words, left_out.reason), left_out
  assert len(found.uids) == 3 + 8  # results need those that are left out too


def test_other_tasks_are_refused_by_name(made, tmp_path, value):
  for name, words in (
    ("fho_lta_train.json", "is of long-term anticipation"),
    ("fho_hands_train.json", "is of prediction of hands"),
    ("fho_scod_val.json", "is of detection of what changes"),
    ("fho_oscc-pnr_train.json", "is of classification of changes"),
    ("fho_sta_val.json", "is of the split 'val', and 'train' is wanted"),
  ):
    anticipated.write(tmp_path, value, file=name)
    with pytest.raises(ValueError, match=words):
      sta.read(str(made), "train", annotations=str(tmp_path / name))
  for other, words in (
    ({"clips": [], "split": "train"}, "has clips and no annotations, as long-term anticipation"),
    ({**value, "images": [], "categories": []}, "as COCO's detection has"),
    ({"annotations": []}, "has no list noun_categories"),
    ([], "holds no JSON object"),
    ({**value, "noun_categories": [{"id": 1, "name": "a"}] * 2}, "has the id 1 twice"),
    ({**value, "info": {}}, "has no info.video_metadata"),
  ):
    (tmp_path / "mine.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match=words):
      sta.read(str(made), "train", annotations=str(tmp_path / "mine.json"))
  with pytest.raises(ValueError, match="no annotations .*there is .*fho_hands_train.json, whi"):
    sta.read(str(tmp_path), "test_unannotated")
  with pytest.raises(ValueError, match="split is 'test'"):
    sta.read(str(made), "test")
  anticipated.write(tmp_path, file="v1/fho_sta_train.json")
  with pytest.raises(ValueError, match="no folder of videos or frames; looked for .*full_scale"):
    sta.read(str(tmp_path / "v1"), "train")


def test_videos_of_another_shape_are_refused(made, tmp_path, value):
  value["info"]["video_metadata"]["a"]["frame_height"] = 480
  found = read(made, tmp_path, value)
  with pytest.raises(ValueError, match="a.mp4 has frames of 48 x 32 pixels, .* 480 x 480"):
    sta.clip(found.queries[0], 2, 1)
