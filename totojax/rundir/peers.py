"""Several processes of one run: they find each other, agree, and miss a lost one.

All of them compute each step together, so none can go on without the others:
whoever misses one says so and ends with `rundir.RESTART`. The same command,
started again on every host, goes on from the last whole checkpoint.

What they say to each other here goes through the store of keys that jax's
coordinator has, and not through the devices: processes that were started
otherwise would wait for each other there for ever.
"""

from collections.abc import Callable, Iterator, Mapping
import concurrent.futures
import contextlib
import ctypes
import faulthandler
import hashlib
import itertools
import json
import os
import signal
import sys
import tempfile
import time
from typing import Any, BinaryIO

import numpy as np

from totojax import rundir, storage
from totojax.config.schema import ConfigError
from totojax.rundir import console
from totojax.storage import outages

# Words of jax's errors, which have no types of their own; the first ones are
# the same in errors of other types, which storage does not have.
_LOSS = ("Gloo", "NCCL", "CoordinationService", "heartbeat", "Barrier")
_LOSS_OF_JAX = (*_LOSS, "UNAVAILABLE", "DEADLINE_EXCEEDED")
_REACHED_S = 10.0  # until nobody's answer at the coordinator's address is told
_AGREE_S = 3600  # that one process may take longer than another to open its data
_MESSAGE_BYTES = 8192
_MOST = 8  # keys that a message names
REFUSED = "refused"  # key of a table that has no other: why its process ends
_turns = itertools.count()  # of `differences`, the same in all processes
waiting = False  # for the other processes, with nothing begun (`main.Interrupt`)
# What a library calls from SIGABRT must not be collected.
_kept = []


def check(multihost: bool, given: Mapping[str, Any]) -> None:
  """Raises ConfigError unless the flags make sense together; asks nobody.

  Args:
    multihost: whether there are several processes.
    given: name without dashes -> value, of the other flags about processes,
      where they are given.
  """
  if not multihost and given:
    raise ConfigError(
      f"{' and '.join(f'--{name}' for name in given)} without --multihost: this process would run"
      " alone. Add --multihost, or leave out what is for several processes"
    )
  for name in ("start_timeout_s", "host_timeout_s", "processes"):
    if given.get(name, 1) < 1:
      raise ConfigError(f"--{name} is {given[name]}; it must be at least 1")
  who = ("coordinator", "processes", "process")
  missing = [f"--{name}" for name in who if name not in given]
  if len(missing) == len(who):
    return
  if missing:
    raise ConfigError(
      f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; give all of"
      " --coordinator, --processes, --process, or none where the cluster tells"
    )
  process, processes = given["process"], given["processes"]
  if not 0 <= process < processes:
    raise ConfigError(
      f"--process is {process} of --processes {processes}; it is a number from 0 to {processes - 1}"
    )
  from totojax.rundir import coordinators  # of several processes alone

  coordinators.host_and_port(given["coordinator"])


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
  """A signal ends the block, and with it the process, at once."""
  global waiting
  waiting = True
  try:
    yield
  except SystemExit:  # nothing is begun, and other threads would go on
    os._exit(0)
  finally:
    waiting = False


@_stoppable()
def join(
  *,
  coordinator: str | None,
  processes: int | None,
  process: int | None,
  start_timeout_s: int,
  host_timeout_s: int,
) -> None:
  """Waits for the other processes; from then on each knows if one is lost.

  A process that misses another writes one line to stderr and ends with code
  `rundir.RESTART`: jax gives up in a thread of its own, by abort(), while the
  main thread may wait for a collective for ever. What jax says first stays
  above that line, but for what it says of a start, which is in the line.

  Args:
    coordinator: host:port of process 0; None where the cluster tells.
    processes: how many there are; None where the cluster tells.
    process: which one this is; None where the cluster tells.
    start_timeout_s: how long the others may take to arrive.
    host_timeout_s: a process is lost when it is silent for so long. One
      whose connection breaks is missed at once.

  Raises:
    ConfigError: the port is in use, or nobody says which processes there are.
    rundir.PeerLost: the coordinator's name does not resolve.
  """
  import jax

  from totojax.rundir import coordinators

  end = time.monotonic() + start_timeout_s
  address, here = (coordinator, process) if coordinator else coordinators.of_slurm()
  if address is not None:
    of = "--coordinator" if coordinator else "Slurm's coordinator"
    coordinators.look(address, of=of, first=process == 0, patience_s=start_timeout_s)
  where = address or "the cluster"
  left_s = max(round(end - time.monotonic()), 1)
  faulthandler.disable()  # absl's: stacks of a process that is not to blame
  with _apart() as (stderr, told), console.phase(f"waiting for the others at {where}", shown=True):
    _at_abort(
      lambda: _not_arrived(where, processes, process, waited_s=start_timeout_s, told=told), stderr
    )
    try:
      _while_signals_are_heard(
        None if here == 0 else address,
        jax.distributed.initialize,
        coordinator,
        processes,
        process,
        initialization_timeout=left_s,
        heartbeat_timeout_seconds=host_timeout_s,
      )
    except Exception as error:
      raise ConfigError(_not_started(error, where)) from error
  line = lost(f"it ended, or was silent for {host_timeout_s} s")
  _at_abort(lambda: (line, rundir.RESTART), 2)


def _while_signals_are_heard(
  address: str | None, call: Callable[..., None], *args: Any, **more: Any
) -> None:
  """Calls in another thread: Python hears signals in the main one, and not in C++.

  Where it lasts, and nobody answers at the address, that is told.
  """
  from totojax.rundir import coordinators

  pool = concurrent.futures.ThreadPoolExecutor(1)
  future = pool.submit(call, *args, **more)
  asked = time.monotonic() + _REACHED_S
  while not future.done():
    concurrent.futures.wait([future], timeout=0.2)
    if address is not None and time.monotonic() > asked and not future.done():
      if why := coordinators.unreachable(address):
        console.warn(
          f"nobody answers at {address} ({why}): process 0 has not begun there, or has ended, or"
          " a firewall is between; it is waited for (--start_timeout_s)"
        )
      address = None
  pool.shutdown()
  future.result()


def _not_started(error: Exception, where: str) -> str:
  """The line of an error that jax raises before it waits."""
  if "should be defined" in str(error) or "must be defined" in str(error):
    return (
      "--multihost alone is for clusters that tell who takes part (TPU pods, Slurm, Open MPI,"
      " Kubernetes), and this machine is in none that jax knows; give --coordinator=HOST:PORT of"
      " process 0, --processes and --process"
    )
  return (
    f"the processes cannot find each other at {where} ({type(error).__name__}:"
    f" {outages.brief(error)}); check --coordinator, --processes and --process"
  )


def _not_arrived(
  where: str, processes: int | None, process: int | None, *, waited_s: int, told: BinaryIO
) -> tuple[str, int]:
  """(line, status) of the end of a start that jax has given up."""
  told.seek(0)
  words = told.read().decode(errors="replace")
  this = f"process {'?' if process is None else process} of {processes or '?'}"
  if "ALREADY_EXISTS" in words:
    line = (
      f"another process that calls itself {this} came to {where}; give each host a --process of"
      " its own (or this one was started again meanwhile)"
    )
    return line, rundir.USER
  if "Unexpected task" in words:
    return f"process 0 at {where} knows no {this}; give all the same --processes", rundir.USER
  line = (
    f"not all processes arrived: {this} waited {waited_s} s for the others at {where}. Start the"
    " same command on every host, with the same --coordinator and --processes, or raise"
    " --start_timeout_s"
  )
  proxies = [name for name in os.environ if name.lower() in ("http_proxy", "grpc_proxy")]
  if proxies and not os.environ.get("no_grpc_proxy", os.environ.get("no_proxy")):
    line += f" ({' and '.join(proxies)} may lead elsewhere; name the hosts in no_proxy)"
  return line, rundir.RESTART


@contextlib.contextmanager
def _apart() -> Iterator[tuple[int, BinaryIO]]:
  """(descriptor of stderr, file of what C++ writes there): pages, if a start fails.

  What Python prints is seen, and what C++ has written if the start succeeds.
  """
  sys.stderr.flush()
  with tempfile.TemporaryFile() as told:
    stderr, plain = os.dup(2), sys.stderr
    os.dup2(told.fileno(), 2)
    with open(stderr, "w", 1, encoding="utf-8", closefd=False) as sys.stderr:
      try:
        yield stderr, told
      finally:
        os.dup2(stderr, 2)
        sys.stderr = plain
    told.seek(0)
    os.write(2, told.read())
    os.close(stderr)


def differences(
  table: Mapping[str, str], *, patience_s: float = _AGREE_S
) -> dict[str, dict[int, str | None]]:
  """Key -> process -> value, of what is not the same in all; the same answer in all.

  Of the values those of process 0, and of one that has another.

  Args:
    table: of this process.
    patience_s: how long the others may take to come here.
  """
  from jax._src import distributed

  state, folder = distributed.global_state, f"totojax/{next(_turns)}"
  client: Any = state.client
  here = state.process_id
  text = json.dumps(table, sort_keys=True)
  digest = hashlib.sha256(text.encode()).hexdigest()
  client.key_value_set(f"{folder}/table/{here}", text)
  client.key_value_set(f"{folder}/digest/{here}", digest)
  client.wait_at_barrier(f"{folder}/written", int(patience_s * 1000))
  found = {int(k.rpartition("/")[2]): v for k, v in client.key_value_dir_get(f"{folder}/digest/")}
  other = min((process for process in found if found[process] != found[0]), default=0)
  if not other:
    return {}
  both = {
    process: json.loads(client.blocking_key_value_get(f"{folder}/table/{process}", 60_000))
    for process in (0, other)
  }
  with contextlib.suppress(Exception):  # nobody leaves before all know
    client.wait_at_barrier(f"{folder}/read", 10_000)
  return {
    key: {process: both[process].get(key) for process in both}
    for key in {**both[0], **both[other]}
    if both[0].get(key) != both[other].get(key)
  }


def agree(table: Mapping[str, str], *, patience_s: float) -> None:
  """Raises ConfigError in all processes alike where one was started otherwise.

  Args:
    table: what this one was started with.
    patience_s: how long the others may take to come here.
  """
  found = differences(table, patience_s=patience_s)
  if not found:
    return
  for process, why in found.get(REFUSED, {}).items():
    if why is not None:
      raise ConfigError(f"process {process} was refused what this one was not: {why}")
  told = []
  for key, values in sorted(found.items())[:_MOST]:
    first, other = ("not there" if v is None else v or "''" for v in values.values())
    told.append(f"{key} is {first} on process 0 and {other} on process {max(values)}")
  if len(found) > _MOST:
    told.append(f"and {len(found) - _MOST} more")
  raise ConfigError(
    f"the hosts were started otherwise ({'; '.join(told)}). Give the same command, the same"
    " files and the same versions to all of them"
  )


def check_data(now: Mapping[str, Mapping[str, Any]]) -> None:
  """`hosts.check_data` of several processes."""
  from totojax.rundir import provenance

  told = []
  for name, values in differences({name: json.dumps(now[name]) for name in now}).items():
    here, there = (json.loads(value or "{}") for value in values.values())
    told.append(f"{name}: process {max(values)} has {provenance.data_change(here, there)}")
  if told:
    raise last(
      provenance.DataChanged(
        f"the hosts have different data ({'; '.join(told)}); give all of them the same, as one"
        " bucket or copies of one store"
      )
    )


def first(action: Callable[[], object]) -> None:
  """`hosts.first` of several processes."""
  import jax
  from jax.experimental import multihost_utils

  here = jax.process_index() == 0
  error, message = None, b""
  if here:
    try:
      action()
    except Exception as caught:
      error, kind = caught, "away" if outages.is_away(caught) else "error"
      if isinstance(caught, storage.Damage):
        kind = "damaged"
      message = f"{kind} {caught}".encode()[:_MESSAGE_BYTES]
  padded = np.frombuffer(message.ljust(_MESSAGE_BYTES, b"\0"), np.uint8)
  message = multihost_utils.broadcast_one_to_all(padded).tobytes().rstrip(b"\0")
  if error is not None:
    raise last(error)
  kind, _, text = message.decode(errors="ignore").partition(" ")
  if kind:
    kinds = {"away": outages.StorageAway, "damaged": rundir.Damaged}
    raise kinds.get(kind, rundir.RunError)(text)


def last(error: Exception) -> Exception:
  """The error, once the other processes had the time to end with theirs.

  They would take the end of process 0 before them for its loss.
  """
  from jax._src import distributed

  state = distributed.global_state  # jax itself would start the devices to know
  if state.process_id == 0 and (state.num_processes or 1) > 1:
    time.sleep(1.0)
  return error


def lost(why: str) -> str:
  """What a process says last when it misses another."""
  from jax._src import distributed

  state = distributed.global_state
  return (
    f"process {state.process_id} of {state.num_processes} lost another one ({why}); see what the"
    " others said. The last whole checkpoint stays: start the same command again on every host to"
    " go on"
  )


def loss(error: BaseException) -> str:
  """`lost` of an error that another process is gone; "" of any other error."""
  from jax._src import distributed

  if (distributed.global_state.num_processes or 1) == 1:
    return ""
  # The root first: what came of it says what it was for, and repeats its words.
  for cause in reversed([*outages.causes(error)]):
    of_jax = type(cause).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
    if any(word in str(cause) for word in (_LOSS_OF_JAX if of_jax else _LOSS)):
      return lost(outages.brief(cause))
  return ""


def _at_abort(last: Callable[[], tuple[str, int]], stderr: int) -> None:
  """Makes abort() write a line and end the process, whatever thread calls it.

  Python's own handlers run in the main thread, which never gets there.

  Args:
    last: gives the line and the exit status.
    stderr: descriptor that is written to.
  """

  def end(number):
    del number
    status = rundir.RESTART
    try:
      line, status = last()
      os.write(stderr, f"totojax: {line}\n".encode())
    finally:
      os._exit(status)

  handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(end)
  _kept[:] = [*_kept, handler]
  signal_ = ctypes.CDLL(None).signal
  signal_.restype, signal_.argtypes = (ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p])
  signal_(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
