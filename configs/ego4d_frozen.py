r"""Ego4D on features of a frozen encoder: V-JEPA 2.1's protocol, as far as it is public.

  python -m totojax.main --config=configs/ego4d_frozen.py --workdir=FROZEN_OUT \
    --config.model_run=RUN --config.data.root=EGO4D
  ... --config.encoder=vjepa2:WEIGHTS    an encoder by name, or a Python file of yours
  ... --config.features=FOLDER           features on disk, UID.npz with clip and still

An attentive probe of four blocks with a query a frame pools a clip's tokens over
time; its map and the last frame's are fused and go to the same heads as in
configs/ego4d.py. Layers, resolution, frames and optimiser of the base protocol are
not published: ours are [gap]. Leaves what configs/ego4d.py leaves
(docs/anticipation.md). configs/ego4d_frozen.py:small is for rendered data.
"""

from totojax.config import sta_recipes


def get_config(size: str = "full"):
  return sta_recipes.frozen(size)
