"""A proxy before an object store's emulator that breaks what a test asks for.

Every request is logged; rules say which ones are refused, slowed down, cut or
held. The address stays the same for its whole life, also while it is `away`.
"""

import contextlib
import dataclasses
import http.client
import http.server
import json
import os
import re
import socket
import struct
import threading
import time
import urllib.parse

# Of one connection each: not to be passed on.
_HOP = {
  "connection",
  "content-length",
  "expect",
  "keep-alive",
  "te",
  "transfer-encoding",
  "upgrade",
}


@dataclasses.dataclass
class Rule:
  """What happens to the requests that match.

  Attributes:
    pattern: regular expression, searched in "METHOD /path?query", percent signs
      decoded.
    status: answered with this, without asking the server; `message` is the text.
    delay_s: seconds that the answer comes later.
    reset: the connection is torn down, and the server never hears of it.
    cut_bytes: the server does as asked, but the connection is torn down after
      so many bytes of its answer's body; 0: before any answer.
    hold: the request waits (`Hold`).
    skip, times: matches let through at first, then hit (None: all).
    after_s: from when on, counted from the rule's start.
    for_s: for how long, counted from the first request that it hits: it hits one,
      however late that comes.
    matches, hits: how many there were.
  """

  pattern: str
  status: int | None = None
  message: str = ""
  delay_s: float = 0.0
  reset: bool = False
  cut_bytes: int | None = None
  hold: "Hold | None" = None
  skip: int = 0
  times: int | None = None
  after_s: float = 0.0
  for_s: float = float("inf")
  matches: int = 0
  hits: int = 0
  begun: float = dataclasses.field(default_factory=lambda: time.monotonic())
  first: float | None = None

  def strikes(self, line: str) -> bool:
    """Whether the rule is to be applied to this request; counts it."""
    if not re.search(self.pattern, line):
      return False
    now = time.monotonic()
    if now < self.begun + self.after_s or (self.first and now >= self.first + self.for_s):
      return False
    self.matches += 1
    if self.matches <= self.skip or (self.times is not None and self.hits >= self.times):
      return False
    self.hits += 1
    self.first = self.first or now
    return True


class Hold:
  """Requests that wait for the test: `arrived` is set by the first of them."""

  def __init__(self):
    self.arrived, self.over, self.passes = threading.Event(), threading.Event(), True

  def release(self, *, passes: bool = True) -> None:
    """Lets them go to the server, or tears their connections down."""
    self.passes = passes
    self.over.set()


@dataclasses.dataclass(frozen=True)
class Request:
  """One line of the log: seconds since the proxy's start, bytes of bodies."""

  line: str
  account: str  # the header Authorization, "": anonymous
  seconds: float
  status: int | None  # None: no whole answer was given
  sent_bytes: int
  answer_bytes: int


class Proxy:
  """The proxy in a thread of this process; `url` is its address.

  Attributes:
    log: `Request`s, in the order of their answers.
    rules: those that hold now. Delays add up; else the first that strikes counts.
  """

  def __init__(self):
    self.log: list[Request] = []
    self.rules: list[Rule] = []
    self.server: tuple[str, int] = ("127.0.0.1", 0)  # that is asked
    self.lock, self.writes = threading.Lock(), threading.Lock()
    self.connections = set()
    self.begun = time.monotonic()
    self._listen(0)
    self.port = self._http.server_address[1]
    self.url = f"http://127.0.0.1:{self.port}"

  def _listen(self, port: int) -> None:
    self._http = _Server(("127.0.0.1", port), _Handler)
    self._http.proxy = self
    threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

  def close(self) -> None:
    """Hears no more, and tears all connections down."""
    self._http.shutdown()
    self._http.server_close()
    for connection in list(self.connections):
      with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)

  @contextlib.contextmanager
  def away(self):
    """A server that is not there: connections are refused in this block."""
    self.close()
    try:
      yield
    finally:
      self._listen(self.port)

  @contextlib.contextmanager
  def rule(self, pattern: str, **what):
    """`with proxy.rule("PUT .*/0/c", status=503, for_s=5) as rule: ...`."""
    rule = Rule(pattern, **what)
    self.rules.append(rule)
    try:
      yield rule
    finally:
      self.rules.remove(rule)

  @contextlib.contextmanager
  def holding(self, pattern: str, **when):
    """`with proxy.holding("commit_success") as hold: hold.arrived.wait(9) ...`.

    What still waits at the end never reaches the server.
    """
    hold = Hold()
    with self.rule(pattern, hold=hold, **when):
      try:
        yield hold
      finally:
        hold.release(passes=hold.passes and hold.over.is_set())

  def lines(self, pattern: str = "", since: int = 0) -> list[str]:
    """The logged requests that match, from the `since`-th of the log on."""
    return [r.line for r in self.log[since:] if re.search(pattern, r.line)]


class _Server(http.server.ThreadingHTTPServer):
  daemon_threads = True
  request_queue_size = 128
  proxy: Proxy

  def handle_error(self, *_):
    pass  # a client that was killed


class _Torn(Exception):
  """The connection is to be torn down without an answer."""


class _Handler(http.server.BaseHTTPRequestHandler):
  """One connection of a client, kept alive, and one to the server."""

  protocol_version = "HTTP/1.1"
  server: _Server
  disable_nagle_algorithm = True

  def setup(self):
    super().setup()
    self.upstream = http.client.HTTPConnection(*self.server.proxy.server, timeout=120)
    self.server.proxy.connections.add(self.connection)

  def finish(self):
    self.server.proxy.connections.discard(self.connection)
    self.upstream.close()
    with contextlib.suppress(OSError):
      super().finish()

  def log_message(self, *_):
    pass

  def _serve(self):
    line, body = f"{self.command} {urllib.parse.unquote(self.path)}", b""
    try:
      body = self._body()
      status, headers, answer, cut = self._outcome(line, body)
    except (_Torn, OSError, http.client.HTTPException):
      self._log(line, None, body, b"")
      self._tear()
      return
    # First, so that a client that has its answer finds its request there.
    self._log(line, status if cut is None else None, body, answer[:cut])
    if cut == 0:
      self._tear()
    else:
      self._answer(status, headers, answer, cut)

  def _log(self, line, status, body, answer):
    proxy = self.server.proxy
    seconds = time.monotonic() - proxy.begun
    proxy.log.append(
      Request(line, self.headers.get("Authorization", ""), seconds, status, len(body), len(answer))
    )

  do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_PATCH = _serve  # noqa: N815

  def _body(self) -> bytes:
    """The request's body, sent whole or in chunks."""
    if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
      return self.rfile.read(int(self.headers.get("Content-Length") or 0))
    parts = []
    while size := int(self.rfile.readline().split(b";")[0], 16):
      parts.append(self.rfile.read(size))
      self.rfile.readline()
    while self.rfile.readline().strip():
      pass  # trailers
    return b"".join(parts)

  def _outcome(self, line, body):
    """(status, headers, body, bytes to cut after or None), by the rules."""
    proxy, cut = self.server.proxy, None
    with proxy.lock:
      rules = [rule for rule in proxy.rules if rule.strikes(line)]
    time.sleep(sum(rule.delay_s for rule in rules))
    for rule in rules:
      if rule.hold:
        rule.hold.arrived.set()
        rule.hold.over.wait()
        if not rule.hold.passes:
          raise _Torn
      if rule.reset:
        raise _Torn
      if rule.status:
        message = rule.message or f"injected {rule.status}"
        if message[0] == "<":  # of S3
          return rule.status, [("Content-Type", "application/xml")], message.encode(), None
        error = {"error": {"code": rule.status, "message": message}}
        head = [("Content-Type", "application/json")]
        return rule.status, head, json.dumps(error).encode(), None
      if rule.cut_bytes is not None and cut is None:
        cut = rule.cut_bytes
    with proxy.writes if self.command != "GET" else contextlib.nullcontext():
      return *(self._unmet(body) or self._ask(self.command, self.path, body)), cut

  def _ask(self, method, path, body=b""):
    """(status, headers, body) of the server."""
    headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
    if body or method in ("POST", "PUT", "PATCH"):
      headers["Content-Length"] = str(len(body))
    for last in (False, True):
      try:
        self.upstream.request(method, path, body, headers)
        answer = self.upstream.getresponse()
        break
      except (http.client.RemoteDisconnected, ConnectionError):
        self.upstream.close()  # kept alive too long
        if last:
          raise
    head = [(k, v) for k, v in answer.getheaders() if k.lower() not in _HOP]
    if method == "HEAD" and (length := answer.getheader("Content-Length")):
      head.append(("Content-Length", length))
    return answer.status, head, answer.read()

  def _unmet(self, body):
    """GCS's refusal when `ifGenerationMatch` fails, which its emulator forgets."""
    path, _, query = self.path.partition("?")
    asked = dict(urllib.parse.parse_qsl(query))
    if "ifGenerationMatch" not in asked or "upload_id" in asked or self.command == "GET":
      return None
    if "/upload/" in path:
      name = asked.get("name") or json.loads(re.search(rb'"name": *("([^"\\]|\\.)*")', body)[1])
      name = urllib.parse.quote(name, safe="")
      path = f"{path.removeprefix('/upload').removesuffix('/o')}/o/{name}"
    status, _, answer = self._ask("GET", path)
    generation = json.loads(answer)["generation"] if status == 200 else "0"
    if generation == asked["ifGenerationMatch"]:
      return None
    error = {"error": {"code": 412, "message": "conditionNotMet"}}
    return 412, [("Content-Type", "application/json")], json.dumps(error).encode()

  def _answer(self, status, headers, body, cut):
    with contextlib.suppress(ConnectionError):  # the client was killed
      self.send_response_only(status)
      bodiless = self.command == "HEAD" or status in (204, 304)
      for name, value in headers:
        self.send_header(name, value)
      if not bodiless:
        self.send_header("Content-Length", str(len(body)))
      self.end_headers()
      if not bodiless:
        self.wfile.write(body if cut is None else body[:cut])
    self.close_connection |= cut is not None

  def _tear(self):
    """Ends the connection with a reset, not with an orderly goodbye."""
    self.close_connection = True
    with contextlib.suppress(OSError):
      self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
      os.close(self.connection.detach())  # at once, whoever holds the socket
