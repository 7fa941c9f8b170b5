"""Storage that is away for a while: what is asked again, how long, what is said.

Object stores answer 503 or 429, break connections, and are away for minutes.
Whatever asks one goes through `answer` or `retried`: an error that will pass is
followed by another try, later and later; whoever watches the run reads after
30 s what it waits for; once patience is at its end the run ends, with an exit
status that says that the same command may well succeed later.
"""

from collections.abc import Callable, Iterator
import os
import random
import re
import sys
import threading
import time
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
PATIENCE_S = 900.0
LINE_AFTER_S = 30.0  # of waiting, for the first line
LINE_EVERY_S = 300.0
_PAUSES_S = 0.5, 30.0  # before the second try, and at most
# Of the environment, so that worker processes are as patient as their parent.
_VARIABLE = "TOTOJAX_STORAGE_TIMEOUT_S"

# 401: a token that has expired is renewed. 409: two changes at once.
_PASSING = {401, 408, 409, 425, 429}
_CODE = re.compile(r"\[http_response_code='(\d+)'\]")
# TensorStore's, of which a message begins or ends with one.
_WORDS = re.compile(
  r"^(ABORTED|UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|UNAUTHENTICATED):"
  r"|\[curl_code='\d+'\]"
)
_LOCAL = re.compile(r"\[OS error \d|os_error_code='")
_APPENDED = re.compile(
  r" \[(tensorstore_spec|x-amzn-requestid|http_response_|curl_code|source locations)"
  r"| See full TensorStore details"
)
_BROKEN = ConnectionResetError, ConnectionRefusedError, ConnectionAbortedError, TimeoutError


class StorageAway(RuntimeError):
  """Storage that did not answer for as long as the run is willing to wait."""


class _Future(Protocol):
  def result(self, timeout: float | None = None) -> Any: ...

  def done(self) -> bool: ...


def set_patience(seconds: float) -> None:
  """How long this process, and those it starts, wait for storage.

  Raises:
    ValueError: it is negative.
  """
  if seconds < 0:
    raise ValueError(f"--storage_timeout_s is {seconds}; it is 0 or more")
  os.environ[_VARIABLE] = str(seconds)


def patience_s() -> float:
  return float(os.environ.get(_VARIABLE, PATIENCE_S))


def answer(name: str, ask: Callable[[], _Future], *, limit_s: float | None = None) -> Any:
  """The result of a request, which is made again while storage is away.

  Args:
    name: what is asked for, as a URL.
    ask: makes the request.
    limit_s: how long it is made again; None for `patience_s`.

  Raises:
    StorageAway: it is away for longer.
    Exception: of the request, where another try would not help.
  """

  def wait(patience):
    future = ask()
    while True:
      try:
        return future.result(timeout=patience.until_line_s())
      except TimeoutError:
        if future.done():  # it is the request's own
          raise
        patience.remind(patience.why)

  return _repeated(name, wait, limit_s)


def retried(name: str, call: Callable[[], T], *, limit_s: float | None = None) -> T:
  """As `answer`, of a function that returns the result itself."""
  return _repeated(name, lambda _: call(), limit_s)


def _repeated(name: str, call: "Callable[[Patience], T]", limit_s: float | None) -> T:
  patience = Patience(name, patience_s() if limit_s is None else limit_s)
  while True:
    try:
      value = call(patience)
    except Exception as error:
      if isinstance(error, StorageAway) or not is_passing(error):
        raise
      patience.failed(error)
    else:
      patience.over()
      return value


class Patience:
  """One wait for storage: pauses between tries, lines, and its end."""

  # Bucket -> when its last line was written, by any thread of this process.
  _lines: dict[str, float] = {}
  _lock = threading.Lock()

  def __init__(self, name: str, limit_s: float):
    self._name, self._limit_s = name, limit_s
    self._bucket = "/".join(name.split("/")[:3])
    self._begin_s, self._pause_s = time.monotonic(), _PAUSES_S[0]
    self.why = "no answer yet"

  def until_line_s(self) -> float:
    """Seconds until `remind` may have something to say."""
    waited_s = time.monotonic() - self._begin_s
    return max(LINE_AFTER_S - waited_s, 0.1) if waited_s < LINE_AFTER_S else 10.0

  def remind(self, why: str) -> None:
    """Says what is waited for, now and then."""
    now_s = time.monotonic()
    if now_s - self._begin_s < LINE_AFTER_S:
      return
    with self._lock:
      last_s = self._lines.get(self._bucket)
      if last_s is not None and now_s - last_s < LINE_EVERY_S:
        return
      self._lines[self._bucket] = now_s
    _say(f"waiting for {self._name}: {why} ({now_s - self._begin_s:.0f} s)")

  def failed(self, error: Exception) -> None:
    """Waits for the next try; raises StorageAway if there is to be none."""
    waited_s = time.monotonic() - self._begin_s
    left_s = self._limit_s - waited_s
    if left_s <= 0:
      raise StorageAway(
        f"{self._name} did not answer for {waited_s:.0f} s ({brief(error)}); what is saved"
        " stays: run the same command again once storage answers"
        " (--storage_timeout_s says how long a run waits)"
      ) from error
    self.why = brief(error)
    self.remind(self.why)
    # Not all hosts of a pod at the same moment.
    time.sleep(min(self._pause_s * random.uniform(0.5, 1.0), left_s))
    self._pause_s = min(2 * self._pause_s, _PAUSES_S[1])

  def over(self) -> None:
    """Says that it goes on, where a line was written."""
    if not self._lines or time.monotonic() - self._begin_s < LINE_AFTER_S:
      return
    with self._lock:
      line = self._lines.pop(self._bucket, None)
    if line is not None:
      _say(f"{self._bucket} answers again, after {time.monotonic() - self._begin_s:.0f} s")


def is_passing(error: BaseException) -> bool:
  """Whether the same request may succeed later: outages, not refusals."""
  if (code := status(error)) is not None:
    if code == 401 and "Anonymous" in str(error):  # without a login there is none to renew
      return False
    return code in _PASSING or code >= 500
  # (jax says them of a lost process in other types, TensorStore of a full disk.)
  words = isinstance(error, ValueError) and not _LOCAL.search(str(error))
  return bool(words and _WORDS.search(str(error))) or isinstance(error, _BROKEN)


def status(error: BaseException) -> int | None:
  """The HTTP status that an error of TensorStore is of, or None."""
  match = _CODE.search(str(error))
  return int(match[1]) if match else None


def is_away(error: BaseException) -> bool:
  """Whether an error is, or comes of, storage that is away."""
  return any(isinstance(e, StorageAway) or is_passing(e) for e in causes(error))


def causes(error: BaseException | None) -> Iterator[BaseException]:
  """An error and what it comes of, its root last."""
  while error is not None:
    yield error
    error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def brief(error: BaseException) -> str:
  """The first line of a library's message, without what it appends.

  TensorStore appends its specification and answers, and orbax pages of it.
  """
  line = (str(error).splitlines() or [type(error).__name__])[0][:500]
  line = _APPENDED.split(line)[0]
  line = re.sub(r"^ABORTED: |All \d+ retry attempts failed: ", "", line).rstrip(".")
  line = line.partition("CURL error ")[2] or line
  code = status(error)
  return line if code is None or str(code) in line else f"{code} {line}".rstrip()


def _say(text: str) -> None:
  # Not `console`, which is above this; every host says what it waits for.
  print(f"totojax: {text}", file=sys.stderr, flush=True)
