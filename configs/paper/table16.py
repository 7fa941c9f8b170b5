r"""Table 16: Kinetics-400, cross-attention and an MLP on a frozen model.

  python -m totojax.main --config=configs/paper/table16.py:large \
    --workdir=gs://BUCKET/table16-large --config.model_run=gs://BUCKET/large

Rows: base, large, 1b, which read the runs of table1.py; stores of clips as
configs/probe_k400.py says. The paper's top-1: 61.2, 65.8 and 74.8 %. Not run.
"""

from totojax.config import paper as paper_defaults

ROWS = {"base": 61.2, "large": 65.8, "1b": 74.8}


def get_config(row="large"):
  top1 = paper_defaults.chosen(ROWS, row, "table16")
  return paper_defaults.kinetics_probe("", name=f"Table 16, {row}", top1=top1)
