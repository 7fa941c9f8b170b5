"""`run = "plan"`: what a job costs, before it is paid.

Of pre-training (`job`: its step compiled for devices that are not here), or of
tokenizing (`corpus`).
"""

from __future__ import annotations

from etils import epath

from totojax import jobs
from totojax.config import corpus as corpus_config
from totojax.config import pretrain as pretrain_config


def run(
  config: pretrain_config.Pretrain | corpus_config.Tokenize,
  workdir: epath.Path,
  interrupted: jobs.Interrupted,
) -> bool:
  """Of training where the config holds a model to train, else of tokenizing."""
  # Only now: one of the two needs a compiler, the other decodes.
  if isinstance(config, pretrain_config.Pretrain):
    from totojax.jobs.plan import job

    return job.run(config, workdir, interrupted)
  from totojax.jobs.plan import corpus

  return corpus.run(config, workdir, interrupted)
