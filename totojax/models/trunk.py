"""Tokens in, logits out: embed -> scan(remat(block)) -> norm -> head.

Shapes: B batch, T tokens, D width, V padded vocabulary, K head dim.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from totojax import sequence
from totojax.models import layers
from totojax.models import llama

REMAT = ("none", "full", "projections")


@dataclasses.dataclass(frozen=True)
class Compute:
  """How the model is computed; changes no parameter and no checkpoint.

  Attributes:
    dtype: of activations and matrix products ("bfloat16" or "float32");
      parameters, norms, softmax and loss are float32.
    attention: one of `attention.IMPLEMENTATIONS`.
    remat: "none", "full" (keep only block inputs) or "projections" (keep
      q, k, v, the attention output and the residual; recompute the rest).
    unroll: layers compiled in line: 1 is a scan, `depth` no loop at all.
  """

  dtype: str
  attention: str
  remat: str
  unroll: int

  def __post_init__(self):
    if self.remat not in REMAT:
      raise ValueError(
          f"compute.remat is {self.remat!r}; use one of {', '.join(REMAT)}"
      )
    if self.dtype not in ("bfloat16", "float32"):
      raise ValueError(
          f"compute.dtype is {self.dtype!r}; use 'bfloat16' or 'float32'"
      )


class Trunk(nn.Module):
  """A causal transformer over the tokens of `sequence.py`."""

  config: llama.LlamaConfig
  spec: sequence.SequenceSpec
  compute: Compute

  @nn.compact
  def __call__(self, inputs_BT: jax.Array) -> jax.Array:
    """float32 logits [B, T, V] of the next token; padding rows are -inf.

    Args:
      inputs_BT: int32 tokens, any T.
    """
    c, dtype = self.config, jnp.dtype(self.compute.dtype)
    init = nn.initializers.normal(c.init_std)
    table = (self.spec.padded_vocab, c.width), ("vocab", "embed")
    embedding_VD = layers.parameter(self, "embedding", init, *table)
    x_BTD = embedding_VD[inputs_BT].astype(dtype)
    x_BTD = nn.with_logical_constraint(x_BTD, ("batch", "tokens", None))

    rope = layers.rope_table(
        jnp.arange(inputs_BT.shape[1]), c.head_dim, c.rope_base
    )
    segments_BT = None
    if self.spec.segments:
      segments_BT = sequence.segment_ids(inputs_BT, self.spec)
    x_BTD, _ = self._blocks(dtype)(x_BTD, rope, segments_BT)
    x_BTD = layers.RMSNorm(c.norm_eps, name="norm")(x_BTD)

    head_VD = embedding_VD
    if not c.tied:
      head_VD = layers.parameter(self, "head", init, *table)
    logits_BTV = jnp.einsum(
        "BTD,VD->BTV",
        x_BTD,
        head_VD.astype(dtype),
        preferred_element_type=jnp.float32,
    )
    real_V = jnp.arange(self.spec.padded_vocab) < (
        self.spec.vocab + sequence.SPECIALS
    )
    return jnp.where(real_V, logits_BTV, -jnp.inf)

  def _blocks(self, dtype: Any) -> nn.Module:
    """The stack of blocks; parameters have a leading axis `layers`."""
    block = llama.Block
    if self.compute.remat != "none":
      policy = jax.checkpoint_policies.nothing_saveable
      if self.compute.remat == "projections":
        policy = jax.checkpoint_policies.save_only_these_names(
            "projection", "attention", "residual"
        )
      # Inside a scan, XLA cannot merge the recomputation with the forward pass;
      # unrolled it can, so there the barrier against it is needed.
      block = nn.remat(
          block, policy=policy, prevent_cse=self.compute.unroll > 1
      )
    scanned = nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(nn.broadcast, nn.broadcast),
        length=self.config.depth,
        unroll=self.compute.unroll,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
    return scanned(
        self.config, self.compute.attention, dtype, name="blocks"
    )


def token_nll(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
  """Negative log-likelihood in nats [B, T] of each target (Eq. 2).

  The target's logit is picked by comparing with an iota, whose gradient is
  elementwise; a gather's would be a scatter into float32 [B, T, V].
  """
  vocab = logits_BTV.shape[-1]
  hit_BTV = targets_BT[..., None] == jnp.arange(vocab)
  picked_BT = jnp.sum(jnp.where(hit_BTV, logits_BTV, 0.0), axis=-1)
  return jax.nn.logsumexp(logits_BTV, axis=-1) - picked_BT
