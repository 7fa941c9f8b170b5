r"""k nearest neighbours on features on disk: no training, every layer.

  python -m totojax.main --config=configs/features.py --workdir=DINO \
    --config.features.encoder=dinov2:WEIGHTS --config.features.pool=class \
    --config.features.norm=True --config.source.root=IMAGES \
    --config.source.kind=image --config.source.folder.class_folders=True \
    --config.source.val_frac=0.2
  python -m totojax.main --workdir=KNN --config=configs/knn.py:dino=DINO,ours=OURS

After the colon: name=folder of each encoder's features, with `train` and `val`
in it, of the same items. 20 neighbours, cosine similarity, temperature 0.07, as
DINO and DINOv2 report them (there of the class token through the last norm);
--config.knn.neighbours="(10,20,100,200)" are all that they print. Features of
tokens are averaged first. The table is per_layer.csv, the page report.html.
"""

from totojax.config import compare, roots


def get_config(encoders: str = "FEATURES"):
  return roots.config("knn", encoders=compare.encoder_files(encoders))
