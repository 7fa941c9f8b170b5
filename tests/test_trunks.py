"""GPT-2 and Mamba in the trunk: what LLaMA does there, they do (Table 6)."""

import dataclasses
import functools

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
import runs
import stores

from totojax import assembly, flops, jobs, sequence, sharding, tree
from totojax.config import recipes, roots
from totojax.config.schema import ConfigError
from totojax.jobs import pretrain as build_pretrain
from totojax.models import decode, gpt2, taps, trunk
from totojax.tasks import pretrain
from totojax.trained import backbone, generate

KINDS = ["gpt2", "mamba"]


def config(kind, **compute):
  c = recipes.pretrain("tiny")
  recipes.use(c, kind, "tiny")
  c.sequence.update(vocab=60, grid=2, frames=4, context=16)
  c.compute.update(dtype="float32", **compute)
  if kind == "mamba":
    c.model.chunk_tokens = 5  # of 16: the last chunk is not full
  return c.to_dict()


def shape(c):
  """The architecture of a config, old ones too."""
  values = c if isinstance(c, dict) else c.to_dict()
  return assembly.shape(roots.read(values, fill=True).model)


def build(kind, **compute):
  return assembly.model(roots.read(config(kind, **compute)))


@functools.cache
def init(kind):
  """Larger than new ones, and nothing zero or one that could hide a mistake."""
  params = jax.jit(pretrain.Pretrain(build(kind)).init)(jax.random.key(0))
  params = params.params
  flat, structure = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(flat))
  moved = [
    4.0 * leaf * (leaf.ndim > 2) + leaf + 0.1 * jax.random.normal(key, leaf.shape)
    for leaf, key in zip(flat, keys)
  ]
  return jax.tree.unflatten(structure, moved)


def tokens(rows=2):
  high = 60 + sequence.SPECIALS
  inputs = np.random.default_rng(0).integers(4, high, (rows, 16))
  inputs[:, 0] = sequence.VIDEO_START
  return jnp.asarray(inputs, jnp.int32)


@functools.cache
def whole(kind):
  """Logits [B, T, V] of real tokens, all at once."""
  apply = jax.jit(build(kind).apply)
  return np.asarray(apply({"params": init(kind)}, tokens()))[..., :64]


def relative(found, expected):
  return np.abs(found - expected).max() / np.abs(expected).max()


def layer(params, i):
  return jax.tree.map(lambda leaf: np.asarray(leaf[i]), params["blocks"])


def their_gpt2(transformers, params):
  shape = build("gpt2").config
  model = transformers.GPT2LMHeadModel(
    transformers.GPT2Config(
      vocab_size=128,
      n_positions=16,
      n_embd=32,
      n_layer=2,
      n_head=2,
      n_inner=64,
      layer_norm_epsilon=shape.norm_eps,
      bos_token_id=1,
      eos_token_id=2,
      attn_implementation="eager",
    )
  )
  i = np.arange(16)  # the table by hand
  angle = np.arange(16)[:, None] / 10_000 ** (2 * i[None] / 32)
  state = {
    "wte.weight": params["embedding"],
    "wpe.weight": 0.02 * np.sqrt(2) * np.concatenate([np.sin(angle), np.cos(angle)], 1),
    "ln_f.weight": params["norm"]["scale"],
    "ln_f.bias": params["norm"]["bias"],
  }
  for at in range(2):
    own = references.gpt2_block(layer(params, at))
    state |= {f"h.{at}.{k}": v for k, v in own.items()}
  return model, {f"transformer.{k}": v for k, v in state.items()}


def their_mamba(transformers, params):
  model = transformers.MambaForCausalLM(
    transformers.MambaConfig(
      vocab_size=128,
      hidden_size=32,
      state_size=16,
      conv_kernel=4,
      expand=2,
      time_step_rank=2,
      num_hidden_layers=2,
      layer_norm_epsilon=1e-5,
      tie_word_embeddings=True,
      use_mambapy=False,
      bos_token_id=1,
      eos_token_id=2,
      pad_token_id=0,
    )
  )
  state = {"embeddings.weight": params["embedding"], "norm_f.weight": params["norm"]["scale"]}
  for at in range(2):
    own = references.mamba_block(layer(params, at))
    state |= {f"layers.{at}.{k}": v for k, v in own.items()}
  return model, {f"backbone.{k}": v for k, v in state.items()}


@pytest.mark.parametrize("kind, within", [("gpt2", 1e-5), ("mamba", 1e-4)])
def test_logits_meet_hugging_face(kind, within):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  make = {"gpt2": their_gpt2, "mamba": their_mamba}[kind]
  model, state = make(transformers, init(kind))
  state = {k: np.array(v, np.float32) for k, v in state.items()}
  state = {k: torch.from_numpy(v) for k, v in state.items()}
  found = model.eval().load_state_dict(state, strict=False)
  assert not found.unexpected_keys
  assert {*found.missing_keys} <= {"lm_head.weight"}  # tied
  model.tie_weights()

  def theirs():
    with torch.no_grad():
      return model(torch.from_numpy(np.array(tokens(), np.int64))).logits

  assert relative(theirs().numpy()[..., :64], whole(kind)) < within
  # Control: one number of one layer would be seen.
  with torch.no_grad():
    next(p for n, p in model.named_parameters() if "1." in n)[0] += 1.0
  assert relative(theirs().numpy()[..., :64], whole(kind)) > 10 * within


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unroll, prompt", [(1, 5), (2, 1)])
def test_logits_token_by_token_are_those_of_the_whole(kind, unroll, prompt):
  model, inputs = build(kind, unroll=unroll, attention="xla"), tokens()
  weights = decode.load(model, init(kind))

  def read(shift, forget):
    first, cache = decode.prefill(model, weights, inputs[:, :prompt], room=20)
    if forget:
      cache = jax.tree.map(jnp.zeros_like, cache)

    def one(cache, i):
      logits, cache = decode.step(model, weights, cache, inputs[:, i], i + shift)
      return cache, logits

    _, others = jax.lax.scan(one, cache, jnp.arange(prompt, 16))
    return jnp.concatenate([first[:, None], jnp.swapaxes(others, 0, 1)], 1)

  read = jax.jit(read, static_argnums=(0, 1))
  expected = whole(kind)[:, prompt - 1 :]
  assert relative(read(0, False)[..., :64], expected) < 1e-5
  # Controls: another place is another sine, and what was read is needed.
  if kind == "gpt2":
    assert relative(read(1, False)[..., :64], expected) > 1e-3
  assert relative(read(0, True)[..., :64], expected) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_the_most_likely_tokens(kind):
  model, params = build(kind), init(kind)
  codes = np.asarray(tokens())[:, 4:8].reshape(2, 1, 4) - sequence.SPECIALS
  greedy = generate.Sampling(temperature=0.0, top_k=0, top_p=1.0, seed=0)
  made = generate.frames(
    model, decode.load(model, params), codes, further=2, sampling=greedy, rows=np.arange(2)
  )
  row = np.concatenate([codes, made], 1).reshape(2, -1) + sequence.SPECIALS
  inputs = np.concatenate([np.full((2, 1), sequence.VIDEO_START), row], 1)
  logits = jax.jit(model.apply)({"params": params}, inputs[:, :-1])
  best = np.argmax(np.asarray(logits)[..., 4:64], -1)[:, 4:]
  np.testing.assert_array_equal(made.reshape(2, -1), best)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_tapped_and_cut(kind):
  model, params, inputs = build(kind), init(kind), tokens()
  sown = functools.partial(model.apply, mutable=["intermediates"])
  _, kept = jax.jit(sown)({"params": params}, inputs)
  (stream_LBTD,) = kept["intermediates"]["blocks"]["residual"]
  keep = lambda x_BTD, _: x_BTD
  tapped = taps.tap_layers(model, params, inputs, tap=keep, layers=[0, 1, 2], per_layer=None)
  assert relative(tapped[1:], stream_LBTD) < 1e-6
  x_BTD = params["embedding"][inputs]
  if kind == "gpt2":
    x_BTD += 0.02 * np.sqrt(2) * gpt2.positions(jnp.arange(16), 32)
  assert relative(tapped[0], x_BTD) < 1e-6
  half, kept = taps.truncate(model, params, 1)
  (last,) = taps.tap_layers(half, kept, inputs, tap=keep, layers=[1], per_layer=None)
  assert relative(last, stream_LBTD[0]) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_and_chunked_changes_no_gradient(kind):
  rows = jnp.concatenate([tokens(), jnp.full((2, 1), sequence.END)], 1)

  def gradient(**compute):
    task = pretrain.Pretrain(build(kind, **compute))
    loss = lambda params: jnp.sum(task.nll(params, rows)[0])
    return jax.jit(jax.grad(loss))(init(kind))

  plain = gradient()
  other = gradient(remat="projections", unroll=1, loss_chunk=4, attention="xla")
  for name, leaf in tree.named_leaves(plain):
    if name.endswith("key_bias"):  # the same to all keys: softmax drops it
      continue
    assert float(jnp.abs(leaf).max()) > 0, name  # all of it is trained
    found = dict(tree.named_leaves(other))[name]
    assert relative(found, leaf) < 1e-4, name


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_keeps_in_float32_what_needs_it(kind):
  model = build(kind)
  model = model.clone(compute=dataclasses.replace(model.compute, dtype="bfloat16"))
  names = model.config.wide
  assert "scale" in names
  cast = trunk.cast(model.config, init(kind), "bfloat16")
  for name, leaf in tree.named_leaves(cast):
    wide = name.rpartition("/")[-1] in names
    assert leaf.dtype == (jnp.float32 if wide else jnp.bfloat16), name
  apply = jax.jit(model.apply)
  found = apply({"params": init(kind)}, tokens())
  np.testing.assert_array_equal(found, apply({"params": cast}, tokens()))
  wrong = np.asarray(found)[..., :64] - whole(kind)
  assert 0 < np.std(wrong) / np.std(whole(kind)) < 0.03
  # Control: with all of them in bfloat16 it would change.
  narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), init(kind))
  assert not np.array_equal(found, apply({"params": narrow}, tokens()))


@pytest.mark.parametrize(
  "kind, preset, by_hand",
  [
    # Codes, then the layers, then the final norm.
    ("gpt2", "280m", 8192 * 1024 + 22 * 12_596_224 + 2 * 1024),
    ("mamba", "290m", 8192 * 1024 + 42 * 6_667_264 + 1024),
  ],
)
def test_table_6_parameters(kind, preset, by_hand):
  c = recipes.pretrain("large")
  recipes.use(c, kind, preset)
  model = assembly.model(roots.read(c.to_dict()))
  assert flops.parameters(model.config, 8192) == by_hand
  assert round(by_hand / 1e7) * 10 in (280, 290)
  leaves = jax.tree.leaves(jax.eval_shape(pretrain.Pretrain(model).init, jax.random.key(0)).params)
  rows = model.spec.padded_vocab
  assert flops.parameters(model.config, rows) == sum(x.size for x in leaves)


def test_table_6_flops():
  c = recipes.pretrain("large")
  recipes.use(c, "gpt2", "280m")
  d, f, t = 1024, 4096, 4096
  macs = 22 * (4 * d * d + 2 * d * f + d * t) + 8192 * d
  found = flops.forward_macs_per_token(shape(c), vocab=8192, context=t)
  assert found == macs
  recipes.use(c, "mamba", "290m")
  e, s, r = 2048, 16, 64
  matrices = 3 * d * e + 4 * e + e * (r + 2 * s) + r * e
  macs = 42 * (matrices + 4 * e * s) + 8192 * d
  for context in (16, 4096):  # what it costs does not grow
    found = flops.forward_macs_per_token(shape(c), vocab=8192, context=context)
    assert found == macs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  root = tmp_path_factory.mktemp("stores")
  return (
    stores.write(root / "train", records=32, seed=0, prefix="t"),
    stores.write(root / "val", records=8, seed=1, prefix="v"),
  )


def run_of(kind, paths, **mesh):
  """A config of two updates."""
  c = recipes.pretrain("tiny")
  recipes.use(c, kind, "tiny")
  c.sequence.update(vocab=60, grid=2, frames=4, context=16)
  c.compute.update(dtype="float32", unroll=1)
  c.optim.update(lr=1e-2, warmup_steps=1)
  c.train.update(batch_tokens=128, total_tokens=2 * 128.0)
  c.data.train = {"moving": recipes.source(paths[0], 1.0)}
  c.every = recipes.every(log=1, evaluate=2, checkpoint=1)
  c.mesh.update(mesh)
  return c.to_dict()


def losses(c):
  """Of both updates; nothing is saved."""
  run = build_pretrain.pretraining(roots.read(c))
  state, found = run.init(), []
  for batch, _ in zip(run.batches(0), range(2)):
    state, metrics = run.step_fn(state, run.layout.place(batch))
    found.append(float(metrics["loss"]))
  return found


def test_gpt2_trains_alike_on_other_meshes(data):
  one = losses(run_of("gpt2", data, data=8, fsdp=1))
  other = losses(run_of("gpt2", data, data=2, fsdp=2, tensor=2))
  assert other == pytest.approx(one, rel=1e-5)


@pytest.mark.slow
def test_mamba_trains_goes_on_and_is_used(data, tmp_path):
  expected = losses(run_of("mamba", data, data=8, fsdp=1))
  c = run_of("mamba", data, data=2, fsdp=2, tensor=2)
  c["data"]["validation"] = {"moving": data[1]}
  workdir = epath.Path(tmp_path / "run")
  assert not jobs.run(c, workdir, lambda step: step >= 1)
  assert jobs.run(c, workdir, lambda step: False)
  rows = [r for r in runs.metrics(workdir) if r["kind"] == "train"]
  assert [r["step"] for r in rows] == [1, 2]
  assert [r["loss"] for r in rows] == pytest.approx(expected, rel=1e-5)
  # The run is a backbone like any other.
  run = backbone.find(str(workdir))
  assert run.model.config == shape(c)
  layout = sharding.layout(roots.read(c).mesh)
  model, params = backbone.load(run, run.model, trained=True, depth=1, layout=layout, seed=0)
  means = backbone.features(model, params, layers=[0, 1], pool="clip", layout=layout)
  rows = np.tile(np.asarray(tokens()), (4, 1))
  assert means({"tokens": rows}).shape == (8, 2, 32)
  # And it is validated.
  job = recipes.validate(str(workdir)).to_dict()
  assert jobs.run(job, epath.Path(tmp_path / "validate"), lambda at: False)


def test_what_does_not_fit_an_architecture_is_refused():
  c = config("mamba")
  with pytest.raises(ConfigError, match="architecture is 'rnn'; use 'llama'"):
    roots.read(c | {"architecture": "rnn"})
  with pytest.raises(ConfigError, match="is 'gpt2', and the section model has the keys of 'mamba'"):
    roots.read(c | {"architecture": "gpt2"})
  with pytest.raises(ConfigError, match="segments .* Mamba has none"):
    roots.read(c | {"sequence": c["sequence"] | {"segments": True}})
  # A config from before there was a choice is a LLaMA.
  old = recipes.pretrain("tiny").to_dict()
  del old["architecture"]
  assert shape(old).kind == "llama"
