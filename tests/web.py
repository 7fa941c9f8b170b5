"""A web server in a thread, as well or badly behaved as a test wants it."""

import contextlib
import dataclasses
import email.utils
import http.server
import re
import threading


@dataclasses.dataclass
class Site:
  """What the server does.

  Attributes:
    files: their bytes by path.
    ranges: whether it sends parts.
    etags: whether it sends ETags that change with the bytes.
    dates: whether it sends a date.
    break_after: bytes of a body after which the connection ends, or None.
    length: whether it says how long a body is.
    status: an error for everything, or None.
    asked: (path, Range header) of each request.
    sent_bytes: of bodies, over all requests.
  """

  files: dict[str, bytes]
  ranges: bool = True
  etags: bool = True
  dates: bool = True
  break_after: int | None = None
  length: bool = True
  status: int | None = None
  asked: list[tuple[str, str | None]] = dataclasses.field(default_factory=list)
  sent_bytes: int = 0
  url: str = ""


class _Handler(http.server.BaseHTTPRequestHandler):
  """Answers as `self.server.site` says."""

  def do_GET(self):  # noqa: N802
    site = self.server.site
    asked = self.headers.get("Range")
    site.asked.append((self.path, asked))
    if site.status is not None or self.path not in site.files:
      self.send_error(site.status or 404)
      return
    body = site.files[self.path]
    marks = {}
    if site.etags:
      marks["ETag"] = f'"{hash(body)}"'
    if site.dates:
      marks["Last-Modified"] = email.utils.formatdate(hash(body) % 10**9)
    begin = 0
    condition = self.headers.get("If-Range")
    if asked and site.ranges and condition in (None, *marks.values()):
      begin = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
    if begin and begin >= len(body):
      self.send_error(416)
      return
    self.send_response(206 if begin else 200)
    for name, value in marks.items():
      self.send_header(name, value)
    if begin:
      last, total = len(body) - 1, len(body)
      self.send_header("Content-Range", f"bytes {begin}-{last}/{total}")
    if site.length:
      self.send_header("Content-Length", str(len(body) - begin))
    self.end_headers()
    end = len(body) if site.break_after is None else begin + site.break_after
    site.sent_bytes += len(body[begin:end])
    with contextlib.suppress(ConnectionError):  # the client has enough
      self.wfile.write(body[begin:end])

  def log_message(self, *_):
    pass


@contextlib.contextmanager
def serving(files, **behaviour):
  """`with serving({"/a": b"..."}) as site: ... site.url + "/a" ...`."""
  site = Site(files, **behaviour)
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
  server.site = site
  site.url = f"http://127.0.0.1:{server.server_address[1]}"
  thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
  thread.start()
  try:
    yield site
  finally:
    server.shutdown()
    server.server_close()
    thread.join()
