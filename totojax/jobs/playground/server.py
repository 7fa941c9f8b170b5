"""The page over HTTP: Starlette and uvicorn (the `web` extra), imported here alone.

  GET  /                    the page, with /page.css and /page.js
  GET  /state               what it begins with
  POST /clips?name=NAME     a video as the body: a clip more
  POST /runs                JSON of `studio.Ask`: server-sent events of a decoding,
                            which ends when the client leaves
  GET  /runs/KEY.mp4, .webp a finished one

What is wrong with a request is {"error": one line}. Only requests to an address
of this machine are answered, not to a name that somebody else's DNS leads here,
and of pages only ours.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
import contextlib
import errno
import ipaddress
import json
import os
import pathlib
import socket
import tempfile
import threading
from typing import Any
import urllib.parse

from totojax.config.playground import Server
from totojax.config.schema import ConfigError
from totojax.jobs.playground import shelf as shelf_lib, studio as studio_lib
from totojax.report import page
from totojax.storage import outside

_FOLDER = pathlib.Path(__file__).parent
_FILES = {"": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
_KINDS = {"mp4": "video/mp4", "webp": "image/webp"}
_MOST_JSON = 2**14  # bytes of a request that is no video
_JSON_S = 10.0  # for it to come
_ALIVE_S = 5.0  # between lines of a stream on which nothing happens
_AT_A_TIME = 2  # videos that are received and read
_UPLOADS = 16  # of them, and of those that wait for it
_MOST_CONNECTIONS = 64
_STOP_S = 3.0  # for those who still listen
# Nothing but what this server sends is loaded, shown or asked.
_HEADERS = {
  "content-security-policy": (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
  ),
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cross-origin-resource-policy": "same-origin",
  "cross-origin-opener-policy": "same-origin",
  "cache-control": "no-store",
}


def check(server: Server) -> None:
  """What would keep the page from being served, before anything is read for it.

  Raises:
    ImportError: the extra is missing.
    OSError: the port or the address cannot be had.
  """
  _libraries()
  _listening(server).close()


def _libraries() -> tuple[Any, Any, Any, Any]:
  """(applications, requests, responses, routing) of Starlette."""
  try:
    from starlette import applications, requests, responses, routing
    import uvicorn  # noqa: F401
  except ImportError as error:
    raise ImportError(
      'the page needs Starlette and uvicorn; install them with: pip install "totojax[web]"'
    ) from error
  return applications, requests, responses, routing


class Refused(Exception):
  """A request that is not answered: an HTTP status, and one line."""

  def __init__(self, status: int, line: str):
    super().__init__(line)
    self.status = status


def files() -> dict[str, str]:
  """What the page consists of, by path; colours are those of reports."""
  style, own = page.STYLE, (_FOLDER / "page.css").read_text(encoding="utf-8")
  return {
    "": (_FOLDER / "page.html").read_text(encoding="utf-8"),
    "page.css": f"{style}\n{own}",
    "page.js": (_FOLDER / "page.js").read_text(encoding="utf-8"),
  }


def app(studio: studio_lib.Studio, *, host: str) -> Callable[..., Awaitable[None]]:
  """The ASGI application.

  Args:
    studio: what it is about.
    host: that is listened on.

  Raises:
    ImportError: the extra is missing.
  """
  applications, requests, responses, routing = _libraries()
  answers = _Answers(studio, responses)

  def route(path: str, function: Callable[..., Awaitable[Any]], *methods: str) -> Any:
    return routing.Route(path, _told(function, requests, answers), methods=list(methods or ["GET"]))

  inner = applications.Starlette(
    routes=[
      route("/", answers.static),
      route("/state", answers.state),
      route("/clips", answers.clip, "POST"),
      route("/runs", answers.run, "POST"),
      route("/runs/{key}.{kind}", answers.download),
      route("/{name}", answers.static),
    ]
  )

  async def guarded(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
      try:
        _check_sender(scope, host)
      except Refused as error:
        await answers.error(error, error.status)(scope, receive, send)
        return
    await inner(scope, receive, send)

  return guarded


def _told(
  function: Callable[..., Awaitable[Any]], requests: Any, answers: "_Answers"
) -> Callable[..., Awaitable[Any]]:
  """The same, with a line for what is wrong with a request."""

  async def called(request: Any) -> Any:
    try:
      return await function(request)
    except Refused as error:
      return answers.error(error, error.status)
    except studio_lib.Busy as error:
      return answers.error(error, 429)
    except (ConfigError, outside.Damaged, shelf_lib.Unreadable) as error:
      return answers.error(error, 400)
    except requests.ClientDisconnect:
      return answers.error(Refused(400, "the client left"), 400)

  return called


class _Answers:
  """What is answered to a request of each kind.

  Attributes:
    studio: what it is about.
  """

  def __init__(self, studio: studio_lib.Studio, responses: Any):
    self.studio, self._responses, self._static = studio, responses, files()
    self._receiving, self._uploads = asyncio.Semaphore(_AT_A_TIME), 0

  def error(self, error: Exception, status: int) -> Any:
    # What it still sends is not read on.
    headers = {**_HEADERS, "connection": "close"}
    return self._responses.JSONResponse({"error": outside.shown(error)}, status, headers=headers)

  async def static(self, request: Any) -> Any:
    name = request.path_params.get("name", "")
    if name not in self._static:
      raise Refused(404, "there is no such page")
    text, kind = self._static[name], _FILES[name]
    return self._responses.Response(text, media_type=kind, headers=_HEADERS)

  async def state(self, request: Any) -> Any:
    return self._responses.JSONResponse(self.studio.facts(), headers=_HEADERS)

  async def clip(self, request: Any) -> Any:
    """A video that is sent; some wait until others are read."""
    shelf, limits = self.studio.shelf, self.studio.config.limits
    if not shelf.can_upload:
      raise Refused(400, "no videos can be read here: see the notes of the page")
    if self._uploads >= _UPLOADS:
      raise Refused(429, f"{_UPLOADS} videos are being read already; try again in a moment")
    self._uploads += 1
    try:
      async with self._receiving:
        with _aside() as file:
          await _received(request, round(limits.upload_mb * 1e6), limits.upload_s, file.write)
          file.flush()
          name = request.query_params.get("name", "")
          clip = await asyncio.to_thread(shelf.upload, file.name, name)
    finally:
      self._uploads -= 1
    return self._responses.JSONResponse(self.studio.about(clip), headers=_HEADERS)

  async def run(self, request: Any) -> Any:
    """The events of a decoding, which ends when nobody listens."""
    body, studio = bytearray(), self.studio
    await _received(request, _MOST_JSON, _JSON_S, body.extend)
    loop, events = asyncio.get_running_loop(), asyncio.Queue()

    def tell(event: str, data: Mapping[str, Any]) -> None:
      with contextlib.suppress(RuntimeError):  # the loop has ended, and whoever listened
        loop.call_soon_threadsafe(events.put_nowait, (event, data))

    run = studio.ask(outside.parse("what the page sent", bytes(body)), tell)

    class Stream(self._responses.StreamingResponse):
      async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
          await super().__call__(scope, receive, send)
        finally:
          studio.leave(run)

    return Stream(_lines(events), media_type="text/event-stream", headers=_HEADERS)

  async def download(self, request: Any) -> Any:
    key, kind = request.path_params["key"], request.path_params["kind"]
    try:
      data = await asyncio.to_thread(self.studio.file, key, kind)
    except KeyError:
      raise Refused(404, "this clip is not kept any more; decode it again") from None
    except (ValueError, ImportError) as error:
      raise Refused(400, str(error)) from error
    name = {"content-disposition": f'attachment; filename="totojax-{key}.{kind}"'}
    headers = {**_HEADERS, **name}
    return self._responses.Response(data, media_type=_KINDS[kind], headers=headers)


def _check_sender(scope: Any, host: str) -> None:
  """Raises Refused for a request by a name that is not ours, or by another's page.

  An address, or `localhost`, is no name that a stranger's DNS could lead here.
  """
  headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
  named = headers.get("host", "")
  name = urllib.parse.urlsplit(f"//{named}").hostname if _is_plain(named) else None
  if name is None or not (name in ("localhost", host) or _is_address(name)):
    raise Refused(403, f"this page is asked for as {named!r:.80}; use the address that it printed")
  origin = headers.get("origin")
  if origin is not None and origin != f"http://{named}":
    raise Refused(403, f"the page of {origin!r:.80} may ask nothing here")
  if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
    raise Refused(403, "another page may ask nothing here")


def _is_plain(named: str) -> bool:
  return bool(named) and not {*named} & {*"/\\@?# "} and named.isprintable()


def _is_address(name: str) -> bool:
  try:
    ipaddress.ip_address(name)
  except ValueError:
    return False
  return True


@contextlib.contextmanager
def _aside() -> Iterator[Any]:
  """A file of a name of ours, which is gone afterwards, whatever happens."""
  with tempfile.NamedTemporaryFile("wb", prefix="totojax-upload-") as file:
    yield file


async def _received(
  request: Any, most_bytes: int, limit_s: float, write: Callable[[bytes], Any]
) -> None:
  """Writes the body of a request as it comes.

  Raises:
    Refused: it is empty, larger, or takes longer.
  """
  told = request.headers.get("content-length", "0")
  count = int(told) if told.isdecimal() and len(told) < 20 else 0
  large = Refused(413, f"it has more than {most_bytes / 1e6:g} MB; that is the most that may come")
  if count > most_bytes:
    raise large
  count = 0
  try:
    async with asyncio.timeout(limit_s):
      async for part in request.stream():
        count += len(part)
        if count > most_bytes:
          raise large
        write(part)
  except TimeoutError:
    raise Refused(408, f"it did not come within {limit_s:g} s") from None
  if not count:
    raise Refused(400, "it is empty")


async def _lines(events: asyncio.Queue) -> AsyncIterator[str]:
  """Server-sent events, and a comment where nothing happens: whoever is gone is noticed."""
  while True:
    try:
      event, data = await asyncio.wait_for(events.get(), _ALIVE_S)
    except TimeoutError:
      yield ": nothing new\n\n"
      continue
    yield f"event: {event}\ndata: {json.dumps(data)}\n\n"
    if event in ("done", "failed"):
      return


@contextlib.contextmanager
def serving(studio: studio_lib.Studio, server: Server) -> Iterator[str]:
  """The page's address, while it is served on a thread.

  Raises:
    ImportError: the extra is missing.
    OSError: the port or the address cannot be had.
  """
  page_app = app(studio, host=server.host)
  import uvicorn

  listener = _listening(server)
  config = uvicorn.Config(
    page_app,
    http="h11",
    ws="none",
    lifespan="off",
    log_config=None,
    access_log=False,
    server_header=False,
    limit_concurrency=_MOST_CONNECTIONS,
    timeout_graceful_shutdown=round(_STOP_S),
  )
  running = uvicorn.Server(config)
  thread = threading.Thread(
    target=running.run, kwargs={"sockets": [listener]}, name="page", daemon=True
  )
  thread.start()
  host = f"[{server.host}]" if ":" in server.host else server.host
  try:
    yield f"http://{host}:{listener.getsockname()[1]}/"
  finally:
    running.should_exit = True
    thread.join(2 * _STOP_S)
    listener.close()


def _listening(server: Server) -> socket.socket:
  family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
  try:
    return socket.create_server((server.host, server.port), family=family)
  except OSError as error:
    taken = error.errno in (errno.EADDRINUSE, errno.EACCES)
    advice = (
      "--config.server.port=0 takes a free port"
      if taken
      else "give an address of this machine: 127.0.0.1, or 0.0.0.0 for all that it has"
    )
    # Of a name that nobody knows it is a number of the resolver's own.
    number = error.errno or 0
    known = number in errno.errorcode
    why = os.strerror(number) if known else str(error.strerror or error).split(" (while")[0]
    raise OSError(
      f"server.host {server.host!r} and server.port {server.port} cannot be listened on ({why});"
      f" {advice}"
    ) from error
