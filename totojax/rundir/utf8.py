"""A locale that is not UTF-8: names of files and all text are UTF-8 all the same."""

import io
import os
import sys


def begin() -> None:
  """Begins this process anew in Python's UTF-8 mode; returns where it has been.

  TensorStore writes names of files in UTF-8, whatever the locale, and would
  find others than Python does.
  """
  mode = {"PYTHONUTF8": "1"}
  if sys.getfilesystemencoding() != "utf-8" and not mode.items() <= os.environ.items():
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **mode})
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(encoding="utf-8", errors="backslashreplace")
