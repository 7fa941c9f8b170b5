"""Label propagation: labels of a first frame follow the features of later ones.

A place of a frame takes the labels of the places most like it in the first frame
and in the frames before, weighted by a softmax of cosine similarities (Jabri et
al. 2020; with other numbers DINO, Caron et al. 2021). What it gets is soft, and is
what later frames take from it.

Frames come one at a time: what is kept are features and labels of the context, so
memory does not grow with a video, and similarities are made for `chunk` places at
a time.

Shapes: h and w places of a grid (Q = h w), D width, C labels, S frames of context
(the first of the video, then a ring), M = S Q places of it, B places of a chunk, K
neighbours, H and W pixels.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from totojax.config.propagation import Propagation

State = dict[str, jax.Array]  # features_SQD, labels_SQC, and count: frames after the first
CHUNK = 128  # places of a chunk
_BLOCK = 64  # values of which `largest` takes the maximum first
_HIGHEST = jax.lax.Precision.HIGHEST
_EPS = 1e-12


def start(features_hwD: Any, labels_hwC: Any, rule: Propagation) -> State:
  """The state after the first frame, whose labels are given."""
  first_QD = _normed(jnp.asarray(features_hwD, jnp.float32)).reshape(-1, np.shape(features_hwD)[-1])
  labels_QC = jnp.asarray(labels_hwC, jnp.float32).reshape(len(first_QD), -1)
  frames = rule.context_frames + 1
  return {
    "features_SQD": jnp.repeat(first_QD[None], frames, axis=0),
    "labels_SQC": jnp.repeat(labels_QC[None], frames, axis=0),
    "count": jnp.zeros((), jnp.int32),
  }


def step(
  state: State, features_hwD: Any, rule: Propagation, *, chunk: int = CHUNK
) -> tuple[State, jax.Array]:
  """The state after the next frame, and the frame's soft labels float32 [h, w, C].

  The state that is given is used up.
  """
  grid = np.shape(features_hwD)[:2]
  return program(rule, grid, chunk)(state, features_hwD)


def propagate(
  features_ThwD: Any, labels_hwC: Any, rule: Propagation, *, chunk: int = CHUNK
) -> np.ndarray:
  """Soft labels of all frames, float32 [T, h, w, C]; those of the first are given."""
  state = start(features_ThwD[0], labels_hwC, rule)
  out = [np.asarray(labels_hwC, np.float32)]
  for features_hwD in features_ThwD[1:]:
    state, soft_hwC = step(state, features_hwD, rule, chunk=chunk)
    out.append(np.asarray(soft_hwC))
  return np.stack(out)


@functools.lru_cache(maxsize=64)
def program(
  rule: Propagation, grid: tuple[int, int], chunk: int
) -> Callable[[State, Any], tuple[State, jax.Array]]:
  """The compiled step of `step`, for maps of (h, w) and so many places at a time."""
  h, w = grid
  places = h * w
  chunk = min(chunk, places)
  chunks = -(-places // chunk)
  rows_Q, columns_Q = np.divmod(np.arange(places), w)

  def near(rows_B: jax.Array, columns_B: jax.Array) -> jax.Array | None:
    """bool [B, Q], or None where all places are."""
    if not rule.radius:
      return None
    y_BQ, x_BQ = (
      jnp.abs(of_B[:, None] - of_Q[None])
      for of_B, of_Q in ((rows_B, rows_Q), (columns_B, columns_Q))
    )
    if rule.window == "square":
      return (y_BQ <= rule.radius) & (x_BQ <= rule.radius)
    return y_BQ**2 + x_BQ**2 < rule.radius**2

  def stepped(state: State, features_hwD: Any) -> tuple[State, jax.Array]:
    features_SQD, labels_SQC, count = (
      state[name] for name in ("features_SQD", "labels_SQC", "count")
    )
    frames, _, width = features_SQD.shape
    query_QD = _normed(jnp.asarray(features_hwD, jnp.float32)).reshape(places, width)
    keys_MD = features_SQD.reshape(-1, width)
    labels_MC = labels_SQC.reshape(len(keys_MD), -1)
    # The ring has copies of the first frame where no other has been yet.
    there_S = jnp.arange(frames) <= (frames if rule.fill else count)
    free_S = (jnp.arange(frames) == 0) & rule.first_everywhere

    def one(inputs: tuple[jax.Array, jax.Array]) -> jax.Array:
      query_BD, place_B = inputs
      like_BM = jnp.einsum("bd,md->bm", query_BD, keys_MD, precision=_HIGHEST)
      allowed_BSQ = there_S[None, :, None]
      if (near_BQ := near(place_B // w, place_B % w)) is not None:
        allowed_BSQ = allowed_BSQ & (near_BQ[:, None] | free_S[None, :, None])
      like_BSQ = like_BM.reshape(-1, frames, places) / rule.temperature
      like_BM = jnp.where(allowed_BSQ, like_BSQ, -jnp.inf).reshape(like_BM.shape)
      return _mixed(like_BM, labels_MC, rule)

    padded = chunks * chunk - places
    query_QD_padded = jnp.pad(query_QD, ((0, padded), (0, 0))).reshape(chunks, chunk, width)
    place_Q = jnp.minimum(jnp.arange(chunks * chunk), places - 1).reshape(chunks, chunk)
    soft_QC = jax.lax.map(one, (query_QD_padded, place_Q)).reshape(chunks * chunk, -1)[:places]
    if frames > 1:
      slot = 1 + count % (frames - 1)
      features_SQD = features_SQD.at[slot].set(query_QD)
      labels_SQC = labels_SQC.at[slot].set(soft_QC)
    after = {"features_SQD": features_SQD, "labels_SQC": labels_SQC, "count": count + 1}
    return after, soft_QC.reshape(h, w, -1)

  return jax.jit(stepped, donate_argnums=0)


def _mixed(like_BM: jax.Array, labels_MC: jax.Array, rule: Propagation) -> jax.Array:
  """[B, C]: labels of the places that are most like each."""
  k = min(rule.top_k, like_BM.shape[1])
  best_BK, index_BK = largest(like_BM, k)
  if not rule.keep_ties:
    weights_BK = jax.nn.softmax(best_BK, axis=-1)
    return jnp.einsum("bk,bkc->bc", weights_BK, labels_MC[index_BK], precision=_HIGHEST)
  kept_BM = jnp.where(like_BM >= best_BK[:, -1:], like_BM, -jnp.inf)
  weights_BM = jax.nn.softmax(kept_BM, axis=-1)
  return jnp.einsum("bm,mc->bc", weights_BM, labels_MC, precision=_HIGHEST)


def largest(values_BM: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
  """`jax.lax.top_k`, five times as fast on a CPU where k is small.

  The k largest values lie in the k blocks with the largest maxima; of equal ones
  the first are taken, as there.
  """
  rows, count = values_BM.shape
  blocks = -(-count // _BLOCK)
  if blocks <= 2 * k:
    return jax.lax.top_k(values_BM, k)
  padding = ((0, 0), (0, blocks * _BLOCK - count))
  if padding[1][1]:
    values_BM = jnp.pad(values_BM, padding, constant_values=-jnp.inf)
  values_BNV = values_BM.reshape(rows, blocks, _BLOCK)
  _, chosen_BK = jax.lax.top_k(values_BNV.max(-1), k)
  chosen_BK = jnp.sort(chosen_BK, axis=-1)
  some_BM = jnp.take_along_axis(values_BNV, chosen_BK[..., None], axis=1).reshape(rows, -1)
  best_BK, place_BK = jax.lax.top_k(some_BM, k)
  block_BK = jnp.take_along_axis(chosen_BK, place_BK // _BLOCK, axis=1)
  return best_BK, block_BK * _BLOCK + place_BK % _BLOCK


def _normed(x: jax.Array) -> jax.Array:
  norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
  return x / jnp.maximum(norm, _EPS)
