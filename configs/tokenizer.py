r"""The tokenizers that ship with the package: small, 8 x 8 pixels a token.

  python -m totojax.main --config=configs/tokenizer.py:32
  python -m totojax.main --config=configs/tokenizer.py:f8
  python -m totojax.main --config=configs/tokenizer.py:video

"32" has 512 codes of finite scalars, for frames of 32 pixels and demos; "f8"
4,096, for 64 to 256 pixels; "video" a codebook of 4,096 for 4 x 8 x 8 pixels of
clips, causally. Each trains on frames that the project renders and
on crops of four public-domain photographs (extra `data`), over which, for
"video", a camera moves. Own photographs and videos make it better:

  --config=configs/tokenizer.py:video,VIDEOS --config.data.root=PHOTOS \
  --config.stages.photos.folder.held_out='("one.jpg",)'

It leaves runs/tokenizer/tokenizer/tokenizer.safetensors. The cards of the
shipped files (totojax/tokenizers/shipped/README.md) have their commands, data
and authors; docs/results/tokenizers.md has the scores, and what size and
training time are worth.

A dVAE in place of it: `small_runs.small_dvae`, as configs/demo.py does.
"""

from ml_collections import ConfigDict

from totojax.config import pixel_recipes, recipes, small_runs

COMMAND = "python -m totojax.main --config=configs/tokenizer.py:"
DATA = (
  "rendered clips (stage clips), and crops (stage photos) of the photographs astronaut, chelsea,"
  " coffee and hubble_deep_field of scikit-image (public domain or CC0)"
)
# Side of the training frames, levels of a code, updates.
KINDS = {
  "32": (32, (8, 4, 4, 4), 8000),
  "f8": (64, (8, 8, 8, 8), 10_000),
  "video": (64, (8, 8, 8, 8), 1400),
}
CLIP = 17  # frames: the first, and four latent frames of four


def get_config(kind: str = "32"):
  name, _, videos = kind.partition(",")
  if name not in KINDS:
    raise ValueError(f"tokenizer {name!r} is unknown; use one of {sorted(KINDS)}")
  size_px, levels, steps = KINDS[name]
  data = ConfigDict(dict(root=""))
  stages, weights = {}, {"rendered": 0.15, "photos": 0.85}

  # Another seed than the demo's: its frames are all new to the tokenizer.
  clips = pixel_recipes.render(train=1500, val=128)
  clips.seed = 1
  clips.scene.size_px = size_px

  photos = pixel_recipes.photos(train=48_000, val=512)
  photos.folder.root = data.get_ref("root")
  photos.crop.update(size_px=size_px, least_px=size_px, most_px=720)

  tokenizer = recipes.tokenizer()
  small_runs.small_fsq(tokenizer, levels, steps)
  stages = dict(clips=clips, photos=photos)
  if name != "video":
    tokenizer.views.update(move_px=4, turn=True, gain=0.2)
  if name == "32":
    weights.update(rendered=0.5, photos=0.5)
    photos.crop.update(least_px=48, most_px=1280)
    tokenizer.fsq.update(encoder_blocks=3, decoder_blocks=5, width=112, hidden=112)
    tokenizer.train.batch_frames = 64
  if name == "video":
    photos.amount.update(train=3000, val=128)
    photos.crop.update(frames=CLIP, most_move_frac=1.0)
    clips.scene.frames = CLIP
    tokenizer.fsq.update(frame_factor=4, codebook=4096)
    tokenizer.optim.lr = 1e-3
    tokenizer.train.update(clip_frames=CLIP, batch_frames=8, start_frames=400)
  if videos:
    stages["videos"] = _videos(videos, size_px)
    weights.update(rendered=0.15, photos=0.5, videos=0.35)

  tokenizer.data.train = {
    source: recipes.source(f"{{workdir}}/{_stage(source)}/train", weight)
    for source, weight in weights.items()
  }
  tokenizer.data.validation = {source: f"{{workdir}}/{_stage(source)}/val" for source in weights}
  tokenizer.card.update(command=COMMAND + kind, data=DATA)
  c = recipes.chain(**stages, tokenizer=tokenizer)
  c.data = data
  return c


def _stage(source: str) -> str:
  return "clips" if source == "rendered" else source


def _videos(root: str, size_px: int) -> ConfigDict:
  """Clips of a folder of videos, near and far, mirrored half of the time."""
  c = pixel_recipes.decode(root)
  c.clip.update(frames=CLIP, stride_frames=2, size_px=size_px, crops=400, short="hold")
  c.views.update(mode="train", short_frac=(1.0, 4.0))
  return c
