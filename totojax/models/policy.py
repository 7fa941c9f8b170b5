"""A policy on frozen features: MVP's head (Xiao et al., 2022, arXiv 2203.06173).

  features of a frame -> LayerNorm -> linear -.
                                               concatenated -> perceptron, SELU -> action
  what the robot feels -------------> linear -'

Matrices start orthogonal. Without features (a width of 0) there is that half alone.

Shapes: B rows, D width of features, P numbers felt, A of an action.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from totojax.config.policies import PolicyHead
from totojax.models import layers

_EPS = 1e-6  # of the norm, as MVP's vision transformer


class Policy(nn.Module):
  """Actions of features and of what the robot feels."""

  config: PolicyHead
  actions: int  # numbers of an action
  norm: bool = True  # whether features are normalised; of a state they are not

  @nn.compact
  def __call__(self, features_BD: jax.Array, felt_BP: jax.Array) -> jax.Array:
    """float32 [B, A]."""
    config, parts = self.config, []
    if features_BD.shape[-1]:
      x_BD = self._normed(features_BD) if self.norm and config.norm else features_BD
      parts.append(self._linear("embed_features", x_BD, config.embed, config.gain))
    if felt_BP.shape[-1]:
      parts.append(self._linear("embed_felt", felt_BP, config.embed, config.gain))
    x_BF = jnp.concatenate(parts, axis=-1)
    for number, units in enumerate(config.hidden):
      x_BF = nn.selu(self._linear(f"hidden_{number}", x_BF, units, config.gain))
    return self._linear("action", x_BF, self.actions, config.last_gain)

  def _normed(self, x_BD: jax.Array) -> jax.Array:
    width = x_BD.shape[-1]
    scale_D = layers.parameter(self, "norm_scale", nn.initializers.ones, (width,), ("norm",))
    bias_D = layers.parameter(self, "norm_bias", nn.initializers.zeros, (width,), ("norm",))
    centred_BD = x_BD - x_BD.mean(-1, keepdims=True)
    variance_B1 = jnp.mean(centred_BD**2, axis=-1, keepdims=True)
    return centred_BD * jax.lax.rsqrt(variance_B1 + _EPS) * scale_D + bias_D

  def _linear(self, name: str, x_BF: jax.Array, units: int, gain: float) -> jax.Array:
    if not units:
      return x_BF
    init = nn.initializers.orthogonal(gain)
    shape = (x_BF.shape[-1], units)
    kernel = layers.parameter(self, f"{name}_kernel", init, shape, ("embed", "mlp"))
    bias = layers.parameter(self, f"{name}_bias", nn.initializers.zeros, (units,), ("mlp",))
    return x_BF @ kernel + bias
