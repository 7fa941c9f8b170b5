"""A task on tokens, trained on frames that are encoded on the device.

For what cannot be cached: augmented frames of probing and fine-tuning, or a
corpus that is seen once. The tokenizer's parameters are frozen arrays of the
state.

Shapes: B rows, N frames, S pixels of a side, G grid side, R tokens of a row.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np

from totojax import sequence, tasks
from totojax.tokenizers import api as tokenizer_api


class EncodeFrames:
  """Wraps a task whose batch holds `tokens`; its own batch holds `frames`."""

  def __init__(
    self,
    inner: tasks.Task,
    tokenizer: tokenizer_api.Tokenizer,
    *,
    spec: sequence.SequenceSpec,
    keep_frames: bool = False,
  ):
    """Args:
    inner: the task on tokens.
    tokenizer: what encodes.
    spec: the sequence.
    keep_frames: whether the inner batch holds `frames` and `start` as well.
    """
    self._dropped = () if keep_frames else ("frames", "start")
    self.inner, self.spec = inner, spec
    self._size_px = spec.grid * tokenizer.factor
    self._tokenizer, self._params = tokenizer, tokenizer.params

  @property
  def frozen(self) -> tasks.Tree:
    """For `assembly.run`: as constants of the program they would be compiled in."""
    return {"inner": {}, "tokenizer": self._params}

  def batch_spec(self, batch: int) -> Mapping[str, jax.ShapeDtypeStruct]:
    spec = dict(self.inner.batch_spec(batch))
    del spec["tokens"]
    size = self._size_px
    frames = (batch, self.spec.clip_frames, size, size, 3)
    spec["frames"] = jax.ShapeDtypeStruct(frames, jnp.uint8)
    spec["start"] = jax.ShapeDtypeStruct((batch,), jnp.int32)
    return spec

  def axes(self) -> tasks.Variables:
    axes = self.inner.axes()
    replicated = jax.tree.map(lambda _: PartitionSpec(), self._params)
    return axes._replace(frozen={"inner": axes.frozen, "tokenizer": replicated})

  def init(self, key: jax.Array) -> tasks.Variables:
    variables = self.inner.init(key)
    tokenizer = jax.tree.map(jnp.asarray, self._params)
    return variables._replace(frozen={"inner": variables.frozen, "tokenizer": tokenizer})

  def tokens(self, params: Any, batch: tasks.Batch) -> jax.Array:
    """int32 rows [B, R], as `sequence.build` makes them of cached codes."""
    visual = tokenizer_api.clip_codes(self._tokenizer, params, batch["frames"])
    rows = len(visual)
    tokens_BR = jnp.concatenate(
      [
        batch["start"][:, None],
        visual + sequence.SPECIALS,
        jnp.full((rows, 1), sequence.END, jnp.int32),
      ],
      axis=1,
    )
    length = self.spec.row_tokens
    short = max(0, length - tokens_BR.shape[1])
    tokens_BR = jnp.pad(tokens_BR, ((0, 0), (0, short)), constant_values=sequence.PAD)
    return tokens_BR[:, :length].astype(jnp.int32)

  def weights(self, batch: tasks.Batch) -> Mapping[str, jax.Array]:
    # Which tokens are visual is known without encoding.
    row_R = np.full(self.spec.row_tokens, sequence.PAD, np.int32)
    row_R[: self.spec.visual_tokens + 1] = sequence.SPECIALS
    row_R[0] = sequence.VIDEO_START
    row_R[self.spec.visual_tokens + 1 : self.spec.visual_tokens + 2] = sequence.END
    rows = batch["frames"].shape[0]
    tokens_BR = jnp.broadcast_to(row_R, (rows, len(row_R)))
    return self.inner.weights(self._inner_batch(batch, tokens_BR))

  def loss(
    self, params: Any, rest: tasks.Variables, batch: tasks.Batch, *, step: jax.Array, key: jax.Array
  ) -> tasks.Losses:
    tokens_BR = self.tokens(rest.frozen["tokenizer"], batch)
    return self.inner.loss(
      params,
      rest._replace(frozen=rest.frozen["inner"]),
      self._inner_batch(batch, jax.lax.stop_gradient(tokens_BR)),
      step=step,
      key=key,
    )

  def outcomes(
    self, variables: tasks.Variables, batch: tasks.Batch, *, measure: tasks.Measure
  ) -> Any:
    """What the inner task's `outcomes` gives on the frames' tokens.

    Raises:
      TypeError: the inner task has no logits of classes.
    """
    if not isinstance(self.inner, tasks.Scored):
      raise TypeError(f"{type(self.inner).__name__} has no outcomes; wrap a task that classifies")
    frozen = variables.frozen
    inner = self._inner_batch(batch, self.tokens(frozen["tokenizer"], batch))
    return self.inner.outcomes(variables._replace(frozen=frozen["inner"]), inner, measure=measure)

  def _inner_batch(self, batch: tasks.Batch, tokens_BR: jax.Array) -> tasks.Batch:
    rest = {k: v for k, v in batch.items() if k not in self._dropped}
    return {**rest, "tokens": tokens_BR}
