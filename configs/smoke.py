"""A model of 23,000 parameters on any small store of tokens: for tests.

  python -m totojax.main --config=configs/smoke.py --workdir=/tmp/smoke \
    --config.data.train.moving.path=TRAIN --config.data.validation.moving=VAL

The stores hold videos of 4 frames of 2 x 2 tokens out of 60 codes. One CPU,
seconds. `--config=configs/smoke.py:gpt2` and `:mamba` train Table 6's other
architectures.
"""

from totojax.config import recipes


def get_config(architecture="llama"):
  c = recipes.pretrain("tiny")
  recipes.use(c, architecture, "tiny")
  c.sequence.update(vocab=60, grid=2, frames=4, context=16)
  c.compute.dtype = "float32"
  c.optim.update(lr=1e-2, warmup_steps=5)
  c.train.update(batch_tokens=128, total_tokens=128 * 20.0)
  c.data.train = {"moving": recipes.source("", 1.0)}
  c.data.validation = {"moving": ""}
  c.every = recipes.every(log=1, evaluate=8, checkpoint=4)
  return c
