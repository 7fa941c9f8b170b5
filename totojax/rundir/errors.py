"""Errors of a run that its user can mend: `main` prints them as one line."""

from __future__ import annotations


class RunError(RuntimeError):
  """A run that cannot go on; the message says why and what to do."""


class InUse(ValueError):
  """A run directory in which another process is at work."""
