"""The only door to storage; here, where a run may live at all."""

from __future__ import annotations

import os


def check_run(run: str | os.PathLike[str]) -> None:
  """Refuses a run directory that no run could be in; asks no server.

  Raises:
    ValueError: it is a URL, and not gs://.
  """
  scheme, mark, _ = os.fspath(run).partition("://")
  if mark and scheme != "gs":
    # Orbax makes "s3:/bucket" of s3://bucket, and takes it for a local folder.
    raise ValueError(
      f"{os.fspath(run)} can be no run directory, which is a local folder or gs://;"
      " s3:// is for data alone: read stores from there, and copy a finished run there yourself"
    )
  if mark:
    from totojax.storage import paths  # noqa: F401  before any `epath.Path` of the run
