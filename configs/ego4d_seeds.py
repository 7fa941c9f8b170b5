r"""What runs of configs/ego4d.py or ego4d_frozen.py with several seeds say together.

  python -m totojax.main --config=configs/ego4d_seeds.py:RUN0,RUN1,RUN2 --workdir=SEEDS

The runs differ in --config.seed alone. Leaves metrics.json: of each column of top-5
mAP the mean and a 95 % interval by Student's t.
"""

from totojax.config import roots


def get_config(runs: str = ""):
  return roots.config("sta_seeds", runs=tuple(filter(None, runs.split(","))))
