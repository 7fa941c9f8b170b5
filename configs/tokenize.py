r"""Any images or videos to shards of tokens.

  python -m totojax.main --config=configs/tokenize.py --workdir=TOKENS \
    --config.source.root=VIDEOS --config.source.val_frac=0.1

Every option is in `recipes.tokenize`; the tokenizer is the shipped one for 64
to 256 pixels, unless --config.tokenizer names another. Sources: a folder (default), a list of
`path label` lines, WebDataset tars, TFDS by name, and ImageNet, Kinetics,
Something-Something v2, Ego4D, HowTo100M and UCF101 as they lie on disk:
--config.source.name=kinetics. For images add --config.source.kind=image. With
--config.tokenizer=pixels the stores are of pixels, of which others can be made.

The plan is printed before the job starts, and alone with --config.run=plan
(without data: --config.plan.hours=92627.0). On a cluster: --multihost, or
--config.beam.name=DataflowRunner with --config.beam.options.
"""

from totojax.config import recipes


def get_config():
  c = recipes.tokenize()
  c.tokenizer = "shipped-f8"  # 4,096 codes, for frames of 64 to 256 pixels
  return c
