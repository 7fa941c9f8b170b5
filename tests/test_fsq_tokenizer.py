"""Finite scalars over patches: rounding, causality, start, training, what is shipped."""

import dataclasses
import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from totojax.config import tokens
from totojax.config.pixels import CropSpec
from totojax.data.pixels import photos, synthetic
from totojax.tasks import fsq as task_lib
from totojax.tokenizers import fsq, stats, weights
from totojax.tokenizers.quantisers import Fsq

IMAGE = tokens.FsqConfig(
  levels=(5, 4, 3), side_px=4, width=12, hidden=12, encoder_blocks=1, decoder_blocks=1
)
BOOK = dataclasses.replace(IMAGE, codebook=60, embed=8)
VIDEO = dataclasses.replace(IMAGE, frame_factor=4, encoder_blocks=2)
SHIPPED = {"shipped-32": 512, "shipped-f8": 4096, "shipped-video": 4096}


ALL = pytest.mark.parametrize("config", [IMAGE, BOOK, VIDEO], ids=["image", "book", "video"])


@functools.cache
def _clips(frames, size_px=16):
  scene = synthetic.SyntheticConfig(
    seed=3,
    frames=frames,
    size_px=size_px,
    objects=1,
    occluder_frac=0.0,
    pan_frac=0.5,
    motions=(),
    backgrounds=(),
    radius=(0.22, 0.3),
    speed=(0.05, 0.085),
  )
  return np.stack([synthetic.render(scene, i).frames_NHW3 for i in range(24)])


@functools.cache
def _params(config, *, blocks=0.3):
  """With a start from patches, and blocks that do something."""
  params = nn.unbox(jax.jit(fsq.init, static_argnums=0)(config, jax.random.key(0)))
  frames = _clips(1 if config.frame_factor == 1 else 9)
  patches_NX = np.asarray(fsq.cut(config, frames)).reshape(-1, config.values)
  params = jax.device_get(fsq.begin(config, params, fsq.fit(config, patches_NX)))
  rng = np.random.default_rng(0)

  def moved(path, leaf):
    is_last = [key.key for key in path[-2:]] == ["out", "w"]
    return np.float32(leaf + blocks * is_last * rng.normal(size=leaf.shape))

  return jax.tree_util.tree_map_with_path(moved, params)


def test_rounding_gives_the_values_of_the_codes_and_the_gradient_of_none():
  quantiser = Fsq((8, 5, 2))
  z_NE = np.float32(np.random.default_rng(0).normal(size=(200, 3)) * 2)
  values = quantiser.values(quantiser.codes(z_NE))
  np.testing.assert_allclose(quantiser.rounded(z_NE), values, atol=1e-6)
  slope = jax.grad(lambda z: quantiser.rounded(z).sum())(z_NE)
  # A central difference of what is rounded, which has no steps.
  smooth = lambda z: quantiser._bounded(z) / np.array([4, 2, 1])
  np.testing.assert_allclose(slope, (smooth(z_NE + 1e-2) - smooth(z_NE - 1e-2)) / 2e-2, atol=2e-3)
  assert float(slope.min()) > 0


def test_a_clip_is_cut_into_its_first_frame_and_fours_and_joined_again():
  frames = _clips(9)
  patches = fsq.cut(VIDEO, frames)
  assert patches.shape == (24, 3, 4, 4, 4 * 48)
  back = np.rint((np.asarray(fsq.join(VIDEO, patches)) + 1) * 127.5)
  np.testing.assert_array_equal(back, frames)
  # The first latent frame is the first frame four times.
  four = patches[:, 0].reshape(24, 4, 4, 4, 48)
  np.testing.assert_array_equal(four, np.broadcast_to(four[:, :, :, :1], four.shape))


def test_later_frames_change_no_earlier_code_nor_pixel():
  tokenizer = weights.tokenizer(_params(VIDEO), VIDEO, "mark")
  frames = _clips(13)
  codes = tokenizer.encode(frames)
  assert codes.shape == (24, 4, 4, 4) and codes.dtype == np.int32
  changed = frames.copy()
  changed[:, 5:] = 255 - changed[:, 5:]  # of latent frame 2 and on
  other = tokenizer.encode(changed)
  np.testing.assert_array_equal(other[:, :2], codes[:, :2])
  assert (other[:, 2] != codes[:, 2]).mean() > 0.2
  drawn = tokenizer.decode(codes)
  assert drawn.shape == frames.shape and drawn.dtype == np.uint8
  mixed = tokenizer.decode(np.concatenate([codes[:, :2], other[:, 2:]], axis=1))
  np.testing.assert_array_equal(mixed[:, :5], drawn[:, :5])
  # A longer clip's beginning is the shorter clip.
  np.testing.assert_array_equal(tokenizer.encode(frames[:, :5]), codes[:, :2])
  # What came before is seen: the same four frames have other codes after others.
  changed = frames.copy()
  changed[:, 0] = 255 - changed[:, 0]
  assert (tokenizer.encode(changed)[:, 1] != codes[:, 1]).any()


@ALL
def test_codes_of_and_encode_agree_whatever_else_is_in_the_batch(config):
  tokenizer = weights.tokenizer(_params(config), config, "mark")
  clips = _clips(9)
  frames = clips if config is VIDEO else clips[:, 0]
  codes = tokenizer.encode(frames)
  assert len(np.unique(codes)) > 20
  inside = jax.jit(tokenizer.codes_of)(tokenizer.params, frames)
  np.testing.assert_array_equal(inside, codes)
  np.testing.assert_array_equal(tokenizer.encode(frames[5:6]), codes[5:6])
  np.testing.assert_array_equal(tokenizer.encode(frames[::-1])[::-1], codes)


def test_frames_that_do_not_fit_are_refused():
  tokenizer = weights.tokenizer(_params(VIDEO), VIDEO, "mark")
  with pytest.raises(ValueError, match="8 frames; this tokenizer reads 1 and then 4"):
    tokenizer.encode(_clips(8))
  with pytest.raises(ValueError, match=r"clips, frames, grid, grid"):
    tokenizer.decode(np.zeros((1, 4, 4), np.int32))


def test_tokens_are_the_same_wherever_they_are():
  """A picture shifted by whole tokens has shifted codes, away from the borders."""
  tokenizer = weights.tokenizer(_params(IMAGE), IMAGE, "mark")
  rng = np.random.default_rng(0)
  frame = rng.integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
  codes, shifted = tokenizer.encode(frame), tokenizer.encode(np.roll(frame, 8, axis=2))
  np.testing.assert_array_equal(shifted[:, 1:-1, 3:-1], codes[:, 1:-1, 1:-3])
  assert (shifted != codes).any()


@pytest.mark.parametrize("config", [IMAGE, VIDEO], ids=["image", "video"])
def test_the_start_is_least_squares_of_quantised_components(config):
  params = _params(config, blocks=0.0)
  frames = _clips(1 if config.frame_factor == 1 else 9)
  rows = np.asarray(fsq.cut(config, frames), np.float64).reshape(-1, config.values)
  centred = rows - rows.mean(0)
  _, _, parts = np.linalg.svd(centred, full_matrices=False)
  latents = jax.jit(fsq.encode, static_argnums=0)(config, params, fsq.cut(config, frames))
  drawn = jax.jit(fsq.decode, static_argnums=0)(
    config, params, fsq.quantiser(config).rounded(latents)
  )
  error = np.mean((np.asarray(drawn) - (frames / 127.5 - 1)) ** 2)
  least = []
  for signs in itertools.product((-1, 1), repeat=3):  # which components do not have
    scores = centred @ parts[:3].T * signs
    values = fsq.quantiser(config).rounded(np.float32(0.9 * scores / scores.std(0)))
    inputs = np.c_[np.asarray(values), np.ones(len(rows))]
    expected = inputs @ np.linalg.lstsq(inputs, rows, rcond=None)[0]
    wanted = fsq.join(config, jnp.asarray(expected.reshape(*latents.shape[:-1], -1)))
    least.append(np.mean((np.asarray(wanted) - (frames / 127.5 - 1)) ** 2))
  assert np.abs(np.array(least) / error - 1).min() < 1e-3
  assert error < 0.5 * frames.astype(float).var() / 127.5**2


def test_a_codebook_starts_as_good_as_kmeans_of_patches():
  frames = _clips(1)
  start = weights.tokenizer(_params(BOOK, blocks=0.0), BOOK, "mark")
  kmeans = stats.fit_kmeans(
    frames[:, 0], codes=60, size=4, most_patches=1000, iterations=15, seed=0
  )
  ours, theirs = (
    stats.psnr_db(frames[:, 0], one.decode(one.encode(frames[:, 0]))) for one in (start, kmeans)
  )
  assert -0.5 < theirs - ours < 1.0  # eight components of 48 numbers
  fsq_start = weights.tokenizer(_params(IMAGE, blocks=0.0), IMAGE, "mark")
  assert ours > stats.psnr_db(frames[:, 0], fsq_start.decode(fsq_start.encode(frames[:, 0]))) + 1


def test_rows_and_latents_are_drawn_to_each_other():
  """The latent a quarter as much; the reconstruction's gradient goes past the rows."""
  book_VE = jnp.asarray([[0.0, 0.0], [4.0, 0.0]])
  config = dataclasses.replace(BOOK, codebook=2, embed=2)
  z_E = jnp.asarray([3.0, 2.0])
  values, loss = fsq.quantise(config, {"codebook": book_VE}, z_E)
  np.testing.assert_allclose(values, [4.0, 0.0])
  np.testing.assert_allclose(loss, 1.25 * (1 + 4) / 2)
  drawn = lambda z_E, book_VE: fsq.quantise(config, {"codebook": book_VE}, z_E)[0].sum()
  by_z, by_book = jax.grad(drawn, argnums=(0, 1))(z_E, book_VE)
  assert by_z.tolist() == [1, 1] and not by_book.any()
  pull = lambda z_E, book_VE: fsq.quantise(config, {"codebook": book_VE}, z_E)[1]
  by_z, by_book = jax.grad(pull, argnums=(0, 1))(z_E, book_VE)
  np.testing.assert_allclose(by_book, [[0, 0], [1, -2]])
  np.testing.assert_allclose(by_z, [-0.25, 0.5])


def _task(config, **changes):
  frames = 1 if config.frame_factor == 1 else 9
  patches_NX = np.asarray(fsq.cut(config, _clips(frames))).reshape(-1, config.values)
  training, views = tokens.FsqTraining(**changes), tokens.FsqViews()
  start = fsq.fit(config, patches_NX)
  return task_lib.FsqTask(config, training, views, frames=frames, size_px=16, start=start)


@ALL
def test_training_lowers_the_error(config):
  task = _task(config, dim_frac=0.0)
  variables = jax.jit(task.init)(jax.random.key(0))
  axes = jax.tree.leaves(task.axes().params)
  assert [leaf.ndim for leaf in jax.tree.leaves(variables.params)] == [len(a) for a in axes]
  frames = _clips(9) if config is VIDEO else _clips(1)[:, 0]
  assert task.batch_spec(24)["frames"].shape == frames.shape
  batch = {"frames": jnp.asarray(frames)}
  rest = variables._replace(params=None)

  @jax.jit
  def update(params, state):
    def loss(params):
      terms, _, _ = task.loss(params, rest, batch, step=jnp.int32(0), key=jax.random.key(0))
      means = {name: term.sum / task.weights(batch)[name] for name, term in terms.items()}
      return sum(terms[name].coefficient * means[name] for name in terms), means

    (_, means), grads = jax.value_and_grad(loss, has_aux=True)(params)
    updates, state = tx.update(grads, state)
    return optax.apply_updates(params, updates), state, means["reconstruction"]

  tx = optax.adam(1e-3 if config is BOOK else 5e-3)
  params, state = variables.params, tx.init(variables.params)
  values = []
  for _ in range(50):
    params, state, value = update(params, state)
    values.append(float(value))
  assert values[-1] < (0.95 if config is BOOK else 0.9) * values[0]


def test_dark_clips_count_as_if_they_were_brighter():
  frames = _clips(1)[:, 0]
  batch = {"frames": jnp.asarray(frames)}

  def loss(**changes):
    task = _task(IMAGE, **changes)
    variables = jax.jit(task.init)(jax.random.key(0))
    terms, _, metrics = jax.jit(task.loss)(
      variables.params, variables._replace(params=None), batch, step=0, key=jax.random.key(1)
    )
    return float(terms["reconstruction"].sum), metrics["psnr_db"]

  plain, psnr = loss(dim_frac=0.0)
  assert psnr.weight == 24
  dark = dict(dim_frac=1.0, dim=(0.05, 0.0500001), grain=0.0)
  once, psnr = loss(**dark, dim_weight=0.0)
  assert psnr.sum == 0 and once != plain
  twice, _ = loss(**dark, dim_weight=1.0)
  assert twice == pytest.approx(20 * once, rel=1e-3)


def _views(clip, count=64, **changes):
  see = jax.jit(functools.partial(task_lib.view, tokens.FsqViews(**changes), clip))
  return np.stack([see(key) for key in jax.random.split(jax.random.key(0), count)])


def test_views_are_of_the_same_picture():
  clip = jnp.asarray(_clips(9)[0])
  np.testing.assert_array_equal(_views(clip, 2), [clip, clip])

  square = np.asarray(clip)
  kinds = [np.rot90(square, k, (1, 2)) for k in range(4)]
  kinds += [kind[:, ::-1] for kind in kinds]
  turned = {view.tobytes() for view in _views(clip, turn=True)}
  assert turned == {kind.tobytes() for kind in kinds} and len(turned) == 8

  wide = np.pad(square, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="symmetric")
  windows = {wide[:, y : y + 16, x : x + 16].tobytes() for y in range(5) for x in range(5)}
  assert {view.tobytes() for view in _views(clip, 256, move_px=2)} == windows

  grey = jnp.full((2, 16, 16, 3), 100, jnp.uint8)
  lit = _views(grey, gain=0.25)
  assert (lit == lit[:, :1, :1, :1]).all()
  channels = lit[:, 0, 0, 0].astype(int)
  assert 80 <= channels.min() < 85 and 120 < channels.max() <= 125
  assert (channels.max(axis=1) > channels.min(axis=1)).mean() > 0.8
  with pytest.raises(ValueError, match="views.move_px 17: frames have 16 pixels"):
    task = _task(IMAGE)
    views = tokens.FsqViews(move_px=17)
    task_lib.FsqTask(IMAGE, task.config, views, frames=1, size_px=16, start=task.start)


def test_training_clips_must_be_whole_latent_frames():
  task = _task(VIDEO)
  with pytest.raises(ValueError, match="clips have 8 frames"):
    task_lib.FsqTask(VIDEO, task.config, task.views, frames=8, size_px=16, start=task.start)
  with pytest.raises(ValueError, match="train.clip_frames is 0; a fsq whose tokens are of 4"):
    tokens.Tokenizer(family="fsq", fsq=VIDEO)


def test_a_camera_over_a_photograph():
  rng = np.random.default_rng(0)
  image = np.uint8(np.add.outer(np.arange(200), np.arange(160))[..., None] // 2 + np.arange(3))
  spec = CropSpec(size_px=16, least_px=32, most_px=64, frames=9)
  moved = still = 0
  for _ in range(40):
    clip = photos.crop(image, spec, rng=rng)
    assert clip.shape == (9, 16, 16, 3) and clip.dtype == np.uint8
    change = np.abs(np.diff(clip.mean(axis=(1, 2, 3))))
    moved += change.max() > 0.3
    still += change.max() == 0
    assert change.max() < 20  # and no jumps
  assert moved > 20 and still > 3


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_files_are_small_and_say_how_they_were_made(name):
  tokenizer, card = weights.load(name), weights.card(name)
  assert tokenizer.vocab == SHIPPED[name] and tokenizer.factor == 8
  assert "configs/tokenizer.py:" in card["command"] and "photographs" in card["data"]


def test_the_shipped_files_fit_into_six_megabytes_and_six():
  size = {name: weights.resolve(name).stat().length for name in SHIPPED}
  assert size["shipped-32"] + size["shipped-f8"] <= 6e6 and size["shipped-video"] <= 6e6
  assert weights.resolve("shipped") == weights.resolve("shipped-32")


def _squares(name, count, size_px, least_px, most_px):
  pytest.importorskip("skimage")
  rng = np.random.default_rng(0)
  spec = CropSpec(size_px=size_px, least_px=least_px, most_px=most_px)
  image = photos.load(name)
  return np.concatenate([photos.crop(image, spec, rng=rng) for _ in range(count)])


def _light(frames, name):
  """A dark picture as a camera has it: with grain."""
  rng = np.random.default_rng(0)
  shown = frames * name + rng.normal(size=frames.shape)
  return shown.clip(0, 255).round().astype(np.uint8)


@pytest.mark.parametrize(
  "name, light", [("shipped-32", 0.1), ("shipped-f8", 0.03), ("shipped-f8", 0.1)]
)
def test_no_dark_picture_is_a_single_code(name, light):
  tokenizer = weights.load(name)
  frames = _light(_squares("rocket", 8, 64, 200, 400), light)
  codes = tokenizer.encode(frames)
  drawn = tokenizer.decode(codes)
  for frame, code, shown in zip(frames, codes, drawn):
    assert len(np.unique(code)) > 1
    assert shown.std() > 0.25 * frame.std()


def _kmeans(codes, patches):
  """Fitted to the photographs that the tokenizers were trained on."""
  frames = np.concatenate([_squares(name, 100, 64, 64, 500) for name in photos.TRAIN])
  return stats.fit_kmeans(frames, codes=codes, size=8, most_patches=patches, iterations=6, seed=0)


@pytest.mark.parametrize("name, above", [("shipped-32", 0.0), ("shipped-f8", 1.5)])
def test_a_held_out_photograph_is_above_block_means(name, above):
  """Which have 24 bits for a block, and the rocket is smooth; see docs/results/tokenizers.md."""
  tokenizer = weights.load(name)
  frames = _squares("rocket", 40, 32 if name == "shipped-32" else 64, 64, 400)
  ours = stats.psnr_db(frames, tokenizer.decode(tokenizer.encode(frames)))
  assert ours > stats.psnr_db(frames, stats.block_means(frames, 8)) + above


@pytest.mark.parametrize(
  "name, codes, patches",
  [("shipped-32", 512, 5000), pytest.param("shipped-f8", 4096, 9000, marks=pytest.mark.slow)],
)
def test_a_held_out_photograph_is_above_kmeans_of_as_many_codes(name, codes, patches):
  tokenizer, kmeans = weights.load(name), _kmeans(codes, patches)
  frames = _squares("rocket", 40, 32 if name == "shipped-32" else 64, 64, 400)
  ours = stats.psnr_db(frames, tokenizer.decode(tokenizer.encode(frames)))
  assert ours > stats.psnr_db(frames, kmeans.decode(kmeans.encode(frames))) + 1


@pytest.mark.slow
@pytest.mark.parametrize("light", [0.03, 0.1])
def test_no_dark_clip_is_a_single_code(light):
  tokenizer = weights.load("shipped-video")
  rng = np.random.default_rng(0)
  pytest.importorskip("skimage")
  spec = CropSpec(size_px=64, least_px=200, most_px=400, frames=17)
  image = photos.load("rocket")
  clips = np.stack([photos.crop(image, spec, rng=rng) for _ in range(3)])
  clips = _light(clips, light)
  codes = tokenizer.encode(clips)
  assert codes.shape == (3, 5, 8, 8)
  drawn = tokenizer.decode(codes)
  for clip, code, shown in zip(clips, codes, drawn):
    assert len(np.unique(code)) > 1
    assert shown.std() > 0.25 * clip.std()
