"""Attention on TPUs: jax's splash kernel, forward and backward.

Shapes: B batch, T tokens, H heads, K head dim.

The kernel skips blocks that no query sees and keeps no T x T array. It is made
of one head, and mapped over heads and rows: jax calls the dimensions of a
kernel's grid that it maps over parallel, so that a chip with two cores (v4,
v5p) splits the backward pass too, which the library itself runs on one.
"""

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from totojax.models.layers import mesh_axes, tokens_split
from totojax.models.platform import LANES, splash_fits

# All were chosen with the TPU compiler (`jobs/plan/`): smaller blocks skip more
# above the diagonal, larger ones start less often and keep the vector unit less
# busy, which is what the forward kernel waits for. The unfused backward pass
# computes q k twice, but its fused form leaves a sum over partial dq behind
# that costs more.
FORWARD_BLOCK = 1024
BACKWARD_BLOCK = 512
# Names for `trunk.REMAT`: what is kept is kept as the kernel reads it.
READ, SAVED = "projection", "attention"


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
  tokens = q_BTHK.shape[1]
  axis, parts = tokens_split(tokens)
  if not splash_fits(tokens // parts):
    share = "" if parts == 1 else f" of the {tokens} on each device"
    raise ValueError(
      f"{tokens // parts} tokens{share} are not a multiple of {LANES}, which TPU"
      " attention needs; pad them, or set compute.attention='xla'"
    )

  def local(q_BTHK, k_BSHK, v_BSHK, segments_BT, segments_BS, one):
    if scale != 1.0:
      q_BTHK = q_BTHK * jnp.asarray(scale, q_BTHK.dtype)
    if one is None:
      one = kernel(tokens, q_BTHK.shape[-1], prefix=prefix, interpret=interpret)
    return _local(q_BTHK, k_BSHK, v_BSHK, segments_BT, segments_BS, one)

  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return local(q_BTHK, k_BTHK, v_BTHK, segments_BT, segments_BT, None)
  # A kernel is opaque to the partitioner, so the split is said by hand.
  queries = mesh_axes("batch", "tokens", "heads", "head_dim")
  query_segments = mesh_axes("batch", "tokens")
  keys, key_segments, one, place = queries, query_segments, None, PartitionSpec()
  if parts > 1:
    # Every device has its own queries and all keys. What its queries see of
    # them lies in the kernel's tables, which are split as the queries are.
    keys = mesh_axes("batch", None, "heads", "head_dim")
    key_segments = mesh_axes("batch", None)
    shape = NamedSharding(mesh, queries).shard_shape(q_BTHK.shape)
    one = kernel(tokens, shape[-1], prefix=prefix, parts=parts, interpret=interpret)
    place = one.manual_sharding_spec(NamedSharding(mesh, PartitionSpec(None, axis)))
  return jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(queries, keys, keys, query_segments, key_segments, place),
    out_specs=queries,
    check_vma=False,
  )(q_BTHK, k_BTHK, v_BTHK, segments_BT, segments_BT, one)


def _local(q_BTHK, k_BSHK, v_BSHK, segments_BT, segments_BS, one):
  batch, tokens, heads, head_dim = q_BTHK.shape

  def swapped(x):
    return jnp.swapaxes(x, 1, 2)

  if segments_BT is not None:
    from jax.experimental.pallas.ops.tpu import splash_attention as library

    q_BHTK, k_BHSK, v_BHSK = (checkpoint_name(swapped(x), READ) for x in (q_BTHK, k_BSHK, v_BSHK))
    of_row = jax.vmap(by_head(one), in_axes=(0, 0, 0, None))
    segments = library.SegmentIds(segments_BT, segments_BS)
    return swapped(jax.vmap(of_row)(q_BHTK, k_BHSK, v_BHSK, segments))

  def together(x_BTHK):
    x_NTK = swapped(x_BTHK).reshape(batch * heads, -1, head_dim)
    return checkpoint_name(x_NTK, READ)

  # One axis, so that nothing is copied to make a batch of one.
  mixed_NTK = jax.vmap(by_head(one))(*map(together, (q_BTHK, k_BSHK, v_BSHK)))
  return swapped(mixed_NTK.reshape(batch, heads, tokens, head_dim))


def by_head(one):
  """A kernel of one head as a function of arrays [tokens, K], to be mapped."""

  def attend(q_TK, k_SK, v_SK, segments=None):
    return one(q_TK[None], k_SK[None], v_SK[None], segments)[0]

  return attend


def kernel(
  tokens: int,
  dim: int,
  *,
  prefix: int = 0,
  parts: int = 1,
  most: int = BACKWARD_BLOCK,
  interpret: bool = False,
):
  """(q, k, v [1, tokens, K]) -> [1, tokens, K], without a scale.

  With `parts`, q is one of so many parts of the tokens, one on each device.
  `most` is the largest block of the backward pass.
  """
  from jax.experimental.pallas.ops.tpu import splash_attention as library

  # An array whose last axis is shorter than the lanes is padded to them, so
  # small heads are read with the tokens last.
  layouts = library.QKVLayout
  layout = layouts.SEQ_MINOR if dim < LANES else layouts.HEAD_DIM_MINOR
  forward = block(tokens // parts, FORWARD_BLOCK)
  backward = block(tokens // parts, most)
  return library.make_splash_mha(
    library.MultiHeadMask([_mask(tokens, prefix)]),
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
    q_seq_shards=parts,
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
  mask = np.tri(tokens, dtype=bool)
  mask[:, :prefix] = True
  return library.NumpyMask(mask)


def block(tokens: int, most: int) -> int:
  """The largest block up to `most` that divides the tokens."""
  size = min(most, tokens)
  while tokens % size:
    size -= LANES
  return size
