"""Schedule-free AdamW: a constant rate, and an average in place of a decay.

Defazio et al., 2024 (arXiv 2405.15682), through `optax.contrib`. There are
three points: z, which AdamW moves; x, the mean of all z so far, which is
evaluated; and y = b1 x + (1 - b1) z between them, where the gradient is taken.
optax's parameters are y. Ours are x, and y is made for each gradient: whoever
reads parameters, in an evaluation or from a checkpoint, has the average.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax
from optax import contrib


def averaged(
  moves: optax.GradientTransformation, rate: Callable[[jax.Array], jax.Array], *, b1: float
) -> optax.GradientTransformation:
  """The average of what an optimiser without momentum does.

  Args:
    moves: from gradients to updates of z.
    rate: updates made -> the rate, whose square each z is weighted by.
    b1: how close to the average the gradient is taken.
  """
  tx = contrib.schedule_free(moves, rate, b1=b1)

  def init(params):
    if jax.tree.leaves(params):
      return tx.init(params)
    # optax asks with no parameters where in the state they are.
    state = contrib.schedule_free(optax.identity(), rate, b1=b1).init(jax.numpy.zeros(()))
    return state._replace(base_optimizer_state=moves.init(params), z=params)

  def update(grads, state, params):
    here = _between(state, params)
    changes, later = tx.update(grads, state, here)
    there = optax.apply_updates(here, changes)
    mean = contrib.schedule_free_eval_params(later, there)
    return jax.tree.map(lambda new, old: new - old, mean, params), later

  return optax.GradientTransformation(init, update)


def _between(state: contrib.ScheduleFreeState, params: Any) -> Any:
  return jax.tree.map(lambda x, z: state.b1 * x + (1.0 - state.b1) * z, params, state.z)


def gradient_at(opt_state: Any, params: Any) -> Any:
  """Where the gradient is taken (y), of the optimiser's state and the average."""
  return _between(opt_state.inner_state, params)
