"""`run = "doctor"`: looks at everything that a run needs, and leaves nothing."""

import contextlib
import signal

from etils import epath

from totojax import doctor, jobs, rundir
from totojax.config.doctor import Doctor


def run(config: Doctor, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Prints what is wrong and what to do about it.

  Raises:
    rundir.RunError: something must be mended; names it.
  """
  del interrupted
  with contextlib.suppress(ValueError):  # in another thread than the first
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is lost at once
  rows = doctor.checks(str(workdir), config.paths, timeout_s=config.timeout_s)
  doctor.show(rows, as_json=config.json)
  if names := doctor.failed(rows):
    raise rundir.RunError(f"{', '.join(names)}: see what to do above")
  return True
