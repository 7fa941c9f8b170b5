r"""µP's multipliers: which start and which output suit a base model, on a laptop.

  python -m totojax.main --config=configs/mup_search.py:tied
  python -m totojax.main --config=configs/mup_search.py:untied
  python -m totojax.main --config=configs/mup_search.py:untied,check --workdir=runs/mup_check

The first two render clips, make tokens of them with the tokenizer that ships
with the package, and train the narrowest model (32 wide) with each set of
multipliers at each rate: `plain` is the defaults of section mup, the others are
drawn at random, in octaves, with a fixed seed. `sweep/report.html` ranks them.
The third has `plain` beside `study_recipes.tuned_mup` at four times the width and with
two other seeds; `untied,check,64` from a base model of that width in place of 32.
A search that is stopped goes on where it was.
"""

import random

from totojax.config import pixel_recipes, recipes, study_recipes

TOKENS = 4 * 4**2  # of a sequence: 4 frames of 4 x 4
BATCH, STEPS, DRAWS = 8, 60, 6
BASE = 32  # width
# Octaves: of a matrix's start beside 1 / sqrt(inputs), of an embedding's, of the logits.
RANGES = {"matrix": (-1, 0), "embedding": (-4, 0), "output": (-3, 3)}


def get_config(what="tied"):
  """`what`: tied or untied; ",check": `study_recipes.tuned_mup` elsewhere; ",64": its base."""
  head, *rest = what.split(",")
  base = rest[1] if rest[1:] else str(BASE)
  if head not in ("tied", "untied") or rest[:1] not in ([], ["check"]) or not base.isdecimal():
    raise ValueError(
      f"configs/mup_search.py:{what} is unknown; use tied or untied, tied,check or tied,check,64"
    )
  base = int(base)
  pretrain = recipes.pretrain("tiny")
  pretrain.sequence.update(vocab=512, grid=4, frames=4, context=TOKENS)
  pretrain.model.update(depth=2, heads=4, tied=head == "tied")
  pretrain.mup.update(on=True, base_width=base)
  pretrain.compute.dtype = "float32"  # bf16 is no faster on a CPU
  pretrain.train.update(batch_tokens=BATCH * TOKENS, total_tokens=float(STEPS * BATCH * TOKENS))
  pretrain.optim.warmup_steps = STEPS // 10
  pretrain.data.train = {"rendered": recipes.source("{workdir}/shards/train", 1.0)}
  pretrain.data.validation = {"rendered": "{workdir}/shards/val"}
  pretrain.validation.rows = 128
  pretrain.every = recipes.every(log=5, evaluate=STEPS, checkpoint=STEPS)
  width, seeds = (4 * base, (1, 2)) if rest else (base, (0,))
  models = study_recipes.sizes(width, depth=2, heads=4)
  sweep = study_recipes.sweep(pretrain, models)
  tuned = study_recipes.tuned_mup(base)
  keys = ("matrix_std", "embedding_std", "output")
  drawn = {"tuned": {key: tuned[key] for key in keys}} if rest else draws()
  sweep.sweep.multipliers = {"plain": dict.fromkeys(keys, 0.0) | {"output": 1.0}, **drawn}
  sweep.sweep.log2_lr = {"mup": (-8.0, -7.0, -6.0, -5.0, -4.0)}
  sweep.sweep.seeds = seeds
  return recipes.chain(
    clips=pixel_recipes.render(train=1200, val=128),
    shards=pixel_recipes.shards("{workdir}/clips", "shipped"),
    sweep=sweep,
  )


def draws():
  """Name -> multipliers, in the order of the draws."""
  rng, found = random.Random(0), {}
  while len(found) < DRAWS:
    octaves = {name: rng.randint(*ends) for name, ends in RANGES.items()}
    name = "m{matrix}e{embedding}o{output}".format_map(octaves)
    found[name] = dict(
      matrix_std=2.0 ** octaves["matrix"] * BASE**-0.5,
      embedding_std=2.0 ** octaves["embedding"],
      output=2.0 ** octaves["output"],
    )
  return found
