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
