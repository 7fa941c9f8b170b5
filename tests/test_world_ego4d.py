"""A rendered hand as Ego4D's short-term anticipation: what is asked and true; rules to beat."""

import json
import types

from etils import epath
import numpy as np
import pytest
import worlds

from totojax import jobs
from totojax.config import roots, world as config_lib
from totojax.config.schema import ConfigError
from totojax.data.sources import sta
from totojax.evals import sta_baselines, sta_map
from totojax.world import delivery, ego4d, film, hand, kinds, processes, truth

TARGET, OTHER = 1, 2  # numbers of things in `clip_of`


def config(**keys):
  c = config_lib.recipe("ego4d_small")
  c.amount.train, c.amount.val, c.processes = 3, 2, 1
  for key, value in keys.items():
    section, _, name = key.partition("__")
    c[section][name] = value
  return roots.read(c.to_dict())


def clip_of(typed, touches, index=0):
  """A scene that was not shot: still boxes, and touches (frame, thing) of the hand's choice."""
  made = kinds.build(delivery.spec(typed.scene, 0, index))
  (act,) = made.acts
  actor, target = made.number(act.subject), made.number(act.object)
  (other, *_) = (n for n in range(1, len(made.things) + 1) if n not in (actor, target))
  n, t = typed.scene.frames, len(made.things)
  boxes_NT4 = np.tile(np.float32([10, 20, 30, 40]), (n, t, 1)) + np.float32(np.arange(t))[:, None]
  pos_NT3 = np.tile(np.array([thing.pos for thing in made.things]), (n, 1, 1))
  pos_NT3[:, actor - 1] = made.tracks[act.subject].pos_N3
  events = [
    truth.Event(frame, frame, "touch", actor, {TARGET: target, OTHER: other}[what])
    for frame, what in touches
  ]
  clip = film.Clip(
    made, *(np.zeros(1),) * 3, boxes_NT4, pos_NT3, np.zeros((n, t, 4)), (), tuple(events)
  )
  return types.SimpleNamespace(
    clip=clip, actor=actor, target=target, noun=made.things[target - 1].noun
  )


def test_what_is_asked_comes_before_the_first_touch():
  typed = config()
  made = clip_of(typed, [(30, TARGET), (33, OTHER)])
  clip, t = made.clip, made.target - 1
  clip.boxes_NT4[5:12, t] = np.nan  # hidden for a while
  clip.boxes_NT4[20, t] = [5, 20, 30, 45]  # seen to its left, once
  clip.boxes_NT4[31:, t] = [0, 0, 60, 60]  # moved after the touch
  told = ego4d.asked(clip, typed.output)
  assert (told["contact"], told["noun"], told["verb"]) == (30, made.noun, clip.scene.acts[0].verb)
  for query in told["queries"]:
    assert query["ttc_s"] * typed.scene.fps == 30 - query["frame"]
    assert not 5 <= query["frame"] < 12
    (next_one,) = (thing for thing in query["things"] if thing["is_next"])
    low, high = 10 + t, 30 + t  # of the box that was seen all the time
    assert next_one["box"] == [5, 20 if t else 20, max(high, 30), max(45, high + 10)]
    assert low >= 5 and len(query["things"]) == len(clip.scene.things) - 1
  frames = [query["frame"] for query in told["queries"]]
  assert frames == sorted({*frames}) and all(2 <= 30 - frame <= 18 for frame in frames)
  assert ego4d.asked(clip, typed.output) == told
  # Another thing first, nothing, or too early: nothing is asked.
  for touches in ([(29, OTHER), (30, TARGET)], [], [(1, TARGET)]):
    assert ego4d.asked(clip_of(typed, touches).clip, typed.output)["queries"] == []


def written(root, typed, rows):
  ego4d.write_lists(str(root), "train", typed.scene, rows)
  return sta.read(str(root), "train", media=None)


@pytest.fixture(name="lists", scope="module")
def _lists(tmp_path_factory):
  """Annotations of scenes that were not shot, and what is around."""
  typed, rows = config(), []
  for n in range(24):
    made = clip_of(typed, [(30, TARGET)], n)
    rows.append({"clip": n, **ego4d.asked(made.clip, typed.output)})
  found = written(tmp_path_factory.mktemp("lists"), typed, rows)
  return found, sta_baselines.read_around(found), rows


def test_annotations_are_read_as_they_were_written(lists):
  found, around, rows = lists
  assert found.nouns == (*hand.COLOURS, "drawer") and found.verbs == hand.VERBS
  assert not found.missing and len(found.queries) == sum(len(row["queries"]) for row in rows)
  asked = {q["uid"]: (row, q) for row in rows for q in row["queries"]}
  for query in found.queries:
    row, one = asked[query.uid]
    assert found.nouns[query.nouns[0]] == row["noun"]
    assert found.verbs[query.verbs[0]] == row["verb"] and query.ttc_s[0] == one["ttc_s"]
    assert query.boxes[0].tolist() in around[query.uid].boxes.tolist()
  drawers = {found.verbs[q.verbs[0]] for q in found.queries if found.nouns[q.nouns[0]] == "drawer"}
  assert "open" in drawers


def test_the_nearest_thing_is_not_always_the_next_one(lists):
  """A hand's start says nothing of where it goes; late in its way it is nearest to it."""
  found, around, _ = lists
  early, late = [], []
  for query in found.queries:
    one = around[query.uid]
    hit = one.boxes[one.away_m.argmin()].tolist() == query.boxes[0].tolist()
    (late if query.ttc_s[0] < 0.3 else early if query.ttc_s[0] > 0.8 else []).append(hit)
  assert np.mean(late) > 0.9 and np.mean(early) < 0.7


def test_rules_to_beat(lists):
  found, around, _ = lists
  truth_ = {query.uid: query for query in found.queries}
  scores = {
    "last": sta_map.top_k_map(sta_baselines.constant(found, found.queries), truth_),
    "one": sta_map.top_k_map(sta_baselines.nearest(found, found.queries, around), truth_),
    "five": sta_map.top_k_map(sta_baselines.nearest(found, found.queries, around, count=5), truth_),
  }
  assert scores["last"]["noun"] < scores["one"]["noun"] < scores["five"]["noun"]
  one = sta_baselines.constant(found, found.queries, box="mean")[found.queries[0].uid]
  nouns = [int(query.nouns[0]) for query in found.queries]
  most = min(nouns, key=lambda noun: (-nouns.count(noun), noun))
  boxes = [query.boxes[0] for query in found.queries if query.nouns[0] == most]
  np.testing.assert_allclose(one.boxes[0], np.mean(boxes, 0), rtol=1e-6)
  with pytest.raises(ValueError, match="box is 'first'"):
    sta_baselines.constant(found, found.queries, box="first")


def test_what_is_around_is_the_world_s_alone(lists, tmp_path):
  found, *_ = lists
  path = epath.Path(found.path).parent / "world_sta_train.json"
  value = json.loads(path.read_text())
  (tmp_path / "fho_sta_train.json").write_text(epath.Path(found.path).read_text())
  copy = sta.read(str(tmp_path), "train", media=None)
  with pytest.raises(ValueError, match="world_sta_train.json cannot be read .*Ego4D has none"):
    sta_baselines.read_around(copy)
  uid = found.queries[3].uid
  value[uid]["things"][0]["noun_category_id"] = 99
  (tmp_path / "world_sta_train.json").write_text(json.dumps(value))
  with pytest.raises(ValueError, match=f"world_sta_train.json says nothing .* of {uid}"):
    sta_baselines.read_around(copy)


@pytest.mark.parametrize(
  "keys, told",
  [
    (dict(scene__kind="tabletop", scene__camera="still"), "its files are of 'hand'"),
    (dict(scene__camera="moving"), "seen by a 'still' one"),
    (dict(output__before=(5, 30)), "output.before is (5, 30)"),
    (dict(output__before=(2, 4)), "room for output.queries 4"),
    (dict(output__format="stores", output__label="noun"), "stores label shapes"),
  ],
)
def test_settings_that_do_not_fit_are_refused(keys, told):
  with pytest.raises(ConfigError) as error:
    config(**keys)
  assert told in str(error.value)


@pytest.mark.slow
def test_rendered_annotations_are_exact(tmp_path):
  """Boxes, nouns and times against masks and contacts of the same scenes, shot again."""
  worlds.need()
  typed = config(scene__width_px=64, scene__height_px=64)
  folder = epath.Path(tmp_path)
  assert not jobs.run(typed, folder, lambda n: n == 2)  # stopped, and gone on with
  assert jobs.run(typed, folder, lambda n: False)
  queries = [query for split in ("train", "val") for query in sta.read(str(folder), split).queries]
  assert len({query.video for query in queries}) >= 3
  specs = [delivery.spec(typed.scene, typed.seed, n) for n in range(5)]
  with processes.Pool(1) as pool:
    clips = list(pool.films(specs, worlds.whole))
  known = ego4d.nouns(typed.scene)
  for query in queries:
    clip = clips[int(query.video[-6:])]
    made, (act,) = clip.scene, clip.scene.acts
    actor, target = made.number(act.subject), made.number(act.object)
    with_hand = {f: {a, b} - {actor} for f, a, b in reversed(clip.contacts) if actor in (a, b)}
    first = min(with_hand)
    assert with_hand[first] == {target}
    assert query.ttc_s[0] * typed.scene.fps == first - query.frame
    assert known[query.nouns[0]] == made.things[target - 1].noun
    assert hand.VERBS[query.verbs[0]] == act.verb
    y, x = np.nonzero((clip.masks_NHW[:first] == target).any(0))
    assert query.boxes[0].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
    shown = sta.clip(query, 3, 1)
    wanted = clip.rgb_NHW3[query.frame - 2 : query.frame + 1]
    away = [np.abs(shown[-1].astype(int) - one).mean() for one in clip.rgb_NHW3]
    assert shown.shape == wanted.shape and np.abs(shown.astype(int) - wanted).mean() < 8
    assert int(np.argmin(away)) == query.frame or away[query.frame] < min(away) + 0.5
