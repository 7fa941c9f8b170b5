"""The whole job on a folder of real videos.

  python -m totojax.main --config=configs/clips.py --config.data.root=VIDEOS

Decodes every video below the folder (PyAV, extra `data`): 30 frames a second,
every 4th one, short side 64 pixels, random 64 x 64 crops, 16 clips of each
video. Then as configs/demo.py: the shipped tokenizer, shards, pre-training,
validation on videos that were held out, report. Unusable files are listed in
clips/skipped.csv. Sized for a CPU and a handful of videos: with more, raise
stages.pretrain.train.total_tokens and lower stages.clips.clip.crops.
"""

from ml_collections import ConfigDict

from totojax import defaults

GRID, FRAMES = 8, 16  # 64 pixels, factor 8
TOKENS = FRAMES * GRID**2
VOCAB = 512  # of the shipped tokenizer
BATCH, STEPS = 4, 150


def get_config():
  data = ConfigDict(dict(root="videos"))

  clips = defaults.decode("")
  clips.clip.update(size_px=GRID * 8, crops=16)
  clips.decoding.val_frac = 0.25
  clips.decoding.root = data.get_ref("root")

  tokenizer = defaults.tokenizer()
  tokenizer.weights = "shipped"

  shards = defaults.shards(
      "{workdir}/clips", "{workdir}/tokenizer/tokenizer.safetensors"
  )

  pretrain = defaults.pretrain("mini")
  pretrain.sequence.update(
      vocab=VOCAB, grid=GRID, frames=FRAMES, context=TOKENS
  )
  pretrain.compute.dtype = "float32"  # bf16 is no faster on a CPU
  pretrain.optim.update(lr=2e-3, warmup_steps=20)
  pretrain.train.update(
      batch_tokens=BATCH * TOKENS, total_tokens=float(STEPS * BATCH * TOKENS)
  )
  pretrain.data.train = {
      "clips": defaults.source("{workdir}/shards/train", 1.0)
  }
  pretrain.data.validation = {"clips": "{workdir}/shards/val"}
  pretrain.validation.rows = 16
  pretrain.every = defaults.every(log=5, evaluate=50, checkpoint=25)

  config = defaults.chain(
      clips=clips,
      tokenizer=tokenizer,
      shards=shards,
      pretrain=pretrain,
      validate=defaults.validate("{workdir}/pretrain"),
      report=defaults.report("{workdir}"),
  )
  config.data = data
  return config
