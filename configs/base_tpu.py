"""Toto-base with heads that fill a TPU's matrix unit: ours, beside the paper's base.py.

  python -m totojax.main --config=configs/base_tpu.py \
    --workdir=gs://BUCKET/toto-base-tpu --config.data.root=gs://BUCKET/tokens

6 heads of 128, the side of a matrix unit of a v4, v5e or v5p; base_tpu.py:256 has
3 of 256, that of a v6e. Parameters and products are those of base.

Hardware: meant for a TPU pod. It was not trained: the tests build and shrink it.
Compiler estimates for v5e:8x8 (libtpu 0.0.42.1; --config.run=plan
--config.plan.topology=v5e:8x8 --config.train.microbatches=4): a peak of 1.63
GiB of HBM a chip, 118 ms a step and about 66.4 % of the peak, where base.py
takes 173 ms.
"""

from totojax.config import recipes


def get_config(head_dim="128"):
  c = recipes.paper("base_tpu")
  if head_dim not in ("128", "256"):
    raise ValueError(f"configs/base_tpu.py:{head_dim} is unknown; use 128 or 256")
  c.model.heads = c.model.width // int(head_dim)
  # Layers in line, and nothing computed twice: there is memory for it.
  c.compute.update(remat="none", unroll=c.model.depth)
  return c
