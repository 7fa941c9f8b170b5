r"""Table 14: a linear probe of Toto-1b on ImageNet-1k.

  python -m totojax.main --config=configs/paper/table14.py \
    --workdir=gs://BUCKET/table14 --config.model_run=gs://BUCKET/1b

Begins with the run of table1.py:1b; every layer, the best is compared. Images
have the model's 16 x 16 tokens, of 128 pixels [gap]: the paper does not say at
which resolution it probes. The paper's top-1: 66.2 % (iGPT-L, as the paper
quotes it: 65.2). Not run.
"""

from totojax.config import paper as paper_defaults


def get_config():
  return paper_defaults.linear_probe("", name="Table 14, 1b", top1=66.2)
