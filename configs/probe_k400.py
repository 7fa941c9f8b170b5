r"""Kinetics-400, cross-attention and an MLP on each layer (Table 16).

  python -m totojax.main --config=configs/probe_k400.py --workdir=PROBE \
    --config.model_run=MODEL --config.data.train=TRAIN/train \
    --config.data.validation=VAL/val

V-JEPA's evaluation: one query, AdamW, 20 epochs; V-JEPA 2's grid of rates and
decays side by side on one pass of the backbone. The stores are Kinetics-400's: random clips to
train on, and 10 x 3 views of every validation video, as SlowFast samples both.
Scores are summed over the views; videos that are missing are counted and named.

  python -m totojax.main --config=configs/tokenize.py --workdir=TRAIN \
    --config.source.name=kinetics --config.source.root=KINETICS \
    --config.source.splits="('train',)" --config.views.mode=train \
    --config.clip.crops=4
  python -m totojax.main --config=configs/tokenize.py --workdir=VAL \
    --config.source.name=kinetics --config.source.root=KINETICS \
    --config.source.splits="('val',)" --config.views.mode=test

Of VideoMAE are 5 x 3 views (--config.views.temporal=5), of V-JEPA 8 x 3; one
clip of each video is --config.views.temporal=1 --config.views.spatial=1
--config.views.offset=True. The paper's number is that of Toto-large: Table 16,
65.8 %.
"""

from totojax.config import paper as paper_defaults


def get_config():
  c = paper_defaults.kinetics_probe("", name="Table 16, large", top1=65.8)
  c.data.update(train="", validation="")
  return c
