"""The whole job on a folder of real videos: one, a handful, or some hundred.

  python -m totojax.main --config=configs/clips.py --config.data.root=VIDEOS

Decodes every video below the folder (PyAV, extra `data`): 30 frames a second,
every 4th one, 32 clips of each video. Those of training videos are of varied
sizes and half of them mirrored; a quarter of the videos is held out, of a lone
one its end. Then as configs/demo.py: the shipped tokenizer, shards,
pre-training, validation, held-out clips that the model goes on with, report.
Unusable files are listed in clips/skipped.csv.

A handful of videos is learned by heart long before a model has understood
anything. So most of each batch are clips that the project renders, of which
there are as many as one likes: from them it learns how frames follow each
other. And the checkpoint that is best on held-out videos is the one that is
kept and validated. What that is worth is in docs/results.md.

Sized for a CPU. With more videos, raise stages.pretrain.train.total_tokens and
lower stages.clips.clip.crops.
"""

from ml_collections import ConfigDict

from totojax.config import pixel_recipes, recipes, small_runs

SIZE_PX = 64


def get_config():
  data = ConfigDict(dict(root="videos"))
  clips = pixel_recipes.decode("")
  # Short ones are shown faster rather than left out: there are few.
  clips.clip.update(size_px=SIZE_PX, crops=32, short="stride")
  clips.views.update(mode="train", short_frac=(1.0, 1.6))
  clips.decoding.val_frac = 0.25
  clips.decoding.root = data.get_ref("root")

  c = small_runs.videos_to_report(
    clips,
    name="clips",
    grid=8,  # 64 pixels, factor 8
    batch=4,
    steps=800,
  )
  rendered = pixel_recipes.render(train=400, val=16)
  rendered.scene.size_px = SIZE_PX
  c.stages.rendered = rendered
  tokenizer = "{workdir}/tokenizer/tokenizer.safetensors"
  c.stages.rendered_shards = pixel_recipes.shards("{workdir}/rendered", tokenizer)
  order = ("clips", "rendered", "tokenizer", "shards", "rendered_shards")
  c.stages.generate = small_runs.small_generate("{workdir}/pretrain", "{workdir}/clips")
  c.order = (*order, "pretrain", "validate", "generate", "report")

  pretrain = c.stages.pretrain
  pretrain.data.train.clips.weight = 0.4
  pretrain.data.train.rendered = recipes.source("{workdir}/rendered_shards/train", 0.6)
  pretrain.optim.lr = 4e-3
  pretrain.every = recipes.every(log=10, evaluate=100, checkpoint=100)
  pretrain.checkpoint.best = "clips/loss"

  # Only with weights=train: the recipe of configs/tokenizer.py in short.
  small_runs.small_dvae(c.stages.tokenizer, steps=600)
  c.stages.tokenizer.data.train = {
    "clips": recipes.source("{workdir}/clips/train", 0.5),
    "rendered": recipes.source("{workdir}/rendered/train", 0.5),
  }
  c.stages.tokenizer.data.validation = {"clips": "{workdir}/clips/val"}
  c.data = data
  return c
