"""Distances of features: of two images, and of two sets of them.

LPIPS' sum over the layers of a network (`lpips` has the networks), and Fréchet's
distance of two Gaussians, which is what is fitted to features of videos.

Shapes: B images, H height, W width, C channels, N samples, D width of features,
R rows of a root.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

_EPS = 1e-10  # beside a place's length, as lpips has it


def unit(x_BHWC: jax.Array) -> jax.Array:
  """Every place over its length along the channels."""
  return x_BHWC / (jnp.sqrt(jnp.square(x_BHWC).sum(-1, keepdims=True)) + _EPS)


def layer_distance(one_BHWC: jax.Array, other_BHWC: jax.Array, weight_C: jax.Array) -> jax.Array:
  """[B]: a layer's part of LPIPS (Zhang et al. 2018, Eq. 1), of what `unit` gives.

  Squared differences, weighted by their channel, are summed over channels; of
  places it is the mean.
  """
  return (jnp.square(one_BHWC - other_BHWC) * weight_C).sum(-1).mean((1, 2))


@dataclasses.dataclass(frozen=True)
class Gaussian:
  """What is fitted to features, in float64."""

  mean_D: np.ndarray
  root_RD: np.ndarray  # R^T R is the covariance; there may be fewer rows than columns
  n: int  # samples

  @classmethod
  def of(cls, x_ND: np.ndarray, *, ddof: int = 1) -> "Gaussian":
    """Of samples; sums of squares are over N - `ddof`.

    Raises:
      ValueError: there are too few, or values that are not finite.
    """
    x_ND = np.asarray(x_ND, np.float64)
    if len(x_ND) < 2:
      raise ValueError(f"a Gaussian of {len(x_ND)} samples has no covariance; give 2 and more")
    if not np.isfinite(x_ND).all():
      raise ValueError(f"{np.sum(~np.isfinite(x_ND)):,} of {x_ND.size:,} features are not finite")
    mean_D = x_ND.mean(0)
    root_RD = np.linalg.qr(x_ND - mean_D, mode="r") / np.sqrt(len(x_ND) - ddof)
    return cls(mean_D, root_RD, len(x_ND))

  @property
  def is_full(self) -> bool:
    """Whether there were enough samples for a covariance of full rank."""
    return self.n > len(self.mean_D)


def frechet(one: Gaussian, other: Gaussian) -> float:
  """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2) (Dowson and Landau 1982).

  The last trace is the sum of the singular values of R2 R1^T for any roots of
  the covariances, so that no root of a matrix is taken: covariances without full
  rank are as good as others.
  """
  together = np.linalg.svd(other.root_RD @ one.root_RD.T, compute_uv=False).sum()
  squares = [np.square(root).sum() for root in (one.root_RD, other.root_RD)]
  distance = np.square(one.mean_D - other.mean_D).sum() + sum(squares) - 2 * together
  return max(float(distance), 0.0)  # below it by rounding alone
