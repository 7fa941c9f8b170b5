"""The whole job on a folder of real videos.

  python -m totojax.main --config=configs/clips.py --config.data.root=VIDEOS

Decodes every video below the folder (PyAV, extra `data`): 30 frames a second,
every 4th one, short side 64 pixels, random 64 x 64 crops, 16 clips of each
video. Then as configs/demo.py: the shipped tokenizer, shards, pre-training,
validation on videos that were held out, report. Unusable files are listed in
clips/skipped.csv. Sized for a CPU and a handful of videos: with more, raise
stages.pretrain.train.total_tokens and lower stages.clips.clip.crops.

Train a tokenizer on the videos first: --config.stages.tokenizer.weights=train,
with the settings of configs/tokenizer.py.
"""

from ml_collections import ConfigDict

from totojax.config import recipes


def get_config():
  data = ConfigDict(dict(root="videos"))
  clips = recipes.decode("")
  clips.clip.update(size_px=64, crops=16)
  clips.decoding.val_frac = 0.25
  clips.decoding.root = data.get_ref("root")

  c = recipes.videos_to_report(
    clips,
    name="clips",
    grid=8,  # 64 pixels, factor 8
    batch=4,
    steps=150,
  )
  c.stages.pretrain.optim.lr = 2e-3
  c.stages.pretrain.every = recipes.every(log=5, evaluate=50, checkpoint=25)

  # Only with weights=train: the recipe of configs/tokenizer.py in short.
  recipes.small_dvae(c.stages.tokenizer, steps=600)
  c.stages.tokenizer.data.train = {"clips": recipes.source("{workdir}/clips/train", 1.0)}
  c.stages.tokenizer.data.validation = {"clips": "{workdir}/clips/val"}
  c.data = data
  return c
