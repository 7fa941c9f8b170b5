"""Further frames of a video: tokens drawn one by one from the model.

Frames are those of the tokenizer: where one latent frame stands for several of
the video, these are drawn as one, and `tokenizers.api.decode_clips` decodes them
with those before, on which they depend:

  codes_BNP = np.concatenate([context_BNP, generate.frames(...)], axis=1)
  shape = (*codes_BNP.shape[:2], *model.spec.frame_shape)
  frames_BTHW3 = api.decode_clips(tokenizer, codes_BNP.reshape(shape))

Shapes: B videos, N (latent) frames, P tokens of a frame, T tokens, V padded
vocabulary.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from totojax import sequence
from totojax.config.schema import field, Section, section
from totojax.models import decode, trunk


@section("sampling")
class Sampling(Section):
  """How a token is chosen, in this order."""

  temperature: float = field(1.0, "of logits; 0.0: the most likely token (greedy)", at_least=0)
  top_k: int = field(0, "only so many of the most likely tokens; 0: all", at_least=0)
  # Holtzman et al., arXiv 1904.09751.
  top_p: float = field(
    1.0, "only the fewest that together have this probability; 1.0: all", above=0, at_most=1
  )
  seed: int = field(0, "of the draws", at_least=0)


def frames(
  model: trunk.Trunk,
  weights: Any,
  context_BNP: np.ndarray,
  *,
  further: int,
  sampling: Sampling,
  rows: np.ndarray,
) -> np.ndarray:
  """The frames that follow, as the model goes on with a video.

  A row's result depends on its codes, its number in `rows` and the sampling
  alone, not on what else is in the batch.

  Args:
    model: the model.
    weights: of `decode.load`.
    context_BNP: integer codes of the first frames, in raster order; the codes of
      a place follow each other.
    further: (latent) frames to make.
    sampling: how tokens are chosen.
    rows: [B], a number of each video, which its draws depend on.

  Returns:
    int32 codes [B, further, P].

  Raises:
    ValueError: another shape, no context, a code that the model does not have,
      or more frames than its window.
  """
  spec = model.spec
  _check(context_BNP, further, len(rows), spec)
  batch, context = context_BNP.shape[:2]
  start_B1 = np.full((batch, 1), sequence.VIDEO_START, np.int32)
  tokens_BT = context_BNP.reshape(batch, -1).astype(np.int32)
  inputs_BT = np.concatenate([start_B1, tokens_BT + sequence.SPECIALS], axis=1)
  further_BT = _tokens(
    model,
    weights,
    inputs_BT,
    jax.random.key(sampling.seed),
    np.asarray(rows, np.int32),
    count=further * spec.frame_tokens,
    sampling=dataclasses.replace(sampling, seed=0),  # one program for all
  )
  codes = sequence.codes_of(np.asarray(further_BT))
  return codes.reshape(batch, further, spec.frame_tokens)


def _check(context_BNP: np.ndarray, further: int, rows: int, spec: sequence.SequenceSpec) -> None:
  shape = np.shape(context_BNP)
  if len(shape) != 3 or shape[2] != spec.frame_tokens or shape[0] != rows:
    raise ValueError(
      f"context codes have shape {shape}; [{rows} rows, frames,"
      f" {spec.frame_tokens} tokens] are needed"
    )
  window = min(spec.frames, spec.context // spec.frame_tokens)
  context = shape[1]
  if context < 1 or further < 1 or context + further > window:
    raise ValueError(
      f"{context} frames of context and {further} further ones; the model's window has {window}:"
      f" give at least 1 of context, and ask for 1 to {max(window - context, 0)}"
    )
  low, high = int(np.min(context_BNP)), int(np.max(context_BNP))
  if low < 0 or high >= spec.vocab:
    raise ValueError(
      f"context codes run from {low} to {high}; the model has codes 0 to"
      f" {spec.vocab - 1}. Were they made with another tokenizer?"
    )


@functools.partial(jax.jit, static_argnames=("model", "count", "sampling"))
def _tokens(
  model: trunk.Trunk,
  weights: Any,
  inputs_BT: jax.Array,
  key: jax.Array,
  rows_B: jax.Array,
  *,
  count: int,
  sampling: Sampling,
) -> jax.Array:
  """int32 visual tokens [B, count] that follow the inputs."""
  first = inputs_BT.shape[1]
  keys_B = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows_B)

  def draw(logits_BV, position):
    own_B = jax.vmap(lambda key: jax.random.fold_in(key, position))(keys_B)
    return choose(logits_BV, own_B, sampling=sampling, vocab=model.spec.vocab)

  def next_token(carry, position):
    logits_BV, cache = carry
    token_B = draw(logits_BV, position)
    carry = decode.step(model, weights, cache, token_B, position)
    return carry, token_B

  # The last token is drawn and not read.
  carry = decode.prefill(model, weights, inputs_BT, room=first + count - 1)
  places = first + jnp.arange(count - 1)
  (logits_BV, _), tokens_TB = jax.lax.scan(next_token, carry, places)
  last_B = draw(logits_BV, first + count - 1)
  return jnp.concatenate([tokens_TB.T, last_B[:, None]], axis=1)


def choose(logits_BV: jax.Array, keys_B: jax.Array, *, sampling: Sampling, vocab: int) -> jax.Array:
  """int32 [B]: a visual token of each row, drawn with the row's own key."""
  if sampling.temperature == 0.0:
    return jnp.argmax(visual(logits_BV, vocab), axis=-1).astype(jnp.int32)
  logits_BV = candidates(logits_BV, sampling=sampling, vocab=vocab)
  return jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)


def visual(logits_BV: jax.Array, vocab: int) -> jax.Array:
  """The logits with special tokens and padding at -inf."""
  tokens_V = jnp.arange(logits_BV.shape[-1])
  codes_V = sequence.is_visual(tokens_V) & (tokens_V < vocab + sequence.SPECIALS)
  return jnp.where(codes_V, logits_BV, -jnp.inf)


def candidates(logits_BV: jax.Array, *, sampling: Sampling, vocab: int) -> jax.Array:
  """Logits over the temperature (above 0.0); what is not drawn is -inf.

  Tokens as likely as the last one that is kept are kept too.
  """
  logits_BV = visual(logits_BV, vocab) / sampling.temperature
  if 0 < sampling.top_k < vocab:
    best_BK, _ = jax.lax.top_k(logits_BV, sampling.top_k)
    logits_BV = jnp.where(logits_BV >= best_BK[:, -1:], logits_BV, -jnp.inf)
  if sampling.top_p < 1.0:
    sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
    shares_BV = jax.nn.softmax(sorted_BV, axis=-1)
    before_BV = jnp.cumsum(shares_BV, axis=-1) - shares_BV
    least_B1 = jnp.min(
      jnp.where(before_BV < sampling.top_p, sorted_BV, jnp.inf), axis=-1, keepdims=True
    )
    logits_BV = jnp.where(logits_BV >= least_B1, logits_BV, -jnp.inf)
  return logits_BV
