"""The folder of a run: what is in it, who writes it, what it says.

The errors of a run that its user can mend are here: `failures` makes one line
of them.
"""

from totojax import storage

# Exit statuses, those of sysexits.h where that has one (docs/running.md).
BUG = 1
USER = 2  # what was asked for: the config, a flag, a path, an input
DAMAGED = 65  # EX_DATAERR: bytes that are not what was written
DISK = 74  # EX_IOERR: full, read-only, over its quota, gone
# EX_TEMPFAIL: another start may help; a process or device was lost, or storage
# stays away.
RESTART = 75


class RunError(RuntimeError):
  """A run that cannot go on; the message says why and what to do."""


class Damaged(storage.Damage, RunError):
  """Part of a run that is not what was written."""


class InUse(ValueError):
  """A run directory in which another process is at work."""


class PeerLost(RunError):
  """Another process of the run that is not there; another start may help."""


class Lost(RunError):
  """A work directory that another process has taken over."""
