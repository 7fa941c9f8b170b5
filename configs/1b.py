"""Toto-1b (Table 1): 1.13 billion parameters on 10^12 visual tokens.

  python -m totojax.main --config=configs/1b.py --workdir=gs://BUCKET/toto-1b \
    --config.data.root=gs://BUCKET/tokens

Hardware: meant for a TPU pod (256 chips hold one sequence each). What was run
is said in the README; this config was only built and shrunk by the tests.
"""

from totojax import defaults


def get_config():
  return defaults.paper("1b")
