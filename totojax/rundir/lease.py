"""A lease: one process at a time in a work directory of an object store.

An object, `.lease`, names who holds the directory. It is replaced only on the
condition that it is still the one that was read, so of several processes that
want it one gets it. Its holder renews it every half a minute, in a thread.

Whoever finds it held looks whether the holder lives. On the same host that is
known at once. Of another host, such as one that was preempted, only time tells:
a lease that is renewed while it is watched is of a live process, and one that
was not renewed for five minutes, nor while it was watched, is free. The clocks
of two hosts are never compared: time is that of the watching process, and of
the server.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import datetime
import functools
import json
import os
import pathlib
import socket
import threading
import time
from typing import Any
import uuid

from totojax import rundir
from totojax.rundir import console
from totojax.storage import objects, outages

FILE = ".lease"
RENEW_S = 30.0
STALE_S = 300.0
_POLL_S = 5.0
waiting = False  # whether this process waits for a lease, with nothing to lose
_RELEASE_S = 5.0
_AGREE_S = 60.0  # by which a server's clock may differ from a host's


@dataclasses.dataclass(frozen=True)
class Holder:
  """The process that has a lease.

  Attributes:
    host: name of its machine.
    place: what of the machine tells it from another of this name, or from
      itself before it was started anew.
    pid: number of the process there.
    born: when it began, by the machine: tells it from a later one of this
      number.
    since: when it took the lease, for people.
    token: of this process alone.
  """

  host: str
  place: str
  pid: int
  born: str
  since: str
  token: str

  def __str__(self) -> str:
    return f"process {self.pid} on {self.host}, since {self.since}"

  def alive(self) -> bool | None:
    """Whether it runs; None where this process cannot know."""
    if (self.host, self.place) != (socket.gethostname(), _place()):
      return None
    return _born(self.pid) == self.born


def this_process() -> Holder:
  """What this process writes into the leases that it takes."""
  now = datetime.datetime.now().astimezone()
  return Holder(
    host=socket.gethostname(),
    place=_place(),
    pid=os.getpid(),
    born=_born(os.getpid()) or "",
    since=now.isoformat(" ", "seconds"),
    token=uuid.uuid4().hex,
  )


@functools.cache
def _place() -> str:
  """The boot of this machine, and where in it process numbers are counted."""
  try:
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"
  except OSError:  # no Linux: the host's name has to do
    return ""


def _born(pid: int) -> str | None:
  """The start of a process in ticks since the boot; None where it is dead."""
  try:
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
  except OSError:
    return None if _place() else _exists(pid)
  # After the name, which may hold anything: the state, and 19 fields on the start.
  fields = stat.rpartition(")")[2].split()
  return None if fields[0] in "ZX" else fields[19]  # a zombie writes no more


def _exists(pid: int) -> str | None:
  """As `_born` where there is no /proc: "" for a process that is there."""
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return None
  except PermissionError:  # another user's
    pass
  return ""


@dataclasses.dataclass(frozen=True)
class _State:
  """A lease as it was read: its version, and what it says if it can be read."""

  version: bytes
  there: bool
  holder: Holder | None = None
  renewed: float = 0.0  # seconds since 1970 by the holder's clock

  def __str__(self) -> str:
    return str(self.holder) if self.holder else "another process"


class Lease:
  """The hold of this process on one work directory of an object store."""

  def __init__(
    self,
    folder: str,
    holder: Holder | None = None,
    *,
    renew_s: float = RENEW_S,
    stale_s: float = STALE_S,
    say: Callable[[str], None] = console.say,
  ):
    """Nothing is asked of the store yet.

    Args:
      folder: URL of the directory.
      holder: whom the lease names; None for this process.
      renew_s: how often it is renewed.
      stale_s: without a renewal for so long, it is free.
      say: tells the user what is waited for.
    """
    self._folder, self._path = folder, f"{folder}/{FILE}"
    self._holder = holder or this_process()
    self._renew_s, self._stale_s, self._say = renew_s, stale_s, say
    self._lock = threading.Lock()  # one renewal at a time
    self._over = threading.Event()
    self._thread = threading.Thread(target=self._renewing, name=self._path, daemon=True)
    self._version = objects.ABSENT
    self._sure_s = 0.0  # until when it was surely ours, by `_now`
    self._lost = ""

  def take(self) -> None:
    """Takes the lease, and renews it from now on.

    Waits for the lease of a process that may be dead, at most until it is
    stale, and says so: who restarts a preempted run on another machine would
    otherwise have to guess when to try again.

    Raises:
      rundir.InUse: a live process has it.
      objects.StoreError, outages.StorageAway: the store refuses or is away.
    """
    global waiting
    watched, free_s = None, 0.0
    poll_s = min(_POLL_S, self._renew_s / 4)
    while True:
      current = self._read()
      alive = current.holder.alive() if current.holder else None
      waits = watched is not None and current.version == watched.version
      if not current.there or alive is False or (waits and _now() >= free_s):
        if self._put(current.version):
          break
        continue  # another was faster
      # Renewed, or taken by another, while it was watched.
      if alive or (watched is not None and not waits):
        raise rundir.InUse(
          f"{self._folder} is in use by {current}; wait until it ends, stop it, or use another"
          " --workdir"
        )
      if watched is None:
        # After an outage of all storage the living have not renewed theirs yet.
        left_s = max(self._stale_s - self._age_s(current), self._renew_s + poll_s)
        watched, free_s = current, _now() + left_s
        self._say(
          f"{self._folder} is held by {current}; waiting for a sign of life of it, at most"
          f" {console.duration(left_s)}"
        )
      waiting = True
      time.sleep(max(min(poll_s, free_s - _now()), 0.0))
      waiting = False
    self._thread.start()

  def check(self) -> None:
    """Costs nothing; raises Lost where another process has taken the lease."""
    if self._lost:
      raise rundir.Lost(self._lost)

  def confirm(self) -> None:
    """As `check`, before something is written that must not be another's.

    Asks the store where the lease has not been renewed for so long that another
    process may soon take it, as after an outage: then it waits as any request.
    """
    if _now() > self._sure_s + self._stale_s - 2 * self._renew_s:
      self.renew(limit_s=None)
    self.check()

  def renew(self, *, limit_s: float | None = 0.0) -> None:
    """Renews the lease, or finds that it is lost; `limit_s` as in `objects`."""
    with self._lock:
      if self._over.is_set() or self._lost or self._put(self._version, limit_s=limit_s):
        return
      current = self._read(limit_s=limit_s)
      # Somebody has emptied the folder; the next that wants it shall find us.
      if not current.there and self._put(current.version, limit_s=limit_s):
        return
      self._lost = (
        f"{self._folder} was taken over by {current}: this process, {self._holder}, had not renewed"
        f" {FILE} for {console.duration(self._stale_s)}, or it was removed. Nothing more is"
        " written; run the same command again when the other has ended"
      )

  def release(self) -> None:
    """Gives the lease back; one that cannot be given back becomes stale."""
    self._over.set()
    if self._thread.is_alive():
      self._thread.join(_RELEASE_S)  # storage may be away

  def _renewing(self) -> None:
    pause_s = self._renew_s
    while not self._over.wait(pause_s) and not self._lost:
      try:
        self.renew()
        pause_s = self._renew_s
      except (objects.StoreError, outages.StorageAway):
        pause_s = min(_POLL_S, self._renew_s)  # soon again: it is not lost yet
    with self._lock, contextlib.suppress(objects.StoreError, outages.StorageAway):
      # In this thread, as none can be started while Python ends.
      if not self._lost:
        objects.write_version(self._path, None, self._version, limit_s=0.0)

  def _put(self, version: bytes, *, limit_s: float | None = None) -> bool:
    """Writes the lease in the place of a version; False: it is another one."""
    begin_s, now = _now(), time.time()
    words = json.dumps({**dataclasses.asdict(self._holder), "renewed": now})
    written = objects.write_version(self._path, words.encode(), version, limit_s=limit_s)
    if written is None:
      # Of ours whose answer never came, in an attempt that was given up.
      current = self._read(limit_s=limit_s)
      if current.holder is None or current.holder.token != self._holder.token:
        return False
      written = current.version
    self._version, self._sure_s = written, begin_s
    return True

  def _read(self, *, limit_s: float | None = None) -> _State:
    data, version = objects.read_version(self._path, limit_s=limit_s)
    if data is None:
      return _State(version, there=False)
    try:
      words: dict[str, Any] = json.loads(data)
      renewed = float(words.pop("renewed"))
      return _State(version, True, Holder(**words), renewed)
    # Not ours; it becomes stale all the same.
    except (ValueError, TypeError, KeyError, AttributeError):
      return _State(version, there=True)

  def _age_s(self, current: _State) -> float:
    """Seconds since a lease was renewed, by the server's clock; 0 if unknown.

    The versions of GCS are the microseconds since 1970 at which an object was
    written. No document promises that, so it is believed only where the clocks
    of both hosts say nearly the same.
    """
    name = f"{self._path}-{self._holder.token}"
    begin = time.time()
    version = objects.write_version(name, b"now", objects.ABSENT)
    objects.delete(name)
    if version is None:
      return 0.0
    now, then = _server_time(version), _server_time(current.version)
    if abs(now - begin) > _AGREE_S or abs(then - current.renewed) > _AGREE_S:
      return 0.0
    return max(now - then, 0.0)


def _server_time(version: bytes) -> float:
  """Seconds since 1970 at which GCS wrote a version, as it seems."""
  return int.from_bytes(version[1:], "little") / 1e6


def _now() -> float:
  """Seconds of a clock that goes on while the machine is suspended."""
  if hasattr(time, "CLOCK_BOOTTIME"):
    return time.clock_gettime(time.CLOCK_BOOTTIME)
  return time.monotonic()
