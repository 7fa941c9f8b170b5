"""An architecture from outside: a module that a config names."""

import functools
from typing import Any, ClassVar, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import pytest
import stores

from totojax import assembly, flops, sequence
from totojax.config import recipes, roots
from totojax.config.schema import ConfigError, field, section
from totojax.jobs import pretrain as job
from totojax.models import architecture, decode, layers, platform
from totojax.tasks import pretrain


@section("model")
class MeansConfig(architecture.Architecture):
  """Every token sees the mean of all before it and of itself."""

  kind: ClassVar[str] = "means"
  prefix_tokens: ClassVar[int] = 0

  width: int = field(32, "residual stream", at_least=1)
  depth: int = field(2, "blocks", at_least=1)
  norm_eps: float = field(1e-6, "of RMSNorm")
  init_std: float = field(0.2, "of matrices at the start")
  tied: bool = field(True, "the head is the embedding")

  def block(self):
    return Block

  def norm(self, name=None):
    return layers.RMSNorm(self.norm_eps, name=name)

  @property
  def matrices(self):
    return self.width**2

  @property
  def vectors(self):
    return 0

  def mixing_macs(self, context):
    return 0


@section("model")
class DecodedConfig(MeansConfig):
  """The same, and says what is remembered and what grows."""

  kind: ClassVar[str] = "decoded"

  def empty_state(self, rows):
    return State(jnp.zeros((rows, self.width)), jnp.zeros((rows, 1)))

  def state_axes(self):
    return State(PartitionSpec("layers", "batch"), PartitionSpec("layers", "batch"))

  def growth(self, *, base_width, base_heads, base_mlp_dim):
    wider = self.width / base_width
    return {"embed": wider, "mlp": wider}


class State(NamedTuple):
  sum_BD: jax.Array
  count_B1: jax.Array


class Block(nn.Module):
  config: MeansConfig
  implementation: str
  dtype: Any
  platform: platform.Platform
  scales: layers.Scales = layers.STANDARD

  @nn.compact
  def __call__(self, x_BTD, rope, segments_BT, state=None):
    assert rope is None and segments_BT is None
    width = self.config.width
    w_DF = layers.parameter(
      self, "mix", nn.initializers.normal(self.config.init_std), (width, width), ("embed", "mlp")
    )
    sums_BTD = jnp.cumsum(x_BTD, axis=1)
    counts_T1 = 1.0 + jnp.arange(x_BTD.shape[1])[:, None]
    if state is not None:
      sums_BTD += state.sum_BD[:, None]
      counts_T1 = counts_T1 + state.count_B1[:, None]
      state = State(sums_BTD[:, -1], state.count_B1 + x_BTD.shape[1])
    x_BTD += jnp.tanh(sums_BTD / counts_T1 @ w_DF)
    return x_BTD, state


def means():
  return MeansConfig


def decoded():
  return DecodedConfig


def config(kind, **mup):
  c = recipes.pretrain("tiny")
  c.architecture = f"{__name__}:{kind}"
  c.model = dict(width=32, depth=2, norm_eps=1e-6, init_std=0.2, tied=True)
  c.sequence.update(vocab=60, grid=2, frames=4, context=16)
  c.compute.update(dtype="float32")
  c.optim.update(lr=1e-2, warmup_steps=1)
  c.train.update(batch_tokens=128, total_tokens=2 * 128.0)
  c.mup.update(mup)
  return c


def test_it_trains_two_updates(tmp_path):
  c = config("means", on=False)
  store = stores.write(tmp_path / "train", records=32, seed=0, prefix="t")
  c.data.train = {"moving": recipes.source(store, 1.0)}
  run = job.pretraining(roots.read(c.to_dict()))
  state, losses = run.init(), []
  count = sum(x.size for x in jax.tree.leaves(state.params))
  typed = roots.read(c.to_dict())
  shape, padded = assembly.shape(typed.model), typed.sequence.padded_vocab
  assert flops.parameters(shape, padded) == count
  batch = run.layout.place(next(iter(run.batches(0))))
  for _ in range(2):
    state, metrics = run.step_fn(state, batch)
    losses.append(float(metrics["loss"]))
  assert np.isfinite(losses).all() and losses[1] < losses[0]


def test_it_decodes_where_it_says_what_it_remembers():
  for unroll in (1, 2):
    c = config("decoded")
    c.compute.unroll = unroll
    model = assembly.model(roots.read(c.to_dict()))
    task = pretrain.Pretrain(model)
    params = jax.jit(task.init)(jax.random.key(0)).params
    inputs = np.random.default_rng(0).integers(4, 64, (2, 16))
    inputs[:, 0] = sequence.VIDEO_START
    expected = np.asarray(jax.jit(model.apply)({"params": params}, inputs))[..., :64]
    weights = decode.load(model, params)
    read = jax.jit(functools.partial(decode.prefill, model, room=16))
    step = jax.jit(functools.partial(decode.step, model))
    logits, cache = read(weights, inputs[:, :5])
    found = [logits]
    for i in range(5, 16):
      logits, cache = step(weights, cache, inputs[:, i], i)
      found.append(logits)
    found = np.stack(found, 1)[..., :64]
    np.testing.assert_allclose(found, expected[:, 4:], rtol=1e-4, atol=1e-4)
    assert np.ptp(expected) > 0.1
    if unroll == 1:  # and its state can be split over devices
      axes = jax.tree.leaves(
        decode.axes(model, cache), is_leaf=lambda x: isinstance(x, PartitionSpec)
      )
      assert len(axes) == len(jax.tree.leaves(cache))


def test_what_it_does_not_say_is_refused():
  model = assembly.model(roots.read(config("means").to_dict()))
  weights = decode.load(model, jax.jit(pretrain.Pretrain(model).init)(jax.random.key(0)).params)
  with pytest.raises(ValueError, match="'means' does not decode"):
    decode.prefill(model, weights, np.full((1, 3), 4), room=8)
  with pytest.raises(ValueError, match="'means' has no µP.*set mup.on to"):
    assembly.parametrisation(roots.read(config("means", on=True).to_dict()))
  # Where it says so, it grows.
  grown = assembly.parametrisation(roots.read(config("decoded", on=True, base_width=16).to_dict()))
  assert grown.growth == {"embed": 2.0, "mlp": 2.0}
  hidden = config("means")
  hidden.sequence.segments = True
  with pytest.raises(ConfigError, match="segments .* has none"):
    roots.read(hidden.to_dict())
  with pytest.raises(TypeError, match="abstract.*block"):

    class Nothing(architecture.Transformer):
      """Says nothing."""

    Nothing()


def test_what_is_no_architecture_is_refused():
  c = config("means")
  for name, told in (
    ("means", "is 'means'; use 'llama', 'gpt2' or 'mamba'"),
    (f"{__name__}:nothing", "must define nothing.., which gives the archi"),
    ("nowhere.py", "nowhere.py does not exist; give the path"),
  ):
    c.architecture = name
    with pytest.raises(ValueError, match=told):
      roots.read(c.to_dict())
