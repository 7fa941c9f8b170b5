"""AdamW by layers: MAE's rates, and updates worked out by hand."""

import json
import pathlib

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import optax
import pytest

from totojax.optim import adamw, lars, layered, mup

GOLDEN = pathlib.Path(__file__).parent / "golden" / "mae_schedules.json"
AXES = {
  "backbone": {
    "embedding": PartitionSpec("vocab", "embed"),
    "blocks": {
      "up": PartitionSpec("layers", "embed", "mlp"),
      "norm": PartitionSpec("layers", "norm"),
    },
    "norm": PartitionSpec("norm"),
  },
  "heads": {
    "linear": PartitionSpec("layers", "settings", "embed", "classes"),
    "value_bias": PartitionSpec("layers", "settings", "heads", "head_dim"),
    "query": PartitionSpec("layers", "settings", "norm"),
  },
}
DEPTH, SETTINGS = 3, 2


def config(**changes):
  return layered.LayeredConfig(
    **{
      **dict(
        lr=0.01,
        lr_rows=0,
        warmup_epochs=0.0,
        end_lr_frac=0.0,
        layer_decay=0.5,
        head_lr_mults=(1.0, 10.0),
        b1=0.9,
        b2=0.95,
        eps=1e-8,
        weight_decay=0.1,
        clip_norm=0.0,
        mu_dtype="float32",
      ),
      **changes,
    }
  )


def tree(seed):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  return {
    "backbone": {
      "embedding": draw(5, 4),
      "blocks": {"up": draw(DEPTH, 4, 6), "norm": draw(DEPTH, 4)},
      "norm": draw(4),
    },
    "heads": {
      "linear": draw(DEPTH, SETTINGS, 4, 7),
      "value_bias": draw(DEPTH, SETTINGS, 2, 2),
      "query": draw(DEPTH, SETTINGS, 4),
    },
  }


def make(c, *, steps=100, warmup_steps=0.0, rows=1, backbone_rules=None):
  schedule = lars.Schedule(steps, warmup_steps, c.end_lr_frac)
  rules = layered.rules(c, axes=AXES, depth=DEPTH, backbone_rules=backbone_rules)
  tx = layered.make(c, axes=AXES, rules=rules, schedule=schedule, batch_rows=rows)
  return tx, schedule


def test_rates_by_layer_and_by_update_are_mae_s():
  golden = json.loads(GOLDEN.read_text())
  assert len(golden["layer_decay"]) == 9
  for name, expected in golden["layer_decay"].items():
    decay, depth = name.split("_")
    found = layered.scales(float(decay), int(depth))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
  args, per_epoch = golden["args"], 100
  tx, schedule = make(
    config(lr=args["lr"] / 4, lr_rows=256, end_lr_frac=args["min_lr"] / args["lr"]),
    steps=args["epochs"] * per_epoch,
    warmup_steps=float(args["warmup_epochs"] * per_epoch),
    rows=1024,
  )
  rate, state = layered.learning_rate(schedule), tx.init(tree(0))
  for epoch, lr in golden["lr"]:
    found = rate(state, round(epoch * per_epoch) + 1)
    assert float(found) == pytest.approx(lr, rel=1e-5, abs=1e-12), epoch


def test_an_update_is_what_it_should_be_for_every_parameter():
  """Against Adam by hand: rates by layer and head, decay of matrices only."""
  tx, _ = make(config())
  params, grads = tree(0), tree(1)
  updates, _ = tx.update(grads, tx.init(params), params)
  # After one update Adam's quotient is the gradient's sign.
  sizes = {
    "embedding": (0.0625, True),  # as MAE's patch embedding
    "up": ((0.125, 0.25, 0.5), True),
    "norm": ((0.125, 0.25, 0.5), False),
    "linear": ((1.0, 10.0), True),
    "value_bias": ((1.0, 10.0), False),
    "query": ((1.0, 10.0), True),  # as V-JEPA's
  }

  def expected(name, p, g, *, axis=None):
    scale, decayed = sizes[name]
    if axis is not None:
      scale = np.reshape(scale, [-1 if i == axis else 1 for i in range(p.ndim)])
    return -0.01 * scale * (np.sign(g) + (0.1 * p if decayed else 0.0))

  of, p, g = updates["backbone"], params["backbone"], grads["backbone"]
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-8)
  close(of["embedding"], expected("embedding", p["embedding"], g["embedding"]))
  for name in ("up", "norm"):
    close(of["blocks"][name], expected(name, p["blocks"][name], g["blocks"][name], axis=0))
  close(of["norm"], -0.01 * np.sign(g["norm"]))
  for name in ("linear", "value_bias", "query"):
    close(
      updates["heads"][name], expected(name, params["heads"][name], grads["heads"][name], axis=1)
    )


def test_heads_do_not_slow_the_backbone():
  """Clipping sees the backbone alone, as it does in pre-training."""
  tx, _ = make(config(clip_norm=1.0))
  params, grads = tree(0), tree(1)
  loud = {**grads, "heads": jax.tree.map(lambda g: 1e3 * g, grads["heads"])}
  state = tx.init(params)
  first = lambda state: state.inner_state[1].mu  # b1 leaves a tenth of it
  _, after = tx.update(grads, state, params)
  _, with_loud = tx.update(loud, state, params)
  norm = optax.tree.norm(grads["backbone"])
  assert norm > 2.0
  for a, b, g in zip(
    *(
      jax.tree.leaves(t)
      for t in (first(after)["backbone"], first(with_loud)["backbone"], grads["backbone"])
    )
  ):
    np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(a, 0.1 * g / norm, rtol=1e-5)
  np.testing.assert_allclose(
    first(with_loud)["heads"]["linear"], 100.0 * grads["heads"]["linear"], rtol=1e-5
  )


def test_rules_of_mup_are_multiplied():
  rule = mup.Rule(0.5, 0.25, 4.0)
  of = jax.tree.map(
    lambda _: rule, AXES["backbone"], is_leaf=lambda x: isinstance(x, PartitionSpec)
  )
  found = layered.rules(config(), axes=AXES, depth=DEPTH, backbone_rules=of)
  up = found["backbone"]["blocks"]["up"]
  np.testing.assert_allclose(up.lr.ravel(), 0.25 * np.array([0.125, 0.25, 0.5]))
  assert up.init == 0.5 and up.decay == 4.0
  assert found["heads"]["linear"].lr.shape == (1, 2, 1, 1)


def test_the_final_norm_and_an_untied_output_learn_as_the_last():
  axes = {"backbone": {**AXES["backbone"], "head": PartitionSpec("vocab", "embed")}, "heads": {}}
  found = layered.rules(config(), axes=axes, depth=DEPTH)
  assert found["backbone"]["head"].lr == 1.0
  assert found["backbone"]["norm"].lr == 1.0
  mask = adamw.decay_mask(AXES)
  assert mask["heads"] == {"linear": True, "value_bias": False, "query": True}


@pytest.mark.parametrize(
  "changes, told",
  [
    (dict(layer_decay=1.5), "layer_decay is 1.5; it must be above 0"),
    (dict(layer_decay=0.0), "layer_decay is 0.0"),
    (dict(head_lr_mults=()), "head_lr_mults is .*; name one or more"),
    (dict(mu_dtype="float16"), "mu_dtype is 'float16'"),
  ],
)
def test_what_does_not_fit_is_refused(changes, told):
  with pytest.raises(ValueError, match=told):
    make(config(**changes))
  with pytest.raises(ValueError, match="not below the run's 10; shorten"):
    make(config(), steps=10, warmup_steps=10.0)
