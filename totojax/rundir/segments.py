"""metrics.jsonl in an object store: several files, each put as a whole."""

import contextlib
import threading
import time

from etils import epath

from totojax.rundir import files, lock, metrics


class Segments:
  """Rows in an object store, which cannot append: the last file is put anew.

  A thread does it, every few seconds; once a file is of some size, the next one
  begins. So rows cost the loop no request, and however many they are, the store
  gets 50 KB/s at most.
  """

  def __init__(self, path: epath.Path, text: str):
    self._path, self._data = path, bytearray(text.encode())
    files.write_text(path, text)
    self._lines: list[str] = []  # not written yet
    self._hurry = self._writing = False
    self._error: Exception | None = None
    self._change = threading.Condition()
    threading.Thread(target=self._work, name="metrics", daemon=True).start()

  def write(self, line: str) -> None:
    with self._change:
      self._check()
      self._lines.append(line)
      self._change.notify_all()

  def flush(self, timeout_s: float | None = None) -> None:
    """Waits until all is written, or so long; raises what the thread has met."""
    with self._change:
      self._hurry = True
      self._change.notify_all()
      self._change.wait_for(lambda: self._error or not (self._lines or self._writing), timeout_s)
      self._check()

  def close(self) -> None:
    with contextlib.suppress(Exception):  # an error is on its way already
      self.flush(metrics.CLOSE_S)

  def _check(self) -> None:
    if self._error is not None:
      raise self._error

  def _work(self) -> None:
    due_s = 0.0
    while True:
      with self._change:
        while not self._lines or not (self._hurry or time.monotonic() >= due_s):
          self._change.wait(max(due_s - time.monotonic(), 0.0) if self._lines else None)
        lines, self._lines, self._writing = self._lines, [], True
      try:
        self._put(lines)
        due_s = time.monotonic() + metrics.WRITE_EVERY_S
      except Exception as error:
        self._error = error
      with self._change:
        self._writing, self._hurry = False, self._hurry and bool(self._lines)
        self._change.notify_all()
        if self._error is not None:
          return

  def _put(self, lines: list[str]) -> None:
    lock.confirm()
    changed = False
    for line in lines:
      if len(self._data) >= metrics.SEGMENT_BYTES:
        if changed:
          files.write_bytes(self._path, bytes(self._data))
        number = metrics.segment_number(self._path.name) + 1
        self._path = self._path.parent / metrics.segment_name(number)
        self._data.clear()
      self._data += line.encode()
      changed = True
    files.write_bytes(self._path, bytes(self._data))
