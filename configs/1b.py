"""Toto-1b (Table 1): 1.13 billion parameters on 10^12 visual tokens.

  python -m totojax.main --config=configs/1b.py --workdir=gs://BUCKET/toto-1b \
    --config.data.root=gs://BUCKET/tokens

Hardware: meant for a TPU pod (256 chips hold one sequence each). It was not
trained: the tests build and shrink it, and the TPU compiler (libtpu 0.0.52,
ahead of time) fits its step on v5e:16x16 with fsdp=256, full remat and plain
XLA attention, at a peak of 2.14 GiB of HBM a chip, a compiler's figure.
"""

from totojax import defaults


def get_config():
  return defaults.paper("1b")
