"""Probe heads: what turns the features of one layer into class logits.

  average    mean over tokens -> BatchNorm without gain and bias -> linear, as
             MAE probes (He et al., 2022, main_linprobe.py)
  attention  the same BatchNorm over all tokens -> one query attends with W_k
             and W_v, no W_q and no W_o -> linear (section 3.5; AIM)
  cross      one query, cross-attention and an MLP with their norms -> linear
             (Table 16; V-JEPA's AttentiveClassifier)
  blocks     three blocks of self-attention over all tokens, then `cross` (V-JEPA
             2's attentive probe of four blocks, Assran et al., 2025)

or, of a user's file, a `Pool` after the same BatchNorm over all tokens.

A head is split where its cost lies. `prepare` is what all heads of one layer
share, however many there are: the mean, and statistics, which are those of the
layer. `logits` is one head on what was prepared; callers map it over heads.

A single query lets attention be folded: q . (W_k x) = (W_k^T q) . x, and the
values are the same mixture of x, so that W_v is applied once, to what was
pooled. Per head and token that is 2 D H multiplications in place of 2 D^2.

Shapes: B batch, T tokens, D width, H heads, K head dim, F mlp, C classes.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
from typing import Protocol, runtime_checkable, TypeVar
import zlib

from flax.linen import spmd
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from totojax import plugins
from totojax.config.labels import HeadConfig, POOLS as POOLS
from totojax.config.schema import ConfigError
from totojax.models import architecture, blocked

MLP_RATIO = 4  # of the hidden units of "cross" to the width, as V-JEPA's
LAYER_NORM_EPS = 1e-5  # PyTorch's, as V-JEPA's
SELF_BLOCKS = 3  # of "blocks", before its cross-attention

Params = Mapping[str, jax.Array]
Stats = Mapping[str, jax.Array]
Result = TypeVar("Result")


Shapes = dict[str, tuple[tuple[int, ...], tuple[str | None, ...]]]


@runtime_checkable
class Pool(Protocol):
  """What a user's head does before the linear layer, which is ours."""

  def shapes(self, width: int) -> Shapes:
    """(shape, logical axes) of its parameters, as those of `shapes`.

    Names that end in "scale" start at 1, in "bias" at 0.
    """
    ...

  def pool(self, params: Params, x_BTD: jax.Array, visual_BT: jax.Array) -> jax.Array:
    """[B, D] of normalised features, of the positions that are visual."""
    ...


@functools.cache
def _users(pool: str) -> Pool:
  """The pool of a user's file."""
  return plugins.load(pool, "head", Pool)


def filled(config: HeadConfig, model: architecture.Architecture) -> HeadConfig:
  """With as many attention heads as the model, where none are said.

  Raises:
    ConfigError: attention heads are needed, and the model has none.
  """
  if config.heads or config.pool not in ("attention", "cross", "blocks"):
    return config
  own = getattr(model, "heads", 0)
  if not own:
    raise ConfigError(
      f"head.heads is 0, the model's number, and a {model.kind} has none; set"
      f" head.heads to a divisor of its width of {model.width}"
    )
  return dataclasses.replace(config, heads=own)


def shapes(config: HeadConfig, *, width: int, classes: int) -> Shapes:
  """(shape, logical axes) of every parameter of one head.

  Raises:
    ValueError: the heads do not divide the width, or a head of the user's names
      parameters as every head does.
  """
  tree: Shapes = {"linear": ((width, classes), ("embed", "classes"))}
  if config.bias:
    tree["bias"] = ((classes,), ("classes",))
  if config.pool == "average":
    return tree
  if plugins.is_reference(config.pool):
    own = _users(config.pool).shapes(width)
    if taken := sorted(tree.keys() & own.keys()):
      raise ValueError(f"{config.pool}: {taken} are names of every head's; call its own otherwise")
    return tree | own
  if config.heads < 1 or width % config.heads:
    raise ValueError(
      f"head.heads {config.heads} does not divide the width of {width}; use a divisor"
    )
  split = (config.heads, width // config.heads), ("heads", "head_dim")
  matrix = (width, *split[0]), ("embed", *split[1])
  tree |= {"key": matrix, "value": matrix, "query": ((width,), ("norm",))}
  if config.pool in ("cross", "blocks"):
    hidden = MLP_RATIO * width
    vectors = ("norm_scale", "norm_bias", "mlp_norm_scale", "mlp_norm_bias", "down_bias")
    tree |= {"project": matrix, "project_bias": split, "value_bias": split}
    tree |= {
      "up": ((width, hidden), ("embed", "mlp")),
      "up_bias": ((hidden,), ("mlp",)),
      "down": ((hidden, width), ("mlp", "embed")),
      **dict.fromkeys(vectors, ((width,), ("norm",))),
    }
  return tree | _block_shapes(config, width) if config.pool == "blocks" else tree


_BLOCK = "block_"  # of names of what the self-attention blocks have, each stacked over them


def _block_shapes(config: HeadConfig, width: int) -> Shapes:
  """Of the blocks of self-attention, with a leading axis for them."""
  hidden, split = MLP_RATIO * width, (config.heads, width // config.heads)
  one: Shapes = {
    "qkv": ((width, 3, *split), ("embed", None, "heads", "head_dim")),
    "qkv_bias": ((3, *split), (None, "heads", "head_dim")),
    "out": ((*split, width), ("heads", "head_dim", "embed")),
    "up": ((width, hidden), ("embed", "mlp")),
    "up_bias": ((hidden,), ("mlp",)),
    "down": ((hidden, width), ("mlp", "embed")),
  }
  vectors = ("norm_scale", "norm_bias", "mlp_norm_scale", "mlp_norm_bias", "out_bias", "down_bias")
  one |= dict.fromkeys(vectors, ((width,), ("norm",)))
  return {_BLOCK + k: ((SELF_BLOCKS, *shape), (None, *axes)) for k, (shape, axes) in one.items()}


def axes(config: HeadConfig, *, width: int, classes: int) -> dict[str, PartitionSpec]:
  """Logical axes of one head's parameters."""
  tree = shapes(config, width=width, classes=classes)
  return {name: PartitionSpec(*logical) for name, (_, logical) in tree.items()}


def init(config: HeadConfig, key: jax.Array, *, width: int, classes: int) -> dict[str, jax.Array]:
  """Fresh parameters of one head, float32."""
  params = {}
  for name, (shape, _) in shapes(config, width=width, classes=classes).items():
    if name.endswith("scale"):
      params[name] = jnp.ones(shape)
    elif name.endswith("bias"):
      params[name] = jnp.zeros(shape)
    else:
      # By name: a parameter does not depend on which others there are.
      own = jax.random.fold_in(key, zlib.crc32(name.encode()))
      params[name] = config.init_std * jax.random.normal(own, shape)
  if config.pool == "cross":
    params["down"] /= math.sqrt(2.0)  # V-JEPA's, for its one block
  if config.pool == "blocks":
    params["down"] /= math.sqrt(2.0 * SELF_BLOCKS)
    for name in ("out", "down"):
      stack = params[_BLOCK + name]
      depth = jnp.arange(1, SELF_BLOCKS + 1).reshape(-1, *(1,) * (stack.ndim - 1))
      params[_BLOCK + name] = stack / jnp.sqrt(2.0 * depth)
    # What V-JEPA 2 leaves as PyTorch draws it.
    for name in {"linear", "bias"} & params.keys():
      own = jax.random.fold_in(key, zlib.crc32(name.encode()))
      bound = width**-0.5
      params[name] = jax.random.uniform(own, params[name].shape, minval=-bound, maxval=bound)
  return params


def over_settings(config: HeadConfig, one: Callable[[Params], Result], params_S: Params) -> Result:
  """`one` of the heads of a layer, stacked: at once, but of "blocks" in turn.

  Each of these has activations of every token, of which one head's must fit.
  """
  return jax.lax.map(one, params_S) if config.pool == "blocks" else jax.vmap(one)(params_S)


def init_stats(config: HeadConfig, width: int) -> dict[str, jax.Array]:
  """Running statistics of one layer; none where no BatchNorm is."""
  if config.pool in ("cross", "blocks"):
    return {}
  return {"mean": jnp.zeros(width), "var": jnp.ones(width)}


def mean_over_tokens(x_BTD: jax.Array, visual_BT: jax.Array) -> jax.Array:
  """float32 mean [B, D] over visual tokens; 0 where a row has none."""
  weight_BT = visual_BT.astype(jnp.float32)
  sum_BD = jnp.einsum(
    "BTD,BT->BD", x_BTD.astype(jnp.float32), weight_BT, precision=jax.lax.Precision.HIGHEST
  )
  return sum_BD / jnp.maximum(weight_BT.sum(1, keepdims=True), 1.0)


def prepare(
  config: HeadConfig, x: jax.Array, visual_BT: jax.Array | None, stats: Stats, *, training: bool
) -> tuple[jax.Array, Stats]:
  """What all heads of a layer share, and the statistics after this batch.

  Args:
    config: the head.
    x: features [B, T, D] in any dtype; for "average" also pooled ones [B, D],
      with `visual_BT` None.
    visual_BT: which positions count.
    stats: running ones of the layer.
    training: whether the statistics of this batch are used and kept; those of
      the whole global batch, also where it is spread over devices.
  """
  if config.pool == "average":
    if x.ndim == 3:
      assert visual_BT is not None
      x = mean_over_tokens(x, visual_BT)
    return _batch_norm(config, x.astype(jnp.float32), jnp.ones(len(x)), stats, training=training)
  x = x.astype(jnp.float32)
  if config.pool == "cross":
    return layer_norm(x), stats
  if config.pool == "blocks":
    return x, stats
  assert visual_BT is not None
  weight_BT = visual_BT.astype(jnp.float32)
  return _batch_norm(config, x, weight_BT, stats, training=training)


def _batch_norm(
  config: HeadConfig, x: jax.Array, weight: jax.Array, stats: Stats, *, training: bool
) -> tuple[jax.Array, Stats]:
  """PyTorch's: a batch is divided by the root of its biased variance, and the
  running variance, which evaluation uses, averages unbiased ones."""
  mean_D, var_D = stats["mean"], stats["var"]
  if training:
    rows = tuple(range(weight.ndim))
    n = jnp.sum(weight)
    mean_D = jnp.sum(x * weight[..., None], rows) / n
    square = jnp.square(x - mean_D) * weight[..., None]
    var_D = jnp.sum(square, rows) / n
    new = {"mean": mean_D, "var": var_D * n / jnp.maximum(n - 1.0, 1.0)}
    m = config.norm_momentum
    stats = {k: (1.0 - m) * stats[k] + m * new[k] for k in stats}
  return (x - mean_D) * jax.lax.rsqrt(var_D + config.norm_eps), stats


def layer_norm(x: jax.Array, eps: float = LAYER_NORM_EPS) -> jax.Array:
  """Over the last axis, without gain and bias."""
  mean = jnp.mean(x, -1, keepdims=True)
  variance = jnp.mean(jnp.square(x - mean), -1, keepdims=True)
  return (x - mean) * jax.lax.rsqrt(variance + eps)


def logits(
  config: HeadConfig, params: Params, prepared: jax.Array, visual_BT: jax.Array | None
) -> jax.Array:
  """Logits [B, C] of one head, on what `prepare` gave."""
  if config.pool == "average":
    pooled_BD = prepared
  else:
    assert visual_BT is not None
    pooled_BD = _pooled(config.pool, params, prepared, visual_BT)
  # Rows stay split over devices: what is gathered is the matrix.
  pooled_BD = spmd.with_logical_constraint(pooled_BD, ("batch", None))
  logits_BC = pooled_BD @ params["linear"]
  return logits_BC + params["bias"] if "bias" in params else logits_BC


def _pooled(pool: str, params: Params, x_BTD: jax.Array, visual_BT: jax.Array) -> jax.Array:
  """Means [B, D] of the features of a row, as the head weighs them."""
  match pool:
    case "attention":
      return _attend(params, params["query"], x_BTD, visual_BT)
    case "cross":
      return _cross(params, x_BTD, visual_BT)
    case "blocks":
      return _cross(params, layer_norm(_self_blocks(params, x_BTD, visual_BT)), visual_BT)
    case _:
      return _users(pool).pool(params, x_BTD, visual_BT)


def _attend(
  params: Params, query_D: jax.Array, x_BTD: jax.Array, visual_BT: jax.Array
) -> jax.Array:
  """softmax(q (W_k x) / sqrt(K)) W_v x, folded; the heads side by side."""
  _, heads, dim = params["key"].shape
  query_HK = query_D.reshape(heads, dim)
  fold_DH = jnp.einsum("DHK,HK->DH", params["key"], query_HK) * dim**-0.5
  scores_BTH = jnp.einsum("BTD,DH->BTH", x_BTD, fold_DH)
  # Finite: a row that is all padding has no visual token, and no NaN either.
  scores_BTH = jnp.where(visual_BT[..., None], scores_BTH, -1e30)
  weights_BTH = jax.nn.softmax(scores_BTH, axis=1)
  pooled_BHD = jnp.einsum("BTH,BTD->BHD", weights_BTH, x_BTD)
  values_BHK = jnp.einsum("BHD,DHK->BHK", pooled_BHD, params["value"])
  return values_BHK.reshape(len(x_BTD), -1)


def _self_blocks(params: Params, x_BTD: jax.Array, visual_BT: jax.Array) -> jax.Array:
  """Blocks of self-attention and an MLP over the tokens that count."""
  stack = {k.removeprefix(_BLOCK): v for k, v in params.items() if k.startswith(_BLOCK)}
  segments_BT = visual_BT.astype(jnp.int32)  # what does not count sees none that does

  # What a block keeps for its backward pass is what entered it.
  @jax.checkpoint
  def block(x_BTD, p):
    y_BTD = p["norm_scale"] * layer_norm(x_BTD) + p["norm_bias"]
    qkv_3BTHK = jnp.einsum("BTD,DNHK->NBTHK", y_BTD, p["qkv"])
    qkv_3BTHK += p["qkv_bias"][:, None, None]
    q_BTHK, k_BTHK, v_BTHK = qkv_3BTHK
    scale, tokens = float(q_BTHK.shape[-1] ** -0.5), q_BTHK.shape[1]
    mixed_BTHK = blocked.attend(q_BTHK, k_BTHK, v_BTHK, segments_BT, scale, tokens)
    x_BTD += jnp.einsum("BTHK,HKD->BTD", mixed_BTHK, p["out"]) + p["out_bias"]
    y_BTD = p["mlp_norm_scale"] * layer_norm(x_BTD) + p["mlp_norm_bias"]
    hidden_BTF = jax.nn.gelu(y_BTD @ p["up"] + p["up_bias"], approximate=False)
    return x_BTD + hidden_BTF @ p["down"] + p["down_bias"], None

  return jax.lax.scan(block, x_BTD, stack)[0]


def blocks_by_query(
  params: Params, x_BTD: jax.Array, query_ND: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """ "blocks" with several queries, of all tokens, and the tokens themselves.

  Args:
    params: of one head of "blocks"; its own query is not read.
    x_BTD: float32 features.
    query_ND: N queries.

  Returns:
    The tokens after the blocks of self-attention [B, T, D], and what each query
    pools of them [B, N, D].
  """
  visual_BT = jnp.ones(x_BTD.shape[:2], bool)
  x_BTD = _self_blocks(params, x_BTD, visual_BT)
  normed_BTD = layer_norm(x_BTD)
  one = lambda query_D: _cross({**params, "query": query_D}, normed_BTD, visual_BT)  # noqa: E731
  return x_BTD, jax.vmap(one, out_axes=1)(query_ND)


def _cross(params: Params, x_BTD: jax.Array, visual_BT: jax.Array) -> jax.Array:
  """q + attention(q, LN(x)), then + MLP(LN(.)): V-JEPA's block.

  The norm's gain goes into the folded query and onto what was pooled; its bias
  adds the same to every score, which softmax does not see, and, as weights sum
  to 1, a constant to the value. So does the keys' bias, which therefore is not
  there at all.
  """
  p = params
  query_HK = jnp.einsum("D,DHK->HK", p["query"], p["project"])
  query_D = (query_HK + p["project_bias"]).reshape(-1)
  gain_D11 = p["norm_scale"][:, None, None]
  scaled = {"key": gain_D11 * p["key"], "value": gain_D11 * p["value"]}
  mixed_BD = _attend(scaled, query_D, x_BTD, visual_BT)
  offset_HK = jnp.einsum("D,DHK->HK", p["norm_bias"], p["value"])
  mixed_BD += (offset_HK + p["value_bias"]).reshape(-1)
  y_BD = p["query"] + mixed_BD
  normed_BD = p["mlp_norm_scale"] * layer_norm(y_BD) + p["mlp_norm_bias"]
  hidden_BF = normed_BD @ p["up"] + p["up_bias"]
  return y_BD + jax.nn.gelu(hidden_BF, approximate=False) @ p["down"] + (p["down_bias"])
