r"""Figure 9: the scaling law of a1 to a6.

  python -m totojax.main --config=configs/paper/figure9.py --workdir=figure9 \
    --config.scaling.runs="('a1=gs://BUCKET/a1', 'a2=gs://BUCKET/a2')"

Reads the runs of table15.py, which are evaluated on Kinetics-400's validation
videos as they train. The paper prints L(C) = 7.32 C^-0.0378, whose C is in no
unit of the figure (`configs/audit.py`), and GPT-3's 2.57 C^-0.048. In small, on
a laptop: configs/scaling.py. Not run at this size.
"""

from totojax.config import study_recipes

NAMES = ("a1", "a2", "a3", "a4", "a5", "a6")


def get_config():
  c = study_recipes.scaling(*(f"{name}={name}" for name in NAMES))
  c.scaling.source = "kinetics400"
  return c
