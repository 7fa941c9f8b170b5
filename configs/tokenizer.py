"""The small tokenizer that ships with the package: 512 codes, factor 8.

  python -m totojax.main --config=configs/tokenizer.py

Trains a dVAE (DALL-E's architecture at an eighth of its width) on frames that
the project renders and on squares of four public-domain photographs (extra
`data`), and leaves runs/tokenizer/tokenizer/tokenizer.safetensors. The k-means
start and teacher are ours: DALL-E's own losses collapse in so few updates.
The scores of the shipped file are in its card
(totojax/tokenizers/shipped/README.md).

At another size: change `scene.size_px`, `crop.size_px` and `dvae`.
"""

from totojax.config import recipes

STEPS = 3000
COMMAND = "python -m totojax.main --config=configs/tokenizer.py"
DATA = (
  "rendered clips (configs/tokenizer.py, stage clips) and squares of the"
  " photographs astronaut, chelsea, coffee and hubble_deep_field of"
  " scikit-image (public domain or CC0)"
)


def get_config():
  # Another seed than the demo's: its frames are all new to the tokenizer.
  clips = recipes.render(train=1500, val=128)
  clips.seed = 1

  photos = recipes.photos(train=4000, val=256)

  tokenizer = recipes.tokenizer()
  recipes.small_dvae(tokenizer, steps=STEPS)
  tokenizer.data.train = {
    "rendered": recipes.source("{workdir}/clips/train", 0.8),
    "photos": recipes.source("{workdir}/photos/train", 0.2),
  }
  tokenizer.data.validation = {"rendered": "{workdir}/clips/val", "photos": "{workdir}/photos/val"}
  tokenizer.card.update(command=COMMAND, data=DATA)
  return recipes.chain(clips=clips, photos=photos, tokenizer=tokenizer)
