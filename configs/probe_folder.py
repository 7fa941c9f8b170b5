r"""Probes of every layer on your own classes: stores made from class folders.

  python -m totojax.main --config=configs/tokenize.py --workdir=TOKENS \
    --config.tokenizer=shipped --config.image.size_px=32 \
    --config.source.root=IMAGES --config.source.kind=image \
    --config.source.folder.class_folders=True --config.source.val_frac=0.2
  python -m totojax.main --config=configs/probe_folder.py --workdir=PROBE \
    --config.data.train=TOKENS/train --config.data.validation=TOKENS/val

Without --config.model_run it is the small model that ships with the package, of
32 pixels. The tokens must be of the model's tokenizer and size; of others a line
says which flags make them.

Average pooling and a linear layer, with many rates and decays at once: which is
best depends on the data. Features are made once and kept, so that what it costs
is one pass of the backbone. The 300 epochs are for small folders, whose heads
otherwise stop early; for many images lower train.epochs.
"""

from totojax.config import recipes


def get_config():
  c = recipes.probe("shipped", "", "")
  c.train.update(epochs=300.0, batch_rows=256)
  c.optim.update(
    name="adamw",
    lrs=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
    # [gap] The histogram of tokens wants a decay of 1 and more, a backbone little:
    # whoever stops at 0.1 flatters the backbone.
    weight_decays=(0.0, 0.1, 1.0, 3.0),
    lr_rows=0,
    warmup_epochs=1.0,
  )
  c.every = recipes.every(log=100, evaluate=1000, checkpoint=1000)
  return c
