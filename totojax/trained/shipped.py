"""The model that ships with the package, as a run of pre-training.

`shipped/` beside this file is an export of `configs/shipped.py`, with its card. The
first use makes a run of it below ~/.cache/totojax, which all jobs read as any other.
"""

import hashlib
import os
import pathlib
import shutil
import tempfile

from etils import epath

from totojax.config.exchange import Importing
from totojax.rundir import directory, local

NAME = "shipped"  # in place of a run directory
_FOLDER = pathlib.Path(__file__).parent / "shipped"


def run() -> epath.Path:
  """Its run directory, which is made where it is not there.

  Raises:
    OSError: the user's cache cannot be written.
  """
  digest = hashlib.sha256((_FOLDER / "model.safetensors").read_bytes()).hexdigest()
  made = local.cache("models") / f"shipped-{digest[:16]}"
  if not directory.is_done(made):
    _make(made)
  return made


def _make(made: epath.Path) -> None:
  from totojax.trained import imported  # orbax takes its time

  made.parent.mkdir(parents=True, exist_ok=True)
  aside = tempfile.mkdtemp(prefix=f"{made.name}.", dir=made.parent)
  try:
    found = imported.read(Importing(path=os.fspath(_FOLDER)), seed=0)
    imported.write(found, epath.Path(aside), imported={"path": NAME, "layout": "auto"})
    try:
      os.rename(aside, made)
    except OSError:  # another process was first
      if not directory.is_done(made):
        raise
  finally:
    shutil.rmtree(aside, ignore_errors=True)
