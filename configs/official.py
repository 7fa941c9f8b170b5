r"""The released tokenizers, as a file that every other job reads.

  python -m totojax.main --config=configs/official.py --workdir=weights/dvae
  python -m totojax.main --config=configs/official.py --workdir=weights/vqgan \
    --config.official.kind=vqgan-16k --config.official.files="('last.ckpt',)"

Reads local files, or downloads them from the official addresses (to be had
again where it stopped). LlamaGen's, diffusers', IBQ's, Open-MAGVIT2's, VidTok's
and Cosmos' are read from local files: docs/tokenizers.md lists them. The pickles
are never executed. Leaves WORKDIR/tokenizer.safetensors, to be given to
configs/tokenize.py as tokenizer.
"""

from totojax.config import recipes


def get_config():
  return recipes.official()
