r"""The model that ships: rendered motion and real photographs (docs/generation.md).

  python -m totojax.main --config=configs/shipped.py

Renders clips of textured things that move in ten ways, and of one large thing that
goes right, left, up or down; cuts clips out of scikit-image's photographs, over which
a square wanders (extra `data`); makes tokens of them with the tokenizer that ships;
pre-trains the demo's model on all three for fifteen times as many updates, and exports it.
`runs/shipped/export` is what lies in the package as `totojax/trained/shipped`, and
what `totojax.load("shipped")` and --config.model_run=shipped give. No clip of the
demo is among what it saw.
"""

from totojax.config import pixel_recipes, recipes, roots, small_runs

SHARES = {"clips": 0.3, "motion": 0.6, "photos": 0.1}


def get_config():
  clips = pixel_recipes.render(train=6000, val=256)
  clips.seed = 1  # the demo's is 0
  motion = pixel_recipes.render(train=6000, val=256)
  motion.seed = 2
  small_runs.one_way(motion)
  photos = pixel_recipes.photos(train=3000, val=256)
  photos.crop.frames = 16
  c = small_runs.videos_to_report(clips, name="clips", grid=4, batch=16, steps=3000)
  stages = {"clips": clips, "motion": motion, "photos": photos}
  for name in SHARES:
    stages[f"{name}_shards"] = pixel_recipes.shards("{workdir}/" + name, "shipped")
  stages["pretrain"] = pretrain = c.stages.pretrain
  pretrain.data.train = {
    name: recipes.source("{workdir}/" + f"{name}_shards/train", share)
    for name, share in SHARES.items()
  }
  pretrain.data.validation = {name: "{workdir}/" + f"{name}_shards/val" for name in SHARES}
  pretrain.optim.lr = 3e-3
  pretrain.every = recipes.every(log=20, evaluate=500, checkpoint=250)
  pretrain.samples.clips = 0
  stages["validate"] = c.stages.validate
  stages["export"] = roots.config("export", model_run="{workdir}/pretrain")
  stages["report"] = c.stages.report
  return recipes.chain(**stages)
