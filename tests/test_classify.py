"""The probe task: one pass for all heads, none of which sees another."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import test_features

from totojax import sequence, tasks
from totojax.evals import top1
from totojax.models import heads, taps
from totojax.tasks import classify

CLASSES, LAYERS = 3, (0, 1, 3)


def head(pool):
  return heads.HeadConfig(
    pool=pool, heads=2, bias=True, init_std=0.5, norm_eps=1e-6, norm_momentum=0.1
  )


def make(pool, *, settings=2, depth=3, **sizes):
  model = test_features.make(depth=depth, **sizes)
  return classify.Classify(
    head=head(pool),
    model=model,
    layers=[i for i in LAYERS if i <= depth],
    width=model.config.width,
    classes=CLASSES,
    settings=settings,
    split=True,
  )


def variables(task):
  """Fresh ones, in which heads of one layer differ."""
  found = jax.jit(task.init)(jax.random.key(1))
  noise = lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape)
  return found._replace(params=jax.jit(lambda params: jax.tree.map(noise, params))(found.params))


def batch(rows=8, spec=test_features.SPEC):
  rng = np.random.default_rng(0)
  codes = rng.integers(0, 60, (rows, spec.frames, spec.frame_tokens))
  tokens = [sequence.build(c, kind="video", spec=spec) for c in codes]
  return {
    "tokens": jnp.asarray(np.stack(tokens))[:, :-1],
    "label": jnp.asarray(rng.integers(0, CLASSES, rows), jnp.int32),
  }


def total(task, params, found, rows):
  """What `train_step` differentiates."""
  rest = tasks.Variables(None, found.frozen, found.stats)
  terms, stats, metrics = task.loss(params, rest, rows, step=jnp.int32(0), key=jax.random.key(0))
  weight = task.weights(rows)["ce"]
  return terms["ce"].sum / weight, (stats, metrics)


# Four blocks take long to compile.
POOLS = [
  pytest.param(pool, marks=[pytest.mark.slow] if pool == "blocks" else []) for pool in heads.POOLS
]


@pytest.mark.parametrize("pool", POOLS)
def test_every_head_has_the_gradient_that_it_has_alone(pool):
  """Against autodiff of one layer's head on features taken out beforehand."""
  task, rows = make(pool), batch()
  found = variables(task)
  grads, (stats, _) = jax.jit(jax.grad(lambda p: total(task, p, found, rows), has_aux=True))(
    found.params
  )
  atol = 1e-4 if pool == "blocks" else 1e-5  # of four blocks with large weights
  visual_BT = sequence.is_visual(rows["tokens"])
  h_LBTD = test_features.stack(task.model, found.frozen, rows["tokens"], LAYERS)

  @jax.jit
  def prepare(h_BTD, own):
    return heads.prepare(task.head, h_BTD, visual_BT, own, training=True)

  @jax.jit
  @jax.value_and_grad
  def alone(params, prepared):
    logits_BC = heads.logits(task.head, params, prepared, visual_BT)
    return optax.softmax_cross_entropy_with_integer_labels(logits_BC, rows["label"]).mean()

  for i in range(len(LAYERS)):
    prepared, after = prepare(
      h_LBTD[i], {k: v[i] for k, v in found.stats.items() if k != "train_loss"}
    )
    for name in after:
      np.testing.assert_allclose(stats[name][i], after[name], rtol=1e-4, atol=1e-6)
    for s in range(2):
      one = jax.tree.map(lambda x: x[i, s], found.params)
      value, expected = alone(one, prepared)
      np.testing.assert_allclose(stats["train_loss"][i, s], value, rtol=1e-4)
      for name in expected:
        scale = float(abs(expected[name]).max())
        np.testing.assert_allclose(
          grads[name][i, s], expected[name], rtol=2e-3, atol=atol * scale, err_msg=name
        )


def test_the_backbone_has_no_gradient():
  task, rows = make("attention"), batch()
  found = variables(task)

  def loss(frozen):
    rest = found._replace(frozen=frozen)
    return total(task, found.params, rest, rows)[0]

  for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(found.frozen)):
    np.testing.assert_array_equal(leaf, 0.0)

  # Control: without the stop the same head would train the backbone.
  def through(embedding):
    own = jax.tree.map(lambda x: x[0, 0], found.params)
    x_BTD = embedding[rows["tokens"]]
    logits = heads.logits(task.head, own, x_BTD, sequence.is_visual(rows["tokens"]))
    return classify.cross_entropy(logits, rows["label"]).sum()

  assert abs(jax.jit(jax.grad(through))(found.frozen["embedding"])).max() > 1e-3


def memory(depth):
  """Temporary bytes of the gradient of attention heads at every layer."""
  spec = dataclasses.replace(test_features.SPEC, grid=8, frames=8, context=513)
  model = test_features.make(depth=depth, width=64, spec=spec, mlp_dim=64)
  task = classify.Classify(
    head=head("attention"),
    model=model,
    layers=range(1, depth + 1),
    width=64,
    classes=CLASSES,
    settings=1,
    split=True,
  )
  shapes = jax.eval_shape(task.init, jax.random.key(0))
  rows = {
    "tokens": jax.ShapeDtypeStruct((8, 513), jnp.int32),
    "label": jax.ShapeDtypeStruct((8,), jnp.int32),
  }

  def ours(params, rest, rows):
    found = tasks.Variables(None, rest.frozen, rest.stats)
    return jax.grad(lambda p: total(task, p, found, rows)[0])(params)

  def by_autodiff(params, rest, rows):
    """The loss in the scan and its gradient outside."""
    visual_BT = sequence.is_visual(rows["tokens"])

    def tap(x_BTD, own):
      params_S, stats = own
      y, _ = heads.prepare(task.head, x_BTD, visual_BT, stats, training=True)
      return jax.vmap(
        lambda p: classify.cross_entropy(
          heads.logits(task.head, p, y, visual_BT), rows["label"]
        ).sum()
      )(params_S)

    stats = {k: v for k, v in rest.stats.items() if k != "train_loss"}
    return jax.grad(
      lambda p: taps.tap_layers(
        model, rest.frozen, rows["tokens"], tap=tap, layers=task.layers, per_layer=(p, stats)
      ).sum()
    )(params)

  sizes = []
  for fn in (ours, by_autodiff):
    compiled = jax.jit(fn).lower(shapes.params, shapes, rows).compile()
    sizes.append(compiled.memory_analysis().temp_size_in_bytes)
  return np.array(sizes)


def test_training_attention_heads_keeps_no_layer_for_a_backward_pass():
  one_layer = 8 * 513 * 64 * 4
  ours, by_autodiff = memory(10) - memory(4)
  assert ours < one_layer
  assert by_autodiff > 6 * one_layer  # control: this is what it would keep


def test_a_head_that_diverges_stops_and_the_others_go_on():
  task, rows = make("average"), batch()
  found = variables(task)
  broken = found.params["linear"].at[1, 0].set(3e38)
  params = {**found.params, "linear": broken}
  of = jax.jit(jax.grad(lambda p: total(task, p, found, rows), has_aux=True))
  grads, (_, metrics) = of(params)
  np.testing.assert_array_equal(grads["linear"][1, 0], 0.0)
  fine, _ = of(found.params)
  for at in ((0, 0), (0, 1), (1, 1), (2, 0)):
    np.testing.assert_array_equal(grads["linear"][at], fine["linear"][at])
  frac = metrics["diverged_frac"]
  assert float(frac.sum / frac.weight) == pytest.approx(1 / 6)


def test_features_made_before_give_the_same_heads():
  task, rows = make("average"), batch()
  found = variables(task)
  visual_BT = sequence.is_visual(rows["tokens"])
  h_LBD = taps.tap_layers(
    task.model,
    found.frozen,
    rows["tokens"],
    tap=lambda x_BTD, _: heads.mean_over_tokens(x_BTD, visual_BT),
    layers=LAYERS,
    per_layer=None,
  )
  cached = classify.Classify(
    head=task.head, model=None, layers=LAYERS, width=32, classes=CLASSES, settings=2, split=False
  )
  fresh = jax.jit(cached.init)(jax.random.key(1))
  assert fresh.frozen == {}
  chex.assert_trees_all_equal(fresh.params, jax.jit(task.init)(jax.random.key(1)).params)
  features = {"features": jnp.swapaxes(h_LBD, 0, 1), "label": rows["label"]}
  a = jax.jit(jax.grad(lambda p: total(task, p, found, rows)[0]))(found.params)
  b = jax.jit(jax.grad(lambda p: total(cached, p, found, features)[0]))(found.params)
  for name in a:
    np.testing.assert_allclose(a[name], b[name], rtol=1e-3, atol=1e-6)


def test_a_layer_starts_alike_whatever_else_is_probed():
  make_one = lambda layers: (
    classify.Classify(
      head=head("average"),
      model=None,
      layers=layers,
      width=8,
      classes=CLASSES,
      settings=3,
      split=False,
    )
    .init(jax.random.key(0))
    .params["linear"]
  )
  whole, some = make_one((0, 1, 2, 3)), make_one((2, 3))
  np.testing.assert_array_equal(whole[2:], some)
  np.testing.assert_array_equal(whole[:, 0], whole[:, 2])
  assert not np.array_equal(whole[0], whole[1])


def test_attention_on_pooled_features_is_refused():
  with pytest.raises(ValueError, match="'attention' reads every token"):
    classify.Classify(
      head=head("attention"), model=None, layers=(0,), width=8, classes=2, settings=1, split=False
    )


def test_views_are_summed_after_the_softmax():
  """Against the protocol by hand; a view is missing, an item is padding."""
  rng = np.random.default_rng(0)
  logits_BC = rng.normal(size=(12, 5)) * 3
  logits_BC[:3] = [[9, 8, 0, 0, 0], [9, 8, 0, 0, 0], [-40, 0, 0, 0, 0]]
  label_B = np.array([2, 2, 2, 0, 0, -1, 4, 4, 4, -1, -1, -1])
  found = top1.outcome(jnp.asarray(logits_BC), jnp.asarray(label_B), views=3)
  share = np.exp(logits_BC) / np.exp(logits_BC).sum(1, keepdims=True)
  for i, views in enumerate(([0, 1, 2], [3, 4], [6, 7, 8])):
    score = share[views].sum(0)
    label = label_B[views[0]]
    assert found["rank"][i] == (score > score[label]).sum()
    assert found["named"][i] == score.argmax()
    assert found["nll"][i] == pytest.approx(-np.log(score[label] / len(views)), rel=1e-4)
  # Control: the sum of logits names another class for the first item.
  assert logits_BC[:3].sum(0).argmax() == 1 and found["named"][0] == 0


def test_equal_scores_are_told_apart_by_number_not_by_luck():
  zeros = jnp.zeros((4, 4))
  found = top1.outcome(zeros, jnp.arange(4), views=1)
  assert found["rank"].tolist() == [0, 1, 2, 3]  # chance, not 100 %


def test_labels_that_would_be_broadcast_are_refused():
  logits_BC, label_B = jnp.zeros((4, 4)), jnp.arange(4)
  for score in (
    lambda label: top1.outcome(logits_BC, label, views=1),
    lambda label: classify.cross_entropy(logits_BC, label),
  ):
    score(label_B)
    for wrong in (label_B[:, None], label_B[:1]):
      with pytest.raises(AssertionError, match="shape"):
        score(wrong)
  with pytest.raises(AssertionError, match="shape"):
    top1.best(np.zeros((2, 3)), np.zeros((3, 2)))


def test_scores_that_are_no_numbers_are_wrong():
  logits_BC = jnp.array([[0.0, 1.0, 2.0], [jnp.nan, 1.0, 2.0]])
  ranks = [top1.outcome(logits_BC, jnp.array([k, k]), views=1)["rank"] for k in range(3)]
  np.testing.assert_array_equal(ranks, [[2, 3], [1, 3], [0, 3]])


def test_top1_and_top5_count_items_once():
  rank = np.array([[[0, 4, 5, 0]], [[1, 0, 9, 9]]])
  zeros = np.zeros_like(rank, float)
  scores = top1.Scores(rank, rank, zeros, zeros)
  np.testing.assert_allclose(scores.top(1), [[0.5], [0.25]])
  np.testing.assert_allclose(scores.top(5), [[0.75], [0.5]])
  assert top1.best(scores.top(1), scores.loss()) == (0, 0)
  parts = [
    {k: v[..., :3] for k, v in vars(scores).items()},
    {k: v[..., 3:] for k, v in vars(scores).items()},
  ]
  found = top1.evaluate(lambda b: parts[b["i"]], [{"i": 0}, {"i": 1}], items=3)
  assert found.items == 3
  with pytest.raises(ValueError, match="hold 4 items and 5 are expected"):
    top1.evaluate(lambda b: parts[b["i"]], [{"i": 0}, {"i": 1}], items=5)
