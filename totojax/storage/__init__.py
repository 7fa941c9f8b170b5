"""The only door to storage; here, where a run may live at all."""

import os
import re

# In a URL they end it for TensorStore, and in a folder orbax looks for its own
# files by a pattern: one run's arrays would be another's, or nowhere.
_WRONG = {True: "#?", False: "[\\"}


class Damage(Exception):
  """Base of errors of bytes that are not what was written (exit status 65)."""


def check_run(run: str | os.PathLike[str], *, data: bool = False) -> None:
  """Refuses a run directory that no run could be in; asks no server.

  From here on `epath.Path` of a URL is one of `paths`.

  Args:
    run: the directory.
    data: whether it is of a job that leaves data alone, which may be on s3://.

  Raises:
    ValueError: it is a URL, and not gs://; or its name is none for a run.
  """
  name = os.fspath(run)
  scheme, mark, rest = name.partition("://")
  if mark and scheme != "gs" and not (data and scheme == "s3"):
    # Orbax makes "s3:/bucket" of s3://bucket, and takes it for a local folder.
    raise ValueError(
      f"{name} can be no run directory, which is a local folder or gs://;"
      " s3:// is for data alone, which is made there and read from there"
    )
  if wrong := _wrong(name, rest, url=bool(mark), data=data):
    raise ValueError(f"{name!r} can be no run directory: {wrong}")
  if mark:
    # Before any `epath.Path` of the run; without one, --help stays light.
    from totojax.storage import paths  # noqa: F401


def _wrong(name: str, rest: str, *, url: bool, data: bool) -> str:
  """What is wrong with the name of a run directory, or ""."""
  if not url and re.match("(gs|s3):", name):
    return f"a URL begins with {name[:2]}://"
  if url and not re.match("[^/]", rest):
    return "it names no bucket; it has the form gs://BUCKET/RUN"
  if url and ".." in rest.split("/"):
    return 'buckets have no ".."; name the folder itself'
  forbidden = "" if data else _WRONG[url]
  bad = [c for c in (name if url else os.path.abspath(name)) if c in forbidden]
  bad += [c for c in name if not c.isprintable()]
  return f"checkpoints cannot be kept below a name with {bad[0]!r}; use another" if bad else ""
