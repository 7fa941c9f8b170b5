"""Joint training: heads that change nothing, and a start at another grid."""

import csv
import json
import shutil

import chex
import classed
from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
import runs
import stores
import test_classify
import test_configs
import test_features

from totojax import jobs, sequence, tasks
from totojax.config import recipes, roots
from totojax.jobs import pretrain as build_pretrain
from totojax.jobs.labels import job
from totojax.models import heads
from totojax.optim import layered
from totojax.rundir import files
from totojax.tasks import classify, joint, pretrain
from totojax.tokenizers import weights

LAYERS, CLASSES = (1, 3), 3


def make(pool, *, depth=3):
  backbone = pretrain.Pretrain(test_features.make(depth=depth))
  layers = [layer for layer in LAYERS if layer <= depth]
  return joint.Joint(
    backbone, head=test_classify.head(pool), layers=layers, classes=CLASSES, settings=2
  )


def batch(rows=4):
  spec, rng = test_features.SPEC, np.random.default_rng(0)
  codes = rng.integers(0, 60, (rows, spec.frames, spec.frame_tokens))
  tokens = [sequence.build(c, kind="video", spec=spec) for c in codes]
  return {
    "tokens": jnp.asarray(np.stack(tokens)),
    "label": jnp.asarray(rng.integers(0, CLASSES, rows), jnp.int32),
  }


def variables(task):
  """Fresh ones, in which the heads of one layer differ."""
  found = jax.jit(task.init)(jax.random.key(1))
  noise = lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape)
  params = {**found.params, layered.HEADS: jax.tree.map(noise, found.params[layered.HEADS])}
  return found._replace(params=params)


def loss_of(task, found, rows, *names):
  """Parameters -> the named terms, as `train_step` adds them up."""
  weights = task.weights(rows)

  def loss(params):
    terms, stats, _ = task.loss(
      params, tasks.Variables(None, {}, found.stats), rows, step=jnp.int32(0), key=jax.random.key(0)
    )
    return sum(terms[n].sum / weights[n] for n in names), stats

  return loss


def pre_training(task, rows):
  """Parameters of the backbone -> the loss that pre-training has."""
  weights = task.backbone.weights(rows)

  def loss(backbone):
    none = tasks.Variables(None, {}, {})
    terms, _, _ = task.backbone.loss(backbone, none, rows, step=None, key=None)
    return terms["nll"].sum / weights["nll"]

  return loss


def test_the_backbone_learns_from_the_next_token_alone():
  task, rows = make("attention"), batch()
  found = variables(task)

  @jax.jit
  def grads_of(params):
    of = lambda *names: jax.grad(loss_of(task, found, rows, *names), has_aux=True)(params)
    return of("nll", "ce"), of("ce")[0]

  (both, stats), probes_alone = grads_of(found.params)
  # Of the probes' loss: nothing at all, exactly.
  nothing = jax.tree.map(np.zeros_like, found.params[layered.BACKBONE])
  chex.assert_trees_all_equal(probes_alone[layered.BACKBONE], nothing)
  # Of both: what pre-training gives on these rows.
  backbone = found.params[layered.BACKBONE]
  expected = jax.jit(jax.grad(pre_training(task, rows)))(backbone)
  for a, b in zip(jax.tree.leaves(both[layered.BACKBONE]), jax.tree.leaves(expected)):
    scale = float(abs(b).max())
    assert scale > 0
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * scale)
  # The heads: as frozen probes of this backbone.
  frozen = {name: backbone[name] for name in ("embedding", "blocks")}
  inputs = {**rows, "tokens": rows["tokens"][:, :-1]}
  of_heads, (after, _) = jax.jit(
    jax.grad(
      lambda p: test_classify.total(
        task.heads, p, tasks.Variables(None, frozen, found.stats), inputs
      ),
      has_aux=True,
    )
  )(found.params[layered.HEADS])
  for name, leaf in of_heads.items():
    scale = float(abs(leaf).max())
    assert scale > 0
    np.testing.assert_allclose(both[layered.HEADS][name], leaf, rtol=1e-3, atol=1e-5 * scale)
  np.testing.assert_allclose(stats["train_loss"], after["train_loss"], rtol=1e-4)


@pytest.mark.slow
def test_bit_for_bit_where_the_compiler_has_no_say():
  """Fused differently, equal sums differ in their last bit; one by one not."""
  task, rows = make("average", depth=1), batch(rows=2)
  found = variables(task)
  with jax.disable_jit():
    both, _ = jax.grad(loss_of(task, found, rows, "nll", "ce"), has_aux=True)(found.params)
    expected = jax.grad(pre_training(task, rows))(found.params[layered.BACKBONE])
  jax.tree.map(np.testing.assert_array_equal, both[layered.BACKBONE], expected)


def test_without_the_stop_heads_would_change_the_backbone():
  """The control: the same head, by autodiff through the residual stream."""
  task, rows = make("average"), batch()
  found = variables(task)
  own = jax.tree.map(lambda x: x[0, 0], found.params[layered.HEADS])
  inputs = rows["tokens"][:, :-1]

  @jax.jit
  @jax.grad
  def through(backbone):
    _, kept = task.model.apply({"params": backbone}, inputs, mutable=["intermediates"])
    x_BTD = kept["intermediates"]["blocks"]["residual"][0][0]
    pooled = heads.mean_over_tokens(x_BTD, sequence.is_visual(inputs))
    logits = heads.logits(task.heads.head, own, pooled, None)
    return classify.cross_entropy(logits, rows["label"]).sum()

  grads = through(found.params[layered.BACKBONE])
  assert abs(grads["embedding"]).max() > 1e-3


def test_no_head_on_the_embeddings():
  with pytest.raises(ValueError, match="0 is the embeddings, which have no"):
    joint.Joint(
      pretrain.Pretrain(test_features.make(depth=2)),
      head=test_classify.head("average"),
      layers=(0, 1),
      classes=2,
      settings=1,
    )


@pytest.fixture(name="data")
def _data():
  return classed.data()


def config(data, /, **sections):
  c = recipes.joint(data["model"])
  c.data.holdout_frac = 0.2
  return classed.small(c, data["images"], **sections)


def prepare(config):
  return job.prepare(roots.read(config))


def test_its_grid_and_base_are_others_than_the_model_s(data):
  of = prepare(config(data))
  assert of.run.model.spec.grid == 2 and of.run.model.spec.frames == 4
  assert of.model.spec.grid == 4 and of.model.spec.context == 1 + 16
  assert of.model.config.rope_base == 50_000.0
  assert of.run.model.config.rope_base == 10_000.0


@pytest.mark.slow
def test_a_run_from_files_learns_and_a_stopped_one_is_the_same(data):
  path = runs.ROOT / "configs" / "joint_imagenet.py"
  data = data | {"images": classed.write(data["root"] / "more", each=32)}
  words = classed.words(
    data,
    "--config.data.holdout_frac=0.2",
    "--config.optim.lr=3e-3",
    "--config.optim.head_lr_mults=(1.0, 10.0)",
    "--config.head.pool=average",
    "--config.head.norm_momentum=0.5",
    "--config.optim.warmup_epochs=1.0",
    "--config.train.epochs=14.0",
    "--config.every.log_steps=1",
    "--config.every.checkpoint_steps=1",
    "--config.checkpoint.keep=100",
  )
  c = test_configs.load(path, *words).to_dict()
  whole = epath.Path(data["root"] / "joint")
  assert jobs.run(c, whole, classed.NEVER)
  with open(whole / "per_layer.csv") as file:
    rows = list(csv.DictReader(file))
  assert [(r["backbone"], r["layer"], r["setting"]) for r in rows] == [
    ("joint", str(layer), str(s)) for layer in (1, 2) for s in (0, 1)
  ]
  assert [float(r["lr"]) for r in rows[:2]] == [0.003, 0.03]
  metrics = json.loads((whole / "metrics.json").read_text())
  assert metrics["joint/chosen_on_holdout/top1"] > 0.8
  assert metrics["n"] == 24 and metrics["paper/top1"] == pytest.approx(0.711)
  assert (whole / "layer_curve.png").exists()
  log = runs.metrics(whole)
  assert log[-1]["validation/nll"] < log[0]["validation/nll"]
  nll = [row["nll"] for row in log if row["kind"] == "train"]
  assert nll[-1] < nll[0]
  # The rate of the first update is 0: the backbone is what it started from.
  begun, kept = runs.checkpoint(whole, 1), runs.checkpoint(data["model"], 4)
  params = [name for name in kept if name.startswith("['params']")]
  assert len(params) == 11
  trained = classed.goes_on(c, whole)
  for name in params:
    own = name.replace("['params']", "['params']['backbone']")
    np.testing.assert_array_equal(begun[own], kept[name])
    assert (trained[own] != kept[name]).any()


def test_a_run_from_stores_of_tokens(data, tmp_path):
  """Videos whose views are added up, as Kinetics-400's."""
  shipped = weights.load("shipped")
  of_model = dict(tokenizer=shipped.fingerprint, vocab=shipped.vocab)
  names = [f"v/{i // 2}" for i in range(24)]
  train, val = (
    probes.write(tmp_path / prefix, labels, prefix=prefix, **of_model, **more)
    for prefix, labels, more in (
      ("t", np.arange(64) % 3, dict(seed=1)),
      ("v", np.arange(24) // 2 % 3, dict(seed=2, names=names)),
    )
  )
  gone = [(epath.Path(val).name, "v/gone", "video unavailable")]
  files.write_table(tmp_path / "quarantine.csv", gone, header=("split", "id", "reason"))
  c = test_configs.load(
    runs.ROOT / "configs" / "joint_k400.py",
    f"--config.model_run={data['model']}",
    f"--config.data.train={train}",
    f"--config.data.validation={val}",
    "--config.data.classes=3",
    "--config.data.holdout_frac=0.25",
    "--config.compute.dtype=float32",
    "--config.train.epochs=1.0",
    "--config.train.batch_rows=8",
    "--config.train.score_rows=16",
    "--config.optim.warmup_epochs=0.0",
    "--config.optim.lr=0.01",
    "--config.head.pool=average",
    "--config.layers=(1,)",
  ).to_dict()
  of = prepare(c)
  assert of.model.spec.context == 1 + stores.FRAMES * stores.GRID**2
  assert of.tokenizer is None and of.model.config.rope_base == 10_000.0
  assert jobs.run(c, epath.Path(tmp_path / "run"), classed.NEVER)
  found = json.loads((tmp_path / "run" / "metrics.json").read_text())
  assert found["n"] == 12 and found["paper/top1"] == pytest.approx(0.653)
  assert found["n_expected"] == 13  # and the one that is not there is named
  told = (tmp_path / "run" / "missing.csv").read_text()
  assert "v/gone,video unavailable" in told


def altered(data, tmp_path, *, tokenizer=None, **sections):
  """A copy of the model's run that says something else of itself."""
  folder = tmp_path / "other"
  shutil.copytree(data["model"], folder)
  manifest = files.read_json(folder / "manifest.json")
  written = files.read_json(folder / "config.json")
  if tokenizer:
    manifest["tokenizer"] = tokenizer
  for name, values in sections.items():
    written[name].update(values)
  (folder / "manifest.json").write_text(json.dumps(manifest))
  (folder / "config.json").write_text(json.dumps(written))
  return {**data, "model": str(folder)}


@pytest.mark.parametrize(
  "change, told",
  [
    (dict(tokenizer="f" * 16), "is of tokenizer .*other was trained on"),
    (dict(sequence=dict(vocab=60)), "shipped has 512 codes; .* with 60"),
  ],
)
def test_another_tokenizer_or_vocabulary_is_refused(data, tmp_path, change, told):
  with pytest.raises(ValueError, match=told):
    prepare(config(altered(data, tmp_path, **change)))


@pytest.mark.parametrize(
  "sections, told",
  [
    (dict(model=dict(prefix_tokens=-1)), "prefix_tokens -1 shows tokens"),
    (dict(layers=(3,)), "layer 3 does not exist"),
    (dict(head=dict(pool="max")), "head.pool is 'max'"),
    (dict(data=dict(root="nowhere")), "nowhere is not a folder"),
    (dict(optim=dict(warmup_epochs=9.0)), "not below the run's"),
    (dict(data=dict(lable=1)), "data.lable does not exist"),
    (dict(model_run="nowhere"), "nowhere is not a run directory"),
  ],
)
def test_a_config_that_does_not_fit_is_refused(data, sections, told):
  with pytest.raises((ValueError, FileNotFoundError), match=told):
    job.joint_training(prepare(config(data, **sections)))


def test_pictures_of_training_are_not_evaluated(data):
  whole = dict(root=str(data["root"]), train="images", validation="images", val_frac=0.0)
  with pytest.raises(ValueError, match="is in data.train and in data.valid"):
    prepare(config(data, data=whole))


def stage2(data, **changes):
  """A pre-training config of shorter clips that starts from the run."""
  c = files.read_json(epath.Path(data["model"]) / "config.json")
  c["init_from"] = data["model"]
  c["model"]["rope_base"] = 50_000.0
  c["sequence"] |= dict(frames=2, context=8)
  c["train"] |= dict(batch_tokens=64, total_tokens=64 * 4.0)
  for name, values in changes.items():
    c[name] |= values
  return c


def test_pre_training_goes_on_from_another_run(data):
  """Table 4: another length and base; the same parameters."""
  run = build_pretrain.pretraining(roots.read(stage2(data)))
  assert run.facts["init_from"]["run"] == data["model"]
  state, kept = run.init(), runs.checkpoint(data["model"], 4)
  for name in ("embedding", "norm"):
    leaf = state.params[name]
    leaf = leaf["scale"] if name == "norm" else leaf
    key = f"['params']['{name}']" + ("['scale']" if name == "norm" else "")
    np.testing.assert_array_equal(leaf, kept[key])
  moments = jax.tree.leaves(state.opt_state.inner_state)
  assert all(not np.any(leaf) for leaf in moments)  # a new optimiser


@pytest.mark.parametrize(
  "changes, told",
  [
    (dict(model=dict(width=64)), "model.width is 64; .* trained with 32"),
    (dict(model=dict(depth=3)), "model.depth is 3; .* Set model.depth to"),
    (dict(model=dict(tied=False)), "model.tied is False"),
    (dict(mup=dict(on=True)), "Use that run's section mup"),
  ],
)
def test_pre_training_does_not_go_on_from_another_model(data, changes, told):
  with pytest.raises(ValueError, match=told):
    build_pretrain.pretraining(roots.read(stage2(data, **changes)))


def test_pre_training_does_not_go_on_with_other_codes(data, tmp_path):
  other = altered(data, tmp_path, tokenizer="f" * 16)
  with pytest.raises(ValueError, match="and the codes mean different things"):
    other_start = {**stage2(data), "init_from": other["model"]}
    build_pretrain.pretraining(roots.read(other_start))


def test_configs_are_whole_at_full_size():
  """Every section makes its typed part, and no key is left over."""
  paths = [
    path for path in test_configs.CONFIGS if test_configs.load(path)["run"] in ("joint", "finetune")
  ]
  assert len(paths) == 6
  for path in paths:
    c = test_configs.load(path).to_dict()
    kind = getattr(recipes, c["run"])
    assert test_configs.same_keys(c, kind("").to_dict()) == []
    typed = roots.read(c)
    peak = typed.optim.peak_lr(typed.train.batch_rows)
    assert peak == {"joint": 6e-5, "finetune": 2e-3}[c["run"]]
    assert peak * typed.optim.end_lr_frac == pytest.approx(1e-6)
    assert 0 < typed.paper.top1 < 100


def test_there_is_no_plan_of_what_starts_from_a_run(data):
  with pytest.raises(ValueError, match="a plan is of pre-training or of"):
    jobs.run(config(data) | {"run": "plan"}, epath.Path("x"), classed.NEVER)
