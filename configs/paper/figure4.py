r"""Figure 4: attention probes of every layer of base, large and 1b.

  python -m totojax.main --config=configs/paper/figure4.py:large \
    --workdir=gs://BUCKET/figure4-large --config.model_run=gs://BUCKET/large

Rows: base, large, 1b, which read the runs of table1.py. layer_curve.png is the
figure; the paper's curves peak near half of the depth, at layers 7, 8 and 11
counted from the embeddings. Its heights stand in no table. Not run.
"""

from totojax.config import paper as paper_defaults

ROWS = {"base": 7, "large": 8, "1b": 11}  # layer of the peak, read off


def get_config(row="large"):
  paper_defaults.chosen(ROWS, row, "figure4")
  c = paper_defaults.linear_probe("", name="", top1=0.0)
  return paper_defaults.attention_probe(c)
