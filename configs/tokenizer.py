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

from totojax import defaults

STEPS = 3000
COMMAND = "python -m totojax.main --config=configs/tokenizer.py"
DATA = (
    "rendered clips (configs/tokenizer.py, stage clips) and squares of the"
    " photographs astronaut, chelsea, coffee and hubble_deep_field of"
    " scikit-image (public domain or CC0)"
)


def get_config():
  # Another seed than the demo's: its frames are all new to the tokenizer.
  clips = defaults.render(train=1500, val=128)
  clips.seed = 1

  photos = defaults.photos(train=4000, val=256)

  tokenizer = defaults.tokenizer()
  tokenizer.dvae.update(
      vocab=512, hidden=32, blocks=1, decoder_init=64, post_gain=0.25
  )
  tokenizer.objective.update(
      loss="l2",
      kl=0.0,
      tau_steps=STEPS * 3 // 5,
      start="patches",
      teacher=0.01,
      teacher_steps=STEPS * 3 // 4,
  )
  tokenizer.train.update(
      steps=STEPS,
      batch_frames=32,
      start_frames=2500,
      score_frames=512,
      least_used_frac=0.5,
  )
  tokenizer.optim.update(
      lr=3e-3, warmup_steps=50, end_lr_frac=0.02, b2=0.99, clip_norm=1.0
  )
  tokenizer.data.train = {
      "rendered": defaults.source("{workdir}/clips/train", 0.8),
      "photos": defaults.source("{workdir}/photos/train", 0.2),
  }
  tokenizer.data.validation = {
      "rendered": "{workdir}/clips/val",
      "photos": "{workdir}/photos/val",
  }
  tokenizer.every = defaults.every(log=50, evaluate=500, checkpoint=250)
  tokenizer.card.update(command=COMMAND, data=DATA)
  return defaults.chain(clips=clips, photos=photos, tokenizer=tokenizer)
