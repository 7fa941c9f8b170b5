"""Attention on TPUs: jax's splash kernel, forward and backward.

Shapes: B batch, T tokens, H heads, K head dim.

The kernel skips blocks that no query sees and keeps no T x T array. It wants
[heads, tokens, head dim]; batch and heads are one axis here, so that nothing
is copied to make a batch of one.
"""

from __future__ import annotations

from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
import numpy as np

# All were chosen with the TPU compiler (see `aot/`): smaller blocks skip more
# above the diagonal, larger ones start less often and keep the vector unit less
# busy, which is what the forward kernel waits for. The unfused backward pass
# computes q k twice, but its fused form leaves a sum over partial dq behind
# that costs more.
FORWARD_BLOCK = 1024
BACKWARD_BLOCK = 512
LANES = 128  # blocks are multiples of it
# Names for `trunk.REMAT`: what is kept is kept as the kernel reads it.
READ, SAVED = "projection", "attention"


def fits(tokens: int) -> bool:
  """Whether the kernel takes sequences of this length."""
  return tokens % LANES == 0


def attend(
    q_BTHK: jax.Array,
    k_BTHK: jax.Array,
    v_BTHK: jax.Array,
    *,
    segments_BT: jax.Array | None,
    scale: float,
    prefix: int = 0,
    interpret: bool = False,
) -> jax.Array:
  """softmax(q k scale) v on each device's own rows and heads.

  Args:
    q_BTHK: queries.
    k_BTHK: keys.
    v_BTHK: values.
    segments_BT: int32; positions of different segments do not see each other.
    scale: of q k.
    prefix: so many first keys are seen by every query; 0: causal attention.
    interpret: run the kernel without a TPU, slowly.

  Returns:
    [B, T, H, K] in q's dtype.

  Raises:
    ValueError: T is not a multiple of 128.
  """
  if not fits(q_BTHK.shape[1]):
    raise ValueError(
        f"{q_BTHK.shape[1]} tokens are not a multiple of {LANES}, which TPU"
        " attention needs; pad them, or set compute.attention='xla'"
    )

  def local(q_BTHK, k_BTHK, v_BTHK, segments_BT):
    if scale != 1.0:
      q_BTHK = q_BTHK * jnp.asarray(scale, q_BTHK.dtype)
    return _local(q_BTHK, k_BTHK, v_BTHK, segments_BT, prefix, interpret)

  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return local(q_BTHK, k_BTHK, v_BTHK, segments_BT)
  # A kernel is opaque to the partitioner, so the split is said by hand.
  heads = nn.logical_to_mesh_axes(("batch", "tokens", "heads", "head_dim"))
  rows = nn.logical_to_mesh_axes(("batch", "tokens"))
  return jax.shard_map(
      local,
      mesh=mesh,
      in_specs=(heads, heads, heads, rows),
      out_specs=heads,
      check_vma=False,
  )(q_BTHK, k_BTHK, v_BTHK, segments_BT)


def _local(q_BTHK, k_BTHK, v_BTHK, segments_BT, prefix, interpret):
  batch, tokens, heads, head_dim = q_BTHK.shape

  def swapped(x):
    return jnp.swapaxes(x, 1, 2)

  if segments_BT is not None:
    from jax.experimental.pallas.ops.tpu import splash_attention as library

    one = kernel(heads, tokens, head_dim, prefix=prefix, interpret=interpret)
    mixed_BHTK = jax.vmap(one)(
        *(checkpoint_name(swapped(x), READ) for x in (q_BTHK, k_BTHK, v_BTHK)),
        library.SegmentIds(segments_BT, segments_BT),
    )
    return swapped(mixed_BHTK)

  def together(x_BTHK):
    x_NTK = swapped(x_BTHK).reshape(batch * heads, tokens, head_dim)
    return checkpoint_name(x_NTK, READ)

  mixed_NTK = kernel(
      batch * heads, tokens, head_dim, prefix=prefix, interpret=interpret
  )(
      *map(together, (q_BTHK, k_BTHK, v_BTHK))
  )
  return swapped(mixed_NTK.reshape(batch, heads, tokens, head_dim))


def kernel(
    heads: int,
    tokens: int,
    head_dim: int,
    *,
    prefix: int = 0,
    interpret: bool = False,
):
  """(q, k, v [heads, tokens, K]) -> [heads, tokens, K], without a scale."""
  from jax.experimental.pallas.ops.tpu import splash_attention as library

  # An array whose last axis is shorter than the lanes is padded to them, so
  # small heads are read with the tokens last.
  layout = library.QKVLayout.HEAD_DIM_MINOR
  if head_dim < LANES:
    layout = library.QKVLayout.SEQ_MINOR
  forward = block_of(tokens, FORWARD_BLOCK)
  backward = block_of(tokens, BACKWARD_BLOCK)
  return library.make_splash_mha(
      library.MultiHeadMask([_mask(tokens, prefix)] * heads),
      block_sizes=library.BlockSizes(
          block_q=forward,
          block_kv=forward,
          block_kv_compute=forward,
          block_q_dkv=backward,
          block_kv_dkv=backward,
          block_kv_dkv_compute=backward,
          block_q_dq=backward,
          block_kv_dq=backward,
          q_layout=layout,
          k_layout=layout,
          v_layout=layout,
      ),
      head_shards=1,
      q_seq_shards=1,
      residual_checkpoint_name=SAVED,
      interpret=interpret,
  )


def _mask(tokens: int, prefix: int):
  """The library's mask: its causal and full ones are computed in the kernel."""
  from jax.experimental.pallas.ops.tpu import splash_attention as library

  if not prefix:
    return library.CausalMask((tokens, tokens))
  if prefix == tokens:
    return library.FullMask((tokens, tokens))
  seen = np.tri(tokens, dtype=bool)
  seen[:, :prefix] = True
  return library.NumpyMask(seen)


def block_of(tokens: int, most: int) -> int:
  """The largest block up to `most` that divides the tokens."""
  block = min(most, tokens)
  while tokens % block:
    block -= LANES
  return block
