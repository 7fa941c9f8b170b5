"""Table 6's other blocks against Hugging Face, and the recurrent form."""

import dataclasses
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

from totojax.jobs.bench import scanning
from totojax.models import gpt2, mamba, platform

MAMBA = mamba.MambaConfig(
  width=32,
  depth=2,
  expand=2,
  state=4,
  conv=4,
  step_rank=0,
  chunk_tokens=8,
  scan="steps",
  norm_eps=1e-5,
  init_std=0.3,
  tied=True,
)
GPT2 = gpt2.Gpt2Config(
  width=32, depth=2, heads=4, mlp_dim=96, norm_eps=1e-5, init_std=0.3, tied=True, position_std=0.02
)


def inputs(tokens=21, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=(2, tokens, 32)), jnp.float32)


def start(block, *args):
  params = nn.unbox(jax.jit(block.init)(jax.random.key(0), *args))["params"]
  # Nothing that is zero or one at the start may hide a mistake.
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  moved = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys)]
  return jax.tree.unflatten(tree, moved)


def mamba_block(**changes):
  shape = dataclasses.replace(MAMBA, **changes)
  return mamba.Block(shape, "", jnp.float32, platform.CPU)


@pytest.fixture(scope="module")
def mamba_params():
  return start(mamba_block(), inputs(), None, None)


def run_mamba(params, x, state=None, **changes):
  if state is None:
    state = MAMBA.empty_state(len(x))
  return applied(mamba_block(**changes))({"params": params}, x, None, None, state)


@functools.cache
def applied(block):
  return jax.jit(block.apply)


def torch_of(x):
  torch = pytest.importorskip("torch")
  return torch.from_numpy(np.array(x))


@pytest.mark.parametrize("chunk_tokens, scan", [(1, "steps"), (8, "steps"), (8, "tree")])
def test_mamba_meets_hugging_face(mamba_params, chunk_tokens, scan):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  from transformers.models.mamba import modeling_mamba

  block = modeling_mamba.MambaBlock(
    transformers.MambaConfig(
      hidden_size=32,
      state_size=4,
      conv_kernel=4,
      expand=2,
      time_step_rank=2,
      num_hidden_layers=2,
      layer_norm_epsilon=1e-5,
      use_mambapy=False,
    ),
    layer_idx=0,
  ).eval()
  theirs = references.mamba_block(mamba_params)
  block.load_state_dict({k: torch_of(v) for k, v in theirs.items()})
  x = inputs()
  with torch.no_grad():
    expected = block(torch_of(x)).numpy()
  found, _ = run_mamba(mamba_params, x, chunk_tokens=chunk_tokens, scan=scan)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("parts", [[1] * 21, [5, 16], [20, 1]])
def test_mamba_goes_on_where_it_stopped(mamba_params, parts):
  """Token by token, or piece by piece, it is the whole-sequence form."""
  x = inputs()
  whole, last = run_mamba(mamba_params, x)
  state, found, begin = None, [], 0
  for size in parts:
    y, state = run_mamba(mamba_params, x[:, begin : begin + size], state)
    found.append(y)
    begin += size
  np.testing.assert_allclose(np.concatenate(found, 1), whole, rtol=1e-4, atol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), state, last)
  # The control: a state that is forgotten changes what follows.
  begin = parts[0]
  forgotten, _ = run_mamba(mamba_params, x[:, begin:])
  assert not np.allclose(forgotten, whole[:, begin:], rtol=1e-2)


def test_chunks_change_neither_values_nor_gradients(mamba_params):
  x = inputs()

  def loss(params, **changes):
    y, _ = run_mamba(params, x, **changes)
    return jnp.sum(jnp.sin(y))

  gradient = jax.jit(jax.grad(loss), static_argnames=("chunk_tokens", "scan"))
  one = gradient(mamba_params, chunk_tokens=64)
  other = gradient(mamba_params, chunk_tokens=4, scan="tree")
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), one, other)


@pytest.mark.parametrize("scan", mamba.SCANS)
def test_chunks_bound_the_memory(scan):
  """The plain scan's gradient keeps every state; chunks keep one chunk's."""
  size = scanning.MambaScanBench(
    rows=1, tokens=500, inner=64, state=16, chunk_tokens=16, scans=(scan,)
  )
  of, wanted = scanning.arguments(size, seed=0)

  def compiled(scan):
    return jax.jit(scanning.gradients(scan)).lower(*of, wanted).compile()

  chunked = compiled(functools.partial(mamba.selective_scan, chunk_tokens=16, scan=scan))
  plain = compiled(scanning.plain_scan)
  for found, expected in zip(chunked(*of, wanted), plain(*of, wanted)):
    assert jnp.abs(found - expected).max() < 1e-5 * jnp.abs(expected).max()
  ours, theirs = (program.memory_analysis().temp_size_in_bytes for program in (chunked, plain))
  states = 4 * size.tokens * size.inner * size.state  # float32
  assert theirs > max(states, 2.5 * ours), (ours, theirs)


@pytest.mark.parametrize("name", ["mamba", "gpt2"])
def test_blocks_are_causal(name, mamba_params):
  x = inputs()
  if name == "mamba":
    function = lambda x: run_mamba(mamba_params, x)[0]
  else:
    block = gpt2.Block(GPT2, "blocked", jnp.float32, platform.CPU)
    params = start(block, x, None, None)
    function = lambda x: block.apply({"params": params}, x, None, None)[0]
  reach = jax.jacobian(lambda x: function(x).sum(-1)[0])(x)  # [T, B, T, D]
  reach = np.abs(reach[:, 0]).sum(-1)
  assert (np.triu(reach, 1) == 0).all()
  assert (np.diag(reach) > 0).all() and reach[-1, 0] > 0


def test_gpt2_meets_hugging_face():
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")

  block = gpt2.Block(GPT2, "blocked", jnp.float32, platform.CPU)
  x = inputs()
  params = start(block, x, None, None)
  theirs = transformers.models.gpt2.modeling_gpt2.GPT2Block(
    transformers.GPT2Config(
      n_embd=32,
      n_head=4,
      n_inner=96,
      n_positions=64,
      n_layer=2,
      layer_norm_epsilon=1e-5,
      attn_implementation="eager",
    ),
    layer_idx=0,
  ).eval()
  state = references.gpt2_block(params)
  missing = theirs.load_state_dict({k: torch_of(v) for k, v in state.items()}, strict=False)
  assert not missing.unexpected_keys
  mask = torch.triu(torch.full((21, 21), -torch.inf), 1)[None, None]
  with torch.no_grad():
    expected = theirs(torch_of(x), attention_mask=mask)
  expected = expected[0] if isinstance(expected, tuple) else expected
  found, _ = jax.jit(block.apply)({"params": params}, x, None, None)
  np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_positions_are_fixed_sines_and_cosines():
  table = np.asarray(gpt2.positions(jnp.arange(50), 8))
  for position in (0, 1, 49):
    for i in range(4):
      angle = position / 10_000 ** (2 * i / 8)
      np.testing.assert_allclose(table[position, i], np.sin(angle), atol=1e-5)
      np.testing.assert_allclose(table[position, 4 + i], np.cos(angle), atol=1e-5)
