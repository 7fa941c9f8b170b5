"""Does the best learning rate stay where it is as the width grows? In small.

  python -m totojax.main --config=configs/mup_sweep.py

Figure 11 on a laptop: renders clips, makes tokens of them with the tokenizer
that ships with the package, and trains models 32 to 256 wide at six or seven
learning rates, three seeds each, with µP and in the standard parametrisation:
156 runs. Writes runs/mup_sweep/sweep/report.html: the optimum of each width
from a quadratic fit, with its interval, and every run. No network, no
accelerator.

  python -m totojax.main --config=configs/mup_sweep.py:muon --workdir=runs/muon_sweep

has Muon in place of the standard parametrisation: 48 shorter runs of widths 32
and 128, with µP and AdamW, and with µP and Muon, at the same rates.
"""

from totojax.config import pixel_recipes, recipes, study_recipes

TOKENS = 4 * 4**2  # of a sequence: 4 frames of 4 x 4
BATCH, STEPS, MUON_STEPS = 8, 150, 60


def get_config(what=""):
  """`what`: "muon", or nothing."""
  if what not in ("", "muon"):
    raise ValueError(f"configs/mup_sweep.py:{what} is unknown; use muon or nothing")
  widths, steps = ((32, 128), MUON_STEPS) if what else ((32, 64, 128, 256), STEPS)
  pretrain = recipes.pretrain("tiny")
  pretrain.sequence.update(vocab=512, grid=4, frames=4, context=TOKENS)
  pretrain.model.update(depth=2, heads=4, tied=False)
  pretrain.mup = study_recipes.tuned_mup(base_width=32)
  pretrain.compute.dtype = "float32"  # bf16 is no faster on a CPU
  pretrain.train.update(batch_tokens=BATCH * TOKENS, total_tokens=float(steps * BATCH * TOKENS))
  pretrain.optim.warmup_steps = steps // 10
  pretrain.data.train = {"rendered": recipes.source("{workdir}/shards/train", 1.0)}
  pretrain.data.validation = {"rendered": "{workdir}/shards/val"}
  pretrain.validation.rows = 128
  pretrain.every = recipes.every(log=5, evaluate=steps, checkpoint=steps)

  models = study_recipes.sizes(*widths, depth=2, heads=4, mlp_ratio=2.0)
  sweep = study_recipes.sweep(pretrain, models)
  # An octave apart, around where the optima of 32 to 256 lie.
  sweep.sweep.log2_lr.mup = (-8.0, -7.0, -6.0, -5.0, -4.0, -3.0)
  sweep.sweep.log2_lr.standard = (-10.0, -9.0, -8.0, -7.0, -6.0, -5.0, -4.0)
  if what:
    rates = (-7.0, -6.0, -5.0, -4.0)
    sweep.sweep.log2_lr = {"mup": rates, "muon": rates}
  return recipes.chain(
    clips=pixel_recipes.render(train=1200, val=128),
    shards=pixel_recipes.shards("{workdir}/clips", "shipped"),
    sweep=sweep,
  )
