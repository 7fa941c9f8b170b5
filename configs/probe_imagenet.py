r"""ImageNet-1k, one linear layer on each layer's mean (Tables 3 to 6 and 14).

  python -m totojax.main --config=configs/probe_imagenet.py --workdir=PROBE \
    --config.model_run=MODEL --config.data.train=TOKENS/train \
    --config.data.validation=TOKENS/val

MAE's recipe: BatchNorm without gain and bias, LARS, 90 epochs of 16,384 rows.
The stores are ImageNet's, made by configs/tokenize.py with
--config.source.name=imagenet at the model's resolution; with
--config.image.crops=N each epoch sees N random windows of every image in place
of a new one. The paper's number is that of Toto-large with 16 x 16 tokens of
the dVAE: Table 5, 53.2 %.

Attention pooling (Table 5, 61.1 %) reads every token in every step:
  --config.head.pool=attention --config.head.init_std=0.02
  --config.paper.name="Table 5, attention pooling" --config.paper.top1=61.1
"""

from totojax.config import paper as paper_defaults


def get_config():
  c = paper_defaults.linear_probe("", name="Table 5, average pooling", top1=53.2)
  c.data.update(train="", validation="")
  return c
