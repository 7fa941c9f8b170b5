"""Stills of which everything is known, and what five tasks of vision make of them.

A scene has objects and backgrounds of `synthetic`. All objects are of one size
and seen by a pinhole: one of half the radius is twice as far. What is nearer is
drawn later and hides what is behind, so order and size of an object tell its
depth. A picture of a task follows from the scene to the pixel:

  depth          grey, 255 / depth: 255 at a depth of 1 (the largest object),
                 64 at that of the background, 4
  segmentation   each kind of shape, and the background, in its colour of `PALETTE`
  colourisation  the scene; what is given is its luma (Rec. 601)
  rotation       the scene, turned by 90, 180 or 270 degrees
  edges          white where a pixel beside another has another object, or none

Pixels belong to the nearest object that covers half of them.

Shapes: H height, W width (H = W = size_px).
"""

import dataclasses

import numpy as np

from totojax.config.pixels import Scene as SceneConfig
from totojax.config.prompt_tune import TASKS
from totojax.data.pixels import synthetic

RADIUS = (0.12, 0.30)  # of an object in a scene, of a side: the largest is at a depth of 1
FAR = 4.0  # depth of the background
TURNS = (1, 2, 3)  # quarters, anticlockwise
# Colours that objects and backgrounds have too, so that a tokenizer of such
# scenes has codes for them. Of the background, and then of `synthetic.SHAPES`.
PALETTE = np.array([(28, 28, 34), *synthetic.OBJECT_RGB.astype(int), (245, 245, 245)], np.uint8)
_LUMA = np.array((0.299, 0.587, 0.114), np.float32)  # Rec. 601


@dataclasses.dataclass(frozen=True)
class Scene:
  """A still, and what is at each pixel of it."""

  image_HW3: np.ndarray  # uint8
  depth_HW: np.ndarray  # float32, 1 to `FAR`
  kind_HW: np.ndarray  # int, 0 for the background, then 1 + index into `synthetic.SHAPES`
  object_HW: np.ndarray  # int, 0 for the background, then from far to near


def render(*, size_px: int, objects: int, seed: int, index: int) -> Scene:
  """Scene `index`, of 1 to `objects` objects; a function of the arguments alone."""
  rng = np.random.default_rng([seed, index])
  config = synthetic.SyntheticConfig(
    **vars(SceneConfig(frames=1, size_px=size_px, pan_frac=0.0)), seed=seed
  )
  image_1HW3 = synthetic.background(rng, config, np.zeros(1, np.float32)).copy()
  count = int(rng.integers(1, objects + 1))
  depth_HW = np.full((size_px, size_px), FAR, np.float32)
  kind_HW, object_HW = np.zeros((2, size_px, size_px), int)
  for number, radius in enumerate(np.sort(rng.uniform(*RADIUS, count)), 1):
    shape = int(rng.integers(len(synthetic.SHAPES)))
    texture = synthetic.TEXTURES[rng.integers(len(synthetic.TEXTURES))]
    rgb_3 = synthetic.OBJECT_RGB[rng.integers(len(synthetic.OBJECT_RGB))]
    x, y, angle = rng.uniform(0, [1, 1, 2 * np.pi])
    path = synthetic.Path(*(np.array([value]) for value in (x, y, radius, angle)))
    synthetic.paint(image_1HW3, path, synthetic.SHAPES[shape], texture, rgb_3)
    is_here_HW = synthetic.covered(path, synthetic.SHAPES[shape], size_px)[0] >= 0.5
    depth_HW[is_here_HW] = RADIUS[1] / radius
    kind_HW[is_here_HW], object_HW[is_here_HW] = 1 + shape, number
  image_HW3 = np.clip(np.rint(image_1HW3[0]), 0, 255).astype(np.uint8)
  return Scene(image_HW3, depth_HW, kind_HW, object_HW)


def pair(task: str, scene: Scene, turn: int) -> tuple[np.ndarray, np.ndarray]:
  """(input, output) of a task, uint8 [H, W, 3] each.

  Args:
    task: one of `TASKS`.
    scene: of both.
    turn: of a rotation, one of `TURNS`.

  Raises:
    ValueError: there is no such task.
  """
  image_HW3 = scene.image_HW3
  match task:
    case "depth":
      return image_HW3, _grey(255 / scene.depth_HW)
    case "segmentation":
      return image_HW3, PALETTE[scene.kind_HW]
    case "colourisation":
      return _grey(image_HW3 @ _LUMA), image_HW3
    case "rotation":
      return image_HW3, np.ascontiguousarray(np.rot90(image_HW3, turn))
    case "edges":
      return image_HW3, _grey(255 * edges(scene.object_HW))
  raise ValueError(f"task {task!r} is unknown; use one of {', '.join(TASKS)}")


def edges(object_HW: np.ndarray) -> np.ndarray:
  """bool [H, W]: whether a pixel right beside, above or below has another number."""
  out_HW = np.zeros(object_HW.shape, bool)
  for axis in (0, 1):
    ahead, behind = ((slice(None),) * axis + (part,) for part in (slice(1, None), slice(-1)))
    differs = object_HW[ahead] != object_HW[behind]
    out_HW[ahead] |= differs
    out_HW[behind] |= differs
  return out_HW


def _grey(values_HW: np.ndarray) -> np.ndarray:
  grey_HW = np.clip(np.rint(values_HW), 0, 255).astype(np.uint8)
  return np.repeat(grey_HW[..., None], 3, axis=-1)
