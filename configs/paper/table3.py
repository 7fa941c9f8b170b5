r"""Table 3: what is read and what is predicted, a linear probe of layer 9.

  python -m totojax.main --config=configs/paper/table3.py:dvae16 \
    --workdir=gs://BUCKET/table3-dvae16

Rows: vqgan16k, vqgan1k, dvae32, dvae16, patch, patch_dvae16; Toto-large, 400
epochs of ImageNet-1k, then MAE's linear probe at the 9th layer. The rows of
patches are pre-trained from stores of pixels, and probed by features of
ImageNet's own files. The paper's top-1: 61.3, 61.1, 61.2, 53.2, 60.6 and
58.5 %. Not run.
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
  if row.startswith("patch"):
    return of_patches(tokenizer, name=f"Table 3, {row}", top1=top1)
  probe = paper_defaults.linear_probe(
    "{workdir}/pretrain", name=f"Table 3, {row}", top1=top1, tokenizer=tokenizer, grid=grid
  )
  probe.layers = (paper_defaults.NINTH,)
  return recipes.chain(pretrain=paper_defaults.ablation(tokenizer, grid), probe=probe)


def of_patches(tokenizer, *, name, top1):
  """16 x 16 patches of 16 pixels; their tokens are those of 128 pixels."""
  c = paper_defaults.ablation("dvae", 16)
  c.patches.update(inputs=True, targets=not tokenizer)
  if tokenizer:
    c.data.encode_with = f"{paper_defaults.ROOT}/dvae.safetensors"
  c.data.train = {"imagenet": recipes.source(f"{PIXELS}/train", 1.0)}
  c.data.validation = {"imagenet": f"{PIXELS}/val"}
  features = recipes.features("{workdir}/pretrain")
  features.features.layers = (paper_defaults.NINTH,)
  features.source.update(name="imagenet", root=f"{paper_defaults.ROOT}/imagenet1k", kind="image")
  features.source.splits = ("train", "val")
  probe = paper_defaults.linear_probe("", name=name, top1=top1)
  probe.backbones = ()
  probe.data.update(train="", validation="")
  probe.encoders = {
    "trained_on_patches": dict(
      train="{workdir}/features/train", validation="{workdir}/features/val"
    )
  }
  return recipes.chain(pretrain=c, features=features, probe=probe)
