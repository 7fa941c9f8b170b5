r"""Figure 14: probes of every layer at 128 and 256 pixels.

  python -m totojax.main --config=configs/paper/figure14.py:256 \
    --workdir=gs://BUCKET/figure14-256 \
    --config.stages.average.model_run=gs://BUCKET/table4-32/pretrain \
    --config.stages.attention.model_run=gs://BUCKET/table4-32/pretrain

Rows: 128 (16 x 16 tokens) and 256 (32 x 32), of the runs of table4.py:16 and
:32; mean and attention pooling of each. Not run.
"""

from totojax.config import paper as paper_defaults, recipes

ROWS = {"128": 16, "256": 32}  # pixels of a side -> tokens


def get_config(row="128"):
  grid = paper_defaults.chosen(ROWS, row, "figure14")
  average, attention = (
    paper_defaults.linear_probe(f"table4-{grid}/pretrain", name="", top1=0.0) for _ in range(2)
  )
  return recipes.chain(average=average, attention=paper_defaults.attention_probe(attention))
