"""Films in processes of their own: MuJoCo and OpenGL never meet jax.

The caller has neither, nor `MUJOCO_GL` in its environment: a child sets it, and
how many threads Mesa may take (none: there are as many children as wanted),
before it imports MuJoCo. Children end with their parent.
"""

import collections
from collections.abc import Callable, Generator, Iterable
import concurrent.futures
from concurrent.futures import process
import itertools
import os
from typing import Any, Self, TypeVar

from totojax.data.pixels import workers
from totojax.world.scene import Spec

T = TypeVar("T")
BACKENDS = ("egl", "osmesa")
_AHEAD = 3  # scenes of a process that are drawn or waiting at a time
_studios: dict[tuple[int, int], Any] = {}  # of a child, by size


class Pool:
  """Child processes that shoot scenes; a context manager, which ends them."""

  def __init__(self, processes: int, gl: str = ""):
    """Starts none yet: each is started when there is work for it.

    Args:
      processes: how many children there may be; at least 1.
      gl: "egl" or "osmesa"; "": MUJOCO_GL if it is set, else the first that works.
    """
    self._gl, self._room = gl, processes * _AHEAD
    self._children = workers.children(processes, begin, gl)

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self._children.shutdown(wait=True, cancel_futures=True)

  def backend(self) -> str:
    """Which OpenGL draws, in a child that has tried it.

    Raises:
      ImportError: MuJoCo or OpenGL is missing; says what to install.
      OSError: the child died.
    """
    return self._result(self._children.submit(_try))

  def films(self, specs: Iterable[Spec], use: Callable[..., T], *more: Any) -> Generator[T]:
    """`use(clip, *more)` of each spec's clip, in order; called in a child.

    Args:
      specs: of the scenes.
      use: a function of a module, which a child imports; what it returns comes back.
      *more: further arguments.

    Raises:
      ImportError, OSError: as `backend`.
    """
    left, waiting = iter(specs), collections.deque()
    try:
      while True:
        for spec in itertools.islice(left, self._room - len(waiting)):
          waiting.append(self._children.submit(_film, spec, use, more))
        if not waiting:
          return
        yield self._result(waiting.popleft())
    finally:
      for future in waiting:
        future.cancel()

  def _result(self, future: concurrent.futures.Future[T]) -> T:
    try:
      return future.result()
    except process.BrokenProcessPool as error:
      raise OSError(
        f"a process that draws with OpenGL ({self._gl or 'as found'}) died; run the same command"
        " again, it goes on where it stopped, or set gl to the other of egl and osmesa"
      ) from error


def begin(gl: str) -> None:
  """In a child, before anything draws."""
  os.environ["LP_NUM_THREADS"] = "0"
  if gl:
    os.environ["MUJOCO_GL"] = gl
  os.environ.setdefault("MUJOCO_GL", "")


def _studio(width_px: int, height_px: int) -> Any:
  """This child's for frames of a size."""
  from totojax.world import film

  if (width_px, height_px) not in _studios:
    take_gl("")
    while _studios:  # one context is current at a time
      _studios.popitem()[1].close()
    _studios[width_px, height_px] = film.Studio(width_px, height_px)
  return _studios[width_px, height_px]


def take_gl(gl: str) -> None:
  """Which OpenGL this process draws with, before MuJoCo is imported; "": as `Pool` has it."""
  os.environ["MUJOCO_GL"] = backend(gl)


def backend(gl: str) -> str:
  """The OpenGL that `gl` means: "" is MUJOCO_GL, or the first whose library is there."""
  import ctypes.util

  if named := gl or os.environ.get("MUJOCO_GL", ""):
    return named
  libraries = {"egl": "EGL", "osmesa": "OSMesa"}
  return next((gl for gl in BACKENDS if ctypes.util.find_library(libraries[gl])), BACKENDS[0])


def _film(spec: Spec, use: Callable[..., T], more: tuple[Any, ...]) -> T:
  from totojax.world import kinds

  return use(_studio(spec.width_px, spec.height_px).shoot(kinds.build(spec)), *more)


def _try() -> str:
  _studio(32, 32)
  return os.environ["MUJOCO_GL"]
