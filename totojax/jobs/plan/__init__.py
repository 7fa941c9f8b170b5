"""`run = "plan"`: what a job costs, before it is paid.

Of pre-training (`job`: its step compiled for devices that are not here), or of
tokenizing (`corpus`).
"""

from __future__ import annotations

from typing import Any

from etils import epath

from totojax import jobs
from totojax.config import pretrain


def run(
    config: pretrain.Pretrain | Any,
    workdir: epath.Path,
    interrupted: jobs.Interrupted,
) -> bool:
  """Of training where the config holds a model to train, else of tokenizing."""
  # Only now: one of the two needs a compiler, the other decodes.
  if isinstance(config, pretrain.Pretrain):
    from totojax.jobs.plan import job as plan
  else:
    from totojax.jobs.plan import corpus as plan
  return plan.run(config, workdir, interrupted)
