"""Config keys of CATER's snitch: where models say that it is, beside rules (Table 12)."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from totojax.config import recipes, roots, small_runs, world
from totojax.config.schema import ConfigError, field, Job, Section, section, SEEDS

RULES = ("last seen", "frequent", "middle", "chance")  # names that no model may have


@section("data")
class Clips(Section):
  """The clips that the models were scored on, as CATER lies on disk."""

  root: str = field("", "folder with lists, and scenes")
  split: str = field("val", "list of the clips that were held out")
  train: str = field("train", "list that was trained on: for its most frequent cell")
  side: int = field(6, "cells of a row", choices=(4, 6, 8))


@section("", run="cater")
class Cater(Job):
  """`run = "cater"`: where fine-tuned models say that the snitch is, beside rules."""

  seed: int = field(0, "of intervals", at_least=0, below=SEEDS)
  models: Mapping[str, tuple[str, ...]] = field({}, "name -> runs of fine-tuning, one a seed")
  data: Clips = field(Clips(), "on which clips")
  paper: bool = field(True, "Table 12 stands below")

  def __post_init__(self):
    if not self.models or not all(self.models.values()):
      raise ConfigError(
        "models is empty, or a name in it has no run; name runs of run = 'finetune':"
        " --config.models=\"{'mine': ('RUN',)}\""
      )
    if taken := sorted({*self.models} & {*RULES}):
      raise ConfigError(f"models.{taken[0]} has the name of a rule; give it another")


# Of the stand-in: frames of a clip, their side, and what a token is.
FRAMES, SIZE_PX, TOKENIZER, FACTOR, VOCAB = 4, 64, "shipped", 8, 512


def tokens(root: str, *, frames: int, size_px: int, tokenizer: str) -> ConfigDict:
  """`tokenize` of CATER: whole videos, whose pictures are squashed and not cropped."""
  c = recipes.tokenize()
  c.tokenizer = tokenizer
  c.source.update(name="cater", root=root, splits=("train", "val"))
  # Mirrored or cropped clips would have other classes.
  c.clip.update(sampling="whole", frames=frames, size_px=size_px, fps=24.0)
  return c


def pretrained(name: str, stores: str, *, depth: int) -> ConfigDict:
  """A small model of clips of `FRAMES`, on stores of tokens `train` and `val`."""
  grid = SIZE_PX // FACTOR
  context = FRAMES * grid**2
  c = recipes.pretrain("mini")
  c.model.update(width=64, depth=depth, heads=2, mlp_dim=192)
  c.sequence.update(vocab=VOCAB, grid=grid, frames=FRAMES, context=context)
  c.compute.dtype = "float32"  # bf16 is no faster on a CPU
  c.train.update(batch_tokens=16 * context, total_tokens=300.0 * 16 * context)
  c.optim.update(lr=4e-3, warmup_steps=30)
  c.data.train = {name: recipes.source(f"{stores}/train", 1.0)}
  c.data.validation = {name: f"{stores}/val"}
  c.validation.rows = 64
  c.every = recipes.every(log=10, evaluate=300, checkpoint=300)
  return c


def finetune(model_run: str, stores: str, *, frames: int) -> ConfigDict:
  """`finetune` with the attention probe, on stores of tokens `train` and `val`."""
  c = recipes.finetune(model_run)
  c.data.update(source="tokens", train=f"{stores}/train", validation=f"{stores}/val")
  c.data.update(grid=0, frames=frames, classes=36, expected=0)
  c.data.reading.update(workers=0, prefetch=2)
  c.head.update(pool="attention", head_init_std=0.02, drop_path=0.0)
  c.mix.update(mixup=0.0, cutmix=0.0)
  return c


def score(root: str, **models: tuple[str, ...]) -> ConfigDict:
  """`cater` of runs by name."""
  c = roots.config("cater", models=models)
  c.data.root = root
  return c


def paper_chain(root: str, model_run: str, frames: int, tokenizer: str) -> ConfigDict:
  """CATER from videos to scores at the paper's size (Table 12)."""
  tuned = finetune(model_run, "{workdir}/tokens", frames=frames)
  tuned.data.expected = 1650
  # [gap] A batch and a rate of fine-tuning are not printed.
  tuned.train.update(epochs=30.0, batch_rows=64, score_rows=64)
  tuned.optim.update(lr=1e-4, lr_rows=0, layer_decay=0.9, warmup_epochs=2.0, clip_norm=1.0)
  return recipes.chain(
    tokens=tokens(root, frames=frames, size_px=128, tokenizer=tokenizer),
    finetune=tuned,
    snitch=score(root, finetuned=("{workdir}/finetune",)),
  )


def chain(argument: str = "") -> ConfigDict:
  """A stand-in from pixels to scores, of "root=FOLDER,seeds=3".

  Raises:
    ConfigError: the argument has another key.
  """
  words = small_runs.words(argument, root="", seeds="1")
  root = words["root"]
  stages = {}
  if not root:
    root = "{workdir}/world"
    stages["world"] = world.recipe("cater_tiny")
    stages["world"].amount.update(train=12_000, val=600)  # of 2,000 clips none is understood
  stages["tokens"] = tokens(root, frames=FRAMES, size_px=SIZE_PX, tokenizer=TOKENIZER)
  stores = "{workdir}/tokens"
  stages["pretrain"] = pretrained("cater", stores, depth=3)
  names = ["finetune", *(f"finetune{seed}" for seed in range(1, int(words["seeds"])))]
  for seed, name in enumerate(names):
    stages[name] = tuned = finetune("{workdir}/pretrain", stores, frames=FRAMES)
    tuned.seed = seed
    # A small model has not learnt what a place is, and clips are whole.
    tuned.head.positions = True
    tuned.model.update(rope_base=10_000.0, prefix_tokens=-1)
    tuned.compute.dtype = "float32"
    tuned.train.update(epochs=10.0, batch_rows=32, score_rows=100)
    tuned.optim.update(lr=2e-3, lr_rows=0, layer_decay=1.0, warmup_epochs=0.3, clip_norm=1.0)
    tuned.every = recipes.every(log=20, evaluate=375, checkpoint=375)
  stages["snitch"] = score(root, finetuned=tuple(f"{{workdir}}/{name}" for name in names))
  return recipes.chain(**stages)
