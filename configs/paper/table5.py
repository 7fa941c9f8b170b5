r"""Table 5: attention against average pooling, of the same model.

  python -m totojax.main --config=configs/paper/table5.py \
    --workdir=gs://BUCKET/table5

Toto-large, 400 epochs of ImageNet-1k with 16 x 16 tokens, then both probes of
every layer. A finished run of table3.py:dvae16 may take the place of the first
stage: copy its folder. The paper's top-1: 53.2 % and 61.1 %. Not run.
"""

from totojax.config import paper as paper_defaults, recipes

TOP1 = {"average": 53.2, "attention": 61.1}


def get_config():
  probes = {
    pool: paper_defaults.linear_probe(
      "{workdir}/pretrain", name=f"Table 5, {pool} pooling", top1=top1
    )
    for pool, top1 in TOP1.items()
  }
  paper_defaults.attention_probe(probes["attention"])
  return recipes.chain(pretrain=paper_defaults.ablation(), **probes)
