"""The convolution of the tokenizers against scipy, on CPUs and for TPUs."""

import jax
import numpy as np
import pytest
from scipy import signal

from totojax.tokenizers import convolution


def _draw(channels, side, *, size=6):
  rng = np.random.default_rng(channels + side)
  x = rng.standard_normal((2, size, size, channels)).astype(np.float32)
  kernel = rng.standard_normal((side, side, channels, 3)).astype(np.float32)
  return x, kernel


def _scipy(x_BHWC, kernel, stride, padding):
  """Correlation in float64, channel by channel."""
  padded = np.pad(x_BHWC.astype(np.float64), ((0, 0), padding, padding, (0, 0)))
  whole = np.stack(
    [
      np.stack(
        [
          sum(
            signal.correlate(image[..., c], kernel[..., c, o].astype(np.float64), "valid")
            for c in range(image.shape[-1])
          )
          for o in range(kernel.shape[-1])
        ],
        axis=-1,
      )
      for image in padded
    ]
  )
  return whole[:, ::stride, ::stride]


@pytest.mark.parametrize("channels", [1, 3, 128, 300])
@pytest.mark.parametrize(
  "side,stride,padding",
  [(1, 1, (0, 0)), (1, 2, (0, 0)), (3, 1, (1, 1)), (3, 2, (0, 1)), (7, 1, (3, 3))],
)
def test_it_is_the_correlation(channels, side, stride, padding):
  x, kernel = _draw(channels, side)
  run = jax.jit(lambda x, kernel: convolution.convolve(x, kernel, stride=stride, padding=padding))
  expected = _scipy(x, kernel, stride, padding)
  np.testing.assert_allclose(run(x, kernel), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
  # Every channel counts: the parts leave none out.
  x[..., -1] += 1
  assert np.abs(run(x, kernel) - expected).max() > 1e-3


@pytest.mark.parametrize("batch, height, width", [(1, 24, 20), (3, 16, 12), (6, 12, 24), (2, 7, 8)])
def test_wide_ones_of_three_by_three(monkeypatch, batch, height, width):
  """Sides are even but for one, and parts of the images are taken at a time."""
  rng = np.random.default_rng(height)
  channels, features = 64, 70
  x = rng.standard_normal((batch, height, width, channels)).astype(np.float32)
  kernel = rng.standard_normal((3, 3, channels, features)).astype(np.float32)
  weight = rng.standard_normal((batch, height, width, features)).astype(np.float32)
  monkeypatch.setattr(convolution, "_WINOGRAD_TILES", 60)

  def both(x, kernel):
    def dot(x, kernel):
      y = convolution.convolve(x, kernel, stride=1, padding=(1, 1))
      return (weight * y).sum(), y

    return jax.jit(jax.value_and_grad(dot, (0, 1), has_aux=True))(x, kernel)

  (_, found), gradients = both(x, kernel)
  used = []
  monkeypatch.setattr(convolution, "_winograd", lambda *xs, images: used.append(xs))
  monkeypatch.setattr(convolution, "_WINOGRAD_CHANNELS", features)
  (_, plain), expected = both(x, kernel)
  assert not used
  if height % 2 == 0:  # control: it is another sum
    assert (np.asarray(found) != np.asarray(plain)).any()
  exact = _scipy(x, kernel[..., :2], 1, (1, 1))
  np.testing.assert_allclose(found[..., :2], exact, rtol=0, atol=2e-6 * np.abs(exact).max())
  for ours, theirs in zip((found, *gradients), (plain, *expected)):
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 * scale)


def test_it_is_the_correlation_of_doubled_images():
  x, kernel = _draw(130, 3, size=5)
  run = jax.jit(convolution.convolve_doubled)
  expected = _scipy(x.repeat(2, axis=1).repeat(2, axis=2), kernel, 1, (1, 1))
  scale = np.abs(expected).max()
  np.testing.assert_allclose(run(x, kernel), expected, rtol=0, atol=1e-5 * scale)
  # Control: each place of the kernel has one of its own.
  assert np.abs(run(x, kernel.transpose(1, 0, 2, 3)) - expected).max() > 0.1 * scale


def test_swish_by_the_tangent():
  x = np.linspace(-30, 30, 1001, dtype=np.float32)
  expected = x.astype(np.float64) / (1 + np.exp(-x.astype(np.float64)))
  np.testing.assert_allclose(jax.jit(convolution.swish)(x), expected, rtol=1e-6, atol=3e-6)


def test_only_cpus_sum_in_parts():
  x, kernel = _draw(300, 3)

  def products(platform):
    traced = jax.jit(
      lambda x, kernel: convolution.convolve(x, kernel, stride=1, padding=(1, 1))
    ).trace(x, kernel)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    return text.count("stablehlo.convolution")

  assert products("cpu") == 3  # of 128, 128 and 44 channels
  assert products("tpu") == 1
