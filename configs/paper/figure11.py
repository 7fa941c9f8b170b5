r"""Figure 11: the best learning rate over widths, with µP.

  python -m totojax.main --config=configs/paper/figure11.py \
    --workdir=gs://BUCKET/figure11

Widths 64 to 1,536 at one depth (12 [gap]), rates 2^-20 to 2^0 as on the
authors' axis, tokens of VQGAN-16k; 10^9 tokens a run [gap]. The paper finds
2^-7 best for every width. In small, on a laptop: configs/mup_sweep.py. Not run
at this size.
"""

from totojax.config import paper as paper_defaults, recipes, study_recipes

WIDTHS = (64, 128, 256, 512, 768, 1024, 1536)


def get_config():
  c = recipes.paper("a1")
  c.sequence.vocab = paper_defaults.VOCAB["vqgan-16k"]
  c.train.total_tokens = 1e9
  c.optim.warmup_steps = 100
  models = study_recipes.sizes(*WIDTHS, depth=12, heads=16)  # MLPs as Table 15 has them
  c.mup.base_mlp_dim = study_recipes.mlp_dim(c.mup.base_width)
  sweep = study_recipes.sweep(c, models)
  # Octaves where the optimum is expected, and two apart as on the axis.
  rates = sorted({*range(-20, 1, 2), *range(-10, -3)})
  sweep.sweep.log2_lr.mup = tuple(map(float, rates))
  sweep.sweep.log2_lr.standard = ()
  sweep.sweep.seeds = (0,)
  return sweep
