"""Class folders of small pictures, and a small model of the shipped tokenizer.

The model was trained on 2 x 2 tokens; what starts from it has 4 x 4.
"""

import atexit
import functools
import pathlib
import shutil
import tempfile

from etils import epath
import numpy as np
from PIL import Image
import runs
import stores

from totojax import checkpoint, jobs
from totojax.config import recipes
from totojax.data.store import manifests, shards
from totojax.tokenizers import weights

CLASSES = ("across", "down", "plain")
SIDE = 32
NEVER = lambda step: False


def picture(label, rng):
  """uint8 [32, 40, 3]: stripes of one direction, or none."""
  y, x = np.mgrid[:SIDE, : SIDE + 8]
  where = {0: y, 1: x}.get(label)
  light = 128.0 + np.zeros(y.shape)
  if where is not None:
    light += 100 * np.sign(np.sin((where + rng.uniform(0, 9)) * 0.7))
  colour = light[..., None] * rng.uniform(0.6, 1.0, 3)
  noisy = colour + rng.normal(0, 5, colour.shape)
  return np.clip(noisy, 0, 255).astype(np.uint8)


def write(root, *, each, seed=0, classes=CLASSES):
  """`each` pictures of each class below `root`; returns its path."""
  rng = np.random.default_rng(seed)
  for label, name in enumerate(classes):
    folder = root / name
    folder.mkdir(parents=True)
    for i in range(each):
      Image.fromarray(picture(label, rng)).save(folder / f"{i}.png")
  return str(root)


@functools.cache
def data():
  """What tests of a session share: a folder, and in it a model and pictures."""
  root = pathlib.Path(tempfile.mkdtemp(prefix="totojax-classed-"))
  atexit.register(shutil.rmtree, root, ignore_errors=True)
  images = write(root / "images", each=16)
  return {"root": root, "model": _backbone(root), "images": images}


def _backbone(root):
  """The run directory of a model of two blocks and 2 x 2 tokens a frame."""
  shipped = weights.load("shipped")
  paths = {}
  for name, records, seed in (("lm", 32, 0), ("lmv", 8, 1)):
    manifest = manifests.new(
      kind="video",
      fields=(manifests.token_field(frames=4, grid=2),),
      tokenizer=shipped.fingerprint,
      vocab=shipped.vocab,
      grid=2,
      frames=4,
      size_px=16,
      stride_frames=4,
      fps=30.0,
      crops=1,
      labels=False,
      ids=True,
      classes=(),
      records_per_shard=64,
      info={},
    )
    writer = shards.Writer(root / name, manifest)
    codes = stores.codes(records, seed).reshape(records, -1)
    ids = [f"{name}/{i}" for i in range(records)]
    writer.append({"codes": codes}, labels=None, ids=ids, cursor=records)
    writer.close()
    paths[name] = str(root / name)
  c = recipes.pretrain("tiny")
  c.sequence.update(vocab=shipped.vocab, grid=2, frames=4, context=16)
  c.compute.dtype = "float32"
  c.optim.update(lr=1e-2, warmup_steps=2)
  c.train.update(batch_tokens=128, total_tokens=128.0 * 4)
  c.data.train = {"moving": recipes.source(paths["lm"], 1.0)}
  c.data.validation = {"moving": paths["lmv"]}
  c.every = recipes.every(log=4, evaluate=100, checkpoint=100)
  folder = epath.Path(root / "model")
  assert jobs.run(c.to_dict(), folder, NEVER)
  return str(folder)


def goes_on(config, workdir):
  """A killed run, started again, ends bit for bit as it would have.

  Takes the last checkpoint of a finished run away, and returns it.
  """
  folder = workdir / "checkpoints"
  last = checkpoint.latest_step(folder)
  whole, log = runs.checkpoint(workdir, last), runs.metrics(workdir)
  (folder / str(last)).rmtree()
  before = checkpoint.latest_step(folder)
  assert 0 < before < last
  assert jobs.run(config, workdir, NEVER)
  runs.assert_same(runs.checkpoint(workdir, last), whole)
  assert runs.metrics(workdir) == log
  return whole


def small(c, images, **sections):
  """A config of `supervised_defaults` on a class folder, for seconds."""
  c.compute.dtype = "float32"
  c.data.update(
    source="folder",
    root=images,
    train="",
    validation="",
    val_frac=0.25,
    encode_with="shipped",
    grid=4,
    classes=0,
    expected=0,
  )
  c.data.reading.update(workers=0, prefetch=2)
  c.train.update(epochs=4.0, batch_rows=16, score_rows=32)
  c.optim.update(warmup_epochs=1.0, end_lr_frac=0.01)
  c.every = recipes.every(log=1, evaluate=1000, checkpoint=1000)
  for name, values in sections.items():
    if isinstance(values, dict):
      c[name].update(values)
    else:
      c[name] = values
  return c.to_dict()


def words(data, *more: str) -> tuple[str, ...]:
  """Flags of a run on the pictures, as the docstrings of its configs have them, in small."""
  return (
    f"--config.model_run={data['model']}",
    f"--config.data.root={data['images']}",
    "--config.data.source=folder",
    "--config.data.train=",
    "--config.data.validation=",
    "--config.data.val_frac=0.25",
    "--config.data.classes=0",
    "--config.data.expected=0",
    "--config.data.encode_with=shipped",
    "--config.data.grid=4",
    "--config.data.reading.workers=0",
    "--config.compute.dtype=float32",
    "--config.train.epochs=10.0",
    "--config.train.batch_rows=16",
    "--config.train.score_rows=16",
    "--config.view.least_area=0.5",
    *more,
  )
