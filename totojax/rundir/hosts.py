"""What is done together by the processes of a run, of which there may be one.

How several find each other, agree and miss a lost one is in `peers`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax


def first(action: Callable[[], object]) -> None:
  """Process 0 does something, and where it fails all processes end alike.

  The others wait for it. What is theirs to say would otherwise be that one of
  them was lost.

  Raises:
    Exception: what `action` raises, in process 0.
    rundir.RunError, outages.StorageAway: in the others, with the same message
      and the same exit status.
  """
  if jax.process_count() == 1:
    action()
    return
  from totojax.rundir import peers  # only now: most runs are alone

  peers.first(action)


def check_data(now: Mapping[str, Mapping[str, Any]]) -> None:
  """Raises `provenance.DataChanged`, on all hosts alike, where one has other data."""
  if jax.process_count() > 1:
    from totojax.rundir import peers

    peers.check_data(now)
