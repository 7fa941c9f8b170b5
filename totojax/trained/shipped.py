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
from totojax.config.schema import ConfigError
from totojax.rundir import directory, local

NAME = "shipped"  # in place of a run directory
_FOLDER = pathlib.Path(__file__).parent / "shipped"


def run() -> epath.Path:
  """Its run directory, which is made where it is not there.

  Raises:
    ConfigError: it is not there, and this is one of several processes.
    OSError: the user's cache cannot be written.
  """
  digest = hashlib.sha256((_FOLDER / "model.safetensors").read_bytes()).hexdigest()
  made = local.cache("models") / f"shipped-{digest[:16]}"
  if not directory.is_done(made):
    _make(made)
  return made


def _make(made: epath.Path) -> None:
  import jax

  from totojax.trained import imported  # orbax takes its time

  if jax.process_count() > 1:  # a checkpoint is written by all, and a cache is each host's own
    raise ConfigError(
      f"{made} is not there, and several processes cannot make it; on each host run once: python -c"
      " \"import totojax; totojax.load('shipped')\""
    )
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
