"""How does the loss fall with compute? The paper's Figure 9 in small.

  python -m totojax.main --config=configs/scaling.py

Renders clips, makes tokens of them with the tokenizer that ships with the
package, trains five models 32 to 192 wide with µP at one learning rate, fits a
power law to the frontier of their losses over compute, and writes
runs/scaling/law/report.html. No network, no accelerator.

  python -m totojax.main --config=configs/scaling.py:small --workdir=runs/small

is the same of three models, 600 clips and shorter runs, as colab/scaling.ipynb has it.

  python -m totojax.main --config=configs/scaling.py:wsd --workdir=runs/wsd

gives each model one run at a constant rate, and decays that branch off its
checkpoints: every length that the law is of, for little more than the longest.

  python -m totojax.main --config=configs/scaling.py:schedules --workdir=runs/schedules

compares such points with runs that have a cosine of their own each: one model,
three lengths, three seeds.

For runs of your own, on any machine that sees their folders:

  python -m totojax.main --config=configs/scaling.py:runs --workdir=law \
    --config.scaling.runs="('a1=gs://BUCKET/a1', 'a2=gs://BUCKET/a2')"
"""

from totojax.config import pixel_recipes, recipes, study_recipes

GRID, FRAMES = 4, 16
TOKENS = FRAMES * GRID**2  # of a sequence
BATCH, STEPS = 16, 200
WIDTHS = (32, 64, 96, 128, 192)
SMALL_WIDTHS, SMALL_BATCH, SMALL_STEPS = (32, 64, 128), 8, 120
LENGTHS = (50, 100, 200)  # of `wsd`: fifths of each are its decay
# Of `schedules`: small, as there are 18 runs.
STUDY_WIDTHS, STUDY_LENGTHS, SEEDS = (64,), (100, 200, 400), (0, 1, 2)


def get_config(what=""):
  """`what`: small, wsd, schedules, or "runs" for the law of finished runs alone."""
  if what == "runs":
    return study_recipes.scaling()
  kinds = {"": ladder, "small": small, "wsd": branches, "schedules": schedules}
  if what not in kinds:
    raise ValueError(f"configs/scaling.py:{what} is unknown; use {', '.join(kinds)[2:]} or runs")
  stages = kinds[what]()
  law = study_recipes.scaling(*(f"{name}={{workdir}}/{name}" for name in stages))
  law.scaling.force = what == "schedules"  # of one model
  return recipes.chain(
    clips=pixel_recipes.render(train=600 if what == "small" else 2000, val=128),
    shards=pixel_recipes.shards("{workdir}/clips", "shipped"),
    **stages,
    law=law,
  )


def ladder(widths=WIDTHS, **amounts):
  """A run for each model, with a cosine."""
  models = study_recipes.sizes(*widths, depth=4, heads=4, mlp_ratio=8 / 3)
  return {f"w{width}": trained(models[f"w{width}"], **amounts) for width in widths}


def small():
  return ladder(SMALL_WIDTHS, batch=SMALL_BATCH, steps=SMALL_STEPS)


def branches():
  """For each model one run, and shorter ones that branch off it."""
  models = study_recipes.sizes(*WIDTHS, depth=4, heads=4, mlp_ratio=8 / 3)
  stages = {}
  for name in (f"w{width}" for width in WIDTHS):
    stages |= study_recipes.branched(name, trained(models[name]), LENGTHS)
  return stages


def schedules():
  """The same of a small model and three seeds, and a cosine for each length."""
  models = study_recipes.sizes(*STUDY_WIDTHS, depth=2, heads=4, mlp_ratio=2.0)
  stages = {}
  for name in (f"w{width}" for width in STUDY_WIDTHS):
    for seed in SEEDS:
      c = trained(models[name], frames=4, batch=8)
      c.seed = seed
      stages |= study_recipes.branched(f"{name}_s{seed}", c, STUDY_LENGTHS)
      for steps in STUDY_LENGTHS:
        cosine = stages[f"{name}_s{seed}_cosine{steps}"] = c.copy_and_resolve_references()
        study_recipes.lengthen(cosine, steps)
  return stages


def trained(sizes, *, frames=FRAMES, batch=BATCH, steps=STEPS):
  """One model of the ladder."""
  c = recipes.pretrain("tiny")
  context = frames * GRID**2
  c.sequence.update(vocab=512, grid=GRID, frames=frames, context=context)
  c.model.update(sizes)
  c.model.tied = False
  c.mup = study_recipes.tuned_mup(base_width=32)
  c.compute.dtype = "float32"  # bf16 is no faster on a CPU
  c.train.update(batch_tokens=batch * context, total_tokens=float(steps * batch * context))
  c.optim.update(lr=2.0**-6, warmup_steps=steps // 10)
  c.data.train = {"rendered": recipes.source("{workdir}/shards/train", 1.0)}
  c.data.validation = {"rendered": "{workdir}/shards/val"}
  c.validation.rows = 128
  c.every = recipes.every(log=10, evaluate=steps // 10, checkpoint=steps)
  return c
