"""Does pre-training pay for tracking? Masks of rendered scenes followed by three small models.

  python -m totojax.main --config=configs/track_learns.py

needs the extra `world`. Renders clips of a table on which things roll, slide and
fall, turns them into tokens with the tokenizer that ships with the package, and
pre-trains the same small model from three seeds. Then it renders other scenes as
DAVIS lies on disk, with exact masks, and follows the masks of their first frames by
the features of every layer, beside the same models untrained, patches of pixels and
copies of the first mask. The first sequences choose layers, and the others are
scored: runs/track_learns/tracking/metrics.json (`seeds` has means over seeds, and
how far they are above others, with intervals) and report.html. What
came out is in docs/results.md: far more than untrained, and as much as pixels.
"""

from totojax.config import pixel_recipes, recipes, track, world

SEEDS = (0, 1, 2)
SIZE_PX, GRID = 128, 16
FRAMES, BATCH, STEPS = 4, 4, 3000  # of a clip; clips of an update; updates
SELECT, SCORED = 10, 20  # sequences
# Places that are near, beside DINO's 12, which are nearly all of 16; of its 60 rows they are 3.
RADII = (2, 3, 4)


def get_config():
  names = [f"pretrain_{seed}" for seed in SEEDS]
  stages = {"clips": _clips(), "shards": pixel_recipes.shards("{workdir}/clips", "shipped")}
  for seed, name in zip(SEEDS, names):
    stages[name] = _pretraining() if not seed else recipes.follower(stages[names[0]])
    stages[name].seed = seed
  return recipes.chain(**stages, sequences=_sequences(), tracking=_tracking(names))


def _scenes(c):
  """Things are three or four tokens wide."""
  c.scene.update(width_px=SIZE_PX, height_px=SIZE_PX, zoom=2.0)
  return c


def _clips():
  c = _scenes(world.recipe("tabletop"))
  c.amount.update(train=1500, val=64)
  c.scene.update(frames=FRAMES, fps=6.0)
  return c


def _sequences():
  c = _scenes(world.recipe("davis"))
  c.seed = 1
  c.amount.val = SELECT + SCORED
  c.scene.update(frames=24, fps=12.0)
  return c


def _pretraining():
  c = recipes.pretrain("mini")
  tokens = FRAMES * GRID**2
  c.sequence.update(vocab=512, grid=GRID, frames=FRAMES, context=tokens)
  c.model.update(width=128, depth=4, heads=4, mlp_dim=344)
  c.compute.dtype = "float32"  # bf16 is no faster on a CPU
  c.train.update(batch_tokens=BATCH * tokens, total_tokens=float(STEPS * BATCH * tokens))
  c.optim.update(lr=4e-3, warmup_steps=100)
  c.every = recipes.every(log=20, evaluate=500, checkpoint=500)
  c.data.train = {"rendered": recipes.source("{workdir}/shards/train", 1.0)}
  c.data.validation = {"rendered": "{workdir}/shards/val"}
  c.validation.rows = 16
  return c


def _tracking(names):
  encoders = ",".join(f"{name}={{workdir}}/{name}" for name in names)
  c = track.job("davis", f"dino,{encoders}")
  c.data.root = "{workdir}/sequences"
  c.frames.size_px = SIZE_PX
  dino = c.propagation.dino
  for radius in RADII:
    c.propagation[f"radius{radius}"] = near = dino.copy_and_resolve_references()
    near.radius = float(radius)
  c.select = SELECT
  c.seeds = {"trained": tuple(names)}
  c.output.codec = ""  # an .mp4 needs PyAV
  return c
