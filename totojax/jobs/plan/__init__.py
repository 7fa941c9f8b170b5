"""`run = "plan"`: what a job costs, before it is paid.

Of pre-training (`job`: its step compiled for devices that are not here), or of
tokenizing (`corpus`).
"""

from __future__ import annotations

from etils import epath

from totojax import jobs


def run(
    config: jobs.Config, workdir: epath.Path, interrupted: jobs.Interrupted
) -> bool:
  """Of training where the config holds a model to train, else of tokenizing.

  Raises:
    ValueError: it is neither.
  """
  if "model_run" in config:
    raise ValueError(
        "a plan is of pre-training or of tokenizing; this config starts from"
        " model_run. Plan a pre-training config of its model and grid"
    )
  # Only now: one of the two needs a compiler, the other decodes.
  if {"model", "optim"} <= set(config):
    from totojax.jobs.plan import job as plan
  else:
    from totojax.jobs.plan import corpus as plan
  return plan.run(config, workdir, interrupted)
