r"""Table 4: 16 x 16 tokens, 32 x 32, and from one to the other.

  python -m totojax.main --config=configs/paper/table4.py:16to32_rope \
    --workdir=gs://BUCKET/table4-16to32

Rows: 16, 32, 16to32 and 16to32_rope (base of RoPE 50,000). The last two begin
with the run of row 16, --config.stages.pretrain.init_from. The paper's text
has one epoch at 32 x 32 and its compute 50; 50 here [gap], at a tenth of the
rate [gap]. One epoch, with as much of it to warm up [gap]:
  --config.stages.pretrain.train.total_tokens=1311915008.0
  --config.stages.pretrain.optim.warmup_steps=40
The paper's top-1: 53.2, 61.2, 63.2 and 64.4 %; its compute, 1.42e17, 5.68e17
and 2.13e17, counts one token of each image: `configs/audit.py`. Not run.
"""

from totojax.config import paper as paper_defaults, recipes

# Tokens per side, base of RoPE, the paper's top-1.
ROWS = {
  "16": (16, 10_000.0, 53.2),
  "32": (32, 10_000.0, 61.2),
  "16to32": (32, 10_000.0, 63.2),
  "16to32_rope": (32, 50_000.0, 64.4),
}
SECOND_EPOCHS = 50  # [gap] what the printed compute means


def get_config(row="16to32_rope"):
  grid, rope_base, top1 = paper_defaults.chosen(ROWS, row, "table4")
  c = paper_defaults.ablation("dvae", grid)
  c.model.rope_base = rope_base
  if row.startswith("16to32"):
    c.init_from = "table4-16/pretrain"
    c.train.total_tokens = float(SECOND_EPOCHS * paper_defaults.IMAGES * grid**2)
    c.optim.lr = 3e-5  # [gap] a tenth of the first stage's
  return recipes.chain(
    pretrain=c,
    probe=paper_defaults.linear_probe("{workdir}/pretrain", name=f"Table 4, dVAE/{row}", top1=top1),
  )
