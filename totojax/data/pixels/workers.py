"""Worker processes that decode items, in order, and survive what kills them.

A decoder that crashes takes its process with it. The items that were being
decoded are then tried again one at a time, and the one that crashes again is
skipped like any other that cannot be read. Workers end with their parent, also
when it is killed.

Shapes: K clips or crops, T frames, R pixels of a side.
"""

import collections
from collections.abc import Callable, Generator, Iterable, Iterator
import concurrent.futures
from concurrent.futures import process
import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import resource
import signal
import threading
from typing import Any

import numpy as np

from totojax.data.pixels import decode as decode_lib, media
from totojax.data.sources import items as items_lib

MOST_BYTES = 2**33  # of addresses, of a process that answers one call


@dataclasses.dataclass(frozen=True)
class Decoded:
  """An item and its pixels."""

  item: items_lib.Item  # what was decoded
  clips: np.ndarray | items_lib.Skipped  # uint8 [K, T, R, R, 3], or why there are none
  label: int  # its class, -1 for none; sets of TFDS know it only now
  tally: decode_lib.Tally = dataclasses.field(default_factory=decode_lib.Tally)  # what was counted


def processes(workers: int) -> int:
  """How many `workers` means: -1 is one for each core."""
  return (os.cpu_count() or 1) if workers < 0 else workers


def decode(
  items: Iterable[items_lib.Item], spec: media.Spec, *, seed: int, workers: int, ahead: int
) -> Generator[Decoded, None, None]:
  """Decodes items; yields them in the order given.

  Args:
    items: what is decoded.
    spec: what is cut out of each.
    seed: of everything drawn.
    workers: processes; 0 decodes in this one.
    ahead: items per worker that are decoded or waiting at a time. Their clips
      are in memory.
  """
  if not workers:
    for item in items:
      yield _decode(item, spec, seed)
    return
  left = iter(items)
  waiting: collections.deque = collections.deque()
  pool = children(workers)
  try:
    while True:
      room = workers * ahead - len(waiting)
      for item in itertools.islice(left, room):
        waiting.append((item, _submit(pool, item, spec, seed)))
      if not waiting:
        return
      item, future = waiting[0]
      try:
        result = future.result()
        waiting.popleft()
        yield result
      except process.BrokenProcessPool:
        # Nobody knows whose crash it was: each of those in flight is tried
        # alone, then the rest go on in a new pool.
        _stop(pool)
        suspects = [item for item, _ in waiting]
        waiting.clear()
        yield from _alone(suspects, spec, seed)
        pool = children(workers)
  finally:
    _stop(pool)


def _alone(items: Iterable[items_lib.Item], spec: media.Spec, seed: int) -> Iterator[Decoded]:
  pool = children(1)
  try:
    for item in items:
      try:
        yield _submit(pool, item, spec, seed).result()
      except process.BrokenProcessPool:
        reason = "the decoder crashes on this file (its process died, twice)"
        yield Decoded(item, items_lib.Skipped(item.id, reason), item.label)
        _stop(pool)
        pool = children(1)
  finally:
    _stop(pool)


def _submit(
  pool: concurrent.futures.ProcessPoolExecutor, item: items_lib.Item, spec: media.Spec, seed: int
) -> concurrent.futures.Future[Decoded]:
  """The future of an item, also where the pool is broken already."""
  try:
    return pool.submit(_decode, item, spec, seed)
  except process.BrokenProcessPool as error:
    failed: concurrent.futures.Future = concurrent.futures.Future()
    failed.set_exception(error)
    return failed


def _decode(item: items_lib.Item, spec: media.Spec, seed: int) -> Decoded:
  tally = decode_lib.Tally()
  clips = media.load(item, spec, seed=seed, tally=tally)
  label = item.label if isinstance(clips, items_lib.Skipped) else media.label(item)
  return Decoded(item, clips, label, tally)


def children(
  workers: int, start: Callable[..., None] | None = None, *arguments: Any
) -> concurrent.futures.ProcessPoolExecutor:
  """Processes that end with this one; in each `start(*arguments)` comes first."""
  # Spawned, because a process with jax's threads must not be forked.
  return concurrent.futures.ProcessPoolExecutor(
    workers,
    mp_context=multiprocessing.get_context("spawn"),
    initializer=_begin,
    initargs=(start, *arguments),
  )


def _stop(pool: concurrent.futures.ProcessPoolExecutor) -> None:
  pool.shutdown(wait=False, cancel_futures=True)


class Ended(RuntimeError):
  """A process that was to answer took too long, or crashed; the message says which."""


def call(function: Callable[..., Any], *args: Any, limit_s: float) -> Any:
  """`function(*args)` of a process of its own, which has a time and `MOST_BYTES` of memory.

  Args:
    function: of a module, as all that is handed to a process.
    *args: of it.
    limit_s: seconds, its start among them.

  Raises:
    Ended: there is no answer.
  """
  context = multiprocessing.get_context("spawn")
  answers, answer = context.Pipe(duplex=False)
  child = context.Process(target=_call, args=(answer, function, args), daemon=True)
  child.start()
  answer.close()
  try:
    if not answers.poll(limit_s):
      raise Ended(f"it took more than {limit_s:g} s")
    return answers.recv()
  except EOFError:
    raise Ended("the decoder crashes on this file (its process died)") from None
  finally:
    child.kill()
    child.join()
    answers.close()


def _call(answer: Any, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
  _begin()
  with contextlib.suppress(OSError, ValueError):  # systems without such a limit
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
  answer.send(function(*args))


def _begin(start: Callable[..., None] | None = None, *arguments: Any) -> None:
  """A worker leaves Ctrl-C to its parent, and ends when that is gone."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  parent = multiprocessing.parent_process()
  assert parent is not None  # the process that spawned this one

  def follow() -> None:
    parent.join()
    os._exit(0)

  threading.Thread(target=follow, daemon=True).start()
  if start is not None:
    start(*arguments)
