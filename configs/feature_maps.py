r"""See what features hold: components as colours, and likeness to a place.

  python -m totojax.main --config=configs/feature_maps.py:mine=RUN --workdir=MAPS \
    --config.clips.paths="('VIDEO.mp4','FOLDER_OF_FRAMES')"

After the colon NAME=WHAT as in configs/davis.py. Raw pixels and the untrained
model stand beside it. --config.encoders.mine.layers="(0,4,8)" chooses layers,
--config.basis=set one basis for all clips, --config.place="(0.3,0.7)" the place
(down, right) of the first frame that others are compared with. Leaves report.html
and maps/. In Python: totojax/evals/feature_views.py.
"""

from totojax.config import feature_maps


def get_config(argument: str = ""):
  return feature_maps.job(argument)
