r"""Ego4D: what is touched next, where, how and when (Table 9).

  python -m totojax.main --config=configs/ego4d.py --workdir=EGO4D_OUT \
    --config.model_run=RUN --config.data.root=EGO4D

Everything is trained: a pyramid on five layers of the model, over the frames of a
clip and its last frame seen again at twice the size, StillFast's heads, and the
next-token loss beside. EGO4D is the folder with annotations/fho_sta_*.json, v1 or
v2, and videos, clips or frames. Leaves results.json as the challenge takes it,
metrics.json with top-5 mAP, drawn boxes and report.html (docs/anticipation.md).

configs/ego4d.py:small is for data rendered by configs/world.py and 2 CPU cores.
The same command goes on where it stopped.
"""

from totojax.config import sta_recipes


def get_config(size: str = "full"):
  return sta_recipes.tuned(size)
