"""The whole job in miniature, on videos that it renders itself.

  python -m totojax.main --config=configs/demo.py

Renders clips of moving textured objects, turns them into tokens with the
tokenizer that ships with the package, pre-trains a causal transformer of 1.3M
parameters on them and validates it against honest baselines. Then the model that
ships, as large and trained for fifteen times as many updates (configs/shipped.py), goes on
with the held-out clips, and a probe asks each of its layers which way an object goes,
beside the untrained model, small pixels and the token histogram. Writes
runs/demo/report/report.html, which plays the clips. No network, no accelerator; what
it takes and gives on 2 CPU cores is in docs/results.md.

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

  # Of the model that ships; few clips, all sources in a share of the four minutes.
  stages = c.stages
  stages.motion = motion = pixel_recipes.render(train=1200, val=400)
  motion.seed = 3  # no clip that it saw: configs/shipped.py
  small_runs.one_way(motion)
  stages.motion_shards = pixel_recipes.shards("{workdir}/motion", "shipped")
  stages.probe = probe = small_runs.small_probe(
    "shipped", "{workdir}/motion_shards", "{workdir}/motion"
  )
  probe.data.train_records = 1200
  probe.train.update(epochs=60.0, batch_rows=160, score_rows=200)
  probe.optim.update(lrs=(1e-2, 3e-2, 1e-1), weight_decays=(0.01, 3.0))
  stages.generate = small_runs.small_generate("shipped", "{workdir}/clips")
  stages.generate.fitted_on = "{workdir}/shards/train"
  stages.generate.output.codec = ""  # an .mp4 needs PyAV
  c.order = (*c.order[:-1], "motion", "motion_shards", "probe", "generate", "report")

  # Only with weights=train: the recipe of configs/tokenizer.py in short.
  small_runs.small_dvae(c.stages.tokenizer, steps=600)
  c.stages.tokenizer.data.train = {"rendered": recipes.source("{workdir}/clips/train", 1.0)}
  c.stages.tokenizer.data.validation = {"rendered": "{workdir}/clips/val"}
  return c
