"""Stores of two tokenizers, and the job that reports on them."""

from etils import epath
import numpy as np
import token_sets

from totojax.config import roots
from totojax.data.store import manifests, shards
from totojax.jobs import tokens_report

MINE, OTHER = "0123456789abcdef", "feedbeeffeedbeef"
ROOM = 12  # records of a video store, of 4 frames of 2 x 2 codes


def pixels(path, *, records=ROOM, prefix="clips", frames=4, size_px=16):
  """A pixel store in which every frame of record r is grey r."""
  field = manifests.frame_field(frames=frames, size_px=size_px)
  head = token_sets.manifest(
    fields=(field,),
    frames=frames,
    size_px=size_px,
    tokenizer="",
    vocab=0,
    grid=0,
    labels=False,
    classes=(),
  )
  writer = shards.Writer(path, head)
  values = np.zeros((records, *field.shape), np.uint8)
  values += np.arange(records, dtype=np.uint8)[:, None, None, None, None]
  writer.append(
    {"frames": values}, labels=None, ids=[f"{prefix}/{i}" for i in range(records)], cursor=records
  )
  writer.close()


def write(root):
  """Two stores of one tokenizer, one of another, and pixels of the first."""
  token_sets.write(root / "clips", ROOM, prefix="clips")
  token_sets.write(root / "more", 5, salt=3, prefix="more")
  token_sets.write(
    root / "stills",
    20,
    kind="image",
    frames=1,
    stride_frames=0,
    fps=0.0,
    tokenizer=OTHER,
    vocab=100,
  )
  pixels(root / "pixels")
  return root


def config(data, **changes):
  names = ("clips", "more", "stills")
  values = dict(
    stores={name: str(data / name) for name in names},
    tokenizer="",
    pixels={},
    images=0,
    adjacency="raster",
  )
  return {"run": "tokens_report", "tokens_report": {**values, **changes}}


def run(config, workdir, interrupted=lambda _: False):
  return tokens_report.run(roots.read(config), epath.Path(workdir), interrupted)
