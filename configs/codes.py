r"""Codes that others made, as arrays in files, to stores of tokens.

  python -m totojax.main --config=configs/codes.py --workdir=TOKENS \
    --config.codes.files="('codes/',)" --config.codes.val_frac=0.1 \
    --config.codes.tokenizer=NAME --config.codes.vocab=8192 \
    --config.codes.size_px=128 --config.codes.stride_frames=4 --config.codes.fps=30.0

Reads .npz, .npy and .safetensors (folders and globs of them, here or in a
bucket): an array `codes` of integers, [R, N, G, G] or [R, N, G*G], or [N, G, G]
of one clip a file; of images (--config.codes.kind=image) without N. Beside it
may be `labels` [R] and `ids` [R]. Nothing is unpickled, and nothing large is
loaded as a whole. Leaves WORKDIR/train and WORKDIR/val (or WORKDIR/all), which
configs/pretrain.py reads.
"""

from totojax.config import recipes


def get_config():
  return recipes.codes()
