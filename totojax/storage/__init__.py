"""The only door to storage; here, where a run may live at all."""

from __future__ import annotations

import os


def check_run(run: str | os.PathLike[str]) -> None:
  """Refuses a run directory that could not be written or read; asks no server.

  Raises:
    ValueError: it is a URL, and not gs://.
    ImportError: a package is missing.
  """
  # epath, which orbax reads and writes with, would take TensorFlow's client of
  # gs:// where TensorFlow is installed: another one, which takes no emulator and
  # has credentials of its own. epath reads this at its first path in a bucket.
  os.environ.setdefault("EPATH_USE_TF", "0")
  scheme, mark, _ = os.fspath(run).partition("://")
  if mark and scheme != "gs":
    # Checkpoints are orbax's, which takes "s3:/" for a local folder's name.
    raise ValueError(
      f"{os.fspath(run)} can be no run directory, which is a local folder or gs://;"
      " s3:// is for data alone: read stores from there, and copy a finished run there yourself"
    )
  if mark:
    try:
      import gcsfs  # noqa: F401  what epath says of a missing one names no command
    except ImportError as error:
      raise ImportError(
        f"{os.fspath(run)} needs gcsfs, which cannot be imported ({error}): pip install gcsfs"
      ) from error
