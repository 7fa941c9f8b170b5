"""How does the loss fall with compute? The paper's Figure 9 in small.

  python -m totojax.main --config=configs/scaling.py

Renders clips, makes tokens of them with the tokenizer that ships with the
package, trains five models 32 to 192 wide with µP at one learning rate, fits a
power law to the frontier of their losses over compute, and writes
runs/scaling/law/report.html. No network, no accelerator.

For runs of your own, on any machine that sees their folders:

  python -m totojax.main --config=configs/scaling.py:runs --workdir=law \
    --config.scaling.runs="('a1=gs://BUCKET/a1', 'a2=gs://BUCKET/a2')"
"""

from totojax.config import recipes

GRID, FRAMES = 4, 16
TOKENS = FRAMES * GRID**2  # of a sequence
BATCH, STEPS = 16, 200
WIDTHS = (32, 64, 96, 128, 192)


def get_config(what=""):
  """`what`: "runs" for the law of finished runs alone."""
  if what == "runs":
    return recipes.scaling()
  if what:
    raise ValueError(f"configs/scaling.py:{what} is unknown; use runs or nothing")
  models = recipes.sizes(*WIDTHS, depth=4, heads=4, mlp_ratio=8 / 3)
  return recipes.chain(
    clips=recipes.render(train=2000, val=128),
    shards=recipes.shards("{workdir}/clips", "shipped"),
    **{f"w{width}": trained(models[f"w{width}"]) for width in WIDTHS},
    law=recipes.scaling(*(f"w{w}={{workdir}}/w{w}" for w in WIDTHS)),
  )


def trained(sizes):
  """One model of the ladder."""
  c = recipes.pretrain("tiny")
  c.sequence.update(vocab=512, grid=GRID, frames=FRAMES, context=TOKENS)
  c.model.update(sizes)
  c.model.tied = False
  c.mup = recipes.tuned_mup(base_width=32)
  c.compute.dtype = "float32"  # bf16 is no faster on a CPU
  c.train.update(batch_tokens=BATCH * TOKENS, total_tokens=float(STEPS * BATCH * TOKENS))
  c.optim.update(lr=2.0**-6, warmup_steps=STEPS // 10)
  c.data.train = {"rendered": recipes.source("{workdir}/shards/train", 1.0)}
  c.data.validation = {"rendered": "{workdir}/shards/val"}
  c.validation.rows = 128
  c.every = recipes.every(log=10, evaluate=STEPS // 10, checkpoint=STEPS)
  return c
