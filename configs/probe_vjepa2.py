r"""V-JEPA 2's attentive probe of four blocks, on videos and on ImageNet.

  python -m totojax.main --config=configs/probe_vjepa2.py:ssv2 --workdir=PROBE \
    --config.model_run=MODEL --config.data.train=TRAIN/train \
    --config.data.validation=VAL/validation

After the colon: ssv2, diving48, k400 or imagenet; its grid of rates and decays,
epochs and batch are those of V-JEPA 2, all heads on one pass of the backbone. Stores
of clips are made by configs/tokenize.py:

  python -m totojax.main --config=configs/tokenize.py --workdir=TRAIN \
    --config.source.name=ssv2 --config.source.root=SSV2 \
    --config.source.splits="('train',)" --config.views.mode=train --config.clip.crops=2
  python -m totojax.main --config=configs/tokenize.py --workdir=VAL \
    --config.source.name=ssv2 --config.source.root=SSV2 \
    --config.source.splits="('validation',)" --config.views.mode=test \
    --config.views.temporal=2

of Diving-48 (source.name=diving48, which has no validation set: splits train and
test) with views.temporal=4, of Kinetics-400 (source.name=kinetics) with 8; each with
3 crops. Other people's encoders, of whose features every token is held in memory:

  python -m totojax.main --config=configs/features.py --workdir=VJEPA \
    --config.features.encoder=vjepa2:WEIGHTS --config.features.pool=token \
    --config.features.norm=True --config.features.layers="(24,)" \
    --config.source.name=ssv2 --config.source.root=SSV2 \
    --config.source.splits="('train','validation')"
  python -m totojax.main --config=configs/probe_vjepa2.py:ssv2,vjepa=VJEPA --workdir=PROBE

[gap] V-JEPA 2 joins the tokens of a video's segments before the head and takes the
mean of shares over crops; here each segment is a view, and shares are summed over
all. It names the best head on the validation set: "chosen on validation" in the
table, beside the one that a hold-out chose. Published: Something-Something v2
73.7 % and 77.3 % (L, g at 384 px), Diving-48 89.0 % and 90.2 %.
"""

from totojax.config import compare, roots, schema

# Rates, decays, epochs, rows of an update, classes, of the validation set, warm-up
# epochs and the rate that it starts from (configs/eval of facebookresearch/vjepa2).
_GRID = (5e-3, 3e-3, 1e-3, 3e-4, 1e-4), (0.01, 0.1, 0.4, 0.8)
SETS = {
  "ssv2": dict(grid=_GRID, epochs=20.0, rows=256, classes=174, split="validation"),
  "k400": dict(grid=_GRID, epochs=20.0, rows=256, classes=400, split="val"),
  "diving48": dict(
    grid=((1e-3, 3e-4, 1e-4), (0.8,)), epochs=100.0, rows=128, classes=48, split="test"
  ),
  # [gap] Of 21 heads those that share a schedule: the last one has no warm-up.
  "imagenet": dict(
    grid=((5e-4, 1e-3, 1.5e-3, 2e-3), (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)),
    epochs=20.0,
    rows=1024,
    classes=1000,
    split="val",
  ),
}


def get_config(argument: str = "ssv2"):
  name, _, encoders = argument.partition(",")
  if name not in SETS:
    raise ValueError(f"{name!r} is unknown; use {', '.join(SETS)}")
  of = SETS[name]
  c = roots.config("probe")
  c.backbones = ("trained",)
  if encoders:
    c.backbones = ()
    for key, paths in compare.encoder_files(encoders, validation=of["split"]).items():
      c.encoders[key] = schema.to_config(paths)
  c.data.update(classes=of["classes"], holdout_frac=0.02)
  c.head.update(pool="blocks", heads=16, init_std=0.02)
  c.train.update(epochs=of["epochs"], batch_rows=of["rows"], score_rows=64)
  warm = name == "imagenet"
  lrs, decays = of["grid"]
  c.optim.update(
    name="adamw",
    lrs=lrs,
    weight_decays=decays,
    lr_rows=0,
    schedule="vjepa2",
    warmup_epochs=5.0 if warm else 0.0,
    start_lr=2e-4 if warm else 0.0,
    decay_all=True,
  )
  return c
