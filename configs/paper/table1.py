r"""Table 1: Toto-base, large and 1b on 10^12 tokens of the mixture.

  python -m totojax.main --config=configs/paper/table1.py:large \
    --workdir=gs://BUCKET/table1-large --config.data.root=gs://BUCKET/tokens

Rows: base, large, 1b; the same runs as configs/base.py and the rest. The
paper's training losses at the end, read off Figure 2: 3.58, 3.47 and 3.31 nats
per token. Not run.
"""

from totojax.config import paper as paper_defaults, recipes

ROWS = {"base": 3.58, "large": 3.47, "1b": 3.31}  # loss at the end


def get_config(row="large"):
  paper_defaults.chosen(ROWS, row, "table1")
  return recipes.paper(row)
