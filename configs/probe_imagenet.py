r"""ImageNet-1k, one linear layer on each layer's mean (Tables 3 to 6 and 14).

  python -m totojax.main --config=configs/probe_imagenet.py --workdir=PROBE \
    --config.model_run=MODEL --config.data.train=TOKENS/train \
    --config.data.validation=TOKENS/val

From stores, which hold each image as it was cropped once (frozen views). MAE's
windows and flips, drawn anew in each epoch and encoded on the device, are of
ImageNet's files, in place of the last two flags (of your own images see
configs/joint_imagenet.py):
  --config.data.source=imagenet --config.data.root=IMAGENET --config.data.train=train
  --config.data.validation=val --config.data.encode_with=official/tokenizer.safetensors
  --config.data.reading.workers=8

MAE's recipe: BatchNorm without gain and bias, LARS, 90 epochs of 16,384 rows.
The stores are ImageNet's, made by configs/tokenize.py with
--config.source.name=imagenet at the model's resolution, of each held-out image
the middle; with --config.image.crops=N there are N random windows of every
other. The paper's number is that of Toto-large with 16 x 16 tokens of
the dVAE: Table 5, 53.2 %.

Attention pooling (Table 5, 61.1 %) reads every token in every step:
  --config.head.pool=attention --config.head.init_std=0.02
  --config.paper.name="Table 5, attention pooling" --config.paper.top1=61.1
"""

from totojax.config import paper as paper_defaults


def get_config():
  c = paper_defaults.linear_probe("", name="Table 5, average pooling", top1=53.2)
  c.data.update(source="tokens", root="", encode_with="", train="", validation="")
  c.data.reading.update(workers=0, prefetch=2)  # tokens need no processes
  return c
