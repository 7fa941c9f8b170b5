"""Patches of pixels in, patches or tokens out: Table 3's continuous inputs.

The blocks, norm and token head are the trunk's; an embedding of patches stands
in place of the table of tokens, and a linear map back to pixels may stand in
place of the head.

Shapes: B batch, T tokens, D width, F values of a patch, V padded vocabulary.
"""

from typing import Any, NamedTuple

from flax import linen as nn
from flax.linen import spmd
import jax
import jax.numpy as jnp

from totojax import sequence
from totojax.models import layers, trunk

PREDICTS = ("patches", "tokens")


class Inputs(NamedTuple):
  """A row of patches."""

  patches_BTF: jax.Array  # float32, the T - 1 patches after the start token
  start_B: jax.Array  # int32, the start token of each row


def visual(spec: sequence.SequenceSpec, inputs: Any) -> jax.Array:
  """bool [B, T]: the positions that hold something to be seen, of tokens or `Inputs`.

  Rows of patches are whole clips: after the start, all of them, and padding.
  """
  if not isinstance(inputs, Inputs):
    return sequence.is_visual(inputs)
  places_T = jnp.arange(spec.context)
  whole_T = (places_T > 0) & (places_T <= spec.visual_tokens)
  return jnp.broadcast_to(whole_T, (len(inputs.start_B), spec.context))


class PatchTrunk(trunk.Trunk):
  """A causal model of patches: row t predicts what comes after its input."""

  values: int = 0  # of an input patch (F)
  predicts: str = "patches"  # one of `PREDICTS`
  decayed: bool = False  # whether the embedding and the map to pixels have weight decay

  @nn.compact
  def __call__(self, inputs: Inputs, targets: jax.Array | None = None) -> jax.Array:
    """float32 patches [B, T, F], or logits [B, T, V], of what follows.

    Args:
      inputs: of any number of tokens.
      targets: what follows: patches [B, T, F], normalised, or tokens [B, T].
        With them the result is [B, T]: the mean squared error over the values
        of a patch, or `trunk.token_nll`.
    """
    c, dtype = self.config, jnp.dtype(self.compute.dtype)
    init, zeros = nn.initializers.normal(c.init_std), nn.initializers.zeros

    def matrix(name, rows, axes):
      return layers.parameter(self, name, init, (rows, c.width), axes)

    # Neither grows with the width, like a vocabulary; "values" are decayed.
    narrow = ("values" if self.decayed else "features", "embed")
    entry = {
      "start": matrix("start", sequence.SPECIALS, narrow),
      "patches": matrix("patches", self.values, narrow),
      "patches_bias": layers.parameter(self, "patches_bias", zeros, (c.width,), ("norm",)),
    }
    x_BTD, rope, segments_BT = self.entry(entry, inputs)
    x_BTD, _ = self._blocks(dtype)(x_BTD, rope, segments_BT)
    x_BTD = c.norm(name="norm")(x_BTD).astype(dtype)
    if self.predicts == "tokens":
      shape, axes = (self.spec.padded_vocab, c.width), ("vocab", "embed")
      head_VD = layers.matrix(self, "head", init, shape, axes, dtype)
      return self._output(x_BTD, head_VD, targets)
    head_FD = layers.matrix(self, "head", init, (self.values, c.width), narrow, dtype)
    bias_F = layers.parameter(self, "head_bias", zeros, (self.values,), ("features",))
    out_BTF = jnp.einsum("BTD,FD->BTF", x_BTD, head_FD, preferred_element_type=jnp.float32)
    out_BTF = self.scales.logits * out_BTF + bias_F
    return out_BTF if targets is None else jnp.mean(jnp.square(out_BTF - targets), axis=-1)

  @nn.nowrap
  def entry(
    self, params: Any, inputs: Inputs
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None, None]:
    """See `trunk.Trunk.entry`."""
    c, dtype = self.config, jnp.dtype(self.compute.dtype)
    x_BTD = jnp.einsum(
      "BTF,FD->BTD", inputs.patches_BTF.astype(dtype), params["patches"].astype(dtype)
    ) + params["patches_bias"].astype(dtype)
    start_B1D = params["start"][inputs.start_B][:, None].astype(dtype)
    x_BTD = jnp.concatenate([start_B1D, x_BTD], axis=1)
    x_BTD = spmd.with_logical_constraint(x_BTD, ("batch", "tokens", None))
    places_T = jnp.arange(x_BTD.shape[1])
    x_BTD = c.placed_input(x_BTD, places_T)
    return x_BTD, c.angles(places_T), None
