r"""Any encoders by any probes, in one table and one page.

  python -m totojax.main --config=configs/compare.py

renders labelled clips, pre-trains a small model on their tokens and compares it
with itself untrained and with small pixels, by nearest neighbours and linear,
attentive and four-block probes. Nothing is downloaded. On your own clips:

  python -m totojax.main --config=configs/tokenize.py --workdir=CLIPS \
    --config.tokenizer=pixels --config.source.root=VIDEOS \
    --config.source.folder.class_folders=True --config.source.val_frac=0.2 \
    --config.clip.size_px=224
  python -m totojax.main --workdir=COMPARISON \
    --config=configs/compare.py:dino=dinov2:WEIGHTS,vjepa=vjepa2:WEIGHTS2,ours=RUN \
    --config.compare.train=CLIPS/train --config.compare.validation=CLIPS/val

After the colon: name=encoder by name (totojax/trained/ready.py), a Python file of
yours, or the run directory of a model of ours. The same command goes on where it
stopped, row by row. --config.compare.probes="('knn','linear','attentive','blocks',
'track')" are all; --config.compare.seeds="(0,1,2)" are of heads and hold-outs. "track"
follows the masks of --config.track.data.root=DAVIS by each encoder (configs/davis.py;
--config.track.frames.size_px=256 and the rest of its keys are in config.track).
"""

from totojax.config import compare, pixel_recipes, recipes, roots, small_runs

BATCH, STEPS = 32, 400  # clips of an update of the small model, updates


def get_config(encoders: str = ""):
  return _own(encoders) if encoders else _rendered()


def _own(encoders):
  return _job({name: _encoder(path) for name, path in _pairs(encoders)}, ("knn", "linear"))


def _pairs(encoders):
  for part in filter(None, encoders.split(",")):
    name, equals, path = part.partition("=")
    if not equals:
      raise ValueError(f"{part} has no name; write NAME={part}")
    yield name, path


def _encoder(path):
  if compare.names_encoder(path):
    return compare.Encoder(encoder=path)
  return compare.Encoder(model_run=path)


def _job(encoders, probes):
  c = roots.config("compare", compare=compare.Compare(encoders=encoders, probes=probes))
  c.probe.data.holdout_frac = 0.2
  c.probe.head.init_std = 0.02
  c.probe.train.update(epochs=40.0, batch_rows=128, score_rows=128)
  c.probe.optim.update(
    name="adamw",
    lrs=(1e-3, 3e-3, 1e-2, 3e-2),
    weight_decays=(0.01, 1.0),
    lr_rows=0,
    warmup_epochs=1.0,
    clip_norm=1.0,
  )
  c.probe.every = recipes.every(log=100, evaluate=1000, checkpoint=1000)
  return c


def _rendered():
  # Which way one object goes, which no single frame tells (configs/probe_learns.py).
  clips = pixel_recipes.render(train=2000, val=500)
  small_runs.one_way(clips)
  clips.scene.update(frames=8, speed=(0.10, 0.15))
  c = small_runs.videos_to_report(clips, name="rendered", grid=4, batch=BATCH, steps=STEPS)
  tokens = 8 * 4**2
  stages = {name: c.stages[name] for name in ("clips", "shards", "pretrain")}
  stages["shards"] = pixel_recipes.shards("{workdir}/clips", "shipped")
  pretrain = stages["pretrain"]
  pretrain.model.update(depth=4, heads=4)
  pretrain.sequence.update(frames=8, context=tokens)
  pretrain.train.update(batch_tokens=BATCH * tokens, total_tokens=float(STEPS * BATCH * tokens))
  pretrain.optim.lr = 3e-3
  pretrain.every = recipes.every(log=20, evaluate=100, checkpoint=100)
  run = "{workdir}/pretrain"
  compared = _job(
    {
      "trained": compare.Encoder(model_run=run, layers=(0, 2, 4)),
      "untrained": compare.Encoder(model_run=run, untrained=True, layers=(0, 2, 4)),
      "pixels": compare.Encoder(encoder="pixels:8"),
    },
    ("knn", "linear", "attentive"),
  )
  compared.compare.update(train="{workdir}/clips/train", validation="{workdir}/clips/val")
  compared.compare.heads = 2
  compared.compare.seeds = (0, 1)
  return recipes.chain(**stages, compare=compared)
