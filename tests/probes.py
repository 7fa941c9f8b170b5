"""Labelled stores of tokens, and a small backbone, that tests probe."""

from etils import epath
import jax
import numpy as np
import optax
import stores

from totojax import assembly, checkpoint, jobs, step as step_lib
from totojax.config import recipes, roots
from totojax.data.store import manifests, shards
from totojax.rundir import files
from totojax.tasks import pretrain

CLASSES = ("low", "middle", "high")


def codes(labels, seed, *, per_class=stores.VOCAB // 3):
  """[records, frames x P]: each class draws from codes of its own."""
  rng = np.random.default_rng(seed)
  shape = (len(labels), stores.FRAMES * stores.GRID**2)
  within = rng.integers(0, per_class, shape)
  return (within + np.asarray(labels)[:, None] * per_class).astype(np.uint16)


def write(path, labels, *, prefix, seed, classes=CLASSES, ids=None, names=None, **changed):
  """A complete labelled store; returns its path."""
  labels = np.asarray(labels)
  head = dict(
    kind="video",
    fields=(manifests.token_field(frames=stores.FRAMES, grid=stores.GRID),),
    tokenizer="0123456789abcdef",
    vocab=stores.VOCAB,
    grid=stores.GRID,
    frames=stores.FRAMES,
    size_px=16,
    stride_frames=4,
    fps=30.0,
    crops=1,
    labels=True,
    ids=True,
    classes=classes,
    records_per_shard=64,
    info={},
  )
  writer = shards.Writer(path, manifests.new(**{**head, **changed}))
  found = codes(labels if ids is None else ids, seed)
  names = names or [f"{prefix}/{i}" for i in range(len(labels))]
  writer.append({"codes": found}, labels=labels, ids=names, cursor=len(labels))
  writer.close()
  return str(path)


def pixels(path, labels, *, prefix, seed):
  """Pixels of the same records: each class has its brightness."""
  rng = np.random.default_rng(seed)
  field = manifests.frame_field(frames=stores.FRAMES, size_px=16)
  writer = shards.Writer(
    path,
    manifests.new(
      kind="video",
      fields=(field,),
      tokenizer="",
      vocab=0,
      grid=0,
      frames=stores.FRAMES,
      size_px=16,
      stride_frames=4,
      fps=30.0,
      crops=1,
      labels=True,
      ids=True,
      classes=CLASSES,
      records_per_shard=64,
      info={},
    ),
  )
  noise = rng.integers(0, 60, (len(labels), *field.shape))
  bright = np.asarray(labels).reshape(-1, 1, 1, 1, 1) * 60 + noise
  writer.append(
    {"frames": bright.astype(np.uint8)},
    labels=np.asarray(labels),
    ids=[f"{prefix}/{i}" for i in range(len(labels))],
    cursor=len(labels),
  )
  writer.close()
  return str(path)


def backbone(root, *, steps=8, **changed):
  """The run directory of a model of two blocks."""
  train, val = (
    stores.write(root / f"lm_{p}", records=n, seed=i, prefix=p, **changed)
    for i, (p, n) in enumerate((("train", 64), ("val", 8)))
  )
  c = _pretraining(steps, changed)
  c.data.train = {"moving": recipes.source(train, 1.0)}
  c.data.validation = {"moving": val}
  folder = epath.Path(root / "model")
  assert jobs.run(c.to_dict(), folder, lambda step: False)
  return str(folder)


def bare_backbone(root, *, tokenizer="0123456789abcdef", **changed):
  """The run directory of a model of two blocks that was never trained."""
  folder = epath.Path(root / "model")
  folder.mkdir()
  c = _pretraining(8, changed).to_dict()
  files.write_json(folder / "config.json", c)
  files.write_json(folder / "manifest.json", {"tokenizer": tokenizer})
  task = pretrain.Pretrain(assembly.model(roots.read(c)), None)
  state = step_lib.init_state(task, optax.identity(), jax.random.key(0))
  keep = checkpoint.CheckpointConfig(keep=1, keep_every_steps=0)
  saved = checkpoint.Checkpoints(folder / "checkpoints", keep)
  saved.save(8, state, {})
  saved.close()
  return str(folder)


def _pretraining(steps, changed):
  c = recipes.pretrain("tiny")
  c.sequence.update(
    vocab=changed.get("vocab", stores.VOCAB), grid=stores.GRID, frames=stores.FRAMES, context=16
  )
  c.sequence.update(changed.get("sequence", {}))
  c.compute.dtype = "float32"
  c.optim.update(lr=1e-2, warmup_steps=2)
  c.train.update(batch_tokens=128, total_tokens=128.0 * steps)
  c.every = recipes.every(log=4, evaluate=100, checkpoint=100)
  return c


def config(model, train, validation, /, **sections):
  """A probe that takes seconds."""
  c = recipes.probe(model, train, validation)
  c.backbones = ("trained",)
  c.data.holdout_frac = 0.25
  c.train.update(epochs=30.0, batch_rows=32, score_rows=32)
  c.optim.update(name="adamw", lrs=(0.03,), weight_decays=(0.0,), lr_rows=0, warmup_epochs=1.0)
  c.every = recipes.every(log=20, evaluate=1000, checkpoint=1000)
  for name, values in sections.items():
    if isinstance(values, dict):
      c[name].update(values)
    else:
      c[name] = values
  return c.to_dict()
