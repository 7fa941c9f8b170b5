"""Heads against AIM's and V-JEPA's modules, and folded against plain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from totojax.models import heads

GOLDEN = runs.ROOT / "tests" / "golden"


def config(pool, **values):
  return heads.HeadConfig(
    **{
      "pool": pool,
      "heads": 4,
      "bias": True,
      "init_std": 0.2,
      "norm_eps": 1e-6,
      "norm_momentum": 0.1,
      **values,
    }
  )


def whole(x_BTD):
  return jnp.ones(x_BTD.shape[:2], bool)


def aim(golden):
  """AIM's parameters as ours: rows of its matrices are outputs."""
  n = int(golden["num_heads"])
  split = lambda w: jnp.asarray(w.T).reshape(24, n, 24 // n)
  return {
    "query": jnp.asarray(golden["w_cls_token"].reshape(-1)),
    "key": split(golden["w_k.weight"]),
    "value": split(golden["w_v.weight"]),
    "linear": jnp.asarray(golden["w_linear.weight"].T),
  }


def test_attention_pooling_is_aim_s_in_training_and_in_evaluation():
  golden = np.load(GOLDEN / "aim_attnpool.npz")
  c, x_BTD = config("attention", bias=False), jnp.asarray(golden["x"])
  params, stats = aim(golden), heads.init_stats(c, 24)
  y, stats = heads.prepare(c, x_BTD, whole(x_BTD), stats, training=True)
  y_BC = heads.logits(c, params, y, whole(x_BTD))
  np.testing.assert_allclose(y_BC, golden["y_train"], rtol=2e-4, atol=2e-5)
  np.testing.assert_allclose(stats["mean"], golden["bn_mean"], rtol=1e-4, atol=1e-6)
  # Of the unbiased variance: the biased one is off by 1 / 21 of the batch's.
  np.testing.assert_allclose(stats["var"], golden["bn_var"], rtol=1e-5)

  y, same = heads.prepare(c, x_BTD, whole(x_BTD), stats, training=False)
  y_BC = heads.logits(c, params, y, whole(x_BTD))
  expected = golden["y_eval_after_one_train_step"]
  np.testing.assert_allclose(y_BC, expected, rtol=2e-4, atol=2e-5)
  assert same is stats
  assert not np.allclose(expected, golden["y_train"], rtol=0.1)


def test_the_cross_attention_head_is_v_jepa_s():
  """Without the output projection, which V-JEPA makes but does not apply."""
  golden = np.load(GOLDEN / "vjepa_probe.npz")
  at = lambda name: jnp.asarray(golden[f"w_{name}"])
  block = "pooler.cross_attention_block."
  split = lambda w: w.T.reshape(24, 4, 6)
  key, value = jnp.split(at(block + "xattn.kv.weight"), 2)
  key_bias, value_bias = jnp.split(at(block + "xattn.kv.bias"), 2)
  assert float(abs(key_bias).max()) > 0.1  # which softmax does not see
  params = {
    "query": at("pooler.query_tokens").reshape(-1),
    "project": split(at(block + "xattn.q.weight")),
    "project_bias": at(block + "xattn.q.bias").reshape(4, 6),
    "key": split(key),
    "value": split(value),
    "value_bias": value_bias.reshape(4, 6),
    "norm_scale": at(block + "norm1.weight"),
    "norm_bias": at(block + "norm1.bias"),
    "mlp_norm_scale": at(block + "norm2.weight"),
    "mlp_norm_bias": at(block + "norm2.bias"),
    "up": at(block + "mlp.fc1.weight").T,
    "up_bias": at(block + "mlp.fc1.bias"),
    "down": at(block + "mlp.fc2.weight").T,
    "down_bias": at(block + "mlp.fc2.bias"),
    "linear": at("linear.weight").T,
    "bias": at("linear.bias"),
  }
  c, x_BTD = config("cross"), jnp.asarray(golden["x"])
  shapes = heads.shapes(c, width=24, classes=10)
  assert {k: v.shape for k, v in params.items()} == {k: shape for k, (shape, _) in shapes.items()}
  prepared, _ = heads.prepare(c, x_BTD, whole(x_BTD), {}, training=True)
  y_BC = heads.logits(c, params, prepared, whole(x_BTD))
  np.testing.assert_allclose(y_BC, golden["y"], rtol=1e-4, atol=1e-5)


def vjepa2(golden, of=lambda golden, name: golden[f"param8/{name}"] * golden[f"scale/{name}"]):
  """V-JEPA 2's parameters as ours, or what stands for each in a golden."""
  n, width = int(golden["num_heads"]), golden["input_x"].shape[-1]
  at = lambda name: jnp.asarray(np.asarray(of(golden, name)), jnp.float32)
  cross, split = "pooler.cross_attention_block.", (n, width // n)
  key, value = jnp.split(at(cross + "xattn.kv.weight"), 2)
  _, value_bias = jnp.split(at(cross + "xattn.kv.bias"), 2)
  params = {
    "query": at("pooler.query_tokens").reshape(-1),
    "project": at(cross + "xattn.q.weight").T.reshape(width, *split),
    "project_bias": at(cross + "xattn.q.bias").reshape(split),
    "key": key.T.reshape(width, *split),
    "value": value.T.reshape(width, *split),
    "value_bias": value_bias.reshape(split),
    "norm_scale": at(cross + "norm1.weight"),
    "norm_bias": at(cross + "norm1.bias"),
    "mlp_norm_scale": at(cross + "norm2.weight"),
    "mlp_norm_bias": at(cross + "norm2.bias"),
    "up": at(cross + "mlp.fc1.weight").T,
    "up_bias": at(cross + "mlp.fc1.bias"),
    "down": at(cross + "mlp.fc2.weight").T,
    "down_bias": at(cross + "mlp.fc2.bias"),
    "linear": at("linear.weight").T,
    "bias": at("linear.bias"),
  }
  names = {
    "qkv": ("attn.qkv.weight", lambda w: w.T.reshape(width, 3, *split)),
    "qkv_bias": ("attn.qkv.bias", lambda w: w.reshape(3, *split)),
    "out": ("attn.proj.weight", lambda w: w.T.reshape(*split, width)),
    "out_bias": ("attn.proj.bias", lambda w: w),
    "norm_scale": ("norm1.weight", lambda w: w),
    "norm_bias": ("norm1.bias", lambda w: w),
    "mlp_norm_scale": ("norm2.weight", lambda w: w),
    "mlp_norm_bias": ("norm2.bias", lambda w: w),
    "up": ("mlp.fc1.weight", jnp.transpose),
    "up_bias": ("mlp.fc1.bias", lambda w: w),
    "down": ("mlp.fc2.weight", jnp.transpose),
    "down_bias": ("mlp.fc2.bias", lambda w: w),
  }
  for name, (theirs, change) in names.items():
    parts = [change(at(f"pooler.blocks.{i}.{theirs}")) for i in range(3)]
    params[f"block_{name}"] = jnp.stack(parts)
  return params


def marked(golden, name):
  """Its gradient where the golden has it, NaN elsewhere."""
  if f"grad/{name}" in golden:
    return golden[f"grad/{name}"]
  out = np.full(golden[f"param8/{name}"].size, np.nan)
  out[golden[f"gradidx/{name}"]] = golden[f"gradat/{name}"]
  return out.reshape(golden[f"param8/{name}"].shape)


def test_the_head_of_blocks_is_v_jepa_2_s():
  """Its logits, loss and gradients; eps 1e-6 in place of 1e-5 would be seen."""
  golden = dict(np.load(GOLDEN / "probe4_tiny.npz"))
  params, label_B = vjepa2(golden), golden["labels"]
  c, x_BTD = config("blocks"), jnp.asarray(golden["input_x"], jnp.float32)
  shapes = heads.shapes(c, width=64, classes=10)
  assert {k: v.shape for k, v in params.items()} == {k: shape for k, (shape, _) in shapes.items()}

  @jax.jit
  def loss(params, x_BTD):
    prepared, _ = heads.prepare(c, x_BTD, whole(x_BTD), {}, training=True)
    y_BC = heads.logits(c, params, prepared, whole(x_BTD))
    logp_BC = jax.nn.log_softmax(y_BC)
    return -jnp.mean(logp_BC[jnp.arange(3), label_B]), y_BC

  with jax.default_matmul_precision("highest"):
    (value, y_BC), (grads, grad_x) = jax.jit(
      jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    )(params, x_BTD)
  np.testing.assert_allclose(y_BC, golden["logits"], rtol=5e-6, atol=5e-6)
  assert float(value) == pytest.approx(float(golden["loss"]), rel=2e-6)
  np.testing.assert_allclose(grad_x, golden["grad_x"], rtol=1e-4, atol=1e-6)
  compared = 0
  for name, expected in vjepa2(golden, marked).items():
    known = ~np.isnan(np.asarray(expected))
    scale = float(np.abs(np.asarray(expected)[known]).max())
    np.testing.assert_allclose(
      np.asarray(grads[name])[known], np.asarray(expected)[known],
      rtol=1e-4, atol=2e-5 * scale + 1e-8, err_msg=name,
    )  # fmt: skip
    compared += known.sum()
  assert compared > 4500


def test_the_head_of_blocks_starts_as_v_jepa_2_s():
  c = config("blocks", init_std=0.02, heads=16)
  shapes = heads.shapes(c, width=1024, classes=400)
  # The reference's count has 1,024 more: a bias of keys, which softmax does not see.
  count = sum(int(np.prod(shape)) for shape, _ in shapes.values())
  assert count == 49_746_320 - 1024
  params = jax.jit(
    lambda key: heads.init(config("blocks", init_std=0.02), key, width=256, classes=9)
  )(jax.random.key(0))
  for name, stds in (
    ("block_out", (0.01414, 0.01, 0.00816)),
    ("block_down", (0.01414, 0.01, 0.00816)),
    ("block_qkv", (0.02, 0.02, 0.02)),
  ):
    np.testing.assert_allclose(params[name].reshape(3, -1).std(1), stds, rtol=0.03)
  assert float(params["down"].std()) == pytest.approx(0.00816, rel=0.03)
  for name in ("linear", "bias"):
    assert 0.7 / 16 < float(abs(params[name]).max()) <= 1 / 16
  assert not params["block_qkv_bias"].any() and (params["block_norm_scale"] == 1).all()


def test_blocks_see_no_token_that_does_not_count():
  rng = np.random.default_rng(0)
  c, x_BTD = config("blocks"), rng.normal(size=(2, 9, 16)).astype(np.float32)
  params = heads.init(c, jax.random.key(0), width=16, classes=5)
  visual_BT = jnp.arange(9)[None] < jnp.array([[6], [9]])
  one = heads.logits(c, params, jnp.asarray(x_BTD), visual_BT)
  x_BTD[0, 6:] = 7.0
  two = heads.logits(c, params, jnp.asarray(x_BTD), visual_BT)
  np.testing.assert_allclose(one, two, rtol=1e-5)
  short = heads.logits(c, params, jnp.asarray(x_BTD[:1, :6]), visual_BT[:1, :6])
  np.testing.assert_allclose(one[:1], short, rtol=1e-4, atol=1e-5)


def plain(params, x_BTD, visual_BT):
  """Attention pooling as it is written: keys and values of every token."""
  _, n, dim = params["key"].shape
  k_BTHK = jnp.einsum("BTD,DHK->BTHK", x_BTD, params["key"])
  v_BTHK = jnp.einsum("BTD,DHK->BTHK", x_BTD, params["value"])
  q_HK = params["query"].reshape(n, dim)
  s_BTH = jnp.einsum("HK,BTHK->BTH", q_HK, k_BTHK) / np.sqrt(dim)
  s_BTH = jnp.where(visual_BT[..., None], s_BTH, -jnp.inf)
  w_BTH = jax.nn.softmax(s_BTH, axis=1)
  out_BHK = jnp.einsum("BTH,BTHK->BHK", w_BTH, v_BTHK)
  return out_BHK.reshape(len(x_BTD), -1) @ params["linear"] + params["bias"]


def test_folded_is_plain_in_value_and_gradient():
  c, rng = config("attention"), np.random.default_rng(0)
  x_BTD = jnp.asarray(rng.normal(size=(3, 9, 16)), jnp.float32)
  visual_BT = jnp.asarray(rng.random((3, 9)) < 0.7).at[:, 0].set(True)
  params = heads.init(c, jax.random.key(0), width=16, classes=5)
  target_BC = jnp.asarray(rng.normal(size=(3, 5)), jnp.float32)

  def loss(params, of):
    return jnp.sum((of(params) - target_BC) ** 2)

  folded = lambda p: heads.logits(c, p, x_BTD, visual_BT)
  written = lambda p: plain(p, x_BTD, visual_BT)
  np.testing.assert_allclose(jax.jit(folded)(params), jax.jit(written)(params), rtol=1e-4)
  gradient = jax.jit(jax.grad(loss), static_argnums=1)
  a, b = gradient(params, folded), gradient(params, written)
  for name in params:
    scale = float(abs(b[name]).max())
    assert scale > 1e-3, name  # or nothing is compared
    np.testing.assert_allclose(a[name], b[name], rtol=1e-3, atol=1e-5 * scale, err_msg=name)


def test_a_query_of_zero_is_the_mean_of_the_values():
  c = config("attention")
  x_BTD = jax.random.normal(jax.random.key(1), (2, 5, 16))
  params = heads.init(c, jax.random.key(0), width=16, classes=3)
  params["query"] = jnp.zeros(16)
  matrix_DD = params["value"].reshape(16, 16)
  expected = (x_BTD @ matrix_DD).mean(1) @ params["linear"]
  np.testing.assert_allclose(
    heads.logits(c, params, x_BTD, whole(x_BTD)), expected, rtol=1e-4, atol=1e-6
  )


@pytest.mark.parametrize("pool", heads.POOLS)
def test_the_order_of_tokens_and_what_is_no_token_change_nothing(pool):
  c = config(pool)
  rng = np.random.default_rng(0)
  x_BTD = jnp.asarray(rng.normal(size=(4, 7, 16)), jnp.float32)
  visual_BT = jnp.arange(7)[None] < jnp.array([5, 4, 7, 6])[:, None]
  params = heads.init(c, jax.random.key(0), width=16, classes=3)

  def run(x_BTD, visual_BT):
    stats = heads.init_stats(c, 16)
    y, stats = heads.prepare(c, x_BTD, visual_BT, stats, training=True)
    return heads.logits(c, params, y, visual_BT), stats

  expected, stats = run(x_BTD, visual_BT)
  order = rng.permutation(7)
  moved, moved_stats = run(x_BTD[:, order], visual_BT[:, order])
  np.testing.assert_allclose(moved, expected, rtol=1e-4, atol=1e-6)
  noise = jnp.where(visual_BT[..., None], x_BTD, 1e3)
  masked, masked_stats = run(noise, visual_BT)
  np.testing.assert_allclose(masked, expected, rtol=1e-4, atol=1e-6)
  for name in stats:
    np.testing.assert_allclose(masked_stats[name], stats[name], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(moved_stats[name], stats[name], rtol=1e-5, atol=1e-7)
  # Control: where they count, they do change something.
  assert not np.allclose(run(noise, whole(noise))[0], expected, rtol=1e-2)


def test_a_row_of_padding_is_finite_and_changes_no_other():
  c = config("attention")
  x_BTD = jax.random.normal(jax.random.key(1), (2, 5, 16))
  visual_BT = jnp.array([[True] * 5, [False] * 5])
  params = heads.init(c, jax.random.key(0), width=16, classes=3)
  y_BC = heads.logits(c, params, x_BTD, visual_BT)
  assert np.isfinite(y_BC).all()
  alone = heads.logits(c, params, x_BTD[:1], visual_BT[:1])
  np.testing.assert_allclose(y_BC[:1], alone, rtol=1e-5)


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match="head.pool is 'max'; use 'average'"):
    config("max")
  with pytest.raises(ValueError, match="heads 5 does not divide the width of"):
    heads.shapes(config("attention", heads=5), width=16, classes=3)
