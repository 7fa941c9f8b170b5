"""How a process ends: here alone an exception becomes a line and an exit status.

Launch scripts go by the status (docs/running.md#exit-status). An error class
says what it is by its base: `storage.Damage` for bytes that are not what was
written, one of `jobs.ERRORS` for what users can mend. Whatever nobody foresaw
is a bug, and keeps its traceback.
"""

import os
import re
import sys
import traceback
from typing import NoReturn

from totojax import jobs, rundir, storage
from totojax.config import schema
from totojax.rundir import devices
from totojax.storage import disks, outages, outside

# Words of jax's errors, which have no types of their own.
_MEMORY = re.compile("RESOURCE_EXHAUSTED|out of memory", re.IGNORECASE)
_BACKEND = "Unable to initialize backend"
_HINT = "(--traceback shows where this was found)"


def status(error: BaseException) -> int:
  """The exit status that an exception stands for, one of those of `rundir`."""
  if _loss(error) or isinstance(error, rundir.PeerLost):
    return rundir.RESTART
  if outages.is_away(error) or devices.is_lost(error):
    return rundir.RESTART
  # What a disk cannot read is not damaged for that.
  if disks.number(error):
    return rundir.DISK
  if any(isinstance(cause, storage.Damage) for cause in outages.causes(error)):
    return rundir.DAMAGED
  if isinstance(error, (*jobs.ERRORS, MemoryError)) or devices.says(error, _MEMORY):
    return rundir.USER
  return rundir.USER if _BACKEND in str(error) else rundir.BUG


def line(error: BaseException) -> str:
  """What the process says last of it: the cause, and what to do."""
  if why := _loss(error):
    return f"totojax: {why}"
  if status(error) == rundir.DISK:
    return f"totojax: {outside.shown(disks.line(error))}\n{_HINT}"
  brief = f"{type(error).__name__}: {outside.shown(outages.brief(error))}"
  if status(error) == rundir.BUG:
    return (
      f"totojax: a bug ({brief}). Please report it where you have totojax from, with the lines"
      " above, the command, and config.json and manifest.json of the run"
    )
  if devices.is_lost(error):
    return f"totojax: a device was lost ({brief}); the last whole checkpoint stays: start again"
  if devices.says(error, _MEMORY):
    return (
      f"totojax: the memory of a device is not enough ({brief}); train.microbatches=0 cuts a batch"
      " into the fewest parts that fit, compute.remat=full keeps less, mesh.fsdp uses more devices:"
      " run=plan says what each takes"
    )
  if isinstance(error, MemoryError):
    return f"totojax: this machine's memory is not enough ({brief}); ask for less at a time"
  if _BACKEND in str(error):
    return f"totojax: jax cannot start ({brief}); mend JAX_PLATFORMS, or the device's driver"
  if isinstance(error, schema.ConfigError):  # several keys have several lines
    lines = map(outside.shown, str(error).split("\n"))
    return "totojax: " + "\n".join(lines)  # what is wrong with a key is found by its name
  return f"totojax: {outside.shown(error)}\n{_HINT}"


def end(error: BaseException, *, trace: bool, alone: bool) -> NoReturn:
  """Ends the process with the line and the status of an exception.

  Args:
    error: that nobody handled.
    trace: whether its traceback is wanted, whatever it is.
    alone: whether no other process computes with this one. Where one does, it
      must not leave by the usual door, where jax makes each wait for all.
  """
  code, last = status(error), line(error)
  if trace or code == rundir.BUG:
    traceback.print_exception(error)
  # What libraries left half done must not talk after the message.
  sys.unraisablehook = lambda unraisable: None
  # At once, too, where a save that still waits, or may not go on, would hold it.
  at_once = not alone or code in (rundir.RESTART, rundir.DISK) or isinstance(error, rundir.Lost)
  lock = sys.modules.get("totojax.rundir.lock")
  if at_once and lock:
    lock.release_all()  # what is done at an exit is not done at this one
  sys.stdout.flush()
  print(last, file=sys.stderr, flush=True)
  if at_once:
    os._exit(code)
  sys.exit(code)


def _loss(error: BaseException) -> str:
  """What is said of another process that is gone, or ""."""
  # That it is gone shows first as a failed collective, whatever that was for.
  peers = sys.modules.get("totojax.rundir.peers")
  return peers.loss(error) if peers else ""
