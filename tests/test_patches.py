"""Patches of pixels: their order, their inverse, MAE's normalisation."""

import jax
import numpy as np
import pytest

from totojax.tokenizers import patches

CONFIG = patches.PatchesConfig(side_px=4, eps=1e-6)


def _frames(count, height, width):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_a_patch_is_a_square_of_the_frame_row_by_row():
  frames = _frames(2, 8, 12)
  cut = np.asarray(patches.cut(frames, 4))
  assert cut.shape == (2, 2, 3, 48) and cut.dtype == np.uint8
  for row in range(2):
    for column in range(3):
      square = frames[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
      np.testing.assert_array_equal(cut[:, row, column], square.reshape(2, 48))
  np.testing.assert_array_equal(patches.join(cut, 4), frames)
  # Control: a frame's sides are told apart.
  turned = patches.join(cut.swapaxes(1, 2), 4)
  assert turned.shape == (2, 12, 8, 3)


def test_every_pixel_comes_back_exactly():
  tokenizer = patches.tokenizer(CONFIG)
  frames = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, 3)
  inputs = tokenizer.encode(frames)
  assert inputs.shape == (1, 4, 4, 48) and inputs.dtype == np.float32
  np.testing.assert_allclose([inputs.min(), inputs.max()], [-1, 1], rtol=1e-6)
  np.testing.assert_array_equal(tokenizer.decode(inputs), frames)
  # Values beyond the colours are clipped, not wrapped.
  far = tokenizer.decode(np.full((1, 1, 1, 48), 1.2, np.float32))
  assert far.min() == 255


def test_targets_have_mean_0_and_variance_1_and_come_back():
  inputs = patches.inputs(CONFIG, _frames(3, 16, 8))
  found = jax.jit(patches.targets, static_argnums=0)(CONFIG, inputs)
  values = np.asarray(found.values_BGGF, np.float64)
  np.testing.assert_allclose(values.mean(-1), 0, atol=1e-5)
  np.testing.assert_allclose(values.var(-1, ddof=1), 1, rtol=1e-4)
  np.testing.assert_allclose(patches.restore(found), inputs, atol=1e-5)
  # Control: the inputs are not of that kind.
  assert np.abs(np.asarray(inputs).var(-1, ddof=1) - 1).min() > 0.1


def test_targets_are_those_of_mae():
  torch = pytest.importorskip("torch")
  inputs = np.asarray(patches.inputs(CONFIG, _frames(2, 8, 8)))
  target = torch.from_numpy(inputs)
  mean, var = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
  expected = (target - mean) / (var + 1e-6) ** 0.5
  found = patches.targets(CONFIG, inputs).values_BGGF
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_patch_of_one_colour_has_no_nan():
  frames = np.full((1, 8, 8, 3), 77, np.uint8)
  inputs = patches.inputs(CONFIG, frames)
  found = patches.targets(CONFIG, inputs)
  np.testing.assert_allclose(found.values_BGGF, 0, atol=1e-3)
  np.testing.assert_allclose(patches.restore(found), inputs, atol=1e-6)
  gradient = jax.grad(lambda x: patches.targets(CONFIG, x).values_BGGF.sum())
  assert np.isfinite(gradient(inputs)).all()


def test_the_interface_of_a_tokenizer():
  tokenizer = patches.tokenizer(CONFIG)
  assert (tokenizer.kind, tokenizer.vocab) == ("patches", 0)
  assert tokenizer.factor == 4
  assert len(tokenizer.fingerprint) == 16 and tokenizer.macs(64) == 0
  other = patches.tokenizer(patches.PatchesConfig(side_px=8, eps=1e-6))
  assert other.fingerprint != tokenizer.fingerprint
  frames = _frames(70, 8, 12)  # more than one call
  inside = jax.jit(tokenizer.codes_of)(tokenizer.params, frames)
  np.testing.assert_array_equal(inside, tokenizer.encode(frames))
  with pytest.raises(ValueError, match="10 x 8.*multiple of 4"):
    tokenizer.encode(_frames(1, 10, 8))
  with pytest.raises(ValueError, match=r"\(1, 2, 2, 47\).*48"):
    tokenizer.decode(np.zeros((1, 2, 2, 47), np.float32))
  with pytest.raises(ValueError, match="side_px is 0"):
    patches.PatchesConfig(side_px=0, eps=1e-6)
  with pytest.raises(ValueError, match="eps is 0.0"):
    patches.PatchesConfig(side_px=4, eps=0.0)
