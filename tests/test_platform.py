"""What a platform decides, and that attention decides nothing else."""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from totojax import assembly
from totojax.config import recipes, roots
from totojax.models import attention, layers, platform, splash, trunk
from totojax.tasks import pretrain
from totojax.trained import backbone

TOKENS = 256


def build(backend, kind="llama", tokens=TOKENS, **compute):
  c = recipes.pretrain("tiny")
  recipes.use(c, kind, "tiny")
  c.sequence.context = tokens
  c.compute.update(compute)
  return assembly.model(roots.read(c.to_dict()), backend)


def equations(jaxpr):
  """Of a jaxpr and of those inside of it."""
  for equation in jaxpr.eqns:
    yield equation
    for value in jax.tree.leaves(
      list(equation.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr") or hasattr(x, "eqns")
    ):
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns"):
        yield from equations(inner)


@pytest.fixture
def without_cudnn(monkeypatch):
  """cuDNN's attention cannot be traced where cuDNN is not."""
  attend = attention.attend

  def other(*args, implementation, **kwargs):
    chosen = "xla" if implementation == "cudnn" else implementation
    return attend(*args, implementation=chosen, **kwargs)

  monkeypatch.setattr(attention, "attend", other)


def found(model):
  """(how often each primitive, names of what is kept) of the gradient."""
  params = jax.eval_shape(pretrain.Pretrain(model).init, jax.random.key(0)).params
  tokens_BT = jax.ShapeDtypeStruct((2, model.spec.context), jnp.int32)

  def loss(params, tokens_BT):
    return jnp.sum(model.apply({"params": params}, tokens_BT, tokens_BT))

  jaxpr = jax.make_jaxpr(jax.grad(loss))(params, tokens_BT).jaxpr
  counts = collections.Counter(e.primitive.name for e in equations(jaxpr))
  names = {e.params["name"] for e in equations(jaxpr) if e.primitive.name == "name"}
  return counts, names


# gather, scatter-add, split, optimization_barrier, and whether a kernel is
# there: what "auto" has always given on each, in bfloat16.
AUTO = {
  ("cpu", "llama"): (1, 1, 4, 7, False),
  ("gpu", "llama"): (1, 1, 6, 0, False),
  ("tpu", "llama"): (1, 0, 0, 0, True),
  ("cpu", "gpt2"): (1, 1, 0, 6, False),
  ("gpu", "gpt2"): (1, 1, 0, 0, False),
  ("tpu", "gpt2"): (1, 0, 0, 0, True),
  ("cpu", "mamba"): (1, 1, 3, 5, False),
  ("gpu", "mamba"): (1, 1, 4, 0, False),
  ("tpu", "mamba"): (1, 0, 4, 0, False),
}
COUNTED = ("gather", "scatter-add", "split", "optimization_barrier")


@pytest.mark.parametrize("backend, kind", AUTO)
def test_auto_gives_what_it_gave(backend, kind, without_cudnn):
  counts, _ = found(build(backend, kind))
  there = tuple(counts[name] for name in COUNTED)
  assert (*there, counts["pallas_call"] > 0) == AUTO[backend, kind]


def test_another_attention_on_a_tpu_changes_attention_alone():
  splash, kept = found(build("tpu"))
  xla, kept_by_xla = found(build("tpu", attention="xla"))
  assert splash["pallas_call"] and not xla["pallas_call"]
  for name in COUNTED:
    assert xla[name] == splash[name], name
  # What `compute.remat` asks for by its name is there with and without it.
  assert kept == kept_by_xla >= {"projection", "attention", "residual", "mlp"}
  # So it is where the kernel takes no sequences of this length.
  odd = build("tpu", tokens=TOKENS - 16)
  assert odd.compute.attention == "xla"
  assert [found(odd)[0][name] for name in COUNTED] == [1, 0, 0, 0]
  # Control: another platform is seen, with the same attention.
  other, _ = found(build("gpu", attention="xla"))
  assert [other[name] for name in COUNTED] == [1, 1, 6, 0]


def test_the_kernel_is_mapped_over_rows_and_heads_forward_and_backward():
  """What is mapped over is parallel to jax, and shared by the cores of a chip."""

  def mapped(one, *shape):
    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    backward = jax.grad(lambda *qkv: jnp.sum(one(*qkv)), argnums=(0, 1, 2))
    return {
      str(e.params["name"]).partition("_mha_")[2].partition("_")[0]: len(
        e.params["grid_mapping"].vmapped_dims
      )
      for e in equations(jax.make_jaxpr(backward)(x, x, x).jaxpr)
      if e.primitive.name == "pallas_call"
    }

  attend = functools.partial(splash.attend, segments_BT=None, scale=1.0)
  assert mapped(attend, 2, TOKENS, 2, 64) == dict(fwd=1, dq=1, dkv=1)
  # Control: of the kernel alone nothing is.
  assert mapped(splash.kernel(TOKENS, 64), 1, TOKENS, 64) == dict(fwd=0, dq=0, dkv=0)


def test_a_lookup_has_the_gradient_that_autodiff_gives_it():
  table_VD = jax.random.normal(jax.random.key(0), (7, 5))
  inputs_BT = jnp.array([[1, 4, 1], [6, 0, 1]])
  gradient_BTD = jax.random.normal(jax.random.key(1), (2, 3, 5))
  rows, pull = jax.vjp(lambda table: layers.looked_up(table, inputs_BT), table_VD)
  plain, pull_plain = jax.vjp(lambda table: table[inputs_BT], table_VD)
  np.testing.assert_array_equal(rows, plain)
  (found,), (wanted,) = pull(gradient_BTD), pull_plain(gradient_BTD)
  np.testing.assert_allclose(found, wanted, rtol=1e-5)
  assert np.all(found[2] == 0) and np.any(found[1] != gradient_BTD[0, 0])  # it is a sum


def test_another_attention_on_a_cpu_changes_attention_alone():
  blocked, _ = found(build("cpu"))
  xla, _ = found(build("cpu", attention="xla"))
  for name in COUNTED:
    assert xla[name] == blocked[name], name


@pytest.mark.parametrize("backend", ["cpu", "gpu", "tpu"])
def test_the_gradient_of_logits_is_multiplied_in_bfloat16(backend):
  model = build(backend)
  x_BTD = jnp.zeros((1, 4, 32), jnp.bfloat16)
  head_VD = jnp.zeros((model.spec.padded_vocab, 32), jnp.bfloat16)
  logits = functools.partial(
    trunk.logits, spec=model.spec, scales=layers.STANDARD, platform=model.compute.platform
  )

  def loss(x_BTD, head_VD):
    return jnp.sum(jnp.sin(logits(x_BTD, head_VD)))

  jaxpr = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(x_BTD, head_VD)
  assert {"bfloat16"} == {
    str(variable.aval.dtype)
    for equation in equations(jaxpr.jaxpr)
    if equation.primitive.name == "dot_general"
    for variable in equation.invars
  }


@pytest.mark.parametrize("backend, context", [("cpu", 513), ("gpu", 640), ("tpu", 640)])
def test_whole_clips_fill_lanes_but_on_a_cpu(backend, context):
  model = build(backend)
  spec = dataclasses.replace(model.spec, grid=16)
  clips = backbone.for_clips(model.clone(spec=spec), frames=2)
  assert clips.spec.context == context


def test_a_backend_that_nobody_knows_has_the_plain_form_of_everything():
  other = platform.find("other")
  assert other.name == "other"
  assert dataclasses.replace(other, name="gpu") == platform.GPU
  assert platform.find("tpu") is platform.TPU
