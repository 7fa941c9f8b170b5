"""The program, with a fault at a step of training: for tests.

  AILS=stop AT=5 python tests/ailing.py --config=...

AILS says what this process does at step AT: "stop" is suspended, "block" waits
in C for ever, "die" is killed while a checkpoint is written; "" nothing. From
that step on the watchdog waits WATCHDOG_S seconds, which the start would not
keep.
"""

import ctypes
import os
import signal

from totojax import checkpoint, main
from totojax.rundir import console

AILS, AT = os.environ["AILS"], int(os.environ["AT"])


def in_c():
  ctypes.CDLL(None).poll(None, 0, -1)


def advance(self, units=1, *, note=None, plain=console.Progress.advance):
  plain(self, units, note=note)
  if str(self).startswith(f"training: {AT}/"):
    if limit := os.environ.get("WATCHDOG_S"):
      console.watchdog._limit_s = float(limit)
    if AILS == "stop":
      os.kill(os.getpid(), signal.SIGSTOP)
    if AILS == "block":
      in_c()


def save(self, step, state, meta, *, best=False, plain=checkpoint.Checkpoints.save):
  plain(self, step, state, meta, best=best)
  if AILS == "die" and step >= AT:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
  console.Progress.advance = advance
  checkpoint.Checkpoints.save = save
  main.run()
