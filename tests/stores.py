"""Small stores of tokens that tests train on."""

import pathlib

import numpy as np

from totojax.data.store import manifests, shards

VOCAB, GRID, FRAMES = 60, 2, 4


def codes(records: int, seed: int, frames: int = FRAMES) -> np.ndarray:
  """uint16 [records, frames, P]: each place keeps its code 9 times in 10."""
  rng = np.random.default_rng(seed)
  first = rng.integers(0, VOCAB, (records, 1, GRID * GRID))
  still = np.repeat(first, frames, axis=1)
  noise = rng.integers(0, VOCAB, still.shape)
  return np.where(rng.random(still.shape) < 0.9, still, noise).astype(np.uint16)


def write(
  path: pathlib.Path,
  *,
  records: int,
  seed: int,
  prefix: str,
  tokenizer: str = "0123456789abcdef",
  frames: int = FRAMES,
  vocab: int = VOCAB,
) -> str:
  """A complete store of `codes`; returns its path."""
  manifest = manifests.new(
    kind="video",
    fields=(manifests.token_field(frames=frames, grid=GRID),),
    tokenizer=tokenizer,
    vocab=vocab,
    grid=GRID,
    frames=frames,
    size_px=8 * GRID,
    stride_frames=4,
    fps=30.0,
    crops=1,
    labels=False,
    ids=True,
    classes=(),
    records_per_shard=64,
    info={},
  )
  writer = shards.Writer(path, manifest)
  for i, record in enumerate(codes(records, seed, frames)):
    writer.append(
      {"codes": record.reshape(1, -1)}, labels=None, ids=[f"{prefix}/{i}"], cursor=i + 1
    )
  writer.close()
  return str(path)


def pair(root):
  """Paths of a store to train on and of one to validate with."""
  return (
    write(root / "train", records=96, seed=0, prefix="t"),
    write(root / "val", records=16, seed=1, prefix="v"),
  )
