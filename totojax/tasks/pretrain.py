"""Next-token prediction on visual tokens: the paper's objective (Eq. 1 and 2).

Shapes: B batch, T context, R = T + 1 tokens of a row, V padded vocabulary.
"""

import abc
from collections.abc import Callable, Mapping
import functools
from typing import Any, TYPE_CHECKING

from flax import linen as nn
import jax
import jax.numpy as jnp

from totojax import sequence, tasks, tree as tree_lib
from totojax.models import trunk

if TYPE_CHECKING:
  from totojax.optim import mup


class OfModel(abc.ABC):
  """A task whose variables are a model's parameters, with one loss of its targets.

  Attributes:
    term: name of the loss.
  """

  term = "nll"

  def __init__(self, model: trunk.Trunk, parametrisation: "mup.Parametrisation | None"):
    self.model, self.spec = model, model.spec
    self.rules = None
    if parametrisation is not None:
      self.rules = parametrisation.rules(self.axes().params)

  @abc.abstractmethod
  def boxed(self, key: jax.Array) -> Any:
    """Parameters of the model with the names of their axes."""

  @functools.cached_property
  def _traced(self) -> Callable[[jax.Array], Any]:
    """`boxed`, traced once for `axes` and `init`; a part of the program it is in."""
    return jax.jit(self.boxed, inline=True)

  @functools.cached_property
  def _axes(self) -> tasks.Variables:
    boxed = jax.eval_shape(self._traced, jax.random.key(0))
    return tasks.Variables(nn.get_partition_spec(boxed), {}, {})

  def axes(self) -> tasks.Variables:
    return self._axes  # a trace of the model is 3 % of a short run

  def init(self, key: jax.Array) -> tasks.Variables:
    params = nn.unbox(self._traced(key))
    # µP (Figure 11) is the same draw, scaled.
    if self.rules is not None:
      from totojax.optim import mup

      params = mup.start(params, self.rules)
    return tasks.Variables(params, {}, {})

  @abc.abstractmethod
  def counted(self, batch: tasks.Batch) -> jax.Array:
    """bool [B, T]: the targets that count in the loss."""

  @abc.abstractmethod
  def per_target(self, params: Any, batch: tasks.Batch) -> tuple[jax.Array, jax.Array]:
    """float32 loss [B, T] of every target, and bool [B, T] where it counts."""

  def weights(self, batch: tasks.Batch) -> Mapping[str, jax.Array]:
    # The mean of Eq. 2 is over targets, not rows: rows that images do not fill
    # count for what they hold.
    return {self.term: jnp.sum(self.counted(batch), dtype=jnp.float32)}

  def loss(
    self, params: Any, rest: tasks.Variables, batch: tasks.Batch, *, step: jax.Array, key: jax.Array
  ) -> tasks.Losses:
    del step, key  # nothing is drawn and nothing is scheduled
    loss_BT, counted_BT = self.per_target(params, batch)
    if self.spec.train_end:  # which evaluations leave out
      counted_BT = self.counted(batch)
    # Selected, not multiplied: a loss of padding that is infinite stays out.
    total = jnp.sum(jnp.where(counted_BT, loss_BT, 0.0))
    return {self.term: tasks.LossTerm(total, 1.0)}, rest.stats, {}


class Pretrain(OfModel):
  """Mean negative log-likelihood of visual targets, in nats per token."""

  def __init__(
    self,
    model: trunk.Trunk,
    parametrisation: "mup.Parametrisation | None" = None,
    *,
    z_loss: float = 0.0,
  ):
    """What is trained.

    Args:
      model: with causal attention.
      parametrisation: µP's, for a model with its scales; None: standard.
      z_loss: times the mean square of ln Z, which is added in training alone.

    Raises:
      ValueError: a model whose tokens see the ones that they are to predict,
        or an end to be trained on that the context cuts off.
    """
    # A prefix of one is causal too: the first token sees itself anyway.
    prefix = model.config.prefix_tokens
    if prefix not in (0, 1):
      raise ValueError(
        f"model.prefix_tokens {prefix} shows tokens what they are to predict;"
        " use 0 to train on next tokens"
      )
    super().__init__(model, parametrisation)
    if self.spec.train_end and self.spec.context <= self.spec.visual_tokens:
      raise ValueError(
        f"sequence.context is {self.spec.context}, which cuts off the end that sequence.train_end"
        f" trains on; set it to {self.spec.visual_tokens + 1} or more, or train_end to False"
      )
    self._z_loss = z_loss

  def batch_spec(self, batch: int) -> Mapping[str, jax.ShapeDtypeStruct]:
    return {
      "tokens": jax.ShapeDtypeStruct((batch, self.spec.row_tokens), jnp.int32),
      "source": jax.ShapeDtypeStruct((batch,), jnp.int32),
    }

  def boxed(self, key: jax.Array) -> Any:
    # One row: no parameter has the size of the batch.
    inputs_BT = jnp.zeros((1, self.spec.context), jnp.int32)
    return self.model.init(key, inputs_BT)["params"]

  def counted(self, batch: tasks.Batch) -> jax.Array:
    # Start and end are no targets, nor is padding; with `train_end` the end is.
    targets_BT = sequence.split(batch["tokens"])[1]
    visual_BT = sequence.is_visual(targets_BT)
    return visual_BT | (targets_BT == sequence.END) if self.spec.train_end else visual_BT

  def nll(self, params: Any, tokens_BR: jax.Array) -> tuple[jax.Array, jax.Array]:
    """float32 nats [B, T] of every target, and bool [B, T] where it counts."""
    inputs_BT, targets_BT = sequence.split(tokens_BR)
    # The model gets the targets too: with `compute.loss_chunk` the logits of
    # all tokens, [B, T, V], never exist.
    nll_BT = tree_lib.apply(self.model, params, inputs_BT, targets_BT)
    return nll_BT, sequence.is_visual(targets_BT)

  def per_target(self, params: Any, batch: tasks.Batch) -> tuple[jax.Array, jax.Array]:
    return self.nll(params, batch["tokens"])

  def weights(self, batch: tasks.Batch) -> Mapping[str, jax.Array]:
    own = super().weights(batch)
    return {**own, "z_loss": own[self.term]} if self._z_loss else own

  def loss(
    self, params: Any, rest: tasks.Variables, batch: tasks.Batch, *, step: jax.Array, key: jax.Array
  ) -> tasks.Losses:
    if not self._z_loss:
      return super().loss(params, rest, batch, step=step, key=key)
    model, (inputs_BT, targets_BT) = self.model.clone(with_z=True), sequence.split(batch["tokens"])
    losses_BT2 = tree_lib.apply(model, params, inputs_BT, targets_BT)
    counted_BT1 = self.counted(batch)[..., None]
    nll, z = jnp.sum(jnp.where(counted_BT1, losses_BT2, 0.0), axis=(0, 1))
    terms = {self.term: tasks.LossTerm(nll, 1.0), "z_loss": tasks.LossTerm(z, self._z_loss)}
    return terms, rest.stats, {}
