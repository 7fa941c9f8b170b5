"""µP's coordinate check: do activations keep their size as the width grows?

  python -m totojax.main --config=configs/coord_check.py

Four updates at 2^-7 of models from 64 to 1,024 wide, with 16 heads each as in
Table 15, with µP and in the standard parametrisation. Needs no data; 198 s on
2 busy cores. Writes coordinates.csv and a figure for each quantity.
"""

from totojax.config import study_recipes


def get_config():
  c = study_recipes.coord_check(
    study_recipes.sizes(64, 128, 256, 512, 1024, depth=2, heads=16, mlp_ratio=3.0)
  )
  c.pretrain.sequence.update(vocab=512, grid=4, frames=4, context=64)
  c.pretrain.compute.update(dtype="float32", unroll=1)
  c.pretrain.model.tied = False
  return c
