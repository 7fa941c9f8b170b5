"""Decoding with a cache against the whole sequence, and against transformers.

Generation on top of it: `test_generate.py`.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from totojax import sequence
from totojax.config import recipes
from totojax.models import attention, decode, layers, llama, platform, trunk
from totojax.tasks import pretrain

SPEC = sequence.SequenceSpec(vocab=60, grid=2, frames=4, context=16, segments=False)
APART = trunk.Compute(
  dtype="float32", attention="blocked", remat="none", unroll=2, loss_chunk=0, platform=platform.CPU
)
STACKED = dataclasses.replace(APART, attention="xla", unroll=1, platform=platform.GPU)
REAL = SPEC.vocab + sequence.SPECIALS


def build(compute=APART, spec=SPEC, scales=layers.STANDARD, **changes):
  shape = llama.LlamaConfig(**(recipes.model("tiny").to_dict() | changes))
  return trunk.Trunk(config=shape, spec=spec, compute=compute, scales=scales)


@functools.cache
def init(model, seed=0):
  """Blocks eight times as large as new ones: attention is not uniform."""
  params = jax.jit(pretrain.Pretrain(model).init)(jax.random.key(seed)).params
  grown = jax.tree.map(lambda x: 8.0 * x, params["blocks"])
  return params | {"blocks": grown}


def tokens(rows=3, seed=0):
  rng = np.random.default_rng(seed)
  inputs = rng.integers(4, REAL, (rows, SPEC.context)).astype(np.int32)
  inputs[:, 0] = sequence.VIDEO_START
  return inputs


def cached(model, params, inputs, *, prompt, room, shift=0):
  """Logits [B, T - prompt + 1, V] of a prompt and of each token after it."""
  weights = decode.load(model, params)

  @jax.jit
  def read(weights, inputs):
    first, cache = decode.prefill(model, weights, inputs[:, :prompt], room=room)

    def one(cache, i):
      logits, cache = decode.step(model, weights, cache, inputs[:, i], i + shift)
      return cache, logits

    _, others = jax.lax.scan(one, cache, jnp.arange(prompt, inputs.shape[1]))
    return jnp.concatenate([first[:, None], jnp.swapaxes(others, 0, 1)], 1)

  return np.asarray(read(weights, inputs))[..., :REAL]


@functools.cache
def _whole(model):
  return jax.jit(lambda params, inputs: model.apply({"params": params}, inputs))


def whole(model, params, inputs):
  return np.asarray(_whole(model)(params, inputs))[..., :REAL]


def relative(found, expected):
  return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(
  "compute, tied, prompt, room, scales, normed",
  [
    (APART, True, 1, 16, layers.STANDARD, False),
    (STACKED, False, 5, 24, layers.Scales(attention=0.5, logits=3.0), False),
    pytest.param(APART, True, 5, 16, layers.STANDARD, True, marks=pytest.mark.slow),
  ],
)
def test_logits_are_those_of_the_whole_sequence(compute, tied, prompt, room, scales, normed):
  model = build(compute, tied=tied, scales=scales, qk_norm=normed)
  params, inputs = init(model), tokens()
  expected = whole(model, params, inputs)[:, prompt - 1 :]
  found = cached(model, params, inputs, prompt=prompt, room=room)
  assert relative(found, expected) < 1e-5
  # Control: tokens that are put one place further are seen elsewhere.
  moved = cached(model, params, inputs, prompt=prompt, room=room + 1, shift=1)
  assert relative(moved, expected) > 1e-3


def test_angles_of_another_place_would_be_seen(monkeypatch):
  model = build()
  params, inputs = init(model), tokens()
  expected = whole(model, params, inputs)[:, 3:]
  table = layers.rope_table

  def late(positions_T, head_dim, base):
    """One too far for single tokens, right for a prompt."""
    return table(positions_T + (len(positions_T) == 1), head_dim, base)

  monkeypatch.setattr(layers, "rope_table", late)
  found = cached(model, params, inputs, prompt=4, room=16)
  assert relative(found[:, :1], expected[:, :1]) < 1e-5  # the prompt's
  assert relative(found, expected) > 1e-3


@pytest.mark.parametrize("compute", [APART, STACKED])
def test_images_stay_hidden_from_each_other(compute):
  model = build(compute, dataclasses.replace(SPEC, segments=True))
  params, inputs = init(model), tokens()
  inputs[:2, 0] = sequence.IMAGE_START  # the third row is a video
  inputs[1, 13:] = sequence.PAD
  expected = whole(model, params, inputs)[:, 2:]
  found = cached(model, params, inputs, prompt=3, room=16)
  assert relative(found, expected) < 1e-5
  # Control: without the mask the rows of images differ, the video does not.
  open_ = cached(build(compute), params, inputs, prompt=3, room=16)
  assert relative(open_[2], expected[2]) < 1e-5
  assert relative(open_[0], expected[0]) > 1e-3


def test_bfloat16_is_near_and_its_cache_is_bfloat16():
  model = build(dataclasses.replace(STACKED, dtype="bfloat16"))
  params, inputs = init(model), tokens()
  weights = decode.load(model, params)
  assert {x.dtype for x in jax.tree.leaves(weights)} == {jnp.dtype("bfloat16")}
  cache = decode.empty(model, rows=3, room=16)
  c = model.config
  assert cache.keys.shape == (c.depth, 3, c.heads, 16, c.head_dim)
  assert cache.keys.dtype == cache.values.dtype == jnp.bfloat16
  expected = whole(model, params, inputs)[:, 3:]
  found = cached(model, params, inputs, prompt=4, room=16)
  assert relative(found, expected) < 0.03


def test_a_step_writes_its_cache_in_place():
  model = build(depth=2)
  weights = decode.load(model, init(model))
  cache = jax.eval_shape(lambda: decode.empty(model, rows=3, room=16))
  shape = ",".join(map(str, cache.keys[0].shape))

  def copies(**options):
    step = jax.jit(functools.partial(decode.step, model), **options)
    args = (weights, cache, jnp.zeros(3, jnp.int32), jnp.int32(5))
    text = step.lower(*args).compile().as_text()
    return len(re.findall(rf" = f32\[{shape}\]\S* copy\(", text))

  assert copies(donate_argnums=1) == 0
  # Control: of a cache that the caller keeps, both arrays of both layers.
  assert copies() == 4


def test_a_prompt_that_does_not_fit_is_refused():
  model = build()
  weights = decode.load(model, init(model))
  with pytest.raises(ValueError, match="17 tokens does not fit a cache of 16"):
    decode.prefill(model, weights, jnp.zeros((1, 17), jnp.int32), room=16)
  with pytest.raises(ValueError, match="prompt of 0 tokens"):
    decode.prefill(model, weights, jnp.zeros((1, 0), jnp.int32), room=16)


def test_a_cache_is_read_the_same_in_groups_of_heads():
  """A TPU's way of it against softmax over all keys in one array."""
  keys = jax.random.split(jax.random.key(0), 5)
  q, k, v = (jax.random.normal(key, (2, 1, 4, 16)) for key in keys[:3])
  past = [jax.random.normal(key, (2, 4, 9, 16)) for key in keys[3:]]
  seen = 5  # of the 9 places
  all_k, all_v = (
    jnp.concatenate([jnp.swapaxes(old[:, :, :seen], 1, 2), new], axis=1)
    for old, new in zip(past, (k, v))
  )
  weights = jax.nn.softmax(0.3 * jnp.einsum("BTHK,BSHK->BHTS", q, all_k))
  expected = jnp.einsum("BHTS,BSHK->BTHK", weights, all_v)

  @functools.partial(jax.jit, static_argnums=(0, 1))
  def found(together, least_rows, places):
    keys, values = (
      jnp.swapaxes(x.reshape(2, 4 // together, together, 9, 16), 2, 3).reshape(
        2, 4 // together, 9, together * 16
      )
      for x in past
    )
    return attention.attend_to_cache(
      q,
      k,
      v,
      keys_BNSC=keys,
      values_BNSC=values,
      seen_BS=(jnp.arange(9) < places)[None],
      scale=0.3,
      least_rows=least_rows,
    )

  for how in ((1, 1), (1, 8), (2, 1), (4, 4), (4, 8)):
    assert relative(found(*how, seen), expected) < 1e-5
    assert relative(found(*how, seen + 1), expected) > 1e-2
