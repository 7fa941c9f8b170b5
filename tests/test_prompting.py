"""Prompts of pictures: how they lie, what is drawn and scored, and what is refused."""

import json
import re

from etils import epath
import numpy as np
from PIL import Image
import pytest
import runs
import temporal
import test_generate_job as generated

import totojax
from totojax import jobs
from totojax.config import recipes, roots
from totojax.config.generate import Sampling
from totojax.config.model import EACH_FRAME, SequenceSpec
from totojax.data.pixels import known_scenes, synthetic
from totojax.data.sources import pairs as pair_lib
from totojax.data.store import store as store_lib
from totojax.evals import answers, continuations
from totojax.jobs.prompt_tune import job as tune_job, prompts
from totojax.trained import backbone, prompting

SIZE, FRAMES = temporal.SIZE, 6  # two pairs, the query and its answer


@pytest.fixture(scope="module", name="made")
def _made(tmp_path_factory):
  root = tmp_path_factory.mktemp("prompting")
  return (root, *generated.build(root, EACH_FRAME, frames=FRAMES))


@pytest.fixture(scope="module", name="model")
def _model(made):
  _, run, file = made
  return totojax.load(run, tokenizer=file)


def measured(*statistics) -> tuple[float, float, float]:
  """(mean, low, high) of a score that has them all."""
  found = answers.score(*statistics)
  assert found.mean is not None and found.low is not None and found.high is not None
  return found.mean, found.low, found.high


def save(path, image):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(image).save(path)


def picture(seed, height=12, width=16):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3), np.uint8)


def write_pairs(folder, count, **size):
  for n in range(count):
    save(folder / f"{n}_in.png", picture(2 * n, **size))
    save(folder / f"{n}_out.png", picture(2 * n + 1, **size))


# How a prompt lies.


def test_a_prompt_is_in_out_in_out_query_and_the_answer_what_follows(model):
  """By hand: grey pictures of one brightness each, whose codes are known."""
  grey = lambda level: np.full((SIZE, SIZE, 3), level, np.uint8)
  levels = [8, 40, 80, 120, 200]  # codes of the tokenizer: level * 64 / 256
  pairs, query = [(grey(8), grey(40)), (grey(80), grey(120))], grey(200)
  frames = prompting.frames_of(prompting.pairs_of(pairs), query, model.fitted)
  codes = model.codes(frames)
  assert codes.shape == (1, 5, 4)
  np.testing.assert_array_equal(codes[0], np.repeat([[n // 4] for n in levels], 4, axis=1))
  expected = model.generate(frames[0], new_frames=1, sampling=Sampling(temperature=0.0))[0]
  for same in (pairs, np.array(pairs), np.array(pairs).reshape(4, SIZE, SIZE, 3)):
    np.testing.assert_array_equal(model.prompt(same, query), expected)
  turned = model.prompt(pairs[::-1], query)
  assert turned.shape == expected.shape == (SIZE, SIZE, 3)
  several = model.prompt(pairs, np.stack([grey(90), query]), samples=3)
  assert several.shape == (2, 3, SIZE, SIZE, 3) and several.dtype == np.uint8
  assert (several[1] == expected).all()  # greedy: whatever the sample, and what is beside it
  # Of other sizes each, as photographs have them.
  mixed = [(picture(1, 20, 12), picture(2, 20, 12)), (picture(3), picture(4))]
  assert model.prompt(mixed, picture(5, 9, 30)).shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize(
  "pairs, query, told",
  [
    ([], picture(0), "0 example pairs are given; a prompt needs 1"),
    (np.stack([picture(n) for n in range(3)]), picture(0), "3 frames; they are input, output"),
    ([(picture(0), picture(1, 12, 12))], picture(0), "of 16 x 12 and 12 x 12 pixels"),
    ([(picture(0), picture(1), picture(2))], picture(0), "pair 1 has 3 pictures"),
    ([(picture(0), picture(1) / 255)], picture(0), "the output of pair 1 is float64"),
    ([(picture(0), picture(1))], picture(0)[..., 0], "the query is uint8 .12, 16."),
    ([(picture(0), picture(1))] * 3, picture(0), "are 8 frames; the window of .* has 6: give at"),
  ],
)
def test_what_is_no_prompt_is_one_line(model, pairs, query, told):
  with pytest.raises(ValueError, match=told):
    model.prompt(pairs, query)


def test_windows_and_tokenizers_that_hold_no_prompt():
  spec = lambda **keys: SequenceSpec(vocab=64, grid=2, **keys)
  assert [prompting.most_pairs(spec(frames=n, context=4 * n)) for n in (3, 4, 5, 16)] == [
    0,
    1,
    1,
    7,
  ]
  with pytest.raises(ValueError, match="has 3: a prompt needs 4 or more"):
    prompting.check(spec(frames=3, context=12), pairs=1, name="RUN")
  clips = spec(frames=16, context=64, frame_factor=4)
  with pytest.raises(ValueError, match="stands for 4 frames"):
    prompting.check(clips, pairs=1, name="RUN")


# Scenes of which everything is known.


def test_scenes_are_known_to_the_pixel():
  for index in range(20):
    scene = known_scenes.render(size_px=32, objects=3, seed=5, index=index)
    far_HW = scene.object_HW == 0
    assert (scene.depth_HW[far_HW] == known_scenes.FAR).all() and far_HW.any()
    assert (scene.kind_HW[far_HW] == 0).all() and (scene.kind_HW[~far_HW] > 0).all()
    numbers = np.unique(scene.object_HW[~far_HW])
    each = [np.unique(scene.depth_HW[scene.object_HW == n]) for n in numbers]
    assert all(len(one) == 1 for one in each)  # upright, one depth each
    assert np.all(np.diff(np.concatenate(each)) < 0)  # what is drawn later is nearer
    assert 1 <= scene.depth_HW.min() and len(numbers) <= 3
    again = known_scenes.render(size_px=32, objects=3, seed=5, index=index)
    np.testing.assert_array_equal(scene.image_HW3, again.image_HW3)


def test_a_disc_is_where_its_equation_says():
  """The mask of an object against the plain equation of a disc on the torus."""
  path = synthetic.Path(*(np.array([v]) for v in (0.9, 0.3, 0.2, 1.0)))
  is_in_HW = synthetic.covered(path, "disc", 32)[0] >= 0.5
  at = (np.arange(32) + 0.5) / 32
  away = lambda centre: np.minimum(np.abs(at - centre), 1 - np.abs(at - centre))
  distance_HW = np.hypot(away(0.3)[:, None], away(0.9)[None])
  np.testing.assert_array_equal(is_in_HW, distance_HW <= 0.2)


def test_pairs_of_each_task():
  scene = known_scenes.render(size_px=16, objects=3, seed=1, index=4)
  pair = {task: known_scenes.pair(task, scene, 1) for task in known_scenes.TASKS}
  for task, (shown, drawn) in pair.items():
    assert shown.shape == drawn.shape == (16, 16, 3) and shown.dtype == drawn.dtype == np.uint8
    if task != "colourisation":
      np.testing.assert_array_equal(shown, scene.image_HW3)
  found = answers.depths(pair["depth"][1][None], kind="inverse")[0]
  np.testing.assert_allclose(found, scene.depth_HW, rtol=0.01)  # of 8 bits
  kinds = answers.classes(pair["segmentation"][1][None], known_scenes.PALETTE)[0]
  np.testing.assert_array_equal(kinds, scene.kind_HW)
  red, green, blue = np.moveaxis(scene.image_HW3.astype(float), -1, 0)
  luma = 0.299 * red + 0.587 * green + 0.114 * blue
  np.testing.assert_allclose(pair["colourisation"][0][..., 1], luma, atol=0.51)
  turned = np.asarray(Image.fromarray(scene.image_HW3).rotate(90))
  np.testing.assert_array_equal(pair["rotation"][1], turned)
  numbers = np.array([[0, 0, 2], [0, 0, 2], [1, 1, 2]])
  by_hand = np.array([[0, 1, 1], [1, 1, 1], [1, 1, 1]], bool)
  np.testing.assert_array_equal(known_scenes.edges(numbers), by_hand)
  assert not known_scenes.edges(np.zeros((4, 4), int)).any()
  with pytest.raises(ValueError, match="task 'flow' is unknown"):
    known_scenes.pair("flow", scene, 1)


# Scores.


def test_scores_by_hand():
  grey = lambda *levels: np.repeat(np.array(levels, np.uint8).reshape(1, 1, -1, 1), 3, axis=-1)
  # Depths 1, 2.5, unknown; drawn 2, 2.5 and whatever: errors 1 and 0.
  truth, drawn = grey(255, 102, 0), grey(127, 102, 9)
  found = answers.relative_errors(truth, drawn, kind="inverse")
  assert found == pytest.approx([(255 / 127 - 1) / 2], rel=1e-6)
  assert answers.relative_errors(truth, drawn, kind="linear") == pytest.approx([(128 / 255) / 2])
  assert answers.depths(grey(0, 1), kind="inverse").ravel().tolist() == [10, 10]
  assert np.isnan(answers.relative_errors(grey(0, 0), grey(1, 1), kind="inverse")).all()
  palette = np.array([(0, 0, 0), (255, 0, 0), (0, 0, 255)], np.uint8)
  labels = lambda *rows: palette[np.array(rows)][:, None]
  truth, drawn = labels([0, 0, 1, 1], [0, 0, 0, 0]), labels([0, 1, 1, 1], [0, 0, 0, 1])
  drawn = np.clip(drawn.astype(int) - 40, 0, 255).astype(np.uint8)  # nearest colours all the same
  one = answers.statistic("miou", truth, drawn, palette_C3=palette)
  # Class 0: 4 of 6; class 1: 2 of 4; class 2 is nowhere.
  assert answers.score(one).mean == pytest.approx((4 / 6 + 2 / 4) / 2, rel=1e-6)
  rng = np.random.default_rng(0)
  a, b, c = rng.integers(0, 256, (3, 40, 4, 4, 3), np.uint8)
  one, other = (answers.statistic("psnr_db", a, x) for x in (b, c))
  psnrs = continuations.psnrs(a, b)
  mean, low, high = measured(one)
  draws = [psnrs[rng.integers(40, size=40)].mean() for _ in range(4000)]
  assert mean == pytest.approx(psnrs.mean(), rel=1e-9) and answers.score(one).n == 40
  ends = np.quantile(draws, [0.025, 0.975])
  assert [low, high] == pytest.approx(ends, abs=0.1 * (ends[1] - ends[0]))
  assert measured(one, other)[0] == pytest.approx(
    (psnrs - continuations.psnrs(a, c)).mean(), rel=1e-6
  )
  assert answers.score(answers.Statistic("psnr_db", psnrs[:9])).low is None
  for measure, low, high, expected in (
    ("psnr_db", 0.1, 0.3, True),
    ("psnr_db", -0.3, -0.1, False),
    ("abs_rel", -0.3, -0.1, True),
    ("abs_rel", -0.1, 0.1, None),
  ):
    difference = continuations.Interval((low + high) / 2, low, high, 9)
    assert answers.is_better(measure, difference) is expected


def test_true_answers_are_perfect_and_shuffled_ones_are_chance():
  """Of each task: the truth itself, and the truth of another scene."""
  scenes = [known_scenes.render(size_px=32, objects=3, seed=2, index=n) for n in range(48)]
  for task, best in (("depth", 0.0), ("segmentation", 1.0), ("rotation", 100.0), ("edges", 100.0)):
    truth = np.stack([known_scenes.pair(task, scene, 1)[1] for scene in scenes])
    measure = answers.MEASURES.get(task, "psnr_db")
    meaning = {"depth": {"kind": "inverse"}, "segmentation": {"palette_C3": known_scenes.PALETTE}}
    of = lambda drawn: answers.statistic(measure, truth, drawn, **meaning.get(task, {}))
    perfect, shuffled = of(truth), of(np.roll(truth, 1, axis=0))
    assert measured(perfect)[0] == pytest.approx(best, abs=1e-9), task
    # As good as any other order, and far from perfect.
    mean, low, high = measured(shuffled)
    chance = np.mean([measured(of(np.roll(truth, n, axis=0)))[0] for n in (5, 9, 13, 17)])
    assert mean == pytest.approx(chance, abs=high - low), task
    assert answers.is_better(measure, answers.score(perfect, shuffled)), task
    if task == "segmentation":
      # Independent pictures overlap as their classes' shares say: s^2 / (2 s - s^2).
      kinds = np.stack([scene.kind_HW for scene in scenes])
      share = np.bincount(kinds.ravel(), minlength=6) / kinds.size
      chance = (share**2 / (2 * share - share**2)).mean()
      assert mean == pytest.approx(chance, abs=0.06)


# Folders of pairs.


def test_both_layouts_and_half_pairs(tmp_path):
  write_pairs(tmp_path / "a" / "deeper", 2)
  save(tmp_path / "a" / "other.png", picture(0))
  for side in ("input", "output"):
    save(tmp_path / "b" / side / "x" / "1.png", picture(1))
  found = pair_lib.list_pairs(str(tmp_path / "a"))
  assert [pair.id for pair in found] == ["deeper/0", "deeper/1"]
  np.testing.assert_array_equal(found[1].read()[1], picture(3))
  assert [pair.id for pair in pair_lib.list_pairs(str(tmp_path / "b"))] == ["x/1"]
  assert list(pair_lib.list_tasks(str(tmp_path), ())) == ["a", "b"]
  (tmp_path / "a" / "deeper" / "1_out.png").unlink()
  with pytest.raises(ValueError, match="1_in.png has no partner: .*1_out.* is missing"):
    pair_lib.list_pairs(str(tmp_path / "a"))
  save(tmp_path / "a" / "deeper" / "1_out.png", picture(0, 5, 5))
  with pytest.raises(ValueError, match="1_in.png and 1_out.png are of 16 x 12 and 5 x 5 pixels"):
    pair_lib.list_pairs(str(tmp_path / "a"))[1].read()
  (tmp_path / "a" / "deeper" / "1_out.png").write_bytes(b"no picture")
  with pytest.raises(ValueError, match="1_out.png gives no picture: no image of a known format"):
    pair_lib.list_pairs(str(tmp_path / "a"))[1].read()
  save(tmp_path / "b" / "output" / "2.png", picture(1))
  with pytest.raises(ValueError, match="output/2.png has no partner: .*input/2.* is missing"):
    pair_lib.list_pairs(str(tmp_path / "b"))
  for root, wanted, told in (
    (tmp_path / "nowhere", (), "is no folder"),
    (tmp_path, ("flow",), "has no folder 'flow'; it has a, b"),
    (tmp_path / "b", (), "holds no folders of tasks"),
  ):
    with pytest.raises(ValueError, match=told):
      pair_lib.list_tasks(str(root), wanted)
  (tmp_path / "c").mkdir()
  save(tmp_path / "c" / "1.png", picture(1))
  with pytest.raises(ValueError, match="holds no pair of pictures"):
    pair_lib.list_pairs(str(tmp_path / "c"))


# The jobs.


def tune(made, **keys):
  root, run, file = made
  c = roots.config("prompt_tune")
  c.update(model_run=run, tokenizer=file)
  c.prompts.update(train=16, val=4)
  c.train.update(steps=2, batch_rows=8)
  for key, value in keys.items():
    section, _, name = key.rpartition("__")
    (c[section] if section else c)[name] = value
  return c


def go(c, folder, interrupted=lambda step: False):
  return jobs.run(jobs.typed(c.to_dict(), folder), epath.Path(folder), interrupted)


def test_prompts_of_scenes_are_held_out_and_turn_alike(made):
  config = roots.read(tune(made).to_dict())
  tasks = {task.name: task for task in prompts.find(config, examples=2, size_px=16)}
  assert tuple(tasks) == known_scenes.TASKS
  seen = {"train": set(), "val": set()}
  for task in tasks.values():
    for split, count in task.counts.items():
      for number in range(count):
        one = task.make(split, number)
        frames = one.frames_TSS3
        assert frames.shape == (6, 16, 16, 3) and one.id.startswith(f"{task.name}/")
        coloured = frames[1::2] if task.name == "colourisation" else frames[::2]
        seen[split] |= {frame.tobytes() for frame in coloured}
  assert not seen["train"] & seen["val"] and len(seen["val"]) > 4 * 5 * 2
  turns = set()
  for number in range(16):
    frames = tasks["rotation"].make("train", number).frames_TSS3
    fitting = [
      {k for k in (1, 2, 3) if (np.rot90(a, k) == b).all()}
      for a, b in zip(frames[::2], frames[1::2])
    ]
    (turn,) = set.intersection(*fitting)  # one for all pairs of a prompt
    turns.add(turn)
  assert turns == {1, 2, 3}


def test_prompts_of_a_folder(made, tmp_path):
  write_pairs(tmp_path / "depth", 10)
  write_pairs(tmp_path / "mine", 10)
  config = roots.read(tune(made, data__root=str(tmp_path)).to_dict())
  tasks = {task.name: task for task in prompts.find(config, examples=2, size_px=8)}
  assert [(name, task.measure) for name, task in tasks.items()] == [
    ("depth", "abs_rel"),
    ("mine", "psnr_db"),
  ]
  held_out = {tasks["mine"].make("val", n).id for n in range(2)}
  trained = {tasks["mine"].make("train", n).id for n in range(16)}
  assert len(held_out) == 2 and not held_out & trained and tasks["mine"].counts["val"] == 2
  one = tasks["depth"].make("val", 0)
  number = int(one.id.partition("/")[2])
  # Every value of a depth is one of the file: nothing is mixed.
  assert set(one.answer.reshape(-1, 3).view("S3").ravel()) <= set(
    picture(2 * number + 1).reshape(-1, 3).view("S3").ravel()
  )
  with pytest.raises(ValueError, match="mine of .* has 8 pairs to train on .* 9 and a query"):
    prompts.find(
      roots.read(tune(made, data__root=str(tmp_path), tasks=("mine",)).to_dict()),
      examples=9,
      size_px=8,
    )
  write_pairs(tmp_path / "segmentation", 5)
  with pytest.raises(ValueError, match="more than 64 colours"):
    prompts.find(config, examples=2, size_px=8)


def test_a_pair_that_cannot_be_read_is_skipped_and_named(made, tmp_path, capsys):
  write_pairs(tmp_path / "mine", 10)
  (tmp_path / "mine" / "3_in.png").write_text("no picture")
  save(tmp_path / "mine" / "7_out.png", picture(1, 9, 9))
  config = roots.read(tune(made, data__root=str(tmp_path)).to_dict())
  (task,) = prompts.find(config, examples=2, size_px=8)
  assert [one.id for one in task.skipped] == ["3", "7"]
  for split, count in task.counts.items():
    assert not {"mine/3", "mine/7"} & {task.make(split, n).id for n in range(count)}
  tune_job._write_skipped([task], epath.Path(tmp_path))
  assert "skipped: mine/3 (" in (told := capsys.readouterr().out) and "and 1 more" in told
  assert (tmp_path / "skipped.csv").read_text().count("mine,") == 2
  # Too few are left: the one line says why.
  for n in range(1, 9):
    (tmp_path / "mine" / f"{n}_in.png").write_text("no picture")
  with pytest.raises(ValueError, match="has 2 pairs; give 3 and more .8 cannot be read: .*1_in"):
    prompts.find(config, examples=2, size_px=8)


@pytest.mark.slow
def test_a_model_is_tuned_scored_and_asked(made, tmp_path):
  """Interrupted again and again it ends as it does without; then a picture is asked of it."""
  root, run, file = made
  c = tune(made, tasks=("depth", "rotation"))
  assert go(c, tmp_path / "whole")
  calls = {"left": 0}

  def impatient(step):
    calls["left"] -= 1
    return calls["left"] < 0

  for attempt in range(20):
    calls["left"] = 1 + attempt
    if go(c, tmp_path / "cut", impatient):
      break
  assert attempt > 1
  rows = (tmp_path / "whole" / "scores.csv").read_text()
  assert rows == (tmp_path / "cut" / "scores.csv").read_text()
  assert rows.count("\n") == 1 + 2 * 7
  facts = json.loads((tmp_path / "whole" / "prompt_tune.json").read_text())
  assert facts["examples"] == 2 and facts["results"]["depth"]["scores"]["tuned"]["n"] == 4
  names = {path.name for path in (tmp_path / "whole").iterdir()}
  assert {"tuned", "prompts", "pictures", "report.html", "answers.npz"} <= names
  assert "parts" not in names
  page = (tmp_path / "whole" / "report.html").read_text()
  assert page.count("data:image/png;base64,") == 2 and "the model before it" in page
  # What is trained on is the prompts, in order, and nothing else.
  store = store_lib.open_store(
    tmp_path / "whole" / "prompts" / "depth" / "train", tokenizer=None, vocab=None, grid=None
  )
  task = prompts.find(roots.read(c.to_dict()), examples=2, size_px=SIZE)[0]
  by_hand = temporal.brightness(EACH_FRAME).encode(task.make("train", 3).frames_TSS3)
  np.testing.assert_array_equal(store.read([3])["codes"].ravel(), by_hand.ravel())
  tuned = backbone.find(str(tmp_path / "whole" / "tuned"))
  assert tuned.step == 2 and tuned.config.init_from == run
  # A model of pre-training, which is asked as any other.
  write_pairs(tmp_path / "pairs", 2)
  save(tmp_path / "query.png", picture(99))
  g = recipes.generate(str(tmp_path / "whole" / "tuned"))
  g.tokenizer, g.samples = file, 2
  g.prompt.update(pairs=str(tmp_path / "pairs"), path=str(tmp_path / "query.png"))
  g.sampling.temperature = 0.0
  assert go(g, tmp_path / "asked")
  facts = json.loads((tmp_path / "asked" / "gen.json").read_text())
  assert facts["given_frames"] == 5 and facts["new_frames"] == 1
  (one,) = facts["answers"]
  assert one["id"] == "query.png" and len(one["files"]) == 2
  model = totojax.load(tmp_path / "whole" / "tuned", tokenizer=file)
  shown = [pair.read() for pair in pair_lib.list_pairs(str(tmp_path / "pairs"))]
  drawn = np.asarray(Image.open(tmp_path / "asked" / one["files"][1]))
  np.testing.assert_array_equal(drawn, model.prompt(shown, picture(99)))
  assert (tmp_path / "asked" / "report.html").read_text().count("data:image/png;base64,") == 1


def test_what_cannot_be_tuned_or_asked_is_one_line(made, tmp_path):
  root, run, file = made
  write_pairs(tmp_path / "pairs", 3)
  save(tmp_path / "query.png", picture(0))
  (tmp_path / "bad.png").write_bytes(b"no picture")
  base = ["--config.model_run=" + run, "--config.tokenizer=" + file]
  asked = [
    f"--config.prompt.path={tmp_path / 'query.png'}",
    f"--config.prompt.pairs={tmp_path}/pairs",
  ]
  for job, words, told in (
    ("prompt_tune", ["--config.prompts.examples=3"], "are 8 frames; the window of .* has 6"),
    ("prompt_tune", ["--config.model_run="], "model_run is empty"),
    ("prompt_tune", [f"--config.model_run={tmp_path}"], "no run|config.json"),
    ("prompt_tune", ["--config.tokenizer=shipped"], "has 512 codes; .* was trained with 64"),
    ("prompt_tune", ["--config.tasks=('flow',)"], "tasks has 'flow'; without data.root"),
    ("prompt_tune", [f"--config.data.root={tmp_path}/no"], "data.root: .* is no folder"),
    ("prompt_tune", ["--config.data.palette=('red',)"], "a colour is # and 6 hex digits"),
    ("prompt_tune", ["--config.data.depth=linear"], "of drawn scenes it is 'inverse'"),
    ("generate", asked, "prompt.pairs: 3 pairs, the query .* are 8 frames; the window"),
    ("generate", asked[1:], "prompt.path empty; with pairs it is the query"),
    ("generate", [*asked, "--config.new_frames=2"], "with prompt.pairs one frame is drawn"),
    ("generate", [*asked, "--config.prompt.frames=2"], "prompt.frames and prompt.place are of"),
  ):
    command = runs.command(f"configs/{job}.py", tmp_path / "out", *base, *words)
    (line,) = [
      line for line in runs.here(command, code=2).splitlines() if line.startswith("totojax:")
    ]
    assert re.search(told, line), line
