"""The folder of a run: what is in it, who writes it, what it says.

The errors of a run that its user can mend are here: `main` prints them as one
line.
"""

# Exit status of a process that another start may help: it lost another one, or
# its storage stays away. EX_TEMPFAIL of sysexits.h, which launchers know.
RESTART = 75


class RunError(RuntimeError):
  """A run that cannot go on; the message says why and what to do."""


class InUse(ValueError):
  """A run directory in which another process is at work."""


class Lost(RunError):
  """A work directory that another process has taken over."""
