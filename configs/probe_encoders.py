r"""Other people's encoders, probed as ours: side by side, or alone.

  python -m totojax.main --config=configs/features.py --workdir=DINO \
    --config.features.encoder=dinov2:WEIGHTS --config.source.root=IMAGES \
    --config.source.kind=image --config.source.folder.class_folders=True \
    --config.source.val_frac=0.2
  python -m totojax.main --workdir=PROBE \
    --config=configs/probe_encoders.py:dino=DINO,mae=MAE

After the colon: name=folder of each encoder's features, with `train` and `val`
in it. WEIGHTS is the model's folder on this machine (totojax/trained/ready.py); a
file of yours that defines encoder() serves too (totojax/trained/encoders.py). To set our own
layers beside them, add stores of tokens of the same items:
  --config.backbones="('trained',)" --config.model_run=MODEL \
  --config.data.train=TOKENS/train --config.data.validation=TOKENS/val
Tables 7, 8, 10, 13 and 14 of the paper compare such encoders. For heads with
attention write tokens, all of which are held in memory:
--config.features.pool=token, then
  --config.head.pool=attention --config.head.heads=12
"""

from totojax.config import compare, recipes, schema


def get_config(encoders: str = ""):
  c = recipes.probe("", "", "")
  c.backbones = ()
  for name, paths in compare.encoder_files(encoders).items():
    c.encoders[name] = schema.to_config(paths)
  c.train.update(epochs=300.0, batch_rows=256)
  c.optim.update(
    name="adamw",
    lrs=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
    weight_decays=(0.0, 0.1, 1.0, 3.0),  # as configs/probe_folder.py
    lr_rows=0,
    warmup_epochs=1.0,
  )
  c.every = recipes.every(log=100, evaluate=1000, checkpoint=1000)
  return c
