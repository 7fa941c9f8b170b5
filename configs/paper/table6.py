r"""Table 6: LLaMA, GPT-2 and Mamba, the best layer of a linear probe.

  python -m totojax.main --config=configs/paper/table6.py:mamba \
    --workdir=gs://BUCKET/table6-mamba

Rows: gpt2 (280m), mamba (290m), llama (280m); 400 epochs of ImageNet-1k with
16 x 16 tokens. Depths that the paper does not print are those that give its
counts (22 and 42). The paper's top-1: 48.5, 40.7 and 53.2 %. Not run.
"""

from totojax.config import paper as paper_defaults, recipes

# Architecture, preset, the paper's top-1.
ROWS = {
  "gpt2": ("gpt2", "280m", 48.5),
  "mamba": ("mamba", "290m", 40.7),
  "llama": ("llama", "large", 53.2),
}


def get_config(row="llama"):
  architecture, preset, top1 = paper_defaults.chosen(ROWS, row, "table6")
  c = paper_defaults.ablation()
  recipes.use(c, architecture, preset)
  return recipes.chain(
    pretrain=c,
    probe=paper_defaults.linear_probe("{workdir}/pretrain", name=f"Table 6, {row}", top1=top1),
  )
