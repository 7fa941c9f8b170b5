"""Tokens in, logits out: embed -> scan(remat(block)) -> norm -> head.

Shapes: B batch, T tokens, D width, V padded vocabulary, K head dim.
"""

import dataclasses
import functools
from typing import Any

from flax import linen as nn
from flax.linen import spmd
import jax
import jax.numpy as jnp

from totojax import sequence, tree as tree_lib
from totojax.config import model as model_config
from totojax.models import architecture, layers, platform as platform_lib

# Policy -> what the backward pass finds kept of each block beside its input.
REMAT = {
  "none": (),
  "full": (),
  "projections": ("projection", "attention", "residual"),
  "products": ("projection", "attention", "mlp"),
}


@dataclasses.dataclass(frozen=True)
class Compute(model_config.Compute):
  """Section `compute` with "auto" and 0 filled in."""

  # What the hardware wants; no key of a config, as "auto" is.
  platform: platform_lib.Platform = platform_lib.find("")


class Trunk(nn.Module):
  """A causal model of the tokens of `sequence.py`."""

  config: architecture.Architecture
  spec: sequence.SequenceSpec
  compute: Compute
  scales: layers.Scales = layers.STANDARD
  with_z: bool = False  # whether losses of tokens are `token_losses`

  @nn.compact
  def __call__(self, inputs_BT: jax.Array, targets_BT: jax.Array | None = None) -> jax.Array:
    """float32 logits [B, T, V] of the next token; padding rows are -inf.

    Args:
      inputs_BT: int32 tokens, any T.
      targets_BT: the token that follows each; with them the result is
        `token_nll` [B, T], for which not all logits need exist at a time; or
        `token_losses` [B, T, 2].

    Raises:
      ValueError: with targets, `compute.loss_chunk` does not divide T.
    """
    c, dtype = self.config, jnp.dtype(self.compute.dtype)
    # [gap] The paper says nothing of how parameters start: LVM's normal.
    init = nn.initializers.normal(c.init_std)
    table = (self.spec.padded_vocab, c.width), ("vocab", "embed")
    embedding_VD = layers.parameter(self, "embedding", init, *table)
    x_BTD, rope, segments_BT = self.entry({"embedding": embedding_VD}, inputs_BT)
    x_BTD, _ = self._blocks(dtype)(x_BTD, rope, segments_BT)
    x_BTD = c.norm(name="norm")(x_BTD).astype(dtype)

    # [gap] Tied, by default: the reading that gives Table 4's compute.
    head_VD = embedding_VD
    if not c.tied:
      head_VD = layers.parameter(self, "head", init, *table)
    # `embed` is split over fsdp where parameters lie, whole where used.
    head_VD = layers.gathered(head_VD.astype(dtype), table[1])
    return self._output(x_BTD, head_VD, targets_BT)

  @nn.nowrap
  def entry(self, params: Any, inputs_BT: jax.Array) -> tuple[jax.Array, Any, jax.Array | None]:
    """What the first block is called with.

    Args:
      params: of the model; of them, those of the embedding are read.
      inputs_BT: int32 tokens.

    Returns:
      The residual stream [B, T, D], rotary angles and segments.
    """
    rope, segments_BT = places(self.config, self.spec, inputs_BT)
    x_BTD = _embedded(self.config, params["embedding"], inputs_BT, self.compute)
    return x_BTD, rope, segments_BT

  def _output(
    self, x_BTD: jax.Array, head_VD: jax.Array, targets_BT: jax.Array | None
  ) -> jax.Array:
    """Logits, or with targets `token_nll` [B, T] (or `token_losses`).

    With `loss_chunk`, of a few tokens of each sequence after the others: the
    backward pass computes a chunk's logits again, so that those of all tokens
    never exist. Every n-th token makes a chunk, so that a split over tokens
    stays as it is.
    """
    project = functools.partial(
      logits, spec=self.spec, scales=self.scales, platform=self.compute.platform
    )
    if targets_BT is None:
      return project(x_BTD, head_VD)
    size, tokens = self.compute.loss_chunk, x_BTD.shape[1]
    losses = token_losses if self.with_z else token_nll
    if not size:
      return losses(project(x_BTD, head_VD), targets_BT)
    if tokens % size:
      raise ValueError(
        f"compute.loss_chunk {size} does not divide the {tokens} tokens of a"
        " sequence; use a divisor, or 0 for all at once"
      )
    # The gradient of the head is summed over the chunks in its own type.
    wide_VD = head_VD.astype(jnp.float32)

    @jax.checkpoint
    def nll(wide_VD, x_BSD, targets_BS):
      return losses(project(x_BSD, wide_VD.astype(head_VD.dtype)), targets_BS)

    # [B, T] -> [chunks, B, size]; token t goes to chunk t mod chunks.
    def cut(x_BT):
      parts = x_BT.reshape(x_BT.shape[0], size, tokens // size, *x_BT.shape[2:])
      return jnp.moveaxis(parts, 2, 0)

    nll_NBS = jax.lax.map(lambda both: nll(wide_VD, *both), (cut(x_BTD), cut(targets_BT)))
    return jnp.moveaxis(nll_NBS, 0, 2).reshape(*targets_BT.shape, *nll_NBS.shape[3:])

  def _blocks(self, dtype: Any) -> nn.Module:
    """The stack of blocks; parameters have a leading axis `layers`."""
    block = self.config.block()
    # Inside the scan: the backward pass recomputes one block at a time.
    if self.compute.remat != "none":
      block = nn.remat(block, **recomputed(self.compute))
    scanned = nn.scan(
      block,
      variable_axes={"params": 0, "intermediates": 0},
      split_rngs={"params": True},  # each layer draws its own
      # Angles and segments are those of all layers. One value for each
      # argument is right; the checker takes the type from the default, 0.
      in_axes=(nn.broadcast, nn.broadcast),  # pyright: ignore[reportArgumentType]
      length=self.config.depth,
      unroll=self.compute.unroll,
      # No mesh axis: a layer is on all devices, split by its own axes.
      metadata_params={nn.PARTITION_NAME: "layers"},
      # The check traces a block once more, and nothing here needs it: a block
      # makes nothing that is one for all layers. It stays where parameters are
      # drawn, as the trace counts among the keys that are folded in.
      check_constancy_invariants=self.is_initializing(),
    )
    return scanned(
      self.config, self.compute.attention, dtype, self.compute.platform, self.scales, name="blocks"
    )


def block(model: Trunk) -> nn.Module:
  """One block, for the parameters of one layer."""
  return model.config.block()(
    model.config,
    model.compute.attention,
    jnp.dtype(model.compute.dtype),
    model.compute.platform,
    model.scales,
  )


def logits(
  x_BTD: jax.Array,
  head_VD: jax.Array,
  *,
  spec: sequence.SequenceSpec,
  scales: layers.Scales,
  platform: platform_lib.Platform,
) -> jax.Array:
  """float32 logits [B, T, V] of normed activations; padding rows are -inf."""
  if platform.cpu_products and x_BTD.dtype == jnp.float32:
    logits_BTV = layers.product("BTD,VD->BTV", x_BTD, head_VD, on_cpu=True)
  elif x_BTD.dtype == jnp.bfloat16:
    logits_BTV = layers.wide_product("BTD,VD->BTV", x_BTD, head_VD)
  else:
    logits_BTV = jnp.einsum("BTD,VD->BTV", x_BTD, head_VD, preferred_element_type=jnp.float32)
  # Without µP no product is in the program, and none in its gradient.
  if scales.logits != 1.0:
    logits_BTV *= scales.logits
  # Rows that round the vocabulary up to lanes can never be predicted.
  real_V = jnp.arange(spec.padded_vocab) < spec.vocab + sequence.SPECIALS
  return jnp.where(real_V, logits_BTV, -jnp.inf)


def recomputed(compute: Compute) -> dict[str, Any]:
  """What `jax.checkpoint` is told of a block.

  Inside a scan, XLA cannot merge the recomputation with the forward pass;
  unrolled it can, so there the barrier against it is needed.
  """
  return {
    "policy": jax.checkpoint_policies.save_only_these_names(*REMAT[compute.remat]),
    "prevent_cse": compute.unroll > 1,
  }


def cast(config: architecture.Architecture, params: Any, dtype: Any) -> Any:
  """Parameters in the dtype that they are computed with, which changes nothing.

  Args:
    config: the architecture, which uses some of them in float32 always.
    params: of `Trunk`, or a part of them.
    dtype: of activations.
  """

  def one(name, leaf):
    stays = name.rpartition("/")[-1] in config.wide
    return jnp.asarray(leaf, jnp.float32 if stays else dtype)

  return tree_lib.map_named(one, params)


def _embedded(
  config: architecture.Architecture, embedding_VD: jax.Array, inputs_BT: jax.Array, compute: Compute
) -> jax.Array:
  dtype = jnp.dtype(compute.dtype)
  if compute.platform.embedding_by_product and dtype == jnp.bfloat16:
    # The whole of a table that is split, so that its rows are where they are read.
    table_VD = layers.gathered(embedding_VD.astype(dtype), ("vocab", "embed"))
    x_BTD = layers.looked_up(table_VD, inputs_BT)
  else:
    x_BTD = embedding_VD[inputs_BT].astype(dtype)
  # Rows over data and fsdp, tokens over sequence; the width is whole, so that
  # norms need no exchange.
  x_BTD = spmd.with_logical_constraint(x_BTD, ("batch", "tokens", None))
  return config.placed_input(x_BTD, jnp.arange(inputs_BT.shape[1]))


def places(
  config: architecture.Architecture, spec: sequence.SequenceSpec, inputs_BT: jax.Array
) -> tuple[tuple[jax.Array, jax.Array] | None, jax.Array | None]:
  """Rotary angles, and segments where images are hidden from each other."""
  # Raster positions in the whole sequence: packed images are counted through.
  rope = config.angles(jnp.arange(inputs_BT.shape[1]))
  return rope, sequence.segment_ids(inputs_BT, spec) if spec.segments else None


def token_nll(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
  """Negative log-likelihood in nats [B, T] of each target (Eq. 2).

  The target's logit is picked by comparing with an iota, whose gradient is
  elementwise; a gather's would be a scatter into float32 [B, T, V].
  """
  hit_BTV = targets_BT[..., None] == jnp.arange(logits_BTV.shape[-1])
  picked_BT = jnp.sum(jnp.where(hit_BTV, logits_BTV, 0.0), axis=-1)
  return jax.nn.logsumexp(logits_BTV, axis=-1) - picked_BT


def token_losses(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
  """[B, T, 2]: `token_nll`, and the square of ln Z, which z-loss keeps small.

  Z is the sum of exp(logits) (Chowdhery et al., 2022, arXiv 2204.02311).
  """
  z_BT = jnp.square(jax.nn.logsumexp(logits_BTV, axis=-1))
  return jnp.stack([token_nll(logits_BTV, targets_BT), z_BT], axis=-1)
