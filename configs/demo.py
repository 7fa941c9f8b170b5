"""The whole job in miniature, on videos that it renders itself.

  python -m totojax.main --config=configs/demo.py

Renders clips of moving textured objects, turns them into tokens with the
tokenizer that ships with the package, pre-trains a causal transformer of 1.3M
parameters on them, validates it against honest baselines and writes
runs/demo/report/report.html. No network, no accelerator; what it takes and
gives on 2 CPU cores is in the README.

Train a tokenizer first instead: --config.stages.tokenizer.weights=train, with
the settings of configs/tokenizer.py.
"""

from totojax import defaults


def get_config():
  c = defaults.videos_to_report(
      defaults.render(train=2000, val=256),
      name="rendered",
      grid=4,  # 32 pixels, factor 8
      batch=16,
      steps=200,
  )
  pretrain = c.stages.pretrain
  pretrain.optim.lr = 4e-3
  pretrain.every = defaults.every(log=10, evaluate=100, checkpoint=100)

  # Only with weights=train: the recipe of configs/tokenizer.py in short.
  defaults.small_dvae(c.stages.tokenizer, steps=600)
  c.stages.tokenizer.data.train = {
      "rendered": defaults.source("{workdir}/clips/train", 1.0)
  }
  c.stages.tokenizer.data.validation = {"rendered": "{workdir}/clips/val"}
  return c
