"""Toto-large with heads that fill a TPU's matrix unit: ours, beside the paper's large.py.

  python -m totojax.main --config=configs/large_tpu.py \
    --workdir=gs://BUCKET/toto-large-tpu --config.data.root=gs://BUCKET/tokens

8 heads of 128, the side of a matrix unit of a v4, v5e or v5p; large_tpu.py:256 has
4 of 256, that of a v6e. Parameters and products are those of large.

Hardware: meant for a TPU pod. It was not trained: the tests build and shrink it.
Compiler estimates for v5e:8x8 (libtpu 0.0.42.1; --config.run=plan
--config.plan.topology=v5e:8x8 --config.train.microbatches=4): a peak of 2.73
GiB of HBM a chip, 242 ms a step and about 70.8 % of the peak, where large.py
takes 342 ms.
"""

from totojax.config import recipes


def get_config(head_dim="128"):
  c = recipes.paper("large_tpu")
  if head_dim not in ("128", "256"):
    raise ValueError(f"configs/large_tpu.py:{head_dim} is unknown; use 128 or 256")
  c.model.heads = c.model.width // int(head_dim)
  # Layers in line, and nothing computed twice: there is memory for it.
  c.compute.update(remat="none", unroll=c.model.depth)
  return c
