"""Labels of pixels as soft maps on a grid, and back.

Resizing is OpenCV's and Pillow's, after which published numbers go: bilinear
between centres of pixels without antialiasing, and two kinds of nearest pixels.

Shapes: H and W pixels, h and w places of a grid, C labels.
"""

from collections.abc import Callable, Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

from totojax.config.propagation import Propagation

Size = tuple[int, int]  # (height, width)
_HIGHEST = jax.lax.Precision.HIGHEST


def nearest(labels_HW: np.ndarray, size: Size, *, centred: bool) -> np.ndarray:
  """Labels at another size, by the nearest pixel.

  Args:
    labels_HW: of pixels.
    size: the new one.
    centred: between the centres of pixels, as Pillow does it; else between their
      corners, as OpenCV's INTER_NEAREST.
  """
  shift = 0.5 if centred else 0.0
  rows, columns = (
    np.minimum(((np.arange(new) + shift) * old / new).astype(int), old - 1)
    for old, new in zip(labels_HW.shape, size)
  )
  return labels_HW[rows[:, None], columns[None]]


def interpolation(old: int, new: int) -> np.ndarray:
  """float32 [new, old]: what each of `new` pixels is of `old`, bilinearly."""
  place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
  left = np.minimum(place.astype(int), max(old - 2, 0))
  out = np.zeros((new, old), np.float32)
  out[np.arange(new), left] += 1 - (place - left)
  out[np.arange(new), np.minimum(left + 1, old - 1)] += place - left
  return out


@functools.lru_cache(maxsize=64)
def _resized(
  old: Size, new: Size, *, normalise: bool, decide: bool
) -> Callable[[jax.Array], jax.Array]:
  rows, columns = (interpolation(a, b) for a, b in zip(old, new))

  def resized(maps_hwC: jax.Array) -> jax.Array:
    maps_HWC = jnp.einsum("Hh,hwc->Hwc", rows, maps_hwC, precision=_HIGHEST)
    maps_HWC = jnp.einsum("Ww,Hwc->HWc", columns, maps_HWC, precision=_HIGHEST)
    if normalise:
      least_C, most_C = maps_HWC.min((0, 1)), maps_HWC.max((0, 1))
      range_C = jnp.where(most_C > least_C, most_C - least_C, 1.0)
      maps_HWC = jnp.where(most_C > 0, (maps_HWC - least_C) / range_C, maps_HWC)
    return jnp.argmax(maps_HWC, -1).astype(jnp.uint8) if decide else maps_HWC

  return jax.jit(resized)


def bilinear(maps_hwC: np.ndarray | jax.Array, size: Size) -> np.ndarray:
  """Maps at another size, float32."""
  program = _resized(maps_hwC.shape[:2], size, normalise=False, decide=False)
  return np.asarray(program(jnp.asarray(maps_hwC, jnp.float32)))


def first(
  labels_HW: np.ndarray, ids: Sequence[int], *, grid: Size, input_px: Size, how: str
) -> np.ndarray:
  """Soft maps of the labels of a first frame, float32 [h, w, C].

  Args:
    labels_HW: a label of each pixel; those that are not in `ids` are in no map.
    ids: the label of each map.
    grid: (h, w).
    input_px: size of the frames that the encoder reads.
    how: as `config.propagation.Propagation.first_labels`.
  """
  ids_C = np.asarray(ids)
  if how == "nearest":
    return (nearest(labels_HW, grid, centred=True)[..., None] == ids_C).astype(np.float32)
  if how == "input":
    labels_HW = nearest(labels_HW, input_px, centred=False)
  return bilinear((labels_HW[..., None] == ids_C).astype(np.float32), grid)


def decided(
  soft_hwC: np.ndarray | jax.Array,
  ids: Sequence[int],
  *,
  size: Size,
  input_px: Size,
  rule: Propagation,
) -> np.ndarray:
  """uint8 [H, W]: the label of each pixel of a frame; of equal ones the first.

  Args:
    soft_hwC: maps on the grid.
    ids: the label of each.
    size: of the frame.
    input_px: of the frame that the encoder reads.
    rule: its `output` and `normalise`.
  """
  at = size if rule.output == "image" else input_px
  program = _resized(soft_hwC.shape[:2], at, normalise=rule.normalise, decide=True)
  found = np.asarray(ids, np.uint8)[np.asarray(program(jnp.asarray(soft_hwC)))]
  return found if at == size else nearest(found, size, centred=True)
