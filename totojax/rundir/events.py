"""TensorBoard's event files: written beside a run, and never in its way.

Rows, the config as hyper-parameters, strips of samples. A thread writes them.
Whatever goes wrong there, such as a full disk or a bucket that refuses, is one
warning, and training goes on without them.
"""

from collections.abc import Iterator, Mapping
import contextlib
import os
import queue
import sys
import threading
import time
from typing import Any

from etils import epath

from totojax.rundir import console, files
from totojax.storage import objects, outages

WANDB = "TOTOJAX_WANDB"  # variable: project on Weights & Biases that gets them as well
EVERY_S = 60.0  # between two flushes: what a run that is killed loses
# An object store gets the newest file as a whole at each flush: at most 35 KB/s.
FILE_BYTES = 2**21
CLOSE_S = 10.0  # that a run waits for the last of them
# tensorboardX loads these where they are installed, slowly, and needs none of them here.
_UNUSED = "torch", "boto3", "google.cloud.storage"


class Events:
  """Scalars of a run for TensorBoard."""

  def __init__(self, folder: epath.Path, *, purge_step: int):
    """Begins new files in a folder, which is made if need be.

    Args:
      folder: local, or a URL.
      purge_step: TensorBoard forgets what earlier files say of steps from it on.
    """
    self._folder, self._purge_step = folder, purge_step
    with _hidden(_UNUSED):
      import tensorboardX.event_file_writer  # noqa: F401  so that the thread needs not
    self._rows = queue.SimpleQueue[tuple[float, int, Mapping[str, float]] | None]()
    self._over = False
    self._thread = threading.Thread(target=self._work, name="events", daemon=True)
    self._thread.start()

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Adds values by their tags; waits for nothing."""
    if not self._over:
      self._rows.put((time.time(), step, values))

  def close(self) -> None:
    """Ends the files, within `CLOSE_S`; raises nothing."""
    self._rows.put(None)
    self._thread.join(CLOSE_S)
    if self._thread.is_alive():
      self._warn("storage is away")

  def _work(self) -> None:
    try:
      self._write()
    except outages.StorageAway:
      self._warn("storage is away")
    except Exception as error:
      self._warn(outages.brief(error))

  def _write(self) -> None:
    board = _Files(self._folder, self._purge_step)
    due_s = time.monotonic() + EVERY_S
    while True:
      with contextlib.suppress(queue.Empty):
        row = self._rows.get(timeout=max(due_s - time.monotonic(), 0))
        if row is None:
          return self._end(board)
        board.add(*row)
      if time.monotonic() >= due_s:
        with contextlib.suppress(outages.StorageAway):  # the next flush has it all
          board.flush()
        due_s = time.monotonic() + EVERY_S

  def _end(self, board: "_Files") -> None:
    """Closes the files; tries again for half of what the run waits for it."""
    last_s = time.monotonic() + CLOSE_S / 2
    while True:
      try:
        return board.close()
      except outages.StorageAway:
        if time.monotonic() > last_s:
          raise
        time.sleep(0.5)

  def _warn(self, why: str) -> None:
    if not self._over:
      self._over = True
      console.warn(
        f"{self._folder} gets no more events for TensorBoard ({why}); nothing else is lost"
      )


class _Files:
  """The event files of one start of a run: one, or several in an object store."""

  def __init__(self, folder: epath.Path, purge_step: int):
    from tensorboardX.proto import event_pb2

    files.make_folder(folder)
    self._folder, self._events = folder, event_pb2
    self._count, self._bytes = 0, 0
    self._open = [self._new()]  # several only while an object store is away
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._add(event_pb2.Event(step=purge_step, session_log=start))
    self._settings(folder.parent / "config.json")

  def add(self, wall_s: float, step: int, values: Mapping[str, float]) -> None:
    """One event with all values."""
    event = self._events.Event(wall_time=wall_s, step=step)
    for name, value in values.items():
      event.summary.value.add(tag=name, simple_value=value)
    if any(name.startswith("eval/samples/") for name in values):
      from totojax.rundir import pictures  # of runs that draw alone

      pictures.add(event, self._folder.parent)
    if self._bytes > FILE_BYTES and objects.is_url(self._folder):
      self._open.append(self._new())
    self._add(event)

  def flush(self) -> None:
    """Puts everything where it can be read."""
    while len(self._open) > 1:
      self._open[0].close()
      del self._open[0]
    self._open[0].flush()

  def close(self) -> None:
    self.flush()
    self._open[0].close()

  def _new(self) -> Any:
    from tensorboardX import event_file_writer

    name = os.fspath(self._folder / "events")
    if objects.is_url(name):
      from totojax.rundir import event_objects  # of buckets alone

      event_objects.register(name)
    self._count, self._bytes = self._count + 1, 0
    suffix = f".{self._count:04d}" if self._count > 1 else ""
    return event_file_writer.EventsWriter(name, suffix)

  def _settings(self, path: epath.Path) -> None:
    """The config as hyper-parameters, which TensorBoard has a table of."""
    from tensorboardX import summary

    from totojax.rundir import directory  # not by a report, which reads logs without jax

    if files.exists(path):
      flat = directory.flat(files.read_json(path))
      plain = {key: value for key, value in flat.items() if isinstance(value, str | int | float)}
      for part in summary.hparams(plain, {}):
        self._add(self._events.Event(summary=part))

  def _add(self, event: Any) -> None:
    self._bytes += event.ByteSize()
    self._open[-1].write_event(event)


@contextlib.contextmanager
def _hidden(modules: tuple[str, ...]) -> Iterator[None]:
  """In the block, modules that are not loaded yet cannot be imported."""
  hidden = [name for name in modules if name not in sys.modules]
  for name in hidden:
    # As the language reference says; its stub has no None here.
    sys.modules[name] = None  # pyright: ignore[reportArgumentType]
  try:
    yield
  finally:
    for name in hidden:
      del sys.modules[name]
