"""CATER's measures, its rules, whole clips, and fine-tuning with the attention probe."""

import csv
import dataclasses
import json

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
import test_features

from totojax import jobs, rundir, tasks
from totojax.config import cater as cater_config, labels, roots
from totojax.config.schema import ConfigError
from totojax.data.pixels import augment, containers, timelines, video
from totojax.data.sources import cater, items
from totojax.evals import cells, top1
from totojax.jobs import cater as job
from totojax.jobs.labels import job as labels_job
from totojax.rundir import directory, files
from totojax.tasks import finetune, pretrain

GOLDEN = json.loads((runs.ROOT / "tests" / "golden" / "cater_metrics.json").read_text())
NEVER = lambda step: False


def test_measures_are_those_of_caters_evaluation():
  labels_M = np.array(GOLDEN["labels"])
  found = top1.outcome(jnp.array(GOLDEN["logits"]), jnp.array(labels_M), views=1)
  answers = cells.Answers.named(
    np.asarray(found["named"]), labels_M, 6, rank=np.asarray(found["rank"])
  )
  wanted = GOLDEN["expected"]
  assert answers.top1_SM.mean() == wanted["top_1"]
  assert answers.top5_SM.mean() == pytest.approx(wanted["top_5"])
  assert answers.l1_SM.mean() == pytest.approx(wanted["l1_dist"])


@pytest.mark.parametrize("side", [4, 6])
def test_distances_and_rules_are_those_of_brute_force(side):
  rng = np.random.default_rng(side)
  labels_M, train = rng.integers(0, side**2, 40), rng.integers(0, side**2, 90) ** 2 % side**2
  far = lambda a, b: abs(a // side - b // side) + abs(a % side - b % side)
  every = range(side**2)
  found = cells.chance(labels_M, side)
  assert found.top1_SM.mean() == pytest.approx(1 / side**2)
  assert found.top5_SM.mean() == pytest.approx(5 / side**2)
  wanted = [np.mean([far(cell, label) for cell in every]) for label in labels_M]
  np.testing.assert_allclose(found.l1_SM[0], wanted)
  rules = cells.constant(train, labels_M, side)
  frequent = max(every, key=lambda cell: (np.sum(train == cell), -cell))
  middle = min(every, key=lambda cell: (sum(far(cell, one) for one in train), cell))
  for name, cell in (("frequent", frequent), ("middle", middle)):
    np.testing.assert_array_equal(rules[name].l1_SM[0], far(cell, labels_M))
    assert rules[name].top1_SM.mean() == np.mean(labels_M == cell)
    assert rules[name].top5_SM.mean() >= rules[name].top1_SM.mean()


def test_answers_that_know_nothing_are_chance_and_right_ones_are_whole():
  """Negative control: labels that are shuffled give what `chance` expects."""
  rng = np.random.default_rng(0)
  labels_M = rng.integers(0, 36, 4000)
  everything = np.ones(4000, bool)
  numbers = lambda named: job.numbers(cells.Answers.named(named, labels_M, 6), everything, seed=0)
  shuffled, right = numbers(rng.permutation(labels_M)), numbers(labels_M)
  expected = job.numbers(cells.chance(labels_M, 6), everything, seed=0)
  assert shuffled["top1_low"] < 1 / 36 < shuffled["top1_high"]
  assert shuffled["l1_low"] < expected["l1"] < shuffled["l1_high"]
  assert right["top1"] == 1.0 and right["l1"] == 0.0 and right["top5"] is None


def test_several_runs_add_their_spread():
  rng = np.random.default_rng(0)
  labels_M = rng.integers(0, 36, 300)
  runs_SM = np.where(rng.uniform(size=(3, 300)) < [[0.2], [0.4], [0.6]], labels_M, 0)
  everything = np.ones(300, bool)
  one, three = (
    job.numbers(cells.Answers.named(named, labels_M, 6), everything, seed=0)
    for named in (runs_SM[1], runs_SM)
  )
  for key in ("top1", "l1"):
    assert three[f"{key}_high"] - three[f"{key}_low"] > 3 * (one[f"{key}_high"] - one[f"{key}_low"])
  # 4.303 is Student's t of two degrees of freedom.
  spread = 4.303 * np.std((runs_SM == labels_M).mean(1), ddof=1) / np.sqrt(3)
  assert three["top1_high"] - three["top1"] == pytest.approx(spread, rel=0.05)


# CATER on disk, of clips whose snitch is seen, stays below a cone, or is carried.

KINDS = ("seen", "stays", "carried")


def _write(root, count=12):
  """Scenes, lists and empty videos; the kinds take turns."""
  for below in ("videos", "scenes", "lists/localize"):
    (root / below).mkdir(parents=True)
  lines = []
  for number in range(count):
    name, kind = f"CLEVR_new_{number:06d}", KINDS[number % 3]
    x = -2.5 + number % 5
    moved = {"seen": [x, x, x], "stays": [x, x, x], "carried": [x, x, x + 1]}[kind]
    places = {str(n): [value, 0.5, 0.3] for n, value in enumerate(moved)}
    cover = [] if kind == "seen" else [["_contain", "Spl_0", 0, 1]]
    scene = {
      "objects": [
        {"shape": "spl", "instance": "Spl_0", "locations": places},
        {"shape": "cone", "instance": "Cone_0", "locations": places},
      ],
      "movements": {"Cone_0": cover},
    }
    (root / "scenes" / f"{name}.json").write_text(json.dumps(scene))
    (root / "videos" / f"{name}.avi").write_bytes(b"")
    lines.append(f"{name}.avi {cater.cell(moved[-1], 0.5)}\n")
  for split in ("train", "val"):
    (root / "lists" / "localize" / f"{split}.txt").write_text("".join(lines))


def _answer(root, workdir, named):
  """A finished run of fine-tuning that names cells, by (number, right cell)."""
  epath.Path(workdir).mkdir(parents=True)
  rows = [
    {"id": item.id, "label": item.label, "predicted": named(n, item.label), "rank": n % 7}
    for n, item in enumerate(cater.list_items(str(root), "val").items)
  ]
  files.write_csv(epath.Path(workdir) / "predictions.csv", rows)
  directory.mark_done(epath.Path(workdir), 1.0)
  return str(workdir)


@pytest.fixture(name="made", scope="module")
def _made(tmp_path_factory):
  root = tmp_path_factory.mktemp("cater")
  _write(root / "data")
  _answer(root / "data", root / "right", lambda n, label: label)
  _answer(root / "data", root / "off", lambda n, label: label + 1 if label % 6 < 5 else label - 1)
  return root


def _config(made, **models):
  return roots.read(cater_config.score(str(made / "data"), **models).to_dict())


def test_clips_are_told_apart_and_the_last_visible_place_is_wrong_where_it_is_carried(made):
  models = {"right": (str(made / "right"),), "off": (str(made / "off"),) * 2}
  workdir = epath.Path(made / "scored")
  assert jobs.run(_config(made, **models), workdir, NEVER)
  found = json.loads((workdir / "metrics.json").read_text())
  row = {(one["name"], one["group"]): one for one in found["rows"]}
  assert [row["right", g]["n"] for g in ("all", "carried", "hidden, not carried", "seen")] == [
    12,
    4,
    4,
    4,
  ]
  assert row["last seen", "carried"]["top1"] == 0.0 and row["last seen", "carried"]["l1"] == 1.0
  for group in ("hidden, not carried", "seen"):
    assert row["last seen", group]["top1"] == 1.0 and row["last seen", group]["l1"] == 0.0
  assert row["right", "carried"]["top1"] == 1.0 and row["right", "carried"]["l1"] == 0.0
  assert row["off", "all"]["l1"] == 1.0 and row["off", "all"]["runs"] == 2
  ranks = np.arange(12) % 7
  assert row["right", "all"]["top5"] == pytest.approx(np.mean(ranks < 5))
  verdict = {(one["name"], one["group"]): one for one in found["verdicts"]}
  assert verdict["right", "carried"]["top1"] and verdict["right", "carried"]["l1"]
  assert not verdict["off", "carried"]["top1"] and not verdict["off", "carried"]["l1"]
  assert not verdict["right", "all"]["top1"]  # intervals of twelve clips meet
  with open(workdir / "per_item.csv") as file:
    items_ = list(csv.DictReader(file))
  carried = [one["id"] for one in items_ if one["carried"] == "1"]
  assert carried == [f"CLEVR_new_{n:06d}" for n in (2, 5, 8, 11)]
  page = (workdir / "report.html").read_text()
  for told in ("the last visible place", "other people", "70.2", "72.9", "not to be compared"):
    assert told in page
  assert "another format" not in page


def test_without_scenes_all_clips_are_one_group(made, tmp_path):
  _write(tmp_path / "data")
  for path in (tmp_path / "data" / "scenes").iterdir():
    path.unlink()
  (tmp_path / "data" / "scenes").rmdir()
  workdir = epath.Path(tmp_path / "scored")
  assert jobs.run(_config(tmp_path, right=(str(made / "right"),)), workdir, NEVER)
  found = json.loads((workdir / "metrics.json").read_text())
  assert {one["group"] for one in found["rows"]} == {"all"} and not found["verdicts"]
  assert "How far off" in (workdir / "report.html").read_text()


def _spoilt(made, tmp_path, change):
  folder = epath.Path(tmp_path / "run")
  _answer(made / "data", folder, lambda n, label: label)
  lines = (folder / "predictions.csv").read_text().splitlines()
  (folder / "predictions.csv").write_text("\n".join(change(lines)) + "\n")
  return str(folder)


@pytest.mark.parametrize(
  "change, told",
  [
    (lambda lines: lines[:-1], "lacks 1 of 12 clips of the list"),
    (lambda lines: [*lines, "x,1,1,0"], "clip 'x' with cell 1 is not in the list"),
    (lambda lines: [lines[0].replace("rank", "place"), *lines[1:]], "has not the columns"),
    (lambda lines: [*lines[:1], lines[1].replace(",", ",9"), *lines[2:]], "line 2: clip .* has ce"),
  ],
)
def test_answers_of_other_clips_are_refused(made, tmp_path, change, told):
  config = _config(made, mine=(_spoilt(made, tmp_path, change),))
  with pytest.raises(ValueError, match=told):
    job.run(config, epath.Path(tmp_path / "scored"), NEVER)


def test_what_cannot_be_scored_is_told(made, tmp_path):
  with pytest.raises(rundir.RunError, match="is no finished run"):
    job.run(_config(made, mine=(str(tmp_path),)), epath.Path(tmp_path / "a"), NEVER)
  with pytest.raises(ConfigError, match="models is empty"):
    _config(made)
  with pytest.raises(ConfigError, match="has the name of a rule"):
    _config(made, chance=("x",))
  with pytest.raises(ConfigError, match="data.root is empty"):
    job.opened(cater_config.Clips())
  with pytest.raises(ConfigError, match="seeds is .x."):
    cater_config.chain("seeds=x")


# Whole clips.


@pytest.mark.parametrize("count, frames", [(301, 16), (301, 32), (24, 8), (5, 5)])
def test_a_whole_clip_has_its_first_and_its_last_frame(count, frames):
  spec = video.ClipSpec(frames=frames, size_px=8, sampling="whole", fps=24.0)
  timeline = timelines.read(_moving(count))
  (drawn,) = spec.draw(items.Item("a", "a"), timeline, seed=0)
  wanted = [round(n * (count - 1) / (frames - 1) + 1e-9) for n in range(frames)]
  np.testing.assert_allclose(drawn.places_T, wanted, atol=1)
  assert drawn.places_T[0] == 0 and drawn.places_T[-1] == count - 1
  assert len(set(np.diff(drawn.places_T))) <= 2


def _moving(count):
  """An AVI of so many frames of 12 x 16 pixels: bright on the left, dark on the right."""
  from totojax.data.pixels import movies

  frame = np.zeros((12, 16, 3), np.uint8)
  frame[:, :4] = 250
  return movies.avi(np.stack([frame] * count), fps=24.0, quality=3)


def test_a_whole_clip_is_squashed_and_short_ones_are_refused_or_held():
  spec = video.ClipSpec(frames=6, size_px=8, sampling="whole", fps=24.0)
  item = items.Item("a", "a")
  (clip_THW3,) = video.clips(item, _moving(6), spec, seed=0)
  assert clip_THW3.shape == (6, 8, 8, 3)
  # A quarter of the width is bright, which no crop of the short side would show.
  assert (clip_THW3[:, :, 0] > 200).all() and (clip_THW3[:, :, 3:] < 60).all()
  with pytest.raises(video.TooShort, match="it has 5 frames, and a clip 6"):
    video.clips(item, _moving(5), spec, seed=0)
  held = dataclasses.replace(spec, short="hold")
  assert video.clips(item, _moving(5), held, seed=0).shape == (1, 6, 8, 8, 3)
  with pytest.raises(ConfigError, match="clip.crops is 2"):
    video.ClipSpec(frames=6, sampling="whole", crops=2)
  frames = np.random.default_rng(0).integers(0, 255, (2, 9, 9, 3)).astype(np.uint8)
  np.testing.assert_array_equal(augment.squashed(frames, 9, "bicubic"), frames)
  assert issubclass(video.TooShort, containers.Undecodable)


# Fine-tuning with the attention probe, on tokens.

CLASSES = 5


def _task(**head):
  causal = test_features.make(depth=2)
  prefix = 0 if head.get("next_token") else -1
  model = causal.clone(config=dataclasses.replace(causal.config, prefix_tokens=prefix))
  config = labels.FineTuneConfig(0.0, 0.02, 1e-6, pool="attention", **head)
  return finetune.FineTune(pretrain.Pretrain(causal), model, config, classes=CLASSES, smoothing=0.1)


def _rows(task, count, seed=0):
  """Clips of random tokens with a token 50 somewhere; the label is where."""
  rng = np.random.default_rng(seed)
  tokens = rng.integers(4, 40, (count, task.spec.row_tokens)).astype(np.int32)
  tokens[:, 0] = 3
  label = rng.integers(0, CLASSES, count)
  tokens[np.arange(count), 1 + 2 * label] = 50
  return {"tokens": tokens, "label": label.astype(np.int32)}


def _one_loss(task):
  variables = jax.jit(task.init)(jax.random.key(0))
  batch = _rows(task, 4)

  def total(params):
    terms, stats, _ = task.loss(params, variables, batch, step=jnp.int32(0), key=jax.random.key(0))
    return sum(term.coefficient * term.sum for term in terms.values()), (terms, stats)

  (_, (terms, stats)), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(variables.params)
  return variables, batch, terms, stats, grads


def test_the_attention_probe_trains_the_backbone_and_keeps_its_statistics():
  task = _task()
  variables, _, terms, stats, grads = _one_loss(task)
  assert set(terms) == {"ce"}
  assert all(abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads["backbone"]))
  assert set(grads["backbone"]) == {"embedding", "blocks"}
  assert abs(stats["mean"]).max() > 0  # of this batch, a tenth of it
  assert jax.tree.structure(task.axes().params) == jax.tree.structure(variables.params)
  assert jax.tree.structure(task.axes().stats) == jax.tree.structure(variables.stats)


def test_a_next_token_loss_beside_it_is_that_of_pretraining():
  task = _task(next_token=0.25)
  variables, batch, terms, _, grads = _one_loss(task)
  plain, _, _ = task.backbone.loss(
    variables.params["backbone"], variables, batch, step=jnp.int32(0), key=jax.random.key(0)
  )
  np.testing.assert_allclose(terms["nll"].sum, plain["nll"].sum, rtol=1e-5)
  assert terms["nll"].coefficient == 0.25
  assert set(task.weights(batch)) == {"ce", "nll"}
  assert "norm" in grads["backbone"] and abs(grads["backbone"]["norm"]["scale"]).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("shuffled", [False, True])
def test_places_are_learnt_and_shuffled_labels_are_not(shuffled):
  """Negative control: with labels of other clips held-out ones are at chance."""
  task = _task()
  variables = jax.jit(task.init)(jax.random.key(0))
  train, held = _rows(task, 256), _rows(task, 400, seed=1)
  if shuffled:
    train["label"] = np.random.default_rng(2).permutation(train["label"])
  params, stats = variables.params, variables.stats

  @jax.jit
  def step(params, stats, first, second, count, batch):
    def total(params):
      rest = tasks.Variables(None, {}, stats)
      terms, stats_, _ = task.loss(params, rest, batch, step=count, key=jax.random.key(0))
      return terms["ce"].sum / len(batch["label"]), stats_

    grads, stats = jax.grad(total, has_aux=True)(params)
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, grads)
    second = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g * g, second, grads)
    move = lambda p, m, v: p - 3e-3 * m / (jnp.sqrt(v) + 1e-6)
    return jax.tree.map(move, params, first, second), stats, first, second

  first = second = jax.tree.map(jnp.zeros_like, params)
  for count in range(150):
    rows = np.random.default_rng(count).integers(0, 256, 32)
    batch = {name: leaf[rows] for name, leaf in train.items()}
    params, stats, first, second = step(params, stats, first, second, count, batch)
  found = task.outcomes(
    tasks.Variables(params, {}, stats), held, measure=lambda logits: jnp.argmax(logits, -1)
  )
  right = np.mean(np.asarray(found)[0, 0] == held["label"])
  assert right < 0.3 if shuffled else right > 0.8


def test_tokens_are_not_mixed_and_next_tokens_need_a_causal_mask():
  mixed = labels.MixConfig()
  setup = lambda prefix, **changes: _Setup(prefix, **changes)
  with pytest.raises(ConfigError, match="cannot be mixed as pixels are"):
    labels_job.finetune_training(setup(-1, mix=mixed))
  plain = labels.MixConfig(mixup=0.0, cutmix=0.0)
  head = labels.FineTuneConfig(drop_path=0.0, next_token=0.1)
  with pytest.raises(ConfigError, match="learnt by causal attention"):
    labels_job.finetune_training(setup(-1, mix=plain, head=head))


class _Setup:
  """As much of a `TuningSetup` as is looked at before anything is built."""

  def __init__(self, prefix, **changes):
    self.config = dataclasses.replace(labels.Finetune(), **changes)
    self.model = test_features.make(depth=1)
    self.model = self.model.clone(
      config=dataclasses.replace(self.model.config, prefix_tokens=prefix)
    )
    self.tokenizer, self.sets = None, type("Sets", (), {"classes": CLASSES})
