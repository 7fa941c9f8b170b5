r"""Figure 2: training loss of base, large and 1b over tokens.

  python -m totojax.main --config=configs/paper/figure2.py --workdir=figure2 \
    --config.curves.runs="('base=gs://BUCKET/table1-base',)"

Draws what the runs of table1.py have logged so far. Dashed: where the paper's
curves end, read off its figure.
"""

from totojax.config import study_recipes

ENDS = {"base": 3.58, "large": 3.47, "1b": 3.31}


def get_config():
  c = study_recipes.curves(*(f"{name}=table1-{name}" for name in ENDS))
  c.curves.update(window=50, printed=ENDS)
  return c
