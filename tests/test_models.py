"""The trunk: exact sizes, Hugging Face parity, causality, one layout."""

import dataclasses
import functools
import re

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from totojax import assembly, flops, sequence, tasks, tree
from totojax.config import model as model_config, recipes
from totojax.jobs.bench import peers
from totojax.models import attention, blocked, gpt2, layers, llama, platform, splash, trunk
from totojax.tasks import pretrain

SPEC = sequence.SequenceSpec(vocab=60, grid=2, frames=4, context=16, segments=False)
PLAIN = trunk.Compute(
  dtype="float32", attention="blocked", remat="none", unroll=1, loss_chunk=0, platform=platform.CPU
)
# What is for CPUs only, and what is for all: attention, and all else with it.
BOTH = [("blocked", platform.CPU), ("xla", platform.GPU)]


def config(preset="tiny", **changes) -> llama.LlamaConfig:
  return llama.LlamaConfig(**(recipes.model(preset).to_dict() | changes))


def build(shape=None, spec=SPEC, compute=PLAIN) -> trunk.Trunk:
  return trunk.Trunk(config=shape or config(), spec=spec, compute=compute)


@functools.cache
def init(model: trunk.Trunk, seed=0):
  return jax.jit(pretrain.Pretrain(model).init)(jax.random.key(seed)).params


def shapes(model: trunk.Trunk):
  """What `init` gives, without the numbers."""
  task = pretrain.Pretrain(model)
  return jax.eval_shape(task.init, jax.random.key(0)).params


@functools.cache
def jitted(model: trunk.Trunk):
  return jax.jit(lambda params, inputs: model.apply({"params": params}, inputs))


def logits_of(model: trunk.Trunk, params, inputs):
  return jitted(model)(params, inputs)


def tokens(spec=SPEC, rows=2, seed=0):
  rng = np.random.default_rng(seed)
  high = spec.vocab + sequence.SPECIALS
  return jnp.asarray(rng.integers(4, high, (rows, spec.context)), jnp.int32)


@pytest.mark.parametrize(
  "preset, codes_only, with_specials",
  [
    ("base", 119_556_864, 119_559_936),
    ("large", 276_857_856, 276_861_952),
    ("1b", 1_129_932_800, 1_129_940_992),
  ],
)
def test_table_1_parameters(preset, codes_only, with_specials):
  shape = config(preset)
  assert flops.parameters(shape, 8192) == codes_only
  assert flops.parameters(shape, 8192 + 4) == with_specials
  # The module itself, less the rows that only pad the vocabulary.
  spec = sequence.SequenceSpec(8192, 16, 16, 64, False)
  leaves = jax.tree.leaves(shapes(build(shape, spec)))
  counted = sum(int(np.prod(x.shape)) for x in leaves)
  padding = (spec.padded_vocab - 8192 - 4) * shape.width
  assert counted - padding == with_specials
  assert spec.padded_vocab == 8320


def test_1b_flops_per_token():
  # 6 (22 (4 d^2 + 3 d f) + V d) + 6 L d T, by hand.
  d, f = 2048, 5504
  by_hand = 6 * (22 * (4 * d * d + 3 * d * f) + 8192 * d + 22 * d * 4096)
  assert flops.train_flops_per_token(config("1b"), vocab=8192, context=4096) == by_hand
  assert by_hand == pytest.approx(7.89e9, rel=1e-3)


def test_untied_head_counts_once_more():
  tied, untied = config(), config(tied=False)
  assert flops.parameters(untied, 100) - flops.parameters(tied, 100) == 3200
  names = dict(tree.named_leaves(shapes(build(untied))))
  assert names["head"].shape == names["embedding"].shape


def hugging_face(shape, params, vocab):
  """transformers' model of the same shape, with the same weights."""
  pytest.importorskip("torch")
  pytest.importorskip("transformers")
  return peers.llama(shape, jax.tree.map(np.asarray, params), vocab=vocab)


@pytest.mark.parametrize("base", [10_000.0, 50_000.0])
@pytest.mark.parametrize("tied", [True, False])
def test_logits_meet_hugging_face(base, tied):
  torch = pytest.importorskip("torch")
  shape = config(rope_base=base, tied=tied, width=64, heads=4, mlp_dim=96)
  model = build(shape)
  params = init(build(dataclasses.replace(shape, rope_base=1e4)), seed=1)
  reference = hugging_face(shape, params, SPEC.padded_vocab)
  inputs = tokens()
  with torch.no_grad():
    theirs = reference(torch.tensor(np.array(inputs, np.int64))).logits.numpy()
  real = SPEC.vocab + sequence.SPECIALS
  other = build(dataclasses.replace(shape, rope_base=5e8 / base))
  with jax.default_matmul_precision("highest"):
    ours = np.asarray(logits_of(model, params, inputs))
    moved = np.asarray(logits_of(other, params, inputs))[..., :real]
  scale = np.abs(theirs).max()
  np.testing.assert_allclose(ours[..., :real] / scale, theirs[..., :real] / scale, atol=1e-5)
  assert np.all(np.isneginf(ours[..., real:]))
  # Control: the other base gives other logits.
  assert np.abs(moved - theirs[..., :real]).max() / scale > 1e-4


@pytest.mark.slow
def test_normed_queries_and_keys_meet_qwen3():
  """transformers' LLaMA, whose queries and keys of each head are normed before they turn."""
  torch, transformers = map(pytest.importorskip, ("torch", "transformers"))
  shape = config(width=64, heads=4, mlp_dim=96, qk_norm=True)
  params = jax.tree.map(lambda x: x, init(build(shape), seed=1))
  attention = params["blocks"]["attention"]
  for i, name in enumerate(("query", "key")):
    drawn = 1 + jax.random.normal(jax.random.key(i), attention[f"{name}_norm"]["scale"].shape)
    attention[f"{name}_norm"]["scale"] = drawn
  plain = hugging_face(dataclasses.replace(shape, qk_norm=False), params, SPEC.padded_vocab)
  keys = {**plain.config.to_dict(), "model_type": "qwen3", "head_dim": shape.head_dim}
  reference = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**keys)).eval()
  missing, extra = reference.load_state_dict(plain.state_dict(), strict=False)
  assert not extra and all("_norm" in name for name in missing)
  for i, layer in enumerate(reference.model.layers):
    for name, target in (("query", layer.self_attn.q_norm), ("key", layer.self_attn.k_norm)):
      target.weight.data = torch.tensor(np.array(attention[f"{name}_norm"]["scale"][i]))
  inputs, real = tokens(), SPEC.vocab + sequence.SPECIALS
  with torch.no_grad():
    theirs, without = (
      one(torch.tensor(np.array(inputs, np.int64))).logits.numpy()[..., :real]
      for one in (reference, plain)
    )
  with jax.default_matmul_precision("highest"):
    ours = np.asarray(logits_of(build(shape), params, inputs))[..., :real]
  scale = np.abs(theirs).max()
  np.testing.assert_allclose(ours / scale, theirs / scale, atol=1e-5)
  assert np.abs(without - theirs).max() / scale > 1e-4  # what is not normed is otherwise


def test_norms_of_queries_and_keys_are_counted():
  for name, build_shape in (("llama", config), ("gpt2", gpt2_config)):
    plain, normed = build_shape(), build_shape(qk_norm=True)
    more = flops.parameters(normed, 100) - flops.parameters(plain, 100)
    names = dict(tree.named_leaves(shapes(build(normed))))
    added = [
      leaf.size for path, leaf in names.items() if "query_norm" in path or "key_norm" in path
    ]
    assert more == sum(added) == 4 * normed.depth * normed.head_dim / 2, name
    assert not any("query_norm" in path for path, _ in tree.named_leaves(shapes(build(plain))))


def gpt2_config(**changes):
  return gpt2.Gpt2Config(**(recipes.gpt2("tiny").to_dict() | changes))


@pytest.mark.parametrize("chunk", [0, 4])
def test_z_loss_is_the_square_of_ln_z_and_of_training_alone(chunk):
  model = build(compute=dataclasses.replace(PLAIN, loss_chunk=chunk))
  params = jax.tree.map(lambda x: 4.0 * x, init(model))
  plain, task = pretrain.Pretrain(model), pretrain.Pretrain(model, z_loss=0.25)
  rows = jnp.concatenate([tokens(), jnp.full((2, 1), 5, jnp.int32)], axis=1)
  batch = {"tokens": rows.at[:, 7:9].set(sequence.PAD), "source": jnp.zeros(2, jnp.int32)}

  def terms(task):
    rest = tasks.Variables(None, {}, {})
    found, _, _ = task.loss(params, rest, batch, step=jnp.int32(0), key=jax.random.key(0))
    return {k: (t.sum / task.weights(batch)[k], t.coefficient) for k, t in found.items()}

  ours, bare = jax.jit(lambda: (terms(task), terms(plain)))()
  assert bare.keys() == {"nll"} and ours["nll"][0] == pytest.approx(float(bare["nll"][0]), rel=1e-6)
  inputs_BT, targets_BT = sequence.split(batch["tokens"])
  wide = np.asarray(logits_of(model, params, inputs_BT), np.float64)
  ln_z = np.log(np.exp(wide).sum(-1))
  counted = np.asarray(sequence.is_visual(targets_BT))
  assert 0 < counted.sum() < counted.size
  assert float(ours["z_loss"][0]) == pytest.approx((ln_z**2)[counted].mean(), rel=1e-5)
  assert float(ours["z_loss"][1]) == 0.25
  # Evaluations are without it.
  both = [jax.jit(one.per_target)(params, batch)[0] for one in (task, plain)]
  np.testing.assert_array_equal(*both)


@pytest.mark.parametrize("implementation, where", BOTH)
def test_causal_by_gradient(implementation, where):
  first = jax.tree.map(lambda x: x[0], init(build())["blocks"])
  at = 7

  def output_at(embedded):
    # The residual stream's dependence on each input, through the blocks.
    block = llama.Block(config(), implementation, jnp.float32, where)
    rope = layers.rope_table(jnp.arange(embedded.shape[1]), 16, 1e4)
    out, _ = block.apply({"params": first}, embedded, rope, None)
    return jnp.sum(jnp.square(out[:, at]))

  x = jax.random.normal(jax.random.key(2), (1, SPEC.context, 32))
  gradient = np.abs(np.asarray(jax.jit(jax.grad(output_at))(x))).sum((0, 2))
  assert np.all(gradient[at + 1 :] == 0)
  assert np.all(gradient[: at + 1] > 0)


def test_gradient_check_would_catch_full_attention():
  q = jax.random.normal(jax.random.key(0), (1, 8, 1, 4))

  def full(x):
    out = jax.nn.dot_product_attention(x, x, x, is_causal=False)
    return jnp.sum(jnp.square(out[:, 3]))

  gradient = np.abs(np.asarray(jax.jit(jax.grad(full))(q))).sum((0, 2, 3))
  assert np.all(gradient[4:] > 0)


def by_numpy(q, k, v, seen_BTS, scale):
  """Softmax attention in float64."""
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  logits_BHTS = np.einsum("bthk,bshk->bhts", q, k) * scale
  logits_BHTS = np.where(seen_BTS[:, None], logits_BHTS, -np.inf)
  weights = np.exp(logits_BHTS - logits_BHTS.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  return np.einsum("bhts,bshk->bthk", weights, v)


def gradients_by_numpy(q, k, v, seen_BTS, scale, g):
  """Of sum(g attention) in q, k and v, by the rules of a softmax."""
  q, k, v, g = (np.asarray(x, np.float64) for x in (q, k, v, g))
  logits_BHTS = np.einsum("bthk,bshk->bhts", q, k) * scale
  logits_BHTS = np.where(seen_BTS[:, None], logits_BHTS, -np.inf)
  p = np.exp(logits_BHTS - logits_BHTS.max(-1, keepdims=True))
  p /= p.sum(-1, keepdims=True)
  of_p = np.einsum("bthk,bshk->bhts", g, v)
  of_logits = p * (of_p - np.sum(p * of_p, -1, keepdims=True)) * scale
  return (
    np.einsum("bhts,bshk->bthk", of_logits, k),
    np.einsum("bhts,bthk->bshk", of_logits, q),
    np.einsum("bhts,bthk->bshk", p, g),
  )


def seen(length, prefix, segments_BT):
  """bool [B, T, S], place by place, as the docstring says it."""
  places = range(length)
  mask_TS = np.array(
    [[s <= t or s < prefix or prefix == attention.ALL for s in places] for t in places]
  )
  if segments_BT is None:
    return np.stack([mask_TS] * 2)
  return mask_TS & (segments_BT[:, :, None] == segments_BT[:, None])


@pytest.mark.parametrize("segmented", [False, True])
@pytest.mark.parametrize("prefix", [0, 100, attention.ALL])
@pytest.mark.parametrize(
  "implementation, length",
  [("blocked", 1), ("blocked", 65), ("blocked", 520), ("xla", 65), ("xla", 200), ("splash", 256)],
)
def test_attention_is_a_softmax_over_what_is_seen(implementation, length, prefix, segmented):
  keys = jax.random.split(jax.random.key(length), 4)
  q, k, v, g = (jax.random.normal(key, (2, length, 2, 8)) for key in keys)
  segments = None
  if segmented:
    segments = np.tile(np.arange(length)[None] // 50, (2, 1)).astype(np.int32)
  scale = 0.4

  def run(q, k, v):
    if implementation == "splash":
      # The kernel without a TPU; what `attend` makes of the numbers.
      return splash.attend(
        q,
        k,
        v,
        segments_BT=segments,
        scale=scale,
        interpret=True,
        prefix=length if prefix == attention.ALL else prefix,
      )
    return attention.attend(
      q,
      k,
      v,
      segments_BT=segments,
      scale=scale,
      prefix_tokens=prefix,
      implementation=implementation,
    )

  @jax.jit
  def both(q, k, v):
    mixed, pull = jax.vjp(run, q, k, v)
    return mixed, pull(g)

  with jax.default_matmul_precision("highest"):
    found, gradients = both(q, k, v)
  mask = seen(length, prefix, segments)
  np.testing.assert_allclose(found, by_numpy(q, k, v, mask, scale), rtol=1e-4, atol=1e-5)
  expected = gradients_by_numpy(q, k, v, mask, scale, g)
  for a, b in zip(gradients, expected):
    size = max(np.abs(b).max(), 1.0)
    np.testing.assert_allclose(a / size, b / size, atol=1e-5)
  # Control: every other mask gives something else.
  for other in {0, 60, 100, attention.ALL} - {prefix}:
    other_mask = seen(length, other, segments)
    if (other_mask != mask).any():
      moved = by_numpy(q, k, v, other_mask, scale)
      assert np.abs(moved - found).max() > 1e-2
  if segmented and length > 50:
    moved = by_numpy(q, k, v, seen(length, prefix, None), scale)
    assert np.abs(moved - found).max() > 1e-2


def test_masks_of_the_model_and_what_is_refused():
  """By gradient: what a token's output depends on."""
  x = jax.random.normal(jax.random.key(2), (1, SPEC.context, 32))
  first = jax.tree.map(lambda leaf: leaf[0], init(build())["blocks"])

  def reached(prefix):
    shape = config(prefix_tokens=prefix)
    block = llama.Block(shape, "blocked", jnp.float32, platform.CPU)
    rope = layers.rope_table(jnp.arange(SPEC.context), 16, 1e4)

    def output(embedded):
      out, _ = block.apply({"params": first}, embedded, rope, None)
      return jnp.sum(jnp.square(out[:, 3]))

    gradient = np.abs(np.asarray(jax.jit(jax.grad(output))(x))).sum((0, 2))
    return int(np.sum(gradient > 0))

  assert [reached(p) for p in (0, 6, attention.ALL)] == [4, 6, SPEC.context]
  with pytest.raises(
    ValueError, match="prefix_tokens is -2; it must be at least -1 .*0: causal, -1: full"
  ):
    config(prefix_tokens=-2)
  with pytest.raises(ValueError, match="shows tokens what they are to predict"):
    pretrain.Pretrain(build(config(prefix_tokens=6)))
  q = jnp.zeros((1, 8, 1, 4))
  with pytest.raises(ValueError, match="cudnn attention has no mask .* 6 of 8"):
    attention.attend(q, q, q, segments_BT=None, implementation="cudnn", prefix_tokens=6)


@pytest.mark.slow
def test_the_end_is_a_target_where_it_is_asked_for():
  """One more target a row, in the loss and not in what evaluations see."""
  plain = dataclasses.replace(SPEC, context=18)
  codes = np.arange(32).reshape(2, 4, 4)
  rows = np.stack([sequence.build(c, kind="video", spec=plain) for c in codes])
  batch = {"tokens": jnp.asarray(rows), "source": jnp.zeros(2, jnp.int32)}
  rest = tasks.Variables({}, {}, {})
  found = {}
  for end in (False, True):
    model = build(config(depth=1), spec=dataclasses.replace(plain, train_end=end))
    task = pretrain.Pretrain(model)
    terms, *_ = jax.jit(task.loss)(init(model), rest, batch, step=0, key=jax.random.key(0))
    nll_BT, counted_BT = jax.jit(task.per_target)(init(model), batch)
    assert counted_BT.sum() == 32  # of evaluations: visual tokens
    found[end] = float(terms["nll"].sum), float(task.weights(batch)["nll"]), nll_BT
  (without, count, nll_BT), (with_end, more, _) = found[False], found[True]
  assert (count, more) == (32, 34)
  assert with_end == pytest.approx(without + float(nll_BT[:, 16].sum()), rel=1e-6)
  with pytest.raises(ValueError, match="sequence.context is 16, which cuts off the end"):
    pretrain.Pretrain(build(spec=dataclasses.replace(SPEC, train_end=True)))


@pytest.mark.parametrize("length, most_kept", [(7, 4096), (200, 4096), (200, 100)])
@pytest.mark.parametrize("segmented", [False, True])
def test_attention_gradients_agree(length, segmented, most_kept, monkeypatch):
  monkeypatch.setattr(blocked, "MOST_KEPT", most_kept)
  keys = jax.random.split(jax.random.key(length), 4)
  q, k, v, out = (jax.random.normal(key, (2, length, 3, 8)) for key in keys)
  segments = jnp.tile(jnp.arange(length)[None] // 50, (2, 1))

  @functools.partial(jax.jit, static_argnames="implementation")
  def gradients(q, k, v, implementation):
    def total(q, k, v):
      mixed = attention.attend(
        q,
        k,
        v,
        segments_BT=segments if segmented else None,
        implementation=implementation,
        scale=0.3,
      )
      return jnp.sum(mixed * out)

    return jax.grad(total, (0, 1, 2))(q, k, v)

  tiled, plain = (gradients(q, k, v, name) for name in ("blocked", "xla"))
  for ours, theirs in zip(tiled, plain):
    largest = np.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * largest)
    assert largest > 0.1


def test_long_sequences_keep_no_logits_for_the_backward_pass(monkeypatch):
  """A layer more costs its activations, not half a square of its tokens."""
  tokens, width = 512, 8
  square = tokens**2 // 2 * 4

  def bytes_of(depth):
    def total(x, weights):
      for weight_DD in weights:
        q = (x @ weight_DD)[:, :, None]
        x += blocked.attend(q, 0.5 * q, 2.0 * q, None, 0.3, 0)[:, :, 0]
      return jnp.sum(x)

    x_BTD = jax.ShapeDtypeStruct((1, tokens, width), jnp.float32)
    weights = [jax.ShapeDtypeStruct((width, width), jnp.float32)] * depth
    compiled = jax.jit(jax.grad(total)).lower(x_BTD, weights).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  kept = bytes_of(3) - bytes_of(1)
  assert kept > 1.5 * square  # the control: up to so many tokens they are kept
  monkeypatch.setattr(blocked, "MOST_KEPT", 256)
  assert bytes_of(3) - bytes_of(1) < 0.5 * square


@pytest.mark.parametrize(
  "equation,x,weight",
  [
    ("BTD,DF->BTF", (2, 5, 4), (4, 9)),
    ("BTF,FD->BTD", (2, 5, 9), (9, 4)),
    ("BTD,DHK->BTHK", (2, 5, 4), (4, 3, 2)),
    ("BTHK,HKD->BTD", (2, 5, 3, 2), (3, 2, 4)),
    ("BTD,VD->BTV", (2, 5, 4), (11, 4)),
  ],
)
def test_products_on_cpus_have_the_gradients_of_autodiff(equation, x, weight):
  keys = jax.random.split(jax.random.key(0))
  x, weight = (jax.random.normal(*both) for both in zip(keys, (x, weight)))

  def gradients(on_cpu):
    def total(x, weight):
      out = layers.product(equation, x, weight, on_cpu=on_cpu)
      return jnp.sum(jnp.sin(out))

    return jax.value_and_grad(total, (0, 1))(x, weight)

  ours, theirs = gradients(True), gradients(False)
  for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_weights_gradient_reads_the_narrower_array_transposed():
  x, weight = jnp.ones((2, 64, 8)), jnp.ones((8, 32))

  def transposed(on_cpu):
    """Elements that are copied to be read the other way."""
    step = jax.jit(
      jax.grad(
        lambda x, weight: jnp.sum(layers.product("BTD,DF->BTF", x, weight, on_cpu=on_cpu) ** 2),
        (0, 1),
      )
    )
    text = step.lower(x, weight).compile().as_text()
    found = re.findall(r"= f32\[([\d,]+)\]\S* (?:copy|transpose)\(", text)
    return max(np.prod([int(n) for n in dims.split(",")]) for dims in found)

  assert transposed(True) <= x.size
  assert transposed(False) == 32 * 2 * 64  # the control: the gradient of x W


def test_segments_hide_other_images():
  spec = dataclasses.replace(SPEC, segments=True)
  model, params = build(spec=spec), init(build(spec=spec))
  inputs = tokens(spec).at[:, 0].set(sequence.IMAGE_START)
  # Position 9 holds the first token of the third image.
  changed = inputs.at[:, 3].set((inputs[:, 3] + 1) % 60 + 4)
  logits = logits_of(model, params, inputs)[..., :64]
  moved = logits_of(model, params, changed)[..., :64]
  np.testing.assert_array_equal(logits[:, 9:], moved[:, 9:])
  assert np.any(np.asarray(logits[:, 3:5] != moved[:, 3:5]))
  # Control: in a video the same change is seen later.
  video = inputs.at[:, 0].set(sequence.VIDEO_START)
  logits = logits_of(model, params, video)[..., :64]
  moved = logits_of(model, params, video.at[:, 3].set(changed[:, 3]))
  assert np.any(np.asarray(logits[:, 9:] != moved[..., :64][:, 9:]))


@functools.cache
def loss_and_gradient(model: trunk.Trunk):
  """Of one batch, at the parameters of the plain model."""

  def loss(params, inputs):
    logits = model.apply({"params": params}, inputs)
    return jnp.sum(trunk.token_nll(logits, inputs))

  return jax.jit(jax.value_and_grad(loss))(init(build()), tokens())


@pytest.mark.parametrize("remat", ["none", "full", "projections"])
@pytest.mark.parametrize("unroll", [1, 2])
def test_unrolling_and_remat_change_no_parameter_and_no_value(remat, unroll):
  other = build(compute=dataclasses.replace(PLAIN, unroll=unroll, remat=remat))
  assert tree.differences(shapes(other), init(build())) == []
  (a, grad_a), (b, grad_b) = map(loss_and_gradient, (build(), other))
  np.testing.assert_allclose(a, b, rtol=1e-6)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5), grad_a, grad_b)


def losses(model: trunk.Trunk):
  """Compiled (loss, gradients), summed over the second half of the targets."""

  def loss(params, inputs, targets):
    nll_BT = model.apply({"params": params}, inputs, targets)
    return jnp.sum(jnp.where(jnp.arange(inputs.shape[1]) < 8, 0.0, nll_BT))

  inputs = tokens()
  targets = jnp.roll(inputs, -1, axis=1)
  lowered = jax.jit(jax.value_and_grad(loss)).lower(init(model), inputs, targets)
  return lowered.compile(), (init(model), inputs, targets)


@pytest.mark.parametrize("tied, logits", [(True, 0.25), (False, 1.0)])
def test_a_loss_in_chunks_is_the_loss(tied, logits):
  def model(chunk):
    return trunk.Trunk(
      config=config(tied=tied),
      spec=SPEC,
      compute=dataclasses.replace(PLAIN, loss_chunk=chunk),
      scales=layers.Scales(attention=1.0, logits=logits),
    )

  compiled, arguments = losses(model(0))
  (whole, of_whole), (found, of_found) = (
    one(*arguments) for one in (compiled, losses(model(4))[0])
  )
  np.testing.assert_allclose(found, whole, rtol=1e-6)
  for a, b in zip(jax.tree.leaves(of_found), jax.tree.leaves(of_whole)):
    size = np.abs(np.asarray(b)).max()
    assert size > 0
    np.testing.assert_allclose(a / size, b / size, atol=1e-6)
  # Control: chunks that do not lie where their targets do are seen.
  params, inputs, targets = arguments
  other, _ = compiled(params, inputs, jnp.roll(targets, 1, axis=1))
  assert abs(other / whole - 1) > 1e-4
  # It is what the logits give.
  apart = trunk.token_nll(logits_of(model(0), params, inputs), targets)
  np.testing.assert_allclose(apart[:, 8:].sum(), whole, rtol=1e-6)


def test_a_loss_in_chunks_never_holds_all_logits():
  """Of 512 tokens x 8,320 logits in float32, forward and backward."""
  spec = sequence.SequenceSpec(8192, 16, 2, 512, False)
  shape = config(depth=1)

  def temporaries(chunk):
    compute = dataclasses.replace(PLAIN, loss_chunk=chunk)
    model = build(shape, spec, compute)

    def loss(params, inputs):
      return jnp.sum(model.apply({"params": params}, inputs, inputs))

    tokens_BT = jax.ShapeDtypeStruct((1, 512), jnp.int32)
    compiled = jax.jit(jax.grad(loss)).lower(shapes(model), tokens_BT).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  logits_bytes = 512 * spec.padded_vocab * 4
  assert temporaries(0) > logits_bytes
  assert temporaries(32) < logits_bytes / 2
  with pytest.raises(ValueError, match="loss_chunk 100 does not divide"):
    temporaries(100)


def test_token_nll_is_log_softmax():
  logits = jax.random.normal(jax.random.key(0), (2, 3, 11))
  logits = logits.at[..., 9:].set(-jnp.inf)
  targets = jnp.array([[0, 3, 8], [1, 1, 2]])
  import scipy.special

  reference = -scipy.special.log_softmax(np.asarray(logits, np.float64), -1)
  reference = np.take_along_axis(reference, np.asarray(targets)[..., None], -1)
  np.testing.assert_allclose(
    jax.jit(trunk.token_nll)(logits, targets), reference[..., 0], rtol=1e-6
  )
  gradient = jax.jit(jax.grad(lambda x: trunk.token_nll(x, targets).sum()))(logits)
  assert np.all(np.isfinite(gradient))


def test_odd_head_dimension_is_refused():
  with pytest.raises(ValueError, match="even whole head dimension"):
    config(width=30, heads=2)


def test_axes_name_every_dimension():
  unboxed = shapes(build())
  leaves = dict(tree.named_leaves(unboxed))
  for name, spec in tree.named_leaves(pretrain.Pretrain(build()).axes().params):
    assert len(spec) == leaves[name].ndim, name
    assert None not in tuple(spec), name
    assert name.startswith("blocks/") == (spec[0] == "layers"), name

  def is_box(x):
    return isinstance(x, nn.meta.AxisMetadata)

  assert not any(map(is_box, jax.tree.leaves(unboxed, is_leaf=is_box)))


def test_the_gradient_of_logits_is_rounded_before_it_is_multiplied():
  keys = jax.random.split(jax.random.key(0), 3)
  x_BTD = jax.random.normal(keys[0], (2, 8, 16), jnp.bfloat16)
  w_VD = jax.random.normal(keys[1], (32, 16), jnp.bfloat16)
  g_BTV = jax.random.normal(keys[2], (2, 8, 32))
  result, pull = jax.vjp(functools.partial(layers.wide_product, "BTD,VD->BTV"), x_BTD, w_VD)
  wide = [np.asarray(a, np.float64) for a in (x_BTD, w_VD)]
  assert result.dtype == jnp.float32
  np.testing.assert_allclose(result, np.einsum("btd,vd->btv", *wide), rtol=1e-4, atol=1e-5)
  rounded = np.asarray(g_BTV.astype(jnp.bfloat16), np.float64)
  expected = (
    np.einsum("btv,vd->btd", rounded, wide[1]),
    np.einsum("btv,btd->vd", rounded, wide[0]),
  )
  for ours, theirs in zip(pull(g_BTV), expected):
    assert ours.dtype == jnp.bfloat16
    error = np.linalg.norm(np.asarray(ours, np.float64) - theirs)
    assert error < 3e-3 * np.linalg.norm(theirs)

  # What a GPU multiplies: no float32 among it, unlike in einsum's own gradient.
  def types(product):
    jaxpr = jax.make_jaxpr(lambda *a: jax.vjp(product, *a[:2])[1](a[2]))(x_BTD, w_VD, g_BTV)
    return {
      str(v.aval.dtype)
      for equation in jaxpr.eqns
      if equation.primitive.name == "dot_general"
      for v in equation.invars
    }

  narrow = functools.partial(layers.wide_product, "BTD,VD->BTV")
  assert types(narrow) == {"bfloat16"}
  plain = functools.partial(jnp.einsum, "BTD,VD->BTV", preferred_element_type=jnp.float32)
  assert "float32" in types(plain)


@pytest.mark.parametrize(
  ("backend", "attention", "remat", "unroll"),
  [("cpu", "blocked", "none", 7), ("gpu", "cudnn", "full", 7), ("tpu", "splash", "full", 1)],
)
def test_auto_means_what_a_backend_likes(backend, attention, remat, unroll):
  section = model_config.Compute()
  found = assembly.compute(section, depth=7, context=4096, backend=backend)
  assert (found.attention, found.remat, found.unroll) == (attention, remat, unroll)
  assert found.platform.name == backend
