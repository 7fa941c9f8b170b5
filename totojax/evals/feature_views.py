"""What features hold, as pictures: their first principal components, and likeness to a place.

  f = totojax.load(RUN).features(frames, layer=4)      # [T, G, G, D]
  colours = feature_views.Basis.of(f).colours(f)       # uint8 [T, G, G, 3]
  like = feature_views.cosine(f, frame=0, place=(3, 5))  # [T, G, G]

Shapes: T frames, h and w places of a map, D width, M places of all that a basis is of.
"""

from collections.abc import Iterable
import dataclasses

import numpy as np

_ENDS = (0.01, 0.99)  # quantiles that are dark and light
_COLOURS = 3


@dataclasses.dataclass(frozen=True)
class Basis:
  """The first three principal components of features, and their ranges.

  Attributes:
    mean_D: of the features.
    components_3D: of length 1; the largest value of each is positive.
    ends_23: of each component, what is dark and what is light.
    shares_3: of the variance.
  """

  mean_D: np.ndarray
  components_3D: np.ndarray
  ends_23: np.ndarray
  shares_3: np.ndarray

  @classmethod
  def of(cls, maps: np.ndarray | Iterable[np.ndarray]) -> "Basis":
    """Of maps [..., D], or of several that are gone through twice.

    Raises:
      ValueError: features have less than 3 values, or there are less than 2.
    """
    many = [maps] if isinstance(maps, np.ndarray) else list(maps)
    width = many[0].shape[-1]
    flat = [np.asarray(each, np.float64).reshape(-1, width) for each in many]
    count = sum(map(len, flat))
    if width < _COLOURS or count < 2:
      raise ValueError(f"{count} features of {width} values have no {_COLOURS} components")
    mean_D = np.sum([x_MD.sum(0) for x_MD in flat], axis=0) / count
    covariance = np.sum([(x - mean_D).T @ (x - mean_D) for x in flat], axis=0) / count
    values, vectors = np.linalg.eigh(covariance)
    components_3D = vectors[:, ::-1][:, :_COLOURS].T
    largest = np.take_along_axis(components_3D, np.abs(components_3D).argmax(1)[:, None], 1)
    components_3D = components_3D * np.sign(largest)
    seen = np.concatenate([(x_MD - mean_D) @ components_3D.T for x_MD in flat])
    total = max(values.sum(), np.finfo(np.float64).tiny)
    return cls(
      mean_D, components_3D, np.quantile(seen, _ENDS, axis=0), values[::-1][:_COLOURS] / total
    )

  def colours(self, maps: np.ndarray) -> np.ndarray:
    """uint8 [..., 3]: red, green and blue are the first, second and third component."""
    low, high = self.ends_23
    seen = (np.asarray(maps, np.float64) - self.mean_D) @ self.components_3D.T
    level = np.clip((seen - low) / np.where(high > low, high - low, 1.0), 0, 1)
    return np.rint(255 * level).astype(np.uint8)


def cosine(maps_ThwD: np.ndarray, *, frame: int, place: tuple[int, int]) -> np.ndarray:
  """Likeness of every place to one of a frame, float32 [T, h, w] from -1 to 1.

  Raises:
    ValueError: there is no such place.
  """
  t, h, w, _ = maps_ThwD.shape
  if not (0 <= frame < t and 0 <= place[0] < h and 0 <= place[1] < w):
    raise ValueError(f"frame {frame} and place {place} are not in maps of {t} frames of {h} x {w}")
  norm = np.linalg.norm(maps_ThwD, axis=-1, keepdims=True)
  normed_ThwD = maps_ThwD / np.maximum(norm, 1e-12)
  return (normed_ThwD @ normed_ThwD[frame, place[0], place[1]]).astype(np.float32)
