"""What the goldens ask of the program: all of its inner names that they use.

A golden stays as it is when the program is rebuilt; this file may follow.
"""

from etils import epath
import numpy as np
import runs

from totojax import jobs, sequence
from totojax.data.store import manifests, shards, store as store_lib
from totojax.data.stream import frames as frames_lib, mixture, rows


def do(config_file: str, workdir, *words: str) -> None:
  """Does the job of a config, to its end, in this process."""
  config = runs.load(runs.ROOT / config_file, *words).to_dict()
  assert jobs.run(config, epath.Path(workdir), lambda step: False)


def write(
  path,
  *,
  field: str,
  kind: str,
  frames: int,
  arrays: np.ndarray,
  size_px: int,
  vocab: int,
  grid: int,
) -> str:
  """A store of "codes" or "frames", a record for each of `arrays`."""
  if field == "codes":
    described = manifests.token_field(frames=frames, grid=grid)
  else:
    described = manifests.frame_field(frames=frames, size_px=size_px)
    vocab = grid = 0
  moves = kind == "video"
  manifest = manifests.new(
    kind=kind,
    fields=(described,),
    vocab=vocab,
    grid=grid,
    frames=frames,
    tokenizer="0123456789abcdef" if field == "codes" else "",
    size_px=size_px,
    stride_frames=4 if moves else 0,
    fps=30.0 if moves else 0.0,
    crops=1,
    labels=False,
    ids=True,
    classes=(),
    records_per_shard=8,
    info={},
  )
  writer = shards.Writer(path, manifest)
  ids = [f"{path.name}/{i}" for i in range(len(arrays))]
  writer.append({field: arrays}, labels=None, ids=ids, cursor=len(arrays))
  writer.close()
  return str(path)


def host_batch(
  paths: dict[str, str],
  weights: dict[str, float],
  step: int,
  *,
  field: str,
  seed: int,
  batch: int,
  host: int,
  hosts: int,
  vocab: int,
  grid: int,
  frames: int,
  factor: int,
) -> dict[str, np.ndarray]:
  """What a host reads for a step, of stores of codes or of frames."""
  sources = [
    rows.Source(
      name, store_lib.open_store(path, tokenizer=None, vocab=None, grid=None), weights[name]
    )
    for name, path in paths.items()
  ]
  shared = dict(seed=seed, batch=batch, host=host, hosts=hosts)
  seq = sequence.SequenceSpec(
    vocab=vocab, grid=grid, frames=frames, context=frames * grid**2, segments=False
  )
  if field == "codes":
    return mixture.stream(sources, seq=seq, **shared)[step]
  return frames_lib.clips_stream(sources, seq=seq, factor=factor, **shared)[step]
