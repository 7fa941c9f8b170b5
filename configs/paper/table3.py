r"""Table 3: what is read and what is predicted, a linear probe of layer 9.

  python -m totojax.main --config=configs/paper/table3.py:dvae16 \
    --workdir=gs://BUCKET/table3-dvae16

Rows: vqgan16k, vqgan1k, dvae32, dvae16, patch, patch_dvae16; Toto-large, 400
epochs of ImageNet-1k, then MAE's linear probe, with MAE's views of ImageNet's
own files in every row. The 9th layer is H_8 or H_9 [gap]: both are probed. The
rows of patches are pre-trained from stores of pixels. The paper's top-1: 61.3,
61.1, 61.2, 53.2, 60.6 and 58.5 %. Not run.
"""

from totojax.config import paper as paper_defaults, recipes

# Tokenizer, tokens per side, the paper's top-1; patches have no tokenizer.
ROWS = {
  "vqgan16k": ("vqgan-16k", 16, 61.3),
  "vqgan1k": ("vqgan-1k", 16, 61.1),
  "dvae32": ("dvae", 32, 61.2),
  "dvae16": ("dvae", 16, 53.2),
  "patch": ("", 16, 60.6),
  "patch_dvae16": ("dvae", 16, 58.5),
}
PIXELS = f"{paper_defaults.ROOT}/imagenet1k-pixels-256"


def get_config(row="dvae16"):
  tokenizer, grid, top1 = paper_defaults.chosen(ROWS, row, "table3")
  of_patches = row.startswith("patch")
  c = patches(tokenizer) if of_patches else paper_defaults.ablation(tokenizer, grid)
  probe = paper_defaults.linear_probe(
    "{workdir}/pretrain",
    name=f"Table 3, {row}",
    top1=top1,
    tokenizer="" if of_patches else tokenizer,
  )
  probe.layers = paper_defaults.NINTH
  return recipes.chain(pretrain=c, probe=probe)


def patches(tokenizer):
  """16 x 16 patches of 16 pixels; their tokens are those of 128 pixels."""
  c = paper_defaults.ablation("dvae", 16)
  c.patches.update(inputs=True, targets=not tokenizer, decay=True)  # as tokens
  c.data.encode_with = paper_defaults.tokenizer_file(tokenizer)
  c.data.train = {"imagenet": recipes.source(f"{PIXELS}/train", 1.0)}
  c.data.validation = {"imagenet": f"{PIXELS}/val"}
  return c
