"""RoI align with fixed shapes: what a map of features holds in boxes.

Bilinear sampling is a product of one weighting over rows and one over columns,
and so are means over the samples of a bin. A region is therefore two small
matrices, A_y [bins, H] and A_x [bins, W], and what it holds is A_y F A_x^T: products
of matrices, which a TPU is made for, in place of gathers, with the same numbers
as torchvision's `roi_align` (aligned=False).

Shapes: R regions, P bins of a side, S samples of a bin's side, H and W rows and
columns of a map, C channels.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from totojax.models import boxes as boxes_lib

# Of `levels`: the side of a region, in pixels, that is read in this level (Lin et al., 2017).
CANONICAL_PX, CANONICAL_LEVEL = 224.0, 4


def _weights(
  low_R: jax.Array, high_R: jax.Array, cells: int, *, bins: int, samples: int
) -> jax.Array:
  """float32 [R, P, cells] along one axis; the ends are in cells of the map."""
  size_R = jnp.maximum(high_R - low_R, 1.0)
  most = samples or -(-(cells + 1) // bins)
  count_R = jnp.full(size_R.shape, samples, jnp.float32)
  if not samples:
    count_R = jnp.clip(jnp.ceil(size_R / bins), 1.0, most)
  sample_S = jnp.arange(most, dtype=jnp.float32)
  within_RS = (sample_S + 0.5) / count_R[:, None]
  bin_P = jnp.arange(bins, dtype=jnp.float32)
  width_R = size_R / bins
  at_RPS = low_R[:, None, None] + width_R[:, None, None] * (bin_P[:, None] + within_RS[:, None])
  counts_RPS = (sample_S < count_R[:, None])[:, None] & (at_RPS >= -1.0) & (at_RPS <= cells)
  # Beyond the last cell it is that cell's value.
  at_RPS = jnp.clip(at_RPS, 0.0, cells - 1.0)
  cell = jnp.arange(cells, dtype=jnp.float32)
  share = jnp.maximum(1.0 - jnp.abs(at_RPS[..., None] - cell), 0.0)
  share *= counts_RPS[..., None]
  return jnp.sum(share, 2) / count_R[:, None, None]


@jax.named_scope("roi_align")
def roi_align(
  map_HWC: jax.Array, boxes_R4: jax.Array, *, scale: float, bins: int, samples: int = 2
) -> jax.Array:
  """[R, P, P, C]: means of bilinear samples in the bins of each box.

  Args:
    map_HWC: features of one picture.
    boxes_R4: in its pixels.
    scale: cells of the map in a pixel, of rows as of columns.
    bins: of a side (P).
    samples: of a bin's side; 0: as many as cells, torchvision's default, up to
      those that a box in the picture has.
  """
  height, width, _ = map_HWC.shape
  x1_R, y1_R, x2_R, y2_R = jnp.moveaxis(boxes_R4.astype(jnp.float32) * scale, -1, 0)
  rows_RPH = _weights(y1_R, y2_R, height, bins=bins, samples=samples).astype(map_HWC.dtype)
  columns_RQW = _weights(x1_R, x2_R, width, bins=bins, samples=samples).astype(map_HWC.dtype)
  half_RPWC = jnp.einsum("RPH,HWC->RPWC", rows_RPH, map_HWC)
  return jnp.einsum("RQW,RPWC->RPQC", columns_RQW, half_RPWC)


def levels(
  boxes_R4: jax.Array,
  count: int,
  *,
  first: int,
  canonical_px: float = CANONICAL_PX,
  canonical_level: int = CANONICAL_LEVEL,
) -> jax.Array:
  """int32 [R] below `count`: which map of a pyramid a box is read from.

  Args:
    boxes_R4: in pixels.
    count: maps, of which each is half as fine as the one before.
    first: minus the logarithm, to base 2, of the first one's scale.
    canonical_px, canonical_level: the level of boxes of this side.
  """
  side_R = jnp.sqrt(jnp.maximum(boxes_lib.areas(boxes_R4), 0.0))
  level_R = jnp.floor(canonical_level + jnp.log2(side_R / canonical_px + 1e-30) + 1e-6)
  return (jnp.clip(level_R, first, first + count - 1) - first).astype(jnp.int32)


def pooled(
  maps: Sequence[jax.Array],
  boxes_R4: jax.Array,
  level_R: jax.Array,
  *,
  scales: Sequence[float],
  bins: int,
  samples: int = 2,
) -> jax.Array:
  """`roi_align` [R, P, P, C], of each box in its level's map.

  Every map is read with every box, which fixed shapes ask for; what is not the
  box's level counts 0. Of half as many rows and columns a map costs a quarter.
  """
  total = None
  for number, (map_HWC, scale) in enumerate(zip(maps, scales, strict=True)):
    own_R = (level_R == number)[:, None, None, None]
    part = roi_align(map_HWC, boxes_R4, scale=scale, bins=bins, samples=samples)
    part = jnp.where(own_R, part, 0)
    total = part if total is None else total + part
  assert total is not None, "a pyramid has maps"
  return total
