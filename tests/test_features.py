"""The feature contract: what H_l is, where it is read, and what it costs."""

import dataclasses
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from totojax import sequence
from totojax.models import heads, llama, platform, taps, trunk

SPEC = sequence.SequenceSpec(vocab=60, grid=2, frames=3, context=13, segments=False)


def make(depth=4, width=32, unroll=1, spec=SPEC, mlp_dim=48):
  model = trunk.Trunk(
    config=llama.LlamaConfig(
      width=width,
      depth=depth,
      heads=2,
      mlp_dim=mlp_dim,
      rope_base=10_000.0,
      norm_eps=1e-6,
      init_std=0.2,
      tied=True,
      prefix_tokens=0,
    ),
    spec=spec,
    compute=trunk.Compute(
      dtype="float32",
      attention="xla",
      remat="none",
      unroll=unroll,
      loss_chunk=0,
      platform=platform.GPU,
    ),
  )
  return model


@functools.partial(jax.jit, static_argnums=0)
def params_of(model):
  tokens_BT = jnp.zeros((1, model.spec.context), jnp.int32)
  return nn.unbox(model.init(jax.random.key(0), tokens_BT)["params"])


@pytest.fixture(scope="module")
def small():
  model = make()
  codes = np.random.default_rng(0).integers(0, 60, (2, 3, 4))
  rows = [sequence.build(c, kind="video", spec=SPEC) for c in codes]
  return model, params_of(model), jnp.asarray(np.stack(rows))[:, :-1]


def stack(model, params, tokens_BT, layers):
  """H_l of each layer, [L, B, T, D]."""
  return _stack(model, params, tokens_BT, tuple(layers))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _stack(model, params, tokens_BT, layers):
  return taps.tap_layers(
    model, params, tokens_BT, tap=lambda x_BTD, _: x_BTD, layers=layers, per_layer=None
  )


def test_the_inputs_hold_the_start_and_every_visual_token(small):
  _, _, tokens_BT = small
  assert tokens_BT.shape == (2, 1 + 12)
  assert (tokens_BT[:, 0] == sequence.VIDEO_START).all()
  assert sequence.is_visual(tokens_BT[:, 1:]).all()


def test_the_last_layer_is_what_the_logits_are_made_of(small):
  """H_L is before the final norm; H_0 is the embeddings."""
  model, params, tokens_BT = small
  h_LBTD = stack(model, params, tokens_BT, range(5))
  np.testing.assert_array_equal(h_LBTD[0], params["embedding"][tokens_BT])
  last = h_LBTD[4]
  normed = last / np.sqrt(np.mean(last**2, -1, keepdims=True) + 1e-6)
  logits = (normed * params["norm"]["scale"]) @ params["embedding"].T
  expected = jax.jit(model.apply)({"params": params}, tokens_BT)
  np.testing.assert_allclose(logits[..., :64], expected[..., :64], rtol=1e-4, atol=1e-4)


def test_layers_in_between_are_those_of_a_shorter_model(small):
  """Any choice of layers gives what all of them do, truncated or not."""
  model, params, tokens_BT = small
  full = stack(model, params, tokens_BT, range(5))
  for layers in ([0], [2], [0, 1, 4]):
    some = stack(model, params, tokens_BT, layers)
    np.testing.assert_allclose(some, full[np.array(layers)], rtol=1e-5)
    short, kept = taps.truncate(model, params, layers[-1])
    assert "norm" not in kept
    assert kept["blocks"]["mlp"]["up"].shape[0] == layers[-1]
    cut = stack(short, kept, tokens_BT, layers)
    np.testing.assert_allclose(cut, full[np.array(layers)], rtol=1e-5)
  unrolled = stack(make(unroll=4), params, tokens_BT, range(5))
  np.testing.assert_allclose(unrolled, full, rtol=1e-5)
  # Control: neighbouring layers differ.
  assert not np.allclose(full[2], full[3], rtol=1e-2)


def test_half_the_depth_is_half_the_computation(small):
  model, params, tokens_BT = small

  def flops(depth):
    cut, kept = taps.truncate(make(unroll=4), params, depth)
    fn = functools.partial(stack, cut, layers=[depth])
    found = jax.jit(fn).lower(kept, tokens_BT).compile().cost_analysis()
    return found["flops"]

  assert flops(2) == pytest.approx(flops(4) / 2, rel=0.1)


@pytest.mark.parametrize("j", [0, 5, 12])
def test_a_token_changes_its_own_features_and_later_ones_only(small, j):
  """Row t belongs to the token at t: read one place early it would not move."""
  model, params, tokens_BT = small
  before = stack(model, params, tokens_BT, range(5))
  other = sequence.IMAGE_START if j == 0 else (tokens_BT[0, j] - 3) % 60 + 4
  after = stack(model, params, tokens_BT.at[0, j].set(other), range(5))
  np.testing.assert_array_equal(before[:, 0, :j], after[:, 0, :j])
  moved = np.abs(before[:, 0, j] - after[:, 0, j]).max(-1)
  assert (moved > 1e-3).all(), moved
  np.testing.assert_array_equal(before[:, 1], after[:, 1])


def test_start_end_and_padding_are_in_no_mean(small):
  """Padding on the right, with an end before it, changes no visual feature."""
  model, params, tokens_BT = small

  def means(model, tokens_BT):
    visual_BT = sequence.is_visual(tokens_BT)
    return taps.tap_layers(
      model,
      params,
      tokens_BT,
      tap=lambda x_BTD, _: heads.mean_over_tokens(x_BTD, visual_BT),
      layers=range(5),
      per_layer=None,
    )

  found = means(model, tokens_BT)
  h_LBTD = np.asarray(stack(model, params, tokens_BT, range(5)))
  np.testing.assert_allclose(found, h_LBTD[:, :, 1:].mean(2), rtol=1e-4, atol=1e-6)
  # Control: with the start in it the mean is another.
  assert not np.allclose(found, h_LBTD.mean(2), rtol=1e-3)
  spec = dataclasses.replace(SPEC, context=16)
  codes = sequence.codes_of(np.asarray(tokens_BT)[:, 1:]).reshape(2, 3, 4)
  rows = [sequence.build(c, kind="video", spec=spec) for c in codes]
  padded_BT = jnp.asarray(np.stack(rows))[:, :-1]
  assert padded_BT[0, 13:].tolist() == [sequence.END, sequence.PAD, 0]
  np.testing.assert_allclose(means(make(spec=spec), padded_BT), found, rtol=1e-4, atol=1e-6)


def memory(depth, tap):
  """Temporary bytes of a pass over all layers."""
  spec = dataclasses.replace(SPEC, grid=8, frames=8, context=513)
  model = make(depth=depth, width=64, spec=spec, mlp_dim=64)
  params = jax.eval_shape(lambda: params_of(model))
  tokens_BT = jax.ShapeDtypeStruct((8, 513), jnp.int32)

  def run(params, tokens_BT):
    return taps.tap_layers(
      model, params, tokens_BT, tap=tap, layers=range(depth + 1), per_layer=None
    )

  compiled = jax.jit(run).lower(params, tokens_BT).compile()
  found = compiled.memory_analysis()
  return found.temp_size_in_bytes + found.output_size_in_bytes


def test_the_stack_of_layers_is_never_kept():
  one_layer = 8 * 513 * 64 * 4
  mean = lambda x_BTD, _: x_BTD.mean(1)
  assert memory(12, mean) - memory(4, mean) < one_layer
  # Control: a tap that gives all back keeps the stack.
  every = lambda x_BTD, _: x_BTD
  assert memory(12, every) - memory(4, every) > 7 * one_layer


@pytest.mark.parametrize(
  "layers, told",
  [
    ([], "name at least one"),
    ([2, 1], "in increasing order"),
    ([-1], "from 0 .the embeddings"),
    ([5], "layer 5 does not exist: the model has 4 blocks"),
  ],
)
def test_layers_that_do_not_exist_are_refused(small, layers, told):
  model, params, tokens_BT = small
  with pytest.raises(ValueError, match=told):
    stack(model, params, tokens_BT, layers)
