r"""Is anything that is held out also trained on?

  python -m totojax.main --config=configs/leakage.py \
    --config.leakage.train="('TOKENS/k600/train',)" \
    --config.leakage.validation="('TOKENS/k400/val',)"

Compares the ids of videos, and exact tokens (which random crops of a video that
has two names do not share, and central crops of images do). An overlap is an
error, and leakage.csv names it. To make the training store without it, give the
held-out store to configs/tokenize.py as source.exclude.
"""

from totojax.config import recipes


def get_config():
  return recipes.leakage()
