"""What a training task is: the whole surface that an experiment extends.

The loop (`train.py`) and the step (`step.py`) know nothing else of a task. A
task holds no state: variables go in and come out as plain pytrees.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from totojax import plugins

Batch = Mapping[str, jax.Array]
Tree = Any  # a pytree of arrays, or of PartitionSpecs where axes are meant


class Variables(NamedTuple):
  """All arrays of a task."""

  params: Tree  # trained by gradient, with optimiser moments
  frozen: Tree  # no gradient and no moments; a checkpoint names where they came from
  stats: Tree  # changed by the forward pass (BatchNorm averages, codebook use)


class LossTerm(NamedTuple):
  """One term: `coefficient * sum / weight` is added to the loss.

  `sum` is over this microbatch; the weight is the global batch's and comes from
  `Task.weights`, so that cutting a batch into microbatches changes no gradient.
  """

  sum: jax.Array
  # Apart from the sum, so that a term is logged as it is and not as weighted.
  coefficient: float | jax.Array


class Weighted(NamedTuple):
  """A metric as (sum, weight): adds up over microbatches and hosts.

  The mean of means would depend on how the rows were cut.
  """

  sum: jax.Array
  weight: jax.Array


Measure = Callable[[jax.Array], Any]  # of a head's logits [B, C]
# Loss terms by name, new stats, and metrics by name.
Losses = tuple[Mapping[str, LossTerm], Tree, Mapping[str, Weighted]]


def labelled(rows: int, row_tokens: int) -> Mapping[str, jax.ShapeDtypeStruct]:
  """`Task.batch_spec` of rows of tokens with a class each."""
  return {
    "tokens": jax.ShapeDtypeStruct((rows, row_tokens), jnp.int32),
    "label": jax.ShapeDtypeStruct((rows,), jnp.int32),
  }


class Task(Protocol):
  """Training only; evaluations are plain functions over the variables."""

  def batch_spec(self, batch: int) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Names, shapes and dtypes of a global batch of `batch` rows."""
    ...

  def axes(self) -> Variables:
    """Tree of `init`'s shape; leaves are PartitionSpecs of logical names."""
    ...

  def init(self, key: jax.Array) -> Variables:
    """Fresh variables in float32."""
    ...

  def weights(self, batch: Batch) -> Mapping[str, jax.Array]:
    """Weight of each loss term, from the batch alone (a token count, say).

    Known before the forward pass: the loss of the first microbatch is divided
    by it already.
    """
    ...

  def loss(
    self, params: Tree, rest: Variables, batch: Batch, *, step: jax.Array, key: jax.Array
  ) -> Losses:
    """Loss terms, new stats and metrics of one microbatch.

    Args:
      params: the trained parameters.
      rest: the frozen parameters and stats (its `params` is None).
      batch: arrays as in `batch_spec`, any number of rows.
      step: updates applied before this one, int32.
      key: random key of this step and microbatch.
    """
    ...


def check(task: Task, file: str) -> None:
  """Traces the loss of a user's task once, before anything is compiled.

  Raises:
    plugins.PluginError: it fails, or gives something else than a task gives;
      names the `file`.
  """
  name, results = type(task).__name__, {}

  def trace(key: jax.Array, batch: Batch) -> None:
    params, frozen, stats = task.init(key)
    results.update(stats=stats, weights=dict(task.weights(batch)))
    rest = Variables(None, frozen, stats)
    results["losses"] = task.loss(params, rest, batch, step=jnp.int32(0), key=key)

  with plugins.users(file, f"{name} fails"):
    jax.eval_shape(trace, jax.random.key(0), task.batch_spec(1))
  losses, names = results["losses"], {*results["weights"]}
  if not isinstance(losses, tuple) or len(losses) != 3:
    contract = "(loss terms, stats, metrics)"
  elif not _named(losses[0], LossTerm) or {*losses[0]} != names:
    contract = f"first a LossTerm of a scalar for each name of weights(): {sorted(names)}"
  elif jax.tree.structure(losses[1]) != jax.tree.structure(results["stats"]):
    contract = "second stats like those of init()"
  elif not _named(losses[2], Weighted):
    contract = "third metrics by name, each a Weighted of a scalar"
  else:
    return
  raise plugins.PluginError(
    f"{file}: {name}.loss() gives {losses!r}; it must give {contract} (totojax/tasks/__init__.py)"
  )


def _named(values: Any, kind: type[LossTerm | Weighted]) -> bool:
  return isinstance(values, Mapping) and all(
    isinstance(value, kind) and jnp.shape(value.sum) == () for value in values.values()
  )


@runtime_checkable
class Scored(Protocol):
  """A task whose logits an evaluation reads."""

  def outcomes(self, variables: Variables, batch: Batch, *, measure: Measure) -> Any:
    """`measure` of every head's logits, with leading axes [L, S]."""
    ...
