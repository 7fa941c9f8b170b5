"""What tests of the rendered world need: OpenGL, or a skip that says so; small scenes."""

import functools
import hashlib
import importlib.util
import os
import sys

import numpy as np
import pytest

from totojax.data.pixels import workers
from totojax.world import film, processes
from totojax.world.scene import Camera, Look, Scene, Spec, Thing

PLAIN = Look((0.5, 0.5, 0.5))


def need() -> None:
  """Skips the test where there is no OpenGL; under TOTOJAX_ALL_TESTS MuJoCo must be there."""
  reason = _lacking()
  if "mujoco" in reason and os.environ.get("TOTOJAX_ALL_TESTS"):
    pytest.fail(f"{reason}, and TOTOJAX_ALL_TESTS is set")
  if reason:
    pytest.skip(reason)


@functools.cache
def _lacking() -> str:
  """What is missing for a picture; "": nothing. Tried in another process."""
  if importlib.util.find_spec("mujoco") is None:
    return "needs mujoco of the extra 'world'"
  with processes.Pool(1) as pool:
    try:
      pool.backend()
    except (ImportError, OSError) as error:
      return f"needs OpenGL without a screen: {error}"
  return ""


def spec(kind: str = "tabletop", index: int = 0, **more) -> Spec:
  """A small scene of a kind."""
  sizes = dict(seed=0, frames=6, width_px=64, height_px=64, fps=15.0, things=(3, 5))
  return Spec(kind=kind, index=index, **{**sizes, **more})


def still(frames: int, eye, target=(0.0, 0.0, 0.0), *, fovy_deg: float = 40.0) -> Camera:
  """A camera that does not move."""
  rows = [np.tile(np.array(at, np.float64), (frames, 1)) for at in (eye, target)]
  return Camera(*rows, fovy_deg, 0.05, 20.0)


def scene(things: list[Thing], camera: Camera, *, width_px: int, height_px: int, **more) -> Scene:
  """Some things on a plain table, seen by a camera."""
  made = spec(
    frames=len(camera.eye_N3), width_px=width_px, height_px=height_px, things=(1, len(things))
  )
  return Scene(made, tuple(things), camera, PLAIN, (1.0, 1.0), PLAIN, (0.0, 0.0, -1.0), **more)


def ball(radius: float, pos, **more) -> Thing:
  """A ball of this radius."""
  name = more.pop("name", "ball")
  return Thing(name, "ball", "ball", radius / 0.75, PLAIN, pos, **more)


def digest(clip: "film.Clip") -> str:
  """Stands for all pixels and labels of a clip; run in a child."""
  arrays = (clip.rgb_NHW3, clip.masks_NHW, clip.depth_NHW, clip.boxes_NT4, clip.pos_NT3)
  return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def whole(clip: "film.Clip") -> "film.Clip":
  """The clip itself, out of a child."""
  return clip


def modules(clip: "film.Clip") -> list[str]:
  """Which of the two that must not meet a child has loaded."""
  del clip
  return sorted({"jax", "mujoco"} & set(sys.modules))


def shoot(made: Scene) -> "film.Clip":
  stage = film.Studio(made.spec.width_px, made.spec.height_px)
  try:
    return stage.shoot(made)
  finally:
    stage.close()


def studio():
  """A child in which `shoot` is called, for scenes of one's own."""
  return workers.children(1, _begin)


def _begin() -> None:
  processes.begin("")
  processes.take_gl("")
