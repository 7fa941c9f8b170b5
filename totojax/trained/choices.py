"""How a token is chosen: the likeliest, or drawn of those that the sampling leaves.

Shapes: B videos, V padded vocabulary.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from totojax import sequence
from totojax.config.generate import MOST_K, Sampling


class Choice(NamedTuple):
  """How a token is chosen, as a program takes it: no new value is compiled anew.

  Attributes are scalars, of numpy or traced.
  """

  is_greedy: Any  # bool
  inverse: Any  # float32, 1 / temperature
  top_k: Any  # int32; 0: all
  top_p: Any  # float32; 1.0: all
  least: Any  # float32, the logarithm of min_p

  @classmethod
  def of(cls, sampling: Sampling) -> "Choice":
    is_greedy = sampling.temperature == 0.0
    # XLA multiplies too where the temperature is a constant of a program.
    inverse = np.float32(1) / np.float32(1 if is_greedy else sampling.temperature)
    least = np.float32(np.log(sampling.min_p) if sampling.min_p else -np.inf)
    top_k = np.int32(min(sampling.top_k, MOST_K))
    return cls(np.bool_(is_greedy), inverse, top_k, np.float32(sampling.top_p), least)


def choose(
  logits_BV: jax.Array, keys_B: jax.Array, *, choice: Choice, low: Any, high: Any
) -> jax.Array:
  """int32 [B]: a visual token of each row, drawn with the row's own key.

  Args:
    logits_BV: of all tokens.
    keys_B: of the draws.
    choice: how.
    low: the first code that it can be.
    high: the one after the last.
  """

  def drawn():
    logits = candidates(logits_BV, choice=choice, low=low, high=high)
    return jax.vmap(jax.random.categorical)(keys_B, logits).astype(jnp.int32)

  def likeliest():
    return jnp.argmax(visual(logits_BV, low, high), axis=-1).astype(jnp.int32)

  return jax.lax.cond(choice.is_greedy, likeliest, drawn)


def visual(logits_BV: jax.Array, low: Any, high: Any) -> jax.Array:
  """The logits with what is no code from `low` to `high` - 1 at -inf."""
  codes_V = jnp.arange(logits_BV.shape[-1]) - sequence.SPECIALS
  return jnp.where((codes_V >= low) & (codes_V < high), logits_BV, -jnp.inf)


def candidates(logits_BV: jax.Array, *, choice: Choice, low: Any, high: Any) -> jax.Array:
  """Logits over the temperature (above 0.0); what is not drawn is -inf.

  Tokens as likely as the last one that is kept are kept too.
  """
  logits_BV = visual(logits_BV, low, high)
  # From the likeliest, or a temperature near 0 would make them infinite.
  top_B1 = jnp.max(logits_BV, axis=-1, keepdims=True)
  scaled_BV = (logits_BV - top_B1) * choice.inverse
  logits_BV = jnp.where(logits_BV > -jnp.inf, scaled_BV, -jnp.inf)

  def cut(least_of):
    return lambda logits: jnp.where(logits >= least_of(logits), logits, -jnp.inf)

  is_some = (choice.top_k > 0) & (choice.top_k < logits_BV.shape[-1])
  kth = cut(lambda logits: _kth(logits, choice.top_k))
  # Branches are skipped when they are not needed: a sort takes longer than the model.
  logits_BV = jax.lax.cond(is_some, kth, lambda logits: logits, logits_BV)
  fewest = cut(lambda logits: _least(logits, choice.top_p))
  logits_BV = jax.lax.cond(choice.top_p < 1.0, fewest, lambda logits: logits, logits_BV)
  # Of the likeliest, whose logit is 0.
  return jnp.where(logits_BV >= choice.least, logits_BV, -jnp.inf)


def _kth(logits_BV: jax.Array, k: jax.Array) -> jax.Array:
  """[B, 1], the k-th largest of each row, bit by bit: for any k, and without a sort."""
  bits_BV = jax.lax.bitcast_convert_type(logits_BV, jnp.uint32)
  sign = jnp.uint32(1 << 31)
  # In the order of the numbers.
  order_BV = jnp.where(bits_BV >= sign, ~bits_BV, bits_BV | sign)

  def bit(i, found_B1):
    more_B1 = found_B1 | (sign >> i)
    count_B1 = jnp.sum(order_BV >= more_B1, axis=-1, keepdims=True)
    return jnp.where(count_B1 >= k, more_B1, found_B1)

  found_B1 = jnp.zeros((len(logits_BV), 1), jnp.uint32)
  found_B1 = jax.lax.fori_loop(jnp.uint32(0), jnp.uint32(32), bit, found_B1)
  found_B1 = jnp.where(found_B1 >= sign, found_B1 ^ sign, ~found_B1)
  return jax.lax.bitcast_convert_type(found_B1, jnp.float32)


def _least(logits_BV: jax.Array, top_p: jax.Array) -> jax.Array:
  """[B, 1], the least of the fewest that together have a probability."""
  sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
  shares_BV = jax.nn.softmax(sorted_BV, axis=-1)
  before_BV = jnp.cumsum(shares_BV, axis=-1) - shares_BV
  return jnp.min(jnp.where(before_BV < top_p, sorted_BV, jnp.inf), axis=-1, keepdims=True)
