"""The paper's block (Eq. 3 and 4): LLaMA, causal, pre-norm, no biases.

Shapes: B batch, T tokens, D width, H heads, K head dim, F mlp.
"""

import functools
from typing import Any, ClassVar

from flax import linen as nn
from flax.linen import spmd
import jax
from jax.ad_checkpoint import checkpoint_name

from totojax.config import model as model_config
from totojax.models import architecture, attention, layers


class LlamaConfig(model_config.Llama, architecture.Transformer):
  """Section `model` of "llama", and what is computed from it.

  Shapes: head dim K = D / H.
  """

  kind: ClassVar[str] = "llama"
  fine_tunes: ClassVar[bool] = True

  def block(self) -> type[nn.Module]:
    return Block

  def norm(self, name: str | None = None) -> nn.Module:
    return layers.RMSNorm(self.norm_eps, name=name)

  def angles(self, positions_T: jax.Array) -> tuple[jax.Array, jax.Array]:
    return layers.rope_table(positions_T, self.head_dim, self.rope_base)

  @property
  def matrices(self) -> int:
    """4 D^2 + 3 D F."""
    return 4 * self.width**2 + 3 * self.width * self.mlp_dim

  @property
  def vectors(self) -> int:
    """Two norms: 2 D; and two of heads: 2 K."""
    return 2 * self.width + 2 * self.head_dim * self.qk_norm


def required(config: architecture.Architecture) -> LlamaConfig:
  """The same, where nothing else will do.

  Raises:
    ValueError: it is another architecture.
  """
  if not isinstance(config, LlamaConfig):
    raise ValueError(
      f"the architecture is {config.kind!r}; what is compared is a LLaMA:"
      ' use architecture = "llama"'
    )
  return config


class Attention(layers.Part):
  """Multi-head causal self-attention with rotary positions.

  Returns its output [B, T, D] and what `mix` wants, or None without one.
  """

  config: LlamaConfig

  @nn.compact
  def __call__(self, x_BTD, rope, segments_BT, mix: attention.Mix | None = None):
    c = self.config
    init = nn.initializers.normal(c.init_std)
    # `heads` are over tensor: each device has some whole, so that attention
    # exchanges nothing there, and the product with `out` sums once over all.
    inward = (c.width, c.heads, c.head_dim), ("embed", "heads", "head_dim")
    outward = (c.heads, c.head_dim, c.width), ("heads", "head_dim", "embed")

    is_kernel = self.implementation in attention.KERNELS
    by_product = self.platform.rope_by_product
    product = functools.partial(layers.product, on_cpu=self.platform.cpu_products)

    def project(name):
      w_DHK = layers.matrix(self, name, init, *inward, self.dtype)
      x_BTHK = product("BTD,DHK->BTHK", x_BTD, w_DHK)
      if c.qk_norm and name != "value":  # of each head by itself, as Qwen3 has it
        x_BTHK = layers.RMSNorm(c.norm_eps, name=f"{name}_norm")(x_BTHK)
      return x_BTHK

    # Under µP `scales` make it sqrt(K of the base) / K.
    scale = self.scales.attention * c.head_dim**-0.5
    # The kernel wants queries that are scaled; rotating does it on the way.
    folded = scale if is_kernel else 1.0
    q_BTHK = layers.apply_rope(project("query"), *rope, by_product=by_product, scale=folded)
    k_BTHK = layers.apply_rope(project("key"), *rope, by_product=by_product)
    v_BTHK = project("value")
    # Kept only where the caller asks for "intermediates".
    self.sow("intermediates", "query", q_BTHK / folded)
    self.sow("intermediates", "key", k_BTHK)
    if not is_kernel:  # which names what it reads and gives
      q_BTHK, k_BTHK, v_BTHK = (
        checkpoint_name(x_BTHK, "projection") for x_BTHK in (q_BTHK, k_BTHK, v_BTHK)
      )
    mixed_BTHK, kept = attention.mix_values(
      (q_BTHK, k_BTHK, v_BTHK),
      mix,
      segments_BT=segments_BT,
      implementation=self.implementation,
      scale=scale / folded,
      prefix_tokens=c.prefix_tokens,
    )
    w_HKD = layers.matrix(self, "out", init, *outward, self.dtype)
    return product("BTHK,HKD->BTD", mixed_BTHK, w_HKD), kept


class Block(layers.Part):
  """x + attention(norm(x)), then + mlp(norm(.)): Eq. 3 and 4."""

  config: LlamaConfig

  @nn.compact
  def __call__(
    self,
    x_BTD: jax.Array,
    rope: tuple[jax.Array, jax.Array],
    segments_BT: jax.Array | None,
    mix: attention.Mix | None = None,
    kept_2B: jax.Array | None = None,
  ) -> tuple[jax.Array, Any]:
    """`kept_2B`: times each row's attention and MLP (`layers.kept_paths`)."""
    c = self.config
    normed_BTD = layers.RMSNorm(c.norm_eps, name="attention_norm")(x_BTD)
    attend = self.part(Attention, "attention")
    mixed_BTD, kept = attend(normed_BTD, rope, segments_BT, mix)
    # Stochastic depth, of fine-tuning alone (Table 13).
    if kept_2B is not None:
      mixed_BTD *= kept_2B[0, :, None, None].astype(mixed_BTD.dtype)
    x_BTD += mixed_BTD
    # Where it is kept, the MLP is recomputed from here, and attention is not.
    x_BTD = checkpoint_name(x_BTD, "residual")
    normed_BTD = layers.RMSNorm(c.norm_eps, name="mlp_norm")(x_BTD)
    hidden_BTD = layers.SwiGLU(
      c.mlp_dim, c.init_std, self.dtype, self.platform.cpu_products, name="mlp"
    )(normed_BTD)
    if kept_2B is not None:
      hidden_BTD *= kept_2B[1, :, None, None].astype(hidden_BTD.dtype)
    x_BTD += hidden_BTD
    # H_l, which probes read: after the block, before the final norm.
    self.sow("intermediates", "residual", x_BTD)
    # (carry, output) as nn.scan wants it.
    return spmd.with_logical_constraint(x_BTD, ("batch", "tokens", None)), kept
