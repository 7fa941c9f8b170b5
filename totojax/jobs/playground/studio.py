"""What is asked for on the page, one after the other on the thread that has the devices.

A decoding is a `Run`. It tells whoever listens what happens, as (event, data):

  queued  {"before": runs that come first, "ready": whether any can be begun}
  begun   {"id", "columns", "frames", "given", "compiling"}
  frame   {"t", "made", "pictures", "heat", "nats"}, a value for each column or null
  done    {"id", "seconds", "files"}
  failed  {"error": one line}

Shapes: K samples, N latent frames, T frames of pixels, P tokens of a latent
frame, S pixels of a side, C columns.
"""

import base64
import collections
from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import math
import secrets
import threading
import time
import traceback
from typing import Any

import numpy as np

from totojax import jobs
from totojax.config import schema
from totojax.config.generate import MODES, MOST_FRAMES, Sampling
from totojax.config.playground import Playground
from totojax.config.schema import ConfigError, field, Section, section
from totojax.data.pixels import movies
from totojax.jobs.playground import shelf as shelf_lib
from totojax.jobs.surprise import maps
from totojax.rundir import console
from totojax.storage import outside
from totojax.tokenizers import api
from totojax.trained import continued, generate, model as pretrained

Sink = Callable[[str, dict[str, Any]], None]
_WAKES_S = 0.2  # at the latest, to see whether it is interrupted
_PROGRAMS = 8  # that `trained.generate` keeps compiled
_TRUTH, _TOKENIZER = "truth", "tokenizer"
STOPPED = "the server was stopped"


class Busy(ValueError):
  """Too much is asked for at a time; the message says of what."""


class _Left(Exception):
  """Nobody listens any more."""


@section("")
class Ask(Section):
  """What the page sends for a decoding."""

  clip: str = field("", "key of a clip")
  given: int = field(1, "frames of pixels", at_least=1, at_most=MOST_FRAMES)
  new_frames: int = field(1, "frames of pixels", at_least=1, at_most=MOST_FRAMES)
  samples: int = field(1, "of the clip", at_least=1)
  mode: str = field("slide", "when the window is full", choices=MODES)
  sampling: Sampling = field(Sampling(), "how a token is chosen")


@dataclasses.dataclass(eq=False)
class Run:
  """A decoding that somebody waits for."""

  key: str
  ask: Ask
  clip: shelf_lib.Clip
  tell: Sink
  left: threading.Event = dataclasses.field(default_factory=threading.Event)


@dataclasses.dataclass(frozen=True)
class Made:
  """A finished decoding, as it is downloaded."""

  columns: list[tuple[np.ndarray, int]]  # frames [T, S, S, 3], how many of them were given
  frames: int


class Studio:
  """A model, its clips, and the line of those who wait for it.

  `facts`, `ask` and `file` are called on any thread, `serve` on the one that has
  the devices.
  """

  def __init__(
    self, config: Playground, model: pretrained.Pretrained, shelf: shelf_lib.Shelf, *, name: str
  ):
    self.config, self.shelf, self._model, self._name = config, shelf, model, name
    self._lock = threading.Condition()
    self._line: collections.deque[Run] = collections.deque()
    self._made: collections.OrderedDict[str, Made] = collections.OrderedDict()
    self._compiled: collections.OrderedDict[Any, None] = collections.OrderedDict()
    self._now: Run | None = None
    self._open, self._ready = True, False

  # --- On any thread -----------------------------------------------------------

  def facts(self) -> dict[str, Any]:
    """What the page begins with."""
    config, spec, latents = self.config, self._model.run.model.spec, self._model.latents
    window = generate.window_frames(self._model.run.model)
    given = [latents.whole_frames(n + 1) for n in range(window)]
    return {
      "model": self._name,
      "window": given[-1],
      "given": given,
      "new": max(given[-1] - given[(window - 1) // 2], latents.frame_factor),
      "grid": spec.grid,
      "size": self._model.size_px,
      "codes": spec.vocab,
      "most_nats": math.log(spec.vocab),
      "ramp": maps.RAMP.tolist(),
      "fps": config.output.fps,
      "modes": MODES,
      "mode": config.window.mode,
      "sampling": schema.to_dict(config.sampling),
      "limits": {**schema.to_dict(config.limits), "can_upload": self.shelf.can_upload},
      "notes": self.shelf.notes,
      "clips": [self.about(clip) for clip in self.shelf.all()],
    }

  def about(self, clip: shelf_lib.Clip) -> dict[str, Any]:
    """A clip as the page lists it."""
    told = {"key": clip.key, "name": clip.name, "kind": clip.kind}
    return {**told, "frames": self.shelf.frames(clip), "picture": picture_of(clip.first_SS3)}

  def ask(self, values: Any, tell: Sink) -> Run:
    """Puts a decoding in line.

    Args:
      values: the fields of `Ask`.
      tell: gets what happens, on another thread.

    Raises:
      ConfigError: it is none that can be made, in one line.
      Busy: too many wait.
    """
    try:
      ask = schema.read(Ask, values)
    except ConfigError as error:
      raise ConfigError(str(error).removeprefix("config key ")) from error
    clip = self.shelf.find(ask.clip)
    self._check(ask, clip)
    run = Run(secrets.token_hex(8), ask, clip, tell)
    with self._lock:
      waiting, most = len(self._line), self.config.limits.waiting
      if not self._open:
        raise Busy(STOPPED)
      if waiting >= most:
        raise Busy(f"{waiting} decodings wait already, the most that may (limits.waiting)")
      self._line.append(run)
      self._told_line()
      self._lock.notify()
    return run

  def leave(self, run: Run) -> None:
    """Nobody listens to it any more: it is not begun, or ends with its next frame."""
    run.left.set()
    with self._lock:
      if run in self._line:
        self._line.remove(run)
        self._told_line()

  def _check(self, ask: Ask, clip: shelf_lib.Clip) -> None:
    """Raises ConfigError where a clip, a model or the limits do not allow it."""
    limits, name = self.config.limits, "the model"
    for what, value, most in (
      ("new_frames", ask.new_frames, limits.new_frames),
      ("samples", ask.samples, limits.samples),
    ):
      if value > most:
        raise ConfigError(f"{what} is {value}, and at most {most} may be asked for: give fewer")
    spec = self._model.run.model.spec
    try:
      continued.check_amounts(spec, given=ask.given, new=ask.new_frames, name=name)
    except ValueError as error:
      raise ConfigError(f"frames that are kept: {error}") from error
    frames = self.shelf.frames(clip)
    if frames < ask.given:
      raise ConfigError(
        f"{clip.name} has {frames} frames, and {ask.given} are to be kept: keep fewer, or choose a"
        " longer clip"
      )

  def _told_line(self) -> None:
    """Tells all in line how many come before them; the lock is held."""
    ahead = self._now is not None
    for place, run in enumerate(self._line):
      run.tell("queued", {"before": place + ahead, "ready": self._ready})

  def file(self, key: str, kind: str) -> bytes:
    """What is downloaded of a finished decoding: "mp4" or "webp".

    Raises:
      KeyError: there is no such decoding, any more.
      ValueError, ImportError: it cannot be written.
    """
    with self._lock:
      made = self._made[key]
    output = self.config.output
    enlarged = functools.partial(movies.enlarged, side_px=output.side_px)
    columns = [(enlarged(frames_TSS3), given) for frames_TSS3, given in made.columns]
    together = movies.beside(columns, frames=made.frames)
    if kind == "webp":
      return movies.webp(together, fps=output.fps)
    if kind != "mp4" or not output.codec:
      raise KeyError(kind)
    return movies.mp4(together, fps=output.fps, codec=output.codec, crf=output.crf)

  # --- On the thread that has the devices ----------------------------------------

  def serve(self, interrupted: jobs.Interrupted) -> None:
    """Makes what is asked for until it is interrupted."""
    try:
      self._prepare()
      while not interrupted(0):
        with self._lock:
          if not self._line:
            self._lock.wait(_WAKES_S)
          if not self._line:
            continue
          run = self._now = self._line.popleft()
          self._told_line()
        self._one(run, interrupted)
        with self._lock:
          self._now = None
    finally:
      with self._lock:
        self._open, rest = False, [*self._line]
        self._line.clear()
      for run in rest:
        run.tell("failed", {"error": STOPPED})

  def _prepare(self) -> None:
    """What is compiled for all clips, while somebody chooses one."""
    spec = self._model.run.model.spec
    window = generate.window_frames(self._model.run.model)
    try:
      self._model.nll_of_codes(np.zeros((1, window, spec.frame_tokens), np.int32))
    except ValueError as error:  # as each decoding will say
      console.warn(str(error))
    self._ready = True

  def _one(self, run: Run, interrupted: jobs.Interrupted) -> None:
    """Makes a decoding; whatever is wrong with it, the next one can be made."""
    try:
      self._make(run, interrupted)
    except _Left:
      return
    except (ValueError, ImportError, OSError, MemoryError) as error:
      run.tell("failed", {"error": outside.shown(error)})
    except Exception as error:  # of one decoding: others go on
      traceback.print_exception(error)
      run.tell("failed", {"error": outside.shown(f"a bug ({type(error).__name__}: {error})")})

  def _make(self, run: Run, interrupted: jobs.Interrupted) -> None:
    if run.left.is_set():
      raise _Left
    begun, ask = time.monotonic(), run.ask
    stage = _Stage(self.shelf.encoded(run.clip), ask, self.shelf)
    decoder = self._model.decoder(
      frames=stage.context + stage.further,
      sampling=ask.sampling,
      window=dataclasses.replace(self.config.window, mode=ask.mode),
    )
    context_KNP = np.repeat(stage.context_NP[None], ask.samples, axis=0)
    batch = continued.batch(decoder, context_KNP, np.arange(ask.samples))
    run.tell(
      "begun",
      {
        "id": run.key,
        "columns": stage.columns,
        "frames": stage.frames,
        "given": ask.given,
        "compiling": self._is_new(decoder, len(batch.item_B), stage.context),
      },
    )
    for frame in stage.given():
      run.tell("frame", frame)
    for made in decoder.frames(batch, further=stage.further):
      for frame in stage.add(made):
        run.tell("frame", frame)
      if run.left.is_set():
        raise _Left
      if interrupted(0):
        raise ValueError(STOPPED)
      spent = time.monotonic() - begun
      if spent > self.config.limits.decode_s and stage.left:
        raise ValueError(
          f"it took more than {self.config.limits.decode_s:g} s (limits.decode_s) for"
          f" {stage.made} of {stage.further} frames; ask for fewer"
        )
    columns = stage.finished()
    with self._lock:
      self._made[run.key] = Made(columns, stage.frames)
      while len(self._made) > self.config.limits.kept:
        self._made.popitem(last=False)
    files = ["webp", "mp4"] if self.config.output.codec and self.shelf.can_upload else ["webp"]
    run.tell("done", {"id": run.key, "seconds": time.monotonic() - begun, "files": files})

  def _is_new(self, decoder: generate.Decoder, rows: int, context: int) -> bool:
    """Whether a program must be compiled first."""
    key = decoder.window, decoder.roll, decoder.drop, rows, context
    new = key not in self._compiled
    self._compiled[key] = None
    self._compiled.move_to_end(key)
    while len(self._compiled) > _PROGRAMS:
      self._compiled.popitem(last=False)
    return new


class _Stage:
  """The columns of a decoding, frame by frame: truth, what the tokenizer keeps, samples."""

  def __init__(self, clip: shelf_lib.Clip, ask: Ask, shelf: shelf_lib.Shelf):
    model = shelf.model
    self._model, self._latents, self._ask = model, model.latents, ask
    spec = model.run.model.spec
    self._shape, self._grid = spec.frame_shape, spec.grid
    latent = model.latents.latent_frames
    self.context = latent(ask.given)
    self.further = latent(ask.given + ask.new_frames) - self.context
    self.frames = ask.given + ask.new_frames
    assert clip.codes_NP is not None
    self._known_NP = clip.codes_NP[: self.context + self.further]
    known = min(model.latents.whole_frames(len(self._known_NP)), self.frames)
    self._truth_TSS3 = None if clip.frames_TSS3 is None else clip.frames_TSS3[:known]
    self._codes: list[np.ndarray] = []  # [K, P] of each latent frame that is made

  @property
  def context_NP(self) -> np.ndarray:
    return self._known_NP[: self.context]

  @property
  def columns(self) -> list[str]:
    samples = [f"sample {k + 1}" for k in range(self._ask.samples)]
    return [*([] if self._truth_TSS3 is None else [_TRUTH]), _TOKENIZER, *samples]

  @property
  def made(self) -> int:
    """Latent frames."""
    return len(self._codes)

  @property
  def left(self) -> int:
    return self.further - self.made

  @functools.cached_property
  def _recon_TSS3(self) -> np.ndarray:
    shape = 1, len(self._known_NP), *self._shape
    drawn = api.decode_clips(
      self._model.tokenizer, self._known_NP.reshape(shape), frames=self.frames
    )
    return drawn[0]

  @functools.cached_property
  def _nats_NP(self) -> np.ndarray:
    """float32 nats [N, P] of what is known, as far as one window has it."""
    window = generate.window_frames(self._model.run.model)
    seen_NP = self._known_NP[:window]
    # One program for all lengths: no token's loss depends on what follows it.
    padded_NP = continued.padded(seen_NP, window)
    return self._model.nll_of_codes(padded_NP[None])[0][: len(seen_NP)]

  def given(self) -> Iterator[dict[str, Any]]:
    """The frames that are given."""
    for t in range(self._ask.given):
      nats_P = self._nats_NP[self._latents.latent_frame(t)]
      picture = self._recon_TSS3[t]
      yield self._frame(t, [picture] * self._ask.samples, [nats_P] * self._ask.samples, False)

  def add(self, frame: generate.Frame) -> Iterator[dict[str, Any]]:
    """The frames of a latent frame that was made."""
    samples = self._ask.samples
    self._codes.append(frame.codes_BP[:samples])
    place = self.context + self.made - 1
    first, stop = self._latents.span(place)
    if self._latents.is_temporal:
      # One shape for all: what is not there yet is the last again.
      drawn = self._drawn(self._codes + self._codes[-1:] * self.left)[:, first:stop]
    else:
      shape = samples, 1, *self._shape
      drawn = api.decode_clips(self._model.tokenizer, self._codes[-1].reshape(shape))
    for t in range(first, min(stop, self.frames)):
      yield self._frame(t, [*drawn[:, t - first]], [*frame.nll_BP[:samples]], True)

  def _drawn(self, codes: Sequence[np.ndarray]) -> np.ndarray:
    """uint8 [K, T, S, S, 3] of the context and of what follows it."""
    made_KNP = np.stack(codes, axis=1)
    given_KNP = np.repeat(self.context_NP[None], len(made_KNP), axis=0)
    codes_KNP = np.concatenate([given_KNP, made_KNP], axis=1)
    shape = *codes_KNP.shape[:2], *self._shape
    return api.decode_clips(self._model.tokenizer, codes_KNP.reshape(shape), frames=self.frames)

  def _frame(
    self, t: int, drawn: Sequence[np.ndarray], nats: Sequence[np.ndarray], made: bool
  ) -> dict[str, Any]:
    """Event "frame" of frame t."""
    pictures, losses = [], []
    latent = self._latents.latent_frame(t)
    known_P = self._nats_NP[latent] if latent < len(self._nats_NP) else None
    known = [one for one in (self._truth_TSS3, self._recon_TSS3) if one is not None]
    for column, frames_TSS3 in enumerate(known):  # heat on the first, the other stays clear
      pictures.append(frames_TSS3[t] if t < len(frames_TSS3) else None)
      losses.append(None if column else known_P)
    return {
      "t": t,
      "made": made,
      "pictures": [None if one is None else picture_of(one) for one in (*pictures, *drawn)],
      "heat": [self._places(nats_P) for nats_P in (*losses, *nats)],
      "nats": [None if one is None else round(float(one.mean()), 4) for one in (*losses, *nats)],
    }

  def _places(self, nats_P: np.ndarray | None) -> list[float] | None:
    """Nats of each place of the grid; several codes of one are averaged."""
    if nats_P is None:
      return None
    return np.round(nats_P.reshape(self._grid**2, -1).mean(-1), 3).tolist()

  def finished(self) -> list[tuple[np.ndarray, int]]:
    """All columns as `movies.beside` takes them."""
    known = [one for one in (self._truth_TSS3, self._recon_TSS3) if one is not None]
    columns = [(frames_TSS3, len(frames_TSS3)) for frames_TSS3 in known]
    return columns + [(sample, self._ask.given) for sample in self._drawn(self._codes)]


def picture_of(pixels_HW3: np.ndarray) -> str:
  """A PNG as an address that holds it."""
  return f"data:image/png;base64,{base64.b64encode(movies.png(pixels_HW3)).decode()}"
