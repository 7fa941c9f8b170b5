"""What a run says: lines, and one progress line for what takes long.

In a terminal that is live (bar, rate, time left); anywhere else it is a plain
line every few seconds, so that a log file stays readable.
"""

from collections.abc import Iterator
import contextlib
import math
import os
import sys
import time
from typing import TextIO

from rich import console as rich_console, progress as rich_progress

PLAIN_EVERY_S = 15.0


class Progress:
  """Counts units of work towards a total.

  Attributes:
    done: units finished, those of an earlier run included.
  """

  def __init__(self, what: str, *, unit: str, total: int, done: int):
    self._what, self._unit, self._total = what, unit, total
    self._first, self.done = done, done
    self._begin = self._printed = time.monotonic()
    self._live = None
    if sys.stderr.isatty():
      self._live = rich_progress.Progress(
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn("{task.fields[note]}"),
        rich_progress.TimeRemainingColumn(),
        console=rich_console.Console(stderr=True),
      )
      self._task = self._live.add_task(what, total=total, completed=done, note="")
      self._live.start()

  def advance(self, units: int = 1, *, note: str | None = None) -> None:
    """Counts `units` more; `note` replaces the rate in the line."""
    self.done += units
    now = time.monotonic()
    rate_per_s = (self.done - self._first) / max(now - self._begin, 1e-9)
    text = f"{rate_per_s:.4g} {self._unit}/s" if note is None else note
    if self._live is not None:
      self._live.update(self._task, completed=self.done, note=text)
    elif now - self._printed >= PLAIN_EVERY_S:
      self._printed = now
      left_s = (self._total - self.done) / max(rate_per_s, 1e-9)
      self._plain(f"{text}, {duration(left_s)} left")

  def _plain(self, text: str) -> None:
    _print(f"{self._what}: {self.done}/{self._total} {self._unit}, {text}", sys.stderr)

  def close(self) -> None:
    """Ends the line and says what was done and how long it took."""
    if self._live is not None:
      self._live.stop()
    took = duration(time.monotonic() - self._begin)
    self._plain(f"took {took}")


@contextlib.contextmanager
def tracking(what: str, *, unit: str, total: int, done: int = 0) -> Iterator[Progress]:
  """`with tracking("rendering", unit="clips", total=100) as bar: ...`."""
  bar = Progress(what, unit=unit, total=total, done=done)
  try:
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
  _print(f"totojax: {text}", sys.stderr)


def _print(text: str, file: TextIO) -> None:
  try:
    print(text, file=file, flush=True)
  except OSError:  # whoever read it has gone, or its disk is full
    with contextlib.suppress(OSError, ValueError):
      os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
