"""µP: the table by hand, the `mup` package, activations over widths."""

import dataclasses
import functools
import math

from etils import epath
from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

from totojax import assembly, jobs, sequence, tree
from totojax.config import recipes, roots, study_recipes
from totojax.config.schema import ConfigError
from totojax.jobs import coordinates
from totojax.models import layers, llama, platform
from totojax.optim import adamw, mup
from totojax.report import check_sections, reading
from totojax.tasks import pretrain

BASE, WIDE = 64, 256
M = WIDE / BASE
MATRICES = {
  f"blocks/{name}"
  for name in (
    "attention/query",
    "attention/key",
    "attention/value",
    "attention/out",
    "mlp/gate",
    "mlp/up",
    "mlp/down",
  )
}


def config(width=WIDE, *, on=True, tied=False, **changes) -> dict:
  c = recipes.pretrain("tiny")
  c.sequence.update(vocab=60, grid=2, frames=4, context=16)
  c.model.update(width=width, depth=2, heads=16, mlp_dim=3 * width, tied=tied)
  c.compute.dtype = "float32"
  c.mup.update(on=on, base_width=BASE, **changes)
  return c.to_dict()


def parametrisation(c) -> mup.Parametrisation | None:
  return assembly.parametrisation(roots.read(c))


def task_of(c) -> pretrain.Pretrain:
  return pretrain.Pretrain(assembly.model(roots.read(c)), parametrisation(c))


def rules_of(c) -> dict[str, mup.Rule]:
  return dict(tree.named_leaves(task_of(c).rules))


def test_the_table_by_hand():
  rules = rules_of(config(zero_query=False, zero_head=False, depth_init=False))
  assert len(rules) == 12
  for name, rule in rules.items():
    expected = mup.Rule(M**-0.5, 1 / M, M)
    if name not in MATRICES:  # embedding, head and gains
      expected = mup.Rule(1.0, 1.0, 1.0)
    assert rule == expected, name


def test_what_the_options_change():
  plain = rules_of(config(zero_query=False, zero_head=False, depth_init=False))
  chosen = rules_of(config())
  changed = {name for name in plain if plain[name] != chosen[name]}
  assert changed == {"blocks/attention/query", "head", "blocks/attention/out", "blocks/mlp/down"}
  assert chosen["head"].init == chosen["blocks/attention/query"].init == 0.0
  # Two blocks of two branches each: sqrt(4).
  assert chosen["blocks/mlp/down"].init == pytest.approx(M**-0.5 / 2)
  # A tied head is the embedding: nothing about it is zero.
  tied = rules_of(config(tied=True))
  assert "head" not in tied and tied["embedding"] == mup.Rule(1.0, 1.0, 1.0)


def started(c):
  """Fresh parameters by name."""
  return dict(tree.named_leaves(jax.jit(task_of(c).init)(jax.random.key(0)).params))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mamba"])
def test_a_tuned_base_model_starts_as_it_says_at_every_width(kind):
  """0.125 is 1 / sqrt(64); four times as wide it is half of that."""
  of = dict(matrix_std=0.125, embedding_std=1.0, zero_query=False, depth_init=False)
  for width, std in ((BASE, 0.125), (WIDE, 0.0625)):
    c = of_kind(kind, width, **of)
    began = started(c)
    assert began["embedding"].std() == pytest.approx(1.0, rel=0.05)
    name = {"llama": "mlp/up", "gpt2": "mlp/up", "mamba": "mixer/input"}[kind]
    assert began[f"blocks/{name}"].std() == pytest.approx(std, rel=0.05)
  # Without them, all start with the model's 0.02, and gains are not touched.
  plain = started(of_kind(kind))
  assert plain["embedding"].std() == pytest.approx(0.02, rel=0.05)
  for leaf in (name for name in began if "norm" in name):
    np.testing.assert_array_equal(began[leaf], plain[leaf])


def test_an_mlp_of_another_ratio_grows_by_its_own():
  c = config(base_mlp_dim=96)  # here 768: 8 times, while the width is 4 times
  rules = rules_of(c)
  assert rules["blocks/mlp/down"].lr == 1 / 8  # its inputs are the MLP's
  assert rules["blocks/mlp/gate"].lr == 1 / 4


def test_heads_that_grow_keep_their_dimension():
  fixed = parametrisation(config())
  assert fixed.attention == pytest.approx(M**-0.5)
  grown = parametrisation(config(base_heads=4))
  assert grown.attention == 1.0  # 16 dimensions at both widths
  rules = dict(tree.named_leaves(task_of(config(base_heads=4)).rules))
  assert rules["blocks/attention/out"].lr == 1 / M  # by heads, not dimension


def test_axes_of_other_blocks():
  """Convolutions, states and biases of a state-space block, by hand."""
  settings = parametrisation(config()).config
  growth = {"embed": 4.0, "inner": 4.0, "dt_rank": 4.0}
  p = mup.Parametrisation(settings, growth, depth=2, init_std=0.02)
  rules = p.rules(
    {
      "in": P("layers", "embed", "inner"),
      "dt": P("layers", "dt_rank", "inner"),
      "skip": P("layers", "inner"),
      "bias": P("layers", "bias"),
      "table": P("vocab", "embed"),
    }
  )
  assert rules["in"] == rules["dt"] == mup.Rule(0.5, 0.25, 4.0)
  for name in ("skip", "bias", "table"):
    assert rules[name] == mup.Rule(1.0, 1.0, 1.0), name
  with pytest.raises(ValueError, match="x: µP does not know .* axis 'tap'"):
    p.rules({"x": P("inner", "tap")})
  with pytest.raises(ValueError, match="more than two dimensions grow"):
    p.rules({"x": P("embed", "inner", "dt_rank")})


def of_kind(kind, width=WIDE, **changes):
  """A config of an architecture, at any width."""
  if kind == "llama":
    return config(width, **changes)
  c = config(on=True, **changes)
  c["architecture"] = kind
  section = {"gpt2": recipes.gpt2, "mamba": recipes.mamba}[kind]("tiny")
  c["model"] = section.to_dict() | {"width": width, "depth": 2}
  if kind == "gpt2":
    c["model"] |= {"heads": 16, "mlp_dim": 4 * width}
  return c


def their_mamba(torch, package, width):
  """The tensors of one Mamba block; what has few outputs is a readout."""
  inner, rank = 2 * width, width // 16

  class Model(torch.nn.Module):
    def __init__(self):
      super().__init__()
      linear = functools.partial(torch.nn.Linear, bias=False)
      self.embedding = torch.nn.Embedding(64, width)
      self.input, self.gate = linear(width, inner), linear(width, inner)
      self.rank = linear(inner, rank)
      self.state_in = package.MuReadout(inner, 16, bias=False)
      self.state_out = package.MuReadout(inner, 16, bias=False)
      self.steps, self.out = linear(rank, inner), linear(inner, width)
      self.skip = torch.nn.Parameter(torch.ones(inner))

  return Model()


def test_mamba_has_the_multipliers_of_the_mup_package():
  torch = pytest.importorskip("torch")
  package = pytest.importorskip("mup")
  models = [their_mamba(torch, package, w) for w in (WIDE, BASE, 2 * BASE)]
  package.set_base_shapes(models[0], models[1], delta=models[2], do_assert=False)
  opt = package.MuAdamW(models[0].parameters(), lr=0.1, weight_decay=0.5)
  names = {id(p): tail(name) for name, p in models[0].named_parameters()}
  wanted = {
    names[id(p)]: (group["lr"], group["lr"] * group["weight_decay"])
    for group in opt.param_groups
    for p in group["params"]
  }
  found = {tail(k): v for k, v in read_back(of_kind("mamba")).items()}
  assert wanted.keys() <= found.keys()
  for name, (rate, decay) in wanted.items():
    if name in ("state_in", "state_out"):
      # mup divides a readout's outputs by m, and we its weight and rate: Adam
      # moves the product by the same (table 3 of the paper against table 8).
      m = getattr(models[0], name).width_mult()
      assert m == M
      rate /= m
    # We decay no vector, and torch whatever it is given.
    expected = (rate, 0.0 if name == "skip" else decay)
    assert found[name] == pytest.approx(expected, rel=1e-4, abs=1e-7), name
  assert wanted["out"] == pytest.approx((0.1 / M, 0.05))


@pytest.mark.parametrize("kind", ["gpt2", "mamba"])
def test_starts_and_rates_of_other_blocks_by_hand(kind):
  rules = rules_of(of_kind(kind, zero_query=False))
  matrix = mup.Rule(M**-0.5, 1 / M, M)  # they start smaller in depth anyway
  vector = mup.Rule(1.0, 1.0, 1.0)
  matrices = {
    "gpt2": {"query", "key", "value", "out", "up", "down"},
    "mamba": {"input", "gate", "rank", "out"},
  }[kind]
  others = {
    # U(1 / sqrt(rank)) by itself, and outputs that do not grow.
    "steps": mup.Rule(1.0, 1 / M, M),
    "state_in": mup.Rule(1 / M, 1 / M, M),
    "state_out": mup.Rule(1 / M, 1 / M, M),
  }
  for name, rule in rules.items():
    last = tail(name)
    expected = matrix if last in matrices else others.get(last, vector)
    assert rule == expected, name
  # No bias, gain, decay or convolution is decayed.
  mask = adamw.decay_mask(task_of(of_kind(kind)).axes().params)
  decayed = {tail(n) for n, on in tree.named_leaves(mask) if on}
  products = {*others} if kind == "mamba" else set()
  assert decayed == matrices | products | {"embedding"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "mamba"])
def test_coordinates_of_other_blocks_keep_their_size(kind):
  def last(width, on):
    c = of_kind(kind, width=width)
    c["mup"] |= dict(on=on, base_width=32)
    c["model"] |= {"tied": False, "depth": 1}
    if kind == "gpt2":
      c["model"]["heads"] = 8
    c["compute"]["unroll"] = 1
    c["optim"] |= dict(lr=2.0**-7, warmup_steps=0, end_lr_frac=1.0)
    return coordinates.measure(roots.read(c), rows=4, updates=4)[-1]

  for on in (True, False):
    small, large = last(32, on), last(256, on)
    for quantity in ("residual", "logits"):
      ratio = large[quantity] / small[quantity]
      if on:
        assert 0.5 < ratio < 2.0, (quantity, ratio)
    if not on:
      assert large["residual"] / small["residual"] > 4
  assert ("attention" in large) == (kind == "gpt2")


def without_base():
  c = config()
  c["mup"]["base_width"] = 0
  return c


def test_bad_settings_are_refused():
  with pytest.raises(ConfigError, match="mup.base_width is 0"):
    parametrisation(without_base())
  without = config()
  del without["mup"]
  with pytest.raises(ConfigError, match="key mup is missing"):
    assembly.model(roots.read(without))


def optimiser(c, lr, weight_decay, steps=8):
  """Constant rate, no clipping: what `mup.MuAdamW` does."""
  task = task_of(c)
  settings = adamw.AdamWConfig(
    lr=lr,
    warmup_steps=0,
    end_lr_frac=1.0,
    b1=0.9,
    b2=0.95,
    eps=1e-8,
    weight_decay=weight_decay,
    clip_norm=1e9,
    mu_dtype="float32",
  )
  return adamw.make(settings, axes=task.axes().params, steps=steps, rules=task.rules)


def read_back(c) -> dict[str, tuple[float, float]]:
  """(rate, rate x decay) of each tensor, from what the optimiser does.

  Adam's first step of a constant gradient is the rate; what a parameter of 1
  loses on top of it with decay is rate x decay.
  """
  shapes = jax.eval_shape(task_of(c).init, jax.random.key(0)).params
  ones = jax.tree.map(lambda x: jnp.ones(x.shape), shapes)

  @functools.partial(jax.jit, static_argnums=0)
  def moved(weight_decay):
    tx = optimiser(c, 0.1, weight_decay)
    updates, _ = tx.update(ones, tx.init(ones), ones)
    return jax.tree.map(lambda x: -x.ravel()[0], updates)

  plain = dict(tree.named_leaves(moved(0.0)))
  decayed = dict(tree.named_leaves(moved(0.5)))
  return {name: (float(plain[name]), float(decayed[name] - plain[name])) for name in plain}


def torch_model(torch, package, width):
  """The tensors of one LLaMA block, an embedding and a readout."""
  inner = 3 * width

  class Model(torch.nn.Module):
    def __init__(self):
      super().__init__()
      linear = functools.partial(torch.nn.Linear, bias=False)
      self.embedding = torch.nn.Embedding(64, width)
      for name in ("query", "key", "value", "out"):
        setattr(self, name, linear(width, width))
      self.gate, self.up = linear(width, inner), linear(width, inner)
      self.down = linear(inner, width)
      self.scale = torch.nn.Parameter(torch.ones(width))
      self.head = package.MuReadout(width, 64, bias=False)

  return Model()


@pytest.fixture(scope="module")
def theirs():
  """`mup`'s model of the wide shapes, and the package."""
  torch = pytest.importorskip("torch")
  package = pytest.importorskip("mup")
  models = {w: torch_model(torch, package, w) for w in (BASE, 2 * BASE, WIDE)}
  package.set_base_shapes(models[WIDE], models[BASE], delta=models[2 * BASE], do_assert=False)
  return torch, package, models[WIDE]


def tail(name):
  """`query` of ours `blocks/attention/query`, and of `mup`'s `query.weight`."""
  return name.removesuffix(".weight").split("/")[-1]


def test_multipliers_are_those_of_the_mup_package(theirs):
  _, package, model = theirs
  opt = package.MuAdamW(model.parameters(), lr=0.1, weight_decay=0.5)
  wanted = {}
  names = {id(p): tail(name) for name, p in model.named_parameters()}
  for group in opt.param_groups:
    for p in group["params"]:
      rate = group["lr"]
      wanted[names[id(p)]] = (rate, rate * group["weight_decay"])
  found = {tail(k): v for k, v in read_back(config()).items()}
  for name, (rate, decay) in wanted.items():
    # We decay no gain; torch decays whatever it is given.
    expected = (rate, 0.0 if name == "scale" else decay)
    assert found[name] == pytest.approx(expected, rel=1e-4, abs=1e-7), name
  assert wanted["down"] == pytest.approx((0.1 / M, 0.05))
  # Control: the standard optimiser has other ones.
  standard = {tail(k): v for k, v in read_back(config(on=False)).items()}
  assert standard["down"] == pytest.approx((0.1, 0.05), rel=1e-4)
  # The readout's multiplier is the one of our logits.
  scale = 1 / model.head.width_mult()
  assert assembly.model(roots.read(config())).scales.logits == pytest.approx(scale)


def test_updates_are_those_of_the_mup_package(theirs):
  torch, package, model = theirs
  rng = np.random.default_rng(0)
  c = config()
  shapes = {"embedding": (64, WIDE), "down": (3 * WIDE, WIDE), "gate": (WIDE, 3 * WIDE)}
  start = {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
  grads = [{k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()} for _ in range(4)]
  weights = {
    "embedding": model.embedding.weight,
    "down": model.down.weight,
    "gate": model.gate.weight,
  }

  def turned(name, x):  # torch keeps [out, in]
    return x if name == "embedding" else x.T

  for name, weight in weights.items():
    weight.data = torch.tensor(turned(name, start[name]).copy())
  opt = package.MuAdamW(list(weights.values()), lr=0.01, weight_decay=0.5, betas=(0.9, 0.95))
  for grad in grads:
    for name, weight in weights.items():
      weight.grad = torch.tensor(turned(name, grad[name]).copy())
    opt.step()
  expected = {name: turned(name, weight.detach().numpy()) for name, weight in weights.items()}

  axes = {"embedding": P("vocab", "embed"), "down": P("mlp", "embed"), "gate": P("embed", "mlp")}
  settings = adamw.AdamWConfig(
    lr=0.01,
    warmup_steps=0,
    end_lr_frac=1.0,
    b1=0.9,
    b2=0.95,
    eps=1e-8,
    weight_decay=0.5,
    clip_norm=1e9,
    mu_dtype="float32",
  )

  def ours(rules):
    tx = adamw.make(settings, axes=axes, steps=8, rules=rules)
    params, state = start, tx.init(start)
    for grad in grads:
      updates, state = tx.update(grad, state, params)
      params = optax.apply_updates(params, updates)
    return params

  found = ours(parametrisation(c).rules(axes))
  for name in expected:
    np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
  assert not np.allclose(ours(None)["down"], expected["down"], rtol=1e-2)


def test_at_the_base_width_nothing_changes():
  """One rule set, all ones: bit-equal to the standard parametrisation."""
  neutral = dict(zero_query=False, zero_head=False, depth_init=False)
  on = task_of(config(BASE, **neutral))
  off = task_of(config(BASE, on=False))
  assert on.model == off.model and off.rules is None
  params = jax.jit(on.init)(jax.random.key(0)).params
  same = jax.jit(off.init)(jax.random.key(0)).params
  jax.tree.map(np.testing.assert_array_equal, params, same)
  wide = jax.jit(task_of(config(**neutral)).init)(jax.random.key(0)).params
  standard = jax.jit(task_of(config(on=False)).init)(jax.random.key(0)).params
  for name, leaf in tree.named_leaves(wide):
    ratio = M**-0.5 if name in MATRICES else 1.0
    expected = np.asarray(dict(tree.named_leaves(standard))[name]) * ratio
    np.testing.assert_array_equal(leaf, expected, err_msg=name)


def test_table_15_and_figure_11_are_of_one_family_of_mlps():
  for name in ("a1", "a2", "a3", "a4", "a5", "a6"):
    sizes = recipes.PRESETS[name]
    assert study_recipes.mlp_dim(sizes["width"]) == sizes["mlp_dim"], name
  for width in (32, 64, 96, 128, 256):  # and up to there all sizes grow alike
    assert study_recipes.mlp_dim(width) == 3 * width
  assert study_recipes.sizes(64, depth=1, heads=1).w64.mlp_dim == 192


def test_logits_are_divided_by_the_growth():
  c = config(zero_head=False)
  model = assembly.model(roots.read(c))
  params = jax.jit(task_of(c).init)(jax.random.key(0)).params
  plain = dataclasses.replace(model, scales=dataclasses.replace(model.scales, logits=1.0))
  inputs = jnp.arange(4, 20)[None]
  real = c["sequence"]["vocab"] + sequence.SPECIALS
  ours = jax.jit(model.apply)({"params": params}, inputs)[..., :real]
  theirs_ = jax.jit(plain.apply)({"params": params}, inputs)[..., :real]
  assert float(jnp.abs(theirs_).max()) > 0
  np.testing.assert_allclose(ours, theirs_ / M, rtol=1e-6)


@pytest.mark.parametrize(
  "implementation, where", [("blocked", platform.CPU), ("xla", platform.GPU)]
)
def test_attention_scale_is_that_of_scaled_queries(implementation, where):
  shape = llama.LlamaConfig(**config()["model"])
  x_BTD = jax.random.normal(jax.random.key(0), (2, 8, WIDE))
  rope = layers.rope_table(jnp.arange(8), shape.head_dim, 1e4)

  def attend(scale):
    return llama.Attention(
      shape, implementation, jnp.float32, where, layers.Scales(attention=scale, logits=1.0)
    )

  variables = nn.unbox(attend(1.0).init(jax.random.key(1), x_BTD, rope, None))
  sharp = jax.tree.map(lambda x: 10.0 * x, variables)  # far from uniform
  query = 0.25 * sharp["params"]["query"]
  by_hand = {"params": sharp["params"] | {"query": query}}
  expected, _ = attend(1.0).apply(by_hand, x_BTD, rope, None)
  found, _ = attend(0.25).apply(sharp, x_BTD, rope, None)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  other, _ = attend(1.0).apply(sharp, x_BTD, rope, None)
  assert float(jnp.abs(other - expected).max()) > 1e-2


def aligned_logits(width):
  """Mean |q k| where keys are queries and all tokens are one: K times O(1).

  With the scale of µP, and with 1 / sqrt(K).
  """
  c = config(width)
  c["model"]["depth"] = 1  # the only block sees the same at both scales
  task = task_of(c)
  plain = pretrain.Pretrain(dataclasses.replace(task.model, scales=layers.STANDARD))
  params = jax.jit(task.init)(jax.random.key(0)).params
  attention = params["blocks"]["attention"]
  w_LDHK = jax.random.normal(jax.random.key(1), attention["key"].shape)
  attention["query"] = attention["key"] = w_LDHK * width**-0.5
  tokens = jnp.full((1, 17), 9, jnp.int32)
  both = lambda params: [coordinates.coordinates(of, params, tokens) for of in (task, plain)]
  return np.array([float(found["attention"]) for found in jax.jit(both)(params)])


def test_attention_logits_keep_their_size_as_the_head_dimension_grows():
  """16 heads at every width: dimensions 4 and 64."""
  kept, plain = aligned_logits(1024) / aligned_logits(64)
  assert 0.5 < kept < 2.0
  # Control: 1 / sqrt(K) grows by sqrt(16).
  assert plain == pytest.approx(kept * math.sqrt(16), rel=1e-5)


def small_check():
  c = study_recipes.coord_check(study_recipes.sizes(32, 256, depth=2, heads=8, mlp_ratio=2.0))
  c.pretrain.sequence.update(vocab=60, grid=2, frames=4, context=16)
  c.pretrain.model.tied = False
  c.pretrain.mup.base_width = 32
  c.pretrain.compute.update(dtype="float32", unroll=1)
  return c.to_dict()


LOCAL = pytest.mark.exhaustive(
  "test_mup.py::test_coordinates_keep_their_size_with_mup_only"
)  # on gs


@pytest.mark.slow
@pytest.mark.parametrize("place", [pytest.param("local", marks=LOCAL), "gs"], indirect=True)
def test_coordinates_keep_their_size_with_mup_only(place, capsys):
  workdir = epath.Path(place / "run")
  assert jobs.run(small_check(), workdir, lambda step: False)
  folder = reading.RunFolder(workdir)
  rows = [
    {k: v if k == "parametrisation" else float(v) for k, v in row.items()}
    for row in folder.records("coordinates.csv")
  ]
  assert len(rows) == 2 * 2 * 5  # kinds, widths, updates 0 to 4
  found = check_sections.ratios(rows)
  for quantity in ("residual", "logits"):
    assert 0.5 < found["mup"][quantity] < 2.0, found
  assert found["standard"]["residual"] > 10, found
  assert (workdir / "coordinates_logits.png").exists()
  told = capsys.readouterr().out
  assert "mup: " in told and "do not keep their size" in told
