"""The whole job in miniature, on videos that it renders itself.

  python -m totojax.main --config=configs/demo.py

Renders clips of moving textured objects, turns them into tokens with the
tokenizer that ships with the package, pre-trains a causal transformer of 1.3M
parameters on them, validates it against honest baselines and writes
runs/demo/report/report.html. No network, no accelerator.

Train a tokenizer first instead: --config.stages.tokenizer.weights=train.
"""

from totojax import defaults

STAGES = ("clips", "tokenizer", "shards", "pretrain", "validate", "report")
GRID, FRAMES = 4, 16  # 32 pixels, factor 8
TOKENS = FRAMES * GRID**2
VOCAB = 512  # of the shipped tokenizer
BATCH, STEPS = 16, 200


def get_config():
  clips = defaults.render(train=2000, val=256)

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
  pretrain.optim.update(lr=4e-3, warmup_steps=30)
  pretrain.train.update(
      batch_tokens=BATCH * TOKENS, total_tokens=float(STEPS * BATCH * TOKENS)
  )
  pretrain.data.train = {
      "rendered": defaults.source("{workdir}/shards/train", 1.0)
  }
  pretrain.data.validation = {"rendered": "{workdir}/shards/val"}
  pretrain.validation.rows = 64
  pretrain.every = defaults.every(log=10, evaluate=100, checkpoint=100)

  return defaults.chain(
      clips=clips,
      tokenizer=tokenizer,
      shards=shards,
      pretrain=pretrain,
      validate=defaults.validate("{workdir}/pretrain"),
      report=defaults.report("{workdir}"),
  )
