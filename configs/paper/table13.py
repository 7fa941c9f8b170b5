r"""Table 13 and A.2: full fine-tuning of Toto-base on ImageNet-1k.

  python -m totojax.main --config=configs/paper/table13.py:full \
    --workdir=gs://BUCKET/table13 --config.model_run=gs://BUCKET/base \
    --config.data.root=IMAGENET --config.data.encode_with=dvae.safetensors

Rows: full (attention to all tokens) and causal, from the run of table1.py:base;
MAE's recipe [gap]. The paper's top-1: 82.6 and 82.2 %. Not run.
"""

from totojax.config import paper as paper_defaults, recipes

ROWS = {"full": (-1, 82.6), "causal": (0, 82.2)}  # prefix_tokens, top-1


def get_config(row="full"):
  prefix_tokens, top1 = paper_defaults.chosen(ROWS, row, "table13")
  c = recipes.finetune("")
  c.model.prefix_tokens = prefix_tokens
  c.paper.update(name=f"A.2, base, {row} attention", top1=top1)
  return c
