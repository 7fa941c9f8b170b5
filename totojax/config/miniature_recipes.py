"""What the paper in miniature trains and probes: the recipes of small runs, made smaller.

Sizes are those of Table 1 over 16 in width and over 4 in depth, on pictures of 32
pixels with 4 x 4 tokens. Rates are chosen, not tuned.
"""

from collections.abc import Mapping

from ml_collections import ConfigDict

from totojax.config import pixel_recipes, recipes, small_runs, track, world

GRID, FRAMES, VOCAB = 4, 8, 512
BATCH_TOKENS, STEPS = 4096, 400  # of an update; updates of "400 epochs"
SIZES = {
  "base": dict(width=48, depth=3, heads=3, mlp_dim=192),
  "large": dict(width=64, depth=4, heads=4, mlp_dim=256),
  "1b": dict(width=128, depth=6, heads=4, mlp_dim=344),
}
# Table 6: with as many parameters as `large`, in more layers, as the paper's.
OTHERS = {"gpt2": dict(width=64, depth=6, heads=4, mlp_dim=256), "mamba": dict(width=64, depth=10)}
IMAGES, CLIPS = "{workdir}/images", "{workdir}/clips"


def images(size_px: int) -> ConfigDict:
  """Pictures of one large shape, in place of ImageNet; the same scenes at every size."""
  c = pixel_recipes.render(train=4000, val=1000)
  c.seed, c.amount.label = 1, "shape"
  small_runs.one_way(c)
  c.scene.update(frames=1, size_px=size_px)
  return c


def clips() -> ConfigDict:
  """Clips in which it goes one of four ways, in place of Kinetics and the others."""
  c = pixel_recipes.render(train=3000, val=600)
  small_runs.one_way(c)
  c.scene.update(frames=FRAMES, speed=(0.10, 0.15))  # half a token's width in each frame
  return c


def pretrained(
  sizes: Mapping[str, int], stores: Mapping[str, float], *, grid: int = GRID, frames: int = 1
) -> ConfigDict:
  """A small model of stores and their shares; of the first the held-out loss is told.

  `frames`: of a sequence, so many images where there are no clips.
  """
  c = recipes.pretrain("tiny")
  c.model.update(sizes)
  tokens = frames * grid**2
  c.sequence.update(vocab=VOCAB, grid=grid, frames=frames, context=tokens)
  c.compute.dtype = "float32"  # bf16 is no faster on a CPU
  batch = BATCH_TOKENS * (grid // GRID) ** 2  # as many images on a finer grid
  c.train.update(batch_tokens=batch, total_tokens=float(STEPS * batch))
  c.optim.update(lr=3e-3, warmup_steps=STEPS // 10)
  c.data.train = {
    name: recipes.source(f"{{workdir}}/{name}/train", share) for name, share in stores.items()
  }
  c.data.validation = {name: f"{{workdir}}/{name}/val" for name in stores}
  c.validation.rows = 256
  c.every = recipes.every(log=20, evaluate=STEPS, checkpoint=STEPS // 2)
  return c


def probed(run: str, stores: str, *, pool: str = "average", alone: bool = True) -> ConfigDict:
  """A probe of every layer; beside it, unless it is alone, what knows nothing of pre-training."""
  pixels = {"images": IMAGES, "clips": CLIPS}.get(stores.partition("_")[0], IMAGES)
  c = small_runs.small_probe(f"{{workdir}}/{run}", f"{{workdir}}/{stores}", pixels)
  if alone:
    c.backbones = ("trained",)
    c.data.update(train_pixels="", validation_pixels="")
  c.optim.update(lrs=(3e-3, 3e-2), weight_decays=(0.01, 0.3))
  if pool != "average":
    c.head.update(pool=pool, init_std=0.02)
    c.optim.update(lrs=(1e-3, 3e-3), weight_decays=(0.01,))
    c.train.epochs = 20.0
  return c


def tuned(c: ConfigDict, stores: str, *, classes: int, epochs: float) -> ConfigDict:
  """`joint` or `finetune` in small, on stores of tokens."""
  c.data.update(source="tokens", train=f"{{workdir}}/{stores}/train")
  c.data.update(validation=f"{{workdir}}/{stores}/val", grid=0, classes=classes, expected=0)
  c.data.reading.update(workers=0, prefetch=2)
  c.data.holdout_frac = 0.1
  c.model.rope_base = 10_000.0  # as it was trained
  c.compute.dtype = "float32"
  c.train.update(epochs=epochs, batch_rows=128, score_rows=200)
  c.optim.update(lr=1e-3, lr_rows=0, layer_decay=0.9, warmup_epochs=1.0)
  c.every = recipes.every(log=20, evaluate=1000, checkpoint=200)
  return c


def joint(run: str, stores: str, *, classes: int, epochs: float) -> ConfigDict:
  """Next tokens with attention probes of the layers (Tables 7 and 8)."""
  return tuned(recipes.joint(f"{{workdir}}/{run}"), stores, classes=classes, epochs=epochs)


def finetuned(run: str, stores: str, *, prefix_tokens: int) -> ConfigDict:
  """Fine-tuning of all of a model (Table 13, A.2)."""
  c = tuned(recipes.finetune(f"{{workdir}}/{run}"), stores, classes=5, epochs=20.0)
  c.model.prefix_tokens = prefix_tokens
  c.head.update(head_init_std=0.02, drop_path=0.0)
  c.mix.update(mixup=0.0, cutmix=0.0)
  return c


def sequences() -> ConfigDict:
  """Scenes of a table as DAVIS lies on disk, of which the first choose layers."""
  c = world.recipe("davis")
  c.seed, c.amount.val = 1, 12
  c.scene.update(width_px=256, height_px=256, zoom=2.0, frames=16, fps=12.0)
  return c


def tracked(size_px: int, *models: str, baselines: tuple[str, ...]) -> ConfigDict:
  """Masks that follow the features of models (Table 10)."""
  c = track.job("davis", ",".join(["dino", *(f"{name}={{workdir}}/{name}" for name in models)]))
  c.data.root = "{workdir}/sequences"
  c.frames.size_px = size_px
  c.baselines = baselines
  c.select = 4
  c.output.codec = ""  # an .mp4 needs PyAV
  return c
