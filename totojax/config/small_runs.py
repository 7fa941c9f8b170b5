"""Recipes of whole jobs in small, beside `recipes`."""

from ml_collections import ConfigDict

from totojax.config import pixel_recipes, recipes, roots
from totojax.config.schema import ConfigError


def small_dvae(c: ConfigDict, steps: int) -> None:
  """Turns `recipes.tokenizer()` into a dVAE that a CPU trains in minutes.

  The k-means start and teacher are ours: the published losses alone collapse to
  a few codes in so few updates. All schedules follow `train.steps`.
  """
  c.train.steps = steps
  updates = c.train.get_ref("steps")
  c.dvae.update(vocab=512, hidden=32, blocks=1, decoder_init=64, post_gain=0.25)
  c.objective.update(loss="l2", kl=0.0, tau_steps=(updates * 3 + 4) // 5)
  c.objective.update(start="patches", teacher=0.01, teacher_steps=(updates * 3 + 3) // 4)
  c.train.update(batch_frames=32, start_frames=2500, score_frames=512, least_used_frac=0.5)
  c.optim.update(lr=3e-3, warmup_steps=updates // 12, end_lr_frac=0.02, b2=0.99, clip_norm=1.0)
  c.every = recipes.every(50, 500, 250)


def one_way(c: ConfigDict) -> None:
  """Turns `pixel_recipes.render()` into clips of one large thing that goes one of four ways."""
  c.scene.update(
    objects=1,
    occluder_frac=0.0,
    pan_frac=0.0,
    motions=("right", "left", "up", "down"),
    backgrounds=("plain",),
    speed=(0.05, 0.075),
  )


def small_probe(model_run: str, shards: str, clips: str) -> ConfigDict:
  """`probe` of a small model on rendered clips, with everything beside it.

  `shards` holds the stores of tokens `train` and `val`, `clips` those of pixels
  that they were made from.
  """
  c = recipes.probe(model_run, f"{shards}/train", f"{shards}/val")
  c.backbones = ("trained", "untrained", "pixels", "histogram")
  c.data.update(train_pixels=f"{clips}/train", validation_pixels=f"{clips}/val", holdout_frac=0.2)
  c.train.update(epochs=40.0, batch_rows=256, score_rows=256)
  c.optim.update(
    name="adamw",
    lrs=(1e-3, 3e-3, 1e-2, 3e-2),
    weight_decays=(0.01, 0.3, 3.0),  # the most for the histogram of tokens
    lr_rows=0,
    warmup_epochs=1.0,
  )
  c.every = recipes.every(100, 1000, 1000)
  return c


def small_generate(model_run: str, clips: str) -> ConfigDict:
  """`generate` of a small model, on the held-out clips of pixels in `clips`."""
  c = recipes.generate(model_run)
  c.prompt.update(store=f"{clips}/val", clips=32)
  c.samples = 2
  c.sampling.top_p = 0.9
  c.output.clips = 4
  return c


def probe_seeds(**runs: list[str]) -> ConfigDict:
  """`run = "probe_seeds"`: question -> run directories, one for each seed."""
  folders = {name: tuple(paths) for name, paths in runs.items()}
  return roots.config("probe_seeds", probe_seeds=folders)


def videos_to_report(
  clips: ConfigDict, *, name: str, grid: int, batch: int, steps: int
) -> ConfigDict:
  """The whole job in small: pixels, tokens, a "mini" model, validation, report.

  Args:
    clips: the stage that makes the pixel stores.
    name: of the only source.
    grid: tokens per side of a frame.
    batch: sequences of an update.
    steps: updates.
  """
  encoder = recipes.tokenizer()
  encoder.weights = "shipped"
  model_run = recipes.pretrain("mini")
  tokens = 16 * grid**2
  model_run.sequence.update(vocab=512, grid=grid, frames=16, context=tokens)
  model_run.compute.dtype = "float32"  # bf16 is no faster on a CPU
  model_run.train.update(batch_tokens=batch * tokens, total_tokens=float(steps * batch * tokens))
  model_run.optim.warmup_steps = steps // 10
  model_run.data.train = {name: recipes.source("{workdir}/shards/train", 1.0)}
  model_run.data.validation = {name: "{workdir}/shards/val"}
  model_run.validation.rows = 64
  model_run.samples.clips = 4
  return recipes.chain(
    clips=clips,
    tokenizer=encoder,
    shards=pixel_recipes.shards("{workdir}/clips", "{workdir}/tokenizer/tokenizer.safetensors"),
    pretrain=model_run,
    validate=recipes.validate("{workdir}/pretrain"),
    report=recipes.report("{workdir}"),
  )


def small_fsq(c: ConfigDict, levels: tuple[int, ...], steps: int) -> None:
  """Turns `recipes.tokenizer()` into one of finite scalars that a CPU trains in minutes.

  All schedules follow `train.steps`.
  """
  c.family = "fsq"
  c.fsq.levels = levels
  c.train.steps = steps
  updates = c.train.get_ref("steps")
  c.train.update(batch_frames=32, start_frames=4000, score_frames=512, dtype="float16")
  c.optim.update(lr=2e-3, warmup_steps=updates // 30, end_lr_frac=0.01, b2=0.99, clip_norm=0.1)
  c.every = recipes.every(20, 500, 500)


def words(argument: str, **defaults: str) -> dict[str, str]:
  """What "KEY=VALUE,KEY=VALUE" after a config's colon says, beside defaults; `seeds` is a count.

  Raises:
    ConfigError: it has another key, or seeds that are no number from 1 to 99.
  """
  found = dict(defaults)
  for word in filter(None, argument.split(",")):
    key, equals, value = word.partition("=")
    if key not in found or not equals:
      raise ConfigError(f"{word!r} is not understood; write {', '.join(found)} with = and a value")
    found[key] = value
  if not found["seeds"].isdecimal() or not 1 <= int(found["seeds"]) <= 99:
    raise ConfigError(f"seeds is {found['seeds']!r}; give 1 to 99")
  return found
