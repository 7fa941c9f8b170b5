"""Short-term anticipation at its full size, and small enough for 2 CPU cores."""

from ml_collections import ConfigDict

from totojax.config import cater, recipes, roots, schema, small_runs, sta, world
from totojax.config.schema import ConfigError

SIZES = ("full", "small")
PROTOCOLS = ("tuned", "frozen")


def tuned(size: str = "full") -> ConfigDict:
  """The paper's protocol; raises ConfigError for an unknown size."""
  c = schema.to_config(sta.Sta())
  if _is_small(size):
    _shrink(c)
    c.optim.update(lr=1e-3, layer_decay=1.0)
  return c


def frozen(size: str = "full") -> ConfigDict:
  """The frozen protocol; raises as `tuned`."""
  c = schema.to_config(sta.StaFrozen())
  if _is_small(size):
    _shrink(c)
    c.probe.heads = 4
    c.optim.update(lr=1e-3, warmup_steps=50)
    c.train.epochs = 6.0
  return c


def _is_small(size: str) -> bool:
  if size not in SIZES:
    raise ConfigError(f"size {size!r} is unknown; use {schema.either(map(repr, SIZES))}")
  return size == "small"


def _shrink(c: ConfigDict) -> None:
  """In place: 4 frames of 64 pixels and one of 96, two maps, 32 regions."""
  c.data.update(frames=4, stride=2, clip_px=64, still_px=96, most_objects=4, mirror=True)
  c.data.update(train_queries=0, validation_queries=400)
  c.detector.update(
    width=32,
    scales=(2.0, 1.0),
    anchor_cells=3.0,
    anchors=64,
    candidates=64,
    proposals=64,
    eval_candidates=64,
    eval_proposals=48,
    regions=32,
    region_bins=5,
    hidden=96,
    scored=96,
    detections=20,
  )
  c.train.update(epochs=3.0, batch_rows=8, score_rows=16)
  c.every.update(log_steps=20, eval_steps=1000, checkpoint_steps=200)


def chain(argument: str = "") -> ConfigDict:
  """A miniature from pixels to scores, of "seeds=3,root=WORLD,model=RUN,protocol=tuned".

  Raises:
    ConfigError: the argument has another key, or a value that is none.
  """
  words = small_runs.words(argument, seeds="3", root="", model="", protocol="")
  if words["protocol"] and words["protocol"] not in PROTOCOLS:
    raise ConfigError(f"protocol is {words['protocol']!r}; use {schema.either(PROTOCOLS)}")
  root, model, stages = words["root"], words["model"], {}
  if not root:
    root = "{workdir}/world"
    stages["world"] = world.recipe("ego4d_small")
    stages["world"].amount.train = 1000
  if not model:
    model = "{workdir}/pretrain"
    stages["tokens"] = _tokens(f"{root}/v2/full_scale")
    stages["pretrain"] = made = cater.pretrained("hands", "{workdir}/tokens", depth=4)
    made.train.total_tokens *= 3
  for protocol in (words["protocol"],) if words["protocol"] else PROTOCOLS:
    first = tuned("small") if protocol == "tuned" else frozen("small")
    first.model_run, first.data.root = model, root
    names = []
    for seed in range(int(words["seeds"])):
      names.append(f"{protocol}_{seed}" if seed else protocol)
      stages[names[-1]] = recipes.follower(first) if seed else first
      stages[names[-1]].seed = seed
      if seed:
        stages[names[-1]].inputs_from = f"{{workdir}}/{protocol}"
    if len(names) > 1:
      runs = tuple(f"{{workdir}}/{name}" for name in names)
      stages[f"{protocol}_seeds"] = roots.config("sta_seeds", runs=runs)
  return recipes.chain(**stages)


def _tokens(videos: str) -> ConfigDict:
  """What is pre-trained on: clips as the miniature's queries have them, of any part."""
  c = recipes.tokenize()
  c.tokenizer = cater.TOKENIZER
  c.source.update(root=videos, val_frac=0.1)
  c.clip.update(frames=cater.FRAMES, stride_frames=2, size_px=cater.SIZE_PX, fps=16.0, crops=8)
  return c
