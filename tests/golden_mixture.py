"""configs/smoke.py on videos and images, and three updates long."""

from ml_collections import ConfigDict

from configs import smoke
from totojax.config import recipes


def get_config(architecture="llama") -> ConfigDict:
  c = smoke.get_config(architecture)
  c.train.total_tokens = 3 * 128.0
  # An element whose gradient is nothing but rounding must not move by all of
  # the rate: which way would be the processor's choice.
  c.optim.update(warmup_steps=1, eps=1e-4)
  c.data.train = {"videos": recipes.source("", 0.7), "images": recipes.source("", 0.3)}
  c.every = recipes.every(log=1, evaluate=3, checkpoint=3)
  return c
