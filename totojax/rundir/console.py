"""What a run says: lines, and one progress line for what takes long.

In a terminal that is live (bar, rate, time left); anywhere else it is a plain
line every few seconds, so that a log file stays readable. What comes before
there is progress (imports, compilation, reading a checkpoint) is a `phase`.
Where neither goes on for too long, the `watchdog` ends the process.

What libraries print that is no news to a user is kept back by name, and no more:
errors of theirs stay, but for orbax's in a run, for which `checkpoint` has a line.
"""

from collections.abc import Callable, Iterator
import contextlib
import faulthandler
import glob
import importlib.metadata
import importlib.util
import logging
import math
import os
import platform
import select
import sys
import threading
import time
from typing import NoReturn, TextIO
import zlib

from absl import logging as absl_logging
from rich import console as rich_console, progress as rich_progress

from totojax import rundir
from totojax.config.training import WATCHDOG_S

PLAIN_EVERY_S = 15.0
SILENCE_S = 5.0  # that needs no line
SET_BACK_S = 60.0  # that nothing may be done while the clock is behind
_ADJUSTED_S = 5.0  # that a clock is set back without a word
WINDOW_S = 5.0  # of units, at least, that a rate is measured over

# Orbax looks for a checkpoint's own note one folder below where it is, and warns
# of each that it does not find there, though it needs none.
_NO_NEWS = ("_CHECKPOINT_METADATA",)
# A chip of a TPU has such a file; which ones there are is up to the driver.
_TPU_FILES = ("/dev/accel*", "/dev/vfio/[0-9]*")


class Watchdog:
  """Ends the process, with `rundir.RESTART`, where nothing is done for too long.

  A thread counts the seconds that it has itself slept since something was
  done, by no clock: a process that is suspended counts none. The main thread
  may be anywhere, in C++ too. TensorStore may stand still until a clock that
  was set back is where it was; while it is not, `SET_BACK_S` is the limit.

  Attributes:
    doing: what is being done, the innermost last.
  """

  def __init__(self):
    self.doing: list[object] = []
    self._limit_s: float | None = None  # None: nothing is watched
    self._latest_s = 0.0  # that the time of the day has been
    self._idle_s, self._on = 0.0, False

  def turn_on(self) -> None:
    """From here on what is `watched` is; for programs, which may be ended."""
    if not self._on:
      threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
    self._on = True

  def feed(self) -> None:
    """Something was done. Costs an assignment."""
    self._idle_s = 0.0

  @contextlib.contextmanager
  def watched(self, limit_s: float | None = None) -> Iterator[None]:
    """While the block runs, something is to be done every `limit_s`.

    Args:
      limit_s: seconds; 0: nothing need be; None: as around it, else WATCHDOG_S.
    """
    before = self._limit_s
    if limit_s is None:
      limit_s = WATCHDOG_S if before is None else before
    self._limit_s, self._idle_s = limit_s, 0.0
    try:
      yield
    finally:
      self._limit_s, self._idle_s = before, 0.0

  def _watch(self) -> None:
    behind_s = 0.0
    while True:
      tick_s = min((self._limit_s or 40.0) / 8, SET_BACK_S / 8, 5.0)
      select.select([], [], [], tick_s)  # a sleep until no time of any clock
      self._idle_s += tick_s
      before_s, behind_s = behind_s, self._behind()
      limit_s = self._limit_s
      if limit_s and behind_s:
        limit_s = min(limit_s, SET_BACK_S)
        if not before_s:  # what takes long now has begun before
          self._idle_s = 0.0
      if limit_s and self._idle_s > limit_s:
        self._end(limit_s, behind_s)

  def _behind(self) -> float:
    """Seconds that the time of the day is behind one that it was; 0: a few, or none."""
    now_s = time.time()
    self._latest_s = max(self._latest_s, now_s)
    behind_s = self._latest_s - now_s
    return behind_s if behind_s > _ADJUSTED_S else 0.0

  def _end(self, limit_s: float, behind_s: float = 0.0) -> NoReturn:
    """Says where all threads are; whatever of it does not work, the process ends."""
    waits = "every.watchdog_s is how long is waited"
    if behind_s:
      waits = (
        f"the clock was set back, and is {duration(behind_s)} behind: what reads and writes"
        " arrays waits for that time in this process, and in no new one"
      )
    line = (
      f"totojax: nothing was done for {duration(limit_s)}"
      f" ({' > '.join(map(str, self.doing))}); the stacks of all threads are above."
      " The last whole checkpoint stays: start the same command again to go on"
      f" ({waits})\n"
    )
    with contextlib.suppress(Exception):
      faulthandler.dump_traceback(2)
    leave(line, rundir.RESTART)


watchdog = Watchdog()


def leave(line: str, status: int) -> NoReturn:
  """Ends the process, whatever its threads do; says why, and gives back what it holds."""
  _after(30.0, lambda: os._exit(status))  # nobody may read what is written
  with contextlib.suppress(Exception):
    os.write(2, line.encode())
    if lock := sys.modules.get("totojax.rundir.lock"):
      lock.release_all()
  os._exit(status)


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
  """What the watchdog says is being done in the block; both ends feed it."""
  watchdog.doing.append(what)
  watchdog.feed()
  try:
    yield
  finally:
    watchdog.feed()
    watchdog.doing.remove(what)


class Rate:
  """Units in a second, without the first window of units, which compiles.

  So a rate, and a time left, are known from the second window on.
  """

  def __init__(self, done: int):
    self._begin, self._from, self._starting = time.monotonic(), done, True

  def read(self, done: int) -> float | None:
    """Units/s now that so many are `done`; None: too early to say."""
    now = time.monotonic()
    span_s = now - self._begin
    if done <= self._from or span_s < WINDOW_S:
      return None
    if self._starting:
      self._begin, self._from, self._starting = now, done, False
      return None
    return (done - self._from) / span_s


class Progress:
  """Counts units of work towards a total.

  Attributes:
    done: units finished, those of an earlier run included.
  """

  def __init__(self, what: str, *, unit: str, total: int, done: int, phases: bool = False):
    """Args:
    what, unit, total, done: what its line has in it.
    phases: whether phases say what comes before the first unit; else a line of
      its own says that it has begun.
    """
    self._what, self._unit, self._total = what, unit, total
    self._rate, self.done = Rate(done), done
    self._begin = self._printed = time.monotonic()
    self._live = self._silence = None
    watchdog.doing.append(self)
    if sys.stderr.isatty():
      self._live = rich_progress.Progress(
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn("{task.fields[note]}"),
        console=rich_console.Console(stderr=True),
      )
      self._task = self._live.add_task(what, total=total, completed=done, note="")
      self._live.start()
    elif done < total and not phases:
      self._silence = _after(SILENCE_S, lambda: self._plain("begun"))

  def advance(self, units: int = 1, *, note: str | None = None) -> None:
    """Counts `units` more; `note` replaces the rate in the line."""
    self._hush()
    watchdog.feed()
    self.done += units
    rate_per_s = self._rate.read(self.done)
    parts = [note]
    if rate_per_s is not None:
      left_s = max(self._total - self.done, 0) / rate_per_s
      parts = [note or f"{rate_per_s:.4g} {self._unit}/s", f"{duration(left_s)} left"]
    text = ", ".join(filter(None, parts))
    now = time.monotonic()
    if self._live is not None:
      self._live.update(self._task, completed=self.done, note=text)
    elif now - self._printed >= PLAIN_EVERY_S:
      self._printed = now
      self._plain(text)

  def __str__(self) -> str:
    return f"{self._what}: {self.done}/{self._total} {self._unit}"

  def _plain(self, text: str) -> None:
    _print(f"{self}, {text}" if text else str(self), sys.stderr)

  def _hush(self) -> None:
    """There is progress: the line that it has begun is not needed any more."""
    if self._silence is not None:
      self._silence.cancel()

  def close(self) -> None:
    """Ends the line and says what was done and how long it took."""
    self._hush()
    if self in watchdog.doing:
      watchdog.doing.remove(self)
    if self._live is not None:
      self._live.stop()
    took = duration(time.monotonic() - self._begin)
    self._plain(f"took {took}")


@contextlib.contextmanager
def phase(what: str, *, shown: bool | None = None) -> Iterator[None]:
  """`with phase("compiling the update"): ...`: what may take long in silence.

  A line once it has taken `SILENCE_S`, and one with its time when it ends; what
  is quick says nothing.

  Args:
    what: is done.
    shown: whether this process says so; None: where it is the first one, which
      starts jax.
  """
  if shown is None:
    import jax  # only now: a report needs none of it

    shown = jax.process_index() == 0
  begin = time.monotonic()
  timer = _after(SILENCE_S, lambda: _print(f"{what} ...", sys.stderr)) if shown else None
  try:
    with doing(what):
      yield
  finally:
    if timer is not None:
      timer.cancel()
  took_s = time.monotonic() - begin
  if shown and took_s >= SILENCE_S:
    _print(f"{what}: {duration(took_s)}", sys.stderr)


def _after(seconds: float, action: Callable[[], None]) -> threading.Timer:
  """A timer that holds no process."""
  timer = threading.Timer(seconds, action)
  timer.daemon = True
  timer.start()
  return timer


@contextlib.contextmanager
def tracking(what: str, *, unit: str, total: int, done: int = 0) -> Iterator[Progress]:
  """`with tracking("rendering", unit="clips", total=100) as bar: ...`."""
  bar = Progress(what, unit=unit, total=total, done=done)
  try:
    with watchdog.watched():
      yield bar
  finally:
    bar.close()


def duration(seconds: float) -> str:
  """ "3 d 4 h", "5 h 6 min", "7 min 8 s", "9.1 s"."""
  if seconds < 60:
    return f"{seconds:.1f} s"
  minutes, second = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  days, hours = divmod(hours, 24)
  if days:
    return f"{days} d {hours} h"
  if hours:
    return f"{hours} h {minutes} min"
  return f"{minutes} min {second} s"


def short(value: float) -> str:
  """1,337,216 -> "1.34 M": three digits."""
  if not math.isfinite(value):
    return str(value)
  for unit, size in ((" T", 1e12), (" G", 1e9), (" M", 1e6), (" k", 1e3)):
    if abs(value) >= size:
      return f"{value / size:.3g}{unit}"
  return f"{value:.3g}"


def say(text: str) -> None:
  """One plain line, from one host."""
  import jax  # only now: a report needs none of it

  if jax.process_index() == 0:
    _print(text, sys.stdout)


def warn(text: str) -> None:
  """One line of what is wrong, and does not stop the run."""
  from totojax.storage import outside  # only now: most runs have nothing wrong

  _print(f"totojax: {outside.shown(text)}", sys.stderr)


def before_jax() -> None:
  """Of the C++ logs of XLA and TensorFlow errors alone, unless the user has set more."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read as they are imported


def keep_compiled() -> str:
  """Lets jax keep what it compiles in a folder, which is returned; "": it cannot.

  The user's, JAX_COMPILATION_CACHE_DIR, or one below ~/.cache for each kind of
  CPU: what is compiled for one has instructions that others lack.
  """
  if (folder := os.environ.get("JAX_COMPILATION_CACHE_DIR")) is not None:
    return folder
  kind = platform.machine()
  with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo", encoding="utf-8") as file:
    kind = next(line for line in file if line.startswith(("flags", "Features")))
  cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  folder = os.path.join(cache, "totojax", f"compiled-{zlib.crc32(kind.encode()):08x}")
  with contextlib.suppress(OSError):
    os.makedirs(folder, exist_ok=True)
  if not os.access(folder, os.W_OK | os.X_OK):
    return ""
  os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
  return folder


def after_jax() -> None:
  """Filters what is known, and keeps jax from asking for a TPU that is not here.

  With libtpu installed jax tries it first, and libtpu tells of the missing
  chips in five lines of errors.
  """
  # Made by absl, whose own kind knows the file that a record is from.
  logger = absl_logging.get_absl_logger()
  if _is_news not in logger.filters:
    logger.addFilter(_is_news)
  if _cannot_have_tpu():
    import jax

    jax.config.update("jax_platforms", "cpu")


def quieten_orbax() -> None:
  """Drops all that orbax logs: it tells a story at each save, and pages of one that fails."""
  absl_logging.set_verbosity(absl_logging.ERROR)
  absl_logging.get_absl_handler().addFilter(lambda record: "/orbax/" not in record.pathname)


def _is_news(record: logging.LogRecord) -> bool:
  """Whether a record of absl's logger is to be seen."""
  if record.levelno >= logging.ERROR or "/orbax/" not in record.pathname:
    return True
  return not any(words in record.getMessage() for words in _NO_NEWS)


def _cannot_have_tpu() -> bool:
  """Whether jax would try libtpu for nothing, and the CPU is all that is left.

  jax itself asks for "tpu,cpu" where it knows the chips of the PCI bus. A
  plugin, as that for CUDA, may bring other devices: then nothing is decided
  here.
  """
  import jax

  return (
    not jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
    and "JAX_FORCE_TPU_INIT" not in os.environ
    and importlib.util.find_spec("libtpu") is not None
    and not any(glob.glob(pattern) for pattern in _TPU_FILES)
    and importlib.util.find_spec("jax_plugins") is None
    and not importlib.metadata.entry_points(group="jax_plugins")
  )


def _print(text: str, file: TextIO) -> None:
  try:
    print(text, file=file, flush=True)
  except OSError:  # whoever read it has gone, or its disk is full
    with contextlib.suppress(OSError, ValueError):
      os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
