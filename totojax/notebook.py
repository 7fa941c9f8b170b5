"""Notebooks (`colab/`): the program as a magic, examples where nothing is given, pictures.

  %load_ext totojax.notebook
  %totojax --config=configs/generate.py --workdir=runs/clips

`%totojax` takes the words of the command line, and runs them in the notebook's own
process: a TPU serves one process, and what is compiled and imported stays.

Shapes: T frames, L latent frames, H and W pixels, S pixels of a side, G grid side,
V codes.
"""

import base64
from collections.abc import Callable, Iterator
import contextlib
import html
import os
import pathlib
import shlex
import shutil
import signal
import sys
import tempfile
import threading
from typing import Any

from absl import flags
from etils import epath
import numpy as np

from totojax import failures, jobs, main, rundir
from totojax.config import arguments
from totojax.config.pixels import BACKGROUNDS, Scene
from totojax.config.schema import ConfigError
from totojax.data.pixels import containers, excerpts, movies, synthetic, video
from totojax.data.sources import items
from totojax.rundir import console, files

_SHELL = ("multihost", "completion", "list")  # flags for a terminal
_STRIDE_FRAMES, _FPS = 4, 30.0  # section 3.4
_FRAMES_SEED, _IMAGES_SEED = 40, 41  # of what is rendered; no clip that a shipped file has seen
_SMALL_THING = {
  "objects": 1,
  "occluder_frac": 0.0,
  "radius": (0.12, 0.16),
}  # before what is labelled
_DARKEST = 40  # of a channel of a code's colour, which black is none of


class Failed(Exception):
  """A command that did not end well; a notebook shows its line alone."""

  def _render_traceback_(self) -> list[str]:  # asked for by IPython
    return [str(self)]


class Stopped(KeyboardInterrupt):
  """A command that was asked to stop, and has saved."""

  def _render_traceback_(self) -> list[str]:
    return ["totojax: stopped; run the cell again to go on"]


def load_ipython_extension(shell: Any) -> None:
  """Gives the notebook `%totojax`; called by `%load_ext totojax.notebook`."""
  shell.register_magic_function(lambda line: run(*shlex.split(line)), "line", "totojax")


def run(*words: str) -> None:
  """Runs the program, as `python -m totojax.main` with these words, in this process.

  The first interruption lets the job save and leave, a second one ends it at once.

  Raises:
    Failed: it ended with an error that a user can mend, whose line this has.
    Stopped: it was interrupted and has saved; a plain KeyboardInterrupt: it could not.
  """
  console.before_jax()
  console.keep_compiled()
  try:
    config, rest = arguments.read(["totojax", *words])
    flags.FLAGS.unparse_flags()  # those of the command before
    if config is None or arguments.parse(rest)[1:] or any(flags.FLAGS[n].present for n in _SHELL):
      raise ConfigError(
        f"{' '.join(words)!r} is none for a notebook; give --config=configs/NAME.py, --workdir and"
        f" --config.KEY=VALUE, and --{', --'.join(_SHELL)} in a shell"
      )
    _start(config.to_dict())
  except Exception as error:
    if failures.status(error) == rundir.BUG or "--traceback" in words:
      raise
    raise Failed(failures.line(error)) from error


def _start(values: dict[str, Any]) -> None:
  job = jobs.JOBS.get(str(values.get("run")))
  if job is not None and job.early:
    return jobs.early(values, epath.Path(flags.FLAGS.workdir or "runs"))
  main.before_jax(job)
  console.quieten_orbax()
  with console.phase("starting jax", shown=True):
    import jax  # only now: it reads the folder of what is compiled as it starts

    console.after_jax()
    jax.devices()
  with _interruptible() as interrupted:
    main.work(values, interrupted)
  if interrupted(0):
    raise Stopped


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[int], bool]]:
  """Whether the notebook has asked its cell to stop; asked again, it stops at once."""
  asked = []

  def ask(number: int, frame: Any) -> None:
    if asked:
      raise KeyboardInterrupt
    asked.append(number)
    print("leaves when it has saved (a second interruption ends it now)", file=sys.stderr)

  is_main = threading.current_thread() is threading.main_thread()  # others may set none
  before = signal.signal(signal.SIGINT, ask) if is_main else None
  try:
    yield lambda step: bool(asked)
  finally:
    if is_main:
      signal.signal(signal.SIGINT, before)


def frames(
  path: str = "", *, count: int = 16, size_px: int = 64, stride_frames: int = _STRIDE_FRAMES
) -> np.ndarray:
  """The first frames of a video, as models are trained on them (section 3.4).

  Args:
    path: a video file; "": moving things are rendered.
    count: frames.
    size_px: short side, and side of the square that is cut out.
    stride_frames: of the video at 30 frames a second.

  Returns:
    uint8 [count, size_px, size_px, 3].

  Raises:
    ImportError: PyAV is missing (extra `data`).
    ValueError: the file has fewer frames, or none that can be read.
  """
  if not path:
    scene = synthetic.SyntheticConfig(
      **vars(Scene(frames=count, size_px=size_px)), seed=_FRAMES_SEED
    )
    return synthetic.render(scene, 0).frames_NHW3
  containers.pyav()
  spec = video.ClipSpec(
    frames=count, stride_frames=stride_frames, fps=_FPS, size_px=size_px, short="skip"
  )
  found = excerpts.load(items.Item(path, path), spec, least=1, place="start")
  if isinstance(found, items.Skipped):
    raise ValueError(f"{path} gives no frames: {found.reason}")
  if len(found) < count:
    raise ValueError(
      f"{path} has {len(found)} frames at {_FPS / stride_frames:g} a second, and {count} are"
      " wanted; use a smaller count or stride_frames"
    )
  return found


def images(folder: str = "", *, each: int = 60, size_px: int = 32) -> str:
  """A folder of images, in it one folder a class.

  Args:
    folder: that is there; "": one is rendered here, unless it was before.
    each: images of a class that are rendered: what things move on.
    size_px: their side.

  Raises:
    ValueError: there is no such folder.
  """
  if folder:
    if not os.path.isdir(folder):
      raise ValueError(f"{folder} is no folder; name one that holds a folder of images a class")
    return folder
  made = f"backgrounds-{each}-{size_px}"
  if os.path.isdir(made):
    return made
  aside = tempfile.mkdtemp(prefix=f".{made}.", dir=".")
  try:
    for label, name in enumerate(BACKGROUNDS):
      kind = Scene(frames=1, size_px=size_px, backgrounds=(name,), **_SMALL_THING)
      scene = synthetic.SyntheticConfig(**vars(kind), seed=_IMAGES_SEED + label)
      os.mkdir(os.path.join(aside, name))
      for number in range(each):
        (image_HW3,) = synthetic.render(scene, number).frames_NHW3
        path = os.path.join(aside, name, f"{number:04d}.png")
        files.write_bytes(path, movies.png(image_HW3))
    os.chmod(aside, 0o755)
    os.rename(aside, made)
  finally:
    shutil.rmtree(aside, ignore_errors=True)
  return made


def coloured(codes_LGG: np.ndarray, *, vocab: int) -> np.ndarray:
  """Codes as pictures, a colour of its own for each: uint8 [L, G, G, 3] of codes below V."""
  colours_V3 = np.random.default_rng(0).integers(_DARKEST, 256, (vocab, 3)).astype(np.uint8)
  return colours_V3[codes_LGG]


class Shown:
  """What a notebook shows as the last value of a cell."""

  def __init__(self, kind: str, data: str, words: str):
    """`kind` is the MIME type of `data`; `words` are for where it cannot be shown."""
    self._kind, self._data, self._words = kind, data, words

  def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
    del include, exclude
    return {self._kind: self._data, "text/plain": self._words}

  def __repr__(self) -> str:
    return self._words


def show(path: str) -> Shown:
  """A picture that a job has left: PNG, or WebP, which may move; of a folder its last WebP.

  Raises:
    ValueError: it is none of these.
  """
  path = max(map(str, pathlib.Path(path).glob("*.webp")), default=path)
  if not os.path.isfile(path):
    raise ValueError(f"there is no picture {path}; did the command that makes it end well?")
  suffix, data = pathlib.Path(path).suffix, pathlib.Path(path).read_bytes()
  if suffix == ".png":
    return Shown("image/png", base64.b64encode(data).decode(), path)
  if suffix == ".webp":
    return _moving(data, pathlib.Path(path).name)
  raise ValueError(f"{path} is no .png or .webp; open it from the file browser")


def play(*videos_THW3: np.ndarray, title: str = "", side_px: int = 128, fps: float = 8.0) -> Shown:
  """Videos side by side, which play over and over, up to the end of the shortest.

  Args:
    *videos_THW3: uint8, square.
    title: below them.
    side_px: of each, at least: they are enlarged a whole number of times, to one size.
    fps: frames a second.

  Raises:
    ValueError: there is none, or they do not come to one size.
  """
  large = [movies.enlarged(one, side_px=side_px) for one in videos_THW3]
  if len({one.shape[1:] for one in large}) != 1:
    sides = [one.shape[1:] for one in videos_THW3]
    raise ValueError(f"videos are {sides} pixels; give some of which {side_px} is a multiple")
  together = np.stack([movies.joined([row]) for row in zip(*large)])
  return _moving(movies.webp(together, fps=fps), title)


def _moving(data: bytes, title: str) -> Shown:
  encoded, told = base64.b64encode(data).decode(), html.escape(title)
  image = f'<img src="data:image/webp;base64,{encoded}" alt="{told}" style="max-width: 100%">'
  return Shown("text/html", f"{image}<br>{told}", title or "a video")
