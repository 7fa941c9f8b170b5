r"""Figures 3, 12 and 13: 1-, 2- and 3-grams of three tokenizers.

  python -m totojax.main --config=configs/paper/figure3.py --workdir=figure3

Counts the codes of ImageNet's validation images in stores of configs/tokenize
for each tokenizer. Read off the paper's figures: 8,000 of 8,192 codes in use by
the dVAE, 450 of 1,024 and 970 of 16,384 by VQGAN; 2.37 M, 198 k and 790 k
distinct 2-grams of 10,000 images. Not run on ImageNet.
"""

from totojax.config import paper as paper_defaults, recipes


def get_config():
  c = recipes.tokens_report()
  c.tokens_report.stores = {
    name: paper_defaults.store(name, 16, "val") for name in paper_defaults.VOCAB
  }
  return c
