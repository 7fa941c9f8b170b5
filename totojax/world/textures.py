"""Textures drawn by a seed.

Shapes: S pixels of a side.
"""

import functools

import numpy as np

from totojax.world.scene import Look

SIDE_PX = 48
TEXTURES = ("plain", "checker", "stripes", "dots", "noise", "wood", "patches", "rings")


def pixels(look: Look, shrunk: int = 1) -> np.ndarray:
  """uint8 [S, S, 3]: a look's two colours, mixed as its texture has it.

  Args:
    look: of a surface.
    shrunk: pixels of a side that become one, their mean.

  Raises:
    ValueError: there is no such texture.
  """
  if look.texture not in TEXTURES:
    raise ValueError(f"texture {look.texture!r} is unknown; use one of {', '.join(TEXTURES)}")
  rng = np.random.default_rng([look.seed, TEXTURES.index(look.texture)])
  share_SS = _share(look.texture, rng)[..., None]
  if shrunk > 1:
    side = SIDE_PX // shrunk
    share_SS = share_SS.reshape(side, shrunk, side, shrunk, 1).mean((1, 3))
  colour_SS3 = share_SS * np.array(look.rgb2) + (1 - share_SS) * np.array(look.rgb)
  grain_SS1 = rng.normal(0, 0.015, share_SS.shape)  # nothing is quite even
  return np.clip(np.rint(255 * (colour_SS3 + grain_SS1)), 0, 255).astype(np.uint8)


@functools.cache
def _grid() -> tuple[np.ndarray, np.ndarray]:
  """y and x [S, S], 0 to 1."""
  y_SS, x_SS = np.mgrid[:SIDE_PX, :SIDE_PX] / SIDE_PX
  return y_SS, x_SS


def _share(texture: str, rng: np.random.Generator) -> np.ndarray:
  """[S, S]: how much of the second colour, 0 to 1."""
  y_SS, x_SS = _grid()
  cells = int(rng.integers(2, 6))
  if texture == "checker":
    return ((x_SS * cells).astype(int) + (y_SS * cells).astype(int)) % 2.0
  if texture == "stripes":
    tilt = int(rng.integers(-2, 3))
    # Nothing lies at an edge, where the last bit of a sine would decide.
    return (((cells * x_SS + tilt * y_SS + rng.uniform()) % 1) < 0.5) * 1.0
  if texture == "dots":
    across_SS, down_SS = (x_SS * cells) % 1 - 0.5, (y_SS * cells) % 1 - 0.5
    return (np.hypot(across_SS, down_SS) < rng.uniform(0.2, 0.38)) * 1.0
  if texture == "noise":
    return np.clip(0.5 + 1.6 * (_smooth(rng, 4) + 0.5 * _smooth(rng, 8)), 0, 1)
  if texture == "wood":
    return 0.5 + 0.5 * np.sin(2 * np.pi * (cells * 1.5 * x_SS + 1.2 * _smooth(rng, 3)))
  if texture == "patches":
    away_2CS = np.abs(x_SS[0] - rng.uniform(size=(14, 2)).T[..., None])
    across_CS, down_CS = np.minimum(away_2CS, 1 - away_2CS) ** 2
    nearest_SS = np.argmin(across_CS[:, None] + down_CS[..., None], 0)
    return rng.uniform(size=14)[nearest_SS]
  if texture == "rings":
    return 0.5 + 0.5 * np.sin(2 * np.pi * cells * 1.5 * np.hypot(x_SS - 0.5, y_SS - 0.5))
  return np.zeros((SIDE_PX, SIDE_PX))


def _smooth(rng: np.random.Generator, cells: int) -> np.ndarray:
  """[S, S]: noise between -0.5 and 0.5 that meets itself at the edges."""
  grid_CC = rng.uniform(-0.5, 0.5, (cells, cells))
  place_S = np.arange(SIDE_PX) / SIDE_PX * cells
  low_S = place_S.astype(int)
  part_S = place_S - low_S
  part_S = part_S**2 * (3 - 2 * part_S)
  rows_SC = grid_CC[low_S % cells] * (1 - part_S)[:, None]
  rows_SC += grid_CC[(low_S + 1) % cells] * part_S[:, None]
  return rows_SC[:, low_S % cells] * (1 - part_S) + rows_SC[:, (low_S + 1) % cells] * part_S
