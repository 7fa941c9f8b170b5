r"""ImageNet-1k: next-token training with probes of every layer (Table 7).

  python -m totojax.main --config=configs/joint_imagenet.py --workdir=JOINT \
    --config.model_run=MODEL --config.data.root=IMAGENET \
    --config.data.encode_with=official/tokenizer.safetensors

Starts from a model that was trained on 16 x 16 tokens and goes on at 32 x 32,
with the base of RoPE at 50,000. Heads stop the gradient, so that the backbone
learns from the next token alone. IMAGENET holds train/ and val/; photographs
are cropped anew in each epoch and encoded on the device. The paper's number is
that of Toto-large: Table 7, 71.1 % (base 64.7, 1b 75.3).

A rate of 6e-5 is little for a fresh head; with head_lr_mults=(1.0, 10.0) each
layer has one more, at ten times the rate, for the cost of a head.

Your own images, one folder a class:
  --config.data.source=folder --config.data.root=IMAGES --config.data.train=""
  --config.data.validation="" --config.data.val_frac=0.2
  --config.data.classes=0 --config.data.expected=0
"""

from totojax.config import recipes


def get_config():
  c = recipes.joint("")
  c.paper.update(name="Table 7, large", top1=71.1)
  return c
