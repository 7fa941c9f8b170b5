"""Training of the dVAE: densities, schedules, starts, and what collapses."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from totojax import tasks
from totojax.data.pixels import synthetic
from totojax.tasks import tokenizer
from totojax.tokenizers import dvae, stats as stats_lib

MODEL = dvae.DvaeConfig(vocab=32, hidden=8, groups=3, blocks=1, decoder_init=16, post_gain=0.25)
PUBLISHED = tokenizer.TokenizerConfig(
  loss="logit_laplace",
  kl=6.6,
  kl_steps=5000,
  tau_start=1.0,
  tau_end=1 / 16,
  tau_steps=150_000,
  usage=0.0,
  start="random",
  start_logit_std=10.0,
  teacher=0.0,
  teacher_steps=1,
)
SHORT = dataclasses.replace(
  PUBLISHED,
  loss="l2",
  kl=0.0,
  tau_steps=60,
  usage=0.001,
  start="patches",
  teacher=0.1,
  teacher_steps=160,
)
SURE = dataclasses.replace(SHORT, start_logit_std=1e4)


@functools.cache
def _frames():
  """256 frames of 8 x 8 pixels: 4 tokens each."""
  config = synthetic.SyntheticConfig(
    seed=0,
    frames=4,
    size_px=8,
    objects=1,
    occluder_frac=0.0,
    pan_frac=0.0,
    motions=(),
    backgrounds=(),
    radius=(0.22, 0.3),
    speed=(0.05, 0.085),
  )
  clips = [synthetic.render(config, i) for i in range(64)]
  return np.concatenate([clip.frames_NHW3 for clip in clips])


@functools.cache
def _kmeans():
  codebook = stats_lib.fit_kmeans(
    _frames(), codes=32, size=4, most_patches=1000, iterations=10, seed=0
  ).codebook_CF
  return tokenizer.KMeansStart(frames=_frames(), centres_VX=codebook / 255.0)


@functools.cache
def _task(config):
  return tokenizer.TokenizerTask(
    model=MODEL, config=config, size_px=8, kmeans=_kmeans() if config.needs_kmeans else None
  )


@functools.cache
def _init(config):
  return jax.jit(_task(config).init)(jax.random.key(0))


@functools.cache
def _compiled_loss(config):
  return jax.jit(_task(config).loss)


def _loss(config, variables, frames, *, step=0, seed=0):
  return _compiled_loss(config)(
    variables.params,
    variables._replace(params=None),
    {"frames": frames},
    step=jnp.int32(step),
    key=jax.random.key(seed),
  )


def _mean(metric):
  return float(metric.sum / metric.weight)


def _codes(variables, frames):
  encode = jax.jit(dvae.logits, static_argnums=0)
  logits = np.asarray(encode(MODEL, variables.params, frames))
  return logits.argmax(-1), logits


@pytest.mark.parametrize("config", [PUBLISHED, SHORT])
def test_variables_axes_and_weights_have_one_structure(config):
  task, variables = _task(config), _init(config)
  axes = task.axes()
  assert jax.tree.structure(variables) == jax.tree.structure(axes)
  for leaf, spec in zip(jax.tree.leaves(variables), jax.tree.leaves(axes)):
    assert leaf.ndim == len(spec)
  terms, stats, _ = _loss(config, variables, _frames()[:8])
  assert set(terms) <= set(task.weights({"frames": _frames()[:8]}))
  assert jax.tree.structure(stats) == jax.tree.structure(variables.stats)
  spec = task.batch_spec(8)["frames"]
  assert (spec.shape, spec.dtype) == ((8, 8, 8, 3), np.uint8)


def test_schedules_are_the_published_ones():
  task = tokenizer.TokenizerTask(
    model=dataclasses.replace(MODEL, groups=4),  # factor 8, as in DALL-E
    config=PUBLISHED,
    size_px=8,
    kmeans=None,
  )
  tau = lambda step: float(task.temperature(jnp.int32(step)))
  beta = lambda step: float(task.kl_coefficient(jnp.int32(step)))
  np.testing.assert_allclose(tau(0), 1.0, rtol=1e-6)
  np.testing.assert_allclose(tau(75_000), (1 + 1 / 16) / 2, rtol=1e-6)
  np.testing.assert_allclose(tau(150_000), 1 / 16, rtol=1e-6)
  np.testing.assert_allclose(tau(3_000_000), 1 / 16, rtol=1e-6)
  assert beta(0) == 0
  np.testing.assert_allclose(beta(2500), 3.3 / 192, rtol=1e-6)
  np.testing.assert_allclose(beta(9000), 6.6 / 192, rtol=1e-6)


@pytest.mark.parametrize("mu,log_b", [(0.0, -1.0), (1.2, 0.3), (-0.8, -2.0)])
def test_logit_laplace_is_a_density(mu, log_b):
  # Over mapped pixels x in (0, 1); frames are continuous here.
  x = (np.arange(400_000) + 0.5) / 400_000
  frames = jnp.asarray(dvae.unmap_pixels(x) * 255)[:, None]
  stats = jnp.stack([mu + 0 * frames, log_b + 0 * frames], -1)
  surprise = jax.vmap(lambda s, f: tokenizer.reconstruction_loss("logit_laplace", s, f))(
    stats.reshape(-1, 1, 2), frames
  )
  density = np.exp(-np.asarray(surprise, np.float64))
  np.testing.assert_allclose(density.mean(), 1.0, rtol=1e-3)
  # Its median is sigmoid(mu), which is what the decoder draws.
  below = density[x < 1 / (1 + np.exp(-mu))].sum() / density.sum()
  np.testing.assert_allclose(below, 0.5, atol=2e-3)


def test_l2_counts_pixels_in_units_of_the_full_range():
  frames = np.array([[[0, 255, 51]]], np.uint8)
  # Location whose sigmoid is the mapped value of 0.5, 0.5 and 0.2.
  logit = lambda p: np.log(p / (1 - p))
  location = [logit(0.5), logit(0.5), logit(0.1 + 0.8 * 0.2)]
  stats = jnp.asarray([[location + [0.0, 0.0, 0.0]]], jnp.float32)
  total = tokenizer.reconstruction_loss("l2", stats, frames)
  np.testing.assert_allclose(total, 0.25 + 0.25 + 0.0, rtol=1e-5)


@pytest.mark.parametrize("sure,nats", [([], 0.0), ([0, 1, 2, 3], np.log(8)), ([3], np.log(32))])
def test_kl_and_usage_of_known_distributions(sure, nats):
  variables = _init(PUBLISHED)
  params = jax.tree.map(lambda x: x, variables.params)
  last = params["encoder"]["output"]
  bias = np.zeros(32, np.float32)
  bias[sure] = 50.0
  params["encoder"]["output"] = {"w": 0 * last["w"], "b": bias}
  terms, _, metrics = _loss(PUBLISHED, variables._replace(params=params), _frames()[:8])
  tokens = 8 * 4
  for name in ("kl", "usage"):
    np.testing.assert_allclose(terms[name].sum, tokens * nats, rtol=1e-4, atol=1e-3)
  np.testing.assert_allclose(_mean(metrics["kl"]), nats, rtol=1e-4, atol=1e-4)


def test_sure_codes_are_drawn_as_they_are_scored():
  """With logits far apart, the relaxed pass is the hard one; else not."""
  _, _, metrics = _loss(SURE, _init(SURE), _frames()[:1], step=1000)
  mse = 10 ** (-_mean(metrics["psnr_db"]) / 10)
  np.testing.assert_allclose(_mean(metrics["reconstruction"]), mse, rtol=1e-3)
  _, _, metrics = _loss(SHORT, _init(SHORT), _frames()[:1], step=0)
  mse = 10 ** (-_mean(metrics["psnr_db"]) / 10)
  assert abs(_mean(metrics["reconstruction"]) / mse - 1) > 1e-2


def test_noise_depends_on_the_key():
  first, second, again = (
    _loss(SHORT, _init(SHORT), _frames()[:1], seed=seed)[0] for seed in (0, 1, 0)
  )
  name = "reconstruction"
  assert first[name].sum != second[name].sum
  assert first[name].sum == again[name].sum


def test_microbatches_add_up():
  variables = _init(SURE)
  whole = _loss(SURE, variables, _frames()[:8], step=100)[0]
  halves = [
    _loss(SURE, variables, _frames()[part], step=100)[0] for part in (slice(0, 4), slice(4, 8))
  ]
  for name in ("reconstruction", "kl", "teacher"):
    total = sum(terms[name].sum for terms in halves)
    np.testing.assert_allclose(total, whole[name].sum, rtol=1e-3)
    coefficients = {float(t[name].coefficient) for t in (whole, *halves)}
    assert len(coefficients) == 1


def test_unused_codes_have_a_finite_gradient():
  config, variables = SURE, _init(SURE)

  @jax.jit
  @jax.grad
  def gradient(params):
    terms, _, _ = _loss(config, variables._replace(params=params), _frames()[:8])
    return sum(term.coefficient * term.sum for term in terms.values())

  _, _, metrics = _loss(config, variables, _frames()[:8])
  assert _mean(metrics["codes_used"]) < 32
  chex.assert_tree_all_finite(gradient(variables.params))


def test_the_teacher_fades_and_asks_for_the_nearest_centre():
  variables, centres = _init(SHORT), _kmeans().centres_VX
  frames = _frames()[:8]
  cut = (frames / 255.0).reshape(8, 2, 4, 2, 4, 3).transpose(0, 1, 3, 2, 4, 5)
  distance = ((cut.reshape(-1, 1, 48) - centres[None]) ** 2).sum(-1)
  _, logits = _codes(variables, frames)
  log_q = np.asarray(jax.nn.log_softmax(logits)).reshape(-1, 32)
  expected = -np.take_along_axis(log_q, distance.argmin(1)[:, None], 1).sum()
  for step, coefficient in ((0, 0.1), (40, 0.075), (160, 0.0), (900, 0.0)):
    teacher = _loss(SHORT, variables, frames, step=step)[0]["teacher"]
    np.testing.assert_allclose(teacher.sum, expected, rtol=1e-4)
    np.testing.assert_allclose(teacher.coefficient, coefficient, rtol=1e-5)
  assert "teacher" not in _loss(PUBLISHED, _init(PUBLISHED), frames)[0]


def test_the_start_is_the_nearest_centre_if_features_are_pixels():
  rng = np.random.default_rng(0)
  patches = rng.normal(size=(500, 12)).astype(np.float32)
  centres = rng.normal(size=(9, 12)).astype(np.float32)
  features = patches @ rng.normal(size=(12, 12)).astype(np.float32) + 3.0
  w, b = tokenizer.distance_layer(features, patches, centres, std=7.0)
  logits = features @ np.asarray(w) + np.asarray(b)
  distance = ((patches[:, None] - centres[None]) ** 2).sum(-1)
  assert (logits.argmax(1) == distance.argmin(1)).mean() > 0.97
  np.testing.assert_allclose(logits.std(axis=1).mean(), 7.0, rtol=1e-3)


def test_the_start_uses_the_codes_where_the_published_one_does_not():
  used = {}
  for config in (SHORT, PUBLISHED):
    codes, _ = _codes(_init(config), _frames())
    used[config] = len(np.unique(codes))
  assert used[SHORT] >= 24
  assert used[PUBLISHED] <= 16


def test_patches_are_in_the_order_of_the_tokens():
  frames = np.zeros((2, 16, 24, 3), np.uint8)
  frames[1, 8:, 16:] = 255
  rows = np.asarray(tokenizer.patches(frames, 8))
  assert rows.shape == (2 * 2 * 3, 8 * 8 * 3)
  np.testing.assert_array_equal(rows.mean(1), [0] * 11 + [1])
  centres = np.stack([np.zeros(192), np.ones(192)])
  codes = np.asarray(tokenizer.nearest_patch(frames, centres, 8))
  assert codes.shape == (2, 2, 3)
  assert codes.sum() == 1 and codes[1, 1, 2] == 1


def test_the_histogram_of_use_follows_the_batch():
  variables = _init(SHORT)
  _, stats, metrics = _loss(SHORT, variables, _frames()[:8])
  codes, _ = _codes(variables, _frames()[:8])
  share = np.bincount(codes.reshape(-1), minlength=32) / codes.size
  expected = 0.99 / 32 + 0.01 * share
  np.testing.assert_allclose(stats["use_V"], expected, rtol=1e-5)
  assert _mean(metrics["codes_used"]) == (share > 0).sum()
  spread = np.exp(-np.sum(expected * np.log(expected)))
  np.testing.assert_allclose(_mean(metrics["perplexity"]), spread, rtol=1e-5)


def _train(config, steps):
  """Squared error and codes used after a short training, on all frames."""
  task, variables = _task(config), _init(config)
  tx = optax.adam(3e-3)

  @jax.jit
  def update(params, stats, opt, batch, step):
    def total(params):
      rest = tasks.Variables(None, variables.frozen, stats)
      key = jax.random.fold_in(jax.random.key(1), step)
      terms, new, _ = task.loss(params, rest, batch, step=step, key=key)
      weights = task.weights(batch)
      parts = [t.coefficient * t.sum / weights[k] for k, t in terms.items()]
      return sum(parts), new

    gradient, stats = jax.grad(total, has_aux=True)(params)
    updates, opt = tx.update(gradient, opt)
    return optax.apply_updates(params, updates), stats, opt

  params, stats = variables.params, variables.stats
  opt = tx.init(params)
  rng = np.random.default_rng(0)
  for step in range(steps):
    batch = {"frames": _frames()[rng.integers(0, 256, 32)]}
    params, stats, opt = update(params, stats, opt, batch, jnp.int32(step))
  codes, _ = _codes(variables._replace(params=params), _frames())
  decode = jax.jit(dvae.statistics, static_argnums=0)
  drawn = dvae.pixels(decode(MODEL, params, jax.nn.one_hot(codes, 32)))
  error = np.mean((np.asarray(drawn) - _frames() / 255.0) ** 2)
  return float(error), len(np.unique(codes))


@pytest.mark.slow
def test_a_short_schedule_learns_with_a_teacher_and_collapses_without():
  error, used = _train(SHORT, 400)
  # With the published weight of 6.6 it keeps 8 to 10 codes here, as the
  # compiler rounds; ten times as much leaves no doubt.
  plain = dataclasses.replace(PUBLISHED, kl=66.0, kl_steps=60, tau_steps=60)
  plain_error, plain_used = _train(plain, 400)
  # 16 of 32 codes is what `train.least_used_frac=0.5` asks of a run.
  assert plain_used < 4
  assert used >= 16
  assert error < 0.6 * plain_error


def test_settings_that_do_not_go_together_are_refused():
  make = lambda config, **kw: tokenizer.TokenizerTask(
    **({"model": MODEL, "config": config, "size_px": 8, "kmeans": None} | kw)
  )
  with pytest.raises(ValueError, match="'patches'.*needs k-means"):
    make(SHORT)
  with pytest.raises(ValueError, match="'random'.*takes no k-means"):
    make(PUBLISHED, kmeans=_kmeans())
  with pytest.raises(ValueError, match="loss is 'l1'"):
    dataclasses.replace(PUBLISHED, loss="l1")
  with pytest.raises(ValueError, match="tau_end is 0.0"):
    dataclasses.replace(PUBLISHED, tau_end=0.0)
  with pytest.raises(ValueError, match="10 x 10.*4 pixels"):
    make(PUBLISHED, size_px=10)
