"""Boxes of detectors with fixed shapes: overlap, coding, anchors, matching, NMS.

They are (x1, y1, x2, y2) in pixels, of float32, as torchvision has them, and so
are the numbers (its version 0.29). Where torchvision gives fewer boxes, here are
as many as came in, with a mask of those that stay.

Shapes: K boxes, O objects, M anchors of a map, H and W its rows and columns.
"""

from collections.abc import Callable, Sequence
import math

import jax
import jax.numpy as jnp
import numpy as np

# exp() of a side is at most so large, torchvision's and Detectron's.
LARGEST = math.log(1000.0 / 16.0)
# How the deltas of anchors and of regions are scaled (Ren et al., 2015).
PLAIN, SECOND = (1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)
BELOW, BETWEEN = -1, -2  # of `match`: of background, and of neither


def areas(boxes_K4: jax.Array) -> jax.Array:
  """[K] square pixels."""
  return (boxes_K4[..., 2] - boxes_K4[..., 0]) * (boxes_K4[..., 3] - boxes_K4[..., 1])


def iou(ours_K4: jax.Array, theirs_O4: jax.Array) -> jax.Array:
  """Intersection over union [K, O]; 0 where both are empty."""
  low = jnp.maximum(ours_K4[:, None, :2], theirs_O4[None, :, :2])
  high = jnp.minimum(ours_K4[:, None, 2:], theirs_O4[None, :, 2:])
  both_KO = jnp.prod(jnp.maximum(high - low, 0.0), -1)
  union_KO = areas(ours_K4)[:, None] + areas(theirs_O4)[None] - both_KO
  return jnp.where(both_KO > 0.0, both_KO / jnp.where(both_KO > 0.0, union_KO, 1.0), 0.0)


def clipped(boxes_K4: jax.Array, height_px: float, width_px: float) -> jax.Array:
  """What of boxes lies in a picture."""
  sides = jnp.array([width_px, height_px, width_px, height_px], jnp.float32)
  return jnp.clip(boxes_K4, 0.0, sides)


def _centres(boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Centres and sides, (x, y) each."""
  sides = boxes[..., 2:] - boxes[..., :2]
  return boxes[..., :2] + 0.5 * sides, sides


def encode(
  truth_K4: jax.Array, anchors_K4: jax.Array, weights: Sequence[float] = PLAIN
) -> jax.Array:
  """Deltas [K, 4] that `decode` makes `truth_K4` of.

  Centres are moved in sides of the anchor, sides are logarithms of ratios. A side
  of nothing counts as a thousandth of a pixel, so that padding has finite ones.
  """
  (at, sides), (from_, own) = _centres(truth_K4), _centres(anchors_K4)
  own = jnp.maximum(own, 1e-3)
  moved, grown = (at - from_) / own, jnp.log(jnp.maximum(sides, 1e-3) / own)
  return jnp.concatenate([moved, grown], -1) * jnp.asarray(weights, jnp.float32)


def decode(
  deltas_K4: jax.Array, anchors_K4: jax.Array, weights: Sequence[float] = PLAIN
) -> jax.Array:
  """Boxes of deltas [..., 4]; a side grows to 62.5 times the anchor's at most."""
  deltas = deltas_K4 / jnp.asarray(weights, jnp.float32)
  from_, own = _centres(anchors_K4)
  at = from_ + deltas[..., :2] * own
  half = 0.5 * own * jnp.exp(jnp.minimum(deltas[..., 2:], LARGEST))
  return jnp.concatenate([at - half, at + half], -1)


def anchors(
  side_px: float, ratios: Sequence[float], *, grid: tuple[int, int], stride: tuple[float, float]
) -> np.ndarray:
  """float32 [H * W * ratios, 4], place by place, around the corners of its cells.

  Args:
    side_px: the root of an anchor's area.
    ratios: heights over widths.
    grid: rows and columns of the map.
    stride: pixels between rows, and between columns.
  """
  roots = np.sqrt(np.asarray(ratios, np.float32))
  width, height = side_px / roots, side_px * roots
  # Rounded to even, as torch rounds.
  base_R4 = np.round(np.stack([-width, -height, width, height], 1) / 2.0)
  x_W, y_H = np.arange(grid[1]) * stride[1], np.arange(grid[0]) * stride[0]
  x_HW, y_HW = np.meshgrid(x_W, y_H)
  shift_M4 = np.stack([x_HW, y_HW, x_HW, y_HW], -1).reshape(-1, 1, 4)
  return (shift_M4 + base_R4).reshape(-1, 4).astype(np.float32)


def match(
  overlap_OK: jax.Array, real_O: jax.Array, *, high: float, low: float, rescue: bool = False
) -> jax.Array:
  """int32 [K]: the object of each box, `BELOW` or `BETWEEN`.

  Args:
    overlap_OK: IoU.
    real_O: which objects are there; others are padding, and nobody's.
    high: from here on the box is the object's that it overlaps most.
    low: below it is background; in between it is neither.
    rescue: whether boxes that no other box overlaps an object more than are taken
      by the object that they overlap most, however little (of anchors).
  """
  overlap_OK = jnp.where(real_O[:, None], overlap_OK, -1.0)
  most_K, object_K = jnp.max(overlap_OK, 0), jnp.argmax(overlap_OK, 0).astype(jnp.int32)
  found_K = jnp.where(most_K < high, jnp.where(most_K < low, BELOW, BETWEEN), object_K)
  if rescue:
    best_O1 = jnp.max(overlap_OK, 1, keepdims=True)
    best_K = jnp.any((overlap_OK == best_O1) & real_O[:, None], 0)
    found_K = jnp.where(best_K, object_K, found_K)
  return found_K.astype(jnp.int32)


def nms(
  boxes_K4: jax.Array,
  scores_K: jax.Array,
  threshold: float,
  *,
  labels_K: jax.Array | None = None,
  valid_K: jax.Array | None = None,
) -> jax.Array:
  """bool [K]: which boxes stay, of greedy non-maximum suppression.

  A box goes where one of a higher score that stays overlaps it by more than the
  threshold. Whether it stays depends on boxes before it alone, so that asking
  all at once again and again ends at the greedy answer: after n rounds at least
  the n best are right, and it is over when nothing changes. That takes as many
  rounds as the longest chain in which each puts out the next, a handful, and a
  round is one product of a matrix, where a loop over boxes is K steps.

  Args:
    boxes_K4, scores_K: the boxes; equal scores in the order in which they stand.
    threshold: IoU.
    labels_K: int; boxes of another label are left alone (batched NMS).
    valid_K: others neither stay nor put out.
  """
  valid_K = jnp.ones(scores_K.shape, bool) if valid_K is None else valid_K
  scores_K = jnp.where(valid_K, scores_K, -jnp.inf)
  places_K = jnp.arange(len(scores_K))
  ahead_KK = scores_K[:, None] > scores_K[None]
  ahead_KK |= (scores_K[:, None] == scores_K[None]) & (places_K[:, None] < places_K[None])
  with jax.named_scope("nms"):
    overlap_KK = iou(boxes_K4, boxes_K4)
  out_KK = (overlap_KK > threshold) & ahead_KK & valid_K[:, None]
  if labels_K is not None:
    out_KK &= labels_K[:, None] == labels_K[None]
  # 0 and 1 are exact in bfloat16, and so is whether a sum of them is above 0.
  out_KK = out_KK.astype(jnp.bfloat16)

  def round_(state):
    stay_K, _ = state
    hits_K = jax.lax.dot_general(
      stay_K.astype(jnp.bfloat16),
      out_KK,
      (((0,), (0,)), ((), ())),
      preferred_element_type=jnp.float32,
    )
    new_K = valid_K & (hits_K == 0.0)
    return new_K, jnp.any(new_K != stay_K)

  with jax.named_scope("nms"):
    return settled(round_, valid_K)


def settled(
  round_: Callable[[tuple[jax.Array, jax.Array]], tuple[jax.Array, jax.Array]], first: jax.Array
) -> jax.Array:
  """What rounds of (array, whether the last changed it) end with."""
  state = jax.lax.while_loop(lambda state: state[1], round_, (first, jnp.array(True)))
  return state[0]


def best(scores_K: jax.Array, valid_K: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
  """(int32 places, bool whether they are real) of the `count` best, in order.

  Of fewer boxes than `count` the places are filled with ones that are not real.
  """
  some = min(count, len(scores_K))
  scores, places = jax.lax.top_k(jnp.where(valid_K, scores_K, -jnp.inf), some)
  pad = (0, count - some)
  return jnp.pad(places, pad), jnp.pad(scores > -jnp.inf, pad)
