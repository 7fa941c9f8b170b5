"""Video files as PyAV opens them (the `data` extra), and what cannot be read."""

from collections.abc import Iterator
import contextlib
import io
import os
from typing import Any

from totojax.storage import objects, outside, reading

_LIBRARIES = ("libavformat", "libavcodec", "libswscale")
VideoInput = str | os.PathLike[str] | bytes
# Demuxers of FFmpeg, by its names, of files that hold all that is shown.
_WHOLE = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,ogg,asf,gif,m4v,h264"


class Undecodable(ValueError):
  """A file gives no clip; the message is the reason, for people to read."""


def pyav() -> Any:
  """The package that reads videos.

  Raises:
    ImportError: it is missing; names the extra that brings it.
  """
  try:
    import av  # pylint: disable=g-import-not-at-top
  except ImportError as error:
    raise ImportError(
      'decoding video needs PyAV; install it with: pip install "totojax[data]"'
    ) from error
  return av


def versions() -> dict[str, str]:
  """What decides a decoded picture: of PyAV, and of FFmpeg inside it.

  Raises:
    ImportError: PyAV is missing.
  """
  av = pyav()
  libraries = {name: ".".join(map(str, av.library_versions[name])) for name in _LIBRARIES}
  return {"PyAV": av.__version__, **libraries}


@contextlib.contextmanager
def readable() -> Iterator[None]:
  """Turns what PyAV and the file system raise into `Undecodable`."""
  av = pyav()
  try:
    yield
  except Undecodable:
    raise
  except av.InvalidDataError as error:
    raise Undecodable(
      "InvalidDataError: FFmpeg finds no video in it; it is none, or it is cut or damaged"
    ) from error
  except (av.FFmpegError, OSError, ValueError, ArithmeticError, EOFError) as error:
    raise Undecodable(f"{type(error).__name__}: {error}") from error


def has_bytes(source: VideoInput) -> bool:
  """Whether there is anything in the file."""
  if isinstance(source, bytes):
    return bool(source)
  with reading.open_file(os.fspath(source)) as file:
    return bool(file.read(1))


def check_alone(path: str | os.PathLike[str]) -> None:
  """Raises Undecodable for a file of no kind that holds its video itself.

  A list of pieces (HLS, DASH, FFmpeg's own) is a video to FFmpeg, which opens the
  files and addresses that it names.
  """
  av = pyav()
  try:
    with readable():
      options = {"format_whitelist": _WHOLE, "protocol_whitelist": "file"}
      av.open(_handle(path), options=options).close()
  except Undecodable as error:
    raise Undecodable(
      "it is no video that is read here; give an MP4, MOV, WebM, MKV, AVI, MPEG, FLV, OGV or WMV"
    ) from error


def header_s(source: VideoInput) -> float:
  """Seconds of a file as its header has them; 0.0 where it says nothing.

  Raises:
    Undecodable: there is no video in it.
  """
  with readable():
    container, stream = open_video(source)
    with container:
      if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
      return (container.duration or 0) / 1e6


def open_video(source: VideoInput, *, untrimmed: bool = False) -> tuple[Any, Any]:
  """The container, and its video stream (cover art of audio is none).

  Args:
    source: the video.
    untrimmed: whether the edit list of an MP4 is left aside.
  """
  av = pyav()
  # Titles in old encodings must not make a file unreadable. PyAV 19 has no such
  # argument and needs none: it reads any title.
  old = int(av.__version__.partition(".")[0]) < 19
  more: dict[str, Any] = {"metadata_errors": "replace"} if old else {}
  if untrimmed:
    more["options"] = {"ignore_editlist": "1"}
  container = av.open(_handle(source), **more)
  cover = av.stream.Disposition.attached_pic
  for stream in container.streams.video:
    if not stream.disposition & cover:
      # Slices in several threads lose the mark of a damaged picture; workers
      # decode several files at once. (None: FFmpeg does not know the codec.)
      if stream.codec_context is not None:
        stream.codec_context.thread_count = 1
      return container, stream
  container.close()
  raise Undecodable("no video stream in the file")


def _handle(source: VideoInput):
  """What PyAV opens: a path, or a file for what it cannot name."""
  if isinstance(source, bytes):
    return io.BytesIO(source)
  if objects.is_url(source):
    return reading.open_file(os.fspath(source))
  path = os.path.abspath(source)  # "a:b.mp4" alone would be a protocol
  try:
    file = outside.open_plain(path)
    path.encode()
  except outside.Damaged as error:
    raise Undecodable(error.reason) from error
  except UnicodeEncodeError:  # bytes in the name that are no UTF-8
    return file
  file.close()
  return path
