"""The only door to storage; here, where a run may live at all."""

from __future__ import annotations

import os


def check_run(run: str | os.PathLike[str], *, data: bool = False) -> None:
  """Refuses a run directory that no run could be in; asks no server.

  From here on `epath.Path` of a URL is one of `paths`.

  Args:
    run: the directory.
    data: whether it is of a job that leaves data alone, which may be on s3://.

  Raises:
    ValueError: it is a URL, and not gs://.
  """
  scheme, mark, _ = os.fspath(run).partition("://")
  if mark and scheme != "gs" and not (data and scheme == "s3"):
    # Orbax makes "s3:/bucket" of s3://bucket, and takes it for a local folder.
    raise ValueError(
      f"{os.fspath(run)} can be no run directory, which is a local folder or gs://;"
      " s3:// is for data alone, which is made there and read from there"
    )
  if mark:
    # Before any `epath.Path` of the run; without one, --help stays light.
    from totojax.storage import paths  # noqa: F401
