"""Whether a model finds videos unlikely that cannot be, as of an object that vanishes.

  python -m totojax.main --config=configs/surprise.py --workdir=SURPRISE \
    --config.model_run=runs/demo/pretrain
  python -m totojax.main --config=configs/surprise.py --workdir=SURPRISE \
    --config.model_run=RUN --config.data.set=intphys --config.data.root=INTPHYS

Needs a finished run of pre-training. The first scores scenes that the project
draws, the second a data set as it lies on disk: intphys, intphys2, grasp,
inflevel, or csv (path, group, label; --config.data.list=PAIRS.csv). Leaves
SURPRISE/report.html (accuracies with intervals, worst frames with heat maps),
surprise.json, videos.csv and frames.csv (docs/generation.md).
"""

from totojax.config import recipes


def get_config():
  return recipes.surprise("")
