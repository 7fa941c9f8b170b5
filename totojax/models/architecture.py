"""What an architecture says of itself: a config with methods.

Trunk, decoder, planner and arithmetic ask these and never which one it is, so
that another is a file with a config and its block, and its keys in
`config/model.py`. What counts parameters and products needs no jax.

Shapes: B batch, T tokens, D width.
"""

import abc
from typing import Any, ClassVar, TYPE_CHECKING

if TYPE_CHECKING:
  from flax import linen as nn
  import jax


class Architecture(abc.ABC):
  """The architecture; together with the vocabulary it fixes every parameter.

  A frozen dataclass whose fields are the keys of the config's section `model`.
  """

  __dataclass_fields__: ClassVar[dict[str, Any]]
  kind: ClassVar[str]  # its name, for errors
  # Parameters that are used in float32 whatever the dtype of compute, by the
  # last part of their names.
  wide: ClassVar[frozenset[str]] = frozenset()
  segments: ClassVar[bool] = False  # whether images can be hidden from each other
  # Whether a trained one may go on with another base of its positions, another
  # mask and dropped paths (`llama.Block`).
  fine_tunes: ClassVar[bool] = False
  # Whether its blocks start what writes to the residual stream smaller by
  # themselves, with depth.
  starts_smaller: ClassVar[bool] = False

  width: int  # of the residual stream (D)
  depth: int  # blocks (L)
  norm_eps: float  # epsilon of the norms
  init_std: float  # standard deviation of matrices at the start
  tied: bool  # whether the output head is the embedding, transposed
  prefix_tokens: int  # first tokens that every token sees, whatever its place; 0: causal

  # What is computed.

  @abc.abstractmethod
  def block(self) -> "type[nn.Module]":
    """The class of a block: of (config, attention, dtype, platform, scales).

    It is called with (residual stream, rotary angles, segments) and, while
    decoding, with what it does with the tokens before: `attention.Mix`, or its
    own state. It returns the residual stream, and what the decoder keeps.
    """

  @abc.abstractmethod
  def norm(self, name: str | None = None) -> "nn.Module":
    """The norm before the head; `name` where it is made inside of a module."""

  def placed_input(self, x_BTD: "jax.Array", positions_T: "jax.Array") -> "jax.Array":
    """The residual stream before the first block, of embeddings.

    Args:
      x_BTD: embeddings.
      positions_T: of the tokens in their sequence.
    """
    del positions_T
    return x_BTD

  def angles(self, positions_T: "jax.Array") -> "tuple[jax.Array, jax.Array] | None":
    """`layers.rope_table` of positions; None where nothing is rotated."""
    del positions_T
    return None

  def empty_state(self, rows: int) -> Any:
    """What a block remembers before the first token: a NamedTuple of arrays.

    None: keys and values, which the decoder keeps.

    Raises:
      ValueError: it does not decode token by token.
    """
    del rows
    raise ValueError(
      f"architecture {self.kind!r} does not decode token by token: it says"
      " nothing of what a block remembers (`empty_state`)"
    )

  def cache_shape(self, rows: int, room: int) -> tuple[int, int, int, int]:
    """[B, H, S, K] of a block's keys of `room` tokens, and of its values.

    Raises:
      ValueError: it has no heads.
    """
    del rows, room
    raise ValueError(f"architecture {self.kind!r} says nothing of its keys (`cache_shape`)")

  def state_axes(self) -> Any:
    """Logical axes of `empty_state`, stacked over layers, as PartitionSpecs."""
    raise ValueError(f"architecture {self.kind!r} says no axes of its state")

  # How much that is.

  @property
  @abc.abstractmethod
  def matrices(self) -> int:
    """Parameters of one block that are multiplied with activations."""

  @property
  @abc.abstractmethod
  def vectors(self) -> int:
    """The other parameters of one block."""

  @property
  def norm_parameters(self) -> int:
    return self.width

  @abc.abstractmethod
  def mixing_macs(self, context: int) -> int:
    """MACs by which a mean token of `context` sees others, in one block."""

  def last_mixing_macs(self, context: int) -> int:
    """The same of the last token, as a decoder's step computes it."""
    return self.mixing_macs(context)

  def parameters(self, vocab: int) -> int:
    """With `vocab` rows in the embedding, and in the head if it has its own."""
    tables = 1 if self.tied else 2
    blocks = self.depth * (self.matrices + self.vectors)
    return blocks + self.norm_parameters + tables * vocab * self.width

  def forward_macs_per_token(self, *, vocab: int, context: int) -> int:
    """MACs of a mean token: matrices, what mixes tokens, head."""
    block = self.matrices + self.mixing_macs(context)
    return self.depth * block + vocab * self.width

  def decode_macs_per_token(self, *, vocab: int, context: int) -> int:
    """The same of the last token of `context`."""
    block = self.matrices + self.last_mixing_macs(context)
    return self.depth * block + vocab * self.width

  def growth(self, *, base_width: int, base_heads: int, base_mlp_dim: int) -> dict[str, float]:
    """How often a base model's size each axis has that grows with the width.

    Args:
      base_width: of the base model, which has the same depth.
      base_heads: its heads; 0: as many as this one's.
      base_mlp_dim: its hidden units; 0: in this one's ratio to the width.

    Raises:
      ValueError: it has no µP.
    """
    del base_width, base_heads, base_mlp_dim
    raise ValueError(
      f"architecture {self.kind!r} has no µP: it does not say what grows with"
      " its width; set mup.on to False"
    )


class Transformer(Architecture):
  """Attention of H heads and an MLP of F hidden units."""

  segments: ClassVar[bool] = True

  heads: int  # attention heads (H); head dim K = D / H
  mlp_dim: int  # hidden units (F)

  @property
  def head_dim(self) -> int:
    return self.width // self.heads

  def empty_state(self, rows: int) -> None:
    del rows

  def cache_shape(self, rows: int, room: int) -> tuple[int, int, int, int]:
    return rows, self.heads, room, self.head_dim

  def mixing_macs(self, context: int) -> int:
    """Of queries with keys and of weights with values: over a mean of T / 2."""
    return self.width * context

  def last_mixing_macs(self, context: int) -> int:
    return 2 * self.mixing_macs(context)

  def growth(self, *, base_width: int, base_heads: int, base_mlp_dim: int) -> dict[str, float]:
    base_heads = base_heads or self.heads
    base_mlp = base_mlp_dim or self.mlp_dim * base_width / self.width
    wider = self.width / base_width
    return {
      "embed": wider,
      "heads": self.heads / base_heads,
      "head_dim": wider * base_heads / self.heads,
      "mlp": self.mlp_dim / base_mlp,
    }
