"""Several processes of one run: they find each other, and miss a lost one.

All of them compute each step together, so none can go on without the others:
whoever misses one says so and ends with `rundir.RESTART`. The same command,
started again on every host, goes on from the last whole checkpoint.
"""

from collections.abc import Callable, Sequence
import ctypes
import faulthandler
import hashlib
import os
import signal
import sys
import time
from typing import NoReturn

import jax
from jax.experimental import multihost_utils
import numpy as np

from totojax import rundir
from totojax.rundir import lock
from totojax.storage import outages

# Words of jax's errors, which have no types of their own.
_LOSS = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "CoordinationService")
# What a library calls from SIGABRT must not be collected.
_kept = []
_MESSAGE_BYTES = 8192


def check(coordinator: str | None, processes: int | None, process: int | None) -> None:
  """Raises ValueError unless the flags describe a process, or none does."""
  given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
  missing = [name for name, value in given.items() if value is None]
  if 0 < len(missing) < len(given):
    raise ValueError(
      f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'}"
      f" missing; give all of {', '.join(given)}, or none where the cluster"
      " tells"
    )
  if process is None or processes is None:
    return
  if not 0 <= process < processes:
    raise ValueError(
      f"--process is {process} of --processes {processes}; it is a number from 0 to {processes - 1}"
    )


def join(
  coordinator: str | None,
  processes: int | None,
  process: int | None,
  *,
  start_timeout_s: int,
  silence_timeout_s: int,
) -> None:
  """Waits for the other processes; from then on each knows if one is lost.

  A process that misses another writes one line to stderr and ends with code
  `rundir.RESTART`: jax gives up in a thread of its own, by abort(), while the
  main thread may wait for a collective for ever. What jax says first stays
  above that line.

  Args:
    coordinator: host:port of process 0; None where the cluster tells.
    processes: how many there are; None where the cluster tells.
    process: which one this is; None where the cluster tells.
    start_timeout_s: how long the others may take to arrive.
    silence_timeout_s: a process is lost when it is silent for so long. One
      whose connection breaks is missed at once.

  Raises:
    ValueError: a time-out is below 1, or the processes are not well described.
  """
  for name, value in (("start", start_timeout_s), ("host", silence_timeout_s)):
    if value < 1:
      raise ValueError(f"--{name}_timeout_s is {value}; it must be at least 1")
  faulthandler.disable()  # absl's: stacks of a process that is not to blame
  _at_abort(
    "totojax: not all processes arrived: process"
    f" {'?' if process is None else process} of {processes or '?'} waited"
    f" {start_timeout_s} s for the others at {coordinator or 'the cluster'}."
    " Start the same command on every host, with the same --coordinator and"
    " --processes, or raise --start_timeout_s\n"
  )
  jax.distributed.initialize(
    coordinator,
    processes,
    process,
    initialization_timeout=start_timeout_s,
    heartbeat_timeout_seconds=silence_timeout_s,
  )
  _at_abort(lost(f"it ended, or was silent for {silence_timeout_s} s") + "\n")


def first(action: Callable[[], object]) -> None:
  """Process 0 does something, and where it fails all processes end alike.

  The others wait for it. What is theirs to say would otherwise be that one of
  them was lost.

  Raises:
    Exception: what `action` raises, in process 0.
    rundir.RunError, outages.StorageAway: in the others, with the same message.
  """
  here = jax.process_index() == 0
  if jax.process_count() == 1:
    if here:
      action()
    return
  error, message = None, b""
  if here:
    try:
      action()
    except Exception as caught:
      error, kind = caught, b"away " if outages.is_away(caught) else b"error "
      message = (kind + str(caught).encode())[:_MESSAGE_BYTES]
  padded = np.frombuffer(message.ljust(_MESSAGE_BYTES, b"\0"), np.uint8)
  message = multihost_utils.broadcast_one_to_all(padded).tobytes().rstrip(b"\0")
  if error is not None:
    raise last(error)
  kind, _, text = message.decode(errors="ignore").partition(" ")
  if kind:
    raise (outages.StorageAway if kind == "away" else rundir.RunError)(text)


def last(error: Exception) -> Exception:
  """The error, once the other processes had the time to end with theirs.

  They would take the end of process 0 before them for its loss.
  """
  if jax.process_count() > 1 and jax.process_index() == 0:
    time.sleep(1.0)
  return error


def differing(values: Sequence[str]) -> list[int]:
  """Which of the values are others in some process; the same answer in all.

  Args:
    values: as many in every process.
  """
  if jax.process_count() == 1 or not values:
    return []
  digests = [hashlib.sha256(value.encode()).digest() for value in values]
  marks_V32 = np.frombuffer(b"".join(digests), np.uint8).reshape(len(values), -1)
  all_PV32 = multihost_utils.process_allgather(marks_V32)
  return np.flatnonzero((all_PV32 != all_PV32[:1]).any(axis=(0, 2))).tolist()


def lost(why: str) -> str:
  """The line that a process ends with when it misses another."""
  return (
    f"totojax: process {jax.process_index()} of {jax.process_count()} lost"
    f" another one ({why}); see what the others said. The last whole"
    " checkpoint stays: start the same command again on every host to go on"
  )


def is_loss(error: BaseException) -> bool:
  """Whether a runtime error of jax is that another process is gone."""
  return any(word in str(error) for word in _LOSS)


def leave(message: str, status: int = 1) -> NoReturn:
  """Ends this process with a message, at once: the others are not waited for.

  They would never come: they wait for this one in a collective, until they
  see that it is gone.
  """
  lock.release_all()  # what is done at an exit is not done at this one
  sys.stdout.flush()
  print(message, file=sys.stderr, flush=True)
  os._exit(status)


def _at_abort(line: str) -> None:
  """Makes abort() write a line and end the process, whatever thread calls it.

  Python's own handlers run in the main thread, which never gets there.
  """

  def end(number):
    del number
    os.write(2, line.encode())
    os._exit(rundir.RESTART)

  handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(end)
  _kept[:] = [*_kept, handler]
  signal_ = ctypes.CDLL(None).signal
  signal_.restype, signal_.argtypes = (ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p])
  signal_(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
