r"""What will a hand touch next? Both protocols on a rendered miniature (Table 9, in small).

  python -m totojax.main --config=configs/ego4d_world.py

renders videos in which a hand comes to one of several things and touches it, as
Ego4D's short-term anticipation lies on disk (extras `world` and `data`), tokenises
them with a tokenizer that ships with the package, pre-trains a small model on them,
trains it through to anticipate (the paper's protocol), and heads on its frozen
features (the frozen protocol), with three seeds each. `tuned_seeds/metrics.json` and
`frozen_seeds/metrics.json` have means and 95 % intervals, each run its report.html
with drawn boxes, beside rules that look at no pixels. After the colon, KEY=VALUE with
commas between:

  seeds     runs of each protocol (3)
  protocol  tuned or frozen alone
  root      a folder that is rendered; nothing is rendered then
  model     a run of pre-training; nothing is pre-trained then
"""

from totojax.config import sta_recipes


def get_config(argument: str = ""):
  return sta_recipes.chain(argument)
