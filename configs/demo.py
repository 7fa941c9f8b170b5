"""The whole job in miniature, on videos that it renders itself.

  python -m totojax.main --config=configs/demo.py

Renders clips of moving textured objects, turns them into tokens with the
tokenizer that ships with the package, pre-trains a causal transformer of 1.3M
parameters on them, validates it against honest baselines, probes every layer
for the kind of motion beside the untrained model, small pixels and the token
histogram, goes on with held-out clips, and writes runs/demo/report/report.html,
which plays them. No network, no accelerator;
what it takes and gives on 2 CPU cores is in docs/results.md.

Train a tokenizer first instead: --config.stages.tokenizer.weights=train, with
the settings of configs/tokenizer.py.
"""

from totojax.config import pixel_recipes, recipes, small_runs


def get_config():
  c = small_runs.videos_to_report(
    pixel_recipes.render(train=2000, val=256),
    name="rendered",
    grid=4,  # 32 pixels, factor 8
    batch=16,
    steps=200,
  )
  pretrain = c.stages.pretrain
  pretrain.optim.lr = 4e-3
  pretrain.every = recipes.every(log=10, evaluate=100, checkpoint=100)

  # Few clips and few updates: all sources in a share of the five minutes.
  probe = small_runs.small_probe("{workdir}/pretrain", "{workdir}/shards", "{workdir}/clips")
  probe.data.train_records = 256
  probe.train.update(epochs=20.0, batch_rows=160, score_rows=128)
  probe.optim.update(lrs=(3e-3, 1e-2, 3e-2), weight_decays=(0.1, 3.0))
  c.stages.probe = probe
  c.stages.generate = small_runs.small_generate("{workdir}/pretrain", "{workdir}/clips")
  c.stages.generate.output.codec = ""  # an .mp4 needs PyAV
  c.order = (*c.order[:-1], "probe", "generate", "report")

  # Only with weights=train: the recipe of configs/tokenizer.py in short.
  small_runs.small_dvae(c.stages.tokenizer, steps=600)
  c.stages.tokenizer.data.train = {"rendered": recipes.source("{workdir}/clips/train", 1.0)}
  c.stages.tokenizer.data.validation = {"rendered": "{workdir}/clips/val"}
  return c
