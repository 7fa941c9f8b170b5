r"""Features of any layer for your own images and videos, as files.

  python -m totojax.main --config=configs/features.py --workdir=FEATURES \
    --config.model_run=MODEL --config.source.root=VIDEOS \
    --config.features.layers="(8,)"

Without a model it is the small one that ships with the package. Sources are those
of configs/tokenize.py; for images add --config.source.kind=image, for class folders
--config.source.folder.class_folders=True. One vector a clip; with
--config.features.pool=frame or token one for each frame or token. The same
command goes on where it stopped. From Python: `totojax.load`.
"""

from totojax.config import recipes


def get_config():
  return recipes.features("shipped")
