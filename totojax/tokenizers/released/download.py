"""Large files over HTTP: resumed, checked, and never half under their name.

The bytes go into `name.part`; `name.part.json` says which file they are the
beginning of (address, length, ETag or date), so that a file that changed on the
server is begun again instead of glued to the rest of the old one.
"""

from collections.abc import Callable
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil

import requests

from totojax.rundir import console
from totojax.storage import outside

MOST_BYTES = 4 * 2**30  # of a file; `pickles` reads no larger one

CHUNK_BYTES = 2**16  # at most this much is lost where a connection breaks
TIMEOUT_S = 30.0  # without a byte
MIB = 2**20


class DownloadError(ValueError):
  """A file that could not be fetched, or is not the one expected."""


class _Broken(Exception):
  """The connection ended early; what came is kept."""


@dataclasses.dataclass(frozen=True)
class _RemoteFile:
  """What a server says of a file."""

  url: str
  length: int  # bytes of the whole file
  mark: str  # its strong ETag, else its date, else "": sent with `If-Range`


class _Part:
  """The bytes of a file that came so far, and the note of which file it is."""

  def __init__(self, path: pathlib.Path):
    self.path = path.with_name(path.name + ".part")
    self._note = path.with_name(path.name + ".part.json")

  @property
  def size(self) -> int:
    return self.path.stat().st_size if self.path.exists() else 0

  def known(self, url: str) -> _RemoteFile | None:
    """What the bytes are the beginning of; None where they are to be dropped."""
    try:
      known = outside.fields(_RemoteFile, self._note, outside.read_json(self._note))
    except (OSError, ValueError):
      return None
    return known if known.url == url and 0 < self.size <= known.length else None

  def note(self, known: _RemoteFile) -> None:
    self._note.write_text(json.dumps(dataclasses.asdict(known)), encoding="utf-8")

  def forget(self) -> None:
    self.path.unlink(missing_ok=True)
    self._note.unlink(missing_ok=True)


def fetch(
  url: str,
  path: str | os.PathLike[str],
  *,
  sha256: str | None,
  interrupted: Callable[[], bool] = lambda: False,
) -> bool:
  """Downloads a file, going on where an earlier call stopped.

  A connection that breaks off is taken up again for as long as each one brings
  the file further. A file that is at `path` already is checked and kept.

  Args:
    url: http or https address.
    path: of the file; its folder must exist.
    sha256: 64 hex digits that the file must have; None is not checked.
    interrupted: asked after each chunk; what came so far is kept.

  Returns:
    Whether the file is there: False where it was interrupted.

  Raises:
    DownloadError: no connection, an error of the server, no space, or another
      length or SHA-256 (the bytes are then deleted).
  """
  path = pathlib.Path(path)
  if path.exists():
    if sha256 is not None:
      check_digest(path, sha256, f"delete it, and it is fetched from {url}")
    return True
  part, longest = _Part(path), -1
  while True:
    try:
      if not _transfer(url, part, interrupted):
        return False
      break
    except _Broken as error:
      if part.size <= longest:
        raise DownloadError(
          f"{url}: {error}. Run the same command again later ({part.size} bytes are kept in"
          f" {part.path}), or fetch it by hand and give its path"
        ) from None
      longest = part.size
    except OSError as error:
      raise DownloadError(
        f"{part.path} cannot be written ({error.strerror}); free some space or give a folder that"
        " can be written, and run the same command again"
      ) from error
  if sha256 is not None:
    try:
      check_digest(part.path, sha256, f"{url} has another file now; it was deleted")
    except DownloadError:
      part.forget()
      raise
  os.replace(part.path, path)
  part.forget()
  return True


def digest(path: str | os.PathLike[str]) -> str:
  """64 hex digits of the SHA-256 of a file."""
  with outside.open_plain(path, most_bytes=MOST_BYTES) as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def check_digest(path: str | os.PathLike[str], sha256: str, fix: str) -> str:
  """The digest of a file; raises DownloadError unless it is `sha256`."""
  actual = digest(path)
  if actual != sha256.lower():
    raise DownloadError(f"{path} has the SHA-256 {actual}; {sha256} is expected: {fix}")
  return actual


def _transfer(url: str, part: _Part, interrupted: Callable[[], bool]) -> bool:
  """One connection; whether the part is whole, False where interrupted."""
  known = part.known(url)
  begin = part.size if known else 0
  if known and begin == known.length:
    return True
  # Compressed on its way, the length would say nothing.
  headers = {"Accept-Encoding": "identity"}
  if known:
    headers["Range"] = f"bytes={begin}-"
    if known.mark:
      headers["If-Range"] = known.mark
  try:
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
      if response.status_code in (206, 416):  # 416: it is shorter now
        if known is None or not _continues(response, begin, known):
          part.forget()  # of another file: fetched from its start next time
          raise _Broken("the server sends another part than the one asked for")
      else:
        begin, known = 0, _answer(response, url)
        part.forget()  # before the note: never old bytes under a new one
      free_bytes = shutil.disk_usage(part.path.parent).free
      if known.length - begin > free_bytes:
        raise DownloadError(
          f"{part.path.parent} has {free_bytes} bytes free; {known.length - begin} more are"
          " needed: free some space, and run the same command again"
        )
      part.note(known)
      return _write(response, part.path, known.length, begin, interrupted)
  except requests.RequestException as error:
    if isinstance(error, ValueError):  # as those of an address are
      raise DownloadError(
        f"{url!r} is no address ({error}); it begins with https:// or http://"
      ) from error
    cause: BaseException = error
    while cause.__context__ is not None:  # the innermost says it in a few words
      cause = cause.__context__
    reason = f"{type(cause).__name__}: {cause}"[:200]
    raise _Broken(f"the connection failed ({reason})") from error


def _answer(response: requests.Response, url: str) -> _RemoteFile:
  """What the server sends.

  Raises:
    DownloadError: it sends an error, or not how long the file is.
  """
  if response.status_code != 200:
    raise DownloadError(
      f"{url} answers {response.status_code} {response.reason}; check the"
      " address, or fetch the file by hand and give its path"
    )
  encoding = response.headers.get("Content-Encoding", "identity")
  length = response.headers.get("Content-Length", "")
  if not length.isdecimal() or encoding != "identity":
    raise DownloadError(
      f"{url} does not say how long the file is, so that a cut one would not"
      " be noticed; fetch it by hand and give its path"
    )
  return _RemoteFile(url, int(length), _mark(response))


def _mark(response: requests.Response) -> str:
  etag = response.headers.get("ETag", "")
  strong = etag if etag and not etag.startswith("W/") else ""
  return strong or response.headers.get("Last-Modified", "")


def _continues(response: requests.Response, begin: int, known: _RemoteFile) -> bool:
  """Whether the answer is the rest of the file that the part begins."""
  # The date may be left out where it was the condition of the request.
  if _mark(response) not in ("", known.mark):
    return False
  span = f"bytes {begin}-{known.length - 1}/{known.length}"
  return response.headers.get("Content-Range") == span


def _write(
  response: requests.Response,
  part: pathlib.Path,
  length: int,
  begin: int,
  interrupted: Callable[[], bool],
) -> bool:
  """Appends the body to the first `begin` bytes of the part."""
  with (
    open(part, "ab" if begin else "wb") as file,
    console.tracking(
      f"fetching {part.stem}", unit="MiB", total=-(-length // MIB), done=begin // MIB
    ) as bar,
  ):
    written = begin
    for chunk in response.iter_content(CHUNK_BYTES):
      file.write(chunk)
      written += len(chunk)
      bar.advance(-(-written // MIB) - bar.done)
      if interrupted() and written < length:
        return False
    file.flush()
    os.fsync(file.fileno())
  if written != length:
    raise _Broken(f"it ended after {written} of {length} bytes")
  return True
