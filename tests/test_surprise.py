"""How surprised a model is: metrics by goldens, pairs that are drawn or read, and the job."""

import csv
import json
import pathlib
import random

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import temporal
import test_generate_job as generated

import totojax
from totojax import assembly, jobs, sequence, sharding
from totojax.config import recipes
from totojax.config.model import EACH_FRAME, LatentSpec
from totojax.config.surprise import EVENTS
from totojax.data.pixels import augment, physics
from totojax.data.sources import physics as sources
from totojax.evals import surprise
from totojax.jobs.surprise import clips, maps, scores
from totojax.tasks import pretrain as task_lib
from totojax.trained import backbone

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden" / "surprise.json").read_text())
AGGREGATES = {"avg": np.mean, "max": np.max}


# Metrics, against numbers of the authors' code.


@pytest.mark.parametrize("name", GOLDEN["metrics"])
def test_metrics_of_vjepas_study(name):
  losses_MCW = np.array(GOLDEN["losses"], np.float32)
  contexts = [f"context_{c}" for c in (2, 4, 6, 8, 10)]
  losses_MW = (
    np.stack([surprise.filtered(x) for x in losses_MCW])
    if name == "Filtered"
    else losses_MCW[:, contexts.index(name)]
  )
  expected, possible = GOLDEN["metrics"][name], np.array(GOLDEN["possible"])
  for key, function in AGGREGATES.items():
    values = function(losses_MW, axis=1)
    p, i = values[possible], values[~possible]
    found = 100 * surprise.relative(p, i)["strict"]
    assert found == pytest.approx(expected[f"Relative Accuracy ({key})"], rel=1e-6)
    assert surprise.auroc(p, i) == pytest.approx(expected[f"AUROC ({key})"], rel=1e-6)
    assert surprise.auprc(p, i) == pytest.approx(expected[f"AUPRC ({key})"], rel=1e-6)
    if key == "max":
      for what, found in (("", surprise.absolute(p, i)), ("Best ", surprise.best_absolute(p, i))):
        wanted = expected[f"{what}Absolute Accuracy (max)"]
        assert found is not None and 100 * found == pytest.approx(wanted, rel=1e-6)
    elif name == "Filtered":
      half = 100 * surprise.relative(p, i)["half"]
      assert half == pytest.approx(GOLDEN["extras"]["half_credit_accuracy_pct"], rel=1e-6)


def test_metrics_of_intphys_and_inflevel():
  paper = GOLDEN["paper"]
  values = -np.array(paper["scores"])
  groups = [(row[:2], row[2:]) for row in values]
  assert surprise.sums(groups) == pytest.approx(paper["relative_acc"], rel=1e-6)
  sides = values[:, :2].ravel(), values[:, 2:].ravel()
  assert surprise.auroc(*sides) == pytest.approx(paper["auc"], rel=1e-6)
  assert surprise.halves(*sides) == pytest.approx(paper["absolute_acc_numpyseed0"], rel=1e-6)
  inflevel = GOLDEN["inflevel"]
  groups = [(row[:2], row[2:]) for row in -np.array(inflevel["scores"]).T]
  assert surprise.crossed(groups) == pytest.approx(inflevel["accuracy_half_ties"], rel=1e-6)
  # Another generator: near, as two estimates by 200 draws are.
  p = surprise.permuted(groups, draws=200, seed=0)
  assert p == pytest.approx(inflevel["pval_1sided"], abs=0.1)


@pytest.mark.parametrize("by", ["all", "by_condition", "by_difficulty"])
def test_metrics_of_intphys_2(by):
  table = GOLDEN["intphys2"]
  kinds = {None: table["all"]} if by == "all" else table[by]
  for kind, expected in kinds.items():
    scenes: dict[int, dict[str, float]] = {}
    for row in table["rows"]:
      level = next(n for n, envs in sources.DIFFICULTIES.items() if row["env"] in envs)
      if kind in (None, level, sources.CONDITIONS[row["condition"]]):
        scenes.setdefault(row["SceneIndex"], {})[row["type"]] = row["surprise"]
    names = [(f"{n}_Possible", f"{n}_Impossible") for n in (1, 2)]
    pairs = np.array([[s[a], s[b]] for s in scenes.values() for a, b in names])
    groups = [(two[:, 0], two[:, 1]) for two in pairs.reshape(-1, 2, 2)]
    found = surprise.measures(pairs, groups)
    for ours, theirs in (
      ("pairs", "pair_strict_pct"),
      ("pairs_half", "pair_half_pct"),
      ("sums", "scene_sum_strict_pct"),
      ("halves", "single_video_acc_at_median_pct"),
    ):
      assert found[ours] == pytest.approx(expected[theirs] / 100, rel=1e-6), (kind, ours)
    assert found["auroc"] == pytest.approx(expected["auroc"], rel=1e-6)


def test_pairs_of_four_videos():
  for one in GOLDEN["quadruplets"]:
    marks = one["clip_sum_per_frame"]
    assert surprise.breaks(marks) == one["breaking_points"]
    found = [list(pair) for pair in surprise.quadruplet(marks)]
    assert found == one["matches"]


def test_ties_nothing_to_tell_and_planted_surprise():
  rng = np.random.default_rng(0)
  same = np.ones(20)
  groups = [(same[:2], same[2:4])] * 10
  found = surprise.measures(np.ones((20, 2)), groups)
  assert found["pairs"] == 0 and all(
    found[name] == pytest.approx(0.5) for name in ("pairs_half", "sums", "crossed", "halves")
  )
  assert found["auroc"] == 0.5
  noise = rng.normal(size=(40, 4))
  some = [(r[:2], r[2:]) for r in noise]
  low, high = surprise.auroc_interval(some, seed=0)
  assert low < 0.5 < high
  drawn = [rng.integers(40, size=40) for _ in range(2000)]  # by hand, draw by draw
  values = [surprise.auroc(noise[d, :2].ravel(), noise[d, 2:].ravel()) for d in drawn]
  assert [low, high] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.015)
  planted = [(r[:2], r[2:] + 1.0) for r in noise]
  low, high = surprise.auroc_interval(planted, seed=0)
  assert low > 0.5 and surprise.permuted(planted, draws=200, seed=0) < 0.01
  assert surprise.absolute(same[:9], same) is None  # too few


# Videos.


@pytest.mark.parametrize("event", EVENTS)
def test_rendered_videos_are_alike_until_something_happens(event):
  for index in range(4):
    videos = physics.render(event, frames=16, size_px=32, seed=0, index=index)
    assert videos.shape == (4, 16, 32, 32, 3) and videos.dtype == np.uint8
    marks = [[frame.tobytes() for frame in video] for video in videos]
    (change, other) = surprise.breaks(marks[:2])[0], surprise.breaks(marks[2:])[0]
    assert 8 <= change < 16 and 8 <= other < 16
    # As IntPhys's four: their frames alone say which two belong together.
    assert surprise.quadruplet(marks) == ((0, 1), (2, 3))
    if event != "wall":  # together the impossible videos show what the possible ones show
      np.testing.assert_array_equal(
        np.sort(videos[[0, 2]], axis=0), np.sort(videos[[1, 3]], axis=0)
      )
    again = physics.render(event, frames=16, size_px=32, seed=0, index=index)
    np.testing.assert_array_equal(videos, again)


def test_a_screen_hides_the_change():
  """Where it happens, right before and right after it, all four show the same."""
  for event in ("vanish_screen", "colour_screen"):
    for index in range(8):
      videos = physics.render(event, frames=16, size_px=32, seed=3, index=index).astype(int)
      hidden = [t for t in range(16) if (videos[:, t] == videos[:1, t]).all()]
      assert len(hidden) >= 2, (event, index)
  with pytest.raises(ValueError, match="unknown"):
    physics.render("melts", frames=16, size_px=32, seed=0, index=0)
  with pytest.raises(ValueError, match="has 3 frames"):
    physics.render("wall", frames=3, size_px=32, seed=0, index=0)


def frames(folder, levels, side=8):
  """A folder of grey PNGs."""
  folder.mkdir(parents=True)
  for t, level in enumerate(levels):
    Image.fromarray(np.full((side, side, 3), level, np.uint8)).save(folder / f"scene_{t:03d}.png")


def intphys(root, blocks=("O1", "O2"), last=12):
  """Scenes in which videos 1 and 3 begin alike, and 2 and 4."""
  for block in blocks:
    for number, (before, after, possible) in enumerate(
      ((10, 10, True), (60, 60, True), (10, 60, False), (60, 10, False)), 1
    ):
      folder = root / "dev" / block / "01" / str(number)
      frames(folder / "scene", [before] * 6 + [after] * (last - 6))
      (folder / "status.json").write_text(json.dumps({"header": {"is_possible": possible}}))
  return root


def read(group, **how) -> list[clips.Clip]:
  found = clips._read(group, **how)
  assert isinstance(found, list), found
  return found


def read_all(root, name, list_path="", step=1):
  groups, skipped = sources.list_groups(name, str(root), str(list_path))
  prepare = augment.Resize(8, "bicubic")
  return groups, skipped, [read(g, step=step, prepare=prepare, most=5) for g in groups]


def test_intphys_as_it_lies_on_disk(tmp_path):
  groups, skipped, found = read_all(intphys(tmp_path), "intphys", step=2)
  assert [g.id for g in groups] == ["O1/01", "O2/01"] and not skipped
  assert groups[0].kinds == ("O1 object permanence",)
  assert [clip.pair for clip in found[0]] == ["1", "2", "1", "2"]
  assert len(found[0][0].frames_TSS3) == 5
  (tmp_path / "dev/O1/01/2/status.json").unlink()
  groups, skipped, _ = read_all(tmp_path, "intphys")
  assert [g.id for g in groups] == ["O2/01"] and "status.json" in skipped[0].reason


@pytest.mark.parametrize("case", GOLDEN["windows"], ids=lambda case: str(case["frame_step"]))
def test_as_many_frames_and_windows_as_the_authors_take(tmp_path, case):
  frames(tmp_path / "a", [1] * case["frames_in_video"], side=1)
  video = sources.Video("a", str(tmp_path / "a"), True, "p")
  group = sources.Group("g", (), (video,))
  for name, most in (("intphys", clips._INTPHYS // case["frame_step"]), ("grasp", None)):
    (clip,) = read(group, step=case["frame_step"], prepare=augment.Resize(1, "bicubic"), most=most)
    count = len(clip.frames_TSS3)
    assert count == case[f"{name}_loaded_frames"]
    starts = range(0, count - case["frames_per_clip"] + 1, case["stride"])
    assert len(starts) == case[f"{name}_windows"]


def test_other_sets_as_they_lie_on_disk(tmp_path):
  def touch(*names):
    for name in names:
      (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
      (tmp_path / name).touch()

  touch("g/level2/P_Gravity/1.mp4", "g/level2/IP_Gravity/1.mp4", "g/level2/P_Gravity/2.mp4")
  groups, skipped = sources.list_groups("grasp", str(tmp_path / "g"))
  assert [g.id for g in groups] == ["Gravity/1.mp4"] and len(skipped) == 1
  assert [v.is_possible for v in groups[0].videos] == [True, False]

  names = [f"i/gravity/cam__cat__cov__obj__{kind}__left.mp4" for kind in ("ui", "cv", "uv", "ci")]
  touch(*names)
  (group,), _ = sources.list_groups("inflevel", str(tmp_path / "i"))
  assert [v.is_possible for v in group.videos] == [True, True, False, False]
  columns = ("path", "start_priming_1", "end_priming_1", "start_priming_2", "end_priming_2")
  head = ",".join(f"vid{n}_{c}" for n in (1, 2) for c in (*columns, "label"))
  row = ",".join([names[0][2:] + ",0,1,2,3.0,possible", names[2][2:] + ",0,1,2,5,impossible"])
  (tmp_path / "pairs.csv").write_text(f"{head}\n{row}\n")
  (group,), _ = sources.list_groups("inflevel", str(tmp_path / "i"), str(tmp_path / "pairs.csv"))
  assert [v.first for v in group.videos] == [4, 6] and group.kinds == ("gravity",)
  assert clips._firsts(group.videos, [20, 21]) == [5, 6]  # both end together

  touch(*(f"p/Videos/v{n}.mp4" for n in range(4)))
  rows = [
    f"v{n},0,{n // 2 + 1}_{'Im' * (n % 2)}{'pP'[not n % 2]}ossible,solidity,None" for n in range(4)
  ]
  (tmp_path / "p/metadata.csv").write_text("\n".join(["name,SceneIndex,type,condition,env", *rows]))
  (group,), _ = sources.list_groups("intphys2", str(tmp_path / "p"))
  assert group.kinds == ("Solidity", "Hard")  # "None" is a name
  assert [(v.pair, v.is_possible) for v in group.videos] == [
    ("1", True), ("1", False), ("2", True), ("2", False)
  ]  # fmt: skip


@pytest.mark.parametrize(
  "text, told",
  [
    ("path,group\na,1\n", "label"),
    ("path,group,label\na,1,maybe\n", "line 2: label 'maybe'"),
    ("path,group,label\na,1,possible\na,1,impossible\n", "is on line 2 too"),
    ("path,group,label\na,1,possible\nb,1,possible\n", "a possible video and an impossible"),
    ("path,group,label\na,1,possible\nz,1,impossible\n", "z does not exist"),
    ("path,group,label\na,1,1\nb,1,1\nc,1,0\n", "without a pair"),
  ],
)
def test_a_list_that_is_wrong_is_told(tmp_path, text, told):
  for name in "abc":
    frames(tmp_path / name, [1] * 4)
  (tmp_path / "l.csv").write_text(text)
  with pytest.raises(ValueError, match=told):
    sources.list_groups("csv", str(tmp_path), str(tmp_path / "l.csv"))


# Scores and the job.


@pytest.fixture(scope="module", name="made")
def _made(tmp_path_factory):
  root = tmp_path_factory.mktemp("surprise")
  return (root, *generated.build(root, EACH_FRAME))


def config(made, **keys):
  root, run, file = made
  c = recipes.surprise(run)
  c.tokenizer = file
  c.rendered.scenes = 2
  for key, value in keys.items():
    section, _, name = key.rpartition("__")
    (c[section] if section else c)[name] = value
  return c


def test_losses_are_those_of_pretraining(made):
  root, run, file = made
  model = totojax.load(run, tokenizer=file)
  videos = temporal.clips(3, 4)
  found = model.surprise(videos)
  assert found.shape == (3, 4, generated.GRID, generated.GRID)
  source = backbone.find(run)
  spec = source.model.spec
  model_lib = backbone.for_clips(source.model, frames=4)
  task = task_lib.Pretrain(model_lib, assembly.parametrisation(source.config))
  layout = sharding.layout(source.config.mesh)
  params = backbone.read(source, source.model, layout)
  codes = model.codes(videos)
  rows = np.stack([sequence.build(c, kind="video", spec=model_lib.spec) for c in codes])
  nll, _ = jax.jit(task.nll)(params, jnp.asarray(rows))
  np.testing.assert_allclose(
    found.reshape(3, -1), np.asarray(nll)[:, : spec.visual_tokens], rtol=1e-5
  )
  np.testing.assert_allclose(model.surprise(videos[1]), found[1], rtol=1e-5)
  np.testing.assert_allclose(model.surprise(videos, rows=2), found, rtol=1e-5)
  with pytest.raises(ValueError, match="trained on 4"):
    model.surprise(temporal.clips(1, 5))


@pytest.mark.parametrize("latents", [EACH_FRAME, LatentSpec(frame_factor=2)])
def test_windows_cover_each_frame_once_after_the_most_frames(latents):
  """By a loss that is the number of its window and frame."""
  held, window = 4, latents.whole_frames(4)
  amounts = scores.Amounts(window, held, 2, (latents.whole_frames(1), latents.whole_frames(3)))
  starts = range(0, 9 - window + 1, 2)
  nll = (
    np.zeros((len(starts), held, 5))
    + np.arange(held)[:, None]
    + 10 * np.arange(len(starts))[:, None, None]
  )
  one = scores._scored(nll, starts, latents, amounts)
  assert (np.diff(one.first_F) > 0).all() and one.last_F[-1] == starts[-1] + window - 1
  np.testing.assert_allclose(one.losses_CW[0], [2 + 10 * w for w in range(len(starts))])
  np.testing.assert_allclose(one.losses_CW[1], [3 + 10 * w for w in range(len(starts))])
  assert set(one.frames_F[3:] % 10) <= {2.0, 3.0}  # late in their windows
  values = one.scores((1, 3))
  assert values["filtered", "max"] == one.losses_CW.min(0).max()


def test_a_planted_surprise_is_found_and_noise_is_not():
  rng = np.random.default_rng(1)

  def groups(gap):
    out = []
    for n in range(60):
      content = rng.normal(size=2) * 3  # what a scene shows
      values = [content[0], content[0] + gap, content[1], content[1] + gap] + rng.normal(size=4) / 2
      videos = [
        scores.Video(str(k), k % 2 == 0, str(k // 2), {("2", "mean"): v, ("3", "mean"): -v})
        for k, v in enumerate(values)
      ]
      out.append(scores.Group(f"g{n}", ("a", "b")[: 1 + n % 2], tuple(videos)))
    return out

  found = scores.tables(groups(1.0), ("2", "mean"))
  assert found["all"]["sums_interval"][0] > 0.5 and found["all"]["pairs_interval"][0] > 0.5
  assert found["all"]["difference"]["low"] > 0 and found["kinds"]["b"]["n_groups"] == 30
  found = scores.tables(groups(0.0), ("2", "mean"))
  assert found["all"]["sums_interval"][0] < 0.5 < found["all"]["sums_interval"][1]
  # A half chooses, the other is told of.
  settings = recipes.surprise("x").windows
  settings.choose = "validation"
  amounts = scores.Amounts(4, 4, 2, (2, 3))
  made = groups(1.0)
  best, told, how = scores.choose(settings, amounts, made)
  assert best == ("2", "mean") and len(told) == 30 and "30 other groups" in how
  random.Random(0).shuffle(made)
  assert {g.id for g in scores.choose(settings, amounts, made)[1]} == {g.id for g in told}


def test_a_heat_map_is_light_where_the_loss_is():
  nll = np.zeros(4)
  nll[1] = 8.0
  shown = maps.heat(nll, np.zeros((8, 8, 3), np.uint8), grid=2, most=8.0)
  assert shown[:4, 4:].min() > shown[4:].max() and shown[:4, :4].max() == shown[4:].max()


def test_the_job_ends_resumes_and_leaves_the_same(made, tmp_path):
  c = config(made, output__pairs=3)
  assert generated.go(c, tmp_path / "a")
  assert not generated.go(c, tmp_path / "b", interrupted=lambda done: done == 4)
  assert len(list((tmp_path / "b" / "parts").iterdir())) == 4
  assert generated.go(c, tmp_path / "b")
  for name in ("surprise.json", "videos.csv", "frames.csv"):
    assert (tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text()
  facts = json.loads((tmp_path / "a" / "surprise.json").read_text())
  assert facts["all"]["n_groups"] == 10 and facts["all"]["n_pairs"] == 20
  assert set(facts["kinds"]) == set(EVENTS) and len(facts["drawn"]) == 3
  page = (tmp_path / "a" / "report.html").read_text()
  assert page.count("data:image/png;base64,") == 3 and "Not shown" not in page
  with open(tmp_path / "a" / "videos.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  # Worked out again in Python, of one window.
  model = totojax.load(made[1], tokenizer=made[2])
  videos = physics.render("wall", frames=4, size_px=8, seed=0, index=1)
  by_id = {row["id"]: row for row in rows}
  for n, nll in enumerate(model.surprise(videos)):
    row = by_id[f"wall/00001/{n + 1}"]
    assert float(row["1_mean"]) == pytest.approx(nll[1:].mean(), rel=1e-4)
    assert float(row["frames_max"]) == pytest.approx(nll[1:].mean((1, 2)).max(), rel=1e-4)


def test_files_are_scored_and_a_test_set_is_handed_in(made, tmp_path):
  intphys(tmp_path / "set")
  (tmp_path / "set/dev/O2/01/4/scene/scene_004.png").write_bytes(b"no image")
  c = config(
    made, data__set="intphys", data__root=str(tmp_path / "set"), windows__choose="filtered"
  )
  assert generated.go(c, tmp_path / "a")
  facts = json.loads((tmp_path / "a" / "surprise.json").read_text())
  assert facts["all"]["n_groups"] == 1 and facts["skipped"] == 1
  assert "O2/01" in (tmp_path / "a" / "skipped.csv").read_text()
  tasks = [f"O1/0001/{n}" for n in (1, 2)]
  for n, task in enumerate(tasks):
    frames(tmp_path / "hidden" / "test" / task / "scene", [n * 90] * 12)
  (tmp_path / "hidden" / "task.txt").write_text("\n".join(tasks))
  c = config(made, data__set="intphys_test", data__root=str(tmp_path / "hidden"))
  assert generated.go(c, tmp_path / "b")
  lines = (tmp_path / "b" / "average.txt").read_text().splitlines()
  assert [line.split(" ")[0] for line in lines] == tasks
  assert all(float(line.split(" ")[1]) < 1 for line in lines)


@pytest.mark.parametrize(
  "keys, told",
  [
    ({"windows__frames": 9}, "windows.frames is 9; the window of .* has 4: use 2 to 4"),
    ({"windows__contexts": (4,)}, "windows.contexts has 4, and a window 4"),
    ({"windows__choose": "filtered", "windows__context": 2}, "it is of 'fixed'"),
    ({"data__set": "csv"}, "data.list is empty"),
    ({"data__set": "grasp", "data__root": "/nowhere"}, "data.root: "),
    ({"data__set": "intphys"}, "data.root is empty"),
    ({"data__root": "x"}, "reads no files"),
    ({"rendered__frames": 3}, "rendered.frames: "),
    ({"rendered__frames": 4, "windows__frames": 0, "data__list": "x"}, "has none"),
  ],
)
def test_what_does_not_fit_is_one_line(made, tmp_path, keys, told):
  with pytest.raises(ValueError, match=told) as error:
    generated.go(config(made, **keys), epath.Path(tmp_path / "a"))
  assert "\n" not in str(error.value) and not (tmp_path / "a").exists()
  assert jobs.find("surprise").run == "surprise.job:run"
