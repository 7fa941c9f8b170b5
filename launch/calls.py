"""How launch/ calls programs: printed, never waiting for ever, ended with Ctrl-C.

A dry run prints every command and runs none. Needs Python 3.9, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import threading
from typing import Any


class GiveUp(Exception):
  """What no waiting mends; the message says what a person can do."""


class Failure(Exception):
  """A call that failed and may do better later."""


program = "tpu_vm"  # who says it; each of the doors sets its own


def say(text: str) -> None:
  print(f"{program}: {text}", file=sys.stderr, flush=True)


def show(words: Sequence[str]) -> None:
  """Prints a command, quoted to be copied."""
  print("+ " + " ".join(map(shlex.quote, words)), flush=True)


_live: set[subprocess.Popen] = set()


def _kill(process: subprocess.Popen) -> None:
  """Ends it with its children, if it is still there."""
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGKILL)


def end_all() -> None:
  """Ends what runs in other threads: nobody waits for it any more."""
  for process in [*_live]:
    _kill(process)


@dataclasses.dataclass
class Interrupt:
  """Ctrl-C and its like, which leave no child behind.

  Attributes:
    number: of the signal that came; 0: none.
    held: whether the main thread is just starting a child, which an exception
      would lose before anybody has its number.
  """

  number: int = 0
  held: bool = False

  def hear(self, number: int, _) -> None:
    self.number = number
    end_all()
    if not self.held:
      raise KeyboardInterrupt

  @contextlib.contextmanager
  def heard(self) -> Iterator[None]:
    """Such signals raise KeyboardInterrupt here; those that are ignored do not."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last under nohup
    before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) != signal.SIG_IGN}
    self.number = 0
    for number in before:
      signal.signal(number, self.hear)
    try:
      yield
    finally:
      for number, handler in before.items():
        signal.signal(number, handler)

  def start(self, words: Sequence[str], source: str | None = None) -> subprocess.Popen:
    """A child that `end_all` knows, and that reads this file, or nothing."""
    main = threading.current_thread() is threading.main_thread()
    self.held = self.held or main
    try:
      with open(source or os.devnull, "rb") as stdin:
        process = subprocess.Popen(
          words,
          stdin=stdin,
          stdout=subprocess.PIPE,
          stderr=subprocess.PIPE,
          encoding="utf-8",
          errors="replace",  # the end of a log may begin within a character
          start_new_session=True,
        )
      _live.add(process)
    finally:
      self.held = self.held and not main
    if self.number:  # it came meanwhile, and ended what was known by then
      end_all()
      raise KeyboardInterrupt
    return process


interrupt = Interrupt()


@dataclasses.dataclass(frozen=True)
class Caller:
  """How programs are called: a dry run prints every command and runs none."""

  dry_run: bool
  timeout_s: float  # of a look; what changes something has an hour

  def words(self, *words: str) -> list[str]:
    """The whole command."""
    return list(words)

  def run(
    self, words: Sequence[str], supposed: str, *, looks: bool, source: str | None = None
  ) -> tuple[int, str, str]:
    """(status, output, errors); one that hangs is ended with all its children.

    Args:
      words: of the command, as `words` takes them.
      supposed: what it prints in a dry run.
      looks: whether it changes nothing; such a one is not printed.
      source: the file that it reads; None: nothing.
    """
    words = self.words(*words)
    if self.dry_run or not looks:
      show(words)
    if self.dry_run:
      return 0, supposed, ""
    timeout_s = self.timeout_s if looks else 3600.0
    try:
      process = interrupt.start(words, source)
    except OSError as error:  # it may be replaced just now, or the disk be full
      return 1, "", f"ERROR: {words[0]} cannot be called: {error}"
    try:
      out, errors = process.communicate(timeout=timeout_s)
    except BaseException as error:
      _kill(process)
      if not isinstance(error, subprocess.TimeoutExpired):
        raise
      out, errors = process.communicate()
      return 1, out, f"{errors}\nno answer in {timeout_s:g} s"
    finally:
      _live.discard(process)
    return process.returncode, out, errors


def door(
  name: str,
  text: str | None,
  words: Sequence[str],
  session: Callable[[], Any],
  interrupted: str = "interrupted",
) -> int:
  """What a script does with its words; its exit status.

  Args:
    name: of the script, which says who speaks.
    text: its help.
    words: of its call: a command, then options.
    session: reads them; has the commands for methods, and the options.
    interrupted: what it says at Ctrl-C.
  """
  global program
  if not words or {"--help", "-h"} & set(words):
    print((text or "").rstrip())
    return 0 if words else 2
  before, program = program, name
  try:
    with interrupt.heard():
      one = session()
      getattr(one, one.options.command)()
      if one.options.dry_run:
        say("this was a dry run: nothing was done")
      return 0
  except (GiveUp, Failure, OSError) as error:
    say(str(error))
    return 1
  except KeyboardInterrupt:
    with contextlib.suppress(OSError):  # of a terminal that was closed
      say(interrupted)
    return 128 + (interrupt.number or signal.SIGINT)
  finally:
    program = before
