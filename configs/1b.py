"""Toto-1b (Table 1): 1.13 billion parameters on 10^12 visual tokens.

  python -m totojax.main --config=configs/1b.py --workdir=gs://BUCKET/toto-1b \
    --config.data.root=gs://BUCKET/tokens

Hardware: meant for a TPU pod (256 chips hold one sequence each). It was not
trained: the tests build and shrink it. Compiler estimates for v5e:16x16 with
fsdp=256 (libtpu 0.0.42.1; --config.run=plan --config.plan.topology=v5e:16x16):
a peak of 3.88 GiB of HBM a chip, 249 ms a step and about 66.0 % of the peak
with all exchanges between chips hidden, which take 50 ms alone.
"""

from totojax.config import recipes


def get_config():
  c = recipes.paper("1b")
  c.compute.remat = "products"
  return c
