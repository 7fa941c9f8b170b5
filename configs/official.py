r"""The released tokenizers, as a file that every other job reads.

  python -m totojax.main --config=configs/official.py --workdir=weights/dvae
  python -m totojax.main --config=configs/official.py --workdir=weights/vqgan \
    --config.official.kind=vqgan-16k --config.official.files="('last.ckpt',)"

Reads local files, or downloads them from the official addresses (to be had
again where it stopped). The pickles are never executed. Leaves
WORKDIR/tokenizer.safetensors, to be given to configs/tokenize.py as tokenizer.
"""

from totojax.config import recipes


def get_config():
  return recipes.official()
