"""Toto-large (Table 1): 277 million parameters on 10^12 visual tokens.

  python -m totojax.main --config=configs/large.py \
    --workdir=gs://BUCKET/toto-large --config.data.root=gs://BUCKET/tokens

Hardware: meant for a TPU pod (64 chips hold four sequences each). It was not
trained: the tests build and shrink it.
"""

from totojax import defaults


def get_config():
  return defaults.paper("large")
