"""Imitation of an expert: the squared error of a policy's actions.

Shapes: B rows, D width of features, P numbers felt, A of an action.
"""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from totojax import tasks, tree as tree_lib
from totojax.models import policy


class Imitate:
  """A policy in training (`tasks/__init__.py`)."""

  def __init__(self, model: policy.Policy, *, width: int, felt: int):
    """Args:
    model: the policy.
    width: of the features that it sees; 0: none.
    felt: numbers that the robot feels.
    """
    self.model, self.width, self.felt = model, width, felt

  def batch_spec(self, batch: int) -> Mapping[str, jax.ShapeDtypeStruct]:
    widths = {"features": self.width, "felt": self.felt, "action": self.model.actions}
    return {k: jax.ShapeDtypeStruct((batch, v), jnp.float32) for k, v in widths.items()}

  def axes(self) -> tasks.Variables:
    boxed = jax.eval_shape(self._boxed, jax.random.key(0))
    return tasks.Variables(nn.get_partition_spec(boxed), {}, {})

  def init(self, key: jax.Array) -> tasks.Variables:
    return tasks.Variables(nn.unbox(self._boxed(key)), {}, {})

  def _boxed(self, key: jax.Array) -> Any:
    spec = self.batch_spec(1)
    empty = (jnp.zeros(spec[name].shape) for name in ("features", "felt"))
    return self.model.init(key, *empty)["params"]

  def weights(self, batch: tasks.Batch) -> Mapping[str, jax.Array]:
    return {"mse": jnp.float32(batch["action"].size)}

  def loss(
    self, params: Any, rest: tasks.Variables, batch: tasks.Batch, *, step: jax.Array, key: jax.Array
  ) -> tasks.Losses:
    """The mean over rows and numbers of an action."""
    del step, key
    action_BA = tree_lib.apply(self.model, params, batch["features"], batch["felt"])
    error = jnp.sum((action_BA - batch["action"]) ** 2)
    return {"mse": tasks.LossTerm(error, 1.0)}, rest.stats, {}
