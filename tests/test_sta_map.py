"""Top-5 mAP and results files of short-term anticipation: the challenge's numbers and verdicts."""

import copy
import json
import types

import anticipated
import numpy as np
import pytest
import runs

from totojax.data.sources import sta
from totojax.evals import sta_map, sta_results

GOLDEN = runs.ROOT / "tests" / "golden" / "sta"
KEYS = ("boxes", "nouns", "verbs", "ttc_s", "scores")


def detections(boxes, nouns, verbs, ttc_s, scores=None):
  arrays = dict(zip(KEYS, (np.reshape(boxes, (-1, 4)), *map(np.array, (nouns, verbs, ttc_s)))))
  if scores is None:
    return types.SimpleNamespace(**arrays)
  return sta_map.Detections(**arrays, scores=np.array(scores))


def images():
  """The golden's 40 images."""
  value = json.loads((GOLDEN / "map.json").read_bytes())
  found, truth = {}, {}
  for i, row in enumerate(value["images"]):
    pred, true = row["pred"], row["gt"]
    columns = [pred[k] for k in ("boxes", "nouns", "verbs", "ttcs", "scores")]
    found[f"{i:02d}"] = detections(*columns)
    truth[f"{i:02d}"] = detections(*(true[k] for k in ("boxes", "nouns", "verbs", "ttcs")))
  return found, truth, value["expected"]


EMPTY = sta_map.Detections(np.zeros((0, 4)), *(np.zeros(0, int),) * 2, *(np.zeros(0),) * 2)


def close(found, wanted):
  np.testing.assert_allclose(list(found.values()), wanted, rtol=0, atol=1e-9)


def test_top_k_is_the_golden_s():
  found, truth, wanted = images()
  for k in (1, 3, 5):
    close(sta_map.top_k_map(found, truth, k=k), wanted[f"top{k}"])
  iou = sta_map.iou(found["00"].boxes, truth["00"].boxes)
  np.testing.assert_allclose(iou, wanted["iou0"], rtol=0, atol=1e-9)
  # Controls: another K, and the order of images or detections, which must not matter.
  assert abs(sta_map.top_k_map(found, truth, k=4)["overall"] - wanted["top5"][3]) > 1
  turned = {
    uid: sta_map.Detections(*(getattr(one, key)[::-1] for key in KEYS))
    for uid, one in reversed(found.items())
  }
  close(sta_map.top_k_map(turned, dict(reversed(truth.items()))), wanted["top5"])


def test_images_without_a_detection_count_unless_it_is_to_be_compatible():
  found, truth, wanted = images()
  found = {uid: EMPTY if i % 5 == 4 else one for i, (uid, one) in enumerate(found.items())}
  compatible = wanted["top5_every5th_pred_empty_ref_drops_gt"]
  close(sta_map.top_k_map(found, truth, strict=False), compatible)
  strict = sta_map.top_k_map(found, truth)
  assert all(value < other - 1 for value, other in zip(strict.values(), compatible))
  videos = {uid: str(i // 2) for i, uid in enumerate(truth)}
  told = sta_map.summary(found, truth, videos)
  close(told["compatible"], compatible)
  assert (told["empty"], told["videos"], told["images"]) == (8, 20, 40)
  low, high = told["interval"]["overall"]
  assert low < strict["overall"] < high and high - low > 5
  whole = sta_map.summary(images()[0], truth, dict.fromkeys(truth, "one"))
  assert "compatible" not in whole and whole["interval"]["noun"] == [None, None]
  with pytest.raises(ValueError, match="8 of 40 images have no entry, as '04'"):
    sta_map.top_k_map({uid: one for uid, one in found.items() if len(one.scores)}, truth)


def test_four_false_positives_of_each_object_are_left_out():
  """The spec's examples: above the right one n wrong ones give 100, 50, 33.3 for n = 4, 5, 6."""
  box, away = [0.0, 0, 9, 9], [50.0, 50, 59, 59]
  truth = {"a": detections([box], [1], [1], [1.0])}
  for wrong, wanted in ((0, 100), (4, 100), (5, 50), (6, 100 / 3)):
    n = wrong + 1
    rows = [away] * wrong + [box], [1] * n, [1] * n, [1.0] * n, np.linspace(1, 0.1, n)
    assert sta_map.top_k_map({"a": detections(*rows)}, truth)["noun"] == pytest.approx(wanted)


def test_edges_of_a_match():
  """IoU above 0.5 with ends as pixels, 0.25 s and no more; what is no number matches nothing."""
  truth = {"a": detections([[0.0, 0, 9, 9]], [1], [1], [1.0])}

  def score(box=(0.0, 0, 9, 9), verb=1, ttc_s=1.0):
    found = {"a": detections([box], [1], [verb], [ttc_s], [0.5])}
    return list(sta_map.top_k_map(found, truth).values())

  assert score() == [100] * 4
  assert score(ttc_s=1.25) == [100] * 4 and score(ttc_s=1.2501) == [100, 100, 0, 0]
  assert score(ttc_s=float("nan")) == [100, 100, 0, 0]
  assert score(verb=2) == [100, 0, 100, 0]
  assert score((0.0, 0, 9, 4)) == [0] * 4 and score((0.0, 0, 9, 4.01)) == [100] * 4
  assert score((9.0, 9, 0, 0)) == [0] * 4 and score((float("nan"), 0, 9, 9)) == [0] * 4
  # One true object is found once, by the surer of two; of equally sure ones by the last.
  two = [[0.0, 0, 9, 9]] * 2, [1, 1], [2, 1], [1.0, 1.0]
  assert sta_map.top_k_map({"a": detections(*two, [0.5, 0.5])}, truth, k=1)["overall"] == 100
  assert sta_map.top_k_map({"a": detections(*two, [0.6, 0.5])}, truth, k=1)["overall"] == 50
  with pytest.raises(ValueError, match="score is no finite number"):
    detections(*two, [0.5, float("nan")])
  with pytest.raises(ValueError, match=r"need .*'boxes': \(2, 4\)"):
    sta_map.Detections(np.zeros((1, 4)), *(np.zeros(2, int),) * 2, *(np.zeros(2),) * 2)
  with pytest.raises(ValueError, match="nothing is true of any of 1 images"):
    sta_map.top_k_map({"a": EMPTY}, truth, strict=False)


@pytest.fixture(scope="module")
def challenge(tmp_path_factory):
  """Annotations as we read them, the golden's values, and its results."""
  value = json.loads((GOLDEN / "challenge.json").read_bytes())
  path = tmp_path_factory.mktemp("challenge")
  anticipated.write(path, value["annotations"], file="fho_sta_val.json")
  return sta.read(str(path), "val", media=None), value, path


def test_of_files_it_is_the_golden_s(challenge):
  annotations, value, path = challenge
  (path / "results.json").write_text(json.dumps(value["results"]))
  found = sta_results.read(path / "results.json", annotations)
  truth = {query.uid: query for query in annotations.queries}
  count = sum(len(query.nouns) for query in truth.values())
  assert not annotations.missing and count == value["metrics_pct"]["n_gt"]
  for k, name in ((5, "top5"), (3, "top3"), (1, "top1"), (None, "no_topk")):
    scores = sta_map.top_k_map(found, truth, k=k, strict=False)
    close(scores, list(value["metrics_pct"][name].values()))
  np.testing.assert_allclose(
    sta_map.iou(np.array(value["iou_preds"]), np.array(value["iou_gts"])),
    value["iou"],
    rtol=0,
    atol=1e-9,
  )
  # What we write is valid, has a box for each image, and says the same.
  sta_results.write(path / "ours.json", found, annotations)
  ours = sta_results.read(path / "ours.json", annotations)
  assert list(ours) == list(annotations.uids) and all(len(one.scores) for one in ours.values())
  assert sta_map.top_k_map(ours, truth) == sta_map.top_k_map(found, truth)


RULES = {
  "MissingResultsJSONFieldException": "field",
  "UnsupportedChallengeException": "challenge",
  "UnsupportedVersionException": "version",
  "MissingPropertyException": "missing property",
  "InvalidPropertyException": "property",
  "MissingUidException": "uid",
}


def spoilt(results, case):
  """The golden's cases, by name."""
  value = copy.deepcopy(results)
  rows = value["results"]
  first = next(iter(rows))
  row = rows[first][0]
  match case:
    case "missing_version":
      del value["version"]
    case "version_2.0":
      value["version"] = "2.0"
    case "version_number":
      value["version"] = 1.0
    case "wrong_challenge":
      value["challenge"] = "ego4d_long_term"
    case "box_tuple_len3":
      row["box"] = row["box"][:3]
    case "noun_float":
      row["noun_category_id"] = 2.0
    case "noun_bool":
      row["noun_category_id"] = True
    case "ttc_int":
      row["time_to_contact"] = 1
    case "ttc_nan":
      row["time_to_contact"] = float("nan")
    case "score_int":
      row["score"] = 1
    case "missing_uid":
      del rows[first]
    case "extra_uid":
      rows["somebody else's"] = []
    case "empty_list":
      rows[first] = []
    case "no_verb":
      del row["verb_category_id"]
    case "inverted_box":
      row["box"] = row["box"][::-1]
  return value


def test_the_validator_s_verdicts_are_the_golden_s(challenge, tmp_path):
  annotations, value, _ = challenge
  verdicts = {**value["validator"], "version_number": "UnsupportedVersionException"}
  for case, wanted in verdicts.items():
    results = spoilt(value["results"], case)
    (tmp_path / "r.json").write_text(json.dumps(results))
    for given in (results, str(tmp_path / "r.json")):
      if wanted == "accepted":
        sta_results.validate(given, annotations)
      else:
        with pytest.raises(sta_results.Invalid) as error:
          sta_results.validate(given, annotations)
        assert error.value.rule == RULES[wanted], case
    assert "r.json" in str(error.value) and "\n" not in str(error.value)
  # The first thing that is wrong is told, in its order: the challenge before the version.
  both = spoilt(spoilt(spoilt(value["results"], "version_2.0"), "wrong_challenge"), "missing_uid")
  with pytest.raises(sta_results.Invalid, match="challenge is 'ego4d_long_term'"):
    sta_results.validate(both, annotations)
  with pytest.raises(sta_results.Invalid, match="1 of 16 uids of .* are missing, as 0000000b-0000"):
    sta_results.validate(spoilt(value["results"], "missing_uid"), annotations)


def test_what_we_would_write_wrong_is_refused(challenge, tmp_path):
  annotations, *_ = challenge
  uid = annotations.uids[0]
  good = ([[0.0, 0, 9, 9]], [0], [0], [1.0], [0.5])
  for place, bad, words in (
    (0, [[0.0, 0, float("inf"), 9]], "detection 0 is no number"),
    (1, [8], "noun 8 of detection 0; there are 8"),
    (3, [float("nan")], "detection 0 is no number"),
  ):
    rows = [bad if i == place else part for i, part in enumerate(good)]
    with pytest.raises(ValueError, match=words):
      sta_results.write(tmp_path / "r.json", {uid: detections(*rows)}, annotations)
  with pytest.raises(ValueError, match="'nobody' is no uid"):
    sta_results.write(tmp_path / "r.json", {"nobody": detections(*good)}, annotations)
  assert not (tmp_path / "r.json").exists()
  # Whole numbers of numpy become what the challenge takes.
  sta_results.write(tmp_path / "r.json", {uid: detections(*good)}, annotations)
  value = json.loads((tmp_path / "r.json").read_bytes())
  assert value["version"] == "1.0" and value["results"][uid][0]["time_to_contact"] == 1.0
  assert len(value["results"]) == 16 and all(map(len, value["results"].values()))
