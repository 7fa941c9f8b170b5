r"""Table 7: ImageNet-1k, next-token training with probes of every layer.

  python -m totojax.main --config=configs/paper/table7.py:large \
    --workdir=gs://BUCKET/table7-large --config.model_run=gs://BUCKET/large \
    --config.data.root=IMAGENET --config.data.encode_with=dvae.safetensors

Rows: base, large, 1b, which begin with the runs of table1.py. The paper's
top-1: 64.7, 71.1 and 75.3 %. Not run.
"""

from totojax.config import paper as paper_defaults, recipes

ROWS = {"base": 64.7, "large": 71.1, "1b": 75.3}


def get_config(row="large"):
  top1 = paper_defaults.chosen(ROWS, row, "table7")
  c = recipes.joint("")
  c.paper.update(name=f"Table 7, {row}", top1=top1)
  return c
