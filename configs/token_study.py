r"""Which tokens to predict? Tokenizers side by side, and a small model on each.

  python -m totojax.main --config=configs/token_study.py
  python -m totojax.main --config=configs/token_study.py:videos --config.data.root=VIDEOS

The same clips of 17 frames as tokens of an image tokenizer (all frames, and
every fourth one: as many tokens a second as the video tokenizer has) and of the
video tokenizer; a "mini" model learns each for as many updates of as many
clips. The table (runs/token_study/study/tokens.md) has dB and SSIM of all
frames, tokens and bits a second, codes in use, and the model's nats a second.
By default the clips are rendered.

  python -m totojax.main --config=configs/token_study.py:photos[,VIDEOS] \
    --config.data.root=PHOTOS --config.stages.photographs.folder.held_out='("one.jpg",)'

The image tokenizers on photographs that are held out, whole and as thumbnails
of 32 pixels, and on frames of a folder of videos, beside block means and
k-means of as many codes, fitted on the other photographs.
"""

from ml_collections import ConfigDict

from totojax.config import pixel_recipes, recipes, roots

SIZE_PX, GRID, FRAMES = 64, 8, 17
BATCH, STEPS = 8, 150  # clips of an update, updates
# name -> tokenizer, its codes, frames from one that is kept to the next, frames of a token
TOKENIZERS = {
  "image": ("shipped-f8", 4096, 1, 1),
  "image-every-4th": ("shipped-f8", 4096, 4, 1),
  "video": ("shipped-video", 4096, 1, 4),
}


IMAGE_TOKENIZERS = ("shipped-32", "shipped-f8")
IMAGES = 512  # of each kind that are measured


def get_config(source: str = "rendered"):
  name, _, videos = source.partition(",")
  if name == "photos":
    return _images(videos)
  stages = {"clips": _clips(source)}
  study = roots.config("token_study")
  for name, (tokenizer, vocab, every, factor) in TOKENIZERS.items():
    shards = pixel_recipes.shards("{workdir}/clips", tokenizer)
    shards.tokenizing.every = every
    run = recipes.pretrain("mini")
    frames = -(-FRAMES // every) if factor == 1 else 1 + (FRAMES - 1) // factor
    tokens = frames * GRID**2
    run.sequence.update(vocab=vocab, grid=GRID, frames=frames, context=tokens)
    run.sequence.frame_factor = factor
    run.compute.dtype = "float32"
    run.train.update(batch_tokens=BATCH * tokens, total_tokens=float(STEPS * BATCH * tokens))
    run.optim.update(lr=4e-3, warmup_steps=STEPS // 10)
    run.every = recipes.every(log=10, evaluate=100, checkpoint=100)
    run.data.train = {"clips": recipes.source(f"{{workdir}}/{name}-tokens/train", 1.0)}
    run.data.validation = {"clips": f"{{workdir}}/{name}-tokens/val"}
    run.validation.rows = 64
    stages |= {
      f"{name}-tokens": shards,
      f"{name}-model": run,
      f"{name}-loss": recipes.validate(f"{{workdir}}/{name}-model"),
    }
    row = dict(tokenizer=tokenizer, every=every, validation=f"{{workdir}}/{name}-loss")
    study.token_study.rows[name] = ConfigDict(row)
  study.token_study.pixels = {"clips": "{workdir}/clips/val"}
  study.token_study.kmeans = {"clips": "{workdir}/clips/train"}
  c = recipes.chain(**stages, study=study)
  if source == "videos":
    c.data = ConfigDict(dict(root="videos"))
    c.stages.clips.decoding.root = c.data.get_ref("root")
  return c


def _clips(source: str) -> ConfigDict:
  """The stage that makes stores of pixels."""
  if source == "rendered":
    clips = pixel_recipes.render(train=1000, val=64)
    clips.scene.update(size_px=SIZE_PX, frames=FRAMES)
    return clips
  if source == "videos":
    clips = pixel_recipes.decode("")
    clips.clip.update(size_px=SIZE_PX, frames=FRAMES, stride_frames=1, crops=32, short="hold")
    clips.decoding.val_frac = 0.25
    return clips
  raise ValueError(f"clips {source!r} are unknown; use rendered, videos, or photos")


def _images(videos: str) -> ConfigDict:
  """Image tokenizers on photographs, and on frames of videos."""
  data = ConfigDict(dict(root=""))
  photographs = pixel_recipes.photos(train=2 * IMAGES, val=IMAGES)
  photographs.folder.root = data.get_ref("root")
  photographs.crop.update(size_px=SIZE_PX, least_px=SIZE_PX, most_px=512)
  thumbnails = photographs.copy_and_resolve_references()
  thumbnails.folder = photographs.folder  # one value for both
  thumbnails.crop.update(size_px=32, least_px=300, most_px=1280)
  stages = dict(photographs=photographs, thumbnails=thumbnails)
  study = roots.config("token_study")
  study.token_study.pixels = {name: f"{{workdir}}/{name}/val" for name in stages}
  study.token_study.kmeans = {name: f"{{workdir}}/{name}/train" for name in stages}
  if videos:
    frames = recipes.tokenize()
    frames.tokenizer = "pixels"
    frames.source.root = videos
    frames.clip.update(frames=1, stride_frames=1, size_px=SIZE_PX, crops=24)
    stages["frames"] = frames
    study.token_study.pixels["frames"] = "{workdir}/frames/all"
    study.token_study.kmeans["frames"] = "{workdir}/photographs/train"
  study.token_study.clips = IMAGES
  for name in IMAGE_TOKENIZERS:
    study.token_study.rows[name] = ConfigDict(dict(tokenizer=name, every=1, validation=""))
  c = recipes.chain(**stages, study=study)
  c.data = data
  return c
