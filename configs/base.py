"""Toto-base (Table 1): 120 million parameters on 10^12 visual tokens.

  python -m totojax.main --config=configs/base.py \
    --workdir=gs://BUCKET/toto-base --config.data.root=gs://BUCKET/tokens

Hardware: meant for a TPU pod (64 chips hold four sequences each). It was not
trained: the tests build and shrink it. Compiler estimates for v5e:8x8 (libtpu
0.0.42.1; --config.run=plan --config.plan.topology=v5e:8x8
--config.train.microbatches=4): a peak of 1.78 GiB
of HBM a chip, 173 ms a step and about 45.3 % of the peak: heads of 64 fill
half of a matrix unit; base_tpu.py has larger ones.
"""

from totojax.config import recipes


def get_config():
  c = recipes.paper("base")
  # Layers in line, and nothing computed twice: there is memory for it.
  c.compute.update(remat="none", unroll=c.model.depth)
  return c
