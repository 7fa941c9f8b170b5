r"""ImageNet-1k: everything is trained to classify (Table 13, appendix A.2).

  python -m totojax.main --config=configs/finetune_imagenet.py --workdir=TUNED \
    --config.model_run=MODEL --config.data.root=IMAGENET \
    --config.data.encode_with=official/tokenizer.safetensors

MAE's recipe for ViT-B, for Toto-base: 100 epochs, RandAugment, erasing, mixup
and cutmix of pixels that are encoded on the device afterwards, 32 x 32 tokens.
The paper's number is that of base with full attention: A.2, 82.6 %, and 82.2
with causal attention (--config.model.prefix_tokens=0).

MAE's recipe for larger models, with 50 epochs each:
  large  --config.optim.lr=1e-3 --config.optim.layer_decay=0.75
         --config.head.drop_path=0.2
  1b     the same with --config.head.drop_path=0.3

Your own images, one folder a class:
  --config.data.source=folder --config.data.root=IMAGES --config.data.train=""
  --config.data.validation="" --config.data.val_frac=0.2
  --config.data.classes=0 --config.data.expected=0
"""

from totojax.config import recipes


def get_config():
  c = recipes.finetune("")
  c.paper.update(name="A.2, base, full attention", top1=82.6)
  return c
